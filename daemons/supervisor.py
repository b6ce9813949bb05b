"""All daemons of a home under one foreground process: restarts the dead, kills the stuck, stops them together."""

from __future__ import annotations

import contextlib
import os
import selectors
import signal
import socket
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path

from core import fsops
from core.alerts import gave_up
from core.errors import AlreadyRunning, BadSettings
from core.gpu import card_environment
from core.home import STAGES, Home
from core.logs import Logger
from core.notify import Teller
from core.process import tethered
from core.settings import Settings
from core.watch import Wake

START_SECONDS = 600.0
"""A daemon may take so long to say that it is ready: models load."""
STEADY_SECONDS = 60.0
"""One that has lived so long starts its back-off anew."""
LONGEST_BACKOFF = 30.0


@dataclass
class Child:
    """One daemon: how to start it, and how it is."""

    daemon: str
    worker: str | None
    process: subprocess.Popen[bytes] | None = None
    socket: socket.socket | None = None
    ready: bool = False
    heard_at: float = 0.0
    started_at: float = 0.0
    start_at: float = 0.0
    backoff: float = 0.5
    given_up: bool = False

    @property
    def name(self) -> str:
        """As its log is called."""
        return f"{self.daemon}@{self.worker}" if self.worker else self.daemon


def children_of(settings: Settings) -> list[Child]:
    """The daemons that a home of these roles runs."""
    mac = [Child("keyframes", None), Child("courier", None)] if settings.mac else []
    gpu = [Child("intake", None)] if settings.gpu else []
    if settings.gpu:
        gpu += [Child(stage, worker) for stage in STAGES for worker in settings.rooms.workers.of(stage)]
    return mac + gpu


