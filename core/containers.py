"""What a PNG, JPEG or WebP file says of itself before anything is decoded: size, turn, colours, and its end.

Everything is found by the length fields of the container, in one pass that allocates no more than the file
holds. What is passed on to the decoder carries no metadata: EXIF blocks, text chunks, previews and frames of
animations reach no parser but the few lines here.
"""

from __future__ import annotations

import contextlib
import re
import struct
import zlib
from typing import NamedTuple

_MAX_PARTS = 50_000  # chunks or segments; a picture that can be taken has far fewer
_MAX_SCANS = 500  # of a progressive JPEG, which has about ten; each is a pass over the whole picture
_MAX_PROFILE_BYTES = 8 << 20

_JPEG_SEGMENT = re.compile(rb"\xff([\x02-\xcf\xda-\xfe])(..)", re.DOTALL)


class Header(NamedTuple):
    """What is known of a picture without decoding it."""

    format: str
    size: tuple[int, int]
    """Width and height as stored, before turning."""
    body: bytes
    """The file without its metadata: all that a decoder needs."""
    turn: int = 1
    """EXIF orientation, 1 to 8; 1 is upright, from 5 on the picture lies on its side."""
    profile: bytes = b""
    """The embedded ICC profile, unchecked; empty if there is none."""
    bits: int = 8
    """Per sample."""
    grey: bool = False
    frames: int = 1


def read_header(data: bytes) -> Header | None:
    """Read the header of a PNG, JPEG or WebP file; None if it is none of them.

    Raises `EOFError` if the file ends before its picture does, `ValueError` if it contradicts itself.
    """
    try:
        if data.startswith(b"\x89PNG\r\n\x1a\n"):
            return _png(data)
        if data.startswith(b"\xff\xd8\xff"):
            return _jpeg(data)
        if data.startswith(b"RIFF") and data[8:12] == b"WEBP":
            return _webp(data)
    except (IndexError, struct.error) as error:
        raise EOFError("a length field points past the end of the file") from error
    return None


def _png(data: bytes) -> Header:
    """PNG, third edition, §5 and §11."""
    kept, extra, at = [data[:8]], dict[bytes, bytes](), 8
    for _ in range(_MAX_PARTS):
        length, kind = struct.unpack_from(">I4s", data, at)
        (checksum,) = struct.unpack_from(">I", data, at + 8 + length)
        if zlib.crc32(memoryview(data)[at + 4 : at + 8 + length]) != checksum:
            raise ValueError("a checksum does not match")
        if kind in {b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"IEND"}:
            kept.append(data[at : at + 12 + length])
        elif kind in {b"iCCP", b"eXIf", b"acTL"}:
            extra[kind] = data[at + 8 : at + 8 + length]
        if kind == b"IEND":
            break
        at += 12 + length
    else:
        raise ValueError("it is cut into too many chunks")
    width, height, bits, colour_type = struct.unpack_from(">IIBB", data, 16)
    profile = extra.get(b"iCCP", b"").partition(b"\0")[2][1:]
    with contextlib.suppress(zlib.error):  # left as it is, it opens as no profile either
        profile = zlib.decompressobj().decompress(profile, _MAX_PROFILE_BYTES)
    return Header(
        "PNG",
        (width, height),
        b"".join(kept),
        turn=_orientation(extra.get(b"eXIf", b"")),
        profile=profile,
        bits=bits,
        grey=colour_type in {0, 4},
        frames=int.from_bytes(extra.get(b"acTL", b"")[:4]) or 1,
    )


def _jpeg(data: bytes) -> Header:
    """ITU-T T.81 annex B; Exif in APP1, ICC in APP2 (ICC.1 annex B.4), JFIF and Adobe in APP0 and APP14."""
    kept, exif, profile = [data[:2]], b"", dict[bytes, bytes]()
    size, progressive, at = (0, 0), False, 2
    for _ in range(_MAX_PARTS):
        segment = _JPEG_SEGMENT.search(data, at)
        if segment is None:
            raise EOFError("it has no picture")
        start, marker = segment.start(), segment[1][0]
        if marker == 0xDA:  # start of scan
            break
        at = start + 2 + int.from_bytes(segment[2])
        part = data[start + 4 : at]
        if marker == 0xE1 and part.startswith(b"Exif\0\0"):
            exif = exif or part
        elif marker == 0xE2 and part.startswith(b"ICC_PROFILE\0"):
            profile[part[12:13]] = part[14:]  # by its place in the row of them
        elif marker in {0xE0, 0xEE} or not 0xE0 <= marker <= 0xFE:  # no metadata: how colour is coded, tables
            kept.append(data[start:at])
        if 0xC0 <= marker <= 0xCF and marker not in {0xC4, 0xC8, 0xCC}:
            height, width = struct.unpack_from(">HH", part, 1)
            size, progressive = (width, height), marker in {0xC2, 0xC6, 0xCA, 0xCE}
    else:
        raise ValueError("it is cut into too many segments")
    if data.rfind(b"\xff\xd9", start) < 0:
        raise EOFError("it has no end")
    if progressive and data.count(b"\xff\xda", start) > _MAX_SCANS:
        raise ValueError("it has too many scans")
    body = b"".join((*kept, data[start:]))
    return Header("JPEG", size, body, _orientation(exif), b"".join(profile[i] for i in sorted(profile)))


def _webp(data: bytes) -> Header:
    """RFC 9649, §2."""
    end, extra, frames, at = 8 + int.from_bytes(data[4:8], "little"), dict[bytes, bytes](), 0, 12
    if end > len(data):
        raise EOFError("it is shorter than it says")
    for _ in range(_MAX_PARTS):
        if at + 8 > end:
            break
        kind, length = struct.unpack_from("<4sI", data, at)
        if kind in {b"ICCP", b"EXIF"}:
            extra[kind] = data[at + 8 : at + 8 + length]
        frames += kind == b"ANMF"
        at += 8 + length + length % 2
    else:
        raise ValueError("it is cut into too many chunks")
    turn = _orientation(extra.get(b"EXIF", b""))
    return Header("WebP", _webp_size(data), data, turn, extra.get(b"ICCP", b""), frames=frames or 1)


def _webp_size(data: bytes) -> tuple[int, int]:
    """Of the canvas, from the first chunk: extended, lossless or lossy."""
    if data[12:16] == b"VP8X":
        return 1 + int.from_bytes(data[24:27], "little"), 1 + int.from_bytes(data[27:30], "little")
    if data[12:16] == b"VP8L":
        (both,) = struct.unpack_from("<I", data, 21)
        return 1 + (both & 0x3FFF), 1 + (both >> 14 & 0x3FFF)
    width, height = struct.unpack_from("<HH", data, 26)
    return width & 0x3FFF, height & 0x3FFF


def _orientation(exif: bytes) -> int:
    """Tag 0x0112 of the first directory (CIPA DC-008 §4.6); 1 where there is none or it makes no sense."""
    exif = exif.removeprefix(b"Exif\0\0")
    order = {b"II": "<", b"MM": ">"}.get(exif[:2])
    if order is None:
        return 1
    try:
        (directory,) = struct.unpack_from(order + "I", exif, 4)
        (count,) = struct.unpack_from(order + "H", exif, directory)
        for entry in range(directory + 2, directory + 2 + 12 * count, 12):
            tag, _, _, value = struct.unpack_from(order + "HHIH", exif, entry)
            if tag == 0x0112:
                return value if 1 <= value <= 8 else 1
    except struct.error:
        pass
    return 1
