"""The MP4 reader against files built box by box: it reads what they say and believes no box that lies."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.encode import mp4


def box(kind: bytes, *content: bytes) -> bytes:
    body = b"".join(content)
    return struct.pack(">I4s", 8 + len(body), kind) + body


def full(kind: bytes, *content: bytes, version: int = 0) -> bytes:
    return box(kind, struct.pack(">I", version << 24), *content)


def tkhd(width: int, height: int, version: int = 0) -> bytes:
    times = struct.pack(">QQIIQ", 0, 0, 1, 0, 9) if version else struct.pack(">IIIII", 0, 0, 1, 0, 9)
    return full(b"tkhd", times, bytes(52), struct.pack(">II", width << 16, height << 16), version=version)


def mdhd(timescale: int, duration: int, version: int = 0) -> bytes:
    layout = ">QQIQI" if version else ">IIIII"
    return full(b"mdhd", struct.pack(layout, 0, 0, timescale, duration, 0), version=version)


def stsd(*entries: bytes) -> bytes:
    return full(b"stsd", struct.pack(">I", len(entries)), *entries)


def entry(width: int, height: int, *boxes: bytes, kind: bytes = b"hvc1") -> bytes:
    return box(kind, bytes(24), struct.pack(">HH", width, height), bytes(50), *boxes)


def colr(*codes: int, full_range: bool = False, kind: bytes = b"nclx") -> bytes:
    return box(b"colr", kind, struct.pack(">HHH", *codes), bytes([full_range << 7]))


def stts(*runs: tuple[int, int]) -> bytes:
    return full(b"stts", struct.pack(">I", len(runs)), *(struct.pack(">II", *run) for run in runs))


def stsz(sizes: Sequence[int], common: int = 0) -> bytes:
    table = b"" if common else struct.pack(f">{len(sizes)}I", *sizes)
    return full(b"stsz", struct.pack(">II", common, len(sizes)), table)


HVCC = box(b"hvcC", bytes(22))
FTYP = box(b"ftyp", b"isom", bytes(4), b"hvc1")
MDAT = box(b"mdat", bytes(24))


class Parts:
    """The boxes of a good file; a test puts a bad one in the place of one of them."""

    def __init__(self, **changed: bytes) -> None:
        self.tkhd = tkhd(1024, 576)
        self.mdhd = mdhd(15360, 3 * 512)
        self.hdlr = full(b"hdlr", bytes(4), b"vide", bytes(13))
        self.stsd = stsd(entry(1024, 576, HVCC, colr(1, 1, 1)))
        self.stts = stts((3, 512))
        self.stsz = stsz([9, 8, 7])
        for name, value in changed.items():
            assert hasattr(self, name)
            setattr(self, name, value)

    @property
    def trak(self) -> bytes:
        minf = box(b"minf", box(b"stbl", self.stsd, self.stts, self.stsz))
        return box(b"trak", self.tkhd, box(b"mdia", self.mdhd, self.hdlr, minf))

    @property
    def moov(self) -> bytes:
        return box(b"moov", full(b"mvhd", bytes(96)), self.trak, box(b"udta"))


GOOD = FTYP + Parts().moov + box(b"free") + MDAT


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("mp4") / "clip.mp4"


def read(path: Path, content: bytes) -> mp4.Movie:
    path.write_bytes(content)
    return mp4.read(path)


def read_with(path: Path, **changed: bytes) -> mp4.Movie:
    return read(path, FTYP + Parts(**changed).moov + MDAT)


def test_a_good_file_is_read(path: Path) -> None:
    assert read(path, GOOD) == mp4.Movie(
        codec="hvc1", size=(1024, 576), frames=3, rate=Fraction(30), colour=mp4.BT709, index_first=True
    )


def test_an_index_at_the_end_is_seen(path: Path) -> None:
    assert not read(path, FTYP + MDAT + Parts().moov).index_first


def test_long_forms_of_boxes_are_read_alike(path: Path) -> None:
    wide = struct.pack(">I4sQ", 1, b"mdat", 16 + 24) + bytes(24)
    long = Parts(tkhd=tkhd(1024, 576, 1), mdhd=mdhd(15360, 3 * 512, 1), stsz=stsz(range(3), common=9))
    assert read(path, FTYP + long.moov + wide) == read(path, GOOD)


@pytest.mark.parametrize(
    ("codec", "colour"),
    [
        (b"hvc1", mp4.Colour(9, 16, 9, full_range=True)),
        (b"hev1", None),
        (b"avc1", mp4.Colour(6, 6, 6, full_range=False)),
    ],
)
def test_codec_and_colour_are_told_as_they_are(path: Path, codec: bytes, colour: mp4.Colour | None) -> None:
    boxes = [] if colour is None else [colr(*colour[:3], full_range=colour.full_range)]
    movie = read_with(path, stsd=stsd(entry(1024, 576, HVCC, *boxes, kind=codec)))
    assert (movie.codec.encode(), movie.colour) == (codec, colour)


def test_a_colour_profile_is_not_taken_for_code_points(path: Path) -> None:
    assert read_with(path, stsd=stsd(entry(1024, 576, colr(1, 1, 1, kind=b"prof")))).colour is None


def test_the_rate_is_exact(path: Path) -> None:
    ntsc = read_with(path, mdhd=mdhd(30000, 3 * 1001), stts=stts((1, 1001), (2, 1001)))
    assert ntsc.rate == Fraction(30000, 1001)


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"stts": stts((2, 512), (1, 513))}, "not come at one rate"),
        ({"stts": stts((2, 512))}, "not come at one rate"),
        ({"stts": stts((3, 0))}, "not come at one rate"),
        ({"stts": stts()}, "not come at one rate"),
        ({"stts": full(b"stts", struct.pack(">I", 1 << 31), bytes(8))}, "2147483648 runs"),
        ({"stsz": full(b"stsz", struct.pack(">II", 0, 1 << 31), bytes(12))}, "sizes of 2147483648 frames"),
        ({"stsz": stsz([])}, "sizes of 0 frames"),
        ({"mdhd": mdhd(15360, 3 * 512 + 1)}, "1537 units of time for 3 frames of 512"),
        ({"mdhd": mdhd(0, 3 * 512)}, "seconds have no units"),
        ({"mdhd": full(b"mdhd", bytes(8))}, "ends before its content"),
        ({"tkhd": tkhd(1024, 1024)}, r"shown at \(1024, 1024\)"),
        ({"tkhd": tkhd(1024, 576)[:-1] + b"\1"}, "broken number of pixels"),
        ({"hdlr": full(b"hdlr", bytes(4), b"soun", bytes(13))}, "no video"),
        ({"hdlr": b""}, "0 hdlr boxes"),
        ({"stsd": stsd()}, "format changes"),
        ({"stsd": stsd(*[entry(1024, 576)] * 2)}, "format changes"),
        ({"stsd": full(b"stsd", struct.pack(">I", 1))}, "not have the one format"),
        ({"stsd": stsd(box(b"hvc1", bytes(12)))}, "ends before its content"),
        ({"stsd": stsd(entry(1024, 576, box(b"colr", b"nclx", bytes(3))))}, "ends before its content"),
        ({"stsd": stsd(entry(1024, 576, struct.pack(">I4s", 7, b"colr")))}, "claims 7 bytes where 8 are left"),
        ({"stsd": stsd(entry(1024, 576, struct.pack(">I4s", 9, b"colr")))}, "claims 9 bytes where 8 are left"),
    ],
)
def test_what_cannot_be_is_refused(path: Path, changed: dict[str, bytes], words: str) -> None:
    with pytest.raises(mp4.BrokenMp4, match=words):
        read_with(path, **changed)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "ftyp"),
        (GOOD[len(FTYP) :], "ftyp"),
        (FTYP + MDAT, "0 moov boxes"),
        (FTYP + Parts().moov, "0 mdat boxes"),
        (GOOD + Parts().moov, "2 moov boxes"),
        (FTYP + box(b"moov", Parts().trak, Parts().trak) + MDAT, "2 trak boxes"),
        (FTYP + box(b"moov", Parts().trak, bytes(3)) + MDAT, "ends before its content"),
        (GOOD[:-1], r"b'mdat' claims 32 bytes where 31 are left"),
        (GOOD + bytes(3), "ends before its content"),
        (GOOD + bytes(8), "claims 0 bytes"),
        (GOOD + struct.pack(">I4sQ", 1, b"free", 15), "claims 15 bytes where 16"),
        (GOOD + struct.pack(">I4sQ", 1, b"free", 1 << 63), "claims 9223372036854775808 bytes"),
    ],
)
def test_a_file_that_does_not_add_up_is_refused(path: Path, content: bytes, words: str) -> None:
    with pytest.raises(mp4.BrokenMp4, match=words):
        read(path, content)


def test_an_index_without_measure_is_not_read_into_memory(path: Path) -> None:
    size = mp4.MAX_INDEX_BYTES + 9
    with path.open("wb") as file:
        file.write(FTYP + struct.pack(">I4s", size, b"moov"))
        file.truncate(len(FTYP) + size)
    with pytest.raises(mp4.BrokenMp4, match="index has 16777217 bytes"):
        mp4.read(path)


@given(st.integers(0, len(GOOD) - 1))
def test_no_beginning_of_a_file_passes_for_the_file(path: Path, length: int) -> None:
    with pytest.raises(mp4.BrokenMp4):
        read(path, GOOD[:length])


@given(st.lists(st.tuples(st.integers(0, len(GOOD) - 1), st.integers(0, 255)), min_size=1, max_size=4))
def test_damage_is_refused_or_harmless_and_never_another_error(path: Path, damage: list[tuple[int, int]]) -> None:
    content = bytearray(GOOD)
    for place, value in damage:
        content[place] = value
    try:
        movie = read(path, bytes(content))
    except mp4.BrokenMp4:
        return
    assert movie.frames == 3
    assert movie.rate > 0


@given(st.binary(max_size=200))
def test_an_index_of_anything_is_refused(path: Path, content: bytes) -> None:
    with pytest.raises(mp4.BrokenMp4):
        read(path, FTYP + box(b"moov", content) + MDAT)
