"""Draws a measure over time: its line, the rule's limit, and the frames that are in question."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cache

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from core.qa.inspector import Trace

PAPER, FIELD, INK, FAINT = (32, 32, 32), (22, 22, 22), (230, 230, 230), (150, 150, 150)
MARK = (255, 80, 40)
"""What is in question, here as in the pictures."""
LINE, LIMIT = (110, 190, 255), (255, 205, 70)
HEIGHT = 170
"""Pixels of a plot."""

_LEFT, _RIGHT, _TOP, _BOTTOM = 64, 12, 26, 24
_FINE = 3
"""The line is drawn so many times larger and reduced: Pillow's own lines have steps."""
_DASH = 6


def plot(trace: Trace, fps: float, marked: Sequence[int], width: int) -> Image.Image:
    """``width`` by ``HEIGHT`` pixels; ``marked`` are frames, and seconds are told from ``fps``."""
    image = Image.new("RGB", (width, HEIGHT), PAPER)
    draw = ImageDraw.Draw(image)
    values = np.asarray(trace.values, np.float64)
    finite = values[np.isfinite(values)]
    low, high, ticks = _scale(finite, trace.limit)
    left, right, top, bottom = _LEFT, width - _RIGHT, _TOP, HEIGHT - _BOTTOM
    last = max(1, len(values) - 1)

    def x(frame: float) -> float:
        return left + frame / last * (right - left)

    def y(value: float) -> float:
        return bottom - (value - low) / (high - low) * (bottom - top)

    draw.rectangle((left, top, right, bottom), FIELD)
    for tick in ticks:
        draw.line((left, y(tick), right, y(tick)), (48, 48, 48))
        draw.text((left - 6, y(tick)), f"{tick:.6g}", FAINT, font(11), "rm")
    for second in _seconds(last / fps):
        draw.line((x(second * fps), bottom, x(second * fps), bottom + 3), FAINT)
        draw.text((x(second * fps), bottom + 5), f"{second:g} s", FAINT, font(11), "mt" if second else "lt")
    for frame in marked:
        if 0 <= frame < len(values):
            draw.line((x(frame), top, x(frame), bottom), (110, 44, 28))
    image.paste(LINE, (left, top), _line([(x(f) - left, y(v) - top) for f, v in _thinned(values, right - left)],
                                         (right - left + 1, bottom - top + 1)))  # fmt: skip
    for frame in marked:
        if 0 <= frame < len(values) and math.isfinite(values[frame]):
            place = x(frame), y(float(values[frame]))
            draw.ellipse((place[0] - 3, place[1] - 3, place[0] + 3, place[1] + 3), MARK)
    draw.text((left, _TOP - 8), trace.name, INK, font(13), "ls")
    if trace.limit is not None:
        for start in range(left, right, 2 * _DASH):
            draw.line((start, y(trace.limit), min(right, start + _DASH), y(trace.limit)), LIMIT)
        draw.text((right, _TOP - 8), f"limit {trace.limit:.4g}", LIMIT, font(13), "rs")
    if not finite.size:
        draw.text(((left + right) / 2, (top + bottom) / 2), "could not be measured", FAINT, font(13), "mm")
    return image


@cache
def font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    """The font of all that is drawn."""
    return ImageFont.load_default(size)


def _scale(values: NDArray[np.float64], limit: float | None) -> tuple[float, float, list[float]]:
    """From where to where the axis goes, and its ticks: all values, the limit and zero where it is near."""
    shown = [*([float(values.min()), float(values.max())] if values.size else []), *([] if limit is None else [limit])]
    low, high = (min(shown), max(shown)) if shown else (0.0, 1.0)
    if low > 0 and low < 0.6 * high:
        low = 0.0
    step = _step((high - low) or abs(high) or 1.0, 4)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    if first == last:
        first, last = first - 1, last + 1
    if high > (last - 0.08) * step:  # what lies on the edge is not seen
        last += 1
    return first * step, last * step, [number * step for number in range(first, last + 1)]


def _seconds(duration: float) -> list[float]:
    step = _step(duration, 10) if duration else 1.0
    return [round(number * step, 6) for number in range(int(duration / step + 1e-6) + 1)]


def _step(extent: float, parts: int) -> float:
    """1, 2 or 5 times a power of ten: of it, ``parts`` or so make up ``extent``."""
    power: float = 10.0 ** math.floor(math.log10(extent / parts))
    return next(power * times for times in (1, 2, 5, 10) if power * times * parts >= extent * 0.999)


def _thinned(values: NDArray[np.float64], columns: int) -> list[tuple[int, float]]:
    """The frames and their values; of many in one column of pixels only the least and the most, so no peak is lost."""
    if len(values) <= 2 * columns:
        return list(enumerate(values.tolist()))
    thin: list[tuple[int, float]] = []
    for frames in np.array_split(np.arange(len(values)), columns):
        part = values[frames]
        known = frames[np.isfinite(part)]
        ends = {int(known[values[known].argmin()]), int(known[values[known].argmax()])} if known.size else {frames[0]}
        thin += [(int(frame), float(values[frame])) for frame in sorted(ends)]
    return thin


def _line(points: Sequence[tuple[float, float]], size: tuple[int, int]) -> Image.Image:
    """The mask of a line through the points, broken where a value is no number."""
    mask = Image.new("L", (size[0] * _FINE, size[1] * _FINE))
    draw = ImageDraw.Draw(mask)
    stretch: list[tuple[float, float]] = []
    for across, down in [*points, (0.0, math.nan)]:
        if math.isfinite(down):
            stretch.append(((across + 0.5) * _FINE, (down + 0.5) * _FINE))
            continue
        if len(stretch) > 1:
            draw.line(stretch, 255, round(1.6 * _FINE), joint="curve")
        elif stretch:
            (left, top), radius = stretch[0], 1.5 * _FINE
            draw.ellipse((left - radius, top - radius, left + radius, top + radius), 255)
        stretch = []
    return mask.resize(size, Image.Resampling.BOX)
