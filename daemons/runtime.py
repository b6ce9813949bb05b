"""The loop that all daemons share: wake, look, work, report, stop."""

from __future__ import annotations

import errno
import json
import math
import os
import random
import signal
import sys
import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from pathlib import Path
from types import FrameType

from core import fsops
from core.contract import now
from core.errors import Cancelled, DropreelError, Stopped
from core.logs import Logger
from core.rooms import ClipFolder
from core.settings import DaemonSettings
from core.watch import Hint, Wake, Watcher
from core.work import Report
from daemons.sd_notify import Notifier

AGAIN = 0.0
"""``step`` did something; there may be more."""
IDLE = math.inf
"""``step`` found nothing to do and waits for nothing but a change in its folders."""

STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT)
PROGRESS_SECONDS = 0.5
CANCEL_SECONDS = 0.25


class Runtime:
    """What a daemon lives with: its log, its wake, whether it must stop, and whom it tells how far it is."""

    def __init__(
        self,
        name: str,
        state: Path,
        settings: DaemonSettings,
        log: Logger,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.name = name
        self.settings = settings
        self.log = log
        self.clock = clock
        self.wake = Wake()
        self.stopping = False
        self._notifier = Notifier()
        self._progress = state / "workers" / f"{name}.json"

    def stop(self, signum: int = 0, _frame: FrameType | None = None) -> None:
        """A signal handler: sets a flag. A second signal, of either kind, ends the process at once."""
        self.stopping = True
        self.wake.set()
        if signum:
            for each in STOP_SIGNALS:
                signal.signal(each, signal.SIG_DFL)

    def alive(self, status: str | None = None) -> None:
        """Feed the watchdog; only the work loop and the work itself call this, never a thread of its own."""
        self._notifier.send(WATCHDOG=1, **({"STATUS": status} if status else {}))

    def breathe(self, _fraction: float = 0.0) -> None:
        """The ``Report`` of work that is not on one clip: feeds the watchdog, raises ``Stopped``."""
        self.alive()
        if self.stopping:
            raise Stopped

    def ready(self) -> None:
        """Say that the daemon is at work."""
        self._notifier.send(READY=1, STATUS="waiting")

    def reporter(self, folder: ClipFolder) -> Report:
        """What the work on this clip calls between its steps; see ``core.work``."""
        begun = self.clock()
        written = looked = begun

        def report(fraction: float) -> None:
            nonlocal written, looked
            if self.stopping:
                raise Stopped
            moment = self.clock()
            if moment - looked >= CANCEL_SECONDS:
                looked = moment
                self.alive(f"{folder.clip.clip_id} {fraction:.0%}")
                if folder.cancelled:
                    raise Cancelled
            if moment - written >= PROGRESS_SECONDS:
                written = moment
                self._write_progress(folder.clip.clip_id, fraction, moment - begun)

        return report

    def _write_progress(self, clip_id: str, fraction: float, seconds: float) -> None:
        fsops.make_folder(self._progress.parent)
        line = {"pid": os.getpid(), "clip_id": clip_id, "fraction": round(fraction, 3), "seconds": round(seconds, 1),
                "updated_at": now().isoformat()}  # fmt: skip
        fsops.write(self._progress, json.dumps(line).encode(), durable=False)

    def close(self) -> None:
        """Say goodbye."""
        self._notifier.send(STOPPING=1, WATCHDOG=1)
        self._notifier.close()
        fsops.remove(self._progress)
        self.wake.close()


class Daemon(ABC):
    """One long-running process: what it watches, and what it does when it looks."""

    runtime: Runtime

    @property
    @abstractmethod
    def hints(self) -> tuple[Hint, ...]:
        """The folders whose changes wake it."""

    @abstractmethod
    def step(self) -> float:
        """Look, and do one piece of what there is to do.

        Returns ``AGAIN`` where it did something, else the seconds until it wants to look again by itself, or ``IDLE``.
        """

    def close(self) -> None:  # noqa: B027 - most daemons hold nothing that outlives a step
        """Let go of everything."""


def catch_signals(runtime: Runtime) -> None:
    """SIGTERM and SIGINT set the flag; the loop and the work look at it."""
    for signum in STOP_SIGNALS:
        signal.signal(signum, runtime.stop)


def run(daemon: Daemon, *, once: bool = False) -> int:
    """Run a daemon until it is told to stop, or with ``once`` until nothing is left to do; the exit status."""
    runtime, log = daemon.runtime, daemon.runtime.log
    settings = runtime.settings
    watcher = None if settings.poll or once else Watcher(daemon.hints, runtime.wake)
    interval = settings.poll_seconds if settings.poll else settings.scan_seconds
    trouble = 0
    next_check = -math.inf
    log.info("daemon.started", pid=os.getpid(), events="off" if watcher is None else "on")
    try:
        runtime.ready()
        while not runtime.stopping:
            runtime.alive()
            if watcher is not None and runtime.clock() >= next_check:
                next_check = runtime.clock() + interval
                if watcher.check() and watcher.blind:
                    log.warning("watch.blind", folders=[str(folder) for folder in watcher.blind])
            try:
                delay = daemon.step()
                trouble = 0
            except Stopped:
                break
            except (DropreelError, OSError) as error:
                # The world's fault: a disk, a mount, a permission. Say so, wait, look again.
                trouble += 1
                delay = min(30.0, 0.5 * 2 ** min(trouble, 6))
                log.error("daemon.trouble", error=str(error), code=_code(error), again_in=delay)
            if delay == AGAIN:
                continue
            if once and delay == IDLE:
                break
            # The jitter keeps many daemons from looking at the same moment; the watchdog wants to hear of us.
            limit = min(interval, settings.watchdog_seconds / 3) * random.uniform(0.75, 1.0)  # noqa: S311 - no secret
            runtime.wake.wait(min(delay, limit))
    finally:
        if watcher is not None:
            watcher.close()
        daemon.close()
        log.info("daemon.stopped")
        runtime.close()
    return 0


def _code(error: Exception) -> str:
    number = error.errno if isinstance(error, OSError) else None
    return errno.errorcode.get(number, "?") if number else type(error).__name__


def exit_with(error: DropreelError) -> int:
    """Say on stderr why a command cannot go on; its exit status."""
    sys.stderr.write(f"dropreel: {error}\n")
    return error.exit_code
