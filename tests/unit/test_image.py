"""Images of every kind that strangers make come out right or are refused; each file is made for its test."""

from __future__ import annotations

import io
import itertools
import json
import struct
import subprocess
import sys
import zlib
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image, ImageCms

from core.errors import Refused
from core.image import Picture, decode, open_image
from core.limits import ImageLimits

Pixels = npt.NDArray[np.uint8]

SMALL = ImageLimits(min_side=1)
"""For pictures of a few pixels."""


# --- files, made by hand where the point is in the bytes


def chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def png(
    samples: npt.NDArray[Any], colour_type: int, bits: int, *before: bytes, after: bytes = b"", level: int = 6
) -> bytes:
    """A PNG of samples ``(H, W)`` or ``(H, W, C)``, with chunks ``before`` and ``after`` the picture."""
    height, width = samples.shape[:2]
    if bits < 8:
        places = samples[..., None] >> np.arange(bits)[::-1] & 1
        rows = np.packbits(places.reshape(height, -1).astype(np.uint8), axis=1)
    else:
        rows = samples.astype(">u2" if bits == 16 else "u1").reshape(height, -1)
    raw = b"".join(b"\0" + row.tobytes() for row in rows)
    header = struct.pack(">IIBBBBB", width, height, bits, colour_type, 0, 0, 0)
    return b"".join(
        (
            *(b"\x89PNG\r\n\x1a\n", chunk(b"IHDR", header), *before),
            *(chunk(b"IDAT", zlib.compress(raw, level)), after, chunk(b"IEND", b"")),
        )
    )


LITTLE_LOSS = {"quality": 100, "subsampling": 0, "lossless": True}


def saved(image: Image.Image | Pixels, form: str, **options: Any) -> bytes:
    file = io.BytesIO()
    (image if isinstance(image, Image.Image) else Image.fromarray(image)).save(file, form, **options)
    return file.getvalue()


def exif(orientation: int, order: str = ">") -> bytes:
    """A TIFF block with two entries, of which the orientation is the second."""
    head = b"MM\0*" if order == ">" else b"II*\0"
    width = struct.pack(order + "HHII", 0x0100, 4, 1, 3000)
    turn = struct.pack(order + "HHIHH", 0x0112, 3, 1, orientation, 0)
    return head + struct.pack(order + "IH", 8, 2) + width + turn + bytes(4)


def fixed(*values: float) -> bytes:
    """ICC s15Fixed16Number."""
    return b"".join(struct.pack(">i", round(value * 65536)) for value in values)


def icc(space: bytes, pcs: bytes, kind: bytes, tags: dict[bytes, bytes], version: int = 4) -> bytes:
    """An ICC profile (ICC.1:2010 §7): header, table, tags."""
    table, body, start = b"", b"", 132 + 12 * len(tags)
    for name, tag in tags.items():
        table += name + struct.pack(">II", start + len(body), len(tag))
        body += tag + bytes(-len(tag) % 4)
    head = struct.pack(">I4sI4s4s4s", start + len(body), b"test", version << 24, kind, space, pcs)
    head = (head + bytes(12) + b"acsp").ljust(68, b"\0") + fixed(0.9642, 1.0, 0.8249)
    return head.ljust(128, b"\0") + struct.pack(">I", len(tags)) + table + body


def to_xyz(primaries: Iterable[tuple[float, float]], white: tuple[float, float] = (0.3127, 0.3290)) -> Any:
    """The matrix from linear RGB to XYZ for primaries and a white in xy (SMPTE RP 177)."""
    columns = np.array([(x / y, 1, (1 - x - y) / y) for x, y in primaries]).T
    x, y = white
    return columns * np.linalg.solve(columns, np.array((x / y, 1, (1 - x - y) / y)))


def encoded(linear: Any) -> Any:
    """IEC 61966-2-1, clipped to the gamut, as 0 to 255."""
    light = np.clip(linear, 0, 1)
    return 255 * np.where(light <= 0.0031308, 12.92 * light, 1.055 * light ** (1 / 2.4) - 0.055)


def decoded(levels: Any) -> Any:
    value = np.asarray(levels) / 255
    return np.where(value <= 0.04045, value / 12.92, ((value + 0.055) / 1.055) ** 2.4)


BRADFORD = np.array([[0.8951, 0.2664, -0.1614], [-0.7502, 1.7135, 0.0367], [0.0389, -0.0685, 1.0296]])
D50, D65 = np.array([0.9642, 1.0, 0.8249]), np.array([0.3127, 0.3290, 0.3583]) / 0.3290
TO_D50 = np.linalg.inv(BRADFORD) @ np.diag((BRADFORD @ D50) / (BRADFORD @ D65)) @ BRADFORD

SRGB = to_xyz([(0.640, 0.330), (0.300, 0.600), (0.150, 0.060)])
P3 = to_xyz([(0.680, 0.320), (0.265, 0.690), (0.150, 0.060)])
SRGB_CURVE = b"para\0\0\0\0\0\3\0\0" + fixed(2.4, 1 / 1.055, 0.055 / 1.055, 1 / 12.92, 0.04045)


def display(primaries: Any, curve: bytes) -> bytes:
    columns = zip(b"rgb", (TO_D50 @ primaries).T, strict=True)
    tags = {b"%cXYZ" % letter: b"XYZ \0\0\0\0" + fixed(*column) for letter, column in columns}
    return icc(b"RGB ", b"XYZ ", b"mntr", tags | {b"%cTRC" % letter: curve for letter in b"rgb"})


def display_p3() -> bytes:
    return display(P3, SRGB_CURVE)


