"""New frames from optical flow: no weights, no GPU, honest about what it cannot see.

DIS flow is taken both ways, at a quarter of the size, and brought to the moment between. Where the two disagree, the
one wins that explains both frames better; where neither does, the frames are blended as they are. What hardly moves
is left where it is, so that a still background stays still.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

Frame = NDArray[np.uint8]
Field = NDArray[np.float32]
"""``(h, w)`` or ``(h, w, 2)`` at the size at which the flow is sought."""

SHRINK = 4
"""The flow is sought at 1 / SHRINK of the frame's width and height: finer is slower and, being noisier, no better."""
STILL = 0.4
"""Pixels of the frame. Motion below this is none, and up to twice this it fades in."""
WINDOW = 15
"""Pixels of the small picture over which an explanation is judged."""
DOUBT = 8.0
"""Codes of 255. Where the two frames still differ so much after the motion, half of ``BLEND`` is taken back."""
BLEND = 0.6
"""At most this share of a pixel comes from the plain blend."""
CUT = 28.0
"""Codes of 255. Two frames that differ more in the mean, and hardly less after the motion, are two shots."""


class Flow:
    """Interpolation by dense optical flow."""

    name = "flow"

    def __init__(self) -> None:
        dis = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)
        dis.setFinestScale(0)
        dis.setPatchStride(4)
        dis.setGradientDescentIterations(12)
        dis.setVariationalRefinementIterations(3)
        self._dis = dis

    def between(self, a: Frame, b: Frame, times: Iterable[float]) -> Iterator[Frame]:
        """The frames at ``times``, in (0, 1), between two RGB frames, ``(H, W, 3)``; of two shots, the nearer one."""
        pair = self._pair(a, b)
        for t in times:
            if pair.is_cut:
                yield a if t < 0.5 else b
            else:
                yield pair.at(t)

    def _pair(self, a: Frame, b: Frame) -> _Pair:
        small_a, small_b = _small(a), _small(b)
        forward = np.asarray(self._dis.calc(small_a, small_b, None), np.float32)  # type: ignore[call-overload]  # no flow to begin with
        backward = np.asarray(self._dis.calc(small_b, small_a, None), np.float32)  # type: ignore[call-overload]  # as above
        return _Pair(a, b, small_a, small_b, forward, backward)


@dataclass
class _Pair:
    """Two frames and what moves between them."""

    a: Frame
    b: Frame
    small_a: Frame
    small_b: Frame
    forward: Field
    backward: Field

    def __post_init__(self) -> None:
        height, width = self.small_a.shape
        self._grid = _grid(height, width)
        self._full_grid = _grid(*self.a.shape[:2])

    @property
    def is_cut(self) -> bool:
        """Whether these are two shots: far apart, and no motion brings them together."""
        apart = float(np.mean(cv2.absdiff(self.small_a, self.small_b)))
        if apart < CUT:
            return False
        moved = _warp(self.small_b, self._grid + self.forward)
        return float(np.mean(cv2.absdiff(self.small_a, moved))) > 0.6 * apart

    def at(self, t: float) -> Frame:
        """The frame at ``t`` of the way."""
        motion = self._motion(t)
        doubt = cv2.GaussianBlur(self._residual(motion, t), (0, 0), 20) ** 2.5
        height, width = self.a.shape[:2]
        scale = np.array([width / motion.shape[1], height / motion.shape[0]], np.float32)
        full = cv2.resize(motion, (width, height), interpolation=cv2.INTER_LINEAR) * scale
        from_a = _warp(self.a, self._full_grid - np.float32(t) * full)
        from_b = _warp(self.b, self._full_grid + np.float32(1 - t) * full)
        made = cv2.addWeighted(from_a, 1 - t, from_b, t, 0)
        plain = cv2.addWeighted(self.a, 1 - t, self.b, t, 0)
        share = cv2.resize(BLEND * doubt / (doubt + DOUBT**2.5), (width, height), interpolation=cv2.INTER_LINEAR)
        return np.asarray(cv2.blendLinear(plain, made, share, 1 - share), np.uint8)

    def _motion(self, t: float) -> Field:
        """The motion from a to b of what is seen at ``t``, in small pixels, ``(h, w, 2)``."""
        ahead = self._carried(self.forward, t)
        behind = -self._carried(self.backward, 1 - t)
        errors = [
            cv2.GaussianBlur(self._residual(motion, t), (WINDOW, WINDOW), 0) + np.float32(1)
            for motion in (ahead, behind)
        ]
        trust = 1 / (1 + (errors[0] / errors[1]) ** 4)
        motion = behind + (ahead - behind) * trust[..., None]
        length = np.sqrt((motion * motion).sum(axis=2)) * SHRINK
        moves = np.clip((length - STILL) / STILL, 0, 1)
        return np.asarray(motion * moves[..., None], np.float32)

    def _carried(self, field: Field, t: float) -> Field:
        """A flow that is given where things were, looked up where they are at ``t``: a few steps of a fixed point."""
        carried = field
        for _ in range(3):
            carried = np.asarray(_warp(field, self._grid - np.float32(t) * carried), np.float32)
        return carried

    def _residual(self, motion: Field, t: float) -> Field:
        """How much the two frames differ, in codes, where this motion brings them together."""
        a = _warp(self.small_a, self._grid - np.float32(t) * motion)
        b = _warp(self.small_b, self._grid + np.float32(1 - t) * motion)
        return cv2.absdiff(a, b).astype(np.float32)


def _small(frame: Frame) -> Frame:
    """The picture in which flow is sought: grey, ``(H / SHRINK, W / SHRINK)``."""
    height, width = frame.shape[:2]
    size = max(16, width // SHRINK), max(16, height // SHRINK)
    return np.asarray(cv2.resize(cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY), size, interpolation=cv2.INTER_AREA), np.uint8)


def _warp(image: NDArray[np.uint8] | Field, places: Field) -> NDArray[np.uint8] | Field:
    return cv2.remap(image, places, None, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)  # type: ignore[call-overload,no-any-return]  # one map instead of two


def _grid(height: int, width: int) -> Field:
    """Where each pixel is: ``(height, width, 2)``, x before y."""
    x, y = np.meshgrid(np.arange(width, dtype=np.float32), np.arange(height, dtype=np.float32))
    return np.stack([x, y], axis=-1)
