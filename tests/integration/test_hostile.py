"""Hostile neighbours: what somebody else puts into the inbox, and what a server gone bad has for the Mac.

One test an attack; ``docs/security.md`` says which others are tested elsewhere.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import socket
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from typer.testing import CliRunner

from core import fsops
from core.contract import MAX_JSON_BYTES, Clip, Manifest, load, parse
from core.delivery import META_FILE, SEAL_FILE, VIDEO_FILE
from core.errors import Finding, Refused
from core.home import MANIFEST_FILE, STATUS_FILE
from core.rooms import CLIP_FILE
from core.settings import DiskSettings
from core.transfer import MAX_RESULT_BYTES
from daemons.cli import load as load_commands
from daemons.cli.app import app
from daemons.courier import CourierDaemon
from tests.house import House, picture
from tests.integration.machines import Machines
from tests.unit.living import at_work, live, settle
from tests.unit.test_admission import BATCH, answer, inbox, manifest, put, refused, taken
from tests.unit.test_contract import MANIFEST
from tests.unit.test_results import deliver, files_of, results

NEXT = "20250704_143024"
SOURCES = Path(__file__).parents[2]


@pytest.fixture
def house(tmp_path: Path) -> Iterator[House]:
    """A home at work whose GPU rests, and beside it what is nobody's business."""
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / "secret.png").write_bytes(picture(9))
    with at_work(tmp_path / "home", gpu=False) as house:
        yield house
    assert [path.name for path in tmp_path.rglob("outside/*")] == ["secret.png"]
    assert (tmp_path / "outside" / "secret.png").read_bytes() == picture(9)


def put_good(house: House) -> None:
    """Another's batch, which nothing must hold up."""
    put(house, manifest(NEXT, "good.png"), NEXT, good__png=picture(1))


def payload(name: str, data: bytes, path: str) -> dict[str, Any]:
    """A file as a manifest names it that was not written by hand."""
    sha256 = hashlib.sha256(data).hexdigest()
    return {"name": name, "path": path, "size": len(data), "sha256": sha256, "inode": 1, "mtime_ns": 1}


def first_finding(house: House) -> Finding:
    """What the server has against the first entry of the batch."""
    return answer(house).entries[0].findings[0]


# A manifest that somebody else has dropped in the inbox

DEEP: dict[str, bytes] = {
    "arrays in arrays": b"[" * 200_000,
    "objects in objects": b'{"project_id":' * 200_000,
    "deep in an unknown field": MANIFEST.replace("{", '{"x":' + "[" * 50_000 + "]" * 50_000 + ",", 1).encode(),
    "eight million digits": MANIFEST.replace("42", "4" * 8_000_000).encode(),
    "one string of 8 MB": MANIFEST.replace("video_gen_001", "v" * 8_000_000).encode(),
    "one key over and over": b'{"a":1,' + b'"a":1,' * 200_000 + b'"a":1}',
    "half a character": MANIFEST.replace("video_gen_001", "\\ud800").encode(),
}


@pytest.mark.parametrize("content", DEEP.values(), ids=DEEP)
def test_json_that_is_made_to_exhaust_is_refused(content: bytes) -> None:
    with pytest.raises(Refused) as caught:
        parse(Manifest, content, MANIFEST_FILE)
    assert len(str(caught.value)) < 2000, "nor is it repeated to whoever reads the log"


def test_thousands_of_entries_of_nothing_hold_up_no_other(house: House) -> None:
    whole = manifest(BATCH, *(f"{number}.png" for number in range(2000)))
    put(house, whole)
    put_good(house)
    settle(house)
    assert len(answer(house).entries) == 2000
    assert {outcome.clip_id for outcome in answer(house).entries} == {None}
    assert taken(house) == ["good.png"]
    assert inbox(house) == []
    whole["keyframes"] *= 6
    with pytest.raises(Refused, match="at most 10000"):
        parse(Manifest, json.dumps(whole).encode(), MANIFEST_FILE)


