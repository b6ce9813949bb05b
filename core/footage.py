"""Any video that ffmpeg reads, as upright frames of square pixels with their times: one way to read a stranger's file.

ffmpeg decodes in a process of its own, into a pipe, and waits where nobody takes its pictures: memory does not grow
with the video, and nothing is unpacked to the disk.
"""

from __future__ import annotations

import contextlib
import fcntl
import math
import os
import re
import select
import sys
import tempfile
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from fractions import Fraction
from itertools import islice, pairwise
from pathlib import Path
from typing import Any, Self

import numpy as np

from core import process
from core.encode.command import ffmpeg_program
from core.errors import DropreelError, ProcessFailed, Stopped
from core.light import Frame
from core.work import unwatched

DAY = 86_400.0
"""Seconds after which a program that does not end is given up."""
KEPT = 16
"""So many pictures are looked back at, at most, while others are made of them."""
LEAST_SIDE = 16
"""Pixels. What is smaller shows nothing."""
MOST_PIXELS = 40_000_000
"""A picture's. As many as an image may have; 8K has 33 million."""
FASTEST = 120
"""The most pictures a second to which a varying rate is brought."""
RING = 7
"""Frames of ``Footage`` at hand: the one that is being read, and the last that were given out, which stay as they
are."""

_SQUARE = "scale=w='if(gt(abs(sar-1),0.01),iw*sar,iw)':h=ih:flags={flags},setsar=1"
_EVEN = "crop=trunc(iw/2)*2:trunc(ih/2)*2:0:0"
EXACT = _SQUARE.format(flags="bicubic+accurate_rnd+full_chroma_int") + "," + _EVEN
"""Pixels made square, and sides even: a line is cut off where one is odd. Nothing else is resampled. To be encoded."""
QUICK = _SQUARE.format(flags="bicubic")
"""Pixels made square; colours to a code or two, several times as fast. To be looked at."""
_LINE = re.compile(r"0, *-?\d+, *(?P<pts>-?\d+), *(?P<duration>\d+),")
_HDR = re.compile(r"Stream #\d+:\d+.*: Video: .*\b(smpte2084|arib-std-b67|bt2020)")
"""The transfer functions PQ and HLG, and the primaries of BT.2020, as ffmpeg names them where it tells what a file
holds."""
_INTERLACED = re.compile(r"Stream #\d+:\d+.*: Video: .*\b(top|bottom) (coded )?first")
"""The order of fields, likewise; of whole pictures it says ``progressive``, or nothing."""
_IMAGES = {"png", "mjpeg", "webp", "bmp", "tiff", "jpegxl", "jpeg2000", "heic"}
_CUT = re.compile(r"File ended prematurely|moov atom not found")
"""What ffmpeg says of a Matroska and of an MP4 file of which the end is missing."""
_NOT_WHOLE = "its end is missing: it was copied or written in part"
_ROUNDED = Fraction(1, 900)
"""Seconds: two times that are rounded to milliseconds are no further off."""
_PIPE_BYTES = 1 << 20


@dataclass
class Video:
    """What a file holds: when each of its pictures is shown, and how large they are when they are upright."""

    size: tuple[int, int] = (0, 0)
    times: list[Fraction] = field(default_factory=list)
    """Seconds from the first picture, ascending."""
    end: Fraction = Fraction(0)
    """When the last one has been shown."""
    has_audio: bool = False


def look(source: Path) -> Video:
    """Decode a file once for its times. Raises ``DropreelError`` where it is no video, or a broken one."""
    listing = _listing(source, ("-map", "0:V:0", *_reading(EXACT), "-map", "0:a:0?", "-c:a", "copy"))
    steps = [after - before for before, after in pairwise(listing.stamps)]
    if min(steps, default=1) <= 0:
        raise _unreadable(source, "its pictures do not come one after the other")
    return listing.video(source)


