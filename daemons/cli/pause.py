"""``dropreel pause`` and ``dropreel resume``: a room claims nothing, and goes on."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from core import fsops
from core.errors import DropreelError
from core.home import STAGES
from core.rooms import PAUSED_FILE
from daemons.cli.app import HERE, HomeOption, app, console, need_half, open_home

RoomArgument = Annotated[str, typer.Argument(help=f"intake, {', '.join(STAGES)}, or all.")]


@app.command()
def pause(room: RoomArgument, home: HomeOption = HERE) -> None:
    """Let a room's daemons claim nothing more; what they have in hand they finish."""
    for marker in _markers(room, home, "pause"):
        fsops.write(marker, b"")
        console.print(f"{marker.parent.name} is paused.")


@app.command()
def resume(room: RoomArgument, home: HomeOption = HERE) -> None:
    """Let a paused room go on."""
    for marker in _markers(room, home, "resume"):
        fsops.remove(marker)
        console.print(f"{marker.parent.name} goes on.")


def _markers(room: str, home: Path, command: str) -> list[Path]:
    settings, folders = open_home(home)
    need_half("gpu", settings, command)
    names = ("intake", *STAGES)
    if room != "all" and room not in names:
        raise DropreelError(f"There is no room '{room}'. There are: {', '.join(names)}.")
    return [folders.gpu.rooms / name / PAUSED_FILE for name in (names if room == "all" else (room,))]
