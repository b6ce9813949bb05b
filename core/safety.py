"""The rules that a camera move must keep before a GPU second is spent; returns findings, raises nothing.

``docs/explanation/motion-rules.md`` says what each rule means, and why.
"""

from __future__ import annotations

import json
import math
from bisect import bisect_left
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property
from typing import NamedTuple

import cv2
import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from core.contract import Motion
from core.errors import Finding
from core.limits import MotionLimits
from core.motion import CameraPath, MotionType, Rect, Size, fit, frame_count

VISIBLE = 0.001
"""A change of the view by no more than this share of it is none: about a pixel of a delivered clip."""
DARKEST = 0.05
"""Relative luminance below which a change is judged as if it began here: in the dark little is seen."""
ROUNDING = 1e-6
"""By this share of itself a limit may be passed: a decimal's binary neighbour is no fault, nor its last digit."""
DECIMALS = 8
"""Of the rectangles that a remedy names: fine enough to keep the shape of a view one pixel wide."""

SAMPLES = 1 << 17
"""At least so many pixels of an image are looked at for its luminance."""

SIDECAR_NAMES = {"type": "motion_type", "start_rect": "start_frame", "end_rect": "end_frame"}
"""What the motion tool's sidecar calls the fields of a ``Motion``."""


@dataclass(frozen=True, eq=False)
class Scene:
    """What a move is judged over: the keyframe, and the clip that is to be made of it."""

    picture: NDArray[np.uint8] | Size
    """The keyframe, upright sRGB, (H, W, 3); or only its (width, height), and luminance is not judged."""
    output_size: Size
    """(width, height) of the delivered clip in pixels."""
    fps: int | Fraction
    """The delivered rate."""
    limits: MotionLimits

    @property
    def image_size(self) -> Size:
        """(width, height) of the keyframe in pixels."""
        if isinstance(self.picture, tuple):
            return self.picture
        return self.picture.shape[1], self.picture.shape[0]

    def path(self, motion: Motion) -> CameraPath:
        """The path as it will be rendered."""
        return motion.path.fitted(self.image_size, self.output_size)

    def frames(self, motion: Motion) -> int:
        """How many frames the clip has."""
        return frame_count(motion.duration_sec, self.fps)

    def luminance(self, motion: Motion) -> NDArray[np.float64]:
        """The mean relative luminance of each frame's view, 0..1; empty where no pixels are known."""
        if self._luminance is None:
            return np.empty(0)
        return self._luminance.means(list(self.path(motion).views(self.frames(motion))))

    @cached_property
    def _luminance(self) -> _SummedLuminance | None:
        return None if isinstance(self.picture, tuple) else _SummedLuminance(self.picture)


