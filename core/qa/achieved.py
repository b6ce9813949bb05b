"""Where a model's camera really was: each frame is found in the keyframe, and held against the view asked for."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import repeat
from typing import Protocol

import cv2
import numpy as np
from numpy.typing import NDArray

from core.camera import Camera
from core.errors import Finding
from core.light import Frame
from core.motion import Rect, Size
from core.qa.inspector import Inspection
from core.work import Report, unwatched

SAMPLES = 16
"""Frames that are looked at, spread evenly, the first and the last among them."""
SIDE = 400
"""Pixels of the longer side at which they are."""
FEATURES = 500
"""Of each picture, at most."""
RATIO = 0.8
"""A match counts where the next best is further away by this factor (Lowe 2004)."""
CONTRAST = 0.02
"""Of a feature, at least: half of what is usual, for what is dim in a keyframe is in its frames too."""
WITHIN = 2.0
"""Pixels of ``SIDE``. Matches that one motion explains so well go with it; what moves by itself does not."""
MATCHES_MIN, SHARE_MIN = 12, 0.2
"""So many matches, and this share of all, must go with it: with less the frame is not found."""
ALIKE = 1.5
"""Views that are no more than so many times as wide as each other are looked for in one picture of the keyframe."""
DOUBT_MAX = 0.0015
"""Pictures. The standard error of a corner's place; with more the frame is not found."""


@dataclass(frozen=True)
class Achieved:
    """How far the camera was from its path."""

    errors: dict[int, float]
    """By frame, in pictures: the furthest that any corner of the view asked for is from where it belongs on screen,
    as a share of the width or the height. Frames that could not be found are left out."""
    sampled: int
    """Frames that were looked for."""

    @property
    def frame(self) -> int | None:
        """The frame with the largest error; None where none was found."""
        return max(self.errors, key=self.errors.__getitem__, default=None)

    @property
    def error(self) -> float | None:
        """That error, to a ten-thousandth."""
        return None if self.frame is None else round(self.errors[self.frame], 4)


def judge_path(found: Achieved, flag: float) -> Inspection:
    """What is to be said of a path, of which the camera may be ``flag`` pictures off before that is flagged."""
    said = Inspection(measures={
        "path_error": found.error,
        "path_error_frame": found.frame,
        "path_measured": f"{len(found.errors)} of {found.sampled} frames",
    })  # fmt: skip
    if found.error is not None and found.frame is not None and found.error > flag:
        message = f"The camera is {found.error:.1%} of the picture from its path in frame {found.frame}."
        said.find(
            Finding(code="path_missed", message=message, severity="warning", value=found.error, limit=flag,
                    frame=found.frame),
            [found.frame],
        )  # fmt: skip
    if len(found.errors) < found.sampled / 2:
        message = (
            f"Whether the camera keeps to its path is not known: only {len(found.errors)} of {found.sampled} "
            "frames could be found in the keyframe."
        )
        said.find(Finding(code="path_unmeasured", message=message, severity="warning", value=len(found.errors),
                          limit=found.sampled / 2))  # fmt: skip
    return said


class Indexed(Protocol):
    """Frames to be had by their number, each ``(H, W, 3)``."""

    def __getitem__(self, number: int, /) -> Frame: ...


def achieved_path(
    frames: Frame | Indexed, keyframe: Frame, views: Sequence[Rect], report: Report = unwatched
) -> Achieved:
    """Find frames in the keyframe, ``(H', W', 3)``, and compare with the ``views`` asked for.

    ``views`` has one for each frame. Each frame is matched on its own, by SIFT, with what lies in the keyframe where
    it ought to be; RANSAC then finds the shift, turn and scale that most matches share. Nothing adds up from frame to
    frame, and a frame whose matches do not agree is left out, not guessed. What fills most of the picture is taken
    for the scene, even if it moves.
    ``report`` is called before and after every picture.
    """
    count, (height, width) = len(views), frames[0].shape[:2]
    shrink = min(1.0, SIDE / max(height, width))
    size = max(1, round(width * shrink)), max(1, round(height * shrink))
    chosen = np.unique(np.linspace(0, count - 1, SAMPLES).round().astype(int)).tolist()
    charts = _charts(keyframe, size, [views[number] for number in chosen])
    errors = {}
    pool = ThreadPoolExecutor(2, "path")
    try:
        described = [pool.submit(_seen, frames, number, size) for number in chosen]
        for done, (number, seen) in enumerate(zip(chosen, described, strict=True)):
            report(done / len(chosen))
            asked = next(charts).within(views[number])
            report((done + 0.5) / len(chosen))
            error = _error(asked, seen.result(), size)
            if error is not None:
                errors[number] = error
    finally:
        pool.shutdown(cancel_futures=True)
    report(1.0)
    return Achieved(errors, len(chosen))


_Features = tuple[NDArray[np.float32], NDArray[np.float32]]
"""Places, ``(N, 2)`` in pixels, and what they look like, ``(N, 128)``."""


