"""What a clip's frames ought to show: how many there are, what the first one is, how the camera moves."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

import cv2
import numpy as np
from numpy.typing import NDArray

from core.camera import Camera
from core.light import Frame, linear_cells, luminance
from core.motion import Rect, Size, on_canvas
from core.qa.thresholds import FirstLimits

_LEVEL_CELLS = 256
"""Cells along the longer side of the keyframe, from which the brightness of its views is taken."""


@dataclass(frozen=True)
class Asked:
    """A camera that a model was asked for, and may have missed."""

    keyframe: Frame
    """``(H, W, 3)``."""
    flag: float
    """How far from the path, in pictures, it may be before that is flagged."""


@dataclass(frozen=True)
class Planned:
    """The plan of a clip. What is not given is not judged."""

    frames: int | None = None
    """How many there are to be."""
    views: Sequence[Rect] = ()
    """What each frame is to show of the keyframe; none where the camera is not planned."""
    first: Frame | None = None
    """The first frame as the keyframe has it, ``(H, W, 3)``, of the clip's size."""
    levels: Sequence[float] = ()
    """How bright each frame is to be: its mean relative luminance, 0..1."""
    first_limits: FirstLimits | None = None
    """A model's; None: the settings' own, which hold for a still that is only filmed."""
    lives: bool = False
    """Whether the picture moves by itself, as a model's does, or only the camera over a still."""
    still: Frame | None = None
    """The keyframe, ``(H', W', 3)``, where every frame is a view of it and nothing else."""
    asked: Asked | None = None
    """Set where the model moves the camera; else the frames were filmed along ``views``, exactly."""

    @classmethod
    def of(cls, keyframe: Frame, views: Sequence[Rect], size: Size) -> Self:
        """The plan of a camera move over a still: ``keyframe`` is ``(H, W, 3)``, ``size`` (width, height)."""
        return cls(len(views), views, Camera(keyframe, size).render(views[0]), _levels(keyframe, views),
                   still=keyframe)  # fmt: skip

    @classmethod
    def of_model(cls, keyframe: Frame, views: Sequence[Rect], size: Size, made: Mapping[str, Any]) -> Self:
        """The plan of a model's clip; ``made`` is what ``generate`` recorded of it.

        The first frame is the keyframe brought to the model's canvas and filmed from there, as a perfect model's
        would be: what the canvas cannot hold is no fault of the frames. Of the levels only that they are not dark is
        worth anything: a model's picture has its own light.
        """
        view = Rect(*made["view"])
        canvas = Camera(keyframe, (made["width"], made["height"]), [view]).render(view)
        limits = FirstLimits(made["first_frame"]["error"], made["first_frame"]["flag"])
        return cls(
            len(views),
            views,
            Camera(canvas, size).render(on_canvas(views[0], view)),
            _levels(keyframe, views),
            limits,
            lives=True,
            asked=Asked(keyframe, made["path_flag"]) if made["camera"] == "endpoints" else None,
        )

    def step(self, frame: int, size: Size | None = None) -> NDArray[np.float64] | None:
        """Where the pixels of the frame before go in this one, as a 2 x 3 affine map.

        For pictures of ``size``, (width, height); ``first``'s unless given. None where that is not planned: in frame
        0, and without views.
        """
        if self.first is None or not 0 < frame < len(self.views):
            return None
        before, now = self.views[frame - 1], self.views[frame]
        width, height = size or (self.first.shape[1], self.first.shape[0])
        # A pixel's centre is half a pixel from its edge, and cv2 counts from the centres.
        x_scale, x_shift = _axis(before.x1, before.width, now.x1, now.width, width)
        y_scale, y_shift = _axis(before.y1, before.height, now.y1, now.height, height)
        return np.array([[x_scale, 0.0, x_shift], [0.0, y_scale, y_shift]])

    def motion(self, frame: int) -> float:
        """How far the fastest visible point moves on screen from the frame before, in pixels."""
        step = self.step(frame)
        if step is None or self.first is None:
            return 0.0
        height, width = self.first.shape[:2]
        (x_scale, _, x_shift), (_, y_scale, y_shift) = step.tolist()
        across: float = max(abs(x_shift), abs((x_scale - 1) * (width - 1) + x_shift))
        down: float = max(abs(y_shift), abs((y_scale - 1) * (height - 1) + y_shift))
        return math.hypot(across, down)


def _axis(start: float, extent: float, next_start: float, next_extent: float, pixels: int) -> tuple[float, float]:
    """The scale and the shift, along one axis, from pixels of one view to those of the next."""
    scale = extent / next_extent
    return scale, (start - next_start) / next_extent * pixels + (scale - 1) / 2


def _levels(keyframe: Frame, views: Sequence[Rect]) -> list[float]:
    """The mean luminance of every view, to a cell."""
    height, width = keyframe.shape[:2]
    shrink = min(1.0, _LEVEL_CELLS / max(height, width))
    columns: int = max(1, round(width * shrink))
    rows: int = max(1, round(height * shrink))
    total = cv2.integral(luminance(linear_cells(keyframe, columns, rows)))

    def level(view: Rect) -> float:
        left, top = min(int(view.x1 * columns), columns - 1), min(int(view.y1 * rows), rows - 1)
        right, bottom = max(math.ceil(view.x2 * columns), left + 1), max(math.ceil(view.y2 * rows), top + 1)
        part = float(total[bottom, right] - total[top, right] - total[bottom, left] + total[top, left])
        return part / ((right - left) * (bottom - top))

    return [level(view) for view in views]
