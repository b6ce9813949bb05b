"""The camera against ffmpeg's ``zoompan``: frames a second, and the largest error of the path in pixels.

The error is read from the pixels: the scene has two cosines of known phase, one along each axis; a frame shows
the view that explains its phases best. The opponent is given the same path as expressions, rounding where it would
truncate, in a planar format (in 4:2:0 it would go by even pixels); and again with the usual cure for its jitter, a
picture enlarged four times beforehand.

    python -m benchmarks.camera [--frames N] [--repeats N]
"""

from __future__ import annotations

import argparse
import os
import subprocess
import tempfile
import time
from collections.abc import Iterable
from pathlib import Path
from statistics import median

import imageio_ffmpeg
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from benchmarks.rows import Row, table
from core.camera import shoot
from core.motion import CameraPath, Rect, Size

CYCLES = 12
"""Periods of the scene along each axis: even in the closest view a period is far longer than any error."""
MOVE = CameraPath(Rect(0.1, 0.1, 0.9, 0.9), Rect(0.3, 0.22, 0.7, 0.62))
"""The design's example, ending off the centre, so that no symmetry hides an error."""
SIZES: tuple[tuple[Size, Size], ...] = (((864, 1536), (576, 1024)), ((1536, 864), (1024, 576)))
"""(picture, output); both of one shape, since ``zoompan`` cannot crop to another."""


def scene(size: Size) -> NDArray[np.uint8]:
    """A grey RGB picture, (H, W, 3): 128 + 40 cos(2 pi CYCLES x) + 40 cos(2 pi CYCLES y), x and y in 0..1, and texture.

    The texture is a diagonal grating, 5 by 7 pixels a period, which averages out along either axis. Without it,
    shifts of a few hundredths of a pixel would drown in the rounding to 8 bits, as in a picture of nothing.
    """
    width, height = size
    x, y = np.arange(width) + 0.5, (np.arange(height) + 0.5)[:, None]
    waves = np.cos(2 * np.pi * CYCLES * x / width) + np.cos(2 * np.pi * CYCLES * y / height)
    grey = np.rint(128 + 40 * (waves + np.cos(2 * np.pi * (x / 5 + y / 7)))).astype(np.uint8)
    return np.repeat(grey[:, :, None], 3, axis=2)


def seen(frame: NDArray[np.uint8], near: Rect) -> Rect:
    """The view of ``scene`` that a frame shows, from its pixels; ``near`` is within half a period of it.

    The mean over the rows is the pattern along x alone, and the other way round. Each is fitted by least squares,
    for its level, its amplitude and both edges, so that neither blur nor gain counts.
    """
    grey = frame[:, :, 1].astype(np.float64)
    x1, x2 = _edges(grey.mean(axis=0), near.x1, near.x2)
    y1, y2 = _edges(grey.mean(axis=1), near.y1, near.y2)
    return Rect(x1, y1, x2, y2)


def _edges(signal: NDArray[np.float64], first: float, last: float) -> tuple[float, float]:
    place = (np.arange(len(signal)) + 0.5) / len(signal)
    amplitude = 40.0
    for _ in range(4):
        phase = 2 * np.pi * CYCLES * (first + (last - first) * place)
        slope = -amplitude * 2 * np.pi * CYCLES * np.sin(phase)
        columns = np.stack([np.ones_like(place), np.cos(phase), slope * (1 - place), slope * place], axis=1)
        step = np.linalg.lstsq(columns, signal - amplitude * np.cos(phase), rcond=None)[0]
        amplitude, first, last = amplitude + step[1], first + step[2], last + step[3]
    return first, last


def error(frame: NDArray[np.uint8], view: Rect) -> float:
    """How far the worst edge of a frame is from where ``view`` puts it, in pixels of the frame."""
    height, width = frame.shape[:2]
    off = np.subtract(seen(frame, view), view) / (view.width, view.height, view.width, view.height)
    return float(np.abs(off * (width, height, width, height)).max())


def path_error(frames: Iterable[NDArray[np.uint8]], views: Iterable[Rect]) -> float:
    """The largest error of all frames, in pixels."""
    return max(error(frame, view) for frame, view in zip(frames, views, strict=True))


