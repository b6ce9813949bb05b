"""The daemons as they run in service: processes that are stopped, killed, frozen and started twice."""

from __future__ import annotations

import contextlib
import json
import os
import signal
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from core.contract import Clip, VideoMeta, load
from tests.acceptance.processes import SMALL, Household
from tests.house import SIDECAR, picture
from tests.invariants import check_always
from tests.waiting import children, until

BIG = SMALL.replace("[96, 64]", "[1024, 576]").replace("fps = 10", "fps = 60")
"""Clips that keep a worker busy for seconds."""


@pytest.fixture
def make(tmp_path: Path) -> Iterator[Callable[..., Household]]:
    """Makes a household; what it started dies with the test."""
    made: list[Household] = []

    def household(settings: str = SMALL) -> Household:
        made.append(Household(tmp_path / f"home{len(made)}", settings))
        return made[-1]

    yield household
    for one in made:
        one.close()


def _drop(house: Household, stem: str, image: bytes, **changes: Any) -> None:
    hot = house.home.mac.hot
    (hot / f"{stem}.motion.json").write_text(json.dumps({**SIDECAR, **changes}))
    (hot / f"{stem}.png").write_bytes(image)


def _metas(house: Household) -> dict[str, VideoMeta]:
    return {
        path.name.removesuffix(".video_meta.json"): load(VideoMeta, path)
        for path in house.home.mac.results.rglob("*.video_meta.json")
    }


def _feed(house: Household, count: int, **changes: Any) -> None:
    """Bring clips as far as ``generate``."""
    for number in range(count):
        _drop(house, f"clip{number}", picture(number), **changes)
    house.bring("keyframes", "courier", "intake")


def _claimed(house: Household, room: str) -> list[Path]:
    """The clips in the hands of a room's workers, once there are any."""
    active = house.gpu / "rooms" / room / "active"
    return until(lambda: list(active.glob("*/2*")), "a clip is in hand", 40)


def _ffmpeg_of(pid: int) -> int | None:
    """A child that the tether has become."""
    for child in children(pid):
        with contextlib.suppress(FileNotFoundError):  # it ended meanwhile
            if "ffmpeg" in Path(f"/proc/{child}/exe").readlink().name:
                return child
    return None


def _is_at(clip: Path, attempt: int) -> bool:
    return clip.exists() and load(Clip, clip / "clip.json").attempts == {"generate": attempt}


def test_up_delivers_what_is_dropped_and_leaves_no_daemon_behind_when_it_is_killed(
    make: Callable[..., Household],
) -> None:
    house = make()
    up = house.dropreel("up")
    good, bad = picture(1), b"\x89PNG\r\n\x1a\n but no picture"
    _drop(house, "good", good)
    _drop(house, "bad", bad)
    assert until(lambda: _metas(house).get("good"), "the clip is back", 60).outcome == "pass"
    until((house.home.mac.rejected / "bad" / "reason.json").exists, "the bad one is set aside")
    daemons = children(up.pid)
    assert len(daemons) == 7
    up.kill()
    up.wait()
    until(lambda: not any(Path(f"/proc/{pid}/exe").exists() for pid in daemons), "all of them are gone")
    check_always(house.home, {"good.png": good, "bad.png": bad})


@pytest.mark.timeout(60)
def test_sigterm_gives_the_clip_back_within_two_seconds(make: Callable[..., Household]) -> None:
    house = make(BIG)
    _feed(house, 1, duration_sec=8.0)
    worker = house.dropreel("run", "generate")
    (clip,) = _claimed(house, "generate")
    until((house.gpu / "state" / "workers" / "generate@gpu0.json").exists, "the work is on its way", 40)
    worker.send_signal(signal.SIGTERM)
    assert worker.wait(2.0) == 0
    returned = house.gpu / "rooms" / "generate" / "ready" / clip.name
    assert load(Clip, returned / "clip.json").attempts == {"generate": 0}
    assert {path.name for path in returned.iterdir()} == {"clip.json", "keyframe.png", "keyframe.motion.json"}


@pytest.mark.timeout(90)
def test_ffmpeg_dies_with_a_daemon_that_is_killed(make: Callable[..., Household]) -> None:
    house = make(BIG.replace("ultrafast", "veryslow"))
    _feed(house, 1, duration_sec=1.0)
    house.bring("generate", "interpolate", "qa")
    worker = house.dropreel("run", "encode")
    (clip,) = _claimed(house, "encode")
    ffmpeg = until(partial(_ffmpeg_of, worker.pid), "ffmpeg runs")
    worker.kill()
    worker.wait()
    until(lambda: not Path(f"/proc/{ffmpeg}").exists(), "ffmpeg is dead", 5)
    assert clip.exists()
    # The next worker of the name finds the clip in its hands, and begins it again.
    following = house.dropreel("run", "encode")
    until(
        lambda: load(Clip, clip / "clip.json").attempts == {"encode": 2} if clip.exists() else False,
        "claimed again",
        40,
    )
    following.send_signal(signal.SIGTERM)
    following.wait(12)
    assert not list((house.gpu / "rooms").rglob("*.part"))


