"""Inspects whether what is filmed of a still stays that still: its outlines, its places, its light and its tint."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from core.camera import Camera
from core.errors import Finding
from core.light import Frame
from core.qa.drift import judge_drift
from core.qa.inspector import Grey, Inspection, Inspector, Place, Seen, Trace, joined, reduced
from core.qa.pairs import DARK, TEXTURED, shares, texture
from core.qa.planned import Planned
from core.qa.thresholds import QaThresholds

EVERY = 8
"""Every so many frames are compared: ghosts and what wanders stay, and a view takes as long to render as all else."""
ROUNDING = 20.0
"""Codes squared. Rounding to a code has a variance of 1/12, which the Laplacian multiplies by 20, and resampling
rounds more than once."""


class Likeness(Inspector):
    """Renders the keyframe's view of some frames, small, and holds them against it.

    For clips whose camera is known and whose picture does not live. A model's picture may differ from its keyframe in
    anything, and rightly.
    """

    def __init__(self, limits: QaThresholds, planned: Planned, keyframe: Frame) -> None:
        self._limits = limits
        self._planned = planned
        self._keyframe = keyframe
        self._camera: Camera | None = None
        self._dis = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_FAST)
        self._frames = 0
        self._gains: dict[int, NDArray[np.float64]] = {}
        self._sharpness: dict[int, float] = {}
        self._stray: dict[int, tuple[float, Place]] = {}

    def add(self, seen: Seen) -> None:
        """Compare the frame, if it is one of those."""
        self._frames = seen.number + 1
        if seen.number % EVERY or seen.number >= len(self._planned.views) or not seen.detailed:
            return
        if self._camera is None:
            self._longer = max(seen.frame.shape[:2])
            # How much detail is left is a matter of the filter: the last halving, which leaves least, is the frames'.
            scale = 2 if seen.small.size < seen.frame[..., 0].size else 1
            size = scale * seen.small.shape[1], scale * seen.small.shape[0]
            self._camera = Camera(self._keyframe, size, self._planned.views)
        view = reduced(self._camera.render(self._planned.views[seen.number]))
        expected = np.asarray(cv2.cvtColor(view, cv2.COLOR_RGB2GRAY), np.uint8)
        gain = (np.array(cv2.mean(seen.picture)[:3]) + DARK) / (np.array(cv2.mean(view)[:3]) + DARK)
        self._gains[seen.number] = np.log(gain)
        # Twice the light has twice the contrast.
        lighter = (seen.small.mean() + DARK) / (expected.mean() + DARK)
        self._sharpness[seen.number] = float(_detail(seen.small) / _detail(expected) / lighter**2)
        self._stray[seen.number] = self._strayed(seen.small, expected)

    def _strayed(self, small: Grey, expected: Grey) -> tuple[float, Place]:
        """How far the part that is furthest from its place is from it, in shares of the longer side, and where."""
        flow = np.asarray(self._dis.calc(small, expected, None), np.float32)  # type: ignore[call-overload]  # no flow to begin with
        moved = shares(flow, max(small.shape))
        rows, columns = moved.shape[:2]
        length = np.hypot(moved[..., 0], moved[..., 1]) * (texture(small) >= TEXTURED)
        # One tile may be off by itself where the flow loses its way; what wanders takes its neighbours along.
        length = cv2.medianBlur(length.astype(np.float32), 3)
        row, column = np.unravel_index(length.argmax(), length.shape)
        place = (column / columns, row / rows, (column + 1) / columns, (row + 1) / rows)
        return float(length.max()), place

    def finish(self) -> Inspection:
        """Ghosting, local morphing and drift."""
        said = Inspection()
        if not self._gains:
            return said
        self._judge_ghosts(said)
        self._judge_stray(said)
        limits, frames = self._limits, list(self._gains)
        gains = np.stack(list(self._gains.values()))
        # What is made small twice is not quite what is made small once: near black, by a share that counts.
        gains -= gains[0]
        drift = judge_drift(gains, frames, self._frames, limits.brightness_drift_max, limits.colour_drift_max)
        return joined([said, drift])

    def _judge_ghosts(self, said: Inspection) -> None:
        # The first frame has nothing before it that could shine through; what its own filter does is in both.
        kept = {number: value / self._sharpness[0] for number, value in self._sharpness.items()}
        frame = min(kept, key=kept.__getitem__)
        least = float(np.quantile(list(kept.values()), 0.25))
        limit = self._limits.sharpness_min
        said.measures["sharpness"] = round(least, 4)
        said.traces.append(Trace("sharpness against the keyframe", self._over_time(kept), limit))
        if least < limit:
            message = f"Frames are softer than their keyframe, or doubled: {least:.0%} of its detail is left."
            said.find(
                Finding(code="ghosting", message=message, severity="warning", value=least, limit=limit, frame=frame,
                        remedy="Look for a second outline beside each edge."),
                [0, frame],
            )  # fmt: skip

    def _judge_stray(self, said: Inspection) -> None:
        frame = max(self._stray, key=lambda number: self._stray[number][0])
        most, place = self._stray[frame]
        limit = self._limits.stray_max
        said.measures["stray"] = round(most, 5)
        strayed = {number: stray for number, (stray, _) in self._stray.items()}
        said.traces.append(Trace("stray from the keyframe, longer sides", self._over_time(strayed), limit))
        if most > limit:
            message = f"A part of the picture is {most * self._longer:.1f} pixels from where the keyframe has it."
            said.find(
                Finding(code="local_morph", message=message, severity="warning", value=most, limit=limit, frame=frame,
                        remedy="Compare its shape with the keyframe's."),
                [0, frame],
                place,
            )  # fmt: skip

    def _over_time(self, values: dict[int, float]) -> list[float]:
        return [values.get(number, float("nan")) for number in range(self._frames)]


def _detail(picture: Grey) -> float:
    """The variance of the Laplacian, and so much more that what rounding adds to it makes no difference."""
    return float(cv2.Laplacian(picture, cv2.CV_32F).var()) + ROUNDING
