"""What the commands share that run the rooms on this machine: their options, the screen, and how they are stopped."""

from __future__ import annotations

import contextlib
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from core.home import SETTINGS_FILE
from core.overview import ServerStatus
from core.settings import Settings, load_settings
from daemons.cli.app import HERE, console
from daemons.oneshot import Device, Outcome

STOPPED = 130
"""The exit status of what Ctrl-C ended, as shells have it."""
_COLOURS = {"pass": "green", "flag": "yellow", "fail": "red", "refused": "red"}

OutOption = Annotated[Path, typer.Option("--out", help="Where the results go; made if it is not there.")]
LenderOption = Annotated[
    Path,
    typer.Option(
        "--home",
        envvar="DROPREEL_HOME",
        help="A home whose settings and presets to use; nothing in it is touched.",
        show_default="here, else the defaults",
    ),
]
DeviceOption = Annotated[Device, typer.Option(help="What to make clips on; auto takes the best there is.")]


def lend(home: Path) -> tuple[Settings, Path]:
    """The settings of a home, or the defaults where none was named; and what its folders are relative to."""
    if (home / SETTINGS_FILE).is_file() or home != HERE:
        settings, folders = load_settings(home)
        return settings, folders.root
    return Settings(), home.absolute()


@contextlib.contextmanager
def stopping() -> Iterator[None]:
    """Let Ctrl-C and SIGTERM end the batch as any error does: no process and no home is left, what came out stays."""
    before = {number: signal.signal(number, signal.default_int_handler) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    except KeyboardInterrupt:
        console.print("Stopped. What had come out is kept; all else is cleared away.")
        raise typer.Exit(STOPPED) from None
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


class Screen:
    """The rooms, as they stand."""

    def __init__(self, live: Live) -> None:
        self.title = ""
        self._live = live
        self._begun = time.monotonic()

    def show(self, status: ServerStatus) -> None:
        """Draw the rooms: a number for what waits, a bar for what is worked on."""
        grid = Table.grid(padding=(0, 2))
        for room in status.rooms:
            worker = next((worker for worker in room.workers if worker.clip), None)
            bar = ProgressBar(total=1.0, completed=worker.fraction or 0.0, width=32) if worker else ""
            grid.add_row(room.room, "[bold green]●[/]" if worker or room.ready else "[dim]·[/]",
                         str(room.ready) if room.ready else "", bar)  # fmt: skip
        self._draw(grid)

    def measure(self, name: str, fraction: float) -> None:
        """Draw how far a measurement is."""
        grid = Table.grid(padding=(0, 2))
        grid.add_row(f"measuring {name}", ProgressBar(total=1.0, completed=fraction, width=32))
        self._draw(grid)

    def _draw(self, grid: Table) -> None:
        seconds = Text(f"{time.monotonic() - self._begun:.0f} s")
        self._live.update(Group(*([Text(self.title)] if self.title else []), grid, seconds))


@contextlib.contextmanager
def watching() -> Iterator[Screen]:
    """A screen, for as long as the block; where there is no terminal nothing is drawn."""
    with Live(console=console, refresh_per_second=8, transient=True) as live:
        yield Screen(live)


def tell(outcome: Outcome) -> None:
    """One line for an entry, and its reasons below."""
    meta = outcome.meta
    line = Text.assemble((f"{outcome.verdict:<7}", _COLOURS[outcome.verdict]), f" {outcome.entry.stem}")
    if meta is not None and outcome.came_out:
        seconds = sum(record.seconds for record in meta.stages.values())
        line.append(f"  {meta.width}×{meta.height}, {meta.frames} frames at {meta.fps}, made in {seconds:.1f} s")
    console.print(line, soft_wrap=True)
    for reason in outcome.reasons:
        console.print(Text(f"        {reason}"), soft_wrap=True)
