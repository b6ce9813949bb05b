"""How a home stands: from its folders, by what the server tells of itself, and as an operator sees it."""

from __future__ import annotations

import contextlib
import datetime as dt
import io
import json
import os
import pty
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from pydantic import BaseModel
from rich.console import Console

from core import fsops
from core.cards import Card, CardFigures
from core.contract import load
from core.metrics import Metrics
from core.overview import LATE_SECONDS, MacStatus, Overview, RoomStatus, ServerStatus, WorkerStatus, overview
from core.pace import WINDOW_SECONDS, Pace
from core.rooms import PAUSED_FILE, Room
from core.settings import load_settings
from daemons.cli.status import draw, size, span
from daemons.intake import STATUS_SECONDS, IntakeDaemon
from tests.house import TINY, Clock, House, picture
from tests.unit.living import at_work
from tests.waiting import until

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "reference" / "metrics.md"


@pytest.fixture
def house(tmp_path: Path) -> Iterator[House]:
    with at_work(tmp_path / "home") as house:
        yield house


def look(house: House) -> Overview:
    return overview(house.home, house.settings)


def rooms_of(found: Overview) -> dict[str, RoomStatus]:
    assert found.gpu is not None
    return {room.room: room for room in found.gpu.rooms}


def drawn(found: Overview) -> str:
    console = Console(width=140, file=io.StringIO())
    with console.capture() as capture:
        console.print(draw(found))
    return capture.get()


# From the folders alone.


def test_a_clip_is_found_in_each_place_it_can_be(house: House) -> None:
    pause = house.home.gpu.rooms / "interpolate" / PAUSED_FILE
    pause.touch()
    house.drop("one")
    house.drop("two", picture(2))
    house.drop("bad", b"no picture")
    before = look(house).mac
    assert before is not None
    assert before.disk_free_bytes > 0
    assert before.model_dump(exclude={"disk_free_bytes"}) == {
        "hot_folder": 6, "rejected": 0, "outbox": 0, "delivered": 0, "flagged": 0, "failed": 0}  # fmt: skip
    house.rest()
    found = look(house)
    assert found.mac is not None
    assert (found.mac.hot_folder, found.mac.rejected, found.mac.delivered) == (0, 1, 0)
    rooms = rooms_of(found)
    assert {name: room.ready for name, room in rooms.items()} == {
        "generate": 0, "interpolate": 2, "qa": 0, "encode": 0}  # fmt: skip
    assert (rooms["interpolate"].paused, rooms["interpolate"].held) == (True, "paused")
    assert rooms["interpolate"].oldest_seconds is not None
    assert rooms["generate"].oldest_seconds is None
    pause.unlink()
    house.rest()
    found = look(house)
    assert found.mac is not None
    assert found.gpu is not None
    assert (found.mac.delivered, found.gpu.clips, found.gpu.outbox, found.gpu.eta_seconds) == (2, 0, 0, 0)


def test_the_oldest_clip_ages_by_the_clock(house: House) -> None:
    (house.home.gpu.rooms / "generate" / PAUSED_FILE).touch()
    house.drop("one")
    house.rest()
    (clip,) = (house.home.gpu.rooms / "generate" / "ready").iterdir()
    moment = clip.stat().st_mtime + 90.0
    later = overview(house.home, house.settings, lambda: moment)
    assert rooms_of(later)["generate"].oldest_seconds == 90.0


def test_a_room_says_why_it_is_held(house: House) -> None:
    gpu = house.home.gpu
    for name in ("qa", "encode"):
        for number in range(4):
            (gpu.rooms / name / "ready" / f"20251122_150832-00{number + 1}-1eee5c58").mkdir()
    (gpu.rooms / "qa" / PAUSED_FILE).touch()
    full = {name: room.held for name, room in rooms_of(look(house)).items()}
    assert full == {"generate": None, "interpolate": "qa is full", "qa": "paused", "encode": None}
    house.settings.disk.low_water_mb = house.settings.disk.high_water_mb = 1 << 40
    found = look(house)
    low = {name: room.held for name, room in rooms_of(found).items()}
    assert found.gpu is not None
    assert found.gpu.held == "disk is low"
    assert low == {"generate": "disk is low", "interpolate": "qa is full", "qa": "paused", "encode": "disk is low"}


