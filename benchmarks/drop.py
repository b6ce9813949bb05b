"""Drop to manifest against the floor: what the ``keyframes`` daemon takes for a folder of keyframes, beside a loop
that only decodes and hashes the same files in one process.

    python -m benchmarks.drop [--count N] [--pictures DIR]
"""

from __future__ import annotations

import argparse
import hashlib
import json
import math
import shutil
import tempfile
import time
from pathlib import Path

import numpy as np
from PIL import Image

from benchmarks.rows import Row, table
from core.companions import is_image
from core.contract import Manifest, load
from core.home import MANIFEST_FILE
from daemons.cli.scene import draw_scene
from tests.house import SIDECAR, House

ROUND = 50
"""Keyframes in one batch; the two sides take turns by batches."""
SETTINGS = f'role = "both"\n[hot_folder]\nbatch_max = {ROUND}\n'


def run(count: int = 1000, pictures: Path | None = None) -> list[Row]:
    """Seconds for ``count`` keyframes with their sidecars; settle and batch waits pass on a clock of their own."""
    ours = floor = 0.0
    taken = 0
    with tempfile.TemporaryDirectory(prefix=".bench-", dir=Path.cwd()) as name:  # /tmp may be no disk at all
        house = House(Path(name) / "home", SETTINGS)
        house.start()
        keyframes = house.daemons[0]
        sources = _sources(pictures, Path(name))
        for start in range(0, count, ROUND):
            batch = []
            for number in range(start, min(start + ROUND, count)):
                source = sources[number % len(sources)]
                batch.append(house.home.mac.hot / f"key{number:05d}{source.suffix}")
                shutil.copyfile(source, batch[-1])
                # One picture may come again; a motion of its own makes it another clip.
                motion = {**SIDECAR, "duration_sec": 6.0, "end_frame": [0.1, 0.1, 0.9, 0.9 - number / 1e7]}
                batch[-1].with_suffix(".motion.json").write_text(json.dumps(motion))
            floor += _floor(batch)
            begun = time.perf_counter()
            while (delay := keyframes.step()) != math.inf:
                house.clock.seconds += delay
            ours += time.perf_counter() - begun
        for manifest in house.home.mac.outbox.glob(f"*/{MANIFEST_FILE}"):
            taken += len(load(Manifest, manifest).keyframes)
        assert taken == count, f"{taken} of {count} were taken"
        house.stop()
    return [
        Row(
            f"drop to manifest, s for {count} keyframes (theirs: decode and hash alone)", ours, floor, ours / floor, 1.5
        )
    ]


def _sources(pictures: Path | None, folder: Path) -> list[Path]:
    if pictures:
        return sorted(path for path in pictures.iterdir() if is_image(path.name))
    drawn = [folder / f"{seed}.png" for seed in range(6)]
    for seed, path in enumerate(drawn):
        path.write_bytes(draw_scene(seed))
    return drawn


def _floor(batch: list[Path]) -> float:
    begun = time.perf_counter()
    for path in batch:
        hashlib.sha256(path.read_bytes()).hexdigest()
        with Image.open(path) as image:
            np.asarray(image.convert("RGB"))
    return time.perf_counter() - begun


if __name__ == "__main__":
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--count", type=int, default=1000)
    arguments.add_argument("--pictures", type=Path)
    chosen = arguments.parse_args()
    print(table(run(chosen.count, chosen.pictures)))
