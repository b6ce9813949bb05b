"""The doctor's own rules: what it reads it reads right, and no check can hang it, break it or go without a remedy."""

from __future__ import annotations

import datetime as dt
import getpass
import json
import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from core import fsops
from core.contract import now
from core.doctor import (
    CHECKS,
    Patient,
    Result,
    alive,
    boot,
    clock,
    disk,
    examine,
    folders,
    gpu,
    link,
    macos,
    programs,
    watching,
    weights,
)
from core.doctor.mounts import mount_of, read_mount, read_mountinfo
from core.doctor.result import Check, ago, ok
from core.gpu import CARD_DRIVER
from core.home import STATUS_FILE
from core.overview import ServerStatus
from core.rooms import PAUSED_FILE
from core.services.plan import Installation, Manager
from core.services.systemd import Systemd
from core.settings import Role, load_settings
from core.watch import Wake
from tests.house import TINY

NOBODY = 65534
as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root may become another user")


def make(root: Path, settings: str = TINY) -> Patient:
    """A home that is well."""
    root.mkdir(parents=True, exist_ok=True)
    (root / "dropreel.toml").write_text(settings)
    patient = Patient(*load_settings(root))
    fsops.confine(patient.home.root, patient.home.mac.hot)
    patient.home.prepare(*patient.halves.values())
    return patient


@pytest.fixture
def patient(tmp_path: Path) -> Patient:
    return make(tmp_path / "home")


def verdicts(results: Iterator[Result]) -> dict[str, str]:
    return {result.name: result.verdict for result in results}


def only(results: Iterator[Result]) -> Result:
    (result,) = results
    return result


# The runner


def test_a_home_that_is_well_fails_nothing_and_is_left_as_it_was(patient: Patient) -> None:
    def everything() -> set[Path]:
        return set(patient.home.root.rglob("*"))

    before = everything()
    found = list(examine(patient, CHECKS))
    assert {result.verdict for _, result in found} <= {"ok", "warn", "skipped"}
    assert [result.name for _, result in found if result.verdict == "warn" and result.name != "running"] == []
    assert everything() == before


def test_every_family_is_explained() -> None:
    page = (Path(__file__).parents[2] / "docs" / "how-to" / "doctor.md").read_text(encoding="utf-8")
    headings = {line.removeprefix("## ") for line in page.splitlines() if line.startswith("## ")}
    assert {check.family for check in CHECKS} | {"macos"} <= headings


def test_a_check_that_breaks_is_a_result_and_keeps_what_it_found(patient: Patient) -> None:
    def breaks(_: Patient) -> Iterator[Result]:
        yield ok("first", "seen")
        raise PermissionError(13, "not for you", "/a")

    found = list(examine(patient, [Check("f", "broken", breaks), Check("f", "next", lambda _: [ok("next", "seen")])]))
    assert [(family, result.name, result.verdict) for family, result in found] == [
        ("f", "first", "ok"), ("f", "broken", "fail"), ("f", "next", "ok")]  # fmt: skip
    assert "not for you" in found[1][1].seen
    assert found[1][1].remedy


def test_a_check_that_hangs_is_left_behind(patient: Patient, tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)

    def hangs(_: Patient) -> Iterator[Result]:
        yield ok("first", "seen")
        pipe.read_bytes()  # nobody writes

    found = [result for _, result in examine(patient, [Check("f", "hung", hangs, seconds=0.2)])]
    pipe.write_bytes(b"")  # let it go
    assert [(result.name, result.verdict) for result in found] == [("first", "ok"), ("hung", "fail")]
    assert "0.2 s" in found[1].seen


@pytest.mark.parametrize(("seconds", "said"), [(0, "0 s"), (119, "119 s"), (120, "2 min"), (7200, "2 h"),
                                               (200000, "2 days")])  # fmt: skip
def test_ages_are_said_for_people(seconds: float, said: str) -> None:
    assert ago(seconds) == said


# Folders


