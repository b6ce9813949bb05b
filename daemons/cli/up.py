"""``dropreel up``: all daemons of a home, in the foreground."""

from __future__ import annotations

import typer

from core.logs import open_log
from daemons.cli.app import HERE, HomeOption, app, open_home
from daemons.supervisor import Supervisor


@app.command()
def up(home: HomeOption = HERE) -> None:
    """Run all daemons of this home's role until Ctrl-C: restarts those that die, kills those that are stuck.

    **Exit status:** 0 stopped as asked, 75 this home is up already, 78 the settings cannot be used.
    """
    settings, folders = open_home(home)
    logs = folders.mac.logs if settings.mac else folders.gpu.logs
    raise typer.Exit(Supervisor(folders.root, settings, open_log("up", logs)).run())
