"""``dropreel interpolate``: the stage's own retiming on any video."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Annotated, cast

import typer
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from core import frames, fsops
from core.encode.command import EncodeSettings
from core.encode.encode import encode
from core.errors import DropreelError, OutsideZone
from core.footage import DAY, KEPT, Pictures, look
from core.interpolate.methods import MethodName, load
from core.interpolate.plan import Sample
from core.interpolate.retime import Method
from core.light import Frame
from daemons.cli.app import app, console
from daemons.cli.trials import stopping


@app.command()
def interpolate(
    source: Annotated[Path, typer.Argument(metavar="IN.mp4", help="Any video that ffmpeg reads.")],
    target: Annotated[Path, typer.Argument(metavar="OUT.mp4", help="The new file.")],
    *,
    fps: Annotated[int, typer.Option(min=1, max=240, help="Frames a second of the new file.")] = 60,
    method: Annotated[
        MethodName, typer.Option(help="What makes the new frames; flow needs no weights.")
    ] = MethodName.flow,
    weights: Annotated[
        Path | None, typer.Option(help="The weights: flownet.pkl for rife, a TorchScript file for film.")
    ] = None,
    force: Annotated[bool, typer.Option("--force", metavar="", help="Replace OUT.mp4 if it is there.")] = False,
) -> None:
    """Bring a video to another frame rate: the frames between its own are made, its own are kept where they fall.

    Every picture counts from the time at which the file shows it, so a varying rate becomes an even one. The new
    file is H.265, proved like every clip, and appears when it is whole. Sound is left out.

    **Exit status:** 0, or 1 where there is no new file.
    """
    _check(source, target, method, weights, force=force)
    fsops.confine(target.absolute().parent)
    maker = load(method, weights).method
    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
    with stopping(), Progress(*columns, console=console, transient=True) as progress:
        task = progress.add_task("looking", total=None)
        video = look(source)
        samples = samples_of(video.times, video.end, fps)
        progress.update(task, description=method, total=len(samples))
        with Pictures(source, video.size, len(video.times)) as pictures:
            made = Made(video.size, samples, pictures, maker)
            settings = EncodeSettings(quality="crf:18", limit_seconds=DAY)

            def show(_: float) -> None:
                progress.update(task, completed=made.count)

            record = encode(cast("frames.Frames", made), fps, target, settings, show, compare=False)
    new = sum(bool(sample.t) for sample in samples)
    console.print(f"{target}: {video.size[0]}×{video.size[1]}, {len(samples)} frames at {fps}, {new} of them made by "
                  f"{method} from {len(video.times)}; {record.bytes / 1e6:.1f} MB", markup=False, highlight=False,
                  soft_wrap=True)  # fmt: skip
    if video.has_audio:
        console.print("The sound was left out.")


def samples_of(times: Sequence[Fraction], end: Fraction, fps: int) -> list[Sample]:
    """What each frame of an even rate shows of pictures that are shown at ``times``, the first at 0, until ``end``.

    As many as ``end`` seconds have, rounded half up; with even times they are those of the plan. The last is held.
    """
    samples = []
    for number in range(max(1, int(end * fps + Fraction(1, 2)))):
        now = Fraction(number, fps)
        place = bisect_right(times, now) - 1
        if place + 1 < len(times):
            samples.append(Sample(place, (now - times[place]) / (times[place + 1] - times[place])))
        else:
            samples.append(Sample(place, Fraction(0)))
    return samples


class Made:
    """The new frames, made as they are taken; to the encoder they look like a clip's frames."""

    def __init__(self, size: tuple[int, int], samples: Sequence[Sample], pictures: Pictures, method: Method) -> None:
        self.shape = (len(samples), size[1], size[0], 3)
        self.count = 0
        self._samples, self._pictures, self._method = samples, pictures, method

    def __len__(self) -> int:
        return len(self._samples)

    def __iter__(self) -> Iterator[Frame]:
        for some in _near(self._samples):
            for frame in self._method.clip(cast("Frame", self._pictures), some):
                self.count += 1
                yield frame


def _near(samples: Iterable[Sample]) -> Iterator[list[Sample]]:
    """The samples in order, in groups that lie close together."""
    group: list[Sample] = []
    for sample in samples:
        if group and (sample.source >= group[0].source + KEPT - 1 or len(group) >= 4 * KEPT):
            yield group
            group = []
        group.append(sample)
    if group:
        yield group


def _check(source: Path, target: Path, method: MethodName, weights: Path | None, *, force: bool) -> None:
    """Raise ``DropreelError`` for what cannot be meant, before anything is read."""
    if not source.is_file():
        raise DropreelError(f"There is no file {source}. Name the video that is to be interpolated.")
    if target.suffix.lower() != ".mp4":
        raise DropreelError(f"The new file is an MP4 file: give {target} a name that ends in .mp4.")
    if not target.absolute().parent.is_dir():
        raise DropreelError(f"There is no folder {target.parent}. Make it first.")
    try:
        fsops.guard(target.absolute())
    except OutsideZone:
        raise DropreelError(f"Folders called mojo…, __crop, __cropped and __selected are the studio's, and protected: "
                            f"{target} cannot be in one. Choose another folder.") from None  # fmt: skip
    if target.exists() and (not target.is_file() or target.samefile(source)):
        raise DropreelError(f"{target} is the video itself, or no file. Give the new file another name.")
    if target.exists() and not force:
        raise DropreelError(f"{target} is there already, and is not overwritten. Give the new file another name, or "
                            "--force.")  # fmt: skip
    if method is MethodName.flow and weights:
        raise DropreelError("flow has no weights: leave --weights out, or choose --method rife or film.")
    if method is not MethodName.flow and (weights is None or not weights.is_file()):
        named = f"{weights} is no file" if weights else "none were named"
        raise DropreelError(f"{method} needs its weights, and {named}. Name the file with --weights, or choose "
                            "--method flow.")  # fmt: skip
