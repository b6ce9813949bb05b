"""The camera path: rectangles, easing, and the view at any moment of a move. Pure maths."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from decimal import Decimal
from enum import StrEnum
from fractions import Fraction
from functools import cached_property
from typing import NamedTuple

Size = tuple[int, int]
"""(width, height) in pixels."""


class MotionType(StrEnum):
    """The operator's word for a move."""

    zoom_in = "zoom_in"
    zoom_out = "zoom_out"
    pan_left = "pan_left"
    pan_right = "pan_right"
    static = "static"


class Easing(StrEnum):
    """How a move spreads over its time: a monotone map of 0..1 onto itself."""

    linear = "linear"
    ease_in = "ease_in"
    ease_out = "ease_out"
    ease_in_out = "ease_in_out"

    def at(self, u: float) -> float:
        """The share of the move that is done at the share ``u`` of its time; exact at 0 and 1."""
        match self:
            case Easing.linear:
                return u
            case Easing.ease_in:
                return u * u
            case Easing.ease_out:
                return 1 - (1 - u) * (1 - u)
            case Easing.ease_in_out:
                return u * u * (3 - 2 * u)

    def slope(self, u: float) -> float:
        """The derivative of ``at``: how many times faster than linear the move runs at ``u``."""
        match self:
            case Easing.linear:
                return 1.0
            case Easing.ease_in:
                return 2 * u
            case Easing.ease_out:
                return 2 * (1 - u)
            case Easing.ease_in_out:
                return 6 * u * (1 - u)

    @property
    def peak_slope(self) -> float:
        """The largest ``slope`` of all."""
        return {Easing.linear: 1.0, Easing.ease_in_out: 1.5}.get(self, 2.0)


class Rect(NamedTuple):
    """A view: (x1, y1, x2, y2), 0..1 of the whole image, x to the right and y down, x1 < x2 and y1 < y2."""

    x1: float
    y1: float
    x2: float
    y2: float

    @property
    def width(self) -> float:
        """Its share of the image's width."""
        return self.x2 - self.x1

    @property
    def height(self) -> float:
        """Its share of the image's height."""
        return self.y2 - self.y1

    @property
    def centre(self) -> tuple[float, float]:
        """The point in its middle."""
        return (self.x1 + self.x2) / 2, (self.y1 + self.y2) / 2


FULL = Rect(0.0, 0.0, 1.0, 1.0)
"""The whole image."""


def frame_count(duration: float, fps: int | Fraction) -> int:
    """How many frames ``duration`` seconds last at ``fps``: their product, rounded half up.

    The product is exact: a duration is the decimal that the operator wrote, not the binary number next to it.
    """
    return math.floor(Fraction(Decimal(str(duration))) * fps + Fraction(1, 2))


def fit(rect: Rect, image_size: Size, output_size: Size) -> Rect:
    """The largest view of the output's shape inside ``rect``, about the same centre. Pixels are square."""
    (image_width, image_height), (output_width, output_height) = image_size, output_size
    # Compared without a division, so that a view which has the output's shape already comes back as it is.
    width_allows = rect.width * image_width * output_height
    height_allows = rect.height * image_height * output_width
    centre_x, centre_y = rect.centre
    if width_allows < height_allows:
        half = rect.height * (width_allows / height_allows) / 2
        return Rect(rect.x1, max(rect.y1, centre_y - half), rect.x2, min(rect.y2, centre_y + half))
    if width_allows > height_allows:
        half = rect.width * (height_allows / width_allows) / 2
        return Rect(max(rect.x1, centre_x - half), rect.y1, min(rect.x2, centre_x + half), rect.y2)
    return rect


def on_canvas(view: Rect, canvas_view: Rect) -> Rect:
    """A view of a picture as a view of a canvas that shows ``canvas_view`` of that picture, 0..1 of the canvas.

    What lies beyond the canvas, by rounding, is cut off.
    """

    def along(low: float, high: float, start: float, extent: float) -> tuple[float, float]:
        return max(0.0, (low - start) / extent), min(1.0, (high - start) / extent)

    x1, x2 = along(view.x1, view.x2, canvas_view.x1, canvas_view.width)
    y1, y2 = along(view.y1, view.y2, canvas_view.y1, canvas_view.height)
    return Rect(x1, y1, x2, y2)