def test_an_inbox_that_is_not_taken_in_says_why(house: House) -> None:
    found = look(house)
    assert found.gpu is not None
    assert found.gpu.held is None
    (house.home.gpu.rooms / "intake" / PAUSED_FILE).touch()
    house.drop("one")
    house.rest()
    found = look(house)
    assert found.gpu is not None
    assert (found.gpu.inbox, found.gpu.held) == (1, "paused")
    assert "inbox 1 (paused)" in drawn(found)


def test_workers_that_are_wanted_or_alive_are_shown(house: House) -> None:
    room = Room(house.home.gpu.rooms / "generate")
    (room.active / "gpu7").mkdir()  # once there was a worker of this name
    house.settings.rooms.workers.generate = ["gpu0", "gpu1"]
    workers = rooms_of(look(house))["generate"].workers
    assert [(worker.worker, worker.alive) for worker in workers] == [("gpu0", True), ("gpu1", False)]
    clip = "20251122_150832-001-1eee5c58"
    (room.active / "gpu7" / clip).mkdir()  # it died over this one, and nobody has looked yet
    assert rooms_of(look(house))["generate"].workers[-1] == WorkerStatus(worker="gpu7", alive=False, clip=clip)
    assert rooms_of(look(house))["generate"].active == 1
    house.stop()
    assert not any(worker.alive for worker in rooms_of(look(house))["generate"].workers)


@pytest.mark.parametrize(
    ("line", "fraction", "remaining"),
    [
        ({"fraction": 0.25, "seconds": 10.0}, 0.25, 30.0),
        ({"fraction": 0.0, "seconds": 10.0}, 0.0, None),
        ({"fraction": 0.5, "seconds": 10.0, "clip_id": "20251122_150832-002-1eee5c58"}, None, None),
        ({"fraction": "half"}, None, None),
        (b"{\"clip", None, None),
        (b"[1]", None, None),
    ],
)  # fmt: skip
def test_how_far_a_worker_is(
    house: House, line: dict[str, Any] | bytes, fraction: float | None, remaining: float | None
) -> None:
    clip = "20251122_150832-001-1eee5c58"
    (house.home.gpu.rooms / "qa" / "active" / "cpu0" / clip).mkdir()
    told = house.home.gpu.state / "workers" / "qa@cpu0.json"
    told.parent.mkdir(exist_ok=True)
    told.write_bytes(line if isinstance(line, bytes) else json.dumps({"clip_id": clip, **line}).encode())
    (worker,) = rooms_of(look(house))["qa"].workers
    assert (worker.clip, worker.fraction, worker.remaining_seconds) == (clip, fraction, remaining)


def test_a_clip_that_failed_and_was_made_well_counts_once(house: House) -> None:
    pause = house.home.gpu.rooms / "generate" / PAUSED_FILE
    pause.touch()
    for number, stem in enumerate(("again", "never", "good")):
        house.drop(stem, picture(number))
    house.rest()
    for clip in (house.home.gpu.rooms / "generate" / "ready").iterdir():
        if "good" not in (clip / "clip.json").read_text():
            (clip / "CANCEL").touch()
    pause.unlink()
    house.rest()
    (intake,) = (daemon for daemon in house.daemons if isinstance(daemon, IntakeDaemon))
    (again,) = (path for path in intake.admission.failed() if "again" in (path / "clip.json").read_text())
    intake.admission.retry(again)
    house.rest()
    assert {name for name in house.metas() if "again" in name} == {"again", "failed/again"}, "both metas lie there"
    mac = look(house).mac
    assert mac is not None
    assert (mac.delivered, mac.flagged, mac.failed) == (2, 0, 1)


def test_a_home_that_was_just_made_can_be_looked_at(tmp_path: Path) -> None:
    (tmp_path / "dropreel.toml").write_text(TINY)
    settings, home = load_settings(tmp_path)
    found = overview(home, settings)
    assert found.gpu is not None
    assert (found.gpu.clips, found.gpu.disk_free_bytes > 0) == (0, True)
    assert all(not worker.alive for room in found.gpu.rooms for worker in room.workers)
    assert list(tmp_path.iterdir()) == [tmp_path / "dropreel.toml"], "it writes nothing"


# What intake tells of the server.


def intake_of(house: House) -> IntakeDaemon:
    (intake,) = (daemon for daemon in house.daemons if isinstance(daemon, IntakeDaemon))
    return intake


