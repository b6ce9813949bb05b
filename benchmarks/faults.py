"""Planted faults: which of them QA finds, at strengths from barely visible to gross, and how often it cries wolf.

Each still is filmed as clips are delivered, 1024×576 or 576×1024, and the fault put into its frames. QA then judges
them three times: knowing that a still is filmed and along which path, as of a clip of the ``camera`` preset; knowing
the path alone, as of a model's clip that is filmed; and knowing nothing, as of any file. Ours is the share that is
found, a fault by a name that fits it; theirs the share of clean clips that are flagged by any name. The limits
leave room above the clean moves of all stills. Clean clips are camera moves of every kind up to the speed limit. Clips
of one still are not independent: intervals are right for these clips, and too narrow for stills at large.

    python -m benchmarks.faults --keyframes FOLDER [--half set|table] [--clean N] [--only clean|FAULT]
"""

from __future__ import annotations

import argparse
import math
import multiprocessing
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from benchmarks.planted import FAULTS, FPS, MOVES, PACES, TALL, WIDE, Clip, Frames, film
from benchmarks.rows import CannotRun, Row
from core import process
from core.encode.command import ffmpeg_program
from core.image import open_image
from core.limits import ImageLimits
from core.motion import FULL, Easing, Size
from core.qa.planned import Planned
from core.qa.thresholds import QaThresholds
from core.qa.verdict import judge
from core.report import wilson
from core.work import unwatched

FOLDER = Path(__file__).parents[2] / "shared" / "keyframes"
CLEAN = 84
"""Clean clips. None flagged of 74 is the fewest of which Wilson's interval ends below 5 %."""
CODING = (("libx264", 23), ("libx265", 26))
"""Codecs and their CRF."""
LIMIT = 300.0
"""Seconds for one run of a codec."""
PROCESSES = 2
KNEW = {"plan": "the plan", "path": "the path alone", "nothing": "nothing"}
"""What QA is told of a clip."""


@dataclass(frozen=True)
class Judged:
    """What QA said of one clip, by what it knew."""

    fault: str
    strength: float
    knew: str
    codes: list[str]
    """Of all that it found."""
    measures: dict[str, Any]
    found: bool
    """Whether it was flagged: a fault by a name that fits it, a clean clip by any."""


@dataclass(frozen=True)
class Task:
    """One filmed still, and what is to be done with it."""

    still: Path
    move: str
    easing: Easing
    share: float
    """Of the speed limit."""
    size: Size
    fault: str = ""
    """Which of ``FAULTS``, at all its strengths; the clip as it is unless given,"""
    coded: bool = False
    """and that after each codec."""


def stills(folder: Path, half: str) -> list[Path]:
    """Every second picture of a folder, by name: one half or the other."""
    files = sorted(file for file in folder.iterdir() if file.suffix in {".png", ".jpg"})
    return files[half == "table" :: 2]


def planted(files: Sequence[Path]) -> Iterator[Task]:
    """Every fault over a move of each still, by turns wide and tall."""
    for number, still in enumerate(files):
        move = list(MOVES)[number % len(MOVES)]
        for fault in FAULTS:
            yield Task(still, move, Easing.ease_in_out, 0.8, (WIDE, TALL)[number % 2], fault.name)


