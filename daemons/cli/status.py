"""``dropreel status``: the rooms as a table, here or on the server."""

from __future__ import annotations

import json
import time
from typing import Annotated

import typer
from rich.console import Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from core.cards import Card
from core.logs import harmless
from core.overview import MacStatus, Overview, RoomStatus, ServerStatus, WorkerStatus, overview
from core.settings import load_settings
from daemons.cli.app import HERE, HomeOption, JsonOption, app, console

WATCH_SECONDS = 1.0


@app.command()
def status(
    home: HomeOption = HERE,
    as_json: JsonOption = False,
    watch: Annotated[
        bool, typer.Option("--watch", metavar="", help="Draw it again every second, until Ctrl-C.")
    ] = False,
) -> None:
    """Show what lies where, from the folders alone: it also works when every daemon is dead.

    On a Mac whose server is another machine, the server's rooms are shown as it last told of them.
    """
    settings, folders = load_settings(home)
    if watch and as_json:
        raise typer.BadParameter("--watch draws for people, --json is for programs: one of them.")
    if as_json:
        console.print_json(json.dumps(overview(folders, settings).model_dump(mode="json")))
        return
    if not watch:
        console.print(draw(overview(folders, settings)))
        return
    try:
        with Live(console=console, auto_refresh=False) as live:
            while True:
                live.update(draw(overview(folders, settings)), refresh=True)
                time.sleep(WATCH_SECONDS)
    except KeyboardInterrupt:
        return


def draw(found: Overview) -> RenderableType:
    """A home as tables."""
    parts: list[RenderableType] = []
    if found.mac is not None:
        parts.append(_mac(found.mac))
    if found.gpu is not None:
        age = found.gpu_age_seconds
        parts.append(_rooms(found.gpu, "gpu" if age is None else f"server, as of {span(age)} ago"))
        parts += [_figures(found.gpu), *(_card(card) for card in found.gpu.cards)]
    if found.gpu_trouble is not None:
        parts.append(Text(harmless(found.gpu_trouble), style="yellow"))
    return Group(*parts)


def _mac(mac: MacStatus) -> Table:
    counts = mac.model_dump(exclude={"disk_free_bytes"})
    table = Table(title="mac", title_justify="left")
    for name in counts:
        table.add_column(name.replace("_", " "), justify="right")
    table.add_column("disk free", justify="right")
    table.add_row(*(str(count) for count in counts.values()), size(mac.disk_free_bytes))
    return table


def _rooms(gpu: ServerStatus, title: str) -> Table:
    table = Table(title=title, title_justify="left")
    for column in ("room", "ready", "oldest", "worker", "clip", "done", "left"):
        table.add_column(column, justify="left" if column in {"room", "worker", "clip"} else "right")
    for room in gpu.rooms:
        for number, worker in enumerate(room.workers or [None]):
            first = _room(room) if number == 0 else ("", "", "")
            table.add_row(*(Text(harmless(cell)) for cell in (*first, *_worker(worker))))
    return table


def _room(room: RoomStatus) -> tuple[str, str, str]:
    name = room.room + (f" ({room.held})" if room.held else "")
    ready = f"{room.ready}" + (f"/{room.bound}" if room.bound else "")
    return name, ready, "" if room.oldest_seconds is None else span(room.oldest_seconds)


def _worker(worker: WorkerStatus | None) -> tuple[str, str, str, str]:
    if worker is None:
        return "", "", "", ""
    done = "" if worker.fraction is None else f"{worker.fraction:.0%}"
    left = "" if worker.remaining_seconds is None else span(worker.remaining_seconds)
    return worker.worker + ("" if worker.alive else " (down)"), worker.clip or "", done, left


def _figures(gpu: ServerStatus) -> Text:
    inbox = f"inbox {gpu.inbox}" + (f" ({gpu.held})" if gpu.held else "")
    words = [inbox, f"outbox {gpu.outbox}", f"failed {gpu.failed}", f"{size(gpu.disk_free_bytes)} free"]
    if gpu.clips_per_minute:
        words.append(f"{gpu.clips_per_minute:.1f} clips a minute")
    if gpu.eta_seconds:
        words.append(f"all {gpu.clips} done in {span(gpu.eta_seconds)}")
    return Text(harmless(" · ".join(words)))


def _card(card: Card) -> Text:
    words = [f"{card.name} {card.uuid[:12]}"]
    if card.utilization is not None:
        words.append(f"{card.utilization:.0%} busy")
    if card.memory_used_bytes is not None and card.memory_bytes is not None:
        words.append(f"{size(card.memory_used_bytes)} of {size(card.memory_bytes)}")
    if card.temperature_celsius is not None:
        words.append(f"{card.temperature_celsius:.0f} °C")
    if card.power_watts is not None:
        words.append(f"{card.power_watts:.0f} W")
    if card.slowed_by:
        words.append("slowed by " + ", ".join(card.slowed_by))
    return Text(harmless(" · ".join(words)))


def span(seconds: float) -> str:
    """A time as people say it: ``4 s``, ``12 min``, ``3 h 20 min``."""
    if seconds < 60:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"


def size(count: float) -> str:
    """Bytes as people say them: ``214 GB``, ``2.0 GB``, ``350 MB``."""
    gigabytes = count / 1e9
    return (
        f"{gigabytes:.0f} GB"
        if gigabytes >= 10
        else f"{gigabytes:.1f} GB"
        if gigabytes >= 1
        else f"{count / 1e6:.0f} MB"
    )
