"""Inspects how bright frames are: black ones, single ones that flash, cuts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import cv2
import numpy as np
from numpy.typing import NDArray

from core.errors import Finding, Severity
from core.qa.inspector import Inspection, Inspector, Place, Seen, Trace, named
from core.qa.thresholds import QaThresholds

LUMINANCE = "mean relative luminance"
"""The name of its trace."""
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


class Exposure(Inspector):
    """Keeps the mean luminance of every frame and of its tiles."""

    def __init__(self, limits: QaThresholds, fps: float, planned: Sequence[float] = ()) -> None:
        """``planned`` is how bright each frame is to be, mean relative luminance 0..1, where that is known."""
        self._limits = limits
        self._slower = max(1.0, fps / 30)
        self._planned = planned
        self._tiles: list[NDArray[np.float32]] = []

    def add(self, seen: Seen) -> None:
        """Take the next frame's luminance."""
        tiles = cv2.resize(seen.level, (TILES, TILES), interpolation=cv2.INTER_AREA)
        self._tiles.append(np.asarray(tiles, np.float32))

    @property
    def levels(self) -> NDArray[np.float32]:
        """The mean relative luminance of every frame, 0..1, ``(T,)``."""
        return np.array([tiles.mean() for tiles in self._tiles], np.float32)

    def finish(self) -> Inspection:
        """Black frames, flash frames and cuts."""
        levels = self.levels
        said = Inspection(traces=[Trace(LUMINANCE, levels.tolist())])
        said.measures["luminance_min"] = round(float(levels.min()), 4)
        said.measures["luminance_max"] = round(float(levels.max()), 4)
        self._black(levels, said)
        self._swings(said)
        return said

    def _black(self, levels: NDArray[np.float32], said: Inspection) -> None:
        # Without a plan a clip is held against itself: one that is dark throughout may be meant so.
        light = np.array(self._planned[: len(levels)] or np.full(len(levels), np.median(levels)))
        dark = levels[: len(light)] < self._limits.black_max
        black = np.flatnonzero(dark & (light > self._limits.black_planned_min)).tolist()
        said.measures["black_frames"] = len(black)
        if black:
            severity: Severity = "error" if self._planned else "warning"  # it may fade in or out
            than = "the keyframe is not" if self._planned else "most of the clip is not"
            message = f"{named(black)} black, and {than}."
            said.find(
                Finding(code="black_frames", message=message, severity=severity, value=len(black), limit=0,
                        frame=black[0]),
                black,
            )  # fmt: skip

    def _swings(self, said: Inspection) -> None:
        swings = self.swings()
        flashes = [swing for swing in swings if swing.kind == "flash"]
        cuts = [swing.frame for swing in swings if swing.kind == "cut"]
        said.measures["flash_frames"], said.measures["cuts"] = len(flashes), len(cuts)
        if flashes:
            worst = max(flashes, key=lambda swing: (swing.tile is None, abs(swing.after - swing.before)))
            message = (
                f"{named([swing.frame for swing in flashes])} a flash; in frame {worst.frame} luminance goes "
                f"from {worst.before:.2f} to {worst.after:.2f} and back{' in a part' if worst.tile else ''}."
            )
            # In a part of the picture it may be a lamp or a fire; that a person can tell.
            severity: Severity = "warning" if worst.tile else "error"
            said.find(
                Finding(code="flash_frame", message=message, severity=severity, value=abs(worst.after - worst.before),
                        frame=flashes[0].frame),
                [worst.frame - 1, worst.frame, worst.last + 1],
                worst.tile and place_of(worst.tile),
            )  # fmt: skip
        if cuts:
            message = f"{named(cuts)} a cut: brightness changes at once and stays."
            said.find(
                Finding(code="cut", message=message, severity="warning", value=len(cuts), limit=0, frame=cuts[0]),
                [number for cut in cuts for number in (cut - 1, cut)],
            )

    def swings(self) -> list[Swing]:
        """Where brightness swings by more than ``swing_max`` in one frame, and whether it comes back; one a frame.

        The limit is a share of the brighter of the two levels. A swing is a flash if within ``swing_back_frames``
        at least half of it is undone, and a cut if not. In a single tile only a flash of one frame counts: what
        moves through a tile takes longer, and what moves into it stays. Of more than 30 frames a second it may be
        as many more.
        """
        back_within = round(self._limits.swing_back_frames * self._slower), round(self._slower)
        tiles = np.array(self._tiles, np.float64).reshape(-1, TILES * TILES)
        levels = np.column_stack([tiles.mean(axis=1), tiles])
        change = np.diff(levels, axis=0)
        brighter = np.maximum(np.maximum(levels[1:], levels[:-1]), DARKEST)
        large = np.abs(change) > self._limits.swing_max * brighter
        found: list[Swing] = []
        for frame in np.flatnonzero(large.any(axis=1)) + 1:
            if found and found[-1].kind == "flash" and frame <= found[-1].last + 1:
                continue  # the way back
            swing = _swing(levels, int(frame), np.flatnonzero(large[frame - 1]), *back_within)
            if swing is not None:
                found.append(swing)
        return found


def _swing(
    levels: NDArray[np.float64], frame: int, places: NDArray[np.intp], whole_within: int, part_within: int
) -> Swing | None:
    """The swing that shows at ``frame``; place 0 is the frame as a whole, the others are its tiles."""
    change = np.abs(levels[frame] - levels[frame - 1])
    for place in sorted(places, key=lambda place: (place != 0, -change[place])):
        before, after = float(levels[frame - 1, place]), float(levels[frame, place])
        rest = levels[frame + 1 : frame + 1 + (part_within if place else whole_within), place]
        back = np.flatnonzero(np.abs(rest - before) <= abs(after - before) / 2)
        if back.size:
            tile = divmod(int(place) - 1, TILES) if place else None
            return Swing("flash", frame, frame + int(back[0]), tile, before, after)
        if not place:
            return Swing("cut", frame, frame, None, before, after)
    return None


def place_of(tile: tuple[int, int]) -> Place:
    """Where a tile is, by its row and column."""
    row, column = tile
    return column / TILES, row / TILES, (column + 1) / TILES, (row + 1) / TILES
