"""A film set of stills and camera moves, and faults to plant into what is filmed there.

Distances and grains are in pixels of a clip whose longer side is ``FULL_SIDE``, as clips are delivered, whatever the
size of the frames.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from core.camera import shoot
from core.light import XYZ
from core.motion import CameraPath, Easing, Rect, Size, fit

Frames = NDArray[np.uint8]
"""``(T, H, W, 3)``."""

WIDE: Size = (1024, 576)
TALL: Size = (576, 1024)
"""As clips are delivered."""
FULL_SIDE = 1024
FPS, FRAMES = 24, 26
"""More than a second, which is as long as QA looks for what lasts."""
SPEED = 0.2
"""Widths or heights a second: the fastest that any point moves on screen, the limit of the motion rules."""
MIDDLE = 0.4
"""Where in the clip a fault that lasts for a moment begins, of its frames."""
LAG = 5
"""Frames by which the echo of a ghost is late."""
PATCH = 0.2
"""Of the longer side: the square that flashes. On the reference screen it fills 85 % of the rule's window."""
HELD = 2
"""Frames for which a flashing square shows each of its colours: twelve transitions a second."""


def flicker(frames: Frames, strength: float, random: np.random.Generator) -> Frames:
    """The light of every frame times a number of its own, of this deviation about 1."""
    return _lit(frames, 1 + strength * random.standard_normal(len(frames)))


def flash_frame(frames: Frames, strength: float, _: np.random.Generator | None = None) -> Frames:
    """One frame of so many times the light."""
    gains = np.ones(len(frames))
    gains[_middle(frames)] = strength
    return _lit(frames, gains)


def black_frame(frames: Frames, strength: float, _: np.random.Generator | None = None) -> Frames:
    """One frame of this share of the light."""
    return flash_frame(frames, strength)


def black_end(frames: Frames, strength: float, _: np.random.Generator | None = None) -> Frames:
    """This share of the clip, up to its end, is black."""
    made = frames.copy()
    made[round((1 - strength) * len(frames)) :] = 0
    return made


def flashing(frames: Frames, strength: float, _: np.random.Generator | None = None) -> Frames:
    """A grey square whose relative luminance goes up by so much and comes down again, twelve times a second."""
    low = int(_coded(0.2))
    high = next((code for code in range(low, 256) if _linear(code) >= _linear(low) + strength), 255)
    return _alternating(frames, (low, low, low), (high, high, high))


def flashing_red(frames: Frames, strength: float, _: np.random.Generator | None = None) -> Frames:
    """A square that is red and turns greener by so much, in CIE 1976 u'v', at the same luminance, likewise."""
    greens = np.linspace(0, 1, 500)
    colours = _coded(np.stack([1 - greens, greens * XYZ[1, 0] / XYZ[1, 1], np.zeros(500)], axis=1)).tolist()
    far = (colour for colour in colours if np.hypot(*(_uv(colour) - _uv(colours[0]))) >= strength)
    return _alternating(frames, colours[0], next(far, colours[-1]))


def frozen(frames: Frames, strength: float, _: np.random.Generator | None = None) -> Frames:
    """So many frames are the one before them."""
    made, at = frames.copy(), _middle(frames)
    made[at : at + int(strength)] = made[at - 1]
    return made


def repeated(frames: Frames, strength: float, _: np.random.Generator | None = None) -> Frames:
    """So many times every second frame is the one before it."""
    made, at = frames.copy(), _middle(frames)
    last = at + 2 * int(strength)
    made[at:last:2] = made[at - 1 : last - 1 : 2][: len(made[at:last:2])]
    return made


def jump(frames: Frames, strength: float, _: np.random.Generator | None = None) -> Frames:
    """So many frames are left out: there are fewer afterwards."""
    at = _middle(frames)
    return np.delete(frames, np.s_[at : at + int(strength)], axis=0)


