"""``dropreel pause`` and ``dropreel resume``: a room claims nothing, and goes on."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from core import fsops
from core.errors import DropreelError
from core.home import STAGES
from core.rooms import PAUSED_FILE
from daemons.cli.app import HERE, HomeOption, app, console, open_home

RoomArgument = Annotated[str, typer.Argument(help=f"intake, {', '.join(STAGES)}, or all.")]


@app.command()
def pause(room: RoomArgument, home: HomeOption = HERE) -> None:
    """Let a room's daemons claim nothing more; what they have in hand they finish."""
    for name in _names(room):
        fsops.write(_marker(home, name), b"")
        console.print(f"{name} is paused.")


@app.command()
def resume(room: RoomArgument, home: HomeOption = HERE) -> None:
    """Let a paused room go on."""
    for name in _names(room):
        fsops.remove(_marker(home, name))
        console.print(f"{name} goes on.")


def _names(room: str) -> tuple[str, ...]:
    names = ("intake", *STAGES)
    if room != "all" and room not in names:
        raise DropreelError(f"There is no room '{room}'. There are: {', '.join(names)}.")
    return names if room == "all" else (room,)


def _marker(home: Path, name: str) -> Path:
    _, folders = open_home(home)
    return folders.gpu.rooms / name / PAUSED_FILE