class Zoompan:
    """ffmpeg's zoompan, given a picture and a path over it."""

    def __init__(self, picture: Path, path: CameraPath, size: Size, enlarge: int = 1) -> None:
        self.picture, self.path, self.size, self.enlarge = picture, path, size, enlarge

    def command(self, frames: int, shown: int, out: str) -> list[str]:
        """The argument list that writes the first ``shown`` of ``frames`` frames as raw RGB."""
        start, end = self.path.start, self.path.end
        eased = f"st(0,on/{frames - 1});st(1,ld(0)*ld(0)*(3-2*ld(0)));"
        zoom = end.width / start.width
        blend = f"(1-pow({zoom!r},ld(1)))/({1 - zoom!r})"
        options = {  # zoompan truncates; the halves make that rounding
            "z": f"{eased}1/({start.width!r}*pow({zoom!r},ld(1))+0.5/max(iw,ih))",
            "x": f"{eased}iw*({start.x1!r}+({end.x1 - start.x1!r})*{blend})+0.5",
            "y": f"{eased}ih*({start.y1!r}+({end.y1 - start.y1!r})*{blend})+0.5",
            "d": str(frames),
            "s": "{}x{}".format(*self.size),
        }
        zoompan = "zoompan=" + ":".join(f"{key}='{value}'" for key, value in options.items())
        enlarge = f"scale=iw*{self.enlarge}:ih*{self.enlarge}:flags=lanczos," if self.enlarge > 1 else ""
        ffmpeg = [imageio_ffmpeg.get_ffmpeg_exe(), "-v", "error", "-y", "-i", str(self.picture)]
        graph = ["-vf", f"format=gbrp,{enlarge}{zoompan}", "-frames:v", str(shown)]
        return [*ffmpeg, *graph, "-f", "rawvideo", "-pix_fmt", "rgb24", out]

    def frames(self, frames: int) -> NDArray[np.uint8]:
        """All frames, (T, H, W, 3)."""
        raw = subprocess.run(self.command(frames, frames, "pipe:1"), check=True, stdout=subprocess.PIPE).stdout
        return np.frombuffer(raw, np.uint8).reshape(-1, self.size[1], self.size[0], 3)

    def seconds(self, frames: int) -> float:
        """The time that the frames take, written to nowhere, less that of starting, reading and enlarging."""
        return self._run(frames, frames) - self._run(frames, 1)

    def _run(self, frames: int, shown: int) -> float:
        began = time.perf_counter()
        subprocess.run(self.command(frames, shown, os.devnull), check=True)
        return time.perf_counter() - began


def run(frames: int = 120, repeats: int = 5) -> list[Row]:
    """Both sides interleaved, medians of ``repeats``; errors are the largest of all frames."""
    rows: list[Row] = []
    for picture_size, size in SIZES:
        pixels = scene(picture_size)
        path = MOVE.fitted(picture_size, size)
        views = list(path.views(frames))
        ours = np.zeros((frames, size[1], size[0], 3), np.uint8)
        with tempfile.TemporaryDirectory() as folder:
            picture = Path(folder, "scene.png")
            Image.fromarray(pixels).save(picture)
            plain, enlarged = Zoompan(picture, path, size), Zoompan(picture, path, size, enlarge=4)
            times: list[tuple[float, float, float]] = []
            for _ in range(repeats):
                began = time.perf_counter()
                shoot(pixels, views, ours)
                times.append((time.perf_counter() - began, plain.seconds(frames), enlarged.seconds(frames)))
            rates = [frames / median(column) for column in zip(*times, strict=True)]
            errors = [path_error(each, views) for each in (ours, plain.frames(frames), enlarged.frames(frames))]
        for number, opponent in ((1, "zoompan"), (2, "zoompan, picture enlarged 4 times first")):
            name = f"{size[0]}x{size[1]} against {opponent}"
            error_ratio, rate_ratio = errors[0] / errors[number], rates[0] / rates[number]
            rows.append(Row(f"path error, px (target: ours), {name}", errors[0], errors[number], error_ratio, 0.05))
            rows.append(Row(f"frames a second, {name}", rates[0], rates[number], rate_ratio))
    return rows


def main() -> None:
    """Print the rows."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--frames", type=int, default=120)
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()
    print(table(run(options.frames, options.repeats)))


if __name__ == "__main__":
    main()