def linear_grey() -> bytes:
    white = b"XYZ \0\0\0\0" + fixed(*D50)
    return icc(b"GRAY", b"XYZ ", b"mntr", {b"wtpt": white, b"kTRC": b"curv" + bytes(8)})


def cmyk_press(corners: Mapping[tuple[int, ...], tuple[float, float, float]]) -> bytes:
    """A press whose 16 solid overprints have these CIELAB colours beside its yellowish paper (lut8Type).

    Those not given are black. Back from CIELAB, it prints with black ink alone.
    """
    solid = b""
    for inks in itertools.product((0, 1), repeat=4):
        lightness, a, b = corners.get(inks, (0.0, 0.0, 0.0))
        solid += bytes((round(lightness * 2.55), round(a + 128), round(b + 128)))
    straight, same = bytes(range(256)), fixed(1, 0, 0, 0, 1, 0, 0, 0, 1)
    tags = {
        b"A2B0": b"mft1" + bytes(4) + bytes((4, 3, 2, 0)) + same + straight * 4 + solid + straight * 3,
        b"B2A0": b"mft1" + bytes(4) + bytes((3, 4, 2, 0)) + same + straight * 3
        + b"\0\0\0\xff" * 4 + bytes(16) + straight * 4,
        b"wtpt": b"XYZ \0\0\0\0" + fixed(0.80, 0.83, 0.55),
    }  # fmt: skip
    return icc(b"CMYK", b"Lab ", b"prtr", tags, version=2)


def from_lab(lightness: float, a: float, b: float) -> Any:
    """CIELAB under D50 to sRGB (CIE 15, Bradford)."""
    y = (lightness + 16) / 116
    f = np.array([y + a / 500, y, y - b / 200])
    xyz = D50 * np.where(f > 6 / 29, f**3, 3 * (6 / 29) ** 2 * (f - 4 / 29))
    return encoded(np.linalg.inv(SRGB) @ np.linalg.inv(TO_D50) @ xyz)


def patches(colours: Iterable[tuple[int, ...]], side: int = 16) -> Pixels:
    """Squares in a row: flat over a JPEG's blocks, so that it keeps them exactly."""
    return np.hstack([np.full((side, side, len(colour)), colour, np.uint8) for colour in colours])