def test_an_answer_that_nobody_could_read_again_refuses_its_batch(house: House) -> None:
    """It would lie in ``rooms/intake`` for good, and stop every batch after it."""
    folders = "/".join(["f" * 250] * 15)
    whole = manifest(BATCH, *(f"{folders}/{number:0>190}.png" for number in range(2030)))
    for entry in whole["keyframes"]:
        entry["generation_params"] = {"model": "camera"}
        entry["motion"] = {"type": "static", "start_rect": [0, 0, 1, 1], "end_rect": [0, 0, 1, 1], "duration_sec": 5}
    content = json.dumps(whole, separators=(",", ":")).encode()
    assert MAX_JSON_BYTES - 300_000 < len(content) <= MAX_JSON_BYTES
    put(house, content)
    put_good(house)
    settle(house)
    assert [reason.code for reason in refused(house).values()] == ["json_too_large"]
    assert (answer(house).entries, answer(house).refused) != ([], None), "and its sender is told"
    assert taken(house) == ["good.png"]


def test_one_picture_on_the_line_is_not_thousands_on_the_disk(house: House) -> None:
    entries = [
        {**manifest(BATCH, f"{n}.png")["keyframes"][0], "files": [payload(f"{n}.png", picture(), "001.png")]}
        for n in range(100)
    ]
    put(house, {**manifest(), "keyframes": entries}, **{"001__png": picture()})
    put_good(house)
    settle(house)
    assert [(reason.code, "belongs to two" in reason.message) for reason in refused(house).values()] == [
        ("field_invalid", True)
    ]
    assert taken(house) == ["good.png"]


def test_an_entry_has_few_files_for_all_are_held_in_memory(house: House) -> None:
    files = [payload("img_001.png", picture(), "001.png")]
    files += [payload(f"{n}.caption", b"words", f"001.{n}") for n in range(8)]
    put(house, manifest(BATCH, "img_001.png", files=files), **{"001__png": picture()})
    settle(house)
    ((_, reason),) = refused(house).items()
    assert (reason.code, reason.field) == ("field_invalid", "keyframes[0].files")


SECRETS: dict[str, Callable[[Path], object]] = {
    "a link to a file": lambda path: path.symlink_to(path.parents[4] / "outside" / "secret.png"),
    "a link to a device": lambda path: path.symlink_to("/dev/zero"),
    "a link to itself": lambda path: path.symlink_to(path.name),
    "a FIFO": os.mkfifo,
    "a folder": lambda path: path.mkdir(),
    "a caption without end": lambda path: _sparse(path, 1 << 40),
}


def _sparse(path: Path, size: int) -> None:
    with path.open("wb") as file:
        file.truncate(size)


@pytest.mark.parametrize("make", SECRETS.values(), ids=SECRETS)
def test_a_caption_that_is_no_plain_small_file_is_not_read(house: House, make: Callable[[Path], object]) -> None:
    """What it says would be heard by a model, and come back in the meta."""
    folder = house.home.gpu.inbox / BATCH
    folder.mkdir()
    make(folder / "img_001.caption")
    put(house, manifest(), img_001__png=picture())
    put_good(house)
    settle(house)
    ending = taken(house)
    assert ending in (["good.png"], ["good.png", "img_001.png"])
    for clip in (house.home.gpu.rooms / "generate" / "ready").iterdir():
        assert not (clip / "keyframe.caption").exists()
    if "img_001.png" not in ending:
        assert first_finding(house).code == "file_not_plain"


