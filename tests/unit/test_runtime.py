"""The loop that all daemons share: what it waits out, what ends it, and how soon."""

from __future__ import annotations

import errno
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import structlog

from core.errors import DiskFull, Finding, OutsideZone, Refused, Stopped
from core.settings import DaemonSettings
from core.watch import Hint
from daemons.runtime import AGAIN, IDLE, Daemon, Runtime, run
from tests.waiting import until

Step = Callable[[], float]


class Scripted(Daemon):
    """Does one thing after another, then is told to stop."""

    def __init__(self, state: Path, *steps: Step, once: bool = False) -> None:
        self.said: list[dict[str, Any]] = []

        def note(_logger: object, _method: str, event: Any) -> Any:
            self.said.append(dict(event))
            raise structlog.DropEvent

        log = structlog.wrap_logger(structlog.PrintLogger(), processors=[note], wrapper_class=structlog.BoundLogger)
        self.runtime = Runtime("scripted", state, DaemonSettings(poll=True, poll_seconds=0.01), log, once=once)
        self.steps = list(steps)
        self.closed = False

    @property
    def hints(self) -> tuple[Hint, ...]:
        return ()

    def step(self) -> float:
        if not self.steps:
            self.runtime.stop()
            return IDLE
        return self.steps.pop(0)()

    def close(self) -> None:
        self.closed = True


def _raise(error: Exception) -> Step:
    def step() -> float:
        raise error

    return step


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.EIO, "Input/output error"),
        PermissionError(errno.EACCES, "Permission denied"),
        DiskFull(),
        OutsideZone(Path("/elsewhere")),
        Refused(Finding(code="json_invalid", message="This is not JSON.")),
    ],
    ids=lambda error: type(error).__name__,
)
def test_trouble_is_said_and_waited_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    daemon = Scripted(tmp_path, _raise(error), _raise(error), lambda: AGAIN)
    waited: list[float] = []
    monkeypatch.setattr(daemon.runtime.wake, "wait", waited.append)
    assert run(daemon) == 0
    troubles = [said for said in daemon.said if said["event"] == "daemon.trouble"]
    assert [said["again_in"] for said in troubles] == [1.0, 2.0]  # the second time it waits for longer
    assert not daemon.steps
    assert daemon.closed


def test_a_fault_of_ours_ends_the_process_and_closes_the_daemon(tmp_path: Path) -> None:
    daemon = Scripted(tmp_path, _raise(ZeroDivisionError()))
    with pytest.raises(ZeroDivisionError):
        run(daemon)
    assert daemon.closed


def test_stopped_work_ends_the_loop_at_once(tmp_path: Path) -> None:
    daemon = Scripted(tmp_path, _raise(Stopped()), lambda: AGAIN)
    assert run(daemon) == 0
    assert len(daemon.steps) == 1


def test_once_goes_on_while_something_comes_due_and_then_ends(tmp_path: Path) -> None:
    daemon = Scripted(tmp_path, lambda: AGAIN, lambda: 0.001, lambda: IDLE, lambda: AGAIN, once=True)
    assert run(daemon) == 0
    assert len(daemon.steps) == 1


SIGNALLED = """
import signal, sys, time
from pathlib import Path
from core.settings import DaemonSettings
from daemons.runtime import Runtime, catch_signals
life = Runtime("signalled", Path(sys.argv[1]), DaemonSettings(), None)
catch_signals(life)
print("ready", flush=True)
while True:
    life.wake.wait(10)
    print("told" if life.stopping else "woken", flush=True)
"""


@pytest.mark.parametrize("second", [signal.SIGTERM, signal.SIGINT])
def test_a_second_signal_of_either_kind_leaves_at_once(tmp_path: Path, second: signal.Signals) -> None:
    process = subprocess.Popen([sys.executable, "-c", SIGNALLED, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    process.send_signal(signal.SIGTERM)
    assert process.stdout.readline() == "told\n"
    process.send_signal(second)
    assert until(lambda: process.poll() is not None, "it has left")
    assert process.returncode in {-second, 1}  # SIGINT's default is an exception in Python
    process.communicate()


def test_what_a_killed_life_left_half_written_is_cleared_away_by_the_next(tmp_path: Path) -> None:
    workers = tmp_path / "workers"
    workers.mkdir()
    for name in (".scripted.json.123-4.part", ".other.json.123-4.part", "scripted.json"):
        (workers / name).touch()
    Scripted(tmp_path)
    assert sorted(path.name for path in workers.iterdir()) == [".other.json.123-4.part", "scripted.json"]
