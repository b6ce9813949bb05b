"""``dropreel init``: make a home."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from core import fsops
from core.errors import DropreelError
from core.home import SETTINGS_FILE
from core.settings import Role, default_file
from daemons.cli.app import app, console, open_home


@app.command()
def init(
    folder: Annotated[Path, typer.Argument(help="Where; made if it is not there.")],
    role: Annotated[Role, typer.Option(help="Which half: mac, gpu, or both on one machine.")] = "both",
) -> None:
    """Make a home: a folder with `dropreel.toml`, all defaults commented, and the folders of its role."""
    root = make_home(folder, role)
    settings, home = open_home(root)
    console.print(f"A home is in [bold]{root}[/]; its settings in {root / SETTINGS_FILE}.")
    if settings.mac:
        console.print(f"Drop images and their .motion.json into [bold]{home.mac.hot}[/].")
    console.print(f"Start it with [bold]dropreel up --home {folder}[/].")


def make_home(folder: Path, role: Role) -> Path:
    """Write the settings of a new home. Raises ``DropreelError`` where there is one."""
    root = folder.expanduser().absolute()
    file = root / SETTINGS_FILE
    if file.exists():
        raise DropreelError(f"There is a home in {root} already. Edit {file}, or choose another folder.")
    fsops.make_folder(root)
    fsops.write(file, default_file(SETTINGS_FILE).replace('role = "both"', f'role = "{role}"', 1).encode())
    return root
