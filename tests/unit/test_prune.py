"""What is old and needed no more goes, whole; all else stays, whatever its age and wherever a crash comes."""

from __future__ import annotations

import itertools
import json
import logging
import os
import re
import shutil
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import structlog
from typer.testing import CliRunner

from core import fsops, tracker
from core.contract import CLIP_ID, Manifest, VideoMeta, load
from core.home import MANIFEST_FILE
from core.prune import TRASH, Leaving, finish, leaving, remove
from core.rooms import CANCEL_FILE, PAUSED_FILE
from core.tracker import TRACKER_FILE, FileTracker
from daemons import cli
from daemons.cli.app import app
from tests.house import House, picture
from tests.power import Journal
from tests.unit.living import Killed, at_work, die_at, settle

cli.load("prune")

Seam = Callable[[str, tuple[Path, ...]], None]
OLD = 1000.0
"""Days."""
ALL = "\n[prune]\nsent_days = 10\nfailed_days = 10\nmemory_days = 10\nlog_days = 10\n"
BY_HAND = "20250101_000000"
REFUSED = "20250102_000000"


@pytest.fixture(scope="module")
def lived(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home with a past: a batch that came back well, one that failed, one by hand, one that was refused, logs."""
    root = tmp_path_factory.mktemp("lived") / "home"
    with at_work(root, more=ALL) as house:
        mac, gpu = house.home.mac, house.home.gpu
        house.drop("one", picture(1))
        house.drop("two", picture(2))
        (mac.hot / "one.yaml").write_text("a companion")
        settle(house)
        (gpu.rooms / "generate" / PAUSED_FILE).touch()
        house.drop("bad", picture(3))
        settle(house)
        (waiting,) = (gpu.rooms / "generate" / "ready").iterdir()
        (waiting / CANCEL_FILE).touch()
        (gpu.rooms / "generate" / PAUSED_FILE).unlink()
        settle(house)
        well = batches(mac.sent)[0]
        manifest = load(Manifest, mac.taken / f"{well}.json")
        hand = manifest.model_copy(
            update={"batch_id": BY_HAND, "keyframes": [manifest.keyframes[0].model_copy(update={"files": []})]}
        )
        (gpu.inbox / BY_HAND).mkdir()
        (gpu.inbox / BY_HAND / "one.png").write_bytes(picture(4))
        (gpu.inbox / BY_HAND / MANIFEST_FILE).write_bytes(hand.to_json())
        settle(house)
        (gpu.inbox / REFUSED).mkdir()  # another batch's manifest
        (gpu.inbox / REFUSED / MANIFEST_FILE).write_bytes(manifest.to_json())
        settle(house)
        for half in (mac, gpu):
            for name in ("it.log.1", f"{TRACKER_FILE}.20250101_000000", "it.log"):
                (half.logs / name).write_text("said")
        (gpu.outbox / REFUSED).mkdir()
        (mac.results / REFUSED).mkdir()
    return root


@pytest.fixture
def house(lived: Path, tmp_path: Path) -> Iterator[House]:
    """A copy of that home, grown old."""
    shutil.copytree(lived, tmp_path / "home")
    with at_work(tmp_path / "home") as house:
        house.stop()
        age(house.home.root)
        yield house


def batches(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if re.fullmatch(r"[0-9]{8}_[0-9]{6}", path.name))


def age(path: Path, days: float = OLD) -> None:
    """Make a file, or a folder with all in it, so old."""
    moment = time.time() - days * 86_400
    for each in [*path.rglob("*"), path]:
        os.utime(each, (moment, moment))


def kinds(house: House) -> dict[str, list[str]]:
    """What would go: names by half and kind."""
    found: dict[str, list[str]] = {}
    for item in leaving(house.home, house.settings, time.time()):
        found.setdefault(f"{item.half.root.name} {item.kind}", []).append(item.path.name)
    return found


def prune(house: House) -> list[Leaving]:
    """As the command does it."""
    finish(house.home, house.settings)
    gone = []
    for item in leaving(house.home, house.settings, time.time()):
        remove(item, FileTracker(item.half.logs, "prune"))
        gone.append(item)
    return gone


def tree(root: Path) -> dict[str, bytes]:
    """All files below a folder but for what is on its way to be deleted, and the audit of that."""
    return {
        str(path.relative_to(root)): path.read_bytes()
        for path in sorted(root.rglob("*"))
        if path.is_file() and path.name != TRACKER_FILE and not {"trash", TRASH} & set(path.parts)
    }


def clip_of(house: House, stem: str) -> str:
    """The id of the first clip of this name."""
    (meta, *_) = (load(VideoMeta, path) for path in house.home.mac.results.rglob(f"{stem}.video_meta.json"))
    return meta.clip_id


# What goes


def test_all_that_is_old_and_done_goes_and_nothing_else(house: House) -> None:
    well, failed = batches(house.home.mac.sent)
    assert kinds(house) == {
        "mac originals": [well],
        "mac memory": [f"{well}.json"],
        "mac log": [f"{TRACKER_FILE}.20250101_000000", "it.log.1"],
        "mac empty folder": [REFUSED],
        "gpu failed clip": [clip_of(house, "bad")],
        "gpu refused batch": [path.name for path in house.home.gpu.failed.glob(f"{REFUSED}.*")],
        "gpu memory": [f"{well}.json"],
        "gpu log": [f"{TRACKER_FILE}.20250101_000000", "it.log.1"],
        "gpu empty folder": [REFUSED],
    }
    before = tree(house.home.root)
    shown = list(leaving(house.home, house.settings, time.time()))
    went = prune(house)
    assert [item.path for item in went] == [item.path for item in shown], "a dry run shows all that goes"
    gone = {str(item.path.relative_to(house.home.root)) for item in went}
    kept = {path: data for path, data in before.items() if not any(path == g or path.startswith(f"{g}/") for g in gone)}
    assert tree(house.home.root) == kept
    assert {"mac/__video_keyframes/sent/" + failed, "gpu/inbox/taken/" + BY_HAND} <= {str(Path(p).parent) for p in kept}
    assert not any((house.home.gpu.trash).iterdir())
    assert kinds(house) == {"gpu memory": [f"{REFUSED}.json", f"{failed}.json"]}, "what went has left nothing to know"


def test_what_is_young_stays(house: House) -> None:
    age(house.home.root, days=9)
    assert {kind for kind in kinds(house) if "empty" not in kind} == set()


@pytest.mark.parametrize("kind", ["originals", "failed clip", "memory", "log"])
def test_a_policy_of_0_days_is_never(house: House, kind: str) -> None:
    policy = house.settings.prune
    key = {"originals": "sent_days", "failed clip": "failed_days", "memory": "memory_days", "log": "log_days"}[kind]
    house.settings.prune = policy.model_copy(update={key: 0})
    assert all(kind not in found for found in kinds(house))


def test_originals_are_nobodys_to_delete_unless_the_operator_says_so(lived: Path) -> None:
    with at_work(lived.parent / "fresh") as house:
        assert house.settings.prune.sent_days == 0


def test_the_newest_file_of_a_group_tells_its_age(house: House) -> None:
    clip = house.home.gpu.failed / clip_of(house, "bad")
    age(clip / "clip.json", days=1)
    assert "gpu failed clip" not in kinds(house)


def test_the_audit_and_the_sizes_say_what_went(house: House) -> None:
    well = batches(house.home.mac.sent)[0]
    files = sorted(path.name for path in (house.home.mac.sent / well).iterdir())
    size = sum(path.stat().st_size for path in (house.home.mac.sent / well).iterdir())
    (item,) = (item for item in prune(house) if item.kind == "originals")
    assert item.bytes == size
    assert OLD - 1 < item.days < OLD + 1
    lines = (house.home.mac.logs / TRACKER_FILE).read_text().splitlines()
    (said,) = (line for line in map(json.loads, lines) if line["operation"] == "prune" and line["notes"] == "originals")
    assert (said["source_dir"], said["files"], said["batch_id"]) == (str(item.path), files, well)


# The server's memory


def test_memory_stays_while_its_batch_may_come_again(house: House) -> None:
    gpu, mac = house.home.gpu, house.home.mac
    well = batches(mac.sent)[0]
    clip = f"{well}-001-00000000"
    places = [
        gpu.inbox / well,
        gpu.by_hand / well,
        gpu.rooms / "intake" / "ready" / well,
        gpu.rooms / "generate" / "tmp" / clip,
        gpu.rooms / "qa" / "ready" / f"{clip}-r2",
        gpu.rooms / "encode" / "active" / "cpu0" / clip,
        gpu.outbox / well / clip,
        gpu.failed / clip,
        gpu.failed / f"{clip}.unreadable",
        mac.outbox / well,
    ]
    for place in places:
        place.mkdir(parents=True)
        assert f"{well}.json" not in kinds(house).get("gpu memory", []), place
        place.rmdir()
        if place.parent.name == well:
            place.parent.rmdir()
    assert f"{well}.json" in kinds(house)["gpu memory"]


def test_a_batch_that_comes_again_is_known(house: House) -> None:
    mac, gpu = house.home.mac, house.home.gpu
    house.start()
    house.drop("late", picture(9))
    (gpu.rooms / "generate" / PAUSED_FILE).touch()
    settle(house)
    batch = batches(mac.sent)[-1]
    kept = mac.root / "kept"
    manifest = load(Manifest, mac.taken / f"{batch}.json")
    kept.mkdir()
    (kept / MANIFEST_FILE).write_bytes(manifest.to_json())
    (kept / "001.png").write_bytes(picture(9))
    (kept / "001.motion.json").write_bytes((mac.sent / batch / "late.motion.json").read_bytes())
    house.stop()
    age(house.home.root)
    prune(house)
    kept.rename(gpu.inbox / batch)  # it was on its way all the time
    (gpu.rooms / "generate" / PAUSED_FILE).unlink()
    house.start()
    settle(house)
    assert [meta.outcome for name, meta in house.metas().items() if name == "late"] == ["pass"]
    assert len([event for event in house.said("clip.entered") if event["clip"].startswith(batch)]) == 1


# The server's failures


def test_a_failure_that_the_mac_has_not_heard_of_stays(house: House) -> None:
    clip = clip_of(house, "bad")
    (house.home.gpu.outbox / clip[:15] / clip).mkdir(parents=True)
    assert "gpu failed clip" not in kinds(house)


def test_a_refused_batch_that_was_put_there_by_hand_stays(house: House) -> None:
    (refused,) = house.home.gpu.failed.glob(f"{REFUSED}.*")
    manifest = load(Manifest, refused / MANIFEST_FILE)
    hand = manifest.model_copy(
        update={"keyframes": [entry.model_copy(update={"files": []}) for entry in manifest.keyframes]}
    )
    (refused / MANIFEST_FILE).write_bytes(hand.to_json())
    age(refused)
    assert "gpu refused batch" not in kinds(house)
    (refused / MANIFEST_FILE).write_bytes(b"{")
    age(refused)
    assert "gpu refused batch" not in kinds(house)


def test_what_an_operator_keeps_among_the_failed_stays(house: House) -> None:
    (house.home.gpu.failed / "to look at").mkdir()
    age(house.home.gpu.failed)
    assert kinds(house)["gpu failed clip"] == [clip_of(house, "bad")]


# The operator's originals


def _spoil(name: str) -> Callable[[House, Path], None]:
    """Something on account of which a sent batch stays."""

    def spoil(house: House, sent: Path) -> None:
        mac = house.home.mac
        results = mac.results / sent.name
        match name:
            case "a clip failed":
                meta = load(VideoMeta, results / "two.video_meta.json").model_copy(update={"outcome": "fail"})
                (results / "two.video_meta.json").write_bytes(meta.to_json())
            case "a clip has not come":
                (results / "two.video_meta.json").unlink()
            case "a clip was moved away":
                (results / "two.mp4").unlink()
            case "a clip was cut off":
                (results / "two.mp4").write_bytes((results / "two.mp4").read_bytes()[:-1])
            case "another picture lies there":
                (sent / "two.png").write_bytes(picture(77))
            case "another picture came along":
                (sent / "three.png").write_bytes(picture(3))
            case "a companion without a picture":
                (sent / "three.caption").write_text("three")
            case "a folder of the operator's":
                (sent / "keep").mkdir()
            case "a copy in progress":
                (sent / "three.png.part").write_bytes(b"half")
            case "it is still being put away":
                (mac.outbox / sent.name).mkdir()
            case "its results are another batch's":
                meta = load(VideoMeta, results / "two.video_meta.json").model_copy(update={"batch_id": BY_HAND})
                (results / "two.video_meta.json").write_bytes(meta.to_json())

    return spoil


@pytest.mark.parametrize(
    "why",
    [
        "a clip failed",
        "a clip has not come",
        "a clip was moved away",
        "a clip was cut off",
        "another picture lies there",
        "another picture came along",
        "a companion without a picture",
        "a folder of the operator's",
        "a copy in progress",
        "it is still being put away",
        "its results are another batch's",
    ],
)
def test_originals_stay_where(why: str, house: House) -> None:
    sent = house.home.mac.sent / batches(house.home.mac.sent)[0]
    _spoil(why)(house, sent)
    age(house.home.root)
    assert "mac originals" not in kinds(house)
    prune(house)
    assert (sent / "one.png").exists()


def test_originals_go_with_a_flagged_clip_and_what_a_file_manager_made(house: House) -> None:
    mac = house.home.mac
    sent = mac.sent / batches(mac.sent)[0]
    flagged = mac.results / sent.name / "flagged"
    flagged.mkdir()
    for path in (mac.results / sent.name).glob("two.*"):
        path.rename(flagged / path.name)
    (sent / ".DS_Store").write_bytes(b"")
    age(house.home.root)
    assert kinds(house)["mac originals"] == [sent.name]


def test_originals_go_though_what_was_asked_for_is_forgotten(house: House) -> None:
    mac = house.home.mac
    sent = batches(mac.sent)[0]
    (mac.taken / f"{sent}.json").unlink()
    assert kinds(house)["mac originals"] == [sent]


def test_the_newest_memory_of_the_mac_stays(house: House) -> None:
    newest = max(path.name for path in house.home.mac.taken.iterdir())
    prune(house)
    assert [path.name for path in house.home.mac.taken.iterdir()] == [newest]


# Crashes


def test_dying_at_any_step_loses_nothing_that_should_stay(house: House, tmp_path: Path) -> None:
    root = house.home.root
    before = tree(root)
    groups = [str(item.path.relative_to(root)) for item in leaving(house.home, house.settings, time.time())]
    staying = _pruned_to_the_end(_copy(root, tmp_path / "whole"))
    assert len(before) - len(staying) > 15

    def check(where: Path) -> None:
        left = tree(where)
        assert {path: left.get(path) for path in staying} == staying, at
        for group in groups:  # it is there as it was, or it is gone
            parts = {path: data for path, data in before.items() if path.startswith(f"{group}/")}
            assert {path: left[path] for path in parts if path in left} in ({}, parts), at

    for step in itertools.count():
        place = tmp_path / str(step)
        here = _copy(root, place / "home")
        journal = Journal(here.home.root, place / "shadow")
        try:
            fsops.seam = _both(journal.note, die_at(step))
            prune(here)
            break
        except Killed:
            at = f"step {step}, {journal.steps[-1]}"
        finally:
            fsops.seam = None
        cut = place / "cut"
        shutil.copytree(here.home.root, cut, copy_function=os.link)
        journal.cut(cut)
        check(here.home.root)
        check(cut)
        for left in (here.home.root, cut):
            assert _pruned_to_the_end(House(left)) == staying, at
        shutil.rmtree(place)
    assert step > 30, "the seam has lost sight of steps"


def _copy(root: Path, to: Path) -> House:
    shutil.copytree(root, to)
    return House(to)


def _both(*seams: Seam) -> Seam:
    def seam(name: str, paths: tuple[Path, ...]) -> None:
        for each in seams:
            each(name, paths)

    return seam


def _pruned_to_the_end(house: House) -> dict[str, bytes]:
    """What is left when nothing more goes; what went makes way for the memory of it."""
    while prune(house):
        pass
    assert not any([*house.home.gpu.trash.iterdir(), *house.home.mac.sent.glob(f"{TRASH}/*")])
    return tree(house.home.root)


# The command


@pytest.fixture
def log_restored() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    for handler in root.handlers[:]:
        if handler not in handlers:
            root.removeHandler(handler)
            handler.close()
    for handler in handlers:
        root.addHandler(handler)
    root.setLevel(level)
    structlog.reset_defaults()


def test_a_dry_run_shows_and_touches_nothing(house: House) -> None:
    before = tree(house.home.root)
    ended = CliRunner().invoke(app, ["prune", "--dry-run", "--home", str(house.home.root)])
    assert ended.exit_code == 0
    rows = [[cell.strip() for cell in line.split("│")[1:-1]] for line in ended.output.splitlines() if "│" in line]
    assert {(half, kind, count) for half, kind, count, *_ in rows} >= {
        ("mac", "originals", "1"),
        ("gpu", "failed clip", "1"),
        ("gpu", "log", "2"),
    }
    assert all(row[-1] == f"{OLD:.0f} days" for row in rows)
    assert tree(house.home.root) == before


def test_the_command_deletes_and_says_so(house: House, log_restored: None) -> None:
    here = ["prune", "--home", str(house.home.root)]
    ended = CliRunner().invoke(app, here)
    assert ended.exit_code == 0
    assert "originals" in ended.output
    said = (house.home.mac.logs / "prune.log").read_text()
    assert said.count("prune.removed") == 11
    ended = CliRunner().invoke(app, here)  # the second batch's memory, now that its failed clip is gone
    assert "memory" in ended.output
    assert CliRunner().invoke(app, here).output.strip() == "Nothing is old enough to go."


def test_what_cannot_be_deleted_keeps_nothing_else(house: House, log_restored: None) -> None:
    def stuck(name: str, paths: tuple[Path, ...]) -> None:
        if name == "rename" and re.fullmatch(CLIP_ID, paths[0].name):
            raise PermissionError(13, "Permission denied", str(paths[0]))

    fsops.seam = stuck
    ended = CliRunner().invoke(app, ["prune", "--home", str(house.home.root)])
    assert ended.exit_code == 1
    assert "1 could not be deleted" in ended.output
    assert (house.home.mac.logs / "prune.log").read_text().count("prune.trouble") == 1
    fsops.seam = None
    assert kinds(house)["gpu failed clip"] == [clip_of(house, "bad")]
    assert "mac originals" not in kinds(house)


# The audit's own size


def test_a_full_audit_is_renamed_and_no_line_is_lost(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tracker, "ROTATE_BYTES", 2000)
    monkeypatch.setattr(fsops, "_flush", lambda fd: None)

    def write(who: int) -> None:
        mine = FileTracker(tmp_path, f"daemon{who}")
        for number in range(100):
            mine.track("push", tmp_path, None, [f"{who}-{number}"])

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(write, range(4)))
    audits = list(tmp_path.glob(f"{TRACKER_FILE}*"))
    names = [json.loads(line)["files"][0] for path in audits for line in path.read_text().splitlines()]
    assert sorted(names) == sorted(f"{who}-{number}" for who in range(4) for number in range(100))
    assert len(audits) > 20
    assert all(path.stat().st_size >= 2000 for path in audits if path.name != TRACKER_FILE)


def test_the_daemons_go_on_beside_it(house: House) -> None:
    house.start()
    house.drop("new", picture(8))
    prune(house)
    settle(house)
    assert house.metas()["new"].outcome == "pass"