class Pictures:
    """The pictures of a file, one after the other, as they are asked for: the first, and the last few, are kept."""

    def __init__(self, source: Path, size: tuple[int, int], count: int) -> None:
        self._source, self._size, self._count = source, size, count
        self._kept: dict[int, Frame] = {}
        self._next = 0

    def __enter__(self) -> Self:
        self._decoder = _Decoder(self._source, EXACT)
        return self

    def __exit__(self, *failure: object) -> None:
        self._decoder.close()

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, number: int) -> Frame:
        """A picture that is not more than ``KEPT`` before the furthest that was asked for."""
        while self._next <= number:
            picture = np.empty((self._size[1], self._size[0], 3), np.uint8)
            if not self._decoder.fill(picture):
                raise _unreadable(self._source, "it gives fewer pictures than a moment ago")
            self._kept[self._next] = picture
            if self._next > KEPT + 1:
                del self._kept[self._next - KEPT - 1]
            self._next += 1
        return self._kept[number]


class Footage:
    """A file's pictures at an even rate, to be looked at: all of them, in order, as often as asked, decoded each time.

    Every frame is ``(H, W, 3)`` sRGB, as a player without colour management shows it. It stays as it is until
    ``RING - 2`` more have been taken. The next one is decoded and read meanwhile.
    """

    def __init__(self, source: Path) -> None:
        """Look what the file holds, without decoding more than its first picture.

        Raises ``DropreelError`` where it is no video, or none that can be looked at.
        """
        self.source = source
        listing = _glance(source)
        self.size = listing.size
        """Width and height, upright."""
        video = listing.video(source)
        video.times = sorted(set(video.times))
        self.fps, self.varies = rate_of(video.times, video.end)
        """Frames a second, and whether the file's own rate is none: then pictures are held to fill this one."""
        self.seconds = float(video.end)
        self.hdr = listing.hdr
        """Whether its codes mean other light than those of a plain screen: PQ, HLG or BT.2020. They are taken for sRGB
        all the same."""
        self.interlaced = listing.interlaced
        """Whether the file says that its pictures are of two moments each. They are shown as they are all the same."""
        self.read = 0
        """Frames given out so far, the last time."""
        self._hint = max(1, round(video.end * self.fps) if self.varies else len(video.times))
        self._decoders = contextlib.ExitStack()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *failure: object) -> None:
        self._decoders.close()

    def __length_hint__(self) -> int:
        """How many frames there ought to be, by what the file says of itself."""
        return self._hint

    def __iter__(self) -> Iterator[Frame]:
        filters = f"fps=fps={self.fps}:round=near,{QUICK}" if self.varies else QUICK
        decoder = _Decoder(self.source, filters)
        self._decoders.callback(decoder.close)
        ring = [np.empty((self.size[1], self.size[0], 3), np.uint8) for _ in range(RING)]
        self.read = 0
        try:
            coming = decoder.ahead(ring[0])
            while coming.result():
                frame = ring[self.read % RING]
                self.read += 1
                coming = decoder.ahead(ring[self.read % RING])
                yield frame
        finally:
            decoder.close()

    def __getitem__(self, number: int) -> Frame:
        """One frame, by decoding all before it."""
        for frame in islice(self, number, None):
            return frame.copy()
        raise IndexError(number)


def rate_of(times: Sequence[Fraction], end: Fraction) -> tuple[Fraction, bool]:
    """The rate at which pictures shown at ``times`` until ``end``, seconds, are looked at; and whether theirs varies.

    It is even where no picture is a quarter of a step from its place at the mean rate: each then has a frame of its
    own. Else it is brought to one in which the pictures that are closest still have one each, ``FASTEST`` at most.
    """
    if len(times) < 2:
        return (min(1 / end, Fraction(FASTEST)) if end else Fraction(25)), False
    lasting = times[-1] - times[0]
    step = lasting / (len(times) - 1)
    if all(abs(time - times[0] - number * step) < step / 4 for number, time in enumerate(times)):
        # Containers that count in milliseconds are a little off a rate that is known by its name.
        named = max(1, round(1 / step))
        nearest = min((Fraction(named), Fraction(1000 * named, 1001)), key=lambda rate: abs(1 / rate - step))
        return (nearest if abs((len(times) - 1) / nearest - lasting) <= _ROUNDED else 1 / step), False
    least = min(after - before for before, after in pairwise(times))
    # A thirtieth of a second may be 33 milliseconds.
    return Fraction(max(1, min(FASTEST, math.ceil(1 / least - Fraction(1, 2))))), True