@dataclass(frozen=True)
class CameraPath:
    """A move from one view to another at constant perceived zoom speed, the pace set by an easing.

    The view is the straight blend of the two, R(s) = R0 + s (R1 - R0), with its width w0 q^u for q = w1/w0:
    equal times magnify by equal factors. That makes s(u) = (q^u - 1) / (q - 1), or u if q = 1. So the fixed
    point of a zoom stands still, a shape that both ends share is kept, and no view leaves the hull of the
    two: with the ends inside the image, all views are.

    Raises ``ValueError`` where an end has no area.
    """

    start: Rect
    end: Rect
    easing: Easing = Easing.ease_in_out

    def __post_init__(self) -> None:
        if not all(rect.width > 0 and rect.height > 0 for rect in (self.start, self.end)):
            raise ValueError(f"a view needs x1 < x2 and y1 < y2, got {self.start} to {self.end}")

    @property
    def moves(self) -> bool:
        """Whether any two views differ."""
        return self.start != self.end

    def fitted(self, image_size: Size, output_size: Size) -> CameraPath:
        """The path that is rendered: both ends, and so every view, given the output's shape by ``fit``."""
        return CameraPath(fit(self.start, image_size, output_size), fit(self.end, image_size, output_size), self.easing)

    def view(self, u: float) -> Rect:
        """What the camera sees at ``u``, 0..1 of the move's time; exactly ``start`` at 0 and ``end`` at 1."""
        if u >= 1:
            return self.end
        eased, log_zoom = self.easing.at(u), self._log_zoom
        s = math.expm1(eased * log_zoom) / math.expm1(log_zoom) if log_zoom else eased
        return Rect(*map(_between, self.start, self.end, (s, s, s, s)))

    def views(self, frames: int) -> Iterator[Rect]:
        """The views of so many frames: the first sees ``start``, the last ``end``, one alone ``start``."""
        for number in range(frames):
            yield self.view(number / max(frames - 1, 1))

    def speed(self, u: float) -> float:
        """How fast the fastest visible point moves on screen at ``u``, in pictures per length of the move.

        Each axis counts by its own extent: max(|vx|/W, |vy|/H). A point's speed is linear in its place on the
        screen, so the fastest lies on an edge; and on this path an edge keeps its speed, but for the easing:
        it is |x(1) - x(0)| of that edge over the logarithmic mean of the two widths, times the easing's
        slope. Exact where both ends have one shape, which ``fitted`` sees to.
        """
        return self._pace() * self.easing.slope(u)

    @property
    def peak_speed(self) -> float:
        """The largest ``speed`` of the move."""
        return self._pace() * self.easing.peak_slope

    @cached_property
    def _log_zoom(self) -> float:
        return math.log(self.end.width / self.start.width)

    def _pace(self) -> float:
        (ax1, ay1, ax2, ay2), (bx1, by1, bx2, by2) = self.start, self.end
        across = max(abs(bx1 - ax1), abs(bx2 - ax2)) / _logarithmic_mean(self.start.width, self.end.width)
        down = max(abs(by1 - ay1), abs(by2 - ay2)) / _logarithmic_mean(self.start.height, self.end.height)
        return max(across, down)


def _between(a: float, b: float, s: float) -> float:
    """The blend of a and b at s, monotone in s and never beyond b, whatever the rounding."""
    blend = a + (b - a) * s
    return min(blend, b) if a < b else max(blend, b)


def _logarithmic_mean(a: float, b: float) -> float:
    """(b - a) / ln(b / a), which is between a and b, and a where they are equal."""
    log_ratio = math.log(b / a)
    return a * math.expm1(log_ratio) / log_ratio if log_ratio else a
