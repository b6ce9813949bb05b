"""Runs a plan over a clip's base frames, a pair at a time."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import groupby
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from core.interpolate.plan import Sample

Frame = NDArray[np.uint8]


class Method(Protocol):
    """A way to make the frames between two."""

    name: str

    def between(self, a: Frame, b: Frame, times: Iterable[float]) -> Iterator[Frame]:
        """The frames at ``times``, in (0, 1), between two RGB frames, ``(H, W, 3)`` uint8."""
        ...


def retimed(base: Frame, samples: Iterable[Sample], method: Method) -> Iterator[Frame]:
    """The frames of ``samples``, one after the other, from ``base``, ``(N, H, W, 3)``; ``t`` 0 is the frame itself.

    Holds one pair in memory. The frame after the last is the first, which only a loop asks for.
    """
    for source, group in groupby(samples, key=lambda sample: sample.source):
        here = list(group)
        new = method.between(
            base[source], base[(source + 1) % len(base)], [float(sample.t) for sample in here if sample.t]
        )
        for sample in here:
            yield next(new) if sample.t else base[source]
