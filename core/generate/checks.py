"""What a model's frames are held against before they count as made: their number, their light, their first picture."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from core.errors import DropreelError, Finding
from core.fidelity import fidelity
from core.generate.presets import FirstFrame, Preset
from core.light import LINEAR, linear_cells, luminance
from core.work import Report, unwatched

Frame = NDArray[np.uint8]
"""``(H, W, 3)`` sRGB; a clip's are ``(T, H, W, 3)``."""

BLACK = 0.005
"""Relative luminance. A frame that is darker in the mean is black: a code of 16 of 255."""
DARK = 0.02
"""Relative luminance. A given picture that is darker in the mean may become black frames."""
CELLS = 12
"""The light is compared in so many rows and columns."""
ENOUGH = 256
"""Pixels along the shorter side that are looked at: of twice as many every second one, and so on."""
VEIL = 0.002
"""Linear light, added to both sides of a comparison: what is nearly black says nothing about a gain."""
MEDIAN, MEAN = 9, 5
"""Frames over which drift is smoothed: first by the median, which drops a flash and keeps a step, then by the mean."""
GAIN_MAX = 1.5
"""Light is multiplied by no more than this, and by no less than one over it: more would show the noise."""
CHANNELS = ("red", "green", "blue")


class BadFrames(DropreelError):
    """The model made no clip."""

    def __init__(self, what: str = "") -> None:
        super().__init__(f"{self.__doc__} {what}".rstrip())


class NotFinite(BadFrames):
    """The model made numbers that are none."""


class Blank(BadFrames):
    """The model made a black clip of a picture that is not black."""


class WrongFrames(BadFrames):
    """The model made other frames than it was asked for."""


@dataclass(frozen=True)
class Checked:
    """What was found in frames that are a clip."""

    flags: list[Finding] = field(default_factory=list)
    """Warnings, for QA to hand on."""
    first_frame: dict[str, float | None] = field(default_factory=dict)
    """``ssim`` and ``psnr`` of the first frame and the given picture, None where it is not looked at, and the
    preset's ``error`` and ``flag``."""
    drift: dict[str, float | int] = field(default_factory=dict)
    """``red``, ``green``, ``blue``: by which share each had changed at the end; ``largest``, of all frames and
    channels, and its ``frame``. Empty where it is not looked at."""
    gains: NDArray[np.float64] | None = None
    """``(T, 3)``: what ``correct`` is to multiply the light of each frame by; None where the preset wants nothing."""


class Corrected(NamedTuple):
    """What became of the frames."""

    gain_min: float
    gain_max: float
    clipped: float
    """The share of all samples that would be brighter than white, 0..1."""
    clipped_frame: int
    """The frame with the most of them."""


def inspect(frames: Frame, given: Frame, preset: Preset, count: int, report: Report = unwatched) -> Checked:
    """Look at finished frames, ``(T, H, W, 3)``, beside the picture that the model was given, ``(H, W, 3)``.

    ``count`` is how many frames were asked for. Raises ``BadFrames`` where these are no clip of that picture, and
    what ``report`` raises, which is called after every frame.
    """
    if len(frames) != count or frames.shape[1:] != given.shape:
        asked = f"{count} frames of {given.shape[1]}×{given.shape[0]}"
        raise WrongFrames(f"It is {_shape(frames)}; {asked} were asked for.")
    cells = np.empty((count, CELLS * CELLS, 3))
    for number, frame in enumerate(frames):
        cells[number] = _cells(frame)
        report((number + 1) / count)
    refuse_black(_level(cells), given)
    first_frame, flags = _first_frame(frames[0], given, preset.first_frame)
    if preset.camera == "endpoints":  # the camera moves over what is brighter or darker, and the last picture is given
        return Checked(flags, first_frame)
    drifted = drift(cells)
    gains = np.clip(1 / (1 + drifted), 1 / GAIN_MAX, GAIN_MAX) if preset.drift.correct else None
    left = drifted if gains is None else (1 + drifted) * gains - 1
    limit = preset.drift.flag
    if limit is not None and np.abs(left).max() > limit:
        flags.append(_wandered(left, limit))
    return Checked(flags, first_frame, _measures(drifted), gains)


def refuse_black(level: NDArray[np.floating], given: Frame) -> None:
    """Raise ``Blank`` where a frame is black and the picture that the model was given, ``(H, W, 3)``, is not.

    ``level`` is the mean relative luminance of each frame, ``(T,)``.
    """
    if _level(_cells(given)[None])[0] < DARK:
        return
    black = np.flatnonzero(level < BLACK)
    if black.size:
        which = "All frames are" if black.size == len(level) else f"{black.size} frames from frame {black[0]} on are"
        raise Blank(f"{which} black.")


def drift(cells: NDArray[np.float64]) -> NDArray[np.float64]:
    """By which share the light of each channel has changed since the first frame, ``(T, 3)``, smooth in time.

    ``cells`` is the mean linear light L(t, k, c) of the cells k of each frame, ``(T, K, 3)``. The share is

        r(t, c) = median over k of (L(t, k, c) + v) / (L(0, k, c) + v) - 1

    with v = ``VEIL``, each cell weighing its light in the first frame, but none more than the mean of all. A gain g of
    a channel gives g - 1; what moves or lights up in less than half of the picture gives nothing. Over time the median
    of ``MEDIAN`` frames and then the mean of ``MEAN`` are taken, of fewer at either end, so that the first frame's is
    exactly 0.
    """
    level = cells + VEIL
    ratio = level / level[0]
    order = ratio.argsort(axis=1)
    weight = np.minimum(level[0], level[0].mean(axis=0))
    weight = np.take_along_axis(np.broadcast_to(weight, ratio.shape), order, axis=1).cumsum(axis=1)
    middle = (weight < weight[:, -1:] / 2).sum(axis=1, keepdims=True)
    share = np.take_along_axis(np.take_along_axis(ratio, order, axis=1), middle, axis=1)[:, 0] - 1
    return _smooth(_smooth(share, MEDIAN, np.median), MEAN, np.mean)


