"""Runs a plan over a clip's base frames, a pair at a time, straight into the delivered frames."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import groupby
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from core.interpolate.plan import Sample
from core.work import Report

Frame = NDArray[np.uint8]


class Method(Protocol):
    """A way to make the frames between two."""

    name: str

    def between(self, a: Frame, b: Frame, times: Iterable[float]) -> Iterator[Frame]:
        """The frames at ``times``, in (0, 1), between two RGB frames, ``(H, W, 3)`` uint8."""
        ...


class Retimed(NamedTuple):
    """What became of the delivered frames."""

    untouched: int
    """Base frames, bit for bit."""
    made: int
    """New frames."""


def retime(base: Frame, samples: Sequence[Sample], method: Method, out: Frame, report: Report) -> Retimed:
    """Fill ``out``, ``(F, H, W, 3)``, from ``base``, ``(N, H, W, 3)``, as ``samples`` say; ``t`` 0 is the frame itself.

    Holds one pair in memory. The frame after the last is the first, which only a loop asks for. Raises what
    ``report`` raises.
    """
    made = number = 0
    for source, group in groupby(samples, key=lambda sample: sample.source):
        here = list(group)
        new = method.between(
            base[source], base[(source + 1) % len(base)], [float(sample.t) for sample in here if sample.t]
        )
        for sample in here:
            out[number] = next(new) if sample.t else base[source]
            made += bool(sample.t)
            number += 1
            report(number / len(samples))
    return Retimed(len(samples) - made, made)
