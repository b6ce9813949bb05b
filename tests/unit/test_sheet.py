"""The contact sheet shows every moment whole, the keyframe beside them and the traces below, within bounds."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from core.qa.inspector import Trace
from core.qa.plot import HEIGHT, LINE, MARK
from core.qa.sheet import MOST, Moment, contact_sheet

TRACE = Trace("mean relative luminance", np.sin(np.arange(180) / 9).tolist(), 0.5)


def sheet(size: tuple[int, int], moments: int, traces: int, *, keyframe: bool = True) -> tuple[Image.Image, int]:
    """One of noise, which is the hardest to compress; and its bytes."""
    noise = np.random.default_rng(1).integers(0, 256, (size[1], size[0], 3), np.uint8)
    shown = [Moment(noise, [f"frame {n}, 0.00 s", "photosensitive_luminance"], [(0.2, 0.2, 0.8, 0.8)])
             for n in range(moments)]  # fmt: skip
    png = contact_sheet(shown, noise if keyframe else None, [TRACE] * traces, 30, [3, 50])
    return Image.open(io.BytesIO(png)), len(png)


@pytest.mark.parametrize("size", [(576, 1024), (1024, 576), (640, 640)])
@pytest.mark.parametrize(("moments", "traces"), [(1, 1), (20, 9)])
def test_a_sheet_is_no_larger_than_can_be_looked_at(size: tuple[int, int], moments: int, traces: int) -> None:
    image, length = sheet(size, moments, traces)
    assert (image.format, image.mode) == ("PNG", "RGB")
    assert image.width <= 1600
    assert image.height < 2400
    assert length < 3_000_000
    marks = (np.asarray(image) == MARK).all(axis=2)
    assert marks.sum() > 500 * min(moments, MOST)
    assert (np.asarray(image) == LINE).all(axis=2).sum() > 300 * min(traces, 5)


def test_the_keyframe_is_larger_than_a_moment_and_stands_beside_it() -> None:
    plain = np.full((90, 160, 3), (0, 200, 0), np.uint8)
    large = np.full((900, 1600, 3), (0, 0, 200), np.uint8)
    image = np.asarray(Image.open(io.BytesIO(contact_sheet([Moment(plain, ["one"])] * 2, large, [], 30, []))))
    green, blue = ((image == colour).all(axis=2) for colour in ((0, 200, 0), (0, 0, 200)))
    assert (green.sum(), blue.sum()) == (2 * 160 * 90, 400 * 225)  # small pictures are shown as they are
    assert np.nonzero(blue)[1].max() < np.nonzero(green)[1].min()


def test_traces_lie_one_below_the_other() -> None:
    less, more = (sheet((160, 90), 2, count, keyframe=False)[0].height for count in (1, 3))
    assert more - less > 2 * HEIGHT
