"""Planted faults: which of them QA finds, at strengths from barely visible to gross, and how often it cries wolf.

Each still is filmed and the fault put into its frames, which QA then judges twice: knowing the camera's path, as of a
clip of the ``camera`` preset, and knowing nothing, as of any file. Flagged is flagged, by whatever name. The thresholds
were set on every second still of the folder, ``--half set``; the table is of the others. Clean clips are camera moves
of every kind up to the speed limit. Clips of one still are not independent: the intervals are right for these clips,
and too narrow for stills at large.

    python -m benchmarks.faults --keyframes FOLDER [--half set|table] [--clean N]
"""

from __future__ import annotations

import argparse
import math
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, pairwise
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from benchmarks.rows import Row
from core import process
from core.camera import shoot
from core.encode.command import ffmpeg_program
from core.image import open_image
from core.limits import ImageLimits
from core.motion import CameraPath, Easing, Rect, Size, fit
from core.qa.planned import Planned
from core.qa.thresholds import QaThresholds
from core.qa.verdict import judge
from core.work import unwatched

Frames = NDArray[np.uint8]
"""``(T, H, W, 3)``."""

SIZE: Size = (256, 144)
"""Of the clips, small so that the table is made in minutes. QA looks at movement in pictures of about this size
whatever the clip's; strengths in pixels are those of a clip whose longer side is ``FULL_SIDE``."""
FULL_SIDE = 1024
FPS, FRAMES = 24, 36
FOLDER = Path(__file__).parents[2] / "shared" / "keyframes"
CLEAN = 60
"""Clean clips. None flagged of 59 is less than 5 % with a confidence of 95 %."""
SPEED = 0.2
"""Widths or heights a second: the fastest that any point moves on screen, the limit of the motion rules."""
MIDDLE = 0.4
"""Where in the clip a fault that lasts for a moment begins, of its frames."""
LAG = 5
"""Frames by which the echo of a ghost is late."""


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


def frozen(frames: Frames, strength: float, _: np.random.Generator | None = None) -> Frames:
    """So many frames are the one before them."""
    made, at = frames.copy(), _middle(frames)
    made[at : at + int(strength)] = made[at - 1]
    return made


def repeated(frames: Frames, strength: float, _: np.random.Generator | None = None) -> Frames:
    """So many times every second frame is the one before it."""
    made, at = frames.copy(), _middle(frames)
    last = at + 2 * int(strength)
    made[at:last:2] = made[at - 1 : last - 1 : 2]
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
    made = []
    for frame in frames:
        luma = cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY).astype(np.float32)
        mean = cv2.GaussianBlur(luma, (0, 0), 4)
        contrast = np.sqrt(np.maximum(cv2.GaussianBlur(luma * luma, (0, 0), 4) - mean * mean, 0))
        grain = strength * contrast * _smooth(random, height, width, 1.2)[..., 0]
        made.append((frame + grain[..., None]).clip(0, 255).astype(np.uint8))
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


@dataclass(frozen=True)
class Fault:
    """A fault at several strengths."""

    plant: Callable[[Frames, float, np.random.Generator], Frames]
    strengths: tuple[float, ...]
    """From barely visible to gross."""
    unit: str
    codes: tuple[str, ...]
    """What finds it."""

    @property
    def name(self) -> str:
        return self.plant.__name__.replace("_", " ")


