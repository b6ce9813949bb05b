"""``dropreel retry``: a failed clip, once more."""

from __future__ import annotations

from typing import Annotated

import typer

from core.admission import Admission
from core.errors import DropreelError, Refused
from daemons.cli.app import HERE, HomeOption, app, console, need_half, open_home
from daemons.stage import room_of


@app.command()
def retry(
    clip: Annotated[str, typer.Argument(help="The failed clip's id, or all.")],
    home: HomeOption = HERE,
    new_seed: Annotated[
        bool, typer.Option("--new-seed", metavar="", help="With the next seed; the tried ones are recorded.")
    ] = False,
) -> None:
    """Make a failed clip again, from the start, as a new run of it.

    Without a new seed it is the same clip again: right where something broke down. What QA failed needs another seed,
    or another motion. With all, clips that no seed would change are left as they are.
    """
    settings, folders = open_home(home)
    need_half("gpu", settings, "retry")
    admission = Admission(folders.gpu, settings, room_of(folders.gpu, "generate", settings))
    failed = admission.failed() if clip == "all" else [folders.gpu.failed / clip]
    if not all(path.is_dir() for path in failed):
        known = ", ".join(path.name for path in admission.failed()) or "none"
        raise DropreelError(f"{clip} is not among the failed clips. There are: {known}. To make a clip that has come "
                            "back again, drop its keyframe once more, with another seed.")  # fmt: skip
    for path in failed:
        try:
            again = admission.retry(path, new_seed=new_seed).clip
        except Refused as error:
            if clip != "all":
                raise
            console.print(f"{path.name} is left as it is. {error}", markup=False, soft_wrap=True)
            continue
        seed = f", with seed {again.seed} after {', '.join(map(str, again.entry.tried_seeds))}" if new_seed else ""
        console.print(f"{path.name} is made again as {again.clip_id}{seed}.", markup=False, soft_wrap=True)
