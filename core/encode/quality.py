"""Finds the constant rate factor that brings a clip to a VMAF score, by few tries on a second of it.

The tries are made on two runs of frames, half a second each, about the first and the third quarter of the clip. Over
five stills in motion at three factors, and a film, such a pair missed the whole clip's score by 0.2 in the median and
0.6 at most. A second from the middle, where an eased camera is fastest, missed it by 0.8 and 2.0, mostly upward: motion
hides errors, so the busiest second is no safe choice. One from the beginning, where the camera hardly moves, missed it
by 1.0 and 1.9, one from the end by 1.8 and 2.8, downward; three runs of a third by 0.9 and 2.4, as too many of their
pictures begin anew.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
from pydantic import BaseModel, ConfigDict

from core.encode.command import EncodeSettings, encode_command, ffmpeg_program
from core.encode.compare import fed, score, scratch
from core.encode.run import run_ffmpeg
from core.encode.target import CRF_MAX, CRF_MIN, Quality
from core.frames import Frames
from core.work import Report

COLD = 22.0
"""Where the search begins that knows of no clip like this one: the middle of what is allowed."""
MOST_PROBES = 3
NEAR = 1.0
"""VMAF points. A try that comes so near decides: the rest is closed by the slope, which no try need confirm."""
CLOSE = 4.0
"""VMAF points. So do two tries on either side that are no farther apart: between them the way is straight."""
STEEPNESS = 0.11
"""By how much ln(100 - VMAF) grows with each step of the factor, until two tries tell: 0.06 to 0.16 was measured. On
this scale the way from factor to score is all but straight; on the score's own it flattens towards 100."""
_STEEP_MIN, _STEEP_MAX = 0.03, 0.3
_LEAST_DEFECT = 0.05


class Probe(NamedTuple):
    """A factor that was tried, and the score it came to."""

    crf: float
    vmaf: float


class Search(BaseModel):
    """How the factor was found."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    crf: float
    """What was found."""
    probes: list[Probe]
    warm: bool
    """Whether it began with what a clip of the same batch and size had ended with."""
    frames: int
    """How many frames each try encoded."""
    seconds: float


def search(target: float, probe: Callable[[float], float], start: float | None = None) -> tuple[float, list[Probe]]:
    """The factor within ``CRF_MIN`` and ``CRF_MAX``, to a tenth, that should come to a VMAF of ``target``.

    ``probe`` says what a factor comes to; it is asked ``MOST_PROBES`` times at most, and once where ``start`` is near.
    """
    crf = _within(COLD if start is None else start)
    probes: list[Probe] = []
    while True:
        probes.append(Probe(crf, round(probe(crf), 2)))
        following = _next(target, probes)
        if _decided(target, probes) or len(probes) == MOST_PROBES or any(following == tried.crf for tried in probes):
            return following, probes
        crf = following


def _decided(target: float, probes: list[Probe]) -> bool:
    below = max((tried.vmaf for tried in probes if tried.vmaf <= target), default=-math.inf)
    above = min((tried.vmaf for tried in probes if tried.vmaf >= target), default=math.inf)
    return above - below <= CLOSE or min(above - target, target - below) <= NEAR


def _next(target: float, probes: list[Probe]) -> float:
    """Where the line through the two nearest tries, or through the only one, meets the target."""
    wanted = _defect(target)
    nearest = sorted(probes, key=lambda tried: abs(_defect(tried.vmaf) - wanted))[:2]
    best = nearest[0]
    steepness = STEEPNESS
    if len(nearest) == 2:
        rise = (_defect(nearest[1].vmaf) - _defect(best.vmaf)) / (nearest[1].crf - best.crf)
        steepness = min(max(rise, _STEEP_MIN), _STEEP_MAX)
    return _within(best.crf + (wanted - _defect(best.vmaf)) / steepness)


def _defect(vmaf: float) -> float:
    return math.log(max(100.0 - vmaf, _LEAST_DEFECT))


def _within(crf: float) -> float:
    return round(min(max(crf, CRF_MIN), CRF_MAX), 1)


def sample(frames: Frames, fps: int) -> Frames:
    """The frames that are tried: two runs of half a second, or all of a clip of one second."""
    count, run = len(frames), max(1, fps // 2)
    if count <= 2 * run:
        return frames
    starts = (max(0, count // 4 - run // 2), min(count - run, 3 * count // 4 - run // 2))
    return np.concatenate([frames[start : start + run] for start in starts])


def try_out(crf: float, frames: Frames, fps: int, settings: EncodeSettings, report: Report, *, beside: Path) -> float:
    """What the frames score when they are encoded with a factor, in a file that is gone afterwards, ``beside`` another.

    Raises ``DiskFull``, ``ProcessFailed`` and what ``report`` does.
    """
    size = frames.shape[2], frames.shape[1]
    with scratch(beside) as clip:
        command = encode_command(ffmpeg_program(), settings, size, fps, clip, quality=Quality("crf", crf))
        run_ffmpeg(command, lambda _: report(0.0), limit=settings.limit_seconds, stdin=fed(frames))
        return score(clip, frames, fps, settings, lambda _: report(0.5)).mean