def warp(frames: Frames, strength: float, random: np.random.Generator) -> Frames:
    """Every place in every frame is off by so many pixels (RMS) in a way of its own, smoothly."""
    height, width = frames.shape[1:3]
    made = [
        _displaced(frame, _pixels(strength, frame) * _smooth(random, height, width, max(height, width) / 16))
        for frame in frames
    ]
    return np.stack(made)


def boil(frames: Frames, strength: float, random: np.random.Generator) -> Frames:
    """Grain of two to four pixels, drawn anew in every frame: this share of the contrast that there is about it."""
    height, width = frames.shape[1:3]
    near, grain_size = 2 * round(_pixels(16, frames[0])) + 1, _pixels(1.2, frames[0])
    made = []
    for frame in frames:
        luma = np.asarray(cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY), np.float32)
        mean, square = (np.asarray(cv2.blur(each, (near, near)), np.float32) for each in (luma, luma * luma))
        contrast = np.sqrt(np.maximum(square - mean * mean, 0))
        grain = np.float32(strength) * contrast * _smooth(random, height, width, grain_size)[..., 0]
        made.append(np.asarray(cv2.add(frame, cv2.merge([grain] * 3), dtype=cv2.CV_8U), np.uint8))
    return np.stack(made)


def ghost(frames: Frames, strength: float, _: np.random.Generator | None = None) -> Frames:
    """This share of every frame is the one of ``LAG`` frames ago."""
    late = np.maximum(np.arange(len(frames)) - LAG, 0)
    return np.stack([
        np.asarray(cv2.addWeighted(frame, 1 - strength, frames[before], strength, 0), np.uint8)
        for frame, before in zip(frames, late, strict=True)
    ])  # fmt: skip


def morph(frames: Frames, strength: float, _: np.random.Generator | None = None) -> Frames:
    """The middle of the picture, a fifth of it, wanders off by so many pixels until the last frame."""
    height, width = frames.shape[1:3]
    y, x = np.mgrid[:height, :width]
    radius = min(height, width) / 5
    blob = np.exp(-((x - width / 2) ** 2 + (y - height / 2) ** 2) / (2 * (radius / 1.5) ** 2)).astype(np.float32)
    way = np.array([0.8, 0.6], np.float32)
    return np.stack([
        _displaced(frame, _pixels(strength, frame) * share * blob[..., None] * way)
        for frame, share in zip(frames, np.linspace(0, 1, len(frames)), strict=True)
    ])  # fmt: skip


def colour_drift(frames: Frames, strength: float, _: np.random.Generator | None = None) -> Frames:
    """Red light grows until the last frame by this share."""
    gains = np.ones((len(frames), 3))
    gains[:, 0] = np.linspace(1, 1 + strength, len(frames))
    return _lit(frames, gains)


def brightness_drift(frames: Frames, strength: float, _: np.random.Generator | None = None) -> Frames:
    """Light fades until the last frame by this share."""
    return _lit(frames, np.linspace(1, 1 - strength, len(frames)))


def no_numbers(frames: Frames, strength: float, _: np.random.Generator | None = None) -> NDArray[np.float32]:
    """So many values of the first frame are NaN."""
    made = frames[:2].astype(np.float32)
    made.reshape(-1)[: int(strength)] = np.nan
    return made


def more_channels(frames: Frames, strength: float, _: np.random.Generator | None = None) -> Frames:
    """So many channels too many."""
    return np.concatenate([frames, frames[..., : int(strength)]], axis=3)


@dataclass(frozen=True)
class Fault:
    """A fault at several strengths."""

    plant: Callable[[Frames, float, np.random.Generator], NDArray[Any]]
    strengths: tuple[float, ...]
    """From barely visible to gross."""
    unit: str
    codes: tuple[str, ...]
    """What finds it: a clip that is flagged by another name is not found."""

    @property
    def name(self) -> str:
        return self.plant.__name__.replace("_", " ")


