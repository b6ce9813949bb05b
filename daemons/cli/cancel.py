"""``dropreel cancel``: a clip that is not wanted any more."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from core import fsops
from core.errors import DropreelError
from core.home import STAGES, GpuHalf
from core.rooms import CANCEL_FILE
from daemons.cli.app import HERE, HomeOption, app, console, need_half, open_home


@app.command()
def cancel(
    clip: Annotated[str, typer.Argument(help="The clip's id, as `dropreel status` and the logs show it.")],
    home: HomeOption = HERE,
) -> None:
    """Take a clip out of the rooms; it comes back as failed, with that reason. `retry` makes it all the same."""
    settings, folders = open_home(home)
    need_half("gpu", settings, "cancel")
    while True:
        folder = find_in_rooms(folders.gpu, clip)
        try:
            fsops.write(folder / CANCEL_FILE, b"")
        except FileNotFoundError:  # it moved on this moment
            continue
        console.print(f"{clip} is cancelled; its worker lets go of it between two steps.")
        return


def find_in_rooms(gpu: GpuHalf, clip: str) -> Path:
    """Where a clip waits or is worked on. Raises ``DropreelError``."""
    for _ in range(3):  # it may move from a room not yet looked into to one already seen
        for stage in STAGES:
            for folder in (
                gpu.rooms / stage / "ready" / clip,
                *(gpu.rooms / stage / "active").glob(f"*/{clip}"),
            ):
                if folder.is_dir():
                    return folder
    raise DropreelError(f"{clip} is in no room. `dropreel status` shows what is; it may be finished, or failed.")