def test_intake_writes_a_fresh_status_even_when_idle(house: House) -> None:
    life = intake_of(house).runtime
    assert not house.home.gpu.status.exists()
    house.clock.seconds += STATUS_SECONDS
    life.alive()
    first = load(ServerStatus, house.home.gpu.status)
    house.clock.seconds += STATUS_SECONDS - 1
    life.alive()
    assert load(ServerStatus, house.home.gpu.status) == first, "not more often than so"
    house.home.gpu.status.unlink()
    house.clock.seconds += 1
    life.alive()
    again = load(ServerStatus, house.home.gpu.status)
    assert again.written_at > first.written_at
    assert [room.room for room in again.rooms] == ["generate", "interpolate", "qa", "encode"]
    assert house.said("chore.failed") == []


def test_the_pace_and_the_eta_come_from_what_leaves_the_rooms(house: House) -> None:
    life = intake_of(house).runtime
    pause = house.home.gpu.rooms / "qa" / PAUSED_FILE

    def told(seconds: float) -> ServerStatus:
        house.clock.seconds += seconds
        life.alive()
        return load(ServerStatus, house.home.gpu.status)

    assert told(STATUS_SECONDS).eta_seconds == 0
    pause.touch()
    for number in range(4):
        house.drop(f"clip{number}", picture(number))
    house.rest()
    waiting = told(STATUS_SECONDS)
    assert (waiting.clips, waiting.clips_per_minute, waiting.eta_seconds) == (4, 0, None)
    told(50.0)  # a minute of work, less the time since the last look
    pause.unlink()
    (house.home.gpu.rooms / "generate" / PAUSED_FILE).touch()
    house.rest()  # all four are delivered, and released before the next look
    house.drop("last", picture(9))
    house.rest()
    last = told(10.0)
    assert last.outbox == 0
    assert last.clips == 1
    assert last.clips_per_minute is not None
    assert last.clips_per_minute == pytest.approx(4.0, rel=0.3)
    assert last.eta_seconds == pytest.approx(60 / last.clips_per_minute, rel=0.01)
    found = look(house).gpu  # the command line has not been counting: it believes intake
    assert found is not None
    assert (found.clips_per_minute, found.eta_seconds) == (last.clips_per_minute, last.eta_seconds)
    late = overview(house.home, house.settings, lambda: last.written_at.timestamp() + LATE_SECONDS + 1).gpu
    assert late is not None
    assert (late.clips_per_minute, late.eta_seconds) == (None, None), "but not one that has died"


def test_what_a_dead_intake_left_half_written_is_swept(house: House) -> None:
    house.stop()
    part = fsops.part_of(house.home.gpu.status)
    part.write_text("{")
    house.start()
    assert not part.exists()


def test_a_status_that_cannot_be_written_keeps_no_clip_waiting(house: House) -> None:
    house.home.gpu.status.mkdir()
    house.clock.seconds += STATUS_SECONDS
    house.drop("one")
    house.rest()
    intake_of(house).runtime.alive()
    assert set(house.metas()) == {"one"}
    assert [said["chore"] for said in house.said("chore.failed")] == ["status"]


# The pace.


@pytest.mark.parametrize(
    ("looks", "expected"),
    [
        ([], 0),
        ([(60, "old", True)], 0),  # it lay there before
        ([(60, "old a b c", True)], 3),
        ([(60, "old a b", True)], 0),  # two may be chance
        ([(30, "a", True), (30, "b c", True)], 3),  # one left as the next came
        ([(3600, "", False), (60, "a", True), (120, "a b c", True)], 1),  # the quiet hour does not count
        ([(30, "a b c", False)], 6),  # they came and were done between two looks
        ([(60, "a b c", True), (WINDOW_SECONDS, "a b c", True), (1, "a b c", True)], 0),
    ],
)
def test_the_pace_counts_what_comes_by_the_time_there_was_work(
    looks: list[tuple[float, str, bool]], expected: float
) -> None:
    clock = Clock()
    pace, found = Pace(["old"], clock), 0.0
    for seconds, here, busy in looks:
        clock.seconds += seconds
        found = pace.look(here.split(), busy=busy)
    assert found == pytest.approx(expected)


def test_a_result_that_came_and_went_between_two_looks_counts_once() -> None:
    clock = Clock()
    pace = Pace(["seen"], clock)
    clock.seconds += 60
    pace.released("seen")
    pace.released("quick")
    assert pace.look(["one", "two"], busy=True) == pytest.approx(3)
    clock.seconds += 60
    assert pace.look([], busy=True) == pytest.approx(1.5)


