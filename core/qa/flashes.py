"""Screens frames for flashes that could provoke a photosensitive seizure, after the trace24 text.

A frame is looked at in cells, a cell's transitions are found against the frames just before, and every
position of a window counts those that alternate and are wide enough. The rule, each decision taken where it is
open, and the reasons are in ``docs/explanation/flashes.md``. It is a screen, not a certification.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import reduce
from typing import Literal, Self

import cv2
import numpy as np
from numpy.typing import NDArray

from core.light import XYZ, Frame, Plane, linear_samples, luminance
from core.qa.inspector import Place
from core.qa.thresholds import Standard

Kind = Literal["luminance", "red"]
Mask = NDArray[np.bool_]

REFERENCE = (1920, 1080)
"""Width and height of the reference screen in CSS px of 0.0213°; a frame is shown as large as fits in it."""
WINDOW: dict[str, tuple[int, int] | None] = {"trace24": (416, 416), "broadcast": None, "wcag": (341, 256)}
"""Width and height in reference px of the window of which a quarter may not flash; None is the frame."""
CELL: dict[str, float] = {"trace24": 4.0, "broadcast": 4.0, "wcag": 2.0}
"""A cell is narrower than this in reference px, or one pixel of the frame: full HD has cells of two and one."""
AREA = 0.25
LIMIT = 6
"""The most transitions that may fall within any one second, from t up to but not including t + 1."""
LUMINANCE_STEP = 0.1
LUMINANCE_RATIO = 1.125
"""A Michelson contrast (H - L)/(H + L) of 1/17, as H/L: at L = 0.8, where it takes over, H - L is 0.1 too."""
RED_STEP = 0.2
STEP_SECONDS = 0.066
SYNCHRONOUS_SECONDS = 0.020
FUSED_SECONDS = 0.015
MAX_FPS = 1000
NEARLY_ALL = 0.9
"""Measured: with less, a pan at half a width a second over a detailed still is taken for flashes."""

_REDNESS = np.array([[1.0, -4.0, -4.0]])
"""R/(R + G + B) >= 0.8, as R - 4G - 4B >= 0."""
_VEIL = 0.0005
"""The neutral light, as a share of white, that every screen reflects. It gives black the chromaticity of white,
and keeps noise of a code or two in the shadows from being a colour."""
_UV = np.array([[4.0, 0.0, 0.0], [0.0, 9.0, 0.0], [1.0, 15.0, 3.0]]) @ XYZ
"""The numerators and the denominator of u' = 4X/(X + 15Y + 3Z) and v' = 9Y/(X + 15Y + 3Z)."""
_CHROMATICITY = np.hstack([_UV, _VEIL * _UV.sum(axis=1, keepdims=True)])
"""The same of a colour with the veil over it."""
_ROUNDING = 1e-6

_RISE, _FALL = 1, 2
_WAYS = (_RISE, _FALL)


@dataclass(frozen=True)
class Violation:
    """A stretch of time in which some window sees more than six transitions within a second."""

    kind: Kind
    first_frame: int
    """The frame that shows the first of the transitions, counted from 0."""
    last_frame: int
    """The frame that shows the last of them."""
    start: float
    """When the first frame is shown, in seconds."""
    end: float
    transitions: int
    """The most within any one second."""
    place: Place
    """The smallest rectangle around what flashed."""


@dataclass(frozen=True)
class FlashReport:
    """What a screening found."""

    standard: Standard
    frames: int
    luminance_transitions: int
    """The most that any window sees within any one second; six are allowed."""
    red_transitions: int
    """The same, of transitions to and from a saturated red."""
    violations: tuple[Violation, ...]

    @property
    def passed(self) -> bool:
        return not self.violations


def screen(frames: Iterable[Frame], fps: float | Fraction, standard: Standard = "trace24") -> FlashReport:
    """Screen ``frames``, each ``(H, W, 3)`` uint8 sRGB and all of one size, shown at ``fps`` a second.

    The frames are read once, in order, and memory does not grow with their number.
    Source: Jordan & Vanderheiden, "Proposed Photosensitive Epilepsy Hazard guidance" (2024), CC BY 4.0.

    Raises:
        ValueError: a frame of another shape or type, an fps that no screen has, an unknown standard.
    """
    screening = Screening(fps, standard)
    for frame in frames:
        screening.add(frame)
    return screening.report()


class Screening:
    """The screening of one clip that is fed frame by frame."""

    def __init__(self, fps: float | Fraction, standard: Standard = "trace24") -> None:
        if not 0 < fps <= MAX_FPS:
            raise ValueError(f"fps must be above 0 and at most {MAX_FPS}, not {fps}.")
        if standard not in WINDOW:
            raise ValueError(f"The standard must be one of {', '.join(WINDOW)}, not {standard!r}.")
        self._fps = float(fps)
        self._standard: Standard = standard
        self._frames = 0
        self._shape: tuple[int, ...] = ()
        self._channels: tuple[_Channel, ...] = ()

    def add(self, frame: Frame) -> None:
        """Take the next frame.

        Raises ``ValueError`` if it is not uint8 RGB of the first one's size.
        """
        if frame.dtype != np.uint8 or frame.ndim != 3 or frame.shape[2] != 3 or not frame.size:
            raise ValueError(f"A frame must be (H, W, 3) uint8, not {frame.shape} {frame.dtype}.")
        if not self._channels:
            self._shape = frame.shape
            self._grid = _Grid(frame.shape[1], frame.shape[0], self._standard)
            self._channels = (
                _Channel(_Luminance, _Windows("luminance", self._grid, self._fps), self._grid, self._fps),
                _Channel(_Red, _Windows("red", self._grid, self._fps), self._grid, self._fps),
            )
        if frame.shape != self._shape:
            raise ValueError(f"Frame {self._frames} is {frame.shape}, the first was {self._shape}.")
        light = linear_samples(frame, self._grid.side)
        self._channels[0].add(luminance(light))
        self._channels[1].add(light)
        self._frames += 1

    def counts(self) -> dict[Kind, int]:
        """The most transitions of each kind that any window has seen within the second that ends now.

        A transition counts when it is clear where it began: above 30 fps that takes a frame step or more.
        """
        return {channel.windows.kind: channel.windows.most for channel in self._channels}

    def report(self) -> FlashReport:
        """What the frames add up to. Ends the screening."""
        windows = [channel.finish() for channel in self._channels]
        worst = {seen.kind: seen.worst for seen in windows}
        violations = sorted((v for seen in windows for v in seen.violations), key=lambda v: v.first_frame)
        return FlashReport(
            standard=self._standard,
            frames=self._frames,
            luminance_transitions=worst.get("luminance", 0),
            red_transitions=worst.get("red", 0),
            violations=tuple(violations),
        )


class _Grid:
    """The cells that a frame is looked at in, and the window that slides over them."""

    def __init__(self, width: int, height: int, standard: Standard) -> None:
        scale = min(REFERENCE[0] / width, REFERENCE[1] / height)
        side = 1  # of a cell, in pixels; powers of two divide the usual frames
        while 2 * side * scale < CELL[standard]:
            side *= 2
        self.side = side
        self.columns, self.rows = max(1, round(width / side)), max(1, round(height / side))
        cell_width, cell_height = width * scale / self.columns, height * scale / self.rows
        window_width, window_height = WINDOW[standard] or (width * scale, height * scale)
        # What lies outside the frame is still, so no window need reach there; its quarter stays what it is.
        self.box_columns = min(self.columns, max(1, round(window_width / cell_width)))
        self.box_rows = min(self.rows, max(1, round(window_height / cell_height)))
        self.positions = (self.rows - self.box_rows + 1, self.columns - self.box_columns + 1)
        quarter = AREA * window_width * window_height / (cell_width * cell_height)
        self.needed = math.ceil(quarter - _ROUNDING)
        """The cells that are a quarter of the window."""

    def held(self, cells: Mask) -> NDArray[np.int32]:
        """How many of ``cells`` each position of the window holds."""
        rows, columns = self.box_rows, self.box_columns
        total = cv2.integral(cells.view(np.uint8))
        held = total[rows:, columns:] - total[:-rows, columns:]
        held -= total[rows:, :-columns]
        held += total[:-rows, :-columns]
        return np.asarray(held, np.int32)


class _State(ABC):
    """What the cells of one frame show, to be held against what they showed some frames before."""

    @abstractmethod
    def __init__(self, cells: Plane) -> None: ...

    @abstractmethod
    def since(self, then: Self) -> tuple[Mask | None, Mask | None]:
        """The cells that rose and those that fell by a critical difference; None for no cell at all."""


class _Luminance(_State):
    """Relative luminance: a cell rises when it grows brighter."""

    def __init__(self, level: Plane) -> None:
        self._level = level
        # the level that is a critical difference above this one
        self._critical: Plane = level * np.float32(LUMINANCE_RATIO - _ROUNDING)
        np.maximum(self._critical, level + np.float32(LUMINANCE_STEP - _ROUNDING), out=self._critical)

    def since(self, then: Self) -> tuple[Mask | None, Mask | None]:
        return self._level >= then._critical, then._level >= self._critical


class _Red(_State):
    """Chromaticity: a cell rises when it turns to a saturated red, and falls when it turns from one."""

    def __init__(self, light: Plane) -> None:
        self._light = light
        self._red: Mask = np.asarray(cv2.transform(light, _REDNESS)) >= _ROUNDING

    def since(self, then: Self) -> tuple[Mask | None, Mask | None]:
        cells = np.flatnonzero(self._red | then._red)
        if not cells.size:
            return None, None
        u, v = (_chromaticity(self._light, cells) - _chromaticity(then._light, cells)).T
        apart = np.zeros_like(self._red)
        apart.flat[cells] = u * u + v * v >= (RED_STEP - _ROUNDING) ** 2
        # Two saturated reds are not 0.2 apart, unless one is next to black: then both ways are noted, and count once.
        return self._red & apart, then._red & apart


def _chromaticity(light: Plane, cells: NDArray[np.intp]) -> NDArray[np.float32]:
    """CIE 1976 u' and v' of some cells, ``(n, 2)``."""
    # A product of matrices would wake the threads of a BLAS, which stall where the cores are all at work.
    parts = cv2.transform(light.reshape(-1, 1, 3).take(cells, axis=0), _CHROMATICITY).reshape(-1, 3)
    uv: NDArray[np.float32] = np.asarray(parts[:, :2] / parts[:, 2:], np.float32)
    return uv


class _Transitions:
    """The cells whose transition begins at one frame, by its way; no entry where there are none."""

    def __init__(self) -> None:
        self.made: dict[int, Mask] = {}
        self.turned: dict[int, Mask] = {}
        """Those whose last transition ran the other way, or a second ago."""

    def add(self, way: int, made: Mask, turned: Mask) -> None:
        for cells, more in ((self.made, made), (self.turned, turned)):
            cells[way] = cells[way] | more if way in cells else more


class _Channel:
    """Finds the alternating transitions of one kind, and puts each down at the frame in which it begins."""

    def __init__(self, state: type[_State], windows: _Windows, grid: _Grid, fps: float) -> None:
        self._state = state
        self.windows = windows
        self._steps = max(1, _steps_within(STEP_SECONDS, fps))
        self._second = _second(fps)
        self._then: deque[_State] = deque(maxlen=self._steps)
        self._open: deque[_Transitions] = deque()
        """The frames in which a transition may yet turn out to have begun."""
        self._last = {way: np.zeros((grid.rows, grid.columns), np.bool_) for way in _WAYS}
        """The cells whose last transition went that way."""
        self._age = np.full((grid.rows, grid.columns), max(self._second, self._steps), np.uint16)
        """The frame steps since then; more than these make no difference."""

    def add(self, cells: Plane) -> None:
        now = self._state(cells)
        self._open.append(_Transitions())
        self._age += self._age < max(self._second, self._steps)
        # Of all the runs that end here the shortest sufficient one is the transition. It begins where the
        # picture began to change, for the parts that change by much and for those that take longer alike.
        for steps, then in enumerate(reversed(self._then), start=1):
            for way, made in zip(_WAYS, now.since(then), strict=True):
                if made is not None and made.any():
                    self._put_down(way, made, steps)
        self._then.append(now)
        if len(self._open) == self._steps:
            self.windows.add(self._open.popleft())

    def _put_down(self, way: int, made: Mask, steps: int) -> None:
        if steps > 1:  # what came before a transition takes no part in the next one
            made = made & (self._age >= steps)
        turned = made & (~self._last[way] | (self._age >= self._second))
        self._open[-steps].add(way, made, turned)
        self._last[way] |= turned
        self._last[_RISE + _FALL - way] &= ~turned
        self._age *= ~turned

    def finish(self) -> _Windows:
        """The windows, with all frames counted."""
        while self._open:
            self.windows.add(self._open.popleft())
        return self.windows


class _Windows:
    """Counts at every position of the window the wide transitions that alternate within a second."""

    def __init__(self, kind: Kind, grid: _Grid, fps: float) -> None:
        self.kind: Kind = kind
        self.worst = 0
        self.violations: list[Violation] = []
        self._grid = grid
        self._fps = fps
        self._frame = -1
        self._second = _second(fps)
        self._way = np.zeros(grid.positions, np.uint8)
        """The way of the last transition."""
        self._latest = np.full(grid.positions, -self._second)
        """The frame of the last transition."""
        self._counted = np.zeros((self._second, *grid.positions), np.bool_)
        """Where the transitions of the last second were, a plane a frame, used in rotation."""
        self._counts = np.zeros(grid.positions, np.uint16)
        self._onsets = {way: _Onsets(way, grid, fps) for way in _WAYS}

    @property
    def most(self) -> int:
        """The most transitions of the last second at any position."""
        return int(self._counts.max())

    def add(self, transitions: _Transitions) -> None:
        """Take the transitions that begin at the next frame."""
        self._frame += 1
        counted = self._counted[self._frame % self._second]
        if counted.any():  # a second ago
            self._counts -= counted
            counted[:] = False
        rise, fall = (self._onsets[way].add(transitions) for way in _WAYS)
        if rise is None and fall is None:
            return
        forgotten = self._frame - self._latest >= self._second
        rises = _both(rise, forgotten | (self._way != _RISE))
        falls = _both(fall, forgotten | (self._way != _FALL)) & ~rises  # what changes at once is one transition
        self._way[rises], self._way[falls] = _RISE, _FALL
        where = rises | falls
        counted[:] = where
        self._latest[where] = self._frame
        self._counts += where
        most = int(self._counts.max(where=where, initial=0))
        self.worst = max(self.worst, most)
        if most > LIMIT:
            self._violate(where & (self._counts > LIMIT), most, transitions)

    def _violate(self, where: Mask, most: int, transitions: _Transitions) -> None:
        oldest = self._frame - self._second + 1
        first = next(f for f in range(oldest, self._frame + 1) if (self._counted[f % self._second] & where).any())
        found = Violation(
            kind=self.kind,
            first_frame=first,
            last_frame=self._frame,
            start=first / self._fps,
            end=self._frame / self._fps,
            transitions=most,
            place=self._place(where, transitions),
        )
        if self.violations and first <= self.violations[-1].last_frame:
            found = _joined(self.violations.pop(), found)
        self.violations.append(found)

    def _place(self, where: Mask, transitions: _Transitions) -> Place:
        """The rectangle around what changed, within the windows that stand at ``where``."""
        x, y, width, height = cv2.boundingRect(where.view(np.uint8))
        seen = np.s_[y : y + height + self._grid.box_rows - 1, x : x + width + self._grid.box_columns - 1]
        changed = reduce(np.logical_or, (cells[seen] for cells in transitions.made.values()))
        left, right = _extent(changed.sum(axis=0))
        top, bottom = _extent(changed.sum(axis=1))
        columns, rows = self._grid.columns, self._grid.rows
        return (x + left) / columns, (y + top) / rows, (x + right) / columns, (y + bottom) / rows


class _Onsets:
    """Tells where transitions of one way that are synchronous first make up a wide one that alternates."""

    def __init__(self, way: int, grid: _Grid, fps: float) -> None:
        self._way = way
        self._grid = grid
        self._recent: deque[_Transitions] = deque(maxlen=_steps_within(SYNCHRONOUS_SECONDS, fps) + 1)
        self._fused = _steps_within(FUSED_SECONDS, fps)
        self._frame = -1
        self._latest = np.full(grid.positions, -self._fused - 1)

    def add(self, transitions: _Transitions) -> Mask | None:
        """The window positions that have an onset in the next frame; None where there is no such."""
        self._frame += 1
        self._recent.append(transitions)
        onset = made = None
        for first, recent in zip(range(self._frame, -1, -1), reversed(self._recent), strict=False):
            begun = recent.made.get(self._way)
            if begun is None:
                continue
            made = _any([made, begun])
            wide = self._wide(made)
            if wide is None:
                continue
            if first < self._frame:  # what has been part of an onset is not added to the next one
                wide &= self._latest < first
            onset = wide if onset is None else onset | wide
        if onset is None:
            return None
        return self._unfused(onset) & self._alternating()

    def _wide(self, cells: Mask | None) -> Mask | None:
        """The positions of the window of which ``cells`` are a quarter."""
        if cells is None or np.count_nonzero(cells) < self._grid.needed:
            return None
        wide: Mask = self._grid.held(cells) >= self._grid.needed
        return wide if wide.any() else None

    def _alternating(self) -> Mask:
        """The positions where the cells that turn are a quarter, or nearly all of those that make a transition.

        Noise, and what a codec mends between frames, make transitions of their own in a few cells.
        """
        made = _any(recent.made.get(self._way) for recent in self._recent)
        turned = _any(recent.turned.get(self._way) for recent in self._recent)
        if made is None or turned is None:
            return np.zeros(self._grid.positions, np.bool_)
        turns = self._grid.held(turned)
        alternating: Mask = (turns >= self._grid.needed) | (turns >= NEARLY_ALL * self._grid.held(made))
        return alternating

    def _unfused(self, onset: Mask) -> Mask:
        """The onsets, but for those so soon after one of the same way that the eye fuses them."""
        apart = onset & (self._frame - self._latest > self._fused)
        self._latest[onset] = self._frame
        return apart


def _extent(counts: NDArray[np.integer]) -> tuple[int, int]:
    """From where to where there are many, but for stray ones."""
    many = np.flatnonzero(10 * counts > counts.max())
    return int(many[0]), int(many[-1]) + 1


def _any(masks: Iterable[Mask | None]) -> Mask | None:
    """The cells that are in any of the masks."""
    given = [mask for mask in masks if mask is not None]
    return reduce(np.logical_or, given) if given else None


def _both(onset: Mask | None, where: Mask) -> Mask:
    return np.zeros_like(where) if onset is None else onset & where


def _second(fps: float) -> int:
    """The fewest frame steps that take a second or more."""
    return math.ceil(fps - _ROUNDING)


def _joined(one: Violation, other: Violation) -> Violation:
    """Two stretches that overlap, as the one around both."""
    (x1, y1, x2, y2) = zip(one.place, other.place, strict=True)
    return replace(
        one,
        first_frame=min(one.first_frame, other.first_frame),
        last_frame=max(one.last_frame, other.last_frame),
        start=min(one.start, other.start),
        end=max(one.end, other.end),
        transitions=max(one.transitions, other.transitions),
        place=(min(x1), min(y1), max(x2), max(y2)),
    )


def _steps_within(seconds: float, fps: float) -> int:
    """The most frame steps that take no longer: of 20 ms, one at 50 fps."""
    return math.floor(seconds * fps + _ROUNDING)