FAULTS = (
    Fault(flashing, (0.1, 0.2, 0.5), "of white", ("photosensitive_luminance",)),
    Fault(flashing_red, (0.2, 0.25, 0.3), "in u'v'", ("photosensitive_red",)),
    Fault(flicker, (0.005, 0.01, 0.02, 0.05), "of the light", ("flicker", "flash_frame")),
    Fault(flash_frame, (1.5, 2, 3, 6), "times the light", ("flash_frame", "cut")),
    Fault(black_frame, (0.7, 0.4, 0.2, 0), "of the light", ("flash_frame", "black_frames")),
    Fault(black_end, (0.04, 1), "of the clip", ("black_frames",)),
    Fault(frozen, (1, 2, 3, 6), "frames", ("frozen_frames", "repeated_frames", "jump")),
    Fault(repeated, (1, 2, 3, 6), "frames", ("repeated_frames", "jump")),
    Fault(jump, (1, 2, 4), "frames", ("jump",)),
    Fault(warp, (0.25, 0.5, 1, 2), "px", ("warp",)),
    Fault(boil, (0.1, 0.2, 0.4, 0.8), "of the contrast", ("texture_boil",)),
    Fault(ghost, (0.05, 0.1, 0.2, 0.4), "of the light", ("ghosting",)),
    Fault(morph, (1, 2, 4, 8), "px", ("local_morph",)),
    Fault(colour_drift, (0.03, 0.06, 0.2, 0.4), "of the light", ("colour_drift",)),
    Fault(brightness_drift, (0.03, 0.06, 0.2, 0.4), "of the light", ("brightness_drift",)),
    Fault(no_numbers, (1,), "values", ("not_finite",)),
    Fault(more_channels, (1,), "channels", ("frame_format",)),
)


def _middle(frames: Frames) -> int:
    return max(1, round(MIDDLE * len(frames)))


def _pixels(strength: float, frame: NDArray[np.uint8]) -> float:
    """Pixels of this frame that are so many of one with a longer side of ``FULL_SIDE``."""
    height, width = frame.shape[:2]
    return strength * float(max(height, width)) / FULL_SIDE


def _lit(frames: Frames, gains: NDArray[np.floating]) -> Frames:
    """Every frame with its light times its gain, or the gains of its channels; as sRGB has it, nearly."""
    codes = np.arange(256) / 255
    made = np.empty_like(frames)
    for frame, gain, out in zip(frames, gains, made, strict=True):
        table = 255 * np.minimum(1, codes[:, None] * np.maximum(gain, 0) ** (1 / 2.2))
        cv2.LUT(frame, np.rint(np.broadcast_to(table, (256, 3))).astype(np.uint8)[None], out)
    return made


def _linear(code: Any) -> Any:
    """Of sRGB codes, the linear light, 0..1."""
    share = np.asarray(code) / 255
    return np.where(share <= 0.04045, share / 12.92, ((share + 0.055) / 1.055) ** 2.4)


def _coded(light: Any) -> Any:
    """The sRGB codes that are nearest to the linear light."""
    light = np.asarray(light)
    share = np.where(light <= 0.0031308, light * 12.92, 1.055 * np.maximum(light, 0) ** (1 / 2.4) - 0.055)
    return np.rint(255 * share).astype(int)


def _uv(colour: Sequence[int]) -> NDArray[np.float64]:
    """u' and v' of CIE 1976."""
    x, y, z = XYZ @ _linear(colour)
    return np.asarray(np.array([4 * x, 9 * y]) / (x + 15 * y + 3 * z), np.float64)