@dataclass
class _Listing:
    """What ffmpeg tells of a file."""

    size: tuple[int, int] = (0, 0)
    codec: str = ""
    unit: Fraction = Fraction(1)
    stamps: list[int] = field(default_factory=list)
    lasting: int = 0
    """How long the last picture is shown, in units; 0 where that is not said."""
    has_audio: bool = False
    hdr: bool = False
    interlaced: bool = False

    def take(self, line: str) -> None:
        """A line of the framecrc format, of which stream 0 is the video."""
        key, _, value = line.partition(": ")
        if key == "#tb 0":
            self.unit = Fraction(value)
        elif key == "#codec_id 0":
            self.codec = value
        elif key == "#dimensions 0":
            width, height = value.split("x")
            self.size = int(width), int(height)
        elif key == "#media_type 1":
            self.has_audio = value == "audio"
        elif match := _LINE.match(line):
            self.stamps.append(int(match["pts"]))
            self.lasting = int(match["duration"])

    def video(self, source: Path) -> Video:
        """The same in seconds. Raises ``DropreelError`` where that is no video."""
        if not self.stamps:
            raise _unreadable(source, "it has no pictures")
        if min(self.size) < LEAST_SIDE:
            raise _unreadable(source, f"a side has less than {LEAST_SIDE} pixels")
        stamps = sorted(self.stamps)
        last = self.lasting or (stamps[-1] - stamps[-2] if len(stamps) > 1 else 0)
        times = [(stamp - stamps[0]) * self.unit for stamp in stamps]
        return Video(self.size, times, times[-1] + last * self.unit, self.has_audio)


def _glance(source: Path) -> _Listing:
    """What a file says of itself, with the size of its first picture when it is upright and square."""
    with tempfile.TemporaryDirectory(prefix="dropreel-") as folder:
        first = Path(folder, "first")
        listing = _listing(
            source,
            ("-map", "0:V:0", "-c", "copy", "-map", "0:a:0?", "-f", "framecrc", "-"),
            ("-map", "0:V:0", *_reading(QUICK), "-frames:v", "1", "-f", "framecrc", "-y", str(first)),
        )
        upright = _Listing()
        for line in first.read_text().splitlines():
            upright.take(line)
    listing.size = upright.size
    if len(listing.stamps) == 1 and listing.codec in _IMAGES:
        raise _unreadable(source, "it is a still image")
    if math.prod(listing.size) > MOST_PIXELS:
        width, height = listing.size
        raise _unreadable(source, f"its pictures have {width}×{height} pixels, and {MOST_PIXELS:,} are the most")
    if len(set(listing.stamps)) < len(listing.stamps) or not listing.stamps:  # some containers keep no times
        exact = _listing(source, ("-map", "0:V:0", *_reading(QUICK)))
        exact.hdr, exact.interlaced = listing.hdr, listing.interlaced
        return exact
    return listing


def _listing(source: Path, *outputs: Sequence[str]) -> _Listing:
    """Have ffmpeg read a file to its end; the first of the outputs is what it tells of, in the framecrc format."""
    listing = _Listing()
    first, *others = outputs
    told = [] if "-f" in first else ["-f", "framecrc", "-"]
    words = ["-v", "level+info", "-nostats", *_reading_from(source), *first, *told, *(w for o in others for w in o)]
    try:
        said = process.run([ffmpeg_program(), *words], unwatched, limit=DAY, on_line=listing.take)
    except ProcessFailed as error:
        raise _unreadable(source, _reason(error)) from None
    if _CUT.search(said.stderr):  # a container without an index is read up to where it was cut, and no error is made
        raise _unreadable(source, _NOT_WHOLE)
    listing.hdr = bool(_HDR.search(said.stderr))
    listing.interlaced = bool(_INTERLACED.search(said.stderr))
    return listing


