"""``dropreel interpolate``: the stage's own retiming on any video."""

from __future__ import annotations

import contextlib
import os
import re
import select
import tempfile
import threading
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from fractions import Fraction
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any, cast

import numpy as np
import typer
from numpy.typing import NDArray
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from core import frames, fsops, process
from core.encode.command import EncodeSettings, ffmpeg_program
from core.encode.encode import encode
from core.errors import DropreelError, OutsideZone, ProcessFailed, Stopped
from core.interpolate.methods import MethodName, load
from core.interpolate.plan import Sample
from core.interpolate.retime import Method
from core.work import unwatched
from daemons.cli.app import app, console
from daemons.cli.trials import stopping

Frame = NDArray[np.uint8]
DAY = 86_400.0
"""Seconds after which a program that does not end is given up."""
KEPT = 16
"""So many frames of the video are looked back at, at most; samples that lie further apart are planned apart."""
SQUARE = (
    "scale=w='if(gt(abs(sar-1),0.01),iw*sar,iw)':h=ih:flags=bicubic+accurate_rnd+full_chroma_int,setsar=1,"
    "crop=trunc(iw/2)*2:trunc(ih/2)*2:0:0"
)
"""Pixels made square, and sides even: a line is cut off where one is odd. Nothing else is resampled."""
_LINE = re.compile(r"0, *-?\d+, *(?P<pts>-?\d+), *(?P<duration>\d+),")


@dataclass
class Video:
    """What a file holds: when each of its pictures is shown, and how large they are when they are upright."""

    size: tuple[int, int] = (0, 0)
    times: list[Fraction] = field(default_factory=list)
    """Seconds from the first picture, ascending."""
    end: Fraction = Fraction(0)
    """When the last one has been shown."""
    has_audio: bool = False


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
            settings = EncodeSettings(limit_seconds=DAY)

            def show(_: float) -> None:
                progress.update(task, completed=made.count)

            record = encode(cast("frames.Frames", made), fps, target, settings, show)
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


def look(source: Path) -> Video:
    """Decode a file once for its times. Raises ``DropreelError`` where it is no video, or a broken one."""
    video = Video()
    unit, stamps, lasting = Fraction(1), list[int](), 0

    def take(line: str) -> None:
        nonlocal unit, lasting
        key, _, value = line.partition(": ")
        if key == "#tb 0":
            unit = Fraction(value)
        elif key == "#dimensions 0":
            width, height = value.split("x")
            video.size = int(width), int(height)
        elif key == "#media_type 1":
            video.has_audio = value == "audio"
        elif match := _LINE.match(line):
            stamps.append(int(match["pts"]))
            lasting = int(match["duration"])

    maps = "-map", "0:V:0", "-map", "0:a:0?", "-c:a", "copy"
    try:
        process.run(_command(source, *maps, "-f", "framecrc", "-"), unwatched, limit=DAY, on_line=take)
    except ProcessFailed as error:
        said = error.stderr.strip().splitlines()
        raise _unreadable(source, said[-1] if said else str(error)) from None
    steps = [after - before for before, after in pairwise(stamps)]
    if not stamps or min(steps, default=1) <= 0:
        raise _unreadable(source, "its pictures do not come one after the other" if stamps else "it has none")
    if min(video.size) < 16:
        raise _unreadable(source, "a side has less than 16 pixels")
    video.times = [(stamp - stamps[0]) * unit for stamp in stamps]
    last = lasting or (steps[-1] if steps else 0)
    video.end = video.times[-1] + last * unit
    return video


class Pictures:
    """The pictures of a file, one after the other, as they are asked for: the first, and the last few, are kept.

    ffmpeg decodes them beside, into a pipe, and waits where nobody takes them.
    """

    def __init__(self, source: Path, size: tuple[int, int], count: int) -> None:
        self._source, self._size, self._count = source, size, count
        self._kept: dict[int, Frame] = {}
        self._next = 0
        self._stopped = threading.Event()

    def __enter__(self) -> Pictures:
        with contextlib.ExitStack() as stack:
            folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="dropreel-"))
            pipe = Path(folder, "pictures")
            os.mkfifo(pipe)
            self._fd = os.open(pipe, os.O_RDWR | os.O_NONBLOCK)  # so neither side waits for the other to open it
            stack.callback(os.close, self._fd)
            pool = stack.enter_context(ThreadPoolExecutor(1, "decoder"))
            stack.callback(self._stopped.set)
            words = "-map", "0:V:0", "-f", "rawvideo", "-pix_fmt", "rgb24", "-y", str(pipe)
            self._decoder: Future[Any] = pool.submit(
                process.run, _command(self._source, *words), self._go_on, limit=DAY
            )
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *failure: object) -> None:
        self._stack.close()

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, number: int) -> Frame:
        """A picture that is not more than ``KEPT`` before the furthest that was asked for."""
        while self._next <= number:
            self._kept[self._next] = self._read()
            if self._next > KEPT + 1:
                del self._kept[self._next - KEPT - 1]
            self._next += 1
        return self._kept[number]

    def _go_on(self, _: float) -> None:
        if self._stopped.is_set():
            raise Stopped

    def _read(self) -> Frame:
        width, height = self._size
        picture = np.empty((height, width, 3), np.uint8)
        left = picture.data.cast("B")
        while left:
            if select.select([self._fd], [], [], 0.2)[0]:
                left = left[os.readv(self._fd, [left]) :]
            elif self._decoder.done():
                self._decoder.result()
                raise _unreadable(self._source, "it gives fewer pictures than a moment ago")
        return picture


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


def _command(source: Path, *rest: str) -> list[str]:
    """ffmpeg from a file, turned upright, its pictures as they come and when they come."""
    read = "-nostdin", "-v", "error", "-xerror", "-protocol_whitelist", "file,pipe", "-i", str(source.absolute())
    return [ffmpeg_program(), *read, "-vf", SQUARE, "-fps_mode", "passthrough", "-enc_time_base", "demux", *rest]


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


def _unreadable(source: Path, what: str) -> DropreelError:
    return DropreelError(f"{source} cannot be read as a video: {what}. Name a video that plays.")
