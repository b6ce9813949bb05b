"""``dropreel status``: the rooms as a table."""

from __future__ import annotations

import json
from typing import Any

from rich.table import Table

from core.overview import overview
from core.settings import load_settings
from daemons.cli.app import HERE, HomeOption, JsonOption, app, console


@app.command()
def status(home: HomeOption = HERE, as_json: JsonOption = False) -> None:
    """Show what lies where, from the folders alone: it also works when every daemon is dead."""
    settings, folders = load_settings(home)
    found = overview(folders, settings)
    if as_json:
        console.print_json(json.dumps(found))
        return
    if "mac" in found:
        console.print(_mac(found["mac"]))
    if "gpu" in found:
        console.print(_gpu(found["gpu"]))


def _mac(mac: dict[str, Any]) -> Table:
    table = Table(title="mac", title_justify="left")
    for name in mac:
        table.add_column(name.replace("_", " "), justify="right")
    table.add_row(*(str(count) for count in mac.values()))
    return table


def _gpu(gpu: dict[str, Any]) -> Table:
    table = Table(title="gpu", title_justify="left", caption_justify="left",
                  caption=f"inbox {gpu['inbox']} · outbox {gpu['outbox']} · failed {gpu['failed']}")  # fmt: skip
    for column in ("room", "ready", "oldest", "worker", "clip", "done"):
        table.add_column(column, justify="left" if column in {"room", "worker", "clip"} else "right")
    for room in gpu["rooms"]:
        name = room["room"] + (" (paused)" if room["paused"] else "")
        ready = f"{room['ready']}" + (f"/{room['bound']}" if room["bound"] else "")
        oldest = f"{room['oldest_seconds']:.0f} s" if room["oldest_seconds"] is not None else ""
        for worker in room["workers"] or [None]:
            table.add_row(name, ready, oldest, *_worker(worker))
            name = ready = oldest = ""
    return table


def _worker(worker: dict[str, Any] | None) -> tuple[str, str, str]:
    if worker is None:
        return "", "", ""
    done = f"{worker['fraction']:.0%}" if worker["fraction"] is not None else ""
    return worker["worker"] + ("" if worker["alive"] else " (down)"), worker["clip"] or "", done
