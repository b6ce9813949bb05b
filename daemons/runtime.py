"""The loop that all daemons share: wake, look, work, report, stop."""

from __future__ import annotations

import errno
import json
import math
import os
import random
import signal
import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

from core import fsops
from core.contract import now
from core.errors import Cancelled, DropreelError, MustRestart, Stopped
from core.logs import Logger
from core.metrics import Metrics
from core.network import NetworkChanges
from core.rooms import ClipFolder
from core.settings import DaemonSettings
from core.watch import Hint, Wake, Watcher
from core.work import Report
from daemons.sd_notify import Notifier

AGAIN = 0.0
"""``step`` did something; there may be more."""
IDLE = math.inf
"""``step`` found nothing to do and waits for nothing but a change in its folders."""

ONCE_TRIES = 3
"""With ``--once`` a daemon that is in trouble so often gives up; else it never does."""
STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT)
PROGRESS_SECONDS = 0.5
CANCEL_SECONDS = 0.25
METRICS_SECONDS = 15.0


@dataclass
class Chore:
    """Something small that is done every so often, beside the work."""

    name: str
    seconds: float
    do: Callable[[], None]
    due: float
    trouble: str = ""
    """Why it failed the last time."""


class Runtime:
    """What a daemon lives with: its log, its wake, whether it must stop, and whom it tells how far it is."""

    def __init__(
        self,
        name: str,
        state: Path,
        settings: DaemonSettings,
        log: Logger,
        clock: Callable[[], float] = time.monotonic,
        *,
        metrics: Metrics | None = None,
        once: bool = False,
    ) -> None:
        """Without ``metrics`` of its own the process counts under ``state``."""
        self.name = name
        self.settings = settings
        self.watchdog_seconds = min(settings.watchdog_seconds, float(os.environ.get("WATCHDOG_USEC", "inf")) / 1e6)
        """After so long a silence whoever started this process kills it."""
        self.log = log
        self.clock = clock
        self.wake = Wake()
        self.stopping = False
        self.once = once
        """Whether to leave when nothing is left to do, and to give up when the world is against it."""
        self.metrics = metrics or Metrics(name, state / "metrics")
        self._chores: list[Chore] = []
        self._counting = self.every(METRICS_SECONDS, "metrics", self.metrics.write)
        self._notifier = Notifier()
        self._progress = state / "workers" / f"{name}.json"
        for part in self._progress.parent.glob(f".{self._progress.name}.*{fsops.PART}"):  # of a life that was killed
            fsops.remove(part)

    def stop(self, signum: int = 0, _frame: FrameType | None = None) -> None:
        """A signal handler: sets a flag. A second signal, of either kind, ends the process at once."""
        self.stopping = True
        self.wake.set()
        if signum:
            for each in STOP_SIGNALS:
                signal.signal(each, signal.SIG_DFL)

    def every(self, seconds: float, name: str, do: Callable[[], None]) -> Chore:
        """Have the loop, and the work between its steps, do something small every so often; for the first time then."""
        chore = Chore(name, seconds, do, self.clock() + seconds)
        self._chores.append(chore)
        return chore

    @property
    def next_chore_in(self) -> float:
        """Seconds until the next chore is due."""
        return max(0.0, min(chore.due for chore in self._chores) - self.clock())

    def _do(self, chore: Chore) -> None:
        """Do a chore; if it fails that is said, once for each reason, and is no trouble of the work."""
        chore.due = self.clock() + chore.seconds
        trouble = ""
        try:
            chore.do()
        except Exception as error:  # noqa: BLE001 - a chore is never worth a clip, whatever is wrong with it
            trouble = f"{type(error).__name__}: {error}"
        if trouble and trouble != chore.trouble:
            self.log.warning("chore.failed", chore=chore.name, error=trouble, again_in=chore.seconds)
        chore.trouble = trouble

    def alive(self, status: str | None = None) -> None:
        """Feed the watchdog and do the chores; only the work loop and the work call this, never a thread of its own."""
        for chore in self._chores:
            if self.clock() >= chore.due:
                self._do(chore)
        self._notifier.send(WATCHDOG=1, **({"STATUS": status} if status else {}))

    def breathe(self, _fraction: float = 0.0) -> None:
        """The ``Report`` of work that is not on one clip: feeds the watchdog, raises ``Stopped``."""
        self.alive()
        if self.stopping:
            raise Stopped

    def rest(self, seconds: float, network: NetworkChanges | None = None) -> None:
        """Wait so long, or until the network changes. Raises ``Stopped`` at once when told to stop."""
        deadline = self.clock() + seconds
        while (left := deadline - self.clock()) > 0 and not (network and network.happened()):
            self.breathe()
            self.wake.wait(min(left, self.watchdog_seconds / 3), network.descriptors if network else ())
        self.breathe()

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
                self.alive(self._status(folder.clip.clip_id, fraction, moment - begun))
                if folder.cancelled:
                    raise Cancelled
            if moment - written >= PROGRESS_SECONDS:
                written = moment
                self._write_progress(folder.clip.clip_id, fraction, moment - begun)

        return report

    def _status(self, clip_id: str, fraction: float, seconds: float) -> str:
        """What ``systemctl status`` shows: the stage, the clip, how far it is, how long it will take."""
        left = f", about {seconds * (1 - fraction) / fraction:.0f} s left" if fraction > 0 else ""
        return f"{self.name.partition('@')[0]} {clip_id}: {100 * fraction:.0f} %{left}"

    def _write_progress(self, clip_id: str, fraction: float, seconds: float) -> None:
        fsops.make_folder(self._progress.parent)
        line = {"pid": os.getpid(), "clip_id": clip_id, "fraction": round(fraction, 3), "seconds": round(seconds, 1),
                "updated_at": now().isoformat()}  # fmt: skip
        fsops.write(self._progress, json.dumps(line).encode(), durable=False)

    def close(self) -> None:
        """Say goodbye."""
        self._do(self._counting)
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


def run(daemon: Daemon) -> int:
    """Run a daemon until it is told to stop, or ``once`` until nothing is left to do; the exit status."""
    runtime, once, log = daemon.runtime, daemon.runtime.once, daemon.runtime.log
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
            except MustRestart as error:
                log.error("daemon.restarts", reason=str(error))
                raise
            except (DropreelError, OSError) as error:
                # The world's fault: a disk, a mount, a permission. Say so, wait, look again.
                trouble += 1
                if once and trouble >= ONCE_TRIES:
                    raise
                delay = min(30.0, 0.5 * 2 ** min(trouble, 6))
                log.error("daemon.trouble", error=str(error), code=_code(error), again_in=delay)
            if delay == AGAIN:
                continue
            if once and delay == IDLE:
                break
            # The jitter keeps many daemons from looking at the same moment; the watchdog wants to hear of us.
            limit = min(interval, runtime.watchdog_seconds / 3) * random.uniform(0.75, 1.0)  # noqa: S311 - no secret
            runtime.alive("in trouble, see the log" if trouble else "waiting")
            runtime.wake.wait(min(delay, limit, runtime.next_chore_in))
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
