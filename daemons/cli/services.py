"""``dropreel services``: started at boot, watched and restarted by systemd or launchd."""

from __future__ import annotations

import shlex
import sys
from typing import Annotated, Literal

import typer
from rich.table import Table

from core import fsops
from core.errors import DropreelError
from core.services.launchd import Launchd
from core.services.plan import Command, Installation, Manager, Scope
from core.services.systemd import Systemd
from core.settings import Role, load_settings
from daemons.cli.app import HERE, HomeOption, app, console

MANAGER = "launchd" if sys.platform == "darwin" else "systemd"
DEFAULT_SCOPE: Scope = "user" if sys.platform == "darwin" else "system"


@app.command()
def services(
    action: Annotated[Literal["install", "uninstall", "status"], typer.Argument(help="What to do.", show_choices=True)],
    home: HomeOption = HERE,
    role: Annotated[Role | None, typer.Option(help="Which half's daemons.", show_default="the home's role")] = None,
    scope: Annotated[Scope, typer.Option(help="The machine's services, or your own user's.")] = DEFAULT_SCOPE,
    only_print: Annotated[
        bool,
        typer.Option("--print", metavar="", help="Only show what install or uninstall would do: files and commands."),
    ] = False,
) -> None:
    """Have systemd or launchd run the daemons from boot on.

    **install** writes the service files of this installation and starts the services, now and at every boot. Do it
    again after a change of workers, time limits or folders, and when Dropreel itself has moved. **uninstall** stops
    them and deletes those files; the home stays as it is. **status** shows each service and what it says of itself.
    """
    if only_print and action == "status":
        raise typer.BadParameter("--print shows what install and uninstall would do; status does nothing.")
    settings, folders = load_settings(home)  # not open_home: with sudo it would make folders that are root's
    what = Installation(settings, folders, role or settings.role)
    manager: Manager = (Launchd if MANAGER == "launchd" else Systemd)(what, scope)
    # Where that folder is not there yet, those above it are made too.
    fsops.confine(next(path for path in (manager.folder, *manager.folder.parents) if path.is_dir()))
    match action:
        case "install" if only_print:
            _print(manager)
        case "install":
            _install(manager, what, scope)
        case "uninstall" if only_print:
            _print_uninstall(manager)
        case "uninstall":
            _uninstall(manager)
        case "status":
            _status(manager)


def _print(manager: Manager) -> None:
    for path, data in manager.files().items():
        console.print(f"── [bold]{path}[/]", soft_wrap=True)
        console.print(data.decode(), markup=False, highlight=False, soft_wrap=True)
    _say("Then:", manager.start)


def _print_uninstall(manager: Manager) -> None:
    files = manager.installed()
    console.print(f"{len(files)} files would go from [bold]{manager.folder}[/].")
    for path in files:
        console.print(f"    {path}", markup=False, highlight=False, soft_wrap=True)
    if files:
        _say("With these commands before and after:", [*manager.leave, *manager.forget])


def _install(manager: Manager, what: Installation, scope: Scope) -> None:
    left = manager.install()
    console.print(f"{len(manager.files())} files are in [bold]{manager.folder}[/].")
    if what.workers and not what.cards:
        console.print("This machine has no NVIDIA driver: no worker is given a card.")
    if left:
        _say(f"{MANAGER} does not run here, or not for you. Where it does, run:", left)
    else:
        console.print("The services start. [bold]dropreel services status[/] shows them.")
    if scope == "user" and MANAGER == "systemd":
        console.print("Without [bold]loginctl enable-linger[/] they run only while you are logged in.")


def _uninstall(manager: Manager) -> None:
    count = len(manager.installed())
    left = manager.uninstall()
    console.print(f"{count} files are gone from [bold]{manager.folder}[/].")
    if count and left:
        _say(f"{MANAGER} does not run here, or not for you. Where it does, run:", left)


def _status(manager: Manager) -> None:
    if not manager.installed():
        raise DropreelError(f"Nothing is installed in {manager.folder}. `dropreel services install` does it.")
    if not manager.answers:
        raise DropreelError(f"{MANAGER} does not run here, or not for you; so no service does.")
    table = Table()
    for column in ("service", "state", "says"):
        table.add_column(column, overflow="fold")
    for service in manager.states():
        table.add_row(*service)
    console.print(table)


def _say(first: str, commands: list[Command]) -> None:
    console.print(first)
    for command in commands:
        console.print(f"    {shlex.join(command.argv)}", markup=False, highlight=False, soft_wrap=True)