class _Chart:
    """The part of a keyframe in which several views lie, and what is to be found there.

    To describe a picture costs far more than to match it: so it is done once for all views of about one scale.
    """

    def __init__(self, keyframe: Frame, size: Size, views: Sequence[Rect]) -> None:
        x1, y1, x2, y2 = zip(*views, strict=True)
        self._size = size
        self._part = Rect(min(x1), min(y1), max(x2), max(y2))
        widths, heights = [view.width for view in views], [view.height for view in views]
        scaled = (
            max(1, round(size[0] * self._part.width / math.sqrt(min(widths) * max(widths)))),
            max(1, round(size[1] * self._part.height / math.sqrt(min(heights) * max(heights)))),
        )
        picture = Camera(keyframe, scaled, [self._part]).render(self._part)
        # as many of each view as are kept of a frame
        features = round(FEATURES * self._part.width * self._part.height / (min(widths) * min(heights)))
        places, self._looks = _features(picture, features)
        extent = np.array([self._part.width, self._part.height]) / scaled
        self._places = (places + 0.5) * extent + (self._part.x1, self._part.y1)  # as shares of the keyframe

    def within(self, view: Rect) -> _Features:
        """What a camera sees of it, in its pixels."""
        places = (self._places - view[:2]) / (view.width, view.height)
        inside = ((places >= 0) & (places <= 1)).all(axis=1)
        return (places[inside] * self._size - 0.5).astype(np.float32), self._looks[inside]


def _charts(keyframe: Frame, size: Size, views: Sequence[Rect]) -> Iterator[_Chart]:
    """For each of the views, in order, the one that it is looked for in."""
    alike: list[Rect] = []
    for view in views:
        widths = [view.width, *(other.width for other in alike)]
        if max(widths) > ALIKE * min(widths):
            yield from repeat(_Chart(keyframe, size, alike), len(alike))
            alike = []
        alike.append(view)
    yield from repeat(_Chart(keyframe, size, alike), len(alike))


def _seen(frames: Frame | Indexed, number: int, size: Size) -> _Features:
    return _features(np.asarray(cv2.resize(frames[number], size, interpolation=cv2.INTER_AREA), np.uint8), FEATURES)


def _features(picture: NDArray[np.uint8], most: int) -> _Features:
    sift = cv2.SIFT.create(most, contrastThreshold=CONTRAST)
    grey = np.asarray(cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY), np.uint8)
    points, looks = sift.detectAndCompute(grey, None)
    places = np.array([point.pt for point in points], np.float32).reshape(-1, 2)
    return places, np.zeros((0, 128), np.float32) if looks is None else np.asarray(looks, np.float32)


def _error(asked: _Features, seen: _Features, size: Size) -> float | None:
    """How far, in pictures, the corners have gone from one picture to the other; None where that is not to be had."""
    if min(len(asked[0]), len(seen[0])) < MATCHES_MIN:
        return None
    best: dict[int, tuple[float, int]] = {}
    for match, other in cv2.BFMatcher(cv2.NORM_L2).knnMatch(asked[1], seen[1], k=2):
        known = best.get(match.trainIdx, (math.inf, 0))
        if match.distance < min(RATIO * other.distance, known[0]):  # nothing is in two places
            best[match.trainIdx] = match.distance, match.queryIdx
    if len(best) < MATCHES_MIN:
        return None
    before, after = asked[0][[index for _, index in best.values()]], seen[0][list(best)]
    found, agreed = cv2.estimateAffinePartial2D(
        before, after, method=cv2.RANSAC, ransacReprojThreshold=WITHIN, maxIters=5000, confidence=0.999
    )
    inside = agreed.ravel().astype(bool)
    if found is None or inside.sum() < max(MATCHES_MIN, SHARE_MIN * len(best)):
        return None
    motion = np.asarray(found, np.float64)
    corners = np.array([(x, y) for x in (-0.5, size[0] - 0.5) for y in (-0.5, size[1] - 0.5)])
    if _doubt(before[inside], after[inside], motion, corners) > DOUBT_MAX * min(size):
        return None
    moved = np.abs(corners @ motion[:, :2].T + motion[:, 2] - corners) / size
    return float(moved.max())


def _doubt(
    before: NDArray[np.float32], after: NDArray[np.float32], motion: NDArray[np.float64], corners: NDArray[np.float64]
) -> float:
    """The standard error, in pixels, of where the furthest corner goes.

    Of a least-squares similarity from n points of spread s about their centre, in the picture where it is less, with
    residuals of sigma: sigma sqrt((1 + d²/s²) / n) at the distance d from that centre.
    """
    rest = before @ motion[:, :2].T + motion[:, 2] - after
    sigma = max(0.3, float(np.sqrt((rest**2).sum(axis=1).mean())))  # a feature is placed to a third of a pixel
    centre = before.mean(axis=0)
    spread = min(float(places.var(axis=0).sum()) for places in (before, after))
    furthest = float(((corners - centre) ** 2).sum(axis=1).max())
    return math.inf if spread == 0 else sigma * math.sqrt((1 + furthest / spread) / len(before))