def centres(picture: Picture, side: int = 16) -> Pixels:
    return picture.pixels[side // 2, side // 2 :: side]


def noise(height: int, width: int, channels: int = 3, seed: int = 7) -> Pixels:
    shape = (height, width, channels) if channels > 1 else (height, width)
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def notes(picture: Picture) -> list[str]:
    assert all(note.severity == "note" and note.file and note.message for note in picture.notes)
    return [note.code for note in picture.notes]


def refusal(data: bytes, name: str = "shot 1.png", limits: ImageLimits = SMALL) -> str:
    with pytest.raises(Refused) as caught:
        decode(data, name, limits)
    finding = caught.value.finding
    assert (finding.file, finding.severity) == (name, "error")
    assert finding.message
    assert finding.remedy
    return finding.code


# --- what comes out


@pytest.mark.parametrize("form", ["PNG", "WEBP"])
def test_a_lossless_picture_comes_back_pixel_for_pixel(form: str) -> None:
    drawn = noise(70, 90)
    picture = decode(saved(drawn, form, lossless=True), f"a.{form.lower()}", ImageLimits())
    np.testing.assert_array_equal(picture.pixels, drawn)
    assert picture.pixels.dtype == np.dtype(np.uint8)
    assert picture.pixels.flags.c_contiguous
    assert picture.notes == ()


@pytest.mark.parametrize("options", [{}, {"progressive": True}])
def test_a_jpeg_comes_back_within_its_own_loss(options: dict[str, Any]) -> None:
    colours = [(250, 10, 20), (0, 128, 255), (90, 90, 90), (255, 255, 0)]
    picture = decode(saved(patches(colours), "JPEG", quality=95, **options), "a.JPG", SMALL)
    np.testing.assert_allclose(centres(picture), colours, atol=3)
    assert picture.notes == ()


def test_16_bit_grey_keeps_every_one_of_256_levels() -> None:
    ramp = np.arange(65536).reshape(256, 256)
    grey = decode(png(ramp, 0, 16), "ramp.png", SMALL).pixels
    np.testing.assert_array_equal(grey, np.rint(ramp / 257)[..., None].repeat(3, 2))
    assert (np.diff(grey[..., 0].ravel().astype(int)) >= 0).all()
    assert np.unique(grey).size == 256


@pytest.mark.parametrize(("colour_type", "channels"), [(2, 3), (6, 4), (4, 2)])
def test_16_bit_colour_is_rounded_not_cut(colour_type: int, channels: int) -> None:
    deep = np.random.default_rng(1).integers(0, 65536, (40, 50, channels))
    if channels in {2, 4}:
        deep[..., -1] = 65535
    colour = deep[..., :1].repeat(3, 2) if channels == 2 else deep[..., :3]
    np.testing.assert_array_equal(decode(png(deep, colour_type, 16), "a.png", SMALL).pixels, np.rint(colour / 257))


@pytest.mark.parametrize("bits", [1, 2, 4, 8])
def test_grey_of_fewer_bits_spans_black_to_white(bits: int) -> None:
    levels = np.arange(2**bits).reshape(1, -1)
    grey = decode(png(levels, 0, bits), "a.png", SMALL).pixels
    np.testing.assert_array_equal(grey[..., 0], np.rint(levels * 255 / (2**bits - 1)))
    assert (grey == grey[..., :1]).all()


def test_palette() -> None:
    colours = noise(1, 16)
    index = np.arange(16).reshape(4, 4)
    data = png(index, 3, 4, chunk(b"PLTE", colours.tobytes()))
    np.testing.assert_array_equal(decode(data, "a.png", SMALL).pixels, colours[0][index])


# --- alpha


def over(colour: Any, alpha: Any, ground: tuple[int, int, int]) -> Any:
    share = np.asarray(alpha)[..., None] / 255
    return colour * share + np.array(ground) * (1 - share)


@pytest.mark.parametrize("background", ["#000000", "#ffffff", "#3366CC"])
@pytest.mark.parametrize("form", ["PNG", "WEBP"])
def test_alpha_is_laid_over_the_background_as_viewers_show_it(form: str, background: str) -> None:
    drawn = noise(32, 32, 4)
    ground = (int(background[1:3], 16), int(background[3:5], 16), int(background[5:], 16))
    limits = ImageLimits(min_side=1, background=background)
    picture = decode(saved(drawn, form, lossless=True, exact=True), f"a.{form.lower()}", limits)
    np.testing.assert_allclose(picture.pixels, over(drawn[..., :3], drawn[..., 3], ground), atol=0.51)
    assert notes(picture) == ["image_transparent"]


def test_what_is_hidden_behind_full_transparency_stays_hidden() -> None:
    drawn = noise(8, 8, 4)
    drawn[..., 3] = 0
    assert not decode(saved(drawn, "PNG"), "a.png", SMALL).pixels.any()


def test_an_opaque_alpha_channel_is_not_worth_a_word() -> None:
    drawn = noise(8, 8, 4)
    drawn[..., 3] = 255
    picture = decode(saved(drawn, "PNG"), "a.png", SMALL)
    np.testing.assert_array_equal(picture.pixels, drawn[..., :3])
    assert picture.notes == ()


@pytest.mark.parametrize("bits", [8, 16])
def test_grey_with_alpha(bits: int) -> None:
    top = 2**bits - 1
    drawn = np.random.default_rng(2).integers(0, top + 1, (16, 16, 2))
    picture = decode(png(drawn, 4, bits), "a.png", ImageLimits(min_side=1, background="#ffffff"))
    expected = over(drawn[..., :1] * 255 / top, drawn[..., 1] * 255 / top, (255, 255, 255))
    np.testing.assert_allclose(picture.pixels, expected.repeat(1, 2), atol=1.5 if bits == 16 else 0.51)


@pytest.mark.parametrize("bits", [1, 2, 4, 8, 16])
def test_one_transparent_grey(bits: int) -> None:
    top = 2**bits - 1
    levels = np.unique(np.linspace(0, top, 16).astype(int)).reshape(1, -1)
    clear = int(levels[0, levels.size // 2])
    data = png(levels, 0, bits, chunk(b"tRNS", struct.pack(">H", clear)))
    picture = decode(data, "a.png", ImageLimits(min_side=1, background="#ff0000"))
    expected = np.rint(levels * 255 / top)[..., None].repeat(3, 2)
    expected[levels == clear] = (255, 0, 0)
    np.testing.assert_array_equal(picture.pixels, expected)


@pytest.mark.parametrize("bits", [8, 16])
def test_one_transparent_colour(bits: int) -> None:
    drawn = np.random.default_rng(3).integers(0, 2**bits, (1, 9, 3))
    data = png(drawn, 2, bits, chunk(b"tRNS", struct.pack(">HHH", *drawn[0, 4])))
    expected = np.rint(drawn * 255 / (2**bits - 1))
    expected[0, 4] = 0
    np.testing.assert_array_equal(decode(data, "a.png", SMALL).pixels, expected)


@pytest.mark.parametrize("alphas", [(255, 0, 255, 255), (0, 80, 160, 255)])
def test_a_palette_with_transparency(alphas: tuple[int, ...]) -> None:
    colours = noise(1, 4)
    data = png(np.arange(4).reshape(1, 4), 3, 2, chunk(b"PLTE", colours.tobytes()), chunk(b"tRNS", bytes(alphas)))
    picture = decode(data, "a.png", ImageLimits(min_side=1, background="#ffffff"))
    np.testing.assert_allclose(picture.pixels, over(colours, np.array([alphas]), (255, 255, 255)), atol=0.51)


# --- orientation


SIDES = {
    1: ("top", "left"),
    2: ("top", "right"),
    3: ("bottom", "right"),
    4: ("bottom", "left"),
    5: ("left", "top"),
    6: ("right", "top"),
    7: ("right", "bottom"),
    8: ("left", "bottom"),
}


def stored(upright: Pixels, orientation: int) -> Pixels:
    """The rows of a file with this orientation; the standard says which sides its row 0 and column 0 are."""
    row, column = SIDES[orientation]
    rows = upright.swapaxes(0, 1) if row in {"left", "right"} else upright
    return rows[:: -1 if row in {"right", "bottom"} else 1, :: -1 if column in {"right", "bottom"} else 1]


def with_exif(form: str, pixels: Pixels, block: bytes) -> bytes:
    if form == "PNG, after the picture":
        return png(pixels, 2, 8, after=chunk(b"eXIf", block))
    prefix = b"Exif\0\0" if form == "JPEG" else b""
    return saved(pixels, form, exif=prefix + block, **LITTLE_LOSS)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("form", ["PNG", "PNG, after the picture", "JPEG", "WEBP"])
def test_every_orientation_gives_the_same_upright_picture(form: str, orientation: int, tmp_path: Path) -> None:
    colours = [[(250, 0, 0), (0, 250, 0), (0, 0, 250)], [(250, 250, 0), (0, 250, 250), (90, 90, 90)]]
    upright = np.vstack([patches(row) for row in colours])
    order = "<" if orientation % 2 else ">"
    path = tmp_path / "a.png"
    path.write_bytes(with_exif(form, np.ascontiguousarray(stored(upright, orientation)), exif(orientation, order)))
    np.testing.assert_allclose(open_image(path, SMALL), upright, atol=2)


@pytest.mark.parametrize(
    "block",
    [
        exif(0),
        exif(9),
        exif(6)[:12],
        exif(6)[:30],
        b"",
        b"junk",
        b"MM\0*\xff\xff\xff\xff",
        b"II*\0" + bytes(40),
    ],
)
def test_an_exif_block_that_makes_no_sense_turns_nothing(block: bytes) -> None:
    drawn = noise(8, 12)
    picture = decode(png(drawn, 2, 8, chunk(b"eXIf", block)), "a.png", SMALL)
    np.testing.assert_array_equal(picture.pixels, drawn)


# --- colour


def test_display_p3_becomes_srgb_and_what_srgb_cannot_show_is_clipped() -> None:
    colours = [
        (255, 0, 0),
        (0, 255, 0),
        (200, 100, 50),
        (60, 90, 180),
        (255, 255, 255),
        (0, 0, 0),
        (128, 128, 128),
    ]
    expected = encoded(decoded(colours) @ (np.linalg.inv(SRGB) @ P3).T)
    np.testing.assert_allclose(expected[0], (255, 0, 0), atol=1e-9)  # P3 red is past the red corner of sRGB
    assert np.abs(expected - colours).max() > 10
    for form in ("PNG", "WEBP", "JPEG"):
        data = saved(patches(colours), form, icc_profile=display_p3(), **LITTLE_LOSS)
        picture = decode(data, f"a.{form.lower()}", SMALL)
        np.testing.assert_allclose(centres(picture), expected, atol=3 if form == "JPEG" else 1)
        assert picture.notes == ()


def test_alpha_lies_over_the_background_in_srgb_whatever_the_profile() -> None:
    drawn = patches([(200, 100, 50, 255), (200, 100, 50, 0), (200, 100, 50, 128)])
    picture = decode(
        saved(drawn, "PNG", icc_profile=display_p3()), "a.png", ImageLimits(min_side=1, background="#4080c0")
    )
    opaque, ground = encoded(np.linalg.inv(SRGB) @ P3 @ decoded((200, 100, 50))), np.array((64, 128, 192))
    blended = (opaque * 128 + ground * 127) / 255
    np.testing.assert_allclose(centres(picture), [opaque, ground, blended], atol=1.5)


def coarse_srgb_curve() -> bytes:
    """16 points of the curve: straight lines between them miss it by up to one level."""
    return b"curv" + bytes(4) + struct.pack(">I16H", 16, *np.rint(65535 * decoded(np.linspace(0, 255, 16))).astype(int))


@pytest.mark.parametrize(
    "profile",
    [ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes(), display(SRGB, coarse_srgb_curve())],
    ids=["exact", "as near as many a file's"],
)
def test_an_srgb_profile_changes_nothing(profile: bytes) -> None:
    drawn = noise(32, 32)
    picture = decode(saved(drawn, "PNG", icc_profile=profile), "a.png", SMALL)
    np.testing.assert_array_equal(picture.pixels, drawn)
    assert picture.notes == ()


def test_a_profile_that_is_nearly_srgb_is_followed() -> None:
    levels = np.arange(256).astype(np.uint8).reshape(16, 16, 1).repeat(3, 2)
    gamma = 2 + 51 / 256
    profile = display(SRGB, b"curv" + bytes(4) + struct.pack(">IH", 1, round(gamma * 256)))
    picture = decode(saved(levels, "PNG", icc_profile=profile), "a.png", SMALL)
    expected = encoded((levels / 255) ** gamma)
    assert 5 < np.abs(expected - levels).max() < 15
    np.testing.assert_allclose(picture.pixels, expected, atol=1)


@pytest.mark.parametrize("bits", [8, 16])
@pytest.mark.parametrize("alpha", [False, True])
def test_a_grey_profile(bits: int, alpha: bool) -> None:
    top = 2**bits - 1
    levels = np.linspace(0, top, 12).astype(int).reshape(1, -1)
    samples = np.stack([levels, np.full_like(levels, top)], -1) if alpha else levels
    profile = chunk(b"iCCP", b"grey\0\0" + zlib.compress(linear_grey()))
    picture = decode(png(samples, 4 if alpha else 0, bits, profile), "a.png", SMALL)
    expected = encoded(np.rint(levels * 255 / top) / 255)[..., None].repeat(3, 2)
    np.testing.assert_allclose(picture.pixels, expected, atol=1)
    assert picture.notes == ()


def test_a_grey_picture_with_a_profile_for_colour() -> None:
    levels = np.arange(0, 256, 5).astype(np.uint8).reshape(1, -1)
    picture = decode(saved(levels, "PNG", icc_profile=display_p3()), "a.png", SMALL)
    np.testing.assert_allclose(picture.pixels, levels[..., None].repeat(3, 2), atol=1)  # greys are the same in P3
    assert picture.notes == ()


INKS = [(0, 0, 0, 0), (255, 0, 0, 0), (0, 255, 0, 0), (0, 0, 255, 0), (0, 0, 0, 255), (128, 64, 32, 16)]


def test_cmyk_without_a_profile_is_light_that_passes_the_inks() -> None:
    inked = patches(INKS)
    data = saved(Image.fromarray(inked, "CMYK"), "JPEG", quality=100)
    assert b"Adobe" in data  # so the file holds its inks inverted
    picture = decode(data, "a.jpg", SMALL)
    inks = np.array(INKS)
    np.testing.assert_allclose(centres(picture), (255 - inks[:, :3]) * (255 - inks[:, 3:]) / 255, atol=3)
    assert notes(picture) == ["image_profile_missing"]


def test_ycck_as_photoshop_writes_it() -> None:
    """The channels of a CMYK file, declared to be Y, Cb, Cr, K: inks inverted, then coded like RGB."""
    y, black = np.array([0, 64, 128, 255, 200]), np.array([255, 255, 255, 255, 100])
    channels = np.stack([y, np.full(5, 128), np.full(5, 128), black], 1)
    data = saved(Image.fromarray(255 - patches([tuple(row) for row in channels.tolist()]), "CMYK"), "JPEG", quality=100)
    place = data.index(b"Adobe") + 11
    data = data[:place] + b"\2" + data[place + 1 :]
    # Neutral: the file's C, M and Y are 255 - y, inverted; so the inks are y, and K is 255 less the file's.
    expected = (255 - y) * black / 255
    np.testing.assert_allclose(centres(decode(data, "a.jpg", SMALL)), expected[:, None].repeat(3, 1), atol=3)


def test_cmyk_with_a_profile_follows_it() -> None:
    corners: dict[tuple[int, ...], tuple[float, float, float]] = {
        (0, 0, 0, 0): (100, 0, 0),
        (1, 0, 0, 0): (60, -20, -30),
        (0, 1, 0, 0): (50, 60, 0),
        (0, 0, 1, 0): (85, -5, 70),
    }
    solids = [tuple(255 * ink for ink in inks) for inks in corners]
    expected = np.array([from_lab(*lab) for lab in corners.values()])
    data = saved(Image.fromarray(patches(solids), "CMYK"), "JPEG", quality=100, icc_profile=cmyk_press(corners))
    picture = decode(data, "a.jpg", SMALL)
    np.testing.assert_allclose(centres(picture), expected, atol=4)
    assert picture.notes == ()


def test_paper_becomes_white_and_the_darkest_ink_black() -> None:
    """Relative to the paper, not absolute; and with black point compensation, as picture editors do."""
    greyish = dict.fromkeys(itertools.product((0, 1), repeat=4), (20.0, 0.0, 0.0))
    profile = cmyk_press({**greyish, (0, 0, 0, 0): (100, 0, 0)})
    inked = Image.fromarray(patches([(0, 0, 0, 0), (0, 0, 0, 255)]), "CMYK")
    picture = decode(saved(inked, "JPEG", quality=100, icc_profile=profile), "a.jpg", SMALL)
    assert from_lab(20, 0, 0).min() > 45
    np.testing.assert_allclose(centres(picture), [(255, 255, 255), (0, 0, 0)], atol=3)


def test_a_profile_in_several_segments_is_put_together() -> None:
    profile = display_p3() + bytes(150_000)
    plain = saved(patches([(200, 100, 50)]), "JPEG", quality=100)
    parts = [profile[i : i + 60_000] for i in range(0, len(profile), 60_000)]
    segments = [
        b"\xff\xe2" + struct.pack(">H", len(part) + 16) + b"ICC_PROFILE\0" + bytes((number, len(parts))) + part
        for number, part in enumerate(parts, 1)
    ]
    picture = decode(plain[:2] + b"".join(reversed(segments)) + plain[2:], "a.jpg", SMALL)
    expected = encoded(np.linalg.inv(SRGB) @ P3 @ decoded((200, 100, 50)))
    np.testing.assert_allclose(centres(picture)[0], expected, atol=3)


@pytest.mark.parametrize(
    "profile",
    [b"not a profile", display_p3()[:200], cmyk_press({}), linear_grey(), display_p3()[:128] + bytes(400)],
    ids=["junk", "cut off", "for inks", "for grey", "without tags"],
)
@pytest.mark.parametrize("form", ["PNG", "JPEG", "WEBP"])
def test_a_profile_that_cannot_be_used_is_noted_and_the_colours_are_read_as_srgb(form: str, profile: bytes) -> None:
    drawn = patches([(200, 100, 50), (10, 220, 120)])
    picture = decode(saved(drawn, form, icc_profile=profile, **LITTLE_LOSS), f"a.{form.lower()}", SMALL)
    np.testing.assert_allclose(picture.pixels, drawn, atol=3)
    assert notes(picture) == ["image_profile_broken"]


def test_a_profile_that_does_not_unpack_is_noted() -> None:
    drawn = noise(8, 8)
    picture = decode(png(drawn, 2, 8, chunk(b"iCCP", b"name\0\0junk")), "a.png", SMALL)
    np.testing.assert_array_equal(picture.pixels, drawn)
    assert notes(picture) == ["image_profile_broken"]


# --- what is refused


FORMS: dict[str, Callable[[], bytes]] = {
    "png": lambda: saved(noise(40, 40), "PNG"),
    "png16": lambda: png(np.arange(1600).reshape(40, 40), 0, 16),
    "jpeg": lambda: saved(noise(40, 40), "JPEG"),
    "progressive": lambda: saved(noise(40, 40), "JPEG", progressive=True),
    "webp": lambda: saved(noise(40, 40), "WEBP"),
    "webp lossless": lambda: saved(noise(40, 40), "WEBP", lossless=True),
    "webp extended": lambda: saved(noise(40, 40), "WEBP", icc_profile=display_p3(), exif=exif(6)),
}


@pytest.mark.parametrize("form", FORMS)
def test_a_file_cut_off_anywhere_is_refused(form: str) -> None:
    data = FORMS[form]()
    decode(data, "a", SMALL)
    step = max(1, len(data) // 400)
    codes = {refusal(data[:cut]) for cut in range(12, len(data), step)} | {refusal(data[:-1])}
    assert codes == {"image_truncated"}
    assert {refusal(data[:cut]) for cut in range(1, 12)} <= {"image_truncated", "image_not_supported"}


@pytest.mark.parametrize("form", ["png", "png16", "jpeg", "progressive"])
@pytest.mark.parametrize("share", [0.3, 0.7, 0.95])
def test_a_copy_whose_end_was_reserved_but_not_yet_written_is_refused(form: str, share: float) -> None:
    data = FORMS[form]()
    cut = int(len(data) * share)
    assert refusal(data[:cut] + bytes(len(data) - cut)) in {"image_truncated", "image_damaged"}


@pytest.mark.parametrize("place", [b"PLTE", b"iCCP", b"eXIf", b"IDAT", b"IEND"])
def test_one_flipped_bit_of_a_png_is_damage(place: bytes) -> None:
    extra = chunk(b"iCCP", b"p\0\0" + zlib.compress(display_p3())), chunk(b"eXIf", exif(6))
    index = np.arange(256).reshape(16, 16)
    data = png(index, 3, 8, *extra, chunk(b"PLTE", noise(1, 256).tobytes()), level=0)
    decode(data, "a.png", SMALL)
    at = data.index(place) + (20 if place != b"IEND" else 4)
    assert refusal(data[:at] + bytes((data[at] ^ 1,)) + data[at + 1 :]) == "image_damaged"


def header_only(form: str, width: int, height: int) -> bytes:
    """A file that claims a size and holds next to nothing."""
    if form == "png":
        claim = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0))
        return b"\x89PNG\r\n\x1a\n" + claim + chunk(b"IDAT", zlib.compress(b"\0\0")) + chunk(b"IEND", b"")
    if form == "jpeg":
        data = saved(np.zeros((8, 8), np.uint8), "JPEG")
        return data.replace(b"\x08\0\x08\0\x08", b"\x08" + struct.pack(">HH", height, width))
    size = struct.pack("<I", width - 1)[:3] + struct.pack("<I", height - 1)[:3]
    body = b"WEBPVP8X" + struct.pack("<II", 10, 0) + size + saved(np.zeros((8, 8), np.uint8), "WEBP")[12:]
    return b"RIFF" + struct.pack("<I", len(body)) + body


@pytest.mark.parametrize("form", ["png", "jpeg", "webp"])
def test_what_is_too_large_is_told_from_the_header(form: str, tmp_path: Path) -> None:
    path = tmp_path / "huge.png"
    path.write_bytes(header_only(form, 16_000, 15_000))
    with pytest.raises(Refused, match="240,000,000 pixels") as caught:
        open_image(path, ImageLimits())
    finding = caught.value.finding
    assert (finding.code, finding.file) == ("image_too_large", "huge.png")
    assert (finding.value, finding.limit) == (240_000_000, 40_000_000)


def test_a_long_side_is_refused() -> None:
    assert refusal(header_only("png", 20_000, 100)) == "image_too_large"
    assert refusal(header_only("png", 101, 100), limits=ImageLimits(max_side=100)) == "image_too_large"


def test_a_small_picture_is_refused() -> None:
    data = saved(noise(63, 64), "PNG")
    assert refusal(data, limits=ImageLimits()) == "image_too_small"
    decode(data, "a.png", ImageLimits(min_side=63))
    assert refusal(header_only("jpeg", 64, 0), "a.jpg") == "image_too_small"


def test_a_large_file_is_refused_unread(tmp_path: Path) -> None:
    path = tmp_path / "large.png"
    with path.open("wb") as file:
        file.truncate(1 << 40)
    with pytest.raises(Refused) as caught:
        open_image(path, ImageLimits())
    assert (caught.value.finding.code, caught.value.finding.value) == ("image_too_large", 1 << 40)
    data = saved(noise(8, 8), "PNG")
    assert refusal(data, limits=ImageLimits(min_side=1, max_bytes=len(data) - 1)) == "image_too_large"


def packed_zeros(mebibytes: int) -> bytes:
    packer = zlib.compressobj(1)
    return b"".join([*(packer.compress(bytes(1 << 20)) for _ in range(mebibytes)), packer.flush()])


def unfolding_exif() -> bytes:
    """600 entries that all point to the same megabyte."""
    entries = b"".join(struct.pack(">HHII", 0xA000 + number, 7, 1 << 20, 8) for number in range(600))
    return b"MM\0*" + struct.pack(">IH", 8, 600) + entries + bytes(1 << 20)


def jpeg_segment(marker: int, body: bytes) -> bytes:
    return bytes((0xFF, marker)) + struct.pack(">H", len(body) + 2) + body


def endless_scans() -> bytes:
    """A progressive JPEG, fifty bytes a scan, each a pass over 36 megapixels: ten minutes of work in 5 MB."""
    side, blocks = 6000, 750**2
    tables = jpeg_segment(0xC4, b"\0\1" + bytes(16)) + jpeg_segment(0xC4, b"\x10\1" + bytes(15) + b"\xe0")
    frame = jpeg_segment(0xC2, struct.pack(">BHHB", 8, side, side, 1) + b"\1\x11\0")
    first = jpeg_segment(0xDA, b"\1\1\0\0\0\0") + bytes(blocks // 8 + 1)
    scan = jpeg_segment(0xDA, b"\1\1\0\1\x3f\0") + b"\x3f\xfe" * 18
    quantisation = jpeg_segment(0xDB, b"\0" + b"\1" * 64)
    return b"\xff\xd8" + quantisation + frame + tables + first + scan * 100_000 + b"\xff\xd9"


def bombs() -> dict[str, tuple[str, bytes]]:
    """Files that want much of a decoder, and what is to become of them: the harmless rest is taken."""
    zeros, block = packed_zeros(400), unfolding_exif()
    whole, jpeg = png(noise(64, 64), 2, 8), saved(noise(64, 64), "JPEG")
    start = whole.index(b"IDAT") - 4
    folded = [jpeg_segment(0xE1, b"Exif\0\0" + block[at : at + 65_000]) for at in range(0, len(block), 65_000)]
    return {
        "400 megapixels.png": ("image_too_large", header_only("png", 20_000, 20_000)),
        "4 exapixels.png": ("image_too_large", header_only("png", 2**31 - 1, 2**31 - 1)),
        "4 gigapixels.jpg": ("image_too_large", header_only("jpeg", 65_000, 65_000)),
        "256 megapixels.webp": ("image_too_large", header_only("webp", 16_000, 16_000)),
        "rows without end.png": ("taken", whole[:start] + chunk(b"IDAT", zeros) + chunk(b"IEND", b"")),
        "zTXt.png": ("taken", png(noise(64, 64), 2, 8, chunk(b"zTXt", b"Comment\0\0" + zeros))),
        "iTXt.png": ("taken", png(noise(64, 64), 2, 8, after=chunk(b"iTXt", b"Comment\0\1\0\0\0" + zeros))),
        "iCCP.png": ("taken", png(noise(64, 64), 2, 8, chunk(b"iCCP", b"name\0\0" + zeros))),
        "eXIf.png": ("taken", png(noise(64, 64), 2, 8, chunk(b"eXIf", block))),
        "Exif.jpg": ("taken", jpeg[:2] + b"".join(folded) + jpeg[2:]),
        "scans.jpg": ("image_damaged", endless_scans()),
        "fill bytes.jpg": ("taken", jpeg[:2] + b"\xff" * (30 << 20) + jpeg[2:]),
    }


LOOK = """
import json, re, resource, sys
from pathlib import Path
from core.errors import Refused
from core.image import open_image
from core.limits import ImageLimits
def peak():
    status = Path("/proc/self/status")  # Linux's ru_maxrss is inherited from the parent
    if status.exists():
        return int(re.search(r"VmHWM:\\s*(\\d+)", status.read_text())[1]) / (1 << 10)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1 << 20)
for path in map(Path, sys.argv[1:]):
    before = peak()
    try:
        open_image(path, ImageLimits())
        outcome = "taken"
    except Refused as refused:
        outcome = refused.finding.code
    print(json.dumps([path.name, outcome, peak() - before]))
"""


def test_bombs_cost_neither_memory_nor_time(tmp_path: Path) -> None:
    """In a process of its own, whose peak memory is then theirs."""
    made = bombs()
    for name, (_, data) in made.items():
        (tmp_path / name).write_bytes(data)
    paths = [str(tmp_path / name) for name in made]
    look = [sys.executable, "-W", "error", "-c", LOOK, *paths]
    done = subprocess.run(look, stdout=subprocess.PIPE, check=True, timeout=25)
    seen = [json.loads(line) for line in done.stdout.splitlines()]
    assert {name: outcome for name, outcome, _ in seen} == {name: outcome for name, (outcome, _) in made.items()}
    assert [(name, mebibytes) for name, _, mebibytes in seen if mebibytes > 100] == []


@pytest.mark.parametrize(
    "segment",
    [
        jpeg_segment(0xED, b"Photoshop 3.0\0" + b"8BIM\3\xed"),
        jpeg_segment(0xE1, b"Exif\0\0" + exif(1)[:20]),
        jpeg_segment(0xE2, b"MPF\0MM\0*" + bytes(2)),
        jpeg_segment(0xE1, b"http://ns.adobe.com/xap/1.0/\0<x"),
        jpeg_segment(0xFE, b"\xff\xda\xff\xd9"),
    ],
    ids=["Photoshop", "Exif", "previews", "XMP", "comment"],
)
def test_broken_metadata_is_no_fault_of_the_picture(segment: bytes) -> None:
    plain = saved(noise(16, 16), "JPEG")
    picture = decode(plain[:2] + segment + plain[2:], "a.jpg", SMALL)
    np.testing.assert_array_equal(picture.pixels, decode(plain, "a.jpg", SMALL).pixels)
    assert picture.notes == ()


@pytest.mark.parametrize(
    "data",
    [
        png(np.zeros((1, 1)), 0, 8, chunk(b"tEXt", b"") * 500_000),
        b"\xff\xd8" + b"\xff\xfe\0\2" * 500_000 + saved(noise(8, 8), "JPEG")[2:],
        b"RIFF" + struct.pack("<I", 8 * 500_000 + 4) + b"WEBP" + b"XMP \0\0\0\0" * 500_000,
    ],
    ids=["png", "jpeg", "webp"],
)
def test_a_file_of_crumbs_is_refused(data: bytes) -> None:
    assert refusal(data) == "image_damaged"


def test_a_second_header_does_not_get_past_the_limits() -> None:
    claim = chunk(b"IHDR", struct.pack(">IIBBBBB", 8, 8, 8, 2, 0, 0, 0))
    whole = png(noise(50, 50), 2, 8)
    assert refusal(whole[:8] + claim + whole[8:], limits=ImageLimits(min_side=1, max_side=10)) == "image_damaged"


def test_animations_are_refused_with_their_number_of_frames() -> None:
    frames = [Image.fromarray(noise(16, 16, seed=seed)) for seed in range(3)]
    for form in ("PNG", "WEBP"):
        data = saved(frames[0], form, save_all=True, append_images=frames[1:])
        with pytest.raises(Refused, match="3 frames") as caught:
            decode(data, "a.png", SMALL)
        assert caught.value.finding.code == "image_animated"


def test_an_animation_of_one_frame_is_a_picture() -> None:
    drawn = noise(8, 8)
    data = png(drawn, 2, 8, chunk(b"acTL", struct.pack(">II", 1, 0)))
    np.testing.assert_array_equal(decode(data, "a.png", SMALL).pixels, drawn)


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (b"", "image_empty"),
        (bytes(5000), "image_empty"),
        (b"Dear sirs, please find attached", "image_not_supported"),
        (saved(noise(8, 8), "GIF"), "image_not_supported"),
        (saved(noise(8, 8), "BMP"), "image_not_supported"),
        (saved(noise(8, 8), "TIFF"), "image_not_supported"),
        (b"\xff\xd8\xff\xd9", "image_truncated"),
        (b"\x89PNG\r\n\x1a\n" + chunk(b"IEND", b""), "image_truncated"),
    ],
)
def test_what_is_no_picture(data: bytes, code: str) -> None:
    assert refusal(data) == code


def test_the_content_counts_and_a_wrong_name_is_noted() -> None:
    drawn = noise(8, 8)
    picture = decode(saved(drawn, "PNG"), "from the web.jpg", SMALL)
    np.testing.assert_array_equal(picture.pixels, drawn)
    assert notes(picture) == ["image_misnamed"]
    assert "PNG" in picture.notes[0].message


HEIC = struct.pack(">I", 24) + b"ftypheic" + bytes(4) + b"mif1heic" + bytes(200)


def test_heic_without_its_extra_says_how_to_convert(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pillow_heif", None)  # as if it were not installed
    with pytest.raises(Refused) as caught:
        decode(HEIC, "IMG_0001.HEIC", SMALL)
    assert caught.value.finding.code == "image_heic"
    assert "sips" in str(caught.value)
    assert "dropreel[heic]" in str(caught.value)


def test_heic_with_its_extra() -> None:
    import pillow_heif as heif

    colours = [(250, 10, 20), (0, 128, 255), (90, 90, 90), (255, 255, 0)]
    upright = patches(colours, 32)
    file = io.BytesIO()
    turned = Image.fromarray(np.ascontiguousarray(stored(upright, 6)))
    heif.from_pillow(turned).save(file, quality=95, exif=b"Exif\0\0" + exif(6), icc_profile=display_p3())
    picture = decode(file.getvalue(), "IMG_0001.HEIC", SMALL)
    assert picture.pixels.shape == upright.shape
    expected = encoded(decoded(colours) @ (np.linalg.inv(SRGB) @ P3).T)
    np.testing.assert_allclose(centres(picture, 32), expected, atol=8)
    assert picture.notes == ()
    assert refusal(HEIC, "a.heic") == "image_damaged"
    assert refusal(file.getvalue()[:-50], "a.heic") in {"image_truncated", "image_damaged"}


def test_a_file_that_cannot_be_read_is_no_fault_of_the_image(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        open_image(tmp_path / "gone.png", SMALL)
    with pytest.raises(OSError, match="plain file"):
        open_image(tmp_path, SMALL)


# --- anything at all


def whole_again(data: bytes) -> bytes:
    """A PNG with its checksums made right, so that damage reaches past them."""
    out, at = data[:8], 8
    while at + 12 <= len(data):
        (length,) = struct.unpack_from(">I", data, at)
        body = data[at + 8 : at + 8 + length]
        out += chunk(data[at + 4 : at + 8], body)
        at += 12 + length
    return out


SEEDS = [
    *(make() for make in FORMS.values()),
    saved(
        Image.fromarray(patches(INKS[:2]), "CMYK"),
        "JPEG",
        icc_profile=cmyk_press({(0, 0, 0, 0): (100, 0, 0)}),
    ),
    saved(noise(16, 16, 4), "WEBP"),
    saved(noise(16, 16), "PNG", icc_profile=display_p3(), exif=exif(6)),
    saved(noise(16, 16), "JPEG", icc_profile=display_p3(), exif=b"Exif\0\0" + exif(6)),
    png(np.arange(16).reshape(4, 4), 3, 4, chunk(b"PLTE", bytes(48)), chunk(b"tRNS", bytes(range(16)))),
    png(noise(8, 8, 4).astype(int) * 257, 6, 16, chunk(b"iCCP", b"p\0\0" + zlib.compress(display_p3()))),
]


@given(st.data())
@settings(max_examples=400, deadline=None, suppress_health_check=list(HealthCheck))
def test_any_bytes_are_decoded_or_refused(data: st.DataObject) -> None:
    broken = bytearray(data.draw(st.sampled_from(SEEDS)))
    for _ in range(data.draw(st.integers(1, 6))):
        place = data.draw(st.integers(0, len(broken) - 1))
        match data.draw(st.sampled_from(("set", "set", "set", "cut", "insert"))):
            case "set":
                broken[place] = data.draw(st.integers(0, 255))
            case "cut":
                del broken[place : place + data.draw(st.integers(1, 20))]
            case "insert":
                broken[place:place] = data.draw(st.binary(max_size=20))
        if not broken:
            break
    made = bytes(broken)
    if made.startswith(b"\x89PNG") and data.draw(st.booleans()):
        made = whole_again(made)
    try:
        picture = decode(made, "a.png", ImageLimits(min_side=1, max_pixels=100_000))
    except Refused:
        return
    height, width, channels = picture.pixels.shape
    assert channels == 3
    assert 0 < height * width <= 100_000
