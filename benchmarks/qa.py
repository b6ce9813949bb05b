"""The whole of QA against ffmpeg's own filters on the same clip: of frames as the room judges them, and of a file.

Three times: the frames of a filmed still with its plan, which is what every clip of the ``camera`` preset goes through;
the same frames as a model's that was asked for the move, whose camera is looked for in the keyframe besides; and the
file, as ``dropreel qa`` judges it, knowing nothing. Theirs runs ``photosensitivity``, ``freezedetect``, ``blackdetect``
and ``signalstats`` over the same raw frames, or over the file. Both sides use all cores and decode what is coded; plans
are made within the time. VMAF is not counted. The clip is a still under the design's example move, 576×1024 at 30 fps.

    python -m benchmarks.qa [--seconds N] [--repeats N]
"""

from __future__ import annotations

import argparse
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.encode import FPS, MOVE, SIZE, drawn
from benchmarks.rows import Row, table
from core import frames
from core.camera import shoot
from core.encode.command import ffmpeg_program
from core.footage import Footage
from core.motion import FULL
from core.qa.planned import Planned
from core.qa.thresholds import QaThresholds
from core.qa.verdict import judge

FILTERS = "photosensitivity=bypass=1,freezedetect,blackdetect,signalstats"
REAL_TIME = 5 * FPS
"""Frames a second that the studio asks for."""
MADE: dict[str, Any] = {"camera": "endpoints", "view": list(FULL), "width": 864, "height": 1536, "path_flag": 0.05,
                        "first_frame": {"error": 0.5, "flag": 0.9}}  # fmt: skip
"""What ``generate`` records of a model's clip, as far as QA asks."""


def run(seconds: float = 8.0, repeats: int = 5) -> list[Row]:
    """All sides in turn, medians of ``repeats``."""
    count = round(seconds * FPS)
    keyframe = np.asarray(drawn().convert("RGB"))
    views = list(MOVE.fitted((keyframe.shape[1], keyframe.shape[0]), SIZE).views(count))
    with tempfile.TemporaryDirectory() as name:
        raw, file = Path(name, "frames.npy"), Path(name, "clip.mp4")
        with frames.create(raw, count, SIZE) as out:
            shoot(keyframe, views, out)
        clip = frames.open(raw)
        rawly = ["-f", "rawvideo", "-pix_fmt", "rgb24", "-s", f"{SIZE[0]}x{SIZE[1]}", "-r", str(FPS)]
        rawly += ["-skip_initial_bytes", str(raw.stat().st_size - clip.nbytes), "-i", str(raw)]
        _ffmpeg(*rawly, "-c:v", "libx264", "-preset", "veryfast", "-crf", "18", "-pix_fmt", "yuv420p", str(file))
        filters = "-vf", FILTERS, "-f", "null", "-"
        filmed, asked, of_file, raw_theirs, file_theirs = _rates(
            count,
            repeats,
            lambda: _judged(clip, Planned.of(keyframe, views, SIZE)),
            lambda: _judged(clip, Planned.of_model(keyframe, views, SIZE, MADE)),
            lambda: _judged_file(file),
            lambda: _ffmpeg(*rawly, *filters),
            lambda: _ffmpeg("-i", str(file), *filters),
        )
    return [
        Row("frames a second that QA takes in, of a filmed still with its plan, against ffmpeg's filters", filmed,
            raw_theirs, filmed / raw_theirs, 1.0),
        Row("the same, of a model's clip that was asked for a move", asked, raw_theirs, asked / raw_theirs, 1.0),
        Row("the same, of a file, which both decode", of_file, file_theirs, of_file / file_theirs, 1.0),
        Row("of the filmed still, against five times real time", filmed, REAL_TIME, filmed / REAL_TIME, 1.0),
        Row("of the model's clip, against five times real time", asked, REAL_TIME, asked / REAL_TIME, 1.0),
        Row("of the file, against five times real time", of_file, REAL_TIME, of_file / REAL_TIME, 1.0),
    ]  # fmt: skip


def _rates(count: int, repeats: int, *sides: Callable[[], None]) -> list[float]:
    """Frames a second of each side; every second time in the opposite order."""
    taken: list[list[float]] = [[] for _ in sides]
    for turn in range(repeats):
        for side, each in list(zip(sides, taken, strict=True))[:: 1 if turn % 2 == 0 else -1]:
            began = time.perf_counter()
            side()
            each.append(time.perf_counter() - began)
    return [count / median(each) for each in taken]


def _judged(clip: NDArray[np.uint8], planned: Planned) -> None:
    judge(clip, FPS, planned, QaThresholds())


def _judged_file(file: Path) -> None:
    with Footage(file) as footage:
        judge(footage, footage.fps, Planned(), QaThresholds())


def _ffmpeg(*words: str) -> None:
    subprocess.run([ffmpeg_program(), "-v", "error", "-nostdin", "-y", *words], check=True)


def main() -> None:
    """Print the rows."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=8.0)
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()
    print(table(run(options.seconds, options.repeats)))


if __name__ == "__main__":
    main()
