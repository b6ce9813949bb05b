"""What a method of interpolation is, and how one that knows pairs of frames works through a clip."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from itertools import groupby
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from core.interpolate.plan import Sample

Frame = NDArray[np.uint8]
Between = Callable[[Frame, Frame, list[float]], Iterator[Frame]]
"""The frames at ascending times, in (0, 1), between two RGB frames, ``(H, W, 3)``."""


class Method(Protocol):
    """A way to make the frames between frames."""

    name: str

    def clip(self, base: Frame, samples: Iterable[Sample]) -> Iterator[Frame]:
        """The frames of ``samples``, one after the other, from ``base``, ``(N, H, W, 3)``.

        ``t`` 0 is the base frame itself, bit for bit; of two shots, the nearer frame is taken and nothing is blended.
        The frame after the last is the first, which only a loop asks for. Memory does not grow with the clip.
        """
        ...


def pair_by_pair(base: Frame, samples: Iterable[Sample], between: Between) -> Iterator[Frame]:
    """``Method.clip`` for a method that makes the frames between two at a time. Holds one pair in memory."""
    for source, group in groupby(samples, key=lambda sample: sample.source):
        here = list(group)
        new = between(base[source], base[(source + 1) % len(base)], [float(sample.t) for sample in here if sample.t])
        for sample in here:
            yield next(new) if sample.t else base[source]
