"""Inspects whether frames move on: frozen and repeated ones, and models' clips in which nothing moves."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np

from core.errors import Finding, Severity
from core.light import Frame
from core.qa.inspector import Grey, Inspection, Inspector, Seen, named
from core.qa.planned import Planned
from core.qa.thresholds import QaThresholds

_SIDE = 3
"""Steps on either side of a pause whose median says whether things moved there."""
_MOVES = 4.0
"""So many times the noise of a repeat is movement."""


class Repeats(Inspector):
    """Compares every frame with the one before it, and with what the plan would have made of that one."""

    def __init__(self, limits: QaThresholds, planned: Planned) -> None:
        self._limits = limits
        self._planned = planned
        self.repeats: list[int] = []
        """The frames that repeat the one before, though the plan would have changed it visibly."""
        self._last: Frame | None = None
        self._first: Grey | None = None
        self._before: Grey | None = None
        self._steps: list[float] = []
        """How far, in codes of 255, each frame but the first is from the one before it."""
        self._apart = 0.0
        """How far, in codes of 255, any frame is from the first one."""

    def add(self, seen: Seen) -> None:
        """Take the next frame."""
        noise = self._limits.repeat_difference_max
        moves = self._planned.motion(seen.number) > self._limits.repeat_motion_min
        step = self._planned.step(seen.number) if moves else None
        if self._last is not None and step is not None and difference(seen.frame, self._last) < noise:
            size = seen.frame.shape[1], seen.frame.shape[0]
            moved = cv2.warpAffine(self._last, step, size, borderMode=cv2.BORDER_REPLICATE)
            # What has no detail may move unseen: the plan must change it by far more than noise does.
            if difference(np.asarray(moved, np.uint8), self._last) > 4 * noise:
                self.repeats.append(seen.number)
        self._last = seen.frame
        if self._first is None:
            self._first = seen.small
        if self._before is not None:
            self._steps.append(difference(seen.small, self._before))
        self._before = seen.small
        if self._apart < noise:  # once it is not, there is no more to know
            self._apart = max(self._apart, difference(seen.small, self._first))
        self._count = seen.number + 1

    def finish(self) -> Inspection:
        """Frozen and repeated frames, and a still that ought to live."""
        said = Inspection(measures={"repeated_frames": len(self.repeats)})
        self._judge_repeats(said)
        views = self._planned.views
        still = all(view == views[0] for view in views)
        if still and (self._planned.lives or not views):
            self._judge_pauses(said)
        if self._planned.lives and self._count > 1 and still and self._apart < self._limits.repeat_difference_max:
            # A model may be still for a while, but not from the first frame to the last.
            said.find(
                Finding(code="nothing_moves", message="The model made a still: nothing moves from first to last.",
                        severity="warning", value=self._apart, limit=self._limits.repeat_difference_max),
                [0, self._count - 1],
            )  # fmt: skip
        return said

    def _judge_pauses(self, said: Inspection) -> None:
        """Where no plan moves the camera, frames stand still for a fault if what is just before and after moves."""
        least, steps = self._limits.repeat_frames, np.array(self._steps)
        same = np.flatnonzero(steps < self._limits.repeat_difference_max).tolist()
        frozen = []
        for stretch in _stretches(same):
            sides = steps[max(0, stretch[0] - _SIDE) : stretch[0]], steps[stretch[-1] + 1 : stretch[-1] + 1 + _SIDE]
            moves = all(len(side) == _SIDE and np.median(side) > _MOVES * self._limits.repeat_difference_max
                        for side in sides)  # fmt: skip
            if len(stretch) >= least and moves:
                frozen += [number + 1 for number in stretch]  # the first step leads to frame 1
        if frozen:
            message = f"{named(frozen)} frozen, and what is before and after moves."
            said.find(
                Finding(code="frozen_frames", message=message, severity="warning", value=len(frozen), frame=frozen[0]),
                [frozen[0] - 1, frozen[-1]],
            )

    def _judge_repeats(self, said: Inspection) -> None:
        repeats, least = self.repeats, self._limits.repeat_frames
        frozen = [number for stretch in _stretches(repeats) if len(stretch) >= least for number in stretch]
        if frozen:
            # A model may wait for a moment before it moves its camera; that a person can tell.
            severity: Severity = "warning" if self._planned.asked else "error"
            message = f"{named(frozen)} frozen, and the camera moves."
            said.find(
                Finding(code="frozen_frames", message=message, severity=severity, value=len(frozen), frame=frozen[0]),
                [frozen[0] - 1, frozen[-1]],
            )
        elif len(repeats) >= least:
            message = f"{named(repeats)} as the one before, and the camera moves."
            said.find(
                Finding(code="repeated_frames", message=message, severity="warning", value=len(repeats),
                        frame=repeats[0]),
                [number for repeat in repeats for number in (repeat - 1, repeat)],
            )  # fmt: skip


def difference(a: Frame | Grey, b: Frame | Grey) -> float:
    """The mean absolute difference of two pictures, in codes of 255."""
    return cv2.norm(a, b, cv2.NORM_L1) / a.size


def _stretches(numbers: Sequence[int]) -> list[list[int]]:
    """The numbers, in order, split where one is missing."""
    stretches: list[list[int]] = []
    for number in numbers:
        if stretches and number == stretches[-1][-1] + 1:
            stretches[-1].append(number)
        else:
            stretches.append([number])
    return stretches