def clean(files: Sequence[Path], count: int) -> Iterator[Task]:
    """Clean moves of each kind, so many, the fastest first; and one of each still after each codec."""
    kinds = [(move, *pace, size) for pace in PACES for size in (WIDE, TALL) for move in MOVES]
    for number in range(count):
        yield Task(files[number % len(files)], *kinds[number // len(files) % len(kinds)])
    for number, still in enumerate(files):
        move = list(MOVES)[number % len(MOVES)]
        yield Task(still, move, Easing.ease_in_out, 1, (WIDE, TALL)[number % 2], coded=True)


def done(task: Task) -> list[Judged]:
    """Film it, plant the fault, and have QA judge it."""
    clip = _filmed(task.still, task.move, task.easing, task.share, task.size)
    if task.coded:
        after = [(crf, coded(clip.frames, codec, crf)) for codec, crf in CODING]
        return [said for crf, frames in after for said in judged(clip, frames, "clean, coded", crf, knew=["nothing"])]
    if not task.fault:
        return judged(clip, clip.frames, "clean", task.share)
    fault = next(fault for fault in FAULTS if fault.name == task.fault)
    random = np.random.default_rng(0)
    return [said for strength in fault.strengths
            for said in judged(clip, fault.plant(clip.frames, strength, random), fault.name, strength,
                               fits=fault.codes)]  # fmt: skip


@lru_cache(maxsize=1)
def _filmed(still: Path, move: str, easing: Easing, share: float, size: Size) -> Clip:
    return film(open_image(still, ImageLimits()), move, easing, share, size)


def judged(
    clip: Clip,
    frames: NDArray[Any],
    fault: str,
    strength: float,
    *,
    fits: Sequence[str] = (),
    knew: Iterable[str] = KNEW,
) -> list[Judged]:
    """What QA says of frames, by what it is told. That some are missing does not count."""
    height, width = clip.keyframe.shape[:2]
    made = {"camera": "virtual", "view": FULL, "width": width, "height": height,
            "first_frame": {"error": 0.2, "flag": 0.8}}  # fmt: skip
    plans: dict[str, Callable[[], Planned]] = {
        "plan": lambda: Planned.of(clip.keyframe, clip.views, clip.size),
        "path": lambda: Planned.of_model(clip.keyframe, clip.views, clip.size, made),
        "nothing": Planned,
    }
    said = []
    for each in knew:
        report = judge(frames, FPS, plans[each](), QaThresholds())
        codes = [found.code for found in report.reasons if found.code != "frame_count"]
        found = bool(set(codes) & set(fits) if fits else codes)
        said.append(Judged(fault, strength, each, codes, report.measures, found))
    return said


def coded(frames: Frames, codec: str, crf: int) -> Frames:
    """The frames after a codec."""
    height, width = frames.shape[1:3]
    with tempfile.TemporaryDirectory() as folder:
        raw, made, back = (Path(folder) / name for name in ("raw", "made.mp4", "back"))
        frames.tofile(raw)
        form = ["-f", "rawvideo", "-pix_fmt", "rgb24"]
        base = [ffmpeg_program(), "-nostdin", "-loglevel", "error"]
        process.run([*base, *form, "-s", f"{width}x{height}", "-r", str(FPS), "-i", str(raw), "-c:v", codec, "-crf",
                     str(crf), "-preset", "veryfast", "-pix_fmt", "yuv420p", "-threads", "1", str(made)],
                    unwatched, limit=LIMIT)  # fmt: skip
        process.run([*base, "-i", str(made), *form, str(back)], unwatched, limit=LIMIT)
        return np.fromfile(back, np.uint8).reshape(-1, height, width, 3)


def all_done(tasks: Sequence[Task]) -> Iterator[Judged]:
    """In their order, over both cores."""
    with ProcessPoolExecutor(PROCESSES, multiprocessing.get_context("spawn"), initializer=cv2.setNumThreads,
                             initargs=(1,)) as pool:  # fmt: skip
        for some in pool.map(done, tasks):
            yield from some


def markdown(judgements: Iterable[Judged]) -> str:
    """How many clips were found, by fault, strength and what was known, with intervals."""
    counts: dict[tuple[str, str], dict[str, list[Judged]]] = {}
    units = {fault.name: fault.unit for fault in FAULTS}
    for each in judgements:
        strength = f"{each.strength:g} {units[each.fault]}" if each.fault in units else ""
        counts.setdefault((each.fault, strength), {}).setdefault(each.knew, []).append(each)
    lines = [f"| fault | strength | {' | '.join(f'knowing {what}' for what in KNEW.values())} |",
             "| --- | --- | --- | --- | --- |"]  # fmt: skip
    for (fault, strength), by in counts.items():
        lines.append(f"| {fault} | {strength} | {' | '.join(_rate(by.get(knew, [])) for knew in KNEW)} |")
    return "\n".join(lines)


def _rate(clips: Sequence[Judged]) -> str:
    if not clips:
        return ""
    hits = sum(clip.found for clip in clips)
    low, high = wilson(hits, len(clips))
    return f"{hits} of {len(clips)} ({low:.0%} to {high:.1%})"


def extremes(judgements: Iterable[Judged]) -> str:
    """The least and the largest of each measure: of clean clips, what limits leave room for; of faults, what they meet.

    By fault, strength, what was known and the measure.
    """
    values: dict[tuple[str, ...], list[float]] = {}
    for each in judgements:
        strength = "" if each.fault.startswith("clean") else f"{each.strength:g}"
        for name, value in each.measures.items():
            if isinstance(value, int | float):
                values.setdefault((each.fault, strength, each.knew, name), []).append(value)
    return "\n".join(f"{', '.join(filter(None, key))}: {min(some)} to {max(some)}" for key, some in values.items())


def run(folder: Path = FOLDER, count: int = CLEAN) -> list[Row]:
    """How many clips with a fault are found, beside how many without one are flagged, in percent.

    Raises ``CannotRun`` where there are no stills.
    """
    files = stills(folder, "table") if folder.is_dir() else []
    if not files:
        raise CannotRun(f"no stills to film: a folder {folder.parent.name}/{folder.name} beside the checkout")
    found = list(all_done([*planted(files), *clean(files, count)]))
    print(markdown(found), file=sys.stderr)
    rows = []
    for knew, words in KNEW.items():
        ours = _percent(each for each in found if each.knew == knew and not each.fault.startswith("clean"))
        theirs = _percent(each for each in found if each.knew == knew and each.fault == "clean")
        rows.append(Row(f"flagged knowing {words}: planted faults, clean clips, %", ours, theirs,
                        ours / theirs if theirs else math.inf))  # fmt: skip
    return rows


def _percent(clips: Iterable[Judged]) -> float:
    return 100 * float(np.mean([clip.found for clip in clips]))


def main() -> None:
    """Print the table, and the measures of clean clips."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--keyframes", type=Path, default=FOLDER)
    parser.add_argument("--half", choices=("set", "table"), default="table")
    parser.add_argument("--clean", type=int, default=CLEAN)
    parser.add_argument("--only", help="clean, or the name of a fault")
    given = parser.parse_args()
    files = stills(given.keyframes, given.half)
    tasks = [*clean(files, given.clean), *planted(files)]
    tasks = [task for task in tasks if given.only in {None, task.fault or "clean"}]
    found: list[Judged] = []
    for each in all_done(tasks):
        found.append(each)
        if each.found and each.fault.startswith("clean"):
            print(each, file=sys.stderr, flush=True)
    print(extremes(found), file=sys.stderr)
    print(markdown(found))


if __name__ == "__main__":
    main()
