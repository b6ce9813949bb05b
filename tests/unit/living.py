"""A house at work: time passes over it until nothing more is said, or for so long whatever fails; or it dies."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from core import fsops
from core.errors import DropreelError
from core.rooms import PAUSED_FILE
from daemons.runtime import AGAIN
from tests.house import TINY, House

LOOK_SECONDS = 5.0
"""So often a daemon looks, whatever happens."""


@contextlib.contextmanager
def at_work(root: Path, *, gpu: bool = True, more: str = "") -> Iterator[House]:
    """A house whose daemons have started, with ``more`` settings for its rooms.

    Without its ``gpu`` a clip's way ends in ``rooms/generate/ready``, which is all that many tests want to see.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fsops, "_flush", lambda fd: None)  # nobody pulls the plug here, and disks are slow
        house = House(root, TINY + more)
        if not gpu:
            (house.home.gpu.rooms / "generate" / PAUSED_FILE).touch()
        house.start()
        yield house
        fsops.seam = None
        house.stop()
    fsops.confine()


def live(house: House, seconds: float) -> int:
    """Step all daemons for so long, as ``runtime.run`` does; how often they raised trouble, or told of it."""
    raised = 0
    told = _troubles(house)
    end = house.clock.seconds + seconds
    while True:
        delays = [LOOK_SECONDS]
        for daemon in house.daemons:
            try:
                delays.append(daemon.step())
            except (DropreelError, OSError):
                raised += 1
        if AGAIN not in delays:
            if house.clock.seconds >= end:
                return raised + _troubles(house) - told
            house.clock.seconds = min(end, house.clock.seconds + max(0.05, min(delays)))


def _troubles(house: House) -> int:
    return sum(said["event"].endswith(".trouble") for said in house.events)


def settle(house: House) -> None:
    """Let all daemons come to rest, and look again as long as that changed anything for one that had looked before."""
    said = -1
    while said != len(house.events):
        said = len(house.events)
        house.rest()


class Killed(BaseException):
    """The end of the process, wherever it is."""


def die_at(number: int) -> Callable[[str, tuple[Path, ...]], None]:
    """Have the n-th step from now be the last."""
    left = iter(range(number, -1, -1))

    def seam(name: str, paths: tuple[Path, ...]) -> None:
        if next(left, None) == 0:
            raise Killed

    return seam