def test_a_file_where_a_folder_must_be(patient: Patient) -> None:
    ready = patient.home.gpu.rooms / "qa" / "ready"
    ready.rmdir()
    ready.write_text("")
    found = {result.name: result for result in folders.whole(patient)}
    assert found["mac"].verdict == "ok"
    assert found["gpu"].verdict == "fail"
    assert str(ready) in found["gpu"].seen


def test_a_folder_that_is_missing_is_judged_by_what_it_will_lie_in_and_not_made(patient: Patient) -> None:
    shutil.rmtree(patient.home.gpu.root)
    assert verdicts(folders.whole(patient)) == {"mac": "ok", "gpu": "ok"}
    assert not patient.home.gpu.root.exists()


def test_a_link_out_of_the_home_is_told(patient: Patient, tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    patient.home.gpu.failed.rmdir()
    patient.home.gpu.failed.symlink_to(elsewhere)
    found = {result.name: result for result in folders.whole(patient)}["gpu"]
    assert found.verdict == "fail"
    assert "link" in found.seen
    assert not list(elsewhere.iterdir())


def test_a_hot_folder_elsewhere_that_is_not_mounted(tmp_path: Path) -> None:
    share = tmp_path / "share"
    settings = TINY.replace("[hot_folder]", f'[hot_folder]\nfolder = "{share}"')
    patient = make(tmp_path / "home", settings)
    assert only(folders.hot(patient)).verdict == "fail"
    assert verdicts(folders.whole(patient))["mac"] == "ok", "one trouble, told once"
    share.mkdir()
    assert only(folders.hot(patient)).verdict == "ok"


@as_root
def test_what_another_user_owns(tmp_path: Path) -> None:
    with tempfile.TemporaryDirectory(prefix="dropreel-") as place:
        Path(place).chmod(0o755)
        patient = make(Path(place) / "home")
        for path in (patient.home.root, *patient.home.root.rglob("*")):
            os.chown(path, NOBODY, NOBODY)
        batch = patient.home.gpu.inbox / "20260101_000000"
        batch.mkdir(mode=0o755)
        os.chown(patient.home.gpu.failed, 0, 0)
        assert only(folders.owner(patient)).verdict == "warn"
        os.seteuid(NOBODY)
        try:
            whole = {result.name: result for result in folders.whole(patient)}
            content, owner = only(folders.content(patient)), only(folders.owner(patient))
        finally:
            os.seteuid(0)
    assert whole["mac"].verdict == owner.verdict == "ok"
    assert whole["gpu"].seen == f"{patient.home.gpu.failed}: not for nobody to write"
    assert (content.verdict, str(batch) in content.seen) == ("fail", True)


# Disk


@pytest.mark.parametrize(("low", "high", "verdict"), [(0, 0, "ok"), (0, 10**9, "warn"), (10**9, 10**9, "fail")])
def test_the_two_marks(tmp_path: Path, low: int, high: int, verdict: str) -> None:
    settings = TINY.replace("low_water_mb = 0", f"low_water_mb = {low}").replace(
        "high_water_mb = 0", f"high_water_mb = {high}"
    )
    found = only(disk.space(make(tmp_path / "home", settings)))
    assert (found.name, found.verdict) == ("mac and gpu", verdict), "one disk is told once"


def test_what_the_rooms_can_hold(tmp_path: Path) -> None:
    settings = TINY.replace("portrait = [64, 96]\nlandscape = [96, 64]\nfps = 10", "").replace(
        "[motion]", "[motion]\nduration_max = 6.0"
    )
    patient = make(tmp_path / "home", settings)
    assert disk.frames_bytes(patient.settings) == 318_504_960, "the figure of the architecture page"
    assert disk.clips_with_frames(patient.settings) == 4 + 4 + 4 + 4 + 1
    assert only(disk.rooms(patient)).verdict == "ok"
    many = make(tmp_path / "many", settings + "[rooms]\nbounds = { interpolate = 4, qa = 4, encode = 1000000 }\n")
    assert only(disk.rooms(many)).verdict == "warn"


# Watching


def test_events_come_from_where_things_are_put(patient: Patient) -> None:
    assert verdicts(watching.events(patient)) == {"mac": "ok", "gpu": "ok"}


def test_nobody_hears_where_nobody_watches(patient: Patient, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watching, "_EVENT_SECONDS", 0.1)
    wake = Wake()
    assert not watching._hears(patient.home.mac.hot, wake)
    wake.close()


def test_who_polls_needs_no_events(tmp_path: Path) -> None:
    patient = make(tmp_path / "home", TINY + "[daemons]\npoll = true\n")
    assert only(watching.events(patient)).verdict == "skipped"
    assert list(watching.limits(patient)) == []


def test_mounts_of_linux_are_read() -> None:
    text = (
        "22 1 254:0 / / rw,relatime shared:1 - ext4 /dev/vda rw\n"
        "30 22 0:40 / /mnt/My\\040Share rw shared:5 - cifs //nas/share rw\n"
        "31 22 0:41 / /home rw - autofs systemd-1 rw\n"
        "32 31 0:42 / /home rw master:3 - nfs4 nas:/home rw\n"
    )
    assert [(str(mount.point), mount.kind, mount.network) for mount in read_mountinfo(text)] == [
        ("/", "ext4", False), ("/mnt/My Share", "cifs", True), ("/home", "autofs", False),
        ("/home", "nfs4", True)]  # fmt: skip


def test_mounts_of_macos_are_read() -> None:
    text = (
        "/dev/disk3s1s1 on / (apfs, sealed, local, read-only, journaled)\n"
        "//me@nas.local/My%20Share on /Volumes/My Share (1) (smbfs, nodev, nosuid, mounted by me)\n"
        "map auto_home on /System/Volumes/Data/home (autofs, automounted, nobrowse)\n"
    )
    assert [(str(mount.point), mount.kind) for mount in read_mount(text)] == [
        ("/", "apfs"), ("/Volumes/My Share (1)", "smbfs"), ("/System/Volumes/Data/home", "autofs")]  # fmt: skip


def test_the_nearest_mount_counts() -> None:
    shm = Path("/dev/shm")
    if not shm.is_mount():
        pytest.skip("no /dev/shm here")
    assert mount_of(shm / "not" / "there").point == shm
    assert mount_of(shm).kind == "tmpfs"


# macOS


@pytest.mark.parametrize(
    ("path", "place"),
    [
        ("/Users/ann/Documents/home", "/Users/ann/Documents"),
        ("/Users/ann/Desktop", "/Users/ann/Desktop"),
        ("/Users/ann/Library/Mobile Documents/com~apple~CloudDocs/x", "/Users/ann/Library/Mobile Documents"),
        ("/Volumes/NAS/home", "/Volumes/NAS"),
        ("/Users/ann/dropreel", None),
        ("/Users/ann/DocumentsOld/x", None),
        ("/Volumes", None),
    ],
)
def test_places_that_macos_guards(path: str, place: str | None) -> None:
    found = macos.guarded(Path(path), Path("/Users/ann"))
    assert found == (Path(place) if place else None)


def test_a_home_in_a_guarded_place_fails_until_a_daemon_runs_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path.resolve()))
    patient = make(tmp_path / "Documents" / "home")
    found = list(macos.access(patient))
    assert [result.verdict for result in found] == ["fail", "fail"]
    assert "Full Disk Access" in (found[0].remedy or "")
    lock = fsops.hold(patient.home.mac.state / "locks" / "keyframes")
    assert [result.verdict for result in macos.access(patient)] == ["warn", "warn"]
    os.close(lock)
    assert only(macos.access(make(tmp_path / "dropreel"))).verdict == "ok"


