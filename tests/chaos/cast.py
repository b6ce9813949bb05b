"""The processes of one machine: its ``dropreel up``, its daemons, what they have started, and who holds a clip."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

import psutil

from core import fsops
from core.contract import CLIP_ID
from core.home import STAGES
from tests.acceptance.processes import Household
from tests.chaos.faults import REPOSITORY, Faults

SEEN_SECONDS = 0.3


class Player(NamedTuple):
    """One daemon that lives."""

    pid: int
    name: str
    """``encode``; its worker's name left off."""
    worker: str


class Cast:
    """One machine: its home, its faults, its processes."""

    def __init__(self, root: Path) -> None:
        self.house = Household(root)
        self.faults = Faults(self.house.home.root)
        self.up: subprocess.Popen[bytes] | None = None
        self._known: dict[int, Player] = {}
        self._seen = 0.0

    def start(self) -> None:
        """``dropreel up``, with all that may befall it; what its daemons say at their end is kept in ``said``."""
        command = [sys.executable, "-m", "daemons.cli", "up", "--home", str(self.house.home.root)]
        with self.said.open("ab") as said:
            self.up = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=said,
                cwd=REPOSITORY,
                env={key: value for key, value in os.environ.items() if key != "NOTIFY_SOCKET"}
                | self.faults.environment,
                start_new_session=True,
            )

    def tend(self) -> bool:
        """Start the supervisor again where it has ended by itself, as a service manager does; whether it had."""
        ended = self.up is not None and self.up.poll() is not None
        if ended:
            self.start()
        return ended

    @property
    def said(self) -> Path:
        """The standard error of all of them."""
        return self.house.home.root / "said.txt"

    def players(self) -> list[Player]:
        """The daemons that live, or did ``SEEN_SECONDS`` ago: to look at all processes takes its time."""
        if self.up is None:
            return []
        if time.monotonic() - self._seen < SEEN_SECONDS:
            return list(self._known.values())
        found = {}
        for process in _children(self.up.pid):
            player = self._known.get(process.pid) or _player(process)
            if player is not None and _lives(process):
                found[process.pid] = player
        self._known, self._seen = found, time.monotonic()
        return list(found.values())

    def offspring(self) -> Iterator[tuple[Player, psutil.Process]]:
        """What the daemons have started."""
        if self.up is None:
            return
        below = {process.pid: process for process in _children(self.up.pid, deep=True)}
        players = {player.pid: player for player in self.players()}
        for process in below.values():
            with contextlib.suppress(psutil.NoSuchProcess):
                above = process.ppid()
                while above in below and above not in players:
                    above = below[above].ppid()
                if process.pid not in players and above in players:
                    yield players[above], process

    def clips_of(self, player: Player) -> list[str]:
        """The clips in the hands of a worker; none where the daemon is no worker, or does not hold its name yet."""
        if player.name not in STAGES:
            return []
        hands = self.house.home.gpu.rooms / player.name / "active" / player.worker
        try:
            clips = [path.name for path in hands.iterdir() if re.fullmatch(CLIP_ID, path.name)]
            if clips and (lock := fsops.lock(hands)) is not None:  # they are a dead worker's: it is not yet at work
                os.close(lock)
                return []
        except OSError:
            return []
        return clips

    def holders(self) -> list[Player]:
        """The workers that hold a clip as it seems; only one that is stopped can be told for sure."""
        if not any(self.house.home.gpu.rooms.glob("*/active/*/2*")):  # which is quicker than to ask for processes
            return []
        return [player for player in self.players() if self.clips_of(player)]

    def everyone(self) -> list[int]:
        """The supervisor, its daemons, and what they have started."""
        if self.up is None or self.up.poll() is not None:
            return []
        return [self.up.pid, *(child.pid for child in _children(self.up.pid, deep=True))]

    def end(self, signum: signal.Signals, seconds: float = 30.0) -> int | None:
        """Signal the supervisor, and wait until it has ended; its exit status."""
        if self.up is None:
            return None
        self.up.send_signal(signum)
        try:
            return self.up.wait(seconds)
        except subprocess.TimeoutExpired:
            return None

    def close(self) -> None:
        """Leave nothing alive."""
        for pid in self.everyone():
            send(pid, signal.SIGKILL)
        if self.up is not None:
            self.up.wait()


def send(pid: int, signum: signal.Signals) -> bool:
    """Signal a process; whether it was there."""
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signum)
        return True
    return False


def go_on(pids: Iterable[int]) -> None:
    """Let processes that were stopped go on."""
    for pid in pids:
        send(pid, signal.SIGCONT)


def halt(pid: int, seconds: float = 1.0) -> bool:
    """Stop a process; whether it stands still now."""
    if not send(pid, signal.SIGSTOP):
        return False
    deadline = time.monotonic() + seconds
    with contextlib.suppress(psutil.NoSuchProcess):
        while time.monotonic() < deadline:
            if psutil.Process(pid).status() == psutil.STATUS_STOPPED:
                return True
    return False


def _children(pid: int, *, deep: bool = False) -> list[psutil.Process]:
    try:
        found: list[psutil.Process] = psutil.Process(pid).children(recursive=deep)
    except psutil.NoSuchProcess:
        return []
    return found


def _lives(process: psutil.Process) -> bool:
    """Not where it is dead, and its supervisor has yet to notice."""
    try:
        return bool(process.status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


def _player(process: psutil.Process) -> Player | None:
    """Which daemon a process is; None for one that is not yet or no more one."""
    try:
        words = process.cmdline()
    except psutil.Error:
        return None
    if "run" not in words:
        return None
    name = words[words.index("run") + 1]
    worker = words[words.index("--worker") + 1] if "--worker" in words else ""
    return Player(process.pid, name, worker)
