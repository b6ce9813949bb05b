"""``dropreel init``: make a home."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape

from core import fsops
from core.errors import DropreelError, OutsideZone
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
    name = escape(shlex.quote(str(root)))
    console.print(f"A home is in [bold]{escape(str(root))}[/]; its settings in {SETTINGS_FILE} there.", soft_wrap=True)
    if settings.mac:
        console.print(f"Drop images and their .motion.json into [bold]{escape(str(home.mac.hot))}[/].", soft_wrap=True)
    if not settings.gpu:
        console.print("Its server is another machine: first set kind and host in \\[transport], then run "
                      f"[bold]dropreel ssh-setup --home {name}[/].", soft_wrap=True)  # fmt: skip
    console.print(f"Start it with [bold]dropreel up --home {name}[/].", soft_wrap=True)


def make_home(folder: Path, role: Role) -> Path:
    """Write the settings of a new home. Raises ``DropreelError`` where there is one, or must be none."""
    root = folder.expanduser().absolute()
    file = root / SETTINGS_FILE
    if file.exists():
        raise DropreelError(f"There is a home in {root} already. Edit {file}, or choose another folder.")
    try:
        fsops.guard(file)
    except OutsideZone:
        raise DropreelError(f"Folders called mojo…, __crop, __cropped and __selected are the studio's, and protected: "
                            f"no home can be in {root}. Choose another folder.") from None  # fmt: skip
    fsops.make_folder(root)
    fsops.write(file, default_file(SETTINGS_FILE).replace('role = "both"', f'role = "{role}"', 1).encode())
    return root
