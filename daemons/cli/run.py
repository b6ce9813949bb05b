"""``dropreel run``: one daemon, as a service manager or ``dropreel up`` starts it."""

from __future__ import annotations

import re
from typing import Annotated, Literal, get_args

import typer

from core.errors import AlreadyRunning, BadSettings
from core.home import STAGES, Home
from core.logs import open_log
from core.metrics import Metrics, folder_of
from core.settings import WORKER_NAME, Settings
from daemons import runtime
from daemons.cli.app import HERE, HomeOption, app, need_half, open_home

DaemonName = Literal["keyframes", "courier", "intake", "generate", "interpolate", "qa", "encode"]


MAC_DAEMONS = ("keyframes", "courier")


@app.command()
def run(
    daemon: Annotated[DaemonName, typer.Argument(help=f"{', '.join(get_args(DaemonName))}.", show_choices=False)],
    home: HomeOption = HERE,
    worker: Annotated[
        str, typer.Option(help="For the rooms' daemons: the worker's name, such as gpu0; one process a name.")
    ] = "",
    once: Annotated[bool, typer.Option("--once", metavar="", help="Handle what is there, then exit.")] = False,
) -> None:
    """Run one daemon in the foreground.

    **Exit status:** 0 stopped as asked, 75 it is running already, 78 the settings cannot be used.
    """
    settings, folders = open_home(home)
    on_mac = daemon in MAC_DAEMONS
    need_half("mac" if on_mac else "gpu", settings, daemon)
    if not worker and daemon in STAGES:
        worker = settings.rooms.workers.of(daemon)[0]
    if worker and not re.fullmatch(WORKER_NAME, worker):
        raise BadSettings(f"A worker is called by letters, digits, - and _, like gpu0; not {worker!r}.")
    half = folders.mac if on_mac else folders.gpu
    name = f"{daemon}@{worker}" if worker else daemon
    metrics = Metrics(name, folder_of(settings.metrics, folders, half.state), settings.metrics.gpu_dollars_per_hour)
    life = runtime.Runtime(name, half.state, settings.daemons, open_log(name, half.logs), metrics=metrics,
                           once=once)  # fmt: skip
    runtime.catch_signals(life)
    try:
        made = make(daemon, folders, settings, worker, life)
    except AlreadyRunning:
        if daemon in STAGES:
            raise
        raise AlreadyRunning(
            f"{daemon} runs already, and a home has only one. Stop that one first, or leave it."
        ) from None
    raise typer.Exit(runtime.run(made))


def make(daemon: DaemonName, home: Home, settings: Settings, worker: str, life: runtime.Runtime) -> runtime.Daemon:
    """Build a daemon. What a stage needs (a model, OpenCV) is imported by its own daemon only."""
    match daemon:
        case "keyframes":
            from daemons.keyframes import KeyframesDaemon

            return KeyframesDaemon(home, settings, life)
        case "courier":
            from daemons.courier import CourierDaemon

            return CourierDaemon(home, settings, life)
        case "intake":
            from daemons.intake import IntakeDaemon

            return IntakeDaemon(home, settings, life)
        case "generate":
            from daemons.generate import GenerateDaemon

            return GenerateDaemon(home, settings, worker, life)
        case "interpolate":
            from daemons.interpolate import InterpolateDaemon

            return InterpolateDaemon(home, settings, worker, life)
        case "qa":
            from daemons.qa import QaDaemon

            return QaDaemon(home, settings, worker, life)
        case "encode":
            from daemons.encode import EncodeDaemon

            return EncodeDaemon(home, settings, worker, life)
