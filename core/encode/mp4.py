"""What an MP4 file says of itself, read strictly: a box that lies about its size is refused, never believed.

The boxes are those of ISO/IEC 14496-12 (ISO base media file format) and the sample entry that of 14496-15.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

from core.errors import DropreelError

MAX_INDEX_BYTES = 16 << 20
"""A ``moov`` box beyond this is refused: that of an hour at 60 fps has 4 MB."""


class BrokenMp4(DropreelError):
    """This is not an MP4 file of one video track, or it is damaged."""

    def __init__(self, what: str) -> None:
        super().__init__(f"{self.__doc__} {what}")


class Colour(NamedTuple):
    """A ``colr`` box of type ``nclx``: code points of ITU-T H.273."""

    primaries: int
    transfer: int
    matrix: int
    full_range: bool


BT709 = Colour(1, 1, 1, full_range=False)


class Movie(NamedTuple):
    """One video track at a constant rate."""

    codec: str
    """The sample entry: ``hvc1``, ``hev1``, ``avc1``."""
    size: tuple[int, int]
    """Width and height, of the pictures and on the screen alike."""
    frames: int
    rate: Fraction
    """Frames a second."""
    colour: Colour | None
    """None where the container does not say."""
    index_first: bool
    """Whether ``moov`` comes before ``mdat``, so that it plays before all of it is there."""


def read(path: Path) -> Movie:
    """Read the index of an MP4 file. Raises ``BrokenMp4`` for whatever it is not sure of."""
    with path.open("rb") as file:
        order: list[bytes] = []
        index = b""
        for kind, start, end in _top(file, os.fstat(file.fileno()).st_size):
            order.append(kind)
            if kind == b"moov":
                if end - start > MAX_INDEX_BYTES:
                    raise BrokenMp4(f"Its index has {end - start} bytes.")
                file.seek(start)
                index = file.read(end - start)
    if not order or order[0] != b"ftyp":
        raise BrokenMp4("It does not begin with a ftyp box.")
    for kind in (b"moov", b"mdat"):
        if order.count(kind) != 1:
            raise BrokenMp4(f"It has {order.count(kind)} {kind.decode()} boxes instead of 1.")
    return _movie(index, index_first=order.index(b"moov") < order.index(b"mdat"))


def _movie(index: bytes, *, index_first: bool) -> Movie:
    track = _only(memoryview(index), b"trak")
    media = _only(track, b"mdia")
    if _field(">4s", _only(media, b"hdlr"), 8)[0] != b"vide":
        raise BrokenMp4("Its track is no video.")
    table = _only(_only(media, b"minf"), b"stbl")
    codec, size, colour = _sample_entry(_only(table, b"stsd"))
    if (shown := _shown_size(_only(track, b"tkhd"))) != size:
        raise BrokenMp4(f"Its pictures have {size} pixels and are shown at {shown}.")
    frames = _sample_count(_only(table, b"stsz"))
    timescale, duration = _media_time(_only(media, b"mdhd"))
    step = _sample_step(_only(table, b"stts"), frames)
    if duration != frames * step:
        raise BrokenMp4(f"It claims {duration} units of time for {frames} frames of {step}.")
    return Movie(codec, size, frames, Fraction(timescale, step), colour, index_first)


def _top(file: BinaryIO, end: int) -> Iterator[tuple[bytes, int, int]]:
    """The outermost boxes: kind, and where the content starts and ends in the file."""
    start = 0
    while start < end:
        file.seek(start)
        kind, head, size = _header(memoryview(file.read(16)), end - start)
        yield kind, start + head, start + size
        start += size


def _boxes(data: memoryview) -> Iterator[tuple[bytes, memoryview]]:
    """The boxes that lie side by side in ``data``: kind and content."""
    while data:
        kind, head, size = _header(data, len(data))
        yield kind, data[head:size]
        data = data[size:]


def _header(data: memoryview, room: int) -> tuple[bytes, int, int]:
    """The kind of a box, the size of its header, its size as a whole; the box lies within ``room`` bytes."""
    size, kind = _field(">I4s", data, 0)
    head = 8
    if size == 1:
        (size,), head = _field(">Q", data, 8), 16
    if not head <= size <= room:
        raise BrokenMp4(f"A box {bytes(kind)!r} claims {size} bytes where {room} are left.")
    return bytes(kind), head, size


def _only(data: memoryview, wanted: bytes) -> memoryview:
    """The content of the one box of that kind."""
    found = [content for kind, content in _boxes(data) if kind == wanted]
    if len(found) != 1:
        raise BrokenMp4(f"It has {len(found)} {wanted.decode()} boxes in one place instead of 1.")
    return found[0]


def _field(layout: str, data: memoryview, offset: int) -> tuple[Any, ...]:
    try:
        return struct.unpack_from(layout, data, offset)
    except struct.error as error:
        raise BrokenMp4(f"A box of {len(data)} bytes ends before its content does.") from error


def _shown_size(tkhd: memoryview) -> tuple[int, int]:
    width, height = _field(">II", tkhd, 88 if _field(">B", tkhd, 0)[0] == 1 else 76)
    if (width | height) & 0xFFFF:
        raise BrokenMp4("It is shown at a broken number of pixels.")
    return width >> 16, height >> 16


def _media_time(mdhd: memoryview) -> tuple[int, int]:
    """Units a second, and the track's length in them."""
    version_1 = _field(">B", mdhd, 0)[0] == 1
    timescale, duration = _field(">IQ", mdhd, 20) if version_1 else _field(">II", mdhd, 12)
    if timescale == 0:
        raise BrokenMp4("Its seconds have no units.")
    return timescale, duration


def _sample_entry(stsd: memoryview) -> tuple[str, tuple[int, int], Colour | None]:
    if _field(">I", stsd, 4)[0] != 1:
        raise BrokenMp4("Its format changes on the way.")
    try:
        [(kind, entry)] = _boxes(stsd[8:])
    except ValueError as error:
        raise BrokenMp4("It does not have the one format that it claims.") from error
    width, height = _field(">HH", entry, 24)
    colour = None
    for box, content in _boxes(entry[78:]):
        if box == b"colr" and bytes(content[:4]) == b"nclx":
            primaries, transfer, matrix, flags = _field(">HHHB", content, 4)
            colour = Colour(primaries, transfer, matrix, full_range=bool(flags & 0x80))
    return kind.decode("latin-1"), (width, height), colour


def _sample_count(stsz: memoryview) -> int:
    common, count = _field(">II", stsz, 4)
    if count == 0 or len(stsz) != 12 + (0 if common else 4 * count):
        raise BrokenMp4(f"It lists the sizes of {count} frames in {len(stsz)} bytes.")
    return int(count)


def _sample_step(stts: memoryview, frames: int) -> int:
    """How long every frame lasts."""
    runs = _field(">I", stts, 4)[0]
    if len(stts) != 8 + 8 * runs:
        raise BrokenMp4(f"It lists {runs} runs of frame times in {len(stts)} bytes.")
    counts, steps = zip(*struct.iter_unpack(">II", stts[8:]), strict=True) if runs else ((), ())
    if sum(counts) != frames or len(set(steps)) != 1 or steps[0] == 0:
        raise BrokenMp4(f"Its {frames} frames do not come at one rate.")
    return int(steps[0])