class _SummedLuminance:
    """The relative luminance of an image, summed so that the mean over any rectangle is four look-ups.

    Of a large image every ``step``-th pixel of every ``step``-th row speaks for its neighbours: the mean of a view
    is the mean of a sample of it, and a drop is looked at half again as fast.
    """

    def __init__(self, image: NDArray[np.uint8]) -> None:
        step = max(1, math.isqrt(image.shape[0] * image.shape[1] // SAMPLES))
        image = np.ascontiguousarray(image[::step, ::step])
        luminance = np.empty(image.shape[:2], np.float32)
        for top in range(0, len(image), 128):  # strips that stay in the processor's cache
            weighted = cv2.LUT(image[top : top + 128], _WEIGHTED_LINEAR)
            luminance[top : top + 128] = cv2.transform(weighted, np.ones((1, 3), np.float32))
        self._sums = cv2.integral(luminance, sdepth=cv2.CV_64F)
        """(H + 1, W + 1): all that lies above and to the left of each corner of a pixel."""

    def means(self, views: Sequence[Rect]) -> NDArray[np.float64]:
        """The mean of each view, exact wherever its edges fall: a sample is a square of one luminance."""
        height, width = (length - 1 for length in self._sums.shape)
        x1, y1, x2, y2 = np.array(views).reshape(-1, 4).T * np.array([[width], [height], [width], [height]])
        total = self._up_to(x2, y2) - self._up_to(x1, y2) - self._up_to(x2, y1) + self._up_to(x1, y1)
        means: NDArray[np.float64] = np.maximum(total / ((x2 - x1) * (y2 - y1)), 0.0)
        return means

    def _up_to(self, x: NDArray[np.float64], y: NDArray[np.float64]) -> NDArray[np.float64]:
        """The sums at any points, in pixels: bilinear between corners."""
        column = np.minimum(x.astype(np.intp), self._sums.shape[1] - 2)
        row = np.minimum(y.astype(np.intp), self._sums.shape[0] - 2)
        right, down = x - column, y - row
        above = self._sums[row, column] * (1 - right) + self._sums[row, column + 1] * right
        below = self._sums[row + 1, column] * (1 - right) + self._sums[row + 1, column + 1] * right
        sums: NDArray[np.float64] = above * (1 - down) + below * down
        return sums


def _weighted_linear() -> NDArray[np.float32]:
    """(1, 256, 3): what each level of R, G and B adds to relative luminance (WCAG 2.2, from sRGB)."""
    level = np.arange(256) / 255
    linear = np.where(level <= 0.04045, level / 12.92, ((level + 0.055) / 1.055) ** 2.4)
    weighted: NDArray[np.float32] = np.multiply.outer(linear, (0.2126, 0.7152, 0.0722)).astype(np.float32)
    return weighted[None]


_WEIGHTED_LINEAR = _weighted_linear()


def check(motion: Motion, scene: Scene, names: Mapping[str, str] | None = None) -> list[Finding]:
    """All that the rules have against a move; the remedy of each is the nearest move that keeps that rule.

    ``names`` renames the fields of ``Motion`` in what is said, as ``SIDECAR_NAMES`` does. Where no path can
    be made of the rectangles, nothing else is judged.
    """
    names = names or {}
    findings: list[Finding] = []
    for rules in (RECTANGLE_RULES, MOVE_RULES):
        for rule in rules:
            found = list(rule.find(motion, scene))
            repaired = rule.repair(motion, scene) if found else None
            for finding in found:
                field = names.get(finding.field or "", finding.field)
                remedy = _instruction(motion, repaired, names) if repaired else finding.remedy
                findings.append(finding.model_copy(update={"field": field, "remedy": remedy}))
        if findings:
            break
    return findings


def nearest(motion: Motion, scene: Scene) -> Motion | None:
    """The nearest move against which no rule has an error; warnings are mended too where that is possible.

    What is drawn stays as drawn while a longer duration suffices; a move that even then does too much ends
    earlier on its way. One that is right comes back as it is. None where a rectangle must be drawn again.
    """
    for rule in (*RECTANGLE_RULES, *MOVE_RULES):
        if any(finding.severity != "note" for finding in rule.find(motion, scene)):
            repaired = rule.repair(motion, scene)
            if repaired is None and rule in RECTANGLE_RULES:
                return None
            motion = repaired or motion
    return motion


class Rule(NamedTuple):
    """What a rule has against a move, and the nearest move that it has nothing against, if there is one."""

    find: Callable[[Motion, Scene], Iterator[Finding]]
    repair: Callable[[Motion, Scene], Motion | None]


# The rectangles: can a path be made of them?


def _find_disorder(motion: Motion, scene: Scene) -> Iterator[Finding]:
    for field, rect, frame in _ends(motion, scene):
        if rect.x1 > rect.x2 or rect.y1 > rect.y2:
            yield Finding(
                code="rect_out_of_order",
                message=f"The rectangle {_text(rect)} must be [x1, y1, x2, y2] with x1 < x2 and y1 < y2.",
                field=field,
                value=_text(rect),
                frame=frame,
            )


def _repair_disorder(motion: Motion, _: Scene) -> Motion:
    return _with_rects(motion, _in_order)


def _in_order(rect: Rect) -> Rect:
    return Rect(*map(min, rect[:2], rect[2:]), *map(max, rect[:2], rect[2:]))


def _find_no_area(motion: Motion, scene: Scene) -> Iterator[Finding]:
    for field, rect, frame in _ends(motion, scene):
        pixels = abs(rect.width) * scene.image_size[0], abs(rect.height) * scene.image_size[1]
        if not all(extent >= 1 - ROUNDING for extent in pixels):  # an extent may be no number at all
            yield Finding(
                code="rect_without_area",
                message=f"The rectangle {_text(rect)} is less than one pixel of the image wide or high.",
                field=field,
                value=round(min(pixels), 4),
                limit=1.0,
                frame=frame,
                remedy="Draw it again.",
            )


def _find_outside(motion: Motion, scene: Scene) -> Iterator[Finding]:
    for field, rect, frame in _ends(motion, scene):
        if not _is_inside(rect):
            farthest = max(rect, key=lambda edge: abs(edge - 0.5))
            yield Finding(
                code="rect_outside_image",
                message=f"The rectangle {_text(rect)} leaves the image, which goes from 0 to 1 on both axes.",
                field=field,
                value=farthest,
                limit=0.0 if farthest < 0 else 1.0,
                frame=frame,
                remedy="Draw it again.",
            )


def _repair_outside(motion: Motion, scene: Scene) -> Motion | None:
    """Moved inside; one that is larger than the image is first made smaller, in its own shape."""

    def inside(rect: Rect) -> Rect:
        rect = _in_order(rect)
        shrink = max(rect.width, rect.height, 1.0)
        return rect if _is_inside(rect) else _placed(rect, rect.width / shrink, rect.height / shrink)

    repaired = _with_rects(motion, inside)
    return None if any(_find_no_area(repaired, scene)) else repaired


def _is_inside(rect: Rect) -> bool:
    return all(0 <= edge <= 1 for edge in rect)


# The move: its length, its views, its word.


def _find_duration(motion: Motion, scene: Scene) -> Iterator[Finding]:
    shortest, longest = scene.limits.duration_min, scene.limits.duration_max
    if not shortest <= motion.duration_sec <= longest:
        short = motion.duration_sec < shortest
        yield Finding(
            code="duration_too_short" if short else "duration_too_long",
            message=f"The move lasts {motion.duration_sec:g} s; {shortest:g} to {longest:g} s are allowed.",
            field="duration_sec",
            value=motion.duration_sec,
            limit=shortest if short else longest,
        )


def _repair_duration(motion: Motion, scene: Scene) -> Motion:
    allowed = min(max(motion.duration_sec, scene.limits.duration_min), scene.limits.duration_max)
    return motion.model_copy(update={"duration_sec": allowed})


def _find_shape(motion: Motion, scene: Scene) -> Iterator[Finding]:
    wanted = scene.output_size[0] * scene.image_size[1] / (scene.output_size[1] * scene.image_size[0])
    off = _excess_of_views(
        motion.path,
        scene.frames(motion),
        lambda view: abs(view.width / view.height / wanted - 1),
        scene.limits.shape_tolerance,
    )
    if off:
        fitted = scene.limits.shape_rule == "fit"
        width, height = scene.output_size
        yield Finding(
            code="view_fitted" if fitted else "view_shape",
            message=f"The views drawn are up to {off.worst:.1%} off the {width}×{height} shape of the clip"
            + (": the largest views of that shape inside them are used." if fitted else "."),
            severity="note" if fitted else "error",
            value=round(off.worst, 4),
            limit=scene.limits.shape_tolerance,
            frame=off.first_frame,
        )


def _repair_shape(motion: Motion, scene: Scene) -> Motion:
    return _with_rects(motion, lambda rect: _tidy(fit(rect, scene.image_size, scene.output_size)))


_PROMISES = {
    MotionType.zoom_in: "the view gets smaller",
    MotionType.zoom_out: "the view gets larger",
    MotionType.pan_left: "its centre goes to the left",
    MotionType.pan_right: "its centre goes to the right",
    MotionType.static: "it stays where it is",
}


def _types(path: CameraPath) -> list[MotionType]:
    """The words that are true of a path."""
    width, height = path.start.width, path.start.height
    growth = path.end.width / width - 1
    drift = (path.end.centre[0] - path.start.centre[0]) / width
    edges = zip(path.start, path.end, (width, height, width, height), strict=True)
    shift = max(abs(end - start) / extent for start, end, extent in edges)
    true = {
        MotionType.zoom_in: growth < -VISIBLE,
        MotionType.zoom_out: growth > VISIBLE,
        MotionType.pan_left: drift < -VISIBLE,
        MotionType.pan_right: drift > VISIBLE,
        MotionType.static: shift <= VISIBLE,
    }
    return [name for name, is_true in true.items() if is_true]


def _find_contradiction(motion: Motion, scene: Scene) -> Iterator[Finding]:
    if motion.type not in _types(scene.path(motion)):
        yield Finding(
            code="type_contradicts_views",
            message=f"{motion.type} means that {_PROMISES[motion.type]}; as drawn, that is not so.",
            field="type",
            value=str(motion.type),
        )


def _repair_contradiction(motion: Motion, scene: Scene) -> Motion:
    """The word that is true of the views; a move straight up or down has none, and gets a hint of zoom_in."""
    path = scene.path(motion)
    family = motion.type.partition("_")[0]
    true = sorted(_types(path), key=lambda name: not name.startswith(family))
    if true:
        return motion.model_copy(update={"type": true[0]})
    closer = 1 - 2 * VISIBLE
    end = _placed(path.end, path.start.width * closer, path.start.height * closer)
    return motion.model_copy(update={"type": MotionType.zoom_in, "end_rect": end})


def _find_upscale(motion: Motion, scene: Scene) -> Iterator[Finding]:
    # These views have the output's shape, so one axis speaks for both.
    enlarged = _excess_of_views(
        scene.path(motion),
        scene.frames(motion),
        lambda view: scene.output_size[0] / (view.width * scene.image_size[0]),
        scene.limits.upscale_max,
    )
    if enlarged:
        times = enlarged.worst / scene.limits.upscale_max
        yield Finding(
            code="view_upscaled",
            message=f"The closest view is enlarged {enlarged.worst:.2f} times and will look soft; "
            f"the limit is {scene.limits.upscale_max:g}.",
            severity="warning",
            value=round(enlarged.worst, 4),
            limit=scene.limits.upscale_max,
            frame=enlarged.first_frame,
            remedy=f"Use an image {times:.2f} times as wide and high.",
        )


def _repair_upscale(motion: Motion, scene: Scene) -> Motion | None:
    """What is too close steps back from its own centre; None where the image, or the move, is too small for that."""
    width, height = (
        output / scene.limits.upscale_max / image
        for output, image in zip(scene.output_size, scene.image_size, strict=True)
    )
    if max(width, height) > _beyond(1.0):
        return None

    def step_back(rect: Rect) -> Rect:
        view = fit(rect, scene.image_size, scene.output_size)
        if width <= _beyond(view.width):
            return rect
        return _placed(view, min(width, 1.0), min(height, 1.0))

    repaired = _with_rects(motion, step_back)
    return None if any(_find_contradiction(repaired, scene)) else repaired


# The pace: how fast the picture moves, and how fast it gets brighter or darker.


def _find_speed(motion: Motion, scene: Scene) -> Iterator[Finding]:
    steps = scene.frames(motion) - 1
    if steps < 1:
        return
    path = scene.path(motion)
    rate = float(scene.fps / Fraction(steps))  # moves a second: the last view is seen when the last frame begins
    peak = path.peak_speed * rate
    if peak > _beyond(scene.limits.speed_max):
        speeds = [path.speed(step / steps) * rate for step in range(steps + 1)]
        limit = min(scene.limits.speed_max, max(speeds))
        yield Finding(
            code="motion_too_fast",
            message=f"At its fastest the picture moves {peak:.3f} of its own extent a second; "
            f"the limit is {scene.limits.speed_max:g}.",
            field="duration_sec",
            value=round(peak, 4),
            limit=scene.limits.speed_max,
            frame=next(frame for frame, speed in enumerate(speeds) if speed >= limit),
        )


def _find_luminance(motion: Motion, scene: Scene) -> Iterator[Finding]:
    if motion.duration_sec > scene.limits.duration_max:
        return  # it will not be made at this length
    luminance = scene.luminance(motion)
    step = _excess(_change(luminance, 1), scene.limits.luminance_step_max)
    if step:
        yield Finding(
            code="luminance_step",
            message=f"From one frame to the next the picture's luminance changes by {step.worst:.0%}; "
            f"the limit is {scene.limits.luminance_step_max:.0%}.",
            value=round(step.worst, 4),
            limit=scene.limits.luminance_step_max,
            frame=step.first_frame,
        )
    swing = _excess(_change(luminance, int(scene.fps)), scene.limits.luminance_swing_max)
    if swing:
        yield Finding(
            code="luminance_swing",
            message=f"Within one second the picture's luminance changes by {swing.worst:.0%}; "
            f"above {scene.limits.luminance_swing_max:.0%} it is worth a look.",
            severity="warning",
            value=round(swing.worst, 4),
            limit=scene.limits.luminance_swing_max,
            frame=swing.first_frame,
        )


def _change(luminance: NDArray[np.float64], steps: int) -> NDArray[np.float64]:
    """For each frame the largest change among it and so many before it, as a share of the darkest of them."""
    if not luminance.size:
        return luminance
    seen = sliding_window_view(np.pad(luminance, (steps, 0), mode="edge"), steps + 1)
    darkest = seen.min(axis=1)
    change: NDArray[np.float64] = (seen.max(axis=1) - darkest) / np.maximum(darkest, DARKEST)
    return change


def _repair_pace(find: Callable[[Motion, Scene], Iterator[Finding]]) -> Callable[[Motion, Scene], Motion]:
    """Longer, by tenths of a second; where the longest is too short, less of the way; at worst none of it."""

    def repair(motion: Motion, scene: Scene) -> Motion:
        def lasting(seconds: float) -> Motion:
            return motion.model_copy(update={"duration_sec": seconds})

        def part_way(share: float) -> Motion:
            blend = (a + (b - a) * share for a, b in zip(motion.start_rect, motion.end_rect, strict=True))
            return lasting(longest).model_copy(update={"end_rect": _tidy(Rect(*blend))})

        def kept(candidate: Motion) -> bool:
            return not any(find(candidate, scene))

        longest = scene.limits.duration_max
        shortest = max(motion.duration_sec, scene.limits.duration_min)
        durations = [tenths / 10 for tenths in range(math.ceil(shortest * 10), math.floor(longest * 10) + 1)]
        durations.append(longest)
        enough = bisect_left(durations, True, key=lambda seconds: kept(lasting(seconds)))
        if enough < len(durations):
            return lasting(durations[enough])
        thousandths = range(1000)
        less = bisect_left(thousandths, True, key=lambda cut: kept(part_way(1 - cut / 1000)))
        nearer = part_way(1 - less / 1000)
        if less < len(thousandths) and not any(_find_contradiction(nearer, scene)):
            return nearer
        return nearer.model_copy(update={"type": MotionType.static, "end_rect": motion.start_rect})

    return repair


RECTANGLE_RULES = (
    Rule(_find_disorder, _repair_disorder),
    Rule(_find_no_area, lambda *_: None),
    Rule(_find_outside, _repair_outside),
)
MOVE_RULES = (
    Rule(_find_duration, _repair_duration),
    Rule(_find_shape, _repair_shape),
    Rule(_find_contradiction, _repair_contradiction),
    Rule(_find_upscale, _repair_upscale),
    Rule(_find_speed, _repair_pace(_find_speed)),
    Rule(_find_luminance, _repair_pace(_find_luminance)),
)
"""In this order: a repair breaks no rule that comes before its own."""


class _Excess(NamedTuple):
    worst: float
    first_frame: int


def _excess(values: NDArray[np.float64], limit: float) -> _Excess | None:
    """The largest of the frames' values and the first frame above the limit; None where none is."""
    above = np.flatnonzero(values > _beyond(limit))
    return _Excess(float(values.max()), int(above[0])) if above.size else None


def _excess_of_views(path: CameraPath, frames: int, measure: Callable[[Rect], float], limit: float) -> _Excess | None:
    """The same of a measure that is nowhere larger than at the larger of the path's ends."""
    worst = max(measure(path.start), measure(path.end))
    if worst <= _beyond(limit):
        return None
    above = (frame for frame, view in enumerate(path.views(frames)) if measure(view) > _beyond(limit))
    return _Excess(worst, next(above, 0))


def _beyond(limit: float) -> float:
    return limit * (1 + ROUNDING)


def _ends(motion: Motion, scene: Scene) -> tuple[tuple[str, Rect, int], tuple[str, Rect, int]]:
    """The name, the rectangle and the frame of both ends."""
    last = max(scene.frames(motion) - 1, 0)
    return ("start_rect", motion.start_rect, 0), ("end_rect", motion.end_rect, last)


def _with_rects(motion: Motion, change: Callable[[Rect], Rect]) -> Motion:
    rects = {"start_rect": change(motion.start_rect), "end_rect": change(motion.end_rect)}
    return motion.model_copy(update=rects)


def _placed(about: Rect, width: float, height: float) -> Rect:
    """A rectangle of this size about the centre of another, or as near to that as the image allows."""
    (x, y) = about.centre
    x1 = min(max(x - width / 2, 0.0), 1 - width)
    y1 = min(max(y - height / 2, 0.0), 1 - height)
    return _tidy(Rect(x1, y1, x1 + width, y1 + height))


def _tidy(rect: Rect) -> Rect:
    return Rect(*(min(max(round(edge, DECIMALS), 0.0), 1.0) for edge in rect))


def _text(rect: Rect) -> str:
    return json.dumps(list(rect))


def _instruction(drawn: Motion, better: Motion, names: Mapping[str, str]) -> str:
    """What to change to make one motion of the other, as a sentence."""
    steps = []
    for field, value in better:
        name = names.get(field, field)
        if value == getattr(drawn, field):
            continue
        if field == "duration_sec":
            steps.append(f"{'lengthen' if value > drawn.duration_sec else 'shorten'} {name} to {value:g}")
        else:
            steps.append(f"set {name} to {_text(value) if isinstance(value, Rect) else value}")
    sentence = " and ".join(steps)
    return f"{sentence[:1].upper()}{sentence[1:]}."
