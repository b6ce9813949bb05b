"""How steady a clip is: whether each frame is the one before it, moved.

A camera that moves and things that move are no fault. What no motion explains is one: textures that boil, details that
come and go, brightness that flickers. So each frame is compared with the one before it after dense optical flow has
brought that one into its place, and only where the same thing is to be seen in both.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from core import process
from core.encode import mp4
from core.encode.command import ffmpeg_program
from core.fidelity import similarity
from core.work import Report, unwatched

Grey = NDArray[np.uint8]
"""``(H, W)``, 0..255."""

LONGER_SIDE = 512
"""Pixels to which frames are reduced: there the flow is reliable and quick, and what boils is still seen."""
OCCLUDED_MAX = 0.25
"""At most this share of a frame is left out as hidden in the other one. Where more of the flow contradicts itself,
nothing was hidden: the one frame is not to be found in the other, and that is what is to be measured."""
_CONTRADICTION = 0.01, 0.5
"""Of the squared flows, and pixels squared: how far there and back may miss. Sundaram, Brox and Keutzer 2010, "Dense
point trajectories by GPU-accelerated large displacement optical flow", equation 5."""
_LIMIT_SECONDS = 600.0


@dataclass(frozen=True)
class Steadiness:
    """How alike the consecutive frames of a clip are, their motion undone."""

    ssim: float
    """The mean over all pairs, -1..1; 1 where each frame is the one before it, moved."""
    worst: float
    """Of the pair that is least alike."""
    worst_frame: int
    """Its second frame, counted from 0."""
    pairs: int


def steadiness(frames: Iterable[Grey]) -> Steadiness:
    """Measure frames, ``(H, W)`` uint8 grey, all of one size of at least 16 pixels each way, in order.

    For each pair a, b: DIS flow both ways; a, brought to b's place along the flow from b to a; the map of structural
    similarity of the two (Wang et al. 2004, a Gaussian window of 11 pixels); its mean where b's pixels are not hidden
    in a. Hidden are those from which the flow f to a and g back misses by ``|f + g|² > 0.01 (|f|² + |g|²) + 0.5`` or
    leaves the frame, up to a quarter of the picture, the worst first. The clip's figure is the mean over its pairs.

    Raises ``ValueError`` for fewer than two frames.
    """
    dis = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)
    before: Grey | None = None
    found: list[float] = []
    for frame in frames:
        if before is not None:
            found.append(_pair(dis, before, frame))
        before = frame
    if not found:
        raise ValueError("Two frames at least are needed to see whether a clip is steady.")
    worst = int(np.argmin(found))
    return Steadiness(float(np.mean(found)), found[worst], worst + 1, len(found))


def steadiness_of(clip: Path, report: Report = unwatched) -> Steadiness:
    """Measure an MP4 file of ours, reduced to ``LONGER_SIDE``. Raises ``BrokenMp4``, ``ProcessFailed``."""
    movie = mp4.read(clip)
    width, height = _reduced(movie.size)
    with tempfile.TemporaryDirectory(prefix="dropreel-") as folder:
        raw = Path(folder) / "grey"
        argv = [ffmpeg_program(), "-nostdin", "-hide_banner", "-loglevel", "error", "-i", str(clip.absolute()),
                "-vf", f"scale={width}:{height}:flags=area,format=gray", "-fps_mode", "passthrough",
                "-f", "rawvideo", str(raw)]  # fmt: skip
        process.run(argv, report, limit=_LIMIT_SECONDS)
        frames = np.fromfile(raw, np.uint8).reshape(-1, height, width)
    return steadiness(_told(frames, report))


def _told(frames: Grey, report: Report) -> Iterable[Grey]:
    for number, frame in enumerate(frames):
        report(number / len(frames))
        yield frame


def _reduced(size: tuple[int, int]) -> tuple[int, int]:
    shrink = min(1.0, LONGER_SIDE / max(size))
    return max(16, round(size[0] * shrink)), max(16, round(size[1] * shrink))


def _pair(dis: cv2.DISOpticalFlow, a: Grey, b: Grey) -> float:
    """The mean structural similarity of b and a brought to its place, over what is to be seen in both."""
    height, width = b.shape
    x, y = np.meshgrid(np.arange(width, dtype=np.float32), np.arange(height, dtype=np.float32))
    back = np.asarray(dis.calc(b, a, None), np.float32)  # type: ignore[call-overload]  # no flow to begin with
    there = np.asarray(dis.calc(a, b, None), np.float32)  # type: ignore[call-overload]  # as above
    at_x, at_y = x + back[..., 0], y + back[..., 1]
    there = np.asarray(cv2.remap(there, at_x, at_y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE), np.float32)
    share, least = _CONTRADICTION
    squared = (back * back).sum(axis=2) + (there * there).sum(axis=2)
    misses = ((back + there) ** 2).sum(axis=2) - share * squared - least
    misses[(at_x < 0) | (at_y < 0) | (at_x > width - 1) | (at_y > height - 1)] = np.inf
    seen = misses <= max(0.0, float(np.quantile(misses, 1 - OCCLUDED_MAX)))
    moved = cv2.remap(a.astype(np.float32), at_x, at_y, cv2.INTER_CUBIC, borderMode=cv2.BORDER_REPLICATE)
    target = b.astype(np.float32)
    # What is hidden must not reach into the windows beside it: there the frame is compared with itself.
    similar = similarity(np.where(seen, np.asarray(moved, np.float32), target), target)
    return float(similar[seen].mean(dtype=np.float64))
