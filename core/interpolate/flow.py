"""New frames from optical flow: no weights, no GPU, honest about what it cannot see.

DIS flow is taken both ways, at a quarter of the size, and brought to the moment between. Where the two disagree, the
one wins that explains both frames better; where neither does, the frames are blended as they are. What hardly moves
is left where it is, so that a still background stays still.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

import cv2
import numpy as np
from numpy.typing import NDArray

from core.interpolate.plan import Sample
from core.interpolate.retime import pair_by_pair

Frame = NDArray[np.uint8]
Field = NDArray[np.float32]
"""``(h, w)`` or ``(h, w, 2)`` at the size at which the flow is sought."""

Picture = TypeVar("Picture", NDArray[np.uint8], NDArray[np.float32])

THREADS = 2
"""That make frames of one pair. OpenCV's own threads help with half of the work only."""
SHRINK = 4
"""The flow is sought at 1 / SHRINK of the frame's width and height: finer is slower and, being noisier, no better."""
STILL = 0.4
"""Pixels of the frame. Motion below this is none, and up to twice this it fades in."""
WINDOW = 15
"""Pixels of the small picture over which an explanation is judged."""
AROUND = 20
"""Pixels of the small picture over which doubt spreads, as the deviation of a Gaussian."""
DOUBT = 8.0
"""Codes of 255. Where the two frames still differ so much after the motion, half of ``BLEND`` is taken back."""
BLEND = 0.6
"""At most this share of a pixel comes from the plain blend."""
NO_SHARE = 0.002
"""A share of the plain blend below this changes no code by one."""
CUT = 20.0
"""Codes of 255. Two frames that differ more in the mean, and by more than ``LEFT`` of it after the motion, are two
shots. Of real pairs this far apart, those of one shot kept 0.36 of it at most, those of two 0.59 at least."""
LEFT = 0.5
"""The share of the difference that no motion explains."""


class Flow:
    """Interpolation by dense optical flow, in two threads beside the one that asks."""

    name = "flow"

    def __init__(self) -> None:
        self._pool = ThreadPoolExecutor(THREADS, "flow")
        self._dis = _dis(), _dis()
        self._grid = _grid(0, 0)

    def clip(self, base: Frame, samples: Iterable[Sample]) -> Iterator[Frame]:
        """The frames of ``samples``; see ``retime.Method``."""
        return pair_by_pair(base, samples, self.between)

    def between(self, a: Frame, b: Frame, times: Iterable[float]) -> Iterator[Frame]:
        """The frames at ``times``, in (0, 1), between two RGB frames, ``(H, W, 3)``; of two shots, the nearer one.

        One or two frames more than were taken are in memory.
        """
        wanted = list(times)
        if not wanted:
            return
        pair = self._pair(a, b)
        if pair.is_cut:
            yield from (a if t < 0.5 else b for t in wanted)
            return
        made: deque[Future[Frame]] = deque()
        for t in wanted:
            made.append(self._pool.submit(pair.at, t))
            if len(made) == THREADS:
                yield made.popleft().result()
        while made:
            yield made.popleft().result()

    def _pair(self, a: Frame, b: Frame) -> _Pair:
        if self._grid.shape[:2] != a.shape[:2]:
            self._grid = _grid(*a.shape[:2])
        small_a, small_b = _small(a), _small(b)
        backward = self._pool.submit(_motion, self._dis[1], small_b, small_a)
        forward = _motion(self._dis[0], small_a, small_b)
        return _Pair((_wide(a), _wide(b)), (small_a, small_b), (forward, backward.result()), self._grid)


