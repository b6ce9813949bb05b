"""One run of chaos, from its beginning to the reckoning."""

from __future__ import annotations

import signal
import sys
import time
from pathlib import Path

from tests.chaos.conductor import Conductor
from tests.chaos.reckoning import Reckoning, reckon
from tests.chaos.schedule import Act

PROGRESS_SECONDS = 10.0
"""So often a line is written where there is no terminal to write over the last one."""


class Programme:
    """Writes the schedule to ``chaos.log``, then every act as it happens; and how far it is to stdout."""

    def __init__(self, folder: Path, acts: list[Act], seconds: float, *, show: bool) -> None:
        self._acts, self._seconds, self._show = len(acts), seconds, show
        self._begun = self._shown = time.monotonic()
        self._done = 0
        folder.mkdir(parents=True, exist_ok=True)
        self._file = (folder / "chaos.log").open("w")
        self._file.writelines(f"planned {act.moment:8.2f} s  {act.kind}\n" for act in acts)

    def say(self, told: str) -> None:
        """Note what happens now."""
        now = time.monotonic()
        self._done += 1
        self._file.write(f"{now - self._begun:8.2f} s  {told}\n")
        self._file.flush()
        terminal = sys.stdout.isatty()
        if self._show and (terminal or now - self._shown >= PROGRESS_SECONDS):
            self._shown = now
            line = f"{now - self._begun:5.0f} of {self._seconds:.0f} s, act {self._done} of {self._acts}: {told}"
            sys.stdout.write(f"\r\033[K{line[:110]}" if terminal else f"{line}\n")
            sys.stdout.flush()

    def close(self) -> None:
        """End the line."""
        self._file.close()
        if self._show:
            sys.stdout.write("\n")


def perform(
    root: Path,
    acts: list[Act],
    seconds: float,
    patience: float,
    *,
    workers: int = 1,
    presets: str = "",
    show: bool = False,
) -> Reckoning:
    """Let a schedule happen in ``root``, wait for at most ``patience`` until all is quiet, and account for it.

    ``workers`` are how many each room has; ``presets`` has the table of the tiny model, where there are drops for one.
    """
    programme = Programme(root, acts, seconds, show=show)
    conductor = Conductor(root, workers, programme.say)
    conductor.teach(presets)
    wrong = conductor.tally.wrong
    try:
        conductor.run(acts, seconds)
        programme.say("no more of it; waiting until all is quiet")
        if not conductor.settle(patience):
            wrong.append(f"after {patience:g} s still not quiet; nothing came of {conductor.unanswered()}")
        for cast in conductor.casts:
            if (status := cast.end(signal.SIGTERM)) != 0:
                wrong.append(f"{cast.house.home.root.name}: its supervisor ended with {status}")
        return reckon(conductor)
    finally:
        conductor.close()
        programme.close()
