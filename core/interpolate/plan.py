"""When each delivered frame is: exact times, as pairs of a base frame and a share of the way to the next."""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum
from fractions import Fraction
from typing import NamedTuple

from core.motion import frame_count


class Mode(StrEnum):
    """What becomes of base frames that last a little longer, or shorter, than the clip."""

    time_true = "time-true"
    """Every frame is shown when it was meant; what lies beyond the clip is left out, what is missing is held."""
    fit = "fit"
    """The first and the last base frame are the clip's; the speed changes a little."""
    loop = "loop"
    """The last base frame leads back to the first, which the clip could go on with."""


class Sample(NamedTuple):
    """One delivered frame: ``t``, in [0, 1), of the way from base frame ``source`` to the next; 0 is that frame."""

    source: int
    t: Fraction


def plan(
    base_frames: int,
    base_rate: Fraction | int,
    duration: float,
    fps: Fraction | int,
    mode: Mode = Mode.time_true,
) -> list[Sample]:
    """The samples of a clip of ``duration`` seconds at ``fps``: exactly ``frame_count(duration, fps)`` of them.

    ``base_frames`` were made at ``base_rate`` a second. In ``loop`` the frame after the last is the first. Raises
    ``ValueError`` where there is nothing to sample from.
    """
    if base_frames < 1 or base_rate <= 0 or fps <= 0:
        raise ValueError(f"cannot sample {base_frames} frames at {base_rate} a second for {fps} a second")
    count = frame_count(duration, fps)
    match mode:
        case Mode.time_true:
            step = Fraction(base_rate) / Fraction(fps)
        case Mode.fit:
            step = Fraction(base_frames - 1, max(count - 1, 1))
        case Mode.loop:
            step = Fraction(base_frames, max(count, 1))
    last = base_frames - (0 if mode is Mode.loop else 1)
    places = (min(number * step, Fraction(last)) for number in range(count))
    return [Sample(place.numerator // place.denominator, place % 1) for place in places]


def is_identity(samples: Sequence[Sample], base_frames: int) -> bool:
    """Whether the base frames are the clip as they stand, so that none has to be touched."""
    return list(samples) == [Sample(number, Fraction(0)) for number in range(base_frames)]