@pytest.mark.timeout(90)
def test_a_frozen_worker_does_not_hold_its_clip_for_ever(make: Callable[..., Household]) -> None:
    house = make(BIG + "\n[daemons]\nwatchdog_seconds = 3.0\n")
    _feed(house, 1, duration_sec=1.0)
    up = house.dropreel("up")
    (clip,) = _claimed(house, "generate")
    progress = house.gpu / "state" / "workers" / "generate@gpu0.json"
    frozen = int(until(lambda: json.loads(progress.read_bytes()) if progress.exists() else None, "work")["pid"])
    os.kill(frozen, signal.SIGSTOP)
    until(lambda: not Path(f"/proc/{frozen}").exists(), "the watchdog has killed it", 20)
    assert until(lambda: _metas(house).get("clip0"), "the clip is back", 60).outcome == "pass"
    assert clip.name in (house.gpu / "logs" / "generate@gpu0.log").read_text()
    up.send_signal(signal.SIGTERM)
    assert up.wait(15) == 0


@pytest.mark.timeout(120)
def test_a_clip_that_kills_its_workers_ends_in_failed_and_the_operator_hears(make: Callable[..., Household]) -> None:
    house = make(BIG + "\n[rooms]\nmax_attempts = 2\n")
    _feed(house, 1, duration_sec=8.0)
    (waiting,) = (house.gpu / "rooms/generate/ready").iterdir()
    for attempt in (1, 2):
        worker = house.dropreel("run", "generate")
        until(partial(_is_at, house.gpu / "rooms/generate/active/gpu0" / waiting.name, attempt), "it is in hand", 40)
        worker.kill()
        worker.wait()
    assert house.command("run", "generate", "--once")[0] == 0
    assert house.command("run", "courier", "--once")[0] == 0
    meta = _metas(house)["clip0"]
    assert (meta.outcome, meta.failure and meta.failure.code) == ("fail", "worker_died")
    assert [path.name for path in (house.gpu / "failed").iterdir()] == [meta.clip_id]
    # A person looks into it and lets it be made again.
    assert house.command("retry", meta.clip_id)[0] == 0
    assert [path.name for path in (house.gpu / "rooms/generate/ready").iterdir()] == [f"{meta.clip_id}-r2"]


def test_a_second_worker_of_a_name_says_so_and_leaves(make: Callable[..., Household]) -> None:
    house = make()
    house.dropreel("run", "qa")
    log = house.gpu / "logs/qa@cpu0.log"
    until(lambda: log.exists() and "daemon.started" in log.read_text(), "the first one runs")
    status, _, err = house.command("run", "qa")
    assert status == 75
    assert "Another worker of this name is running" in err


def test_pause_holds_a_room_and_resume_lets_it_go_on(make: Callable[..., Household]) -> None:
    house = make()
    _feed(house, 1)
    assert house.command("pause", "generate")[0] == 0
    assert house.command("run", "generate", "--once")[0] == 0
    rooms = json.loads(house.command("status", "--json")[1])["gpu"]["rooms"]
    assert [(room["paused"], room["ready"]) for room in rooms[:2]] == [(True, 1), (False, 0)]
    assert house.command("resume", "generate")[0] == 0
    assert house.command("run", "generate", "--once")[0] == 0
    rooms = json.loads(house.command("status", "--json")[1])["gpu"]["rooms"]
    assert [room["ready"] for room in rooms[:2]] == [0, 1]


def test_cancel_takes_a_waiting_clip_out(make: Callable[..., Household]) -> None:
    house = make()
    _feed(house, 1)
    (clip,) = (house.gpu / "rooms/generate/ready").iterdir()
    assert house.command("cancel", clip.name)[0] == 0
    assert house.command("run", "generate", "--once")[0] == 0
    assert house.command("run", "courier", "--once")[0] == 0
    failure = _metas(house)["clip0"].failure
    assert failure is not None
    assert failure.code == "cancelled"
    status, _, err = house.command("cancel", clip.name)
    assert status == 1
    assert "is in no room" in err


@pytest.mark.timeout(120)
@pytest.mark.parametrize("events", ["on", "off"])
def test_a_burst_of_two_thousand_files_loses_none(make: Callable[..., Household], events: str) -> None:
    poll = "" if events == "on" else "\n[daemons]\npoll = true\npoll_seconds = 0.2\n"
    house = make(SMALL.replace("[hot_folder]", "[hot_folder]\nbatch_max = 1000") + poll)
    daemon = house.dropreel("run", "keyframes")
    until((house.home.mac.logs / "keyframes.log").exists, "the daemon runs")
    image = picture(3, (48, 32))
    for number in range(1000):  # one picture, a thousand motions: no two drops are the same clip
        end = [0.02, 0.02, 0.98, 0.98 - number / 1e6]
        _drop(house, f"k{number:04d}", image, end_frame=end)

    log = house.home.mac.logs / "keyframes.log"
    until(lambda: log.read_text().count(" drop.settled ") == 1000, "all are examined", 90)
    until(lambda: not [*house.home.mac.building.iterdir()], "nothing is being packaged", 30)
    daemon.send_signal(signal.SIGTERM)
    assert daemon.wait(10) == 0
    assert house.command("run", "keyframes", "--once")[0] == 0  # what was examined but not yet packaged
    manifests = [json.loads(path.read_bytes()) for path in house.home.mac.outbox.glob("2*/manifest.json")]
    taken = [entry["image_path"] for manifest in manifests for entry in manifest["keyframes"]]
    assert sorted(taken) == [f"__video_keyframes/k{number:04d}.png" for number in range(1000)]
