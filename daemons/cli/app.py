"""What the commands share: the application, the home they work on, and how they end."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer
from rich.console import Console

from core import fsops
from core.errors import BadSettings
from core.home import Home
from core.metrics import folder_of
from core.settings import Settings, load_settings
from core.versions import installed

app = typer.Typer(
    name="dropreel",
    help="Drop a keyframe, get a reel: a hot folder that turns still images into checked, delivered video clips.",
    no_args_is_help=True,
    rich_markup_mode="markdown",
    context_settings={"help_option_names": ["-h", "--help"]},
    pretty_exceptions_enable=False,
)


def _version(asked: bool) -> None:
    if asked:
        typer.echo(f"dropreel {installed('dropreel')}")
        raise typer.Exit


@app.callback()
def _commands(  # with it, one command alone is to be called by its name too
    *,
    _: Annotated[
        bool,
        typer.Option("--version", metavar="", callback=_version, is_eager=True, help="Say which version it is."),
    ] = False,
) -> None:
    pass


console = Console()
if not console.is_terminal:
    console.width = 10_000  # a line is not to be broken for a width that nobody has

HERE = Path()
HomeOption = Annotated[
    Path,
    typer.Option("--home", envvar="DROPREEL_HOME", help="The folder that holds dropreel.toml.", show_default="here"),
]
JsonOption = Annotated[bool, typer.Option("--json", metavar="", help="For programs: one JSON object on stdout.")]


def open_home(root: Path) -> tuple[Settings, Home]:
    """The settings and folders of a home; from here on this process writes only inside it."""
    settings, home = load_settings(root)
    fsops.confine(home.root, home.mac.hot, folder_of(settings.metrics, home, home.gpu.state))
    home.prepare(*([home.mac] if settings.mac else []), *([home.gpu] if settings.gpu else []))
    for half in ([home.mac] if settings.mac else []) + ([home.gpu] if settings.gpu else []):
        strays = [str(path) for path in half.moved_within if path.stat().st_dev != half.root.stat().st_dev]
        if strays:
            raise BadSettings(f"{', '.join(strays)} must be on one file system with {half.root}: clips move there by "
                              "a rename. Move the home, not a part of it.")  # fmt: skip
    return settings, home


def need_half(half: Literal["mac", "gpu"], settings: Settings, what: str) -> None:
    """Raise ``BadSettings`` where ``what`` is of a half that this home has not."""
    if not (settings.mac if half == "mac" else settings.gpu):
        raise BadSettings(f"{what} is of the {half} half; this home's role is {settings.role}. Run it on the "
                          f"{'Mac' if half == 'mac' else 'server'}.")  # fmt: skip
