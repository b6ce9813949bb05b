"""``dropreel prune``: what is old enough, and needed no more, goes."""

from __future__ import annotations

import time
from collections.abc import Iterable
from itertools import groupby
from typing import Annotated

import typer
from rich.table import Table

from core.errors import DropreelError
from core.home import MacHalf
from core.logs import Logger, open_log
from core.prune import Leaving, finish, leaving, remove
from core.tracker import FileTracker
from daemons.cli.app import HERE, HomeOption, app, console, open_home


@app.command()
def prune(
    home: HomeOption = HERE,
    dry_run: Annotated[bool, typer.Option("--dry-run", metavar="", help="Only show what would go.")] = False,
) -> None:
    """Delete what the settings' `[prune]` calls old: what was given up, memory, logs; originals only if it says so.

    It may run beside the daemons. **Exit status:** 0, or 1 where something could not be deleted.
    """
    settings, folders = open_home(home)
    items = leaving(folders, settings, time.time())
    if dry_run:
        _print(items, "would go")
        return
    log = open_log("prune", (folders.mac if settings.mac else folders.gpu).logs, screen=False)
    finish(folders, settings)
    gone = {item: _goes(item, log) for item in items}
    _print([item for item, went in gone.items() if went], "gone")
    if not all(gone.values()):
        console.print(f"{list(gone.values()).count(False)} could not be deleted; prune.log says why.")
        raise typer.Exit(1)


def _goes(item: Leaving, log: Logger) -> bool:
    log = log.bind(kind=item.kind, path=str(item.path))
    try:
        remove(item, FileTracker(item.half.logs, "prune"))
    except (OSError, DropreelError) as error:  # the others go all the same
        log.error("prune.trouble", error=str(error))
        return False
    log.info("prune.removed", bytes=item.bytes, days=round(item.days))
    return True


def _print(items: Iterable[Leaving], what: str) -> None:
    def place(item: Leaving) -> tuple[str, str]:
        return "mac" if isinstance(item.half, MacHalf) else "gpu", item.kind

    table = Table(title=what, title_justify="left")
    for column in ("half", "kind", "count", "size", "oldest"):
        table.add_column(column, justify="left" if column in {"half", "kind"} else "right")
    for (half, kind), group in groupby(sorted(items, key=place), key=place):
        these = list(group)
        size = f"{sum(item.bytes for item in these) / 1e6:.1f} MB"
        table.add_row(half, kind, str(len(these)), size, f"{max(item.days for item in these):.0f} days")
    console.print(table if table.row_count else "Nothing is old enough to go.")
