"""Inspects whether the light is steady from frame to frame, in the picture as a whole and in its parts."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from core.errors import Finding
from core.qa.exposure import DARKEST, TILES, place_of
from core.qa.inspector import Inspection, Inspector, Seen, Trace, windows
from core.qa.thresholds import QaThresholds


class Flicker(Inspector):
    """Keeps the mean luminance of the frame's tiles.

    A camera and things that move change the light of a part smoothly: its second difference is near nothing. What
    flickers goes up and down. The median over a second lets a cut, a flash, a single frame off pass, which others find.
    """

    def __init__(self, limits: QaThresholds, *, filmed: bool) -> None:
        """``filmed`` is set where the camera films a still: there nothing else moves."""
        self._whole_max = limits.flicker_max if filmed else limits.flicker_living_max
        self._part_max = limits.flicker_part_max if filmed else limits.flicker_part_living_max
        self._tiles: list[NDArray[np.float32]] = []

    def add(self, seen: Seen) -> None:
        """Take the next frame's luminance, if it has any detail."""
        if not seen.detailed:
            return
        self._tiles.append(np.asarray(cv2.resize(seen.level, (TILES, TILES), interpolation=cv2.INTER_AREA), np.float32))

    def finish(self) -> Inspection:
        """The flicker of the whole picture, and of the tile that flickers most."""
        if not self._tiles:
            return Inspection()
        tiles = np.array(self._tiles, np.float64).reshape(-1, TILES * TILES)
        whole = _unsteadiness(tiles.mean(axis=1, keepdims=True))[:, 0]
        part = _unsteadiness(tiles)
        said = Inspection(traces=[Trace("flicker, share of the luminance", whole.tolist(), self._whole_max)])
        place, value, limit, tile = "the light of the picture", _most(whole), self._whole_max, None
        most = [_most(series) for series in part.T]
        said.measures["flicker"] = round(value, 4)
        said.measures["flicker_part"] = round(max(most), 4)
        if value <= limit:
            tile = int(np.argmax(most))
            place, value, limit = "the light of a part of the picture", most[tile], self._part_max
        if value > limit:
            series = whole if tile is None else part[:, tile]
            frame = int(np.nanargmax(series))
            message = f"It flickers: {place} goes up and down by {value:.1%} of itself from frame to frame."
            said.find(
                Finding(code="flicker", message=message, severity="warning", value=value, limit=limit, frame=frame,
                        remedy="Look at it in motion; make it again with another seed if it shows."),
                [frame - 1, frame, frame + 1],
                None if tile is None else place_of(divmod(tile, TILES)),
            )  # fmt: skip
        return said


def _unsteadiness(levels: NDArray[np.float64]) -> NDArray[np.float64]:
    """|L(t - 1) - 2 L(t) + L(t + 1)| / 2 over L(t), of each column; NaN for the first and the last frame."""
    found = np.full_like(levels, np.nan)
    second = np.abs(levels[:-2] - 2 * levels[1:-1] + levels[2:]) / 2
    found[1:-1] = second / np.maximum(levels[1:-1], DARKEST)
    return found


def _most(series: NDArray[np.float64]) -> float:
    """The largest median of any window of frames."""
    inner = series[1:-1]
    if not len(inner):
        return 0.0
    return float(max(np.median(inner[window]) for window in windows(len(inner))))
