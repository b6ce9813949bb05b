"""Judges whether a clip's light and its tint wander off from those of its first frame."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from core.errors import Finding
from core.qa.inspector import Inspection, Trace, joined


def judge_drift(
    gains: NDArray[np.float64], frames: Sequence[int], count: int, brightness_max: float, colour_max: float
) -> Inspection:
    """What is to be said of ``gains``, the logarithm of how much brighter each channel is than it was, ``(N, 3)``.

    They are of ``frames``, N of ``count``. Brightness is the mean of the channels; the tint is what one of them
    leaves it by. Limits are shares of the code.
    """
    brightness = gains.mean(axis=1)
    tint = np.abs(gains - brightness[:, None]).max(axis=1)
    drifts = [
        _Drift(code="brightness_drift", drifted=np.abs(brightness), limit=brightness_max,
               words="The same things come to be {:.0%} brighter or darker than at first."),
        _Drift(code="colour_drift", drifted=tint, limit=colour_max,
               words="The same things come to have another tint than at first, by {:.0%}."),
    ]  # fmt: skip
    return joined([drift.judged(frames, count) for drift in drifts])


@dataclass(frozen=True, eq=False)
class _Drift:
    code: str
    drifted: NDArray[np.float64]
    """A logarithm for each frame that was looked at."""
    limit: float
    words: str

    def judged(self, frames: Sequence[int], count: int) -> Inspection:
        shares = np.expm1(self.drifted)
        worst = int(shares.argmax())
        value = float(shares[worst])
        over_time = dict(zip(frames, shares.tolist(), strict=True))
        name = f"{self.code.replace('_', ' ')}, share of the code"
        values = [over_time.get(number, float("nan")) for number in range(count)]
        said = Inspection(measures={self.code: round(value, 4)}, traces=[Trace(name, values, self.limit)])
        if value > self.limit:
            said.find(
                Finding(code=self.code, message=self.words.format(value), severity="warning", value=value,
                        limit=self.limit, frame=frames[int(np.argmax(shares > self.limit))],
                        remedy="Compare the last frames with the first."),
                [0, frames[worst]],
            )  # fmt: skip
        return said