# What the Mac makes of it.

TOLD = ServerStatus(
    written_at=dt.datetime(2025, 11, 22, 15, 8, 32, tzinfo=dt.UTC),
    version="0.1.0",
    inbox=0,
    rooms=[
        RoomStatus(
            room="generate", paused=False, ready=7, active=1, oldest_seconds=754.0,
            workers=[WorkerStatus(worker="gpu0", alive=True, clip="20251122_150832-001-1eee5c58", fraction=0.5,
                                  remaining_seconds=40.0), WorkerStatus(worker="gpu1", alive=False)],
        ),
        RoomStatus(room="qa", paused=True, held="paused", ready=0, active=0, bound=4),
    ],
    outbox=3,
    failed=1,
    disk_free_bytes=214_000_000_000,
    clips_per_minute=1.25,
    eta_seconds=384.0,
    cards=[Card(uuid="GPU-8932f937-d72c", name="NVIDIA H100", utilization=0.97, memory_used_bytes=61_000_000_000,
                memory_bytes=80_000_000_000, temperature_celsius=67, power_watts=410, slowed_by=["heat"])],
)  # fmt: skip


@pytest.fixture
def mac(tmp_path: Path) -> SimpleNamespace:
    """A home with the operator's half alone, and how to look at it so many seconds after ``TOLD``."""
    text = TINY.replace('role = "both"', 'role = "mac"')
    (tmp_path / "dropreel.toml").write_text(text + '[transport]\nkind = "rsync"\nhost = "server"\n')
    settings, home = load_settings(tmp_path)
    home.mac.server.mkdir(parents=True)
    file = home.mac.server / "status.json"

    def after(seconds: float) -> Overview:
        return overview(home, settings, lambda: TOLD.written_at.timestamp() + seconds)

    return SimpleNamespace(home=home, settings=settings, file=file, after=after)


@pytest.mark.parametrize(
    ("seconds", "age", "trouble"),
    [
        (4.0, 4.0, None),
        (60.0, 60.0, None),
        (61.0, 61.0, "silent, or the link is down"),
        (86_400.0, 86_400.0, "silent, or the link is down"),
        (-2.0, 0.0, None),  # two clocks are never quite the same
        (-300.0, 0.0, "clock is 300 s ahead"),
    ],
)
def test_the_servers_word_ages(mac: SimpleNamespace, seconds: float, age: float, trouble: str | None) -> None:
    mac.file.write_bytes(TOLD.to_json())
    found = mac.after(seconds)
    assert found.gpu == TOLD
    assert found.gpu_age_seconds == age
    assert (found.gpu_trouble is None) if trouble is None else (trouble in found.gpu_trouble)


NEWER = {**json.loads(TOLD.to_json()), "schema_version": 2}
WIDER = {**json.loads(TOLD.to_json()), "mood": "good"}


@pytest.mark.parametrize(
    "data",
    [b"", TOLD.to_json()[:200], b"\xff\xfe", b"[]", json.dumps(NEWER).encode(), json.dumps(WIDER).encode()],
    ids=["empty", "torn", "no text", "no object", "newer", "wider"],
)
def test_a_word_that_cannot_be_read_is_told_and_hides_nothing_else(mac: SimpleNamespace, data: bytes) -> None:
    mac.file.write_bytes(data)
    found = mac.after(1.0)
    assert found.gpu is None
    assert "same version" in found.gpu_trouble
    assert "hot folder" in drawn(found)
    assert "same version" in drawn(found).replace("\n", " ")


def test_a_server_that_has_not_spoken_yet(mac: SimpleNamespace) -> None:
    assert mac.after(0.0).gpu_trouble == "The server has not said anything yet."
    mac.file.mkdir()
    assert "cannot be read" in mac.after(0.0).gpu_trouble