class _Decoder:
    """ffmpeg beside, decoding a file's pictures into a pipe. It ends with ``close``."""

    def __init__(self, source: Path, filters: str) -> None:
        self._source = source
        self._stopped = threading.Event()
        with contextlib.ExitStack() as stack:
            folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="dropreel-"))
            pipe = Path(folder, "pictures")
            os.mkfifo(pipe)
            self._fd = os.open(pipe, os.O_RDWR | os.O_NONBLOCK)  # so neither side waits for the other to open it
            stack.callback(os.close, self._fd)
            if sys.platform == "linux":
                with contextlib.suppress(OSError):  # a smaller pipe does too
                    fcntl.fcntl(self._fd, fcntl.F_SETPIPE_SZ, _PIPE_BYTES)
            self._reader = stack.enter_context(ThreadPoolExecutor(1, "reader"))
            # A child dies with the thread that starts it: this one lives until the child has ended.
            pool = stack.enter_context(ThreadPoolExecutor(1, "decoder"))
            stack.callback(self._stopped.set)
            words = [*_reading_from(source), "-map", "0:V:0", *_reading(filters)]
            raw = "-f", "rawvideo", "-pix_fmt", "rgb24", "-y", str(pipe)
            self._child: Future[Any] = pool.submit(
                process.run, [ffmpeg_program(), "-v", "level+error", *words, *raw], self._go_on, limit=DAY
            )
            self._stack = stack.pop_all()

    def close(self) -> None:
        """End ffmpeg, if it has not ended. Nothing is raised if it had failed; twice does no harm."""
        self._stack.close()

    def ahead(self, picture: Frame) -> Future[bool]:
        """``fill`` it meanwhile: nothing else may be read before that is done."""
        return self._reader.submit(self.fill, picture)

    def fill(self, picture: Frame) -> bool:
        """Read the next picture into ``picture``, C-contiguous; False at the end. Raises ``DropreelError``."""
        left = picture.data.cast("B")
        while left:
            if select.select([self._fd], [], [], 0 if self._child.done() else 0.05)[0]:
                left = left[os.readv(self._fd, [left]) :]
            elif self._child.done() and not select.select([self._fd], [], [], 0)[0]:
                try:
                    self._child.result()
                except ProcessFailed as error:
                    raise _unreadable(self._source, _reason(error)) from None
                return False
        return True

    def _go_on(self, _: float) -> None:
        if self._stopped.is_set():
            raise Stopped


def _reading_from(source: Path) -> list[str]:
    """The words that have ffmpeg read a file and nothing else, and end at its first error."""
    return ["-nostdin", "-hide_banner", "-xerror", "-protocol_whitelist", "file,pipe", "-i", str(source.absolute())]


def _reading(filters: str) -> tuple[str, ...]:
    """The words that decode pictures as they come and when they come; ffmpeg turns them upright by itself."""
    return "-vf", filters, "-fps_mode", "passthrough", "-enc_time_base", "demux"


def _reason(error: ProcessFailed) -> str:
    """What ffmpeg said last, of what went wrong."""
    if "matches no streams" in error.stderr:
        return "it holds no moving pictures"
    if _CUT.search(error.stderr):
        return _NOT_WHOLE
    said = re.findall(r"\[(?:error|fatal)\] (.+)", error.stderr)
    return str(said[-1]).strip() if said else str(error)


def _unreadable(source: Path, what: str) -> DropreelError:
    return DropreelError(f"{source} cannot be read as a video: {what}. Name a video that plays.")