def test_a_socket_in_a_batch_is_not_spoken_to(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = house.home.gpu.inbox / BATCH
    folder.mkdir()
    monkeypatch.chdir(folder)  # the path of a socket may not be long
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind("img_001.png")
        listening.listen()
        listening.settimeout(0)
        put(house, manifest())
        put_good(house)
        settle(house)
        with pytest.raises(BlockingIOError):
            listening.accept()
    assert first_finding(house).code == "file_not_plain"
    assert taken(house) == ["good.png"]


def test_a_clip_that_no_disk_could_hold_is_refused(house: House) -> None:
    """8192×8192, 120 frames a second, 8 s: 193 GB of frames."""
    whole = manifest(BATCH, "huge.png", "good.png")
    huge = whole["keyframes"][0]
    huge["generation_params"] = {"model": "camera", "width": 8192, "height": 8192, "fps": 120}
    huge["motion"]["duration_sec"] = 8
    put(house, whole, huge__png=picture(2), good__png=picture(1))
    settle(house)
    finding = first_finding(house)
    assert (finding.code, finding.field) == ("clip_too_large", "keyframes[0].motion.duration_sec")
    assert (finding.value, finding.limit) == (8192 * 8192 * 3 * 120 * 8 >> 20, 8192)
    assert "disk.clip_max_mb" in (finding.remedy or "")
    assert taken(house) == ["good.png"]


@pytest.mark.parametrize(
    "model",
    ["../../etc/passwd", "/etc/passwd", "weights/../camera", "camera\n", "-rf", ".hidden", "$(id)", "", "c" * 65],
)
def test_a_model_is_a_name_and_no_path(model: str) -> None:
    whole = manifest()
    whole["keyframes"][0]["generation_params"]["model"] = model
    with pytest.raises(Refused) as caught:
        parse(Manifest, json.dumps(whole).encode(), MANIFEST_FILE)
    assert caught.value.finding.field == "keyframes[0].generation_params.model"


def test_a_hard_link_is_read_as_the_picture_it_is_and_never_changed(house: House, tmp_path: Path) -> None:
    """A link of this kind cannot be told from the file; so nothing is ever written into what was dropped."""
    secret = tmp_path / "outside" / "secret.png"
    folder = house.home.gpu.inbox / BATCH
    folder.mkdir()
    os.link(secret, folder / "img_001.png")
    put(house, manifest())
    settle(house)
    (clip,) = (house.home.gpu.rooms / "generate" / "ready").iterdir()
    kept = clip / load(Clip, clip / CLIP_FILE).image
    assert kept.read_bytes() == picture(9)
    assert kept.stat().st_ino != secret.stat().st_ino


# Code

_RUNS_CODE = re.compile(
    r"\b(pickle\.loads?|os\.(system|popen)|yaml\.\w*load|(np|numpy|joblib)\.load|marshal\.loads?)\("
    r"|(?<![.\w])(eval|exec)\(|\bshell *= *True|trust_remote_code *= *True"
)
_LOADS = re.compile(r"\btorch\.(jit\.)?load\(.*")


def test_nothing_that_was_read_is_run_as_code() -> None:
    """No pickle, no shell, nobody's own Python: weights are opened as tensors alone."""
    texts = {
        path: path.read_text(encoding="utf-8")
        for half in ("core", "daemons")
        for path in Path(SOURCES, half).rglob("*.py")
    }
    assert not {path.name: found[0] for path, text in texts.items() if (found := _RUNS_CODE.search(text))}
    loads = [
        (path.name, "weights_only=True" in found[0]) for path, text in texts.items() for found in _LOADS.finditer(text)
    ]
    # A TorchScript archive is run: the one of the operator's settings, which no manifest can name.
    assert sorted(loads) == [("film.py", False), ("rife_weights.py", True)]


# A server gone bad

ODD_FILES: dict[str, Callable[[Path], object]] = {
    "a folder": lambda path: path.mkdir(),
    "a FIFO": os.mkfifo,
    "a link": lambda path: path.symlink_to("/etc/passwd"),
    "a link to itself": lambda path: path.symlink_to(path.name),
    "without end": lambda path: _sparse(path, 1 << 40),
    "no JSON": lambda path: path.write_bytes(b"\xff"),
}


@pytest.mark.parametrize("make", ODD_FILES.values(), ids=ODD_FILES)
def test_an_answer_that_is_none_holds_up_nothing(house: House, make: Callable[[Path], object]) -> None:
    house.daemons = [daemon for daemon in house.daemons if daemon.runtime.name != "intake"]
    house.drop("a")
    settle(house)
    (batch,) = house.home.mac.outbox.iterdir()
    make(house.home.gpu.batch_acks / f"{batch.name}.json")
    deliver(house)
    assert live(house, 20) == 0
    assert results(house) == files_of("img_1")
    assert batch.exists(), "it is not yet answered"


def _meta(house: House, **changes: Any) -> Path:
    """A result in the server's outbox whose meta says something else than it did."""
    clip = deliver(house, 2)
    folder = house.home.gpu.outbox / BATCH / clip.clip_id
    content = json.loads((folder / META_FILE).read_bytes())
    for path, value in changes.items():
        *way, last = path.split("__")
        place = content
        for step in way:
            place = place[int(step) if step.isdigit() else step]
        place[last] = value
    told = json.dumps(content).encode()
    (folder / META_FILE).write_bytes(told)
    (folder / SEAL_FILE).write_bytes(hashlib.sha256(told).hexdigest().encode())
    return folder


LIES: dict[str, Callable[[House], object]] = {
    "a file that climbs": lambda house: _meta(house, files__0__path="../../../../outside/secret.png"),
    "an absolute file": lambda house: _meta(house, files__0__path="/etc/passwd"),
    "a hidden file": lambda house: _meta(house, files__0__path=".profile"),
    "another hash": lambda house: _meta(house, files__0__sha256="0" * 64),
    "another size": lambda house: _meta(house, files__0__size=1 << 70),
    "a name that climbs": lambda house: _meta(house, entry__image_path="../../outside/secret.png"),
    "an absolute name": lambda house: _meta(house, entry__image_path="/tmp/x.png"),
    "a name too long": lambda house: _meta(house, entry__image_path="x" * 254 + ".png"),
    "another clip's id": lambda house: _meta(house, clip_id=f"{BATCH}-009-0123abcd"),
    "an id that climbs": lambda house: _meta(house, clip_id="../../outside"),
    "another batch's": lambda house: _meta(house, batch_id="20200101_000000"),
    "a meta without end": lambda house: _sparse(_meta(house) / META_FILE, 1 << 40),
    "deep JSON": lambda house: (_meta(house) / META_FILE).write_bytes(b'{"plan":' + b"[" * 1_000_000),
    "a link for a clip": lambda house: _instead(_meta(house) / VIDEO_FILE, lambda path: path.symlink_to("/etc/passwd")),
    "a FIFO for a clip": lambda house: _instead(_meta(house) / VIDEO_FILE, os.mkfifo),
    "a link for a meta": lambda house: _instead(_meta(house) / META_FILE, lambda path: path.symlink_to("/dev/zero")),
    "a clip without end": lambda house: _sparse(_meta(house) / VIDEO_FILE, MAX_RESULT_BYTES + 1),
}


def _instead(path: Path, make: Callable[[Path], object]) -> None:
    path.unlink()
    make(path)


@pytest.mark.parametrize("lie", LIES.values(), ids=LIES)
def test_a_result_that_lies_is_not_taken_and_holds_up_no_other(house: House, lie: Callable[[House], object]) -> None:
    lie(house)
    before = _everything_but_results(house)
    deliver(house, 3)
    live(house, 5)
    assert results(house) == files_of("img_3")
    assert [path.name for path in house.home.mac.results.iterdir()] == [BATCH]
    assert _everything_but_results(house) == before
    assert not [
        path for path in house.home.mac.root.rglob("*") if path.is_symlink() or not (path.is_file() or path.is_dir())
    ]


def _everything_but_results(house: House) -> set[str]:
    """What lies on the Mac's side and beside the home, but for what a result may bring and logs."""
    mac = house.home.mac
    spared = (mac.results, mac.state, mac.logs, house.home.gpu.root)
    found = house.home.root.parent.rglob("*")
    return {str(path) for path in found if not any(path.is_relative_to(folder) for folder in spared)}


def test_what_comes_beside_a_result_is_thrown_away(house: House) -> None:
    clip = deliver(house)
    folder = house.home.gpu.outbox / BATCH / clip.clip_id
    for name in (".bashrc", "-rf", "$(touch pwned)", "img_1.mp4.command", "line\nbreak"):
        (folder / name).write_text("#!/bin/sh\ntouch pwned\n")
    (folder / "folder").mkdir()
    live(house, 5)
    assert results(house) == files_of("img_1")
    assert not list(house.home.mac.incoming.rglob("*"))


def test_a_server_cannot_fill_the_macs_disk(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not even with what it never finishes: one looks while it comes, and what is low stays so until there is room."""
    (courier,) = (daemon for daemon in house.daemons if isinstance(daemon, CourierDaemon))
    courier.disk._settings = DiskSettings(low_water_mb=1000, high_water_mb=2000)
    folder = house.home.gpu.outbox / BATCH / deliver(house).clip_id
    for number in range(20):
        (folder / f"more_{number:02d}").write_bytes(bytes(1000))

    def usage(_: object) -> Any:
        came = sum(1 for _ in house.home.mac.incoming.rglob("*/more_*"))
        return SimpleNamespace(free=(1200 - 50 * came) << 20)

    monkeypatch.setattr("core.disk.shutil.disk_usage", usage)
    house.daemons = [courier]
    live(house, 30)
    came = [path.name for path in house.home.mac.incoming.rglob("more_*")]
    assert len(came) == 5, "one more than there was room for above the mark"
    assert not results(house)
    monkeypatch.undo()
    courier.disk._settings = house.settings.disk
    live(house, 60)
    assert results(house) == files_of("img_1")


STATUS: dict[str, Any] = {"written_at": "2026-01-01T00:00:00Z", "version": "1", "inbox": 0, "rooms": [], "outbox": 0,
                          "failed": 0, "disk_free_bytes": 1}  # fmt: skip
ESCAPE = "\x1b]0;pwned\x07\x1b[2J[/nope] [red]\udcff\n"
SAID: dict[str, dict[str, Any] | bytes] = {
    "a moment without a zone": {"written_at": "0001-01-01T00:00:00"},
    "the last moment": {"written_at": "9999-12-31T23:59:59-14:00"},
    "huge numbers": {"inbox": 10**400, "disk_free_bytes": -(10**40), "eta_seconds": 1e308, "clips_per_minute": 1e308},
    "what a terminal obeys": {
        "version": ESCAPE[:-2],
        "held": ESCAPE[:-2],
        "rooms": [{"room": ESCAPE[:-2], "paused": False, "held": ESCAPE[:-2], "ready": -1, "active": 10**30,
                   "workers": [{"worker": ESCAPE[:-2], "alive": True, "fraction": 0.5, "remaining_seconds": -1e308}]}],
        "cards": [{"uuid": ESCAPE[:-2], "name": ESCAPE[:-2], "slowed_by": [ESCAPE[:-2]]}],
    },
    "an unknown field that a terminal obeys": {ESCAPE[:-2]: 1},
    "deep JSON": b"[" * 1_000_000,
    "no text": b"\xff\xfe",
    "without end": b" " * (MAX_JSON_BYTES + 1),
}  # fmt: skip


@pytest.mark.parametrize("said", SAID.values(), ids=SAID)
def test_a_status_that_lies_is_shown_or_not_and_does_nothing(tmp_path: Path, said: dict[str, Any] | bytes) -> None:
    home = tmp_path / "home"
    home.mkdir()
    (home / "dropreel.toml").write_text('role = "mac"\n[transport]\nkind = "rsync"\nhost = "server"\n')
    mac = House(home).home.mac
    content = said if isinstance(said, bytes) else json.dumps(STATUS | said).encode()
    (mac.server / STATUS_FILE).write_bytes(content)
    load_commands("status")
    shown = CliRunner().invoke(app, ["status", "--home", str(home)])
    assert (shown.exit_code, shown.exception) == (0, None)
    assert "\x1b" not in shown.output
    assert "\x07" not in shown.output
    assert "hot folder" in shown.output
    json.loads(CliRunner().invoke(app, ["status", "--json", "--home", str(home)]).output)


@pytest.mark.timeout(120)
def test_what_is_too_large_stays_on_the_server(tmp_path: Path) -> None:
    """Over the line: files without end in place of the status and of a clip, and a folder in place of an answer."""
    with contextlib.closing(Machines(tmp_path)) as machines:
        mac, server = machines.open()
        gpu = server.home.gpu
        server.daemons = []
        mac.drop("a")
        machines.live_until(lambda: list(mac.home.mac.outbox.iterdir()), "the drop is packed")
        (batch,) = mac.home.mac.outbox.iterdir()
        (gpu.batch_acks / f"{batch.name}.json").mkdir()
        liar = gpu.outbox / BATCH / f"{BATCH}-001-0123abcd"
        liar.mkdir(parents=True)
        _sparse(liar / VIDEO_FILE, MAX_RESULT_BYTES + 1)
        _sparse(gpu.status, MAX_JSON_BYTES + 1)
        deliver(server, 2)
        machines.live_until(lambda: results(mac), "the good one is here")
        assert results(mac) == files_of("img_2")
        assert not (mac.home.mac.server / STATUS_FILE).exists()
        assert not list(mac.home.mac.acks.iterdir())
        assert not [path for path in mac.home.mac.incoming.rglob("*") if path.is_file()]


def test_folders_nested_deeper_than_a_stack_are_cleared_away(house: House) -> None:
    folder = put(house, manifest(BATCH, "img.png", files=[payload("img.png", picture(), "001.png")]),
                 **{"001__png": picture()})  # fmt: skip
    here = Path.cwd()
    os.chdir(folder)
    for _ in range(sys.getrecursionlimit() + 100):
        Path("deep").mkdir()
        os.chdir("deep")
    os.chdir(here)
    put_good(house)
    settle(house)
    assert taken(house) == ["good.png", "img.png"]
    assert inbox(house) == []
    assert not list(house.home.gpu.trash.iterdir())
    fsops.sweep(house.home.gpu.inbox)


def test_a_link_in_place_of_what_was_taken_by_hand_leads_nowhere(house: House) -> None:
    """Else a batch would be moved into the outbox, and the folders in it be taken for results."""
    gpu = house.home.gpu
    gpu.by_hand.symlink_to("../outbox")
    folder = gpu.inbox / BATCH / f"{BATCH}-001-0123abcd"
    folder.mkdir(parents=True)
    (folder / CLIP_FILE).write_text("{}")
    put(house, manifest(BATCH, "img.png"), img__png=picture())
    settle(house)
    assert taken(house) == ["img.png"]
    assert [path.name for path in gpu.outbox.glob("2*")] == []
    assert (gpu.by_hand / BATCH / "img.png").read_bytes() == picture()


@pytest.mark.timeout(20)
def test_what_is_not_ours_in_a_batch_is_not_read_to_be_compared(house: House) -> None:
    for _ in range(2):
        _sparse(put(house, b"{") / "endless", 1 << 40)
        put_good(house)
        live(house, 60)
        assert len(refused(house)) == 1
        assert taken(house) == ["good.png"]


def test_check_says_what_it_cannot_read_and_goes_on(tmp_path: Path) -> None:
    load_commands("check")
    (tmp_path / "dropreel.toml").touch()
    (tmp_path / ".hidden.png").write_bytes(picture())
    folder = tmp_path / "batch"
    folder.mkdir()
    for name in ("a.png", "alone.motion.json"):
        os.mkfifo(folder / name)
    (folder / "b.png").mkdir()
    (folder / "c.png").symlink_to("/dev/zero")
    (folder / "\x1b]0;pwned\x07.png").write_bytes(picture())
    (folder / os.fsdecode(b"\xff.png")).write_bytes(picture())
    (folder / "manifest.json").write_text(json.dumps(manifest(BATCH, "a.png", "b.png", "c.png")))
    os.mkfifo(tmp_path / "fifo.json")
    for path in (tmp_path / "fifo.json", folder / "manifest.json", folder):
        said = CliRunner().invoke(app, ["check", str(path), "--home", str(tmp_path)])
        assert (said.exit_code, type(said.exception)) == (1, SystemExit), said.exception
        assert "\x1b" not in said.output
    said = CliRunner().invoke(app, ["check", str(tmp_path / ".hidden.png"), "--home", str(tmp_path)])
    assert "nothing of that name is ever taken" in str(said.exception)