def _alternating(frames: Frames, one: Sequence[int], other: Sequence[int]) -> Frames:
    """A square in the middle that shows one colour and the other in turn."""
    made = frames.copy()
    height, width = frames.shape[1:3]
    side = round(PATCH * max(height, width))
    top, left = (height - side) // 2, (width - side) // 2
    for number, frame in enumerate(made):
        frame[top : top + side, left : left + side] = (one, other)[number // HELD % 2]
    return made


def _smooth(random: np.random.Generator, height: int, width: int, sigma: float) -> NDArray[np.float32]:
    """Two fields of unit deviation, ``(H, W, 2)``, that vary over so many pixels."""
    step = max(1, int(sigma / 2))
    size = -(-height // step) + 1, -(-width // step) + 1, 2
    field = cv2.GaussianBlur(random.standard_normal(size, np.float32), (0, 0), sigma / step)
    field = np.asarray(cv2.resize(field, (width, height), interpolation=cv2.INTER_CUBIC), np.float32)
    return np.asarray(field / field.std(), np.float32)


def _displaced(frame: NDArray[np.uint8], by: NDArray[np.float32]) -> NDArray[np.uint8]:
    height, width = frame.shape[:2]
    x, y = np.meshgrid(np.arange(width, dtype=np.float32), np.arange(height, dtype=np.float32))
    places = (np.stack([x, y], axis=-1) - by).astype(np.float32)
    moved = cv2.remap(frame, places, None, cv2.INTER_CUBIC, borderMode=cv2.BORDER_REFLECT)  # type: ignore[call-overload]  # one map
    return np.asarray(moved, np.uint8)


@dataclass(frozen=True)
class Clip:
    """A filmed still."""

    keyframe: NDArray[np.uint8]
    views: Sequence[Rect]
    frames: Frames

    @property
    def size(self) -> Size:
        return self.frames.shape[2], self.frames.shape[1]


PACES = ((Easing.ease_in_out, 1.0), (Easing.linear, 1.0), (Easing.ease_out, 0.5))
"""Easings, and the share of the speed limit that their fastest moment has."""
MOVES: Mapping[str, Callable[[float], tuple[Rect, Rect]]] = {
    "zoom in": lambda by: (Rect(0.1, 0.1, 0.9, 0.9), Rect(0.1 + by / 2, 0.1 + by / 2, 0.9 - by / 2, 0.9 - by / 2)),
    "pan": lambda by: (Rect(0.1, 0.1, 0.7, 0.7), Rect(0.1 + by, 0.1, 0.7 + by, 0.7)),
    "zoom out": lambda by: (Rect(0.1 + by / 2, 0.1 + by / 2, 0.9 - by / 2, 0.9 - by / 2), Rect(0.1, 0.1, 0.9, 0.9)),
    "pan and zoom": lambda by: (Rect(0.05, 0.1, 0.75, 0.8), Rect(0.05 + by, 0.15 + by / 3, 0.7 + by, 0.8 + by / 3)),
}
"""By how much of the picture they go, 0.3 at most."""


def film(keyframe: NDArray[np.uint8], move: str, easing: Easing, share: float, size: Size) -> Clip:
    """A move whose fastest moment is ``share`` of the speed limit."""
    seconds = FRAMES / FPS
    image = keyframe.shape[1], keyframe.shape[0]
    low, high = 0.0, 0.3
    views: list[Rect] = []
    for _ in range(12):  # the distance that has the speed, halving
        by = (low + high) / 2
        ends = [fit(rect, image, size) for rect in MOVES[move](by)]
        views = list(CameraPath(ends[0], ends[1], easing).views(FRAMES))
        low, high = (by, high) if _speed(views) * FRAMES / seconds < share * SPEED else (low, by)
    frames = np.empty((FRAMES, size[1], size[0], 3), np.uint8)
    shoot(keyframe, views, frames, threads=1)
    return Clip(keyframe, views, frames)


def _speed(views: Sequence[Rect]) -> float:
    """The furthest that any corner goes in one frame, in widths or heights of the view."""
    return max(
        max(
            max(abs(now.x1 - was.x1), abs(now.x2 - was.x2)) / was.width,
            max(abs(now.y1 - was.y1), abs(now.y2 - was.y2)) / was.height,
        )
        for was, now in pairwise(views)
    )
