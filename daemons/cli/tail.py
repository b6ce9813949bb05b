"""``dropreel tail``: the logs, as they grow."""

from __future__ import annotations

import os
import time
from collections import deque
from pathlib import Path
from typing import Annotated

import typer

from core.errors import DropreelError
from core.settings import load_settings
from daemons.cli.app import HERE, HomeOption, app

LOOK_SECONDS = 0.25


@app.command()
def tail(
    daemon: Annotated[str, typer.Argument(help="Only this one's, such as courier or generate@gpu0.")] = "",
    home: HomeOption = HERE,
    lines: Annotated[int, typer.Option("-n", "--lines", min=0, help="So many of each log's last lines first.")] = 10,
    follow: Annotated[
        bool, typer.Option(metavar="", help="Go on with what is written from now on, until Ctrl-C.")
    ] = True,
) -> None:
    """Show the daemons' logs, and follow them across rotation and restart."""
    settings, folders = load_settings(home)
    halves = ([folders.mac.logs] if settings.mac else []) + ([folders.gpu.logs] if settings.gpu else [])
    pattern = f"{daemon}*.log" if daemon else "*.log"
    seen: dict[Path, _Follower] = {}
    while True:
        for path in sorted(found for folder in halves for found in folder.glob(pattern)):
            if path.stem != "file_operations" or daemon == path.stem:
                for line in seen.setdefault(path, _Follower(path, lines)).read():
                    typer.echo(f"{path.stem:<16} {line}")
        if not seen:
            names = sorted(path.stem for folder in halves for path in folder.glob("*.log"))
            raise DropreelError(f"There is no log of '{daemon}'. There are: {', '.join(names) or 'none yet'}.")
        if not follow:
            return
        time.sleep(LOOK_SECONDS)


class _Follower:
    """Reads what is new in one log; notices that another file has taken its name."""

    def __init__(self, path: Path, lines: int) -> None:
        self._path = path
        self._file = path.open(encoding="utf-8", errors="replace")
        self._first = list(deque(self._file, maxlen=lines)) if lines else [*self._skip()]

    def _skip(self) -> list[str]:
        self._file.seek(0, os.SEEK_END)
        return []

    def read(self) -> list[str]:
        new, self._first = [*self._first, *self._file], []
        try:
            if self._path.stat().st_ino != os.fstat(self._file.fileno()).st_ino:
                self._file.close()
                self._file = self._path.open(encoding="utf-8", errors="replace")
        except FileNotFoundError:  # between two names
            pass
        return [line.rstrip("\n") for line in new]
