"""A trace is drawn to scale: its peaks, its limit, and the frames in question are where they belong."""

from __future__ import annotations

import math

import numpy as np
import pytest
from numpy.typing import NDArray

from core.qa.inspector import Trace
from core.qa.plot import HEIGHT, LIMIT, LINE, MARK, plot


def drawn(trace: Trace, *marked: int, width: int = 900) -> NDArray[np.uint8]:
    image = plot(trace, 30, marked, width)
    assert image.size == (width, HEIGHT)
    return np.asarray(image)


def of(pixels: NDArray[np.uint8], colour: tuple[int, int, int]) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """The rows and columns of a colour, the heading left out."""
    rows, columns = np.nonzero((pixels == colour).all(axis=2))
    inside = rows > 26
    return rows[inside], columns[inside]


def test_a_peak_stands_at_its_frame_above_the_limit() -> None:
    values = [0.0] * 91
    values[30] = 1.0
    pixels = drawn(Trace("level", values, 0.5))
    rows, columns = of(pixels, LINE)
    peak = columns[rows < rows.min() + 3].mean()
    left, right = columns.min(), columns.max()
    assert (peak - left) / (right - left) == pytest.approx(30 / 90, abs=0.005)
    (limit,) = set(of(pixels, LIMIT)[0].tolist())
    assert (limit - rows.min()) / (rows.max() - rows.min()) == pytest.approx(0.5, abs=0.02)
    marks = of(drawn(Trace("level", values, 0.5), 30), MARK)
    assert (marks[1].mean(), marks[0].mean()) == (pytest.approx(peak, abs=1.5), pytest.approx(rows.min(), abs=3))


def test_no_peak_is_lost_where_many_frames_share_a_column() -> None:
    values = [1.0] * 50_000
    values[31_234] = 9.0
    rows, columns = of(drawn(Trace("level", values)), LINE)
    high = columns[rows < rows.min() + 20]
    assert len(set(high.tolist())) <= 4
    assert (high.mean() - columns.min()) / (columns.max() - columns.min()) == pytest.approx(31_234 / 50_000, abs=0.01)


def test_what_is_no_number_leaves_a_gap() -> None:
    rows, columns = of(drawn(Trace("level", [2.0] * 40 + [math.nan] * 21 + [2.0] * 40)), LINE)
    gaps = np.diff(np.unique(columns))
    width = columns.max() - columns.min()
    assert (gaps.max() / width, len(gaps[gaps > 1])) == (pytest.approx(22 / 100, abs=0.02), 1)
    assert len(set(rows.tolist())) <= 2


@pytest.mark.parametrize("values", [[], [math.nan] * 9, [0.5], [0.0] * 30, [-3.0, 4.0], [1e-9, 2e-9], [1e7] * 5])
@pytest.mark.parametrize("limit", [None, 0.3])
def test_whatever_there_is_can_be_drawn(values: list[float], limit: float | None) -> None:
    known = [value for value in values if math.isfinite(value)]
    assert (len(of(drawn(Trace("level", values, limit), 2, 100), LINE)[0]) > 0) == bool(known)
