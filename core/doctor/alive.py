"""The daemons: which of them live, when they last said something, and whether it was a complaint."""

from __future__ import annotations

import datetime as dt
import os
import re
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from core import fsops
from core.contract import now
from core.doctor.result import Check, Patient, Result, ago, fail, ok, skipped, warn
from core.home import STAGES, GpuHalf, MacHalf
from core.metrics import file_in, folder_of
from core.rooms import Room

_TAIL_BYTES = 64 << 10
_RECENT = dt.timedelta(minutes=2)  # a daemon in trouble looks again, and complains again, within half a minute
_QUIET_SECONDS = 120.0
_START = "Start them: `dropreel up`, or their services."


class Post(NamedTuple):
    """A place that one daemon holds while it lives."""

    name: str
    lock: Path
    half: MacHalf | GpuHalf
    figures: Path
    """Its metrics, which it writes several times a minute."""

    @property
    def log(self) -> Path:
        """Where it says what it does."""
        return self.half.logs / f"{self.name}.log"

    @property
    def held(self) -> bool:
        """Whether it lives: the kernel lets go of the locks of the dead."""
        if not self.lock.is_dir():
            return False
        lock = fsops.lock(self.lock)
        if lock is not None:
            os.close(lock)
        return lock is None

    @property
    def silence(self) -> float | None:
        """Seconds since it last wrote anything: to its log, of its progress, or its figures."""
        progress = self.half.state / "workers" / f"{self.name}.json"
        signs = [path.stat().st_mtime for path in (self.log, progress, self.figures) if path.exists()]
        return max(0.0, time.time() - max(signs)) if signs else None

    def __str__(self) -> str:
        silence = self.silence
        return f"{self.name} ({'never heard' if silence is None else f'heard {ago(silence)} ago'})"


def posts(patient: Patient) -> list[Post]:
    """The daemons that a home of this role should run."""
    settings, home = patient

    def post(name: str, lock: Path, half: MacHalf | GpuHalf) -> Post:
        return Post(name, lock, half, file_in(folder_of(settings.metrics, home, half.state), name))

    found = []
    if settings.mac:
        found += [post(name, home.mac.state / "locks" / name, home.mac) for name in ("keyframes", "courier")]
    if settings.gpu:
        found.append(post("intake", home.gpu.rooms / "intake" / "active" / "cpu0", home.gpu))
        found += [post(f"{stage}@{worker}", home.gpu.rooms / stage / "active" / worker, home.gpu)
                  for stage in STAGES for worker in settings.rooms.workers.of(stage)]  # fmt: skip
    return found


def running(patient: Patient) -> Iterator[Result]:
    """Each daemon's lock, and the age of its last sign of life."""
    expected = posts(patient)
    dead = [post for post in expected if not post.held]
    patience = max(_QUIET_SECONDS, 2 * patient.settings.daemons.watchdog_seconds)
    stuck = [post for post in expected if post not in dead and (post.silence or 0.0) > patience]
    if len(dead) == len(expected):
        yield warn("running", f"none of the {len(expected)} daemons of this home runs", _START)
    elif dead:
        yield warn("running", f"{len(dead)} of {len(expected)} do not run: {', '.join(map(str, dead))}",
                   f"{_START} What ended them stands at the end of {dead[0].log}.")  # fmt: skip
    if stuck:
        yield warn("running", f"alive, but silent: {', '.join(map(str, stuck))}",
                   "They hang; or they are still loading their models. `dropreel up` and the services kill one that "
                   "hangs; if nobody does, kill it.")  # fmt: skip
    if not dead and not stuck:
        yield ok("running", ", ".join(map(str, expected)))


def complaints(patient: Patient) -> Iterator[Result]:
    """What a living daemon complains of, seen from where it runs: a shell's own rights say nothing about that."""
    living = [post for post in posts(patient) if post.held]
    troubles = {post: said for post in living if (said := _trouble(post.log)) is not None}
    for post, said in troubles.items():
        yield fail(post.name, f"it cannot work: {said}", _remedy(said, post))
    if not living:
        yield skipped("complaints", "no daemon runs that could say what it sees")
    elif not troubles:
        yield ok("complaints", f"none in the last {ago(_RECENT.total_seconds())}")


def paused(patient: Patient) -> Iterator[Result]:
    """Rooms that were told to claim nothing, and may have been forgotten."""
    if not patient.settings.gpu:
        return
    rooms = [name for name in ("intake", *STAGES) if Room(patient.home.gpu.rooms / name).paused]
    if rooms:
        resume = [f"`dropreel resume {name}`" for name in rooms]
        yield warn("paused", f"told to begin nothing: {', '.join(rooms)}", f"When they may go on: {', '.join(resume)}.")
    else:
        yield ok("paused", "no room is")


CHECKS = (
    Check("daemons", "running", running),
    Check("daemons", "complaints", complaints),
    Check("daemons", "paused", paused),
)


def _trouble(log: Path) -> str | None:
    """The complaint that a daemon's log ends in, where it is fresh."""
    if not log.is_file():
        return None
    with log.open("rb") as file:
        file.seek(-min(_TAIL_BYTES, log.stat().st_size), os.SEEK_END)
        lines = file.read().decode(errors="replace").splitlines()
    words = next((line.split(maxsplit=3) for line in reversed(lines) if not line.startswith("    |")), [])
    if len(words) < 4 or words[2] != "daemon.trouble":
        return None
    try:
        moment = dt.datetime.fromisoformat(words[0])
    except ValueError:  # the first line of the tail is half a line
        return None
    return words[3] if moment.tzinfo and now() - moment < _RECENT else None


def _remedy(said: str, post: Post) -> str:
    code = re.search(r"\bcode=(\w+)", said)
    if code and code[1] == "EPERM" and sys.platform == "darwin":
        return f"macOS keeps the agent out: {full_disk_access()}"
    return f"It tries again by itself. What it says is explained in docs/reference/events.md; more in {post.log}."


def full_disk_access() -> str:
    """How to let an agent into a folder that macOS guards."""
    return (f"give Full Disk Access to {os.path.realpath(sys.executable)} (System Settings, Privacy & Security), "
            "then start the agent anew.")  # fmt: skip
