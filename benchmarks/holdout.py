"""``flow`` on real motion, against a plain blend and ffmpeg's ``minterpolate``: how true its frames are, and how fast.

Every second frame of each clip is left out and made again from its neighbours, at t = 1/2; PSNR is over RGB, SSIM of
the luma, both means over the frames. ``minterpolate`` gets the clip's own YCbCr 4:2:0, so that it loses nothing to a
conversion before the one that all clips go through, and is run twice: as ``mi_mode=mci`` has it, and at its best,
``mc_mode=aobmc:me_mode=bidir:vsbmc=1``. It makes no frame of the last pair, which therefore counts for nobody.

The speed is that of one job, 24 to 60 frames a second at 576×1024, with both sides interleaved: raw frames in, frames
out to nowhere.

    python -m benchmarks.holdout FOLDER-OF-CLIPS [--every N] [--repeats N]
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from statistics import fmean, median

import cv2
import numpy as np
from numpy.typing import NDArray

from benchmarks.encode import drawn
from benchmarks.rows import Row, table
from core import process
from core.camera import shoot
from core.encode.command import ffmpeg_program
from core.fidelity import Fidelity, fidelity
from core.interpolate.flow import Flow
from core.interpolate.plan import plan
from core.motion import CameraPath, Rect
from core.work import unwatched

Frames = NDArray[np.uint8]
MCI = "mi_mode=mci"
MCI_BEST = "mi_mode=mci:mc_mode=aobmc:me_mode=bidir:vsbmc=1"
SIDES = ("flow", "blend", "minterpolate", "minterpolate, best")
SCALE = "bicubic+accurate_rnd+full_chroma_int"
SIZE, BASE_RATE, FPS, BASE_FRAMES = (576, 1024), 24, 60, 25
MOVE = CameraPath(Rect(0.1, 0.1, 0.9, 0.9), Rect(0.3, 0.3, 0.7, 0.7))
LIMIT = 3600.0

Scores = dict[str, list[Fidelity]]


def scores(clip: Path, every: int = 1) -> Scores:
    """How true each side's frames are, of every ``every``-th one that was left out."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        half = folder / "half.yuv"
        truth = _decoded(clip, folder / "truth")
        size = truth.shape[2], truth.shape[1]
        _ffmpeg("-i", str(clip), "-map", "0:V:0", "-vf", "select='not(mod(n,2))'", *_raw("yuv420p", half))
        theirs = {side: _mci(half, size, options, folder / side)
                  for side, options in zip(SIDES[2:], (MCI, MCI_BEST), strict=True)}  # fmt: skip
        flow = Flow()
        found: Scores = {side: [] for side in SIDES}
        last = min(len(frames) for frames in theirs.values())
        for number in range(1, min(last, len(truth) - 1), 2 * every):
            before, wanted, after = (np.array(truth[number + step]) for step in (-1, 0, 1))
            made = {
                "flow": next(flow.between(before, after, [0.5])),
                "blend": np.asarray(cv2.addWeighted(before, 0.5, after, 0.5, 0), np.uint8),
            } | {side: np.array(frames[number]) for side, frames in theirs.items()}
            for side, frame in made.items():
                found[side].append(fidelity(frame, wanted))
        assert all(np.array_equal(frames[2], truth[2]) for frames in theirs.values()), "their frames are off by one"
    return found


def fidelity_table(clips: dict[str, Scores]) -> str:
    """A Markdown table: a clip a line, PSNR in dB and SSIM for each side; their means last."""
    lines = ["| clip | " + " | ".join(SIDES) + " |", "| --- |" + " ---: |" * len(SIDES)]
    means = {name: {side: _mean(found[side]) for side in SIDES} for name, found in clips.items()}
    together = {side: [sides[side] for sides in means.values()] for side in SIDES}
    means["**mean**"] = {side: _mean(each) for side, each in together.items()}
    for name, sides in means.items():
        lines.append(f"| {name} | " + " | ".join(f"{sides[s].psnr:.2f} / {sides[s].ssim:.4f}" for s in SIDES) + " |")
    return "\n".join(lines)


