"""``dropreel demo``: the whole journey of one clip, watched."""

from __future__ import annotations

import glob
import json
import time
import unicodedata
from contextlib import ExitStack
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table

from core import fsops
from core.companions import SIDECAR_SUFFIX
from core.contract import VideoMeta, load
from core.errors import DropreelError
from core.home import SETTINGS_FILE, STAGES, Home
from core.logs import open_log
from core.overview import Overview, overview
from core.settings import Settings
from daemons.cli.app import app, console, open_home
from daemons.cli.init import make_home
from daemons.cli.scene import draw_scene
from daemons.supervisor import Supervisor

SIDECAR = {
    "keyframe": [0.0, 0.0, 1.0, 1.0], "motion_type": "zoom_in", "motion_intensity": 0.6,
    "start_frame": [0.1, 0.1, 0.9, 0.9], "end_frame": [0.3, 0.3, 0.7, 0.7], "duration_sec": 6.0,
}  # fmt: skip
PATIENCE_SECONDS = 900.0


@app.command()
def demo(
    home: Annotated[Path, typer.Option("--home", help="Where to make the demo's home, or find it.")] = Path("demo"),
    keyframe: Annotated[
        Path | None,
        typer.Option(help="An image of yours; one is drawn without.", exists=True, dir_okay=False),
    ] = None,
    motion: Annotated[
        Path | None,
        typer.Option(help="Its .motion.json; a slow zoom in without.", exists=True, dir_okay=False),
    ] = None,
) -> None:
    """Make a home with both halves, start every daemon, drop a picture, wait for its clip."""
    root = home.expanduser().absolute()
    if not (root / SETTINGS_FILE).exists():
        make_home(root, "both")
    settings, folders = open_home(root)
    log = open_log("demo", folders.mac.logs, screen=False)
    with ExitStack() as stack:
        supervisor = Supervisor(root, settings, log, quiet=True)
        stack.callback(supervisor.close)
        dropped = _drop(folders, keyframe, motion)
        console.print(f"Dropped {dropped.name} into {folders.mac.hot}", markup=False, soft_wrap=True)
        meta = _watch(supervisor, folders, settings, dropped.stem)
    _report(*meta)


def _drop(folders: Home, keyframe: Path | None, motion: Path | None) -> Path:
    """Put the picture under a name of its own, so that the demo may be run again; its sidecar first."""
    stem = unicodedata.normalize("NFC", f"{keyframe.stem if keyframe else 'hills'}_{time.strftime('%H%M%S')}")
    hot = folders.mac.hot
    fsops.write(hot / f"{stem}{SIDECAR_SUFFIX}", motion.read_bytes() if motion else json.dumps(SIDECAR).encode())
    picture = hot / f"{stem}{keyframe.suffix if keyframe else '.png'}"
    # A picture of its own each time: the same one with the same motion is not made twice.
    fsops.write(picture, keyframe.read_bytes() if keyframe else draw_scene(seed=time.time_ns() % 2**32))
    return picture


def _watch(supervisor: Supervisor, folders: Home, settings: Settings, stem: str) -> tuple[VideoMeta, Path]:
    """Look after the daemons until the clip is back. Raises ``DropreelError`` where it cannot come."""
    begun = time.monotonic()
    with Live(console=console, refresh_per_second=8, transient=True) as live:
        while time.monotonic() - begun < PATIENCE_SECONDS:
            supervisor.tend()
            live.update(_picture(overview(folders, settings), time.monotonic() - begun))
            for meta in folders.mac.results.rglob("*.video_meta.json"):
                if meta.name == f"{stem}.video_meta.json":
                    return load(VideoMeta, meta), meta
            for reason in folders.mac.rejected.glob(f"{glob.escape(stem)}*/reason.json"):
                said = json.loads(reason.read_bytes())
                raise DropreelError(f"The drop was rejected: {said['message']} {said.get('remedy') or ''}")
            supervisor.rest(0.1)
    raise DropreelError(f"No clip after {PATIENCE_SECONDS:.0f} s. Look into {folders.gpu.logs}.")


def _picture(found: Overview, seconds: float) -> Group:
    """One line a place, in the order in which a clip walks through them."""
    grid = Table.grid(padding=(0, 2))
    mac, gpu = found.mac, found.gpu
    if mac is not None and gpu is not None:  # a demo's home has both halves
        grid.add_row("hot folder", _dots(mac.hot_folder > 0), "")
        grid.add_row("outbox", _dots(mac.outbox > 0), "")
        for room in gpu.rooms:
            worker = next((worker for worker in room.workers if worker.clip), None)
            bar = ProgressBar(total=1.0, completed=worker.fraction or 0.0, width=32) if worker else ""
            grid.add_row(room.room, _dots(bool(worker or room.ready)), bar)
        grid.add_row("results", _dots(gpu.outbox > 0), "")
    return Group(grid, f"{seconds:.0f} s")


def _dots(here: bool) -> str:
    return "[bold green]●[/]" if here else "[dim]·[/]"


def _report(meta: VideoMeta, place: Path) -> None:
    """Say what came back. Raises ``DropreelError`` where it is no clip."""
    if meta.failure is not None:
        raise DropreelError(
            f"The clip failed in {meta.failure.stage}: {meta.failure.message} {meta.failure.remedy or ''}"
        )
    clip, video = place.with_name(f"{meta.entry.stem}.mp4"), meta.files[0]
    seconds = (meta.frames or 0) / (meta.fps or 1)
    table = Table.grid(padding=(0, 2))
    table.add_row("size", f"{meta.width}×{meta.height}, {video.size / 1e6:.1f} MB")
    table.add_row("frames", f"{meta.frames} at {meta.fps} a second: {seconds:g} s")
    table.add_row("verdict", f"{meta.outcome} ({meta.qa.screened})" if meta.qa else meta.outcome)
    for reason in meta.qa.reasons if meta.qa else []:
        table.add_row("", str(reason))
    work = ", ".join(f"{stage} {meta.stages[stage].seconds:.1f}" for stage in STAGES if stage in meta.stages)
    table.add_row("seconds", work)
    typer.echo(f"clip     {clip}")  # whole, whatever the terminal's width: it is what one came for
    console.print(table)
