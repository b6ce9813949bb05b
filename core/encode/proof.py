"""Proves that an encoded clip is what was ordered: its index read strictly, its every picture decoded."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from fractions import Fraction
from itertools import zip_longest
from pathlib import Path
from typing import NamedTuple

from pydantic import BaseModel, ConfigDict

from core.encode import mp4
from core.encode.command import decode_command, ffmpeg_program
from core.encode.run import run_ffmpeg
from core.errors import DropreelError, ProcessFailed
from core.work import Report

_SCORES = re.compile(r"^(Frame|\d+),.*\n?", re.MULTILINE)


class ProofFailed(DropreelError):
    """The encoded clip is not what it should be."""

    def __init__(self, wrong: list[str]) -> None:
        super().__init__(f"{self.__doc__} {'; '.join(wrong)}.")
        self.wrong = wrong


class Proof(BaseModel):
    """What was found in a clip, all of it as ordered."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    frames: int
    """Pictures decoded without an error, each with the MD5 that it had when the encoder made it."""
    fps: int
    seconds: float
    width: int
    height: int
    codec: str
    colour: tuple[int, int, int]
    """Primaries, transfer and matrix as in ITU-T H.273; BT.709 is 1, 1, 1."""


class Decoding(NamedTuple):
    """A command that does more than ``decode_command`` and says the same, with what it reads."""

    command: list[str]
    stdin: Iterable[memoryview] | None
    heard: Callable[[str], object] = str
    """Is given what it says on stderr, where it ends well."""


def prove(
    path: Path,
    frames: int,
    fps: int,
    size: tuple[int, int],
    report: Report,
    *,
    tag: str = "hvc1",
    md5s: Sequence[str] | None = None,
    decoding: Decoding | None = None,
    limit: float = 600.0,
) -> Proof:
    """Read and decode the whole of a clip of ``frames`` frames of ``size``, (width, height).

    Where the encoder signs no pictures, ``md5s`` are what its own came to as they were made. ``decoding`` takes the
    place of ``decode_command`` where the pictures are wanted for something else besides.

    Raises ``ProofFailed``, which names all that is wrong, ``DiskFull``, and whatever ``report`` raises.
    """
    try:
        movie = mp4.read(path)
    except mp4.BrokenMp4 as error:
        raise ProofFailed([str(error)]) from error
    wrong = _differences(
        ("codec tag", tag, movie.codec),
        ("size", size, movie.size),
        ("frame count", frames, movie.frames),
        ("frame rate", Fraction(fps), movie.rate),
        ("colour", mp4.BT709, movie.colour),
        ("index before the pictures", True, movie.index_first),
    )
    decoded = Decoded(frames)
    if decoding is None:
        command = decode_command(ffmpeg_program(), path.absolute(), md5=md5s is not None)
        decoding = Decoding(command, None)
    try:
        said = run_ffmpeg(decoding.command, report, limit=limit, stdin=decoding.stdin, on_line=decoded)
    except ProcessFailed as error:
        wrong.append(f"picture {len(decoded.times)} cannot be decoded: {_complaint(error)}")
    else:
        wrong += _differences(
            ("decoded size", size, decoded.size),
            ("decoded frame count", frames, len(decoded.times)),
            ("first frame off its time", None, decoded.first_off_time(fps)),
        )
        if md5s is not None:
            wrong += _differences(("first picture that is not what the encoder made", None, decoded.first_other(md5s)))
    if wrong:
        raise ProofFailed(wrong)
    decoding.heard(said.stderr)
    return Proof(
        frames=frames,
        fps=fps,
        seconds=frames / fps,
        width=size[0],
        height=size[1],
        codec=movie.codec,
        colour=mp4.BT709[:3],
    )


class Decoded:
    """The pictures that came out, read from the lines of ffmpeg's ``framecrc`` format, or ``framemd5``."""

    def __init__(self, expected: int) -> None:
        self.expected = expected
        self.size: tuple[int, ...] = ()
        self.times: list[int] = []
        self.sums: list[str] = []
        self.unit = Fraction(0)

    def __call__(self, line: str) -> float:
        key, _, value = line.partition(": ")
        if key == "#tb 0":
            self.unit = Fraction(value)
        elif key == "#dimensions 0":
            self.size = tuple(map(int, value.split("x")))
        elif not line.startswith("#"):
            _stream, _dts, pts, _duration, _size, checksum, *_ = line.split(",")
            self.times.append(int(pts))
            self.sums.append(checksum.strip())
        return min(1.0, len(self.times) / self.expected)

    def first_off_time(self, fps: int) -> int | None:
        """The first picture that is not shown where a constant rate from 0 would have it."""
        shown = (time * self.unit * fps for time in self.times)
        return next((n for n, place in enumerate(shown) if place != n), None)

    def first_other(self, sums: Sequence[str]) -> int | None:
        """The first picture whose checksum is another."""
        return next((n for n, (own, other) in enumerate(zip_longest(self.sums, sums)) if own != other), None)


def _complaint(error: ProcessFailed) -> object:
    """What ffmpeg says of a failure; scores that it gives beside that are none of it."""
    return _SCORES.sub("", error.stderr).strip()[-1000:] or error


def _differences(*facts: tuple[str, object, object]) -> list[str]:
    return [f"{name}: {found} instead of {wanted}" for name, wanted, found in facts if found != wanted]