def run(repeats: int = 5) -> list[Row]:
    """New frames a second: both sides interleaved, medians of ``repeats``."""
    samples = plan(BASE_FRAMES, BASE_RATE, (BASE_FRAMES - 1) / BASE_RATE, FPS)
    new = sum(bool(sample.t) for sample in samples)
    pixels = np.asarray(drawn())
    path = MOVE.fitted((pixels.shape[1], pixels.shape[0]), SIZE)
    base = np.zeros((BASE_FRAMES, SIZE[1], SIZE[0], 3), np.uint8)
    shoot(pixels, list(path.views(4 * BASE_RATE))[:BASE_FRAMES], base)
    seconds: dict[str, list[float]] = {"flow": [], MCI: [], MCI_BEST: []}
    with tempfile.TemporaryDirectory() as name:
        raw, yuv = Path(name, "raw"), Path(name, "yuv")
        base.tofile(raw)
        given = ("-f", "rawvideo", "-video_size", "{}x{}".format(*SIZE), "-framerate", str(BASE_RATE))
        _ffmpeg(*given, "-pix_fmt", "rgb24", "-i", str(raw), *_raw("yuv420p", yuv))
        for turn in range(repeats):
            for side in list(seconds)[:: (-1) ** turn]:
                began = time.perf_counter()
                if side == "flow":
                    for _ in Flow().clip(base, samples):
                        pass
                else:
                    _ffmpeg(*given, "-pix_fmt", "yuv420p", "-i", str(yuv), "-vf", f"minterpolate=fps={FPS}:{side}",
                            "-f", "null", "-")  # fmt: skip
                seconds[side].append(time.perf_counter() - began)
    rate = {side: new / median(taken) for side, taken in seconds.items()}
    job = f"new frames a second, {BASE_RATE} to {FPS} at {SIZE[0]}x{SIZE[1]}, flow against minterpolate"
    return [
        Row(f"{job}, {MCI}", rate["flow"], rate[MCI], rate["flow"] / rate[MCI], 5),
        Row(f"{job}, at its best", rate["flow"], rate[MCI_BEST], rate["flow"] / rate[MCI_BEST]),
    ]


def _mean(found: Sequence[Fidelity]) -> Fidelity:
    return Fidelity(fmean(each.ssim for each in found), fmean(each.psnr for each in found))


def _decoded(clip: Path, raw: Path) -> Frames:
    """All frames of a clip, ``(T, H, W, 3)``, mapped from ``raw``."""
    sizes: list[tuple[int, ...]] = []

    def note(line: str) -> None:
        if line.startswith("#dimensions 0: "):
            sizes.append(tuple(int(side) for side in line.removeprefix("#dimensions 0: ").split("x")))

    _ffmpeg("-i", str(clip), "-map", "0:V:0", "-frames:v", "1", "-f", "framecrc", "-", on_line=note)
    _ffmpeg("-i", str(clip), "-map", "0:V:0", *_raw("rgb24", raw))
    ((width, height),) = sizes
    return np.memmap(raw, np.uint8, "r").reshape(-1, height, width, 3)


def _mci(half: Path, size: tuple[int, int], options: str, raw: Path) -> Frames:
    """The frames of twice the rate that ``minterpolate`` makes, from the first one on."""
    given = ("-f", "rawvideo", "-pix_fmt", "yuv420p", "-video_size", "{}x{}".format(*size), "-framerate", "10")
    _ffmpeg(*given, "-i", str(half), "-vf", f"minterpolate=fps=20:{options}", *_raw("rgb24", raw))
    return np.memmap(raw, np.uint8, "r").reshape(-1, size[1], size[0], 3)


def _raw(layout: str, out: Path) -> Iterator[str]:
    yield from ("-fps_mode", "passthrough", "-sws_flags", SCALE, "-f", "rawvideo", "-pix_fmt", layout, str(out))


def _ffmpeg(*words: str, on_line: Callable[[str], float | None] | None = None) -> None:
    process.run([ffmpeg_program(), "-v", "error", "-y", *words], unwatched, limit=LIMIT, on_line=on_line)


def main() -> None:
    """Print both tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("clips", type=Path)
    parser.add_argument("--every", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()
    print(table(run(options.repeats)), flush=True)
    print()
    print(fidelity_table({clip.stem: scores(clip, options.every) for clip in sorted(options.clips.glob("*.mp4"))}))


if __name__ == "__main__":
    main()
