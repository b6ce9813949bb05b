"""Picks the frames that show what QA has found, to be looked at."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from core.light import Frame
from core.qa.inspector import Found, Place
from core.qa.sheet import MOST, Moment


class Pictures(Protocol):
    """A clip that lies elsewhere: its frames in order, from the first, as often as asked.

    A frame may be overwritten once five more have been taken. ``operator.length_hint`` may tell how many there are.
    """

    def __iter__(self) -> Iterator[Frame]: ...

    def __getitem__(self, number: int, /) -> Frame: ...


def moments_of(frames: NDArray[np.uint8] | Pictures, fps: float, found: Sequence[Found]) -> list[Moment]:
    """The frames that show what was found, in order: of each finding as many, as far as there is room."""
    shown = [each for each in found if each.frames][:MOST]
    codes: dict[int, list[str]] = {}
    places: dict[int, list[Place]] = {}
    for each in shown:
        for number in _spread(each.frames, max(1, MOST // len(shown))):
            codes.setdefault(number, []).append(each.finding.code)
            places.setdefault(number, []).extend([each.place] if each.place else [])
    pictures = _chosen(frames, set(codes))  # a clip may be shorter than what is said of it
    return [
        Moment(pictures[number], [f"frame {number}, {number / fps:.2f} s", *dict.fromkeys(codes[number])],
               places[number])
        for number in sorted(pictures)
    ]  # fmt: skip


def _spread(frames: Sequence[int], most: int) -> list[int]:
    """The frames, or so many of them, evenly spread."""
    if len(frames) <= most:
        return list(frames)
    return [frames[index * (len(frames) - 1) // max(1, most - 1)] for index in range(most)]


def _chosen(frames: NDArray[np.uint8] | Pictures, numbers: set[int]) -> dict[int, Frame]:
    """Some frames by their numbers, those that there are, read in one go."""
    chosen: dict[int, Frame] = {}
    last = max(numbers, default=-1)
    for number, frame in enumerate(frames):
        if number > last:
            break
        if number in numbers:
            chosen[number] = frame.copy()
    return chosen
