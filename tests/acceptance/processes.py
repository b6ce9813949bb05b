"""Real daemons as real processes, on a home of their own."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from core import fsops
from core.settings import load_settings
from tests.house import TINY, House

SMALL = TINY.replace(
    "settle_seconds = 2.0", "settle_seconds = 0.1\nsidecar_grace_seconds = 0.1\nincomplete_seconds = 0.5"
).replace("batch_seconds = 3.0", "batch_seconds = 0.1")
"""The same small clips as in ``tests.house``, for people who do not like to wait."""


class Household:
    """A home, and the processes that were started on it; all of them die with the test."""

    def __init__(self, root: Path, settings: str = SMALL, inside: Sequence[str] = ()) -> None:
        """``inside`` is put before every command: ``("ip", "netns", "exec", NAME)``."""
        if not (root / "dropreel.toml").exists():
            root.mkdir(parents=True)
            (root / "dropreel.toml").write_text(settings)
        read, self.home = load_settings(root)
        fsops.confine()
        self.home.prepare(*([self.home.mac] if read.mac else []), *([self.home.gpu] if read.gpu else []))
        self._inside = inside
        self.processes: list[subprocess.Popen[str]] = []

    def dropreel(self, *words: str) -> subprocess.Popen[str]:
        """Start ``dropreel`` with these words on this home."""
        return self._start(words, subprocess.DEVNULL)

    def command(self, *words: str) -> tuple[int, str, str]:
        """Run a command to its end: exit status, stdout, stderr."""
        process = self._start(words, subprocess.PIPE)
        out, err = process.communicate(timeout=60)
        return process.returncode, out, err

    def bring(self, *daemons: str) -> None:
        """Let these daemons do what there is to do here and now: what comes before a test needs no processes."""
        house = House(self.home.root)
        house.start(*daemons)
        house.rest()
        house.stop()
        fsops.confine()

    def _start(self, words: tuple[str, ...], output: int) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [*self._inside, sys.executable, "-m", "daemons.cli", *words, "--home", str(self.home.root)],
            stdout=output,
            stderr=output,
            text=True,
            env={key: value for key, value in os.environ.items() if key != "NOTIFY_SOCKET"},
            start_new_session=True,
        )
        self.processes.append(process)
        return process

    def close(self) -> None:
        """Kill what still runs."""
        for process in self.processes:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
            process.communicate()

    @property
    def gpu(self) -> Path:
        """The server's half."""
        return self.home.gpu.root
