"""What every inspector of QA is: fed a clip frame by frame, it says what it found and what shows it."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import cv2
import numpy as np
from numpy.typing import NDArray

from core.errors import Finding
from core.light import Frame, Plane, linear_cells, luminance

DETAILED_SIDE = 128
"""Pixels of a frame's longer side: in a smaller one there is too little to tell movement and light by."""
WINDOW = 24
"""Frames over which what lasts is taken: about a second."""

Place = tuple[float, float, float, float]
"""``(x1, y1, x2, y2)`` as shares of the frame's width and height."""
Grey = NDArray[np.uint8]
"""``(h, w)`` luma, 0..255."""

SMALL_SIDE = 400
"""Pixels of the longer side of ``Seen.small``, at most: motion and texture are still seen there, and flow is quick."""


@dataclass(frozen=True, eq=False)
class Seen:
    """A frame, and what several inspectors want of it, worked out once."""

    number: int
    """From 0."""
    frame: Frame
    """``(H, W, 3)``; it does not change before the next one has been seen."""
    level: Plane
    """Relative luminance of each pixel of ``picture``, 0..1."""
    picture: Frame
    """The frame, ``reduced``."""
    small: Grey
    """Its luma."""

    @property
    def detailed(self) -> bool:
        """Whether movement and light can be judged in its parts; the flow of less than 32 rows crashes OpenCV."""
        height, width = self.small.shape
        return bool(max(height, width) >= DETAILED_SIDE and min(height, width) >= DETAILED_SIDE // 4)

    @classmethod
    def of(cls, number: int, frame: Frame) -> Seen:
        """Reduce a frame."""
        picture = reduced(frame)
        if picture is frame:  # which may be overwritten once the next one has been seen
            picture = frame.copy()
        level = luminance(linear_cells(picture, picture.shape[1], picture.shape[0]))
        return cls(number, frame, level, picture, np.asarray(cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY), np.uint8))


def windows(count: int) -> Iterator[slice]:
    """Windows of ``WINDOW`` frames, or of all there are, each a quarter later; of the end less than that is in none."""
    for start in range(0, max(1, count - WINDOW + 1), WINDOW // 4):
        yield slice(start, start + WINDOW)


def reduced(picture: Frame) -> Frame:
    """Halved by area until it is no longer than ``SMALL_SIDE``: halves are made in no time."""
    while max(picture.shape[:2]) > SMALL_SIDE:
        half = max(1, picture.shape[1] // 2), max(1, picture.shape[0] // 2)
        picture = np.asarray(cv2.resize(picture, half, interpolation=cv2.INTER_AREA), np.uint8)
    return picture


@dataclass(frozen=True)
class Found:
    """Something that a clip has against it."""

    finding: Finding
    frames: Sequence[int] = ()
    """The frames that show it."""
    place: Place | None = None
    """Where in them."""


@dataclass(frozen=True)
class Trace:
    """A measure over time, to be drawn."""

    name: str
    """With its unit: ``mean luminance``, ``flow residual, px``."""
    values: Sequence[float]
    """One a frame; NaN where there is none."""
    limit: float | None = None
    """The rule's."""


@dataclass
class Inspection:
    """All that one inspector has to say of a clip."""

    found: list[Found] = field(default_factory=list)
    measures: dict[str, float | int | str | None] = field(default_factory=dict)
    """By name, for the meta."""
    traces: list[Trace] = field(default_factory=list)

    def find(
        self,
        finding: Finding,
        frames: Sequence[int] = (),
        place: Place | None = None,
    ) -> None:
        """Put down a finding, its value to four places, and the frames that show it."""
        if isinstance(finding.value, float):
            finding = finding.model_copy(update={"value": round(finding.value, 4)})
        self.found.append(Found(finding, frames, place))


class Inspector(ABC):
    """Looks for one kind of fault. A learned metric is one too: ``judge`` takes any that follow this protocol."""

    @abstractmethod
    def add(self, seen: Seen) -> None:
        """Take the next frame. Only what is small is kept of it: memory must not grow with the frames' size."""

    @abstractmethod
    def finish(self) -> Inspection:
        """What all the frames add up to; called once, after the last of at least one."""


def named(frames: Sequence[int]) -> str:
    """The frames as the subject of a sentence, up to its verb."""
    some = ", ".join(map(str, frames[:5])) + (f" and {len(frames) - 5} more" if len(frames) > 5 else "")
    return f"Frame {some} is" if len(frames) == 1 else f"Frames {some} are"


def joined(inspections: Sequence[Inspection]) -> Inspection:
    """What several inspectors said, as one: in their order."""
    whole = Inspection()
    for each in inspections:
        whole.found += each.found
        whole.measures |= each.measures
        whole.traces += each.traces
    return whole


def rounded(measures: Mapping[str, float], digits: int = 4) -> dict[str, float | None]:
    """Fit for JSON: rounded, and None for what is no number."""
    return {name: None if math.isnan(value) else round(float(value), digits) for name, value in measures.items()}