@dataclass
class Supervisor:
    """Runs the children until told to stop. Raises ``AlreadyRunning`` where another has the home, or a half of it."""

    home: Path
    settings: Settings
    log: Logger
    quiet: bool = False
    """Whether the daemons keep off this process's stdout; their logs say the same."""
    children: list[Child] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.children = self.children or children_of(self.settings)
        self._signals = 0
        self._wake = Wake()
        home = Home(self.home)
        states = [*([home.mac.state] if self.settings.mac else []), *([home.gpu.state] if self.settings.gpu else [])]
        try:
            self._locks = [fsops.hold(state / "locks" / "up") for state in states]
        except AlreadyRunning:
            raise AlreadyRunning("This home is up already: another `dropreel up` runs its daemons. Stop that one "
                                 "first, or leave it.") from None  # fmt: skip
        self._teller = Teller(states[0] / "notify.up.json", self.settings.notify, self.log)
        self._selector = selectors.DefaultSelector()
        self._sockets = tempfile.TemporaryDirectory(prefix="dropreel-")  # socket paths must be short

    def stop(self, *_: object) -> None:
        """A signal handler: once stops the daemons, twice kills them."""
        self._signals += 1
        self._wake.set()

    def run(self) -> int:
        """Supervise until ``stop``; the exit status."""
        for signum in (signal.SIGTERM, signal.SIGINT):
            signal.signal(signum, self.stop)
        try:
            while not self._signals:
                self.tend()
                self.rest(0.2)
            return 0
        finally:
            self.close()

    def tend(self) -> None:
        """Look after every child once."""
        self._listen()
        for child in self.children:
            if child.process is None:
                if not child.given_up and time.monotonic() >= child.start_at:
                    self._try_to_start(child)
            elif (status := child.process.poll()) is not None:
                self._bury(child, status)
            else:
                self._watch(child)
        self._teller.lasting(gave_up(child.name) for child in self.children if child.given_up)

    def rest(self, seconds: float) -> None:
        """Wait so long, or until a signal."""
        self._wake.wait(seconds)

    def close(self) -> None:
        """Stop all children: SIGTERM, and after ``stop_seconds``, or on a second signal, SIGKILL."""
        for child in self.children:
            _signal(child, signal.SIGTERM)
        deadline = time.monotonic() + self.settings.daemons.stop_seconds + 1.0
        alive = [child.process for child in self.children if child.process is not None]
        while alive and time.monotonic() < deadline and self._signals < 2:
            self._wake.wait(0.05)
            alive = [process for process in alive if process.poll() is None]
        for child in self.children:
            _signal(child, signal.SIGKILL)
        for child in self.children:
            if child.process is not None:
                child.process.wait()
            self._forget(child)
        self._teller.close()
        self._selector.close()
        self._sockets.cleanup()
        self._wake.close()
        for lock in self._locks:
            os.close(lock)

    def _try_to_start(self, child: Child) -> None:
        try:
            self._start(child)
        except OSError as error:  # no more processes, or descriptors: the others are still to be looked after
            self._forget(child)
            child.start_at = time.monotonic() + child.backoff
            child.backoff = min(LONGEST_BACKOFF, child.backoff * 2)
            self.log.error("supervisor.cannot_start", daemon=child.name, error=str(error))

    def _start(self, child: Child) -> None:
        Path(self._sockets.name).mkdir(exist_ok=True)  # systems clean up what lies in /tmp for days
        address = str(Path(self._sockets.name) / child.name)
        child.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        child.socket.setblocking(False)
        child.socket.bind(address)
        self._selector.register(child.socket, selectors.EVENT_READ, child)
        command = [sys.executable, "-m", "daemons.cli", "run", child.daemon, "--home", str(self.home)]
        if child.worker:
            command += ["--worker", child.worker]
        environment = os.environ | {
            "NOTIFY_SOCKET": address,
            "WATCHDOG_USEC": str(int(self.settings.daemons.watchdog_seconds * 1e6)),
            **card_environment(child.daemon, child.worker),
        }
        # Its own session: a Ctrl-C in the terminal is ours to pass on, once.
        output = subprocess.DEVNULL if self.quiet else None
        child.process = subprocess.Popen(
            tethered(command),
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=output,
            start_new_session=True,
        )
        child.started_at = child.heard_at = time.monotonic()
        child.ready = False
        self.log.info("supervisor.started", daemon=child.name, pid=child.process.pid)

    def _listen(self) -> None:
        for key, _ in self._selector.select(0):
            child: Child = key.data
            assert child.socket is not None  # noqa: S101 - registered with its socket, unregistered with it
            try:
                while message := child.socket.recv(4096):
                    child.heard_at = time.monotonic()
                    child.ready = child.ready or b"READY=1" in message
            except BlockingIOError:
                continue

    def _watch(self, child: Child) -> None:
        silent = time.monotonic() - child.heard_at
        limit = self.settings.daemons.watchdog_seconds if child.ready else START_SECONDS
        if silent > limit and child.process is not None:
            self.log.error("supervisor.stuck", daemon=child.name, silent_seconds=round(silent, 1))
            _signal(child, signal.SIGKILL)  # buried when it is dead: it may be held up in the kernel
            child.heard_at = time.monotonic()

    def _bury(self, child: Child, status: int) -> None:
        if time.monotonic() - child.started_at > STEADY_SECONDS:
            child.backoff = 0.5
        child.start_at = time.monotonic() + child.backoff
        if status == BadSettings.exit_code:
            child.given_up = True
            self.log.error("supervisor.gave_up", daemon=child.name, reason="its settings cannot be used")
        else:
            reason = "another of its name is running" if status == AlreadyRunning.exit_code else "it ended"
            self.log.warning(
                "supervisor.restarts", daemon=child.name, status=status, reason=reason, after=child.backoff
            )
        child.backoff = min(LONGEST_BACKOFF, child.backoff * 2)
        self._forget(child)

    def _forget(self, child: Child) -> None:
        if child.socket is not None:
            self._selector.unregister(child.socket)
            address = child.socket.getsockname()
            child.socket.close()
            Path(address).unlink(missing_ok=True)
        child.socket = None
        child.process = None
        child.ready = False


def _signal(child: Child, signum: signal.Signals) -> None:
    """Signal a daemon's whole group: where a tether stays beside it (macOS), the tether alone would not do."""
    if child.process is not None and child.process.poll() is None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(child.process.pid, signum)
