"""``dropreel retry``: a failed clip, once more."""

from __future__ import annotations

from typing import Annotated

import typer

from core.admission import Admission
from core.errors import DropreelError
from daemons.cli.app import HERE, HomeOption, app, console, need_half, open_home
from daemons.stage import room_of


@app.command()
def retry(clip: Annotated[str, typer.Argument(help="The failed clip's id, or all.")], home: HomeOption = HERE) -> None:
    """Make a failed clip again, from the start, as a new run of it."""
    settings, folders = open_home(home)
    need_half("gpu", settings, "retry")
    admission = Admission(folders.gpu, settings, room_of(folders.gpu, "generate", settings))
    failed = admission.failed() if clip == "all" else [folders.gpu.failed / clip]
    if not all(path.is_dir() for path in failed):
        known = ", ".join(path.name for path in admission.failed()) or "none"
        raise DropreelError(f"{clip} is not among the failed clips. There are: {known}.")
    for path in failed:
        console.print(f"{path.name} is made again as {admission.retry(path).name}.")
