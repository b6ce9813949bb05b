"""A disk that is really full, for the daemons and for their ffmpeg: work waits, and nothing is lost."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from core import process
from core.errors import DropreelError, ProcessFailed
from daemons.runtime import AGAIN, Daemon
from tests.house import House, picture
from tests.invariants import check_always
from tests.small_disk import small_disk

LEFT = [blocks << 12 for blocks in (0, 1, 2, 3, 5, 8, 16, 24)]
"""Bytes: with each more, more of a stage's work is done before the disk is full."""
JOURNEY = ["keyframes", "courier", "intake", "generate", "interpolate", "qa", "encode", "courier"]
FOR = 90.0
"""Seconds of the house for which a daemon meets the full disk, and then has room again."""


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    place = tmp_path / "disk"
    place.mkdir()
    with small_disk(place, 24):
        yield place


def fill(disk: Path, left: int) -> None:
    """Take all room but so many bytes."""
    info = os.statvfs(disk)
    with (disk / "filler").open("wb") as file:
        os.posix_fallocate(file.fileno(), 0, max(1, info.f_bavail * info.f_frsize - left))


def live(house: House, daemon: Daemon) -> bool:
    """Step a daemon for a while, whether or not it comes to rest. Whether the disk kept it from anything."""
    begun, met = house.clock.seconds, len(house.events)
    stopped = False
    while house.clock.seconds - begun < FOR:
        try:
            delay = daemon.step()
        except (DropreelError, OSError):  # as the loop of a daemon does
            stopped, delay = True, 10.0
        if delay != AGAIN:
            house.clock.seconds += min(delay, 10.0)  # it looks so often, whatever it is told
    return stopped or any(event["event"] == "disk.full" for event in house.events[met:])


@pytest.mark.timeout(120)
def test_whatever_a_full_disk_stops_goes_on_when_there_is_room(disk: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    complaints, run = [], process.run

    def listened_to(*given: Any, **options: Any) -> process.Output:
        try:
            return run(*given, **options)
        except ProcessFailed as error:
            complaints.append(error.stderr)
            raise

    monkeypatch.setattr(process, "run", listened_to)
    house = House(disk / "home")
    house.start()
    sources, stopped = {}, set()
    by_name = {daemon.runtime.name: daemon for daemon in house.daemons}
    for number, left in enumerate(LEFT):
        sources[f"clip{number}.png"] = image = picture(number)
        house.drop(f"clip{number}", image)
        for name in JOURNEY:
            fill(disk, left)
            if live(house, by_name[name]):
                stopped.add(name)
            (disk / "filler").unlink()
            check_always(house.home, sources)
            live(house, by_name[name])
        meta = house.metas()[f"clip{number}"]
        assert meta.outcome == "pass", f"{left} bytes were left: {meta.failure}"
        assert {stage.attempts for stage in meta.stages.values()} == {1}, f"{left} bytes were left"
    house.stop()
    assert stopped == set(JOURNEY)
    assert complaints
    assert all(os.strerror(errno.ENOSPC) in complaint for complaint in complaints)
    assert not list(house.home.gpu.failed.iterdir())
    assert not [path for path in disk.rglob("*.part*") if path.is_file()]