class _Pair:
    """Two frames and what moves between them."""

    def __init__(
        self, frames: tuple[Frame, Frame], small: tuple[Frame, Frame], motions: tuple[Field, Field], full_grid: Field
    ) -> None:
        """``frames`` are wide; ``motions`` there and back are in the ``small`` ones; ``full_grid`` is of the frames."""
        self._frames, self._small, self._full_grid = frames, small, full_grid
        self._forward, self._backward = motions
        self._grid = _grid(*small[0].shape)
        apart = _apart(*small)
        self.is_cut = apart >= CUT and _stays_apart(*small, self._forward, apart)

    def at(self, t: float) -> Frame:
        """The frame at ``t`` of the way."""
        (a, b), motion = self._frames, self._motion(t)
        (h, w), (height, width) = motion.shape[:2], a.shape[:2]
        scaled = motion * np.array([width / w, height / h], np.float32)
        full = np.asarray(cv2.resize(scaled, (width, height)), np.float32)
        made = _mixed(_moved(a, full, self._full_grid, -t), _moved(b, full, self._full_grid, 1 - t), t)
        share = cv2.resize(self._doubt(motion, t), (width, height))
        x, y, wide, high = cv2.boundingRect((share > NO_SHARE).view(np.uint8))
        if wide:
            part = slice(y, y + high), slice(x, x + wide)
            there = np.ascontiguousarray(share[part])
            made[part] = cv2.blendLinear(_mixed(a[part], b[part], t), made[part], there, 1 - there)
        return np.asarray(cv2.cvtColor(made, cv2.COLOR_RGBA2RGB), np.uint8)

    def _doubt(self, motion: Field, t: float) -> Field:
        """The share of the plain blend around each place, small."""
        residual = self._residual(motion, t)
        height, width = residual.shape
        around = cv2.resize(residual, (max(1, width // 4), max(1, height // 4)), interpolation=cv2.INTER_AREA)
        left = cv2.GaussianBlur(around, (0, 0), AROUND / 4) / np.float32(DOUBT)
        steep = left * left * np.sqrt(left)
        return np.asarray(BLEND * steep / (steep + 1), np.float32)

    def _motion(self, t: float) -> Field:
        """The motion from a to b of what is seen at ``t``, in small pixels, ``(h, w, 2)``."""
        ahead = self._carried(self._forward, t)
        behind = -self._carried(self._backward, 1 - t)
        errors = [
            cv2.GaussianBlur(self._residual(motion, t), (WINDOW, WINDOW), 0) + np.float32(1)
            for motion in (ahead, behind)
        ]
        odds = np.square(np.square(errors[0] / errors[1]))
        motion = behind + (ahead - behind) * (1 / (1 + odds))[..., None]
        length = cv2.magnitude(motion[..., 0], motion[..., 1]) * SHRINK
        moves = np.clip((length - STILL) / STILL, 0, 1)
        return np.asarray(motion * moves[..., None], np.float32)

    def _carried(self, field: Field, t: float) -> Field:
        """A flow that is given where things were, looked up where they are at ``t``: two steps of a fixed point."""
        carried = field
        for _ in range(2):
            carried = _moved(field, carried, self._grid, -t)
        return carried

    def _residual(self, motion: Field, t: float) -> Field:
        """How much the two frames differ, in codes, where this motion brings them together."""
        a, b = self._small
        return cv2.absdiff(_moved(a, motion, self._grid, -t), _moved(b, motion, self._grid, 1 - t)).astype(np.float32)


def is_cut(a: Frame, b: Frame) -> bool:
    """Whether two RGB frames, ``(H, W, 3)``, are two shots: far apart, and no motion brings them together.

    Quick where they are alike: motion is sought only between those that are not.
    """
    small_a, small_b = _small(a), _small(b)
    apart = _apart(small_a, small_b)
    return apart >= CUT and _stays_apart(small_a, small_b, _motion(_dis(), small_a, small_b), apart)


def _apart(a: Frame, b: Frame) -> float:
    """The mean difference of two small pictures, in codes."""
    return float(np.mean(cv2.absdiff(a, b)))


def _stays_apart(a: Frame, b: Frame, forward: Field, apart: float) -> bool:
    """Whether the motion from ``a`` to ``b`` leaves most of the difference."""
    return _apart(a, _moved(b, forward, _grid(*a.shape), 1)) > LEFT * apart


def _dis() -> cv2.DISOpticalFlow:
    dis = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)
    dis.setFinestScale(0)
    dis.setPatchStride(4)
    dis.setGradientDescentIterations(12)
    dis.setVariationalRefinementIterations(1)
    return dis


def _motion(dis: cv2.DISOpticalFlow, a: Frame, b: Frame) -> Field:
    """Where each pixel of one small picture is in another, ``(h, w, 2)``."""
    return np.asarray(dis.calc(a, b, None), np.float32)  # type: ignore[call-overload]  # no flow to begin with


def _wide(frame: Frame) -> Frame:
    """A frame with a fourth channel, which means nothing: so OpenCV fetches its pixels in half the time."""
    return np.asarray(cv2.cvtColor(frame, cv2.COLOR_RGB2RGBA), np.uint8)


def _mixed(a: NDArray[np.uint8], b: NDArray[np.uint8], t: float) -> NDArray[np.uint8]:
    """The mean of two frames, by their distance. Halves go up, as codecs have it: so what flickers by one code in a
    still scene, where half of all means are halves, comes out as it was."""
    return np.asarray(cv2.addWeighted(a, 1 - t, b, t, 1 / 256), np.uint8)


def _small(frame: Frame) -> Frame:
    """The picture in which flow is sought: grey, ``(H / SHRINK, W / SHRINK)``."""
    height, width = frame.shape[:2]
    size = max(16, width // SHRINK), max(16, height // SHRINK)
    return np.asarray(cv2.resize(cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY), size, interpolation=cv2.INTER_AREA), np.uint8)


def _moved(image: Picture, motion: Field, grid: Field, share: float) -> Picture:
    """A picture fetched ``share`` of the motion away from each place."""
    places = cv2.scaleAdd(motion, share, grid)
    return cv2.remap(image, places, None, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)  # type: ignore[call-overload,no-any-return]  # one map instead of two


def _grid(height: int, width: int) -> Field:
    """Where each pixel is: ``(height, width, 2)``, x before y."""
    x, y = np.meshgrid(np.arange(width, dtype=np.float32), np.arange(height, dtype=np.float32))
    return np.stack([x, y], axis=-1)