def correct(
    frames: Frame, gains: NDArray[np.float64], out: Frame | None = None, report: Report = unwatched
) -> Corrected:
    """Multiply the linear light of every frame's channels by ``gains``, ``(T, 3)``, frame by frame.

    The result goes into ``out``, or back into ``frames``. Rounding to codes may leave faint steps in smooth areas.
    """
    out = frames if out is None else out
    clipped = np.zeros(len(frames))
    for number, (frame, gain) in enumerate(zip(frames, gains, strict=True)):
        table, over = _tables(gain)
        for channel in np.flatnonzero(over.any(axis=0)):
            codes = cv2.calcHist([np.ascontiguousarray(frame)], [int(channel)], None, [256], [0, 256]).ravel()
            clipped[number] += float(codes[over[:, channel]].sum())
        out[number] = cv2.LUT(np.ascontiguousarray(frame), table)
        report((number + 1) / len(frames))
    worst = int(clipped.argmax())
    return Corrected(float(gains.min()), float(gains.max()), float(clipped.sum()) / frames.size, worst)


def _tables(gain: NDArray[np.float64]) -> tuple[Frame, NDArray[np.bool_]]:
    """What becomes of each channel's codes, ``(1, 256, 3)``, and which would be brighter than white, ``(256, 3)``."""
    light = LINEAR[:, None] * gain
    kept = light.clip(0, 1)
    codes = np.where(kept <= 0.0031308, 12.92 * kept, 1.055 * kept ** (1 / 2.4) - 0.055)
    return np.rint(codes * 255).astype(np.uint8)[None], light > 1 + 1e-9


def _cells(frame: Frame) -> NDArray[np.float32]:
    """The mean linear light of each cell, ``(K, 3)``, from one pixel in four or more of a large frame."""
    height, width = frame.shape[:2]
    every = max(1, min(height, width) // ENOUGH)
    few = cv2.resize(frame, (width // every, height // every), interpolation=cv2.INTER_NEAREST)
    return linear_cells(np.asarray(few, np.uint8), CELLS, CELLS).reshape(-1, 3)


def _level(cells: NDArray[np.floating]) -> NDArray[np.float32]:
    """The mean relative luminance of each frame, ``(T,)``, from ``(T, K, 3)``."""
    return np.asarray(luminance(cells.astype(np.float32)).mean(axis=1))


def _first_frame(first: Frame, given: Frame, limits: FirstFrame) -> tuple[dict[str, float | None], list[Finding]]:
    measures: dict[str, float | None] = {"ssim": None, "psnr": None, "error": limits.error, "flag": limits.flag}
    if limits.error is None and limits.flag is None:
        return measures, []
    found = fidelity(first, given)
    measures |= {"ssim": round(found.ssim, 4), "psnr": round(found.psnr, 2)}
    if limits.error is not None and found.ssim < limits.error:
        raise BadFrames(f"Its first frame is not the picture that it was given (SSIM {found.ssim:.3f}, "
                        f"at least {limits.error:g}).")  # fmt: skip
    if limits.flag is None or found.ssim >= limits.flag:
        return measures, []
    message = f"The model's first frame is not quite the picture that it was given (SSIM {found.ssim:.3f})."
    return measures, [Finding(code="given_frame_differs", message=message, severity="warning",
                              value=round(found.ssim, 4), limit=limits.flag, frame=0)]  # fmt: skip


def _measures(drifted: NDArray[np.float64]) -> dict[str, float | int]:
    frame, channel = np.unravel_index(np.abs(drifted).argmax(), drifted.shape)
    red, green, blue, largest = (round(float(share), 4) for share in (*drifted[-1], drifted[frame, channel]))
    return {"red": red, "green": green, "blue": blue, "largest": largest, "frame": int(frame)}


def _wandered(left: NDArray[np.float64], limit: float) -> Finding:
    """What is said of light that has ``left``, ``(T, 3)``, the first frame's."""
    frame, channel = np.unravel_index(np.abs(left).argmax(), left.shape)
    share = float(left[frame, channel])
    message = (
        f"{CHANNELS[channel].capitalize()} light wanders from the first frame's, by {share:+.0%} in frame {frame} "
        "of the model's."
    )
    return Finding(code="light_drift", message=message, severity="warning", value=round(abs(share), 4), limit=limit)


def _smooth(
    series: NDArray[np.float64], window: int, centre: Callable[..., NDArray[np.float64]]
) -> NDArray[np.float64]:
    """The ``centre`` of so many frames about each: near the first of as few as there are before it, and likewise near
    the last, whose is that of three."""
    half, last = window // 2, len(series) - 1
    smooth = np.empty_like(series)
    for t in range(len(series)):
        after = min(half, t, last - t)
        before = min(t, max(after, 2)) if t > last - 2 else after
        smooth[t] = centre(series[t - before : t + after + 1], axis=0)
    return smooth


def _shape(frames: Frame) -> str:
    return "×".join(map(str, frames.shape))