# Programs


@pytest.fixture
def instead_of_ffmpeg(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Puts a script of this text where ffmpeg should be."""

    def write(script: str) -> None:
        program = tmp_path / "ffmpeg"
        program.write_text(f"#!/bin/sh\n{script}\n")
        program.chmod(0o755)
        monkeypatch.setenv("IMAGEIO_FFMPEG_EXE", str(program))

    return write


def test_ffmpeg_makes_and_proves_a_frame(patient: Patient) -> None:
    found = only(programs.ffmpeg(patient))
    assert found.verdict == "ok"
    assert "96×64" in found.seen


@pytest.mark.parametrize(
    ("script", "said"),
    [
        ("exit 0", "No such file"),
        ("echo 'Unknown encoder libx265' >&2; exit 1", "Unknown encoder"),
        ('cat >&2; for word; do case "$word" in *.part) echo no film > "$word";; esac; done', "MP4"),
    ],
    ids=["does nothing", "lacks the encoder", "writes rubbish"],
)
def test_an_ffmpeg_that_is_none(
    patient: Patient, instead_of_ffmpeg: Callable[[str], None], script: str, said: str
) -> None:
    instead_of_ffmpeg(script)
    found = only(programs.ffmpeg(patient))
    assert found.verdict == "fail"
    assert said in found.seen
    assert not list(patient.home.gpu.root.rglob("*.mp4"))


# The clock


def test_a_clock_that_went_back(patient: Patient) -> None:
    log = patient.home.mac.logs / "keyframes.log"
    log.write_text("")
    assert only(clock.sane(patient)).verdict == "ok"
    later = now().timestamp() + 7300
    os.utime(log, (later, later))
    found = only(clock.sane(patient))
    assert found.verdict == "fail"
    assert "2 h" in found.seen


@pytest.mark.parametrize(
    ("content", "verdict", "said"),
    [
        (None, "skipped", "not brought"),
        ({"seconds": 2}, "ok", "ago"),
        ({"seconds": -4}, "ok", "ago"),
        ({"seconds": -600}, "warn", "10 min ahead"),
        ({"seconds": 600}, "warn", "10 min ago"),
        ("no json", "warn", "cannot be read"),
        ("[]", "warn", "cannot be read"),
        ('{"written_at": "2026-01-01T00:00:00"}', "warn", "cannot be read"),
    ],
)
def test_the_server_s_clock(tmp_path: Path, content: dict[str, float] | str | None, verdict: str, said: str) -> None:
    patient = make(tmp_path / "home", 'role = "mac"\n[transport]\nkind = "rsync"\nhost = "server"\n')
    file = patient.home.mac.server / STATUS_FILE
    if content is not None:
        file.parent.mkdir(exist_ok=True)
        if isinstance(content, dict):
            content = json.dumps({"written_at": (now() - dt.timedelta(**content)).isoformat()})
        file.write_text(content)
    found = only(clock.skew(patient))
    assert found.verdict == verdict
    assert said in found.seen


# The daemons


def test_none_some_and_all_daemons(patient: Patient) -> None:
    assert only(alive.running(patient)).verdict == "warn"
    posts = alive.posts(patient)
    locks = [fsops.hold(post.lock) for post in posts]
    found = only(alive.running(patient))
    assert found.verdict == "ok"
    assert all(post.name in found.seen for post in posts)
    posts[0].log.touch()
    os.utime(posts[0].log, (1e9, 1e9))
    found = only(alive.running(patient))
    assert (found.verdict, "silent: keyframes (heard" in found.seen) == ("warn", True), "it lives, and hangs"
    posts[0].figures.parent.mkdir()
    posts[0].figures.touch()
    assert only(alive.running(patient)).verdict == "ok", "it has nothing to do, and counts"
    os.close(locks.pop())
    found = only(alive.running(patient))
    assert found.verdict == "warn"
    assert found.seen == f"1 of {len(posts)} do not run: {posts[-1].name} (never heard)"
    for lock in locks:
        os.close(lock)


@pytest.mark.parametrize(
    ("age", "last", "verdict"),
    [
        (5, "error   daemon.trouble         error=gone code=EPERM again_in=1", "fail"),
        (600, "error   daemon.trouble         error=gone code=EPERM again_in=1", "ok"),
        (5, "info    drop.settled           name=a.png", "ok"),
    ],
    ids=["fresh", "old", "over"],
)
def test_what_a_living_daemon_complains_of(patient: Patient, age: float, last: str, verdict: str) -> None:
    post = alive.posts(patient)[0]
    stamp = (now() - dt.timedelta(seconds=age)).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
    post.log.write_text(
        f"{stamp} error   daemon.trouble         error=before\n    | a trace\n{stamp} {last}\n    | more\n"
    )
    assert only(alive.complaints(patient)).verdict == "skipped", "the dead complain no more"
    lock = fsops.hold(post.lock)
    found = only(alive.complaints(patient))
    os.close(lock)
    assert found.verdict == verdict
    assert ("gone" in found.seen) is (verdict == "fail")


def test_a_room_that_is_paused_is_told(patient: Patient) -> None:
    assert only(alive.paused(patient)).verdict == "ok"
    for name in ("intake", "qa"):
        (patient.home.gpu.rooms / name / PAUSED_FILE).touch()
    found = only(alive.paused(patient))
    assert (found.verdict, found.seen.endswith(": intake, qa")) == ("warn", True)
    assert "`dropreel resume intake`, `dropreel resume qa`" in (found.remedy or "")


# What the server does not answer


def server_said(patient: Patient, ago_seconds: float = 5.0, held: str | None = None) -> None:
    """As the courier brings it."""
    told = ServerStatus(written_at=now() - dt.timedelta(seconds=ago_seconds), version="1", inbox=0, held=held, rooms=[],
                        outbox=0, failed=0, disk_free_bytes=0)  # fmt: skip
    (patient.home.mac.server / STATUS_FILE).write_bytes(told.to_json())


def test_a_batch_that_a_living_server_never_answers(tmp_path: Path) -> None:
    patient = make(tmp_path / "home", 'role = "mac"\n[transport]\nkind = "rsync"\nhost = "server"\n')
    mac = patient.home.mac
    batch = mac.outbox / "20260101_000000"
    batch.mkdir()

    def lain(seconds: float) -> None:
        os.utime(batch, (now().timestamp() - seconds,) * 2)

    lain(200)
    assert list(link.answers(patient)) == [], "the courier has brought nothing: the link is not well"
    server_said(patient)
    found = only(link.answers(patient))
    assert (found.verdict, batch.name in found.seen) == ("warn", True)
    assert "authorized_keys" in (found.remedy or "")
    lain(170)
    assert only(link.answers(patient)).verdict == "ok", "it may have been sent twice; give it time"
    lain(200)
    server_said(patient, ago_seconds=90)
    assert list(link.answers(patient)) == [], "the server is silent, or the link is cut"
    server_said(patient, held="paused")
    assert "dropreel resume intake" in (only(link.answers(patient)).remedy or "")
    server_said(patient)
    (mac.acks / f"{batch.name}.json").touch()
    assert only(link.answers(patient)).verdict == "ok", "keyframes has yet to take note of the answer"


# The cards

needs_no_card = pytest.mark.skipif(CARD_DRIVER.exists(), reason="there is a driver here")
SVD = '[generation]\nmodel = "stable_video_diffusion_v1.1"\n'


@pytest.fixture(autouse=True)
def _no_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    monkeypatch.delenv("HF_HUB_CACHE", raising=False)


@needs_no_card
def test_no_card_is_asked_for_where_no_preset_needs_one(patient: Patient) -> None:
    assert only(gpu.computing(patient)).verdict == "skipped"


@needs_no_card
def test_a_preset_that_needs_a_card_where_there_is_none(tmp_path: Path) -> None:
    found = only(gpu.computing(make(tmp_path / "home", TINY + SVD)))
    assert (found.verdict, "stable_video_diffusion_v1.1 cannot" in found.seen) == ("fail", True)


@needs_no_card
@pytest.mark.timeout(60)  # processes that import torch
@pytest.mark.parametrize(("model", "verdict"), [("", "warn"), (SVD, "fail")])
def test_a_card_that_computes_nothing_for_the_worker_it_is_given_to(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, model: str, verdict: str
) -> None:
    workers = '[rooms]\nworkers = { generate = ["gpu1", "hand"], interpolate = ["gpu1"] }\n'
    patient = make(tmp_path / "home", TINY + model + workers)
    monkeypatch.setattr("core.gpu.CARD_DRIVER", tmp_path)  # as if a driver were loaded
    found = {result.name: result for result in gpu.computing(patient)}
    assert {name: result.verdict for name, result in found.items()} == {"card 1": verdict, "workers": "skipped"}
    assert found["card 1"].seen.startswith("generate@gpu1, interpolate@gpu1: CUDA_VISIBLE_DEVICES=1 gives this worker")
    lock = fsops.hold(patient.home.gpu.rooms / "generate" / "active" / "gpu1")
    assert verdicts(gpu.computing(patient))["workers"] == "warn"
    os.close(lock)


def test_weights_that_are_not_here(tmp_path: Path, patient: Patient) -> None:
    assert only(weights.there(patient)).verdict == "skipped"
    found = only(weights.there(make(tmp_path / "svd", TINY + SVD)))
    assert (found.name, found.verdict) == ("stable_video_diffusion_v1.1", "fail")
    assert str(tmp_path / "svd" / "weights" / "stabilityai") in found.seen


def test_a_model_that_may_not_be_used_is_said_before_its_weights_are_fetched(tmp_path: Path) -> None:
    home = make(tmp_path / "de", TINY + '[generation]\nmodel = "hunyuanvideo-i2v"\nregion = "DE"\n')
    terms, missing = weights.there(home)
    assert (terms.verdict, missing.verdict) == ("fail", "fail")
    assert "excludes" in terms.seen
    assert "missing" in missing.seen


@pytest.mark.parametrize(("gib", "verdict"), [(80, "ok"), (15, "warn"), (4, "fail")])
def test_whether_a_preset_fits_a_card(patient: Patient, gib: float, verdict: str) -> None:
    chosen = patient.settings.presets["stable_video_diffusion_v1.1"]
    found = {result.name: result for result in gpu.judge(patient, [chosen], gib)}
    assert found["stable_video_diffusion_v1.1: card"].verdict == verdict
    assert "activations" in found["stable_video_diffusion_v1.1: card"].seen
    assert found["stable_video_diffusion_v1.1: host"].verdict == "skipped"  # it is another machine's


def test_the_workers_share_the_hosts_memory(tmp_path: Path, patient: Patient) -> None:
    two = TINY + SVD + '[rooms]\nworkers = { generate = ["gpu0", "gpu1"] }\n'
    patients = [make(tmp_path / "one", TINY + SVD), make(tmp_path / "two", two)]
    seen = [{result.name: result.seen for result in gpu.fitting(each)} for each in patients]
    needs = [float(each["stable_video_diffusion_v1.1: host"].split()[0]) for each in seen]
    assert needs[1] == pytest.approx(2 * needs[0], abs=0.2)
    assert list(gpu.fitting(patient)) == []


# The services


@pytest.mark.skipif(sys.platform != "linux", reason="systemd's")
def test_services_of_this_installation_and_of_another(
    patient: Patient, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def manager(patient: Patient, role: Role) -> Manager:
        return Systemd(Installation(patient.settings, patient.home, role), "user", tmp_path / "units", 254)

    monkeypatch.setattr(boot, "_LINGER", tmp_path)
    (tmp_path / getpass.getuser()).touch()
    for path, data in manager(patient, "gpu").files().items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    both: list[Manager] = [manager(patient, "both"), manager(patient, "gpu")]
    assert only(boot.compared(both, "user", "root")).verdict == "ok"
    assert [result.verdict for result in boot.compared(both, "system", "root")] == ["ok", "warn"]
    assert only(boot.compared(both, "system", "dropreel")).verdict == "ok"
    (tmp_path / getpass.getuser()).unlink()
    assert [result.verdict for result in boot.compared(both, "user", "root")] == ["ok", "warn"]
    other = make(tmp_path / "other")
    assert next(iter(boot.compared([manager(other, "gpu")], "user", "root"))).verdict == "warn"
