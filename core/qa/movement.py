"""Inspects what changes from frame to frame: frames left out, parts that warp, textures that boil, drifting light."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from core.errors import Finding
from core.qa.drift import judge_drift
from core.qa.inspector import Inspection, Inspector, Seen, Trace, joined, windows
from core.qa.pairs import LITTLE, TEXTURED, Measuring, Pairs
from core.qa.planned import Planned
from core.qa.thresholds import QaThresholds

Series = NDArray[np.float64]
"""A number for each pair of frames, ``(T,)``."""

AROUND = 2
"""Pairs on either side with which a pair that jumps is compared."""
SLOW, ITSELF = 0.01, 0.001
"""Longer sides a frame, at all and beside what the picture shares: what moves faster than this is blurred, and hides
what is behind it."""
LOST = 1.0
"""Share of the detail that no motion explains, in the median: with more, the one frame is not found in the other."""
FEWEST = 8
"""Tiles with texture: with fewer, nobody can tell how the picture moves."""


class Movement(Inspector):
    """Judges the flow between each frame and the one before it.

    Where the camera films a still along a known path, whatever is left of the flow is a fault. Where the picture lives
    or nothing is known, motion is compared with what it was just before and after: things do not turn back and forth in
    every frame.
    """

    def __init__(self, limits: QaThresholds, planned: Planned) -> None:
        self._limits = limits
        self._filmed = planned.still is not None
        self._measuring = Measuring(planned)
        self._longer = 0

    def add(self, seen: Seen) -> None:
        """Take the next frame."""
        self._measuring.add(seen)
        self._longer = max(seen.frame.shape[:2])

    def finish(self) -> Inspection:
        """Jumps, warp, boil and drift."""
        said = Inspection()
        pairs = self._measuring.finish()
        if pairs is not None:
            self._jumps(pairs, said)
            self._warp(pairs, said)
            self._boil(pairs, said)
            if not self._filmed:  # else it is known how bright each frame is to be, and ``Likeness`` looks
                gains = np.vstack([np.zeros(3), followed(pairs)])
                limits = self._limits
                drift = judge_drift(gains, range(len(gains)), len(gains), limits.brightness_drift_living_max,
                                    limits.colour_drift_living_max)  # fmt: skip
                return joined([said, drift])
        return said

    def _jumps(self, pairs: Pairs, said: Inspection) -> None:
        if self._filmed:
            value, limit = strayed(pairs), self._limits.jump_max
            name, beyond = "motion beside the plan, longer sides a frame", "than planned"
        else:
            value, limit = leaps(pairs), self._limits.jump_times_max
            name, beyond = "motion, times that of its neighbours", "than before and after"
        jumps = (np.flatnonzero(value > limit) + 1).tolist()
        said.measures["jumps"] = len(jumps)
        said.measures["jump_largest"] = round(float(value.max()), 5)
        said.traces.append(Trace(name, [float("nan"), *value.tolist()], limit))
        if jumps:
            worst = int(np.argmax(value)) + 1
            message = f"The picture jumps in frame {worst}: it moves further {beyond}, as if frames were left out."
            said.find(
                Finding(code="jump", message=message, severity="warning", value=float(value[worst - 1]), limit=limit,
                        frame=jumps[0]),
                [worst - 1, worst],
            )  # fmt: skip

    def _warp(self, pairs: Pairs, said: Inspection) -> None:
        if self._filmed:
            series, limit = unplanned(pairs), self._limits.warp_max
        else:
            series, limit = unsteady(pairs), self._limits.warp_living_max
        value, frame = self._lasting(said, "warp", "longer sides", series, limit)
        if value > limit:
            message = f"The picture warps: its parts shake by {value * self._longer:.2f} pixels a frame."
            self._find(said, Finding(code="warp", message=message, value=value, limit=limit, frame=frame))

    def _boil(self, pairs: Pairs, said: Inspection) -> None:
        limit = self._limits.boil_max if self._filmed else self._limits.boil_living_max
        value, frame = self._lasting(said, "texture_boil", "share of the detail", boiling(pairs), limit)
        if value > limit:
            message = f"Textures boil: {value:.0%} of their detail is new in every frame."
            self._find(said, Finding(code="texture_boil", message=message, value=value, limit=limit, frame=frame))

    @staticmethod
    def _lasting(said: Inspection, code: str, unit: str, series: Series, limit: float) -> tuple[float, int]:
        value, frame = most(series)
        said.measures[code] = round(value, 5)
        said.traces.append(Trace(f"{code.replace('_', ' ')}, {unit}", [float("nan"), *series.tolist()], limit))
        return value, frame

    @staticmethod
    def _find(said: Inspection, finding: Finding) -> None:
        remedy = "Look at it in motion; make it again with another seed if it shows."
        frame = finding.frame or 1
        said.find(finding.model_copy(update={"severity": "warning", "remedy": remedy}), [frame - 1, frame, frame + 1])


def strayed(pairs: Pairs) -> Series:
    """How far the picture as a whole moves beside the plan, in longer sides."""
    across, down = (_median(pairs.flow[..., axis], pairs.weight) for axis in (0, 1))
    return np.hypot(across, down) * _told(pairs)


def leaps(pairs: Pairs) -> Series:
    """How many times further each frame moves than any of the ``AROUND`` before it and after it.

    Of the quarter of the tiles that move most: it may be a small thing that moves, before a camera that stands still.
    """
    length = np.sort(_length(pairs.flow).reshape(len(pairs.flow), -1), axis=1)
    moved = length[:, -max(1, length.shape[1] // 4) :].mean(axis=1) + LITTLE
    found = np.ones(len(moved))
    for at in range(1, len(moved) - 1):
        around = np.r_[moved[max(0, at - AROUND) : at], moved[at + 1 : at + 1 + AROUND]]
        found[at] = moved[at] / around.max()
    return found


def unplanned(pairs: Pairs) -> Series:
    """How far parts of the picture move beside the plan and beside the whole, in longer sides; weighted by texture."""
    whole = np.stack([_median(pairs.flow[..., axis], pairs.weight) for axis in (0, 1)], axis=-1)
    return _mean(_length(pairs.flow - whole[:, None, None]), pairs.weight) * _told(pairs)


def unsteady(pairs: Pairs) -> Series:
    """How much more the motion of a part changes from frame to frame than it amounts to, in longer sides.

    What moves by itself keeps most of its motion: |f(t) - f(t - 1)| is less than |f(t)| + |f(t - 1)|, by much; of what
    shakes it is nearly all of that. So only what is beyond half of it counts.
    """
    flow = pairs.itself
    found = np.zeros(len(flow))
    change = _length(np.diff(flow, axis=0))
    amount = _length(flow[1:]) + _length(flow[:-1])
    found[1:] = np.maximum(_mean(change - np.float32(0.5) * amount, pairs.weight[1:]), 0)
    return found * _told(pairs)


def boiling(pairs: Pairs) -> Series:
    """What no motion explains, as a share of the texture there: the median of the slow parts that have any."""
    share = pairs.rest / (pairs.texture + 1)
    slow = (_length(pairs.flow) < SLOW) & (_length(pairs.itself) < ITSELF)
    usable = (pairs.texture >= TEXTURED) & slow
    return np.array(
        [
            np.median(each[use]) if np.count_nonzero(use) >= FEWEST else np.nan
            for each, use in zip(share, usable, strict=True)
        ]
    )


def followed(pairs: Pairs) -> NDArray[np.float64]:
    """The gains of the pairs, added up; from nothing again at a cut, behind which other things are seen."""
    cut = np.median(pairs.rest / (pairs.texture + 1), axis=(1, 2)) >= LOST
    gains = np.where(cut[:, None], 0.0, pairs.gain.astype(np.float64))
    shots = np.split(gains, np.flatnonzero(cut))
    return np.concatenate([shot.cumsum(axis=0) for shot in shots])


def most(series: Series) -> tuple[float, int]:
    """The largest median of any window of pairs, and the frame in the middle of it."""
    best = 0.0, 1
    for window in windows(len(series)):
        part = series[window]
        if 2 * np.count_nonzero(np.isfinite(part)) > len(part):
            best = max(best, (float(np.nanmedian(part)), window.start + len(part) // 2 + 1))
    return best


def _told(pairs: Pairs) -> NDArray[np.bool_]:
    """The pairs whose motion can be told."""
    return np.asarray((pairs.texture >= TEXTURED).sum(axis=(1, 2)) >= FEWEST)


def _length(flow: NDArray[np.floating]) -> NDArray[np.float32]:
    return np.asarray(np.hypot(flow[..., 0], flow[..., 1]), np.float32)


def _mean(value: NDArray[np.float32], weight: NDArray[np.float32]) -> Series:
    """The weighted mean over the tiles."""
    return np.asarray((value * weight).sum(axis=(1, 2), dtype=np.float64) / weight.sum(axis=(1, 2)), np.float64)


def _median(value: NDArray[np.float32], weight: NDArray[np.float32]) -> Series:
    """The weighted median over the tiles."""
    values, weights = value.reshape(len(value), -1), weight.reshape(len(value), -1)
    order = np.argsort(values, axis=1)
    below = np.take_along_axis(weights, order, axis=1).cumsum(axis=1)
    middle = (below >= below[:, -1:] / 2).argmax(axis=1)
    chosen = np.take_along_axis(values, order, axis=1)[np.arange(len(values)), middle]
    return np.asarray(chosen, np.float64)
