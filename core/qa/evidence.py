"""Shows what QA has found: the frames in question, on a contact sheet."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from core import fsops
from core.light import Frame
from core.qa.inspector import Found, Place, Trace
from core.qa.sheet import MOST, Moment, contact_sheet
from core.work import Report


class Pictures(Protocol):
    """A clip that lies elsewhere: its frames in order, from the first, as often as asked.

    A frame may be overwritten once five more have been taken. ``operator.length_hint`` may tell how many there are.
    """

    def __iter__(self) -> Iterator[Frame]: ...

    def __getitem__(self, number: int, /) -> Frame: ...


def show(
    found: Sequence[Found],
    frames: NDArray[np.uint8] | Pictures,
    fps: float,
    *,
    traces: Sequence[Trace],
    keyframe: Callable[[], Frame | None],
    place: Path,
    report: Report,
) -> list[str]:
    """Put a contact sheet at ``place``; its name, or nothing where no frame shows what was found.

    ``keyframe`` is called where it is needed. Raises ``DiskFull``, and what ``report`` does.
    """
    moments = _moments(frames, fps, found, report)
    if not moments:
        return []
    marked = sorted({number for each in found for number in each.frames})
    fsops.write(place, contact_sheet(moments, keyframe(), traces, fps, marked))
    return [place.name]


def _moments(frames: NDArray[np.uint8] | Pictures, fps: float, found: Sequence[Found], report: Report) -> list[Moment]:
    """The frames that show what was found, in order: of each finding as many, as far as there is room."""
    shown = [each for each in found if each.frames][:MOST]
    codes: dict[int, list[str]] = {}
    places: dict[int, list[Place]] = {}
    for each in shown:
        for number in _spread(each.frames, max(1, MOST // len(shown))):
            codes.setdefault(number, []).append(each.finding.code)
            places.setdefault(number, []).extend([each.place] if each.place else [])
    pictures = _chosen(frames, set(codes), report)  # a clip may be shorter than what is said of it
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


def _chosen(frames: NDArray[np.uint8] | Pictures, numbers: set[int], report: Report) -> dict[int, Frame]:
    """Some frames by their numbers, those that there are, read in one go."""
    chosen: dict[int, Frame] = {}
    last = max(numbers, default=-1)
    for number, frame in enumerate(frames):
        if number > last:
            break
        report(1.0)
        if number in numbers:
            chosen[number] = frame.copy()
    return chosen