def test_the_mac_shows_the_servers_rooms_with_their_age(mac: SimpleNamespace) -> None:
    mac.file.write_bytes(TOLD.to_json())
    text = drawn(mac.after(4.0))
    for word in ("server, as of 4 s ago", "20251122_150832-001-1eee5c58", "50%", "40 s", "13 min", "gpu1 (down)",
                 "qa (paused)", "outbox 3", "failed 1", "214 GB free", "1.2 clips a minute", "all 8 done in 6 min",
                 "97% busy", "61 GB of 80 GB", "67 °C", "410 W", "slowed by heat"):  # fmt: skip
        assert word in text, word
    assert "silent" not in text
    assert "as of 5 min ago" in drawn(mac.after(300.0))
    assert "silent" in drawn(mac.after(300.0))


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0 s"), (59.4, "59 s"), (59.6, "60 s"), (60, "1 min"), (3599, "1 h 0 min"), (12_000, "3 h 20 min")],
)
def test_a_time_as_people_say_it(seconds: float, text: str) -> None:
    assert span(seconds) == text


@pytest.mark.parametrize(
    ("count", "text"), [(0, "0 MB"), (350e6, "350 MB"), (2e9, "2.0 GB"), (214.4e9, "214 GB"), (4e12, "4000 GB")]
)
def test_bytes_as_people_say_them(count: float, text: str) -> None:
    assert size(count) == text


def test_cards_are_told_by_the_workers_that_have_them(house: House) -> None:
    metrics = Metrics("generate@gpu0", house.home.gpu.state / "metrics")
    metrics.add(CardFigures(lambda: TOLD.cards))
    metrics.write()
    found = look(house).gpu
    assert found is not None
    assert found.cards == TOLD.cards


# The command.


def environment() -> dict[str, str]:
    kept = {key: value for key, value in os.environ.items() if not key.startswith("DROPREEL")}
    return kept | {"COLUMNS": "140", "LINES": "40", "TERM": "xterm", "PYTHONPATH": str(ROOT)}


def test_the_command_prints_it_all_as_json(mac: SimpleNamespace) -> None:
    mac.file.write_bytes(TOLD.to_json())
    command = [sys.executable, "-m", "daemons.cli", "status", "--json", "--home", str(mac.home.root)]
    done = subprocess.run(command, capture_output=True, text=True, env=environment(), check=True)
    found = json.loads(done.stdout)
    assert set(found) == {"home", "mac", "gpu", "gpu_age_seconds", "gpu_trouble"}
    assert found["gpu"]["rooms"][0]["workers"][0]["fraction"] == 0.5
    assert found["gpu"]["rooms"][0]["bound"] is None, "what is not known is there all the same"
    assert found["gpu_age_seconds"] > 0
    both = subprocess.run([*command, "--watch"], capture_output=True, text=True, env=environment(), check=False)
    assert both.returncode == 2
    assert "one of them" in both.stderr.replace("\n", " ")


def test_watching_draws_again_until_it_is_interrupted(mac: SimpleNamespace) -> None:
    main, terminal = pty.openpty()
    command = [sys.executable, "-m", "daemons.cli", "status", "--watch", "--home", str(mac.home.root)]
    # A shell in the background has its children ignore Ctrl-C, and theirs.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    process = subprocess.Popen(command, stdin=terminal, stdout=terminal, stderr=terminal, env=environment(),
                               start_new_session=True)  # fmt: skip
    signal.signal(signal.SIGINT, before)
    os.close(terminal)
    os.set_blocking(main, False)
    seen = bytearray()

    def shows(word: bytes) -> Callable[[], bool]:
        def look() -> bool:
            with contextlib.suppress(OSError):  # nothing new
                seen.extend(os.read(main, 1 << 16))
            return word in seen

        return look

    try:
        until(shows(b"has not said anything yet"), "the first picture")
        told = TOLD.model_copy(update={"written_at": dt.datetime.now(dt.UTC)})
        fsops.write(mac.file, told.to_json())
        until(shows(b"clips a minute"), "a picture of what is new")
        process.send_signal(signal.SIGINT)
        drained = shows(b"")  # it draws once more as it leaves, and a terminal that nobody reads holds it up
        assert until(lambda: drained() and process.poll() is not None, "it has left")
        assert process.returncode == 0
    finally:
        process.kill()
        process.wait()
        os.close(main)


# The page.


@pytest.mark.parametrize("model", [ServerStatus, RoomStatus, WorkerStatus, Card, Overview, MacStatus])
def test_every_field_is_explained(model: type[BaseModel]) -> None:
    from tests.unit.test_docs import _rows, _words

    rows = _rows(PAGE, f"`{model.__name__}`")
    must = {name: default == "" for names, default in ((_words(row[0]), row[1]) for row in rows) for name in names}
    assert must == {name: field.is_required() for name, field in model.model_fields.items()}
