"""Measures frames for faults of a whole frame: black, repeated, flashed, cut."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import cv2
import numpy as np
from numpy.typing import NDArray

from core.light import Frame, Plane

TILES = 4
"""The frame is looked at as a whole and in so many rows and columns of tiles."""
DARKEST = 0.05
"""Relative luminance below which a change is held against this instead: in the dark little is seen."""


@dataclass(frozen=True)
class Swing:
    """A change of brightness from one frame to the next that is larger than it ought to be."""

    kind: Literal["flash", "cut"]
    """A flash comes back to what was before it, a cut does not."""
    frame: int
    """The first frame that is changed."""
    last: int
    """The last frame that is changed, before it comes back; of a cut, the first."""
    tile: tuple[int, int] | None
    """The row and column of the tile that swings most, None where the frame as a whole swings."""
    before: float
    """Mean relative luminance, 0..1."""
    after: float


class Artifacts:
    """The measurements of one clip, fed frame by frame. Keeps a few numbers a frame, and the last frame."""

    def __init__(self, noise: float) -> None:
        """``noise`` is the mean absolute difference of two frames, in codes of 255, below which they are one."""
        self.repeats: list[int] = []
        """The frames that repeat the one before, though the plan would have changed it visibly."""
        self._noise = noise
        self._tiles: list[NDArray[np.float32]] = []
        self._last: Frame | None = None

    def add(self, frame: Frame, level: Plane, step: NDArray[np.float64] | None = None) -> None:
        """Take the next frame, ``(H, W, 3)`` uint8, which must not change before the one after it is taken.

        ``level`` is its relative luminance, 0..1, in cells of any size. ``step`` is where the plan moves the pixels
        of the frame before, a 2 x 3 affine map; None if they are not to move, or nobody knows.
        """
        if self._last is not None and step is not None and difference(frame, self._last) < self._noise:
            size = frame.shape[1], frame.shape[0]
            moved = cv2.warpAffine(self._last, step, size, borderMode=cv2.BORDER_REPLICATE)
            # What has no detail may move unseen: the plan must change it by far more than noise does.
            if difference(np.asarray(moved, np.uint8), self._last) > 4 * self._noise:
                self.repeats.append(len(self._tiles))
        self._tiles.append(np.asarray(cv2.resize(level, (TILES, TILES), interpolation=cv2.INTER_AREA), np.float32))
        self._last = frame

    @property
    def levels(self) -> NDArray[np.float32]:
        """The mean relative luminance of every frame, 0..1, ``(T,)``."""
        return np.array([tiles.mean() for tiles in self._tiles], np.float32)

    def swings(self, limit: float, back_within: int) -> list[Swing]:
        """Where brightness swings by more than ``limit`` in one frame, and whether it comes back; one a frame.

        ``limit`` is a share of the brighter of the two levels. A swing is a flash if within ``back_within`` frames
        at least half of it is undone, and a cut if not. In a single tile only a flash of one frame counts: what
        moves through a tile takes longer, and what moves into it stays.
        """
        tiles = np.array(self._tiles, np.float64).reshape(-1, TILES * TILES)
        levels = np.column_stack([tiles.mean(axis=1), tiles])
        change = np.diff(levels, axis=0)
        brighter = np.maximum(np.maximum(levels[1:], levels[:-1]), DARKEST)
        large = np.abs(change) > limit * brighter
        found: list[Swing] = []
        for frame in np.flatnonzero(large.any(axis=1)) + 1:
            if found and found[-1].kind == "flash" and frame <= found[-1].last + 1:
                continue  # the way back
            swing = _swing(levels, int(frame), np.flatnonzero(large[frame - 1]), back_within)
            if swing is not None:
                found.append(swing)
        return found


def _swing(levels: NDArray[np.float64], frame: int, places: NDArray[np.intp], back_within: int) -> Swing | None:
    """The swing that shows at ``frame``; place 0 is the frame as a whole, the others are its tiles."""
    change = np.abs(levels[frame] - levels[frame - 1])
    for place in sorted(places, key=lambda place: (place != 0, -change[place])):
        before, after = float(levels[frame - 1, place]), float(levels[frame, place])
        rest = levels[frame + 1 : frame + 1 + (1 if place else back_within), place]
        back = np.flatnonzero(np.abs(rest - before) <= abs(after - before) / 2)
        if back.size:
            tile = divmod(int(place) - 1, TILES) if place else None
            return Swing("flash", frame, frame + int(back[0]), tile, before, after)
        if not place:
            return Swing("cut", frame, frame, None, before, after)
    return None


def difference(a: Frame, b: Frame) -> float:
    """The mean absolute difference of two frames, in codes of 255."""
    return cv2.norm(a, b, cv2.NORM_L1) / a.size
