"""A disk that is really full, for the daemons, ffmpeg and rsync alike: work waits, and nothing is lost."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from core.errors import DropreelError
from daemons.runtime import AGAIN, Daemon
from tests.house import House, picture
from tests.invariants import check_always

LEFT = [blocks << 12 for blocks in (0, 1, 2, 3, 5, 8, 16, 24)]
"""Bytes: with each more, more of a stage's work is done before the disk is full."""
JOURNEY = ["keyframes", "courier", "intake", "generate", "interpolate", "qa", "encode", "courier"]
FOR = 90.0
"""Seconds of the house for which a daemon meets the full disk, and then has room again."""


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 24 MiB."""
    if sys.platform != "linux" or os.geteuid() != 0:
        pytest.skip("a disk of its own needs root, on Linux")
    place = tmp_path / "disk"
    place.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=24m,mode=700", "none", str(place)]
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("nothing may be mounted here")
    yield place
    subprocess.run(["umount", "--lazy", str(place)], check=True)


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
def test_whatever_a_full_disk_stops_goes_on_when_there_is_room(disk: Path) -> None:
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
    assert not list(house.home.gpu.failed.iterdir())
    assert not [path for path in disk.rglob("*.part*") if path.is_file()]
