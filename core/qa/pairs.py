"""Measures each frame of a clip against the one before it: how its parts move, and what no motion explains."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import cv2
import numpy as np
from numpy.typing import NDArray

from core.qa.inspector import Grey, Seen
from core.qa.planned import Planned

Numbers = NDArray[np.float32]

TILE = 8
"""Pixels of the small picture, along each side, over which motion is averaged: a thirty-second of its longer side."""
TEXTURED = 2.0
"""Codes from a pixel to the next, in the mean of a tile: where there is less, flow is a guess."""
STRONG = 8.0
"""Codes: more texture than this counts no more."""
LITTLE = 0.001
"""Longer sides a frame: a quarter of a pixel of the small picture. Less is no motion."""
DARK = 4.0
"""Codes, added to both levels before one is divided by the other: in the dark a code is no change of the light."""


@dataclass(frozen=True, eq=False)
class Pairs:
    """All pairs of a clip of T + 1 frames; what is at ``t`` is of the frames ``t`` and ``t + 1``."""

    flow: Numbers
    """How far what a tile shows has moved, beside what the plan moves it by, where that is known: ``(T, rows, columns,
    2)``, right and down, in shares of the longer side."""
    rest: Numbers
    """What no motion explains, the mean over the tile, codes of 255: ``(T, rows, columns)``."""
    texture: Numbers
    """The mean step from a pixel to the next one, likewise; 0 where the frame before cannot have shown the tile."""
    gain: Numbers
    """The logarithm of how much brighter each channel has become, the motion undone: ``(T, 3)``."""

    @cached_property
    def weight(self) -> Numbers:
        """What a tile's flow is worth, by its texture; all but nothing where there is too little: as ``texture``."""
        textured = self.texture >= TEXTURED
        return np.asarray(np.where(textured, np.minimum(self.texture, STRONG), 1e-6), np.float32)

    @cached_property
    def itself(self) -> Numbers:
        """``flow`` beside the camera's own, which is what all tiles share: the affine map that explains most of them.

        By weighted least squares; what strays from it counts less and less, in three rounds, with the weights of Geman
        and McClure.
        """
        count, rows, columns = self.weight.shape
        y, x = np.mgrid[:rows, :columns]
        places = np.stack([np.ones(rows * columns), x.ravel() / columns - 0.5, y.ravel() / rows - 0.5], axis=1)
        flows = self.flow.reshape(count, -1, 2).astype(np.float64)
        weights = self.weight.reshape(count, -1).astype(np.float64)
        trust = weights
        for _ in range(3):
            normal = np.einsum("tn,ni,nj->tij", trust, places, places) + 1e-9 * np.eye(3)
            shared = places @ np.linalg.solve(normal, np.einsum("tn,ni,tna->tia", trust, places, flows))
            trust = weights / (1 + ((flows - shared) ** 2).sum(axis=2) / LITTLE**2) ** 2
        return self.flow - shared.reshape(self.flow.shape).astype(np.float32)


class Measuring:
    """Is fed a clip frame by frame, and keeps some numbers for each tile of each.

    The flow is DIS (Kroeger et al. 2016, "Fast optical flow using dense inverse search") from a frame to the one
    before, which has been moved already as the plan moves it: what is left is near nothing, and found to a hundredth
    of a pixel.
    """

    def __init__(self, planned: Planned) -> None:
        """Where the views of ``planned`` are only asked of a model, it is not known how the camera moves."""
        self._planned = planned
        self._dis = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_ULTRAFAST)
        self._last: NDArray[np.uint8] | None = None
        self._grid = np.zeros((0, 0, 2), np.float32)
        self._made: list[tuple[Numbers, Numbers, Numbers, Numbers]] = []

    def add(self, seen: Seen) -> None:
        """Take the next frame; one without detail is passed over."""
        if not seen.detailed:
            return
        now, last, self._last = seen.picture, self._last, seen.picture
        if last is None:
            return
        height, width = now.shape[:2]
        if self._grid.shape[:2] != (height, width):
            self._grid = np.stack(np.meshgrid(np.arange(width), np.arange(height)), axis=-1).astype(np.float32)
        step = None if self._planned.asked else self._planned.step(seen.number, (width, height))
        detail = texture(seen.small)
        if step is not None:
            last = np.asarray(cv2.warpAffine(last, step, (width, height), borderMode=cv2.BORDER_REPLICATE), np.uint8)
            # What comes into the picture was not in the one before: nothing there tells how it has moved.
            known = cv2.warpAffine(np.ones((height, width), np.float32), step, (width, height))
            detail = np.where(_tiles(np.asarray(known, np.float32)) > 1 - 1e-3, detail, np.float32(0))
        before = np.asarray(cv2.cvtColor(last, cv2.COLOR_RGB2GRAY), np.uint8)
        back = np.asarray(self._dis.calc(seen.small, before, None), np.float32)  # type: ignore[call-overload]  # no flow to begin with
        moved = cv2.remap(last, self._grid + back, None, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)  # type: ignore[call-overload]  # one map instead of two
        left = cv2.absdiff(seen.small, cv2.cvtColor(moved, cv2.COLOR_RGB2GRAY))
        self._made.append(
            (
                -shares(back, max(width, height)),
                _tiles(np.asarray(left, np.uint8)),
                detail,
                _gain(now, moved),
            )
        )

    def finish(self) -> Pairs | None:
        """All that was measured; None of a single frame."""
        if not self._made:
            return None
        flow, rest, texture, gain = (np.array(each, np.float32) for each in zip(*self._made, strict=True))
        return Pairs(flow, rest, texture, gain)


def shares(flow: Numbers, side: int) -> Numbers:
    """The mean motion of each tile, of a flow in pixels, ``(h, w, 2)``, as shares of so long a side."""
    return _tiles(flow) / np.float32(side)


def texture(picture: Grey) -> Numbers:
    """The mean, over each tile, of the larger of the steps from each pixel to the next, across and down, in codes."""
    steps = np.zeros_like(picture)
    corner = picture[:-1, :-1]
    larger = cv2.max(cv2.absdiff(picture[:-1, 1:], corner), cv2.absdiff(picture[1:, :-1], corner))
    steps[:-1, :-1] = larger
    return _tiles(steps)


def _tiles(plane: NDArray[np.uint8] | Numbers) -> Numbers:
    size = max(1, plane.shape[1] // TILE), max(1, plane.shape[0] // TILE)
    return np.asarray(cv2.resize(plane.astype(np.float32), size, interpolation=cv2.INTER_AREA), np.float32)


def _gain(now: NDArray[np.uint8], moved: NDArray[np.uint8]) -> Numbers:
    """The median over the tiles: what changes in a part of the picture, or comes into it, does not count."""
    ratio = np.log((_tiles(now) + DARK) / (_tiles(moved) + DARK))
    return np.asarray(np.median(ratio.reshape(-1, 3), axis=0), np.float32)
