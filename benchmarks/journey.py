"""Drop to result with the daemons up, less the settle and batch waits, against the sum of the stages' own work.

What is over 1 is what the rooms, the courier and the processes cost. Pictures are drawn, or given.

    python -m benchmarks.journey [--clips N] [--pictures DIR]
"""

from __future__ import annotations

import argparse
import json
import select
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

from benchmarks.rows import Row, table
from core.companions import is_image
from core.contract import VideoMeta, load
from core.home import STAGES, Home
from core.settings import Settings, load_settings
from daemons.cli.scene import draw_scene
from tests.house import SIDECAR

MOTION = {**SIDECAR, "start_frame": [0.1, 0.1, 0.9, 0.9], "end_frame": [0.3, 0.3, 0.7, 0.7], "duration_sec": 6.0}


def run(clips: int = 3, pictures: Path | None = None) -> list[Row]:
    """Seconds a clip, medians; one clip at a time."""
    taken, worked = [], []
    with tempfile.TemporaryDirectory(prefix=".bench-", dir=Path.cwd()) as name:  # /tmp may be no disk at all
        root = Path(name) / "home"
        subprocess.run([sys.executable, "-m", "daemons.cli", "init", str(root)], check=True, stdout=subprocess.DEVNULL)
        settings, home = load_settings(root)
        command = [sys.executable, "-m", "daemons.cli", "up", "--home", str(root)]
        up = subprocess.Popen(command, stdout=subprocess.DEVNULL)
        try:
            _until_ready(settings, home)
            images = [path for path in sorted(pictures.iterdir()) if is_image(path.name)] if pictures else []
            for number in range(clips):
                image = images[number % len(images)].read_bytes() if images else draw_scene(number)
                meta, seconds = _journey(home, f"clip{number}", image)
                waits = settings.hot_folder.settle_seconds + settings.hot_folder.batch_seconds
                taken.append(seconds - waits)
                worked.append(sum(record.seconds for record in meta.stages.values()))
        finally:
            up.send_signal(signal.SIGTERM)
            up.wait(30)
    ratio = median(whole / work for whole, work in zip(taken, worked, strict=True))
    figure = "drop to result, s, waits not counted (theirs: the stages' own work)"
    return [Row(figure, median(taken), median(worked), ratio, 1.3)]


def _until_ready(settings: Settings, home: Home) -> None:
    workers = sum(len(settings.rooms.workers.of(stage)) for stage in STAGES) + 1
    while len([*home.gpu.logs.glob("*.log")]) < workers or not (home.mac.logs / "keyframes.log").exists():
        _pause()
    for log in [*home.gpu.logs.glob("*@*.log"), home.mac.logs / "courier.log", home.gpu.logs / "intake.log"]:
        while "daemon.started" not in log.read_text():
            _pause()


def _journey(home: Home, stem: str, image: bytes) -> tuple[VideoMeta, float]:
    (home.mac.hot / f"{stem}.motion.json").write_text(json.dumps(MOTION))
    (home.mac.hot / f"{stem}.png").write_bytes(image)
    begun = time.perf_counter()
    while not (found := list(home.mac.results.rglob(f"{stem}.video_meta.json"))):
        _pause()
    return load(VideoMeta, found[0]), time.perf_counter() - begun


def _pause() -> None:
    select.select([], [], [], 0.02)


if __name__ == "__main__":
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--clips", type=int, default=3)
    arguments.add_argument("--pictures", type=Path)
    chosen = arguments.parse_args()
    print(table(run(chosen.clips, chosen.pictures)))
