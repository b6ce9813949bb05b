"""Our encoding, frames in memory to a fsynced file, against the same ffmpeg command fed from a raw file.

The clip is a still under the design's example move, 576×1024 at 30 fps. The proof is not counted in the first
figure and is the second: what it and the comparison with the frames cost beside the encoding.

Then the search for VMAF 95, whose tries see a second of the clip, against one whose tries see all of it: so does
ab-av1 with clips so short.

Last the whole of what a clip goes through by default, search, encoding, proof and comparison, against that ffmpeg
command and nothing else: in seconds of one core, children's included, and in cores for a card whose clips come at
the studio's pace. The first clip of a batch finds its factor; those after one like it begin where that one ended.

    python -m benchmarks.encode [--picture FILE] [--seconds N] [--repeats N]
"""

from __future__ import annotations

import argparse
import resource
import subprocess
import tempfile
import time
from pathlib import Path
from statistics import median

import numpy as np
from PIL import Image

from benchmarks.rows import Row, table
from core import frames
from core.camera import shoot
from core.encode.command import EncodeSettings, encode_command, ffmpeg_program
from core.encode.encode import encode
from core.encode.quality import Probe, sample, search, try_out
from core.motion import CameraPath, Rect
from core.work import unwatched

SIZE, FPS, TARGET = (576, 1024), 30, 95.0
CLIPS_A_MINUTE = 8
MOVE = CameraPath(Rect(0.1, 0.1, 0.9, 0.9), Rect(0.3, 0.3, 0.7, 0.7))


def drawn(width: int = 864, height: int = 1536) -> Image.Image:
    """A picture with large shapes, fine waves and grain, for want of a real one."""
    y, x = np.mgrid[0:height, 0:width]
    shapes = 90 * ((x // 97 + y // 131) % 2) + 60 * np.sin(x / 7 + np.sin(y / 31) * 4)
    grain = np.random.default_rng(0).normal(0, 4, (height, width, 3))
    colours = shapes[..., None] * [1.0, 0.8, 0.6] + [90, 80, 100] + grain
    return Image.fromarray(np.clip(colours, 0, 255).astype(np.uint8))


def run(picture: Image.Image | None = None, seconds: float = 6.0, repeats: int = 3) -> list[Row]:
    """Both sides interleaved, medians of ``repeats``."""
    pixels = np.asarray((picture or drawn()).convert("RGB"))
    count = round(seconds * FPS)
    path = MOVE.fitted((pixels.shape[1], pixels.shape[0]), SIZE)
    settings = EncodeSettings(quality="crf:18")
    ours: list[float] = []
    theirs: list[float] = []
    proofs: list[float] = []
    plain: list[float] = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        with frames.create(folder / "frames.npy", count, SIZE) as out:
            shoot(pixels, list(path.views(count)), out)
        clip = frames.open(folder / "frames.npy")
        clip.tofile(folder / "raw")
        command = encode_command(ffmpeg_program(), settings, SIZE, FPS, folder / "theirs.mp4", quality=settings.target)
        for turn in range(repeats):
            for side in (("ours", "theirs"), ("theirs", "ours"))[turn % 2]:
                began, spent = time.perf_counter(), core_seconds()
                if side == "ours":
                    proof = encode(clip, FPS, folder / "ours.mp4", settings, unwatched).proof_seconds
                    proofs.append(proof)
                    ours.append(time.perf_counter() - began - proof)
                else:
                    with (folder / "raw").open("rb") as raw:
                        subprocess.run(command, stdin=raw, stdout=subprocess.DEVNULL, check=True)
                    theirs.append(time.perf_counter() - began)
                    plain.append(core_seconds() - spent)
        assert (folder / "ours.mp4").read_bytes() == (folder / "theirs.mp4").read_bytes()
        found = [*_searched(clip, folder / "clip.mp4"), *_whole(clip, folder / "whole.mp4", seconds, plain)]
    return [
        _row(f"seconds to encode a clip of {seconds:g} s", ours, theirs, 1.05),
        _row("seconds to prove and compare it, against encoding it", proofs, ours, None),
        *found,
    ]


def _searched(clip: frames.Frames, beside: Path) -> list[Row]:
    """Our search, cold and warm, beside one that tries the whole clip, whose answer is the right one."""
    settings = EncodeSettings(quality=f"vmaf:{TARGET:g}")

    def timed(tried: frames.Frames, start: float | None = None) -> tuple[float, float, list[Probe]]:
        began = time.perf_counter()
        crf, probes = search(
            TARGET, lambda factor: try_out(factor, tried, FPS, settings, unwatched, beside=beside), start
        )
        return time.perf_counter() - began, crf, probes

    cold, crf, probes = timed(sample(clip, FPS))
    warm, _, again = timed(sample(clip, FPS), crf)
    whole, right, tries = timed(clip)
    return [
        _row("seconds to search, on a second, against all of it", [cold], [whole], None),
        _row("seconds to search where the batch's last clip was like it", [warm], [whole], None),
        _row("tries of the search", [len(probes)], [len(tries)], None),
        _row("tries of the search where the batch's last clip was like it", [len(again)], [len(tries)], None),
        _row("the factor that was found", [crf], [right], None),
    ]


def _whole(clip: frames.Frames, out: Path, seconds: float, plain: list[float]) -> list[Row]:
    """All that a clip costs by default; ``plain`` is what the one ffmpeg command cost, in core-seconds."""
    rows, start = [], None
    for which in ("the first of a batch", "after one like it"):
        spent = core_seconds()
        start = encode(clip, FPS, out, EncodeSettings(), unwatched, start=start).quality.crf
        cost = core_seconds() - spent
        minute = CLIPS_A_MINUTE / 60
        rows += [
            _row(f"core-seconds for a clip of {seconds:g} s by default, {which} (theirs: ffmpeg alone at crf 18)",
                 [cost], plain, None),
            _row(f"cores for a card at {CLIPS_A_MINUTE} clips a minute, {which} (theirs: ffmpeg alone at crf 18)",
                 [cost * minute], [each * minute for each in plain], None),
        ]  # fmt: skip
    return rows


def core_seconds() -> float:
    """What this process and its children that have ended have had of the processor."""
    used = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(each.ru_utime + each.ru_stime for each in used)


def _row(figure: str, ours: list[float], theirs: list[float], target: float | None) -> Row:
    return Row(figure, median(ours), median(theirs), median(ours) / median(theirs), target)


def main() -> None:
    """Print the rows."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--picture", type=Image.open)
    parser.add_argument("--seconds", type=float, default=6.0)
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    print(table(run(options.picture, options.seconds, options.repeats)))


if __name__ == "__main__":
    main()