FAULTS = (
    Fault(flicker, (0.005, 0.01, 0.02, 0.05, 0.1), "of the light", ("flicker", "flash_frame")),
    Fault(flash_frame, (1.2, 1.5, 2, 3, 6), "times the light", ("flash_frame", "cut")),
    Fault(black_frame, (0.7, 0.4, 0.2, 0.05, 0.0), "of the light", ("flash_frame", "black_frames")),
    Fault(frozen, (1, 2, 3, 6, 10), "frames", ("frozen_frames", "repeated_frames", "jump")),
    Fault(repeated, (1, 2, 3, 6, 10), "frames", ("repeated_frames",)),
    Fault(jump, (1, 2, 4, 8, 12), "frames", ("jump",)),
    Fault(warp, (0.25, 0.5, 1, 2, 4), "px", ("warp",)),
    Fault(boil, (0.05, 0.1, 0.2, 0.4, 0.8), "of the contrast", ("texture_boil",)),
    Fault(ghost, (0.05, 0.1, 0.2, 0.35, 0.5), "of the light", ("ghosting",)),
    Fault(morph, (1, 2, 4, 8, 16), "px", ("local_morph",)),
    Fault(colour_drift, (0.03, 0.06, 0.1, 0.2, 0.4), "of the light", ("colour_drift",)),
    Fault(brightness_drift, (0.03, 0.06, 0.1, 0.2, 0.4), "of the light", ("brightness_drift",)),
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


PACES = ((Easing.ease_in_out, 1.0), (Easing.linear, 1.0), (Easing.ease_out, 0.5))
"""Easings, and the share of the speed limit that their fastest moment has."""
MOVES: Mapping[str, Callable[[float], tuple[Rect, Rect]]] = {
    "zoom in": lambda by: (Rect(0.1, 0.1, 0.9, 0.9), Rect(0.1 + by / 2, 0.1 + by / 2, 0.9 - by / 2, 0.9 - by / 2)),
    "pan": lambda by: (Rect(0.1, 0.1, 0.7, 0.7), Rect(0.1 + by, 0.1, 0.7 + by, 0.7)),
    "zoom out": lambda by: (Rect(0.1 + by / 2, 0.1 + by / 2, 0.9 - by / 2, 0.9 - by / 2), Rect(0.1, 0.1, 0.9, 0.9)),
    "pan and zoom": lambda by: (Rect(0.05, 0.1, 0.75, 0.8), Rect(0.05 + by, 0.15 + by / 3, 0.7 + by, 0.8 + by / 3)),
}
"""By how much of the picture they go, 0.3 at most."""


def film(keyframe: NDArray[np.uint8], move: str, easing: Easing, share: float, size: Size = SIZE) -> Clip:
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


@dataclass(frozen=True)
class Judged:
    """What QA said of one clip, by what it knew."""

    fault: str
    strength: float
    knew: str
    codes: list[str]


def stills(folder: Path, half: str) -> list[NDArray[np.uint8]]:
    """Every second picture of a folder, by name: those on which thresholds are ``set``, or those of the ``table``."""
    files = sorted(file for file in folder.iterdir() if file.suffix in {".png", ".jpg"})
    return [open_image(file, ImageLimits()) for file in files[half == "table" :: 2]]


def planted(keyframes: Sequence[NDArray[np.uint8]]) -> Iterator[Judged]:
    """Every fault at every strength, over a move of each still."""
    random = np.random.default_rng(0)
    for number, keyframe in enumerate(keyframes):
        clip = film(keyframe, list(MOVES)[number % len(MOVES)], Easing.ease_in_out, 0.8)
        for fault in FAULTS:
            for strength in fault.strengths:
                yield from judged(clip, fault.plant(clip.frames, strength, random), fault.name, strength)


CODING = (("libx264", 23), ("libx265", 26))
"""Codecs and their CRF."""


def clean(
    keyframes: Sequence[NDArray[np.uint8]], count: int, coding: Sequence[tuple[str, int]] = CODING
) -> Iterator[Judged]:
    """Clean moves up to the speed limit, so many, and one of each still after each codec."""
    kinds = [(move, easing, share) for easing, share in PACES for move in MOVES]
    for number in range(count):
        move, easing, share = kinds[number // len(keyframes) % len(kinds)]
        clip = film(keyframes[number % len(keyframes)], move, easing, share)
        yield from judged(clip, clip.frames, "clean", share)
    for number, keyframe in enumerate(keyframes):
        clip = film(keyframe, list(MOVES)[number % len(MOVES)], Easing.ease_in_out, 1)
        for codec, crf in coding:
            yield from judged(clip, coded(clip.frames, codec, crf), "clean, coded", crf, knows=False)


def judged(clip: Clip, frames: Frames, fault: str, strength: float, *, knows: bool = True) -> Iterator[Judged]:
    """What QA says of frames, knowing the plan and knowing nothing. That some are missing does not count."""
    size = frames.shape[2], frames.shape[1]
    plans = {"plan": Planned.of(clip.keyframe, clip.views, size)} if knows else {}
    for knew, planned in (plans | {"nothing": Planned()}).items():
        report = judge(frames, FPS, planned, QaThresholds())
        yield Judged(fault, strength, knew, [found.code for found in report.reasons if found.code != "frame_count"])


def coded(frames: Frames, codec: str, crf: int) -> Frames:
    """The frames after a codec."""
    height, width = frames.shape[1:3]
    with tempfile.TemporaryDirectory() as folder:
        raw, made, back = (Path(folder) / name for name in ("raw", "made.mp4", "back"))
        frames.tofile(raw)
        form = ["-f", "rawvideo", "-pix_fmt", "rgb24"]
        base = [ffmpeg_program(), "-nostdin", "-loglevel", "error"]
        process.run([*base, *form, "-s", f"{width}x{height}", "-r", str(FPS), "-i", str(raw), "-c:v", codec, "-crf",
                     str(crf), "-pix_fmt", "yuv420p", "-threads", "1", str(made)], unwatched, limit=60.0)  # fmt: skip
        process.run([*base, "-i", str(made), *form, str(back)], unwatched, limit=60.0)
        return np.fromfile(back, np.uint8).reshape(-1, height, width, 3)


def wilson(hits: int, of: int) -> tuple[float, float]:
    """The 95 % interval of a share (Wilson 1927)."""
    z, share = 1.96, hits / of
    middle, half = share + z * z / (2 * of), z * math.sqrt(share * (1 - share) / of + z * z / (4 * of * of))
    return max(0.0, (middle - half) / (1 + z * z / of)), min(1.0, (middle + half) / (1 + z * z / of))


def markdown(found: Iterable[Judged]) -> str:
    """How many clips were flagged, by fault, strength and what was known, with intervals."""
    counts: dict[tuple[str, str], dict[str, list[Judged]]] = {}
    units = {fault.name: fault.unit for fault in FAULTS}
    for each in found:
        strength = f"{each.strength:g} {units[each.fault]}" if each.fault in units else ""
        counts.setdefault((each.fault, strength), {}).setdefault(each.knew, []).append(each)
    lines = ["| fault | strength | knowing the plan | knowing nothing |", "| --- | --- | --- | --- |"]
    for (fault, strength), by in counts.items():
        lines.append(f"| {fault} | {strength} | {_rate(by.get('plan', []))} | {_rate(by.get('nothing', []))} |")
    return "\n".join(lines)


def _rate(clips: Sequence[Judged]) -> str:
    if not clips:
        return ""
    hits = sum(bool(clip.codes) for clip in clips)
    low, high = wilson(hits, len(clips))
    return f"{hits} of {len(clips)} ({low:.0%} to {high:.0%})"


def run(folder: Path = FOLDER, count: int = CLEAN) -> list[Row]:
    """How many clips with a fault are flagged, beside how many without one, in percent; nothing without stills."""
    if not folder.is_dir():
        return []
    keyframes = stills(folder, "table")
    found, without = list(planted(keyframes)), list(clean(keyframes, count))
    print(markdown([*found, *without]), file=sys.stderr)

    def share(clips: Sequence[Judged]) -> float:
        return 100 * sum(bool(clip.codes) for clip in clips) / len(clips)

    rows = []
    for knew in ("plan", "nothing"):
        ours = share([clip for clip in found if clip.knew == knew])
        theirs = share([clip for clip in without if clip.knew == knew])
        rows.append(Row(f"flagged knowing {knew}: planted faults, clean clips, %", ours, theirs,
                        ours / theirs if theirs else math.inf))  # fmt: skip
    return rows


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--keyframes", type=Path, default=FOLDER)
    parser.add_argument("--half", choices=("set", "table"), default="table")
    parser.add_argument("--clean", type=int, default=CLEAN)
    given = parser.parse_args()
    keyframes = stills(given.keyframes, given.half)
    found: list[Judged] = []
    for each in chain(clean(keyframes, given.clean), planted(keyframes)):
        found.append(each)
        if each.codes and each.fault.startswith("clean"):
            print(each, file=sys.stderr, flush=True)
    print(markdown(found))


if __name__ == "__main__":
    main()
