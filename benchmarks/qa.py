"""The whole of QA on a file, as ``dropreel qa`` does it, against ffmpeg's own filters on the same file.

Ours decodes the file, screens it for flashes and runs every inspector; theirs decodes it and runs
``photosensitivity``, ``freezedetect``, ``blackdetect`` and ``signalstats``. Both use all cores; VMAF is not counted.
The file is a still under the design's example move, 576×1024 at 30 fps, as H.264, or the one that is named.

    python -m benchmarks.qa [FILE] [--seconds N] [--repeats N]
"""

from __future__ import annotations

import argparse
import subprocess
import tempfile
import time
from pathlib import Path
from statistics import median

import numpy as np

from benchmarks.encode import FPS, MOVE, SIZE, drawn
from benchmarks.rows import Row, table
from core.camera import Camera
from core.encode.command import ffmpeg_program
from core.footage import Footage
from core.qa.planned import Planned
from core.qa.thresholds import QaThresholds
from core.qa.verdict import judge

FILTERS = "photosensitivity=bypass=1,freezedetect,blackdetect,signalstats"
REAL_TIME = 5 * FPS
"""Frames a second that the studio asks for."""


def run(file: Path | None = None, seconds: float = 8.0, repeats: int = 3) -> list[Row]:
    """Both sides in turn, medians of ``repeats``."""
    with tempfile.TemporaryDirectory() as folder:
        file = file or _film(Path(folder, "clip.mp4"), seconds)
        taken: dict[str, list[float]] = {"ours": [], "theirs": []}
        for turn in range(repeats):
            for side in (("ours", "theirs"), ("theirs", "ours"))[turn % 2]:
                began = time.perf_counter()
                if side == "ours":
                    frames = _ours(file)
                else:
                    _theirs(file)
                taken[side].append(time.perf_counter() - began)
    rates = frames / median(taken["ours"]), frames / median(taken["theirs"])
    return [
        Row("frames a second that QA takes in, against ffmpeg's filters", *rates, rates[0] / rates[1], 1.0),
        Row("the same, against five times real time", rates[0], REAL_TIME, rates[0] / REAL_TIME, 1.0),
    ]


def _ours(file: Path) -> int:
    with Footage(file) as footage:
        report = judge(footage, footage.fps, Planned(), QaThresholds())
    return int(report.measures["frames"] or 0)


def _theirs(file: Path) -> None:
    words = ["-v", "error", "-nostdin", "-i", str(file), "-vf", FILTERS, "-f", "null", "-"]
    subprocess.run([ffmpeg_program(), *words], check=True)


def _film(file: Path, seconds: float) -> Path:
    pixels = np.asarray(drawn().convert("RGB"))
    views = list(MOVE.fitted((pixels.shape[1], pixels.shape[0]), SIZE).views(round(seconds * FPS)))
    camera = Camera(pixels, SIZE, views)
    raw = ["-f", "rawvideo", "-pix_fmt", "rgb24", "-s", f"{SIZE[0]}x{SIZE[1]}", "-r", str(FPS), "-i", "-"]
    coded = ["-c:v", "libx264", "-preset", "veryfast", "-crf", "18", "-pix_fmt", "yuv420p", str(file)]
    with subprocess.Popen([ffmpeg_program(), "-v", "error", *raw, *coded], stdin=subprocess.PIPE) as child:
        assert child.stdin is not None
        for view in views:
            child.stdin.write(camera.render(view).tobytes())
    return file


def main() -> None:
    """Print the rows."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", type=Path, nargs="?")
    parser.add_argument("--seconds", type=float, default=8.0)
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    print(table(run(options.file, options.seconds, options.repeats)))


if __name__ == "__main__":
    main()
