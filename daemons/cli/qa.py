"""``dropreel qa``: what QA says of any video, from anywhere."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from rich.text import Text

from core import fsops, image
from core.camera import Camera
from core.contract import QaReport
from core.errors import DropreelError, Finding, OutsideZone
from core.footage import Footage
from core.light import Frame
from core.motion import FULL, fit
from core.qa.flashes import LIMIT, MAX_FPS
from core.qa.planned import Planned
from core.qa.thresholds import QaThresholds, Standard
from core.qa.verdict import SHEET, judge
from daemons.cli.app import HERE, JsonOption, app, console
from daemons.cli.trials import LenderOption, lend, stopping

_COLOURS = {"pass": "green", "flag": "yellow", "fail": "red", "warning": "yellow", "error": "red", "note": "cyan"}
_WORDS = {"pass": "passes", "flag": "flagged, for a person to look at", "fail": "fails"}


@app.command()
def qa(
    files: Annotated[list[Path], typer.Argument(metavar="FILE...", help="Any videos that ffmpeg reads.")],
    *,
    keyframe: Annotated[
        Path | None,
        typer.Option(help="The image with which it ought to begin; its middle, in the video's shape."),
    ] = None,
    standard: Annotated[
        Standard | None,
        typer.Option(help="What to screen against for flashes.", show_default="the home's, else trace24"),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(help="An existing folder for a picture, NAME.qa.png, of what each video has against it."),
    ] = None,
    home: LenderOption = HERE,
    as_json: JsonOption = False,
) -> None:
    """Judge videos as finished clips are judged: flashes, cuts, flicker, jumps, warps, boiling and drift.

    A video is only read. It is flagged where a person should look, and fails where it is broken. What needs the plan
    of a clip, such as whether the camera keeps to its path, is not judged. All that was measured is in ``--json``.
    **Exit status:** 0 where all pass, 1 where one is flagged, fails or cannot be read, 130 where it was stopped.
    """
    settings = lend(home)[0]
    limits = settings.qa if standard is None else settings.qa.model_copy(update={"standard": standard})
    _check(files, out)
    opened = None if keyframe is None else image.open_image(_there(keyframe), settings.image)
    said: dict[str, dict[str, Any]] = {}
    with stopping(), tempfile.TemporaryDirectory(prefix="dropreel-") as folder:
        fsops.confine(Path(folder), *([out.absolute()] if out else []))
        for file in files:
            try:
                said[str(file)] = told = _judged(file, opened, limits, Path(folder) if out else None)
                sheet = (out or Path(folder)) / f"{file.stem}.qa.png"
                if told["sheet"]:
                    fsops.write(sheet.absolute(), Path(folder, SHEET).read_bytes())
                    told["sheet"] = str(sheet)
                elif sheet.exists():
                    fsops.remove(sheet.absolute())  # it shows what an earlier version of the video had against it
            except DropreelError as error:
                said[str(file)] = told = {"verdict": None, "error": str(error)}
            if not as_json:
                _show(file, told)
    if as_json:
        typer.echo(json.dumps(said, indent=1))
    if any(told["verdict"] != "pass" for told in said.values()):
        raise typer.Exit(1)


def _judged(file: Path, keyframe: Frame | None, limits: QaThresholds, evidence: Path | None) -> dict[str, Any]:
    """What is to be said of one video. Raises ``DropreelError`` where it cannot be judged."""
    columns = TextColumn("{task.description}", markup=False), BarColumn(), TimeRemainingColumn()
    watched = console if console.is_terminal else Console(quiet=True)
    with Footage(_there(file)) as footage, Progress(*columns, console=watched, transient=True) as progress:
        if footage.fps > MAX_FPS:
            raise DropreelError(f"{file} shows {float(footage.fps):g} pictures a second, and flashes are defined up to "
                                f"{MAX_FPS}. Bring it to the rate at which it is watched.")  # fmt: skip
        task = progress.add_task(file.name, total=1.0)
        first = None
        if keyframe is not None:
            view = fit(FULL, (keyframe.shape[1], keyframe.shape[0]), footage.size)
            first = Camera(keyframe, footage.size, [view]).render(view)

        def show(fraction: float) -> None:
            progress.update(task, completed=fraction)

        flags = list(_beyond(footage))
        report = judge(footage, footage.fps, Planned(first=first), limits, flags=flags, evidence=evidence, report=show)
        width, height = footage.size
        seconds = round(footage.seconds, 3)
        return {
            **report.model_dump(exclude={"evidence"}, exclude_none=True),
            "video": {"width": width, "height": height, "fps": round(float(footage.fps), 3), "seconds": seconds},
            "notes": list(_notes(footage, report)),
            "sheet": SHEET if report.evidence else None,
        }


def _beyond(footage: Footage) -> Iterator[Finding]:
    """What the video is that QA cannot look at as it is shown: it may flash, and nothing of that be found."""
    if footage.hdr:
        yield Finding(code="hdr", severity="warning",
                      message="It is HDR, or of BT.2020's colours, and was judged as if its codes were SDR: brightness "
                              "and flashes may be misjudged.",
                      remedy="Convert it to SDR of BT.709, and judge that.")  # fmt: skip
    if footage.interlaced:
        yield Finding(code="interlaced", severity="warning",
                      message="It is interlaced, and was judged by whole pictures: what flashes from field to field "
                              "may be missed.",
                      remedy="Make a frame of every field, and judge that.")  # fmt: skip


def _notes(footage: Footage, report: QaReport) -> Iterator[str]:
    """What is worth knowing about how the video was looked at."""
    if footage.varies:
        yield f"Its rate varies: it was looked at with {footage.fps} frames a second, pictures held until the next."
    if report.measures.get("frames") == 1:
        yield "It has one frame only: nothing can flash."


def _show(file: Path, told: dict[str, Any]) -> None:
    if told["verdict"] is None:
        console.print(Text.assemble((str(file), "bold"), ": ", ("cannot be judged", "red")), soft_wrap=True)
        console.print(Text(f"  {told['error']}"), soft_wrap=True)
        return
    video, measures = told["video"], told["measures"]
    word = _WORDS[told["verdict"]], _COLOURS[told["verdict"]]
    console.print(Text.assemble((str(file), "bold"), ": ", word), soft_wrap=True)
    lines = [f"{video['width']}×{video['height']}, {measures.get('frames', 0)} frames at {video['fps']:g} a second"]
    if "luminance_transitions" in measures:
        lines.append(
            f"{told['screened']}: {measures['luminance_transitions']} luminance and {measures['red_transitions']} "
            f"red transitions within a second; {LIMIT} are allowed"
        )
    for line in (*lines, *told["notes"]):
        console.print(Text(f"  {line}"), soft_wrap=True)
    for reason in told["reasons"]:
        severity = f"  {reason['severity']:<8}", _COLOURS[reason["severity"]]
        remedy = f" {reason['remedy']}" if "remedy" in reason else ""
        console.print(Text.assemble(severity, f"{reason['code']}: {reason['message']}{remedy}"), soft_wrap=True)
    if told["sheet"]:
        console.print(Text(f"  {told['sheet']} shows it"), soft_wrap=True)


def _there(path: Path) -> Path:
    if path.is_dir():
        raise DropreelError(f"{path} is a folder. Name the files in it.")
    if not path.is_file():
        raise DropreelError(f"There is no file {path}.")
    return path


def _check(files: list[Path], out: Path | None) -> None:
    """Raise ``DropreelError`` for what cannot be meant, before anything is read."""
    if out is None:
        return
    if not out.is_dir():
        raise DropreelError(f"There is no folder {out}. Make it first.")
    try:
        fsops.guard(out.absolute() / "sheet")
    except OutsideZone:
        raise DropreelError(f"Folders called mojo…, __crop, __cropped and __selected are the studio's, and protected: "
                            f"{out} cannot be in one. Choose another folder.") from None  # fmt: skip
    stems = [file.stem for file in files]
    twice = next((stem for stem in stems if stems.count(stem) > 1), None)
    if twice is not None:
        raise DropreelError(f"Two of the videos are called {twice}, and their pictures would have one name. Judge them "
                            "one after the other, into two folders.")  # fmt: skip
