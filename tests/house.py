"""A whole home in one process, on a clock that only moves when everybody waits: for tests that must not sleep."""

from __future__ import annotations

import io
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import structlog
from PIL import Image

from core import fsops
from core.contract import VideoMeta, load
from core.home import Home
from core.network import NetworkChanges
from core.settings import Settings, load_settings
from daemons.courier import CourierDaemon
from daemons.encode import EncodeDaemon
from daemons.generate import GenerateDaemon
from daemons.intake import IntakeDaemon
from daemons.interpolate import InterpolateDaemon
from daemons.keyframes import KeyframesDaemon
from daemons.qa import QaDaemon
from daemons.runtime import AGAIN, Daemon, Runtime

TINY = """
role = "both"
[hot_folder]
settle_seconds = 2.0
batch_seconds = 3.0
[output]
portrait = [64, 96]
landscape = [96, 64]
fps = 10
[motion]
duration_min = 0.3
[image]
min_side = 32
[encode]
preset = "ultrafast"
quality = "crf:18"
[disk]
low_water_mb = 0
high_water_mb = 0
"""
SIDECAR: dict[str, Any] = {
    "keyframe": [0.0, 0.0, 1.0, 1.0], "motion_type": "zoom_in", "motion_intensity": 0.6,
    "start_frame": [0.0, 0.0, 1.0, 1.0], "end_frame": [0.02, 0.02, 0.98, 0.98], "duration_sec": 0.5,
}  # fmt: skip


def picture(seed: int = 0, size: tuple[int, int] = (144, 96)) -> bytes:
    """A small picture with detail at every scale, as PNG bytes."""
    dice = np.random.default_rng(seed)
    coarse = Image.fromarray(dice.integers(60, 200, (6, 9, 3), dtype=np.uint8)).resize(size, Image.Resampling.BICUBIC)
    grain = dice.integers(-12, 12, (size[1], size[0], 3))
    file = io.BytesIO()
    Image.fromarray(np.clip(np.asarray(coarse, np.int16) + grain, 0, 255).astype(np.uint8)).save(file, "PNG")
    return file.getvalue()


class Clock:
    """Monotonic seconds that pass only when told to."""

    def __init__(self) -> None:
        self.seconds = 1000.0

    def __call__(self) -> float:
        return self.seconds


class Unhurried(Runtime):
    """A daemon's life whose rests pass on the clock of the house."""

    def rest(self, seconds: float, network: NetworkChanges | None = None) -> None:
        """Let the clock go on by so much."""
        assert isinstance(self.clock, Clock)
        self.clock.seconds += max(0.0, seconds)
        self.breathe()


class House:
    """Both halves of a home and all their daemons, stepped by hand."""

    def __init__(self, root: Path, settings: str = TINY) -> None:
        if not (root / "dropreel.toml").exists():
            root.mkdir(parents=True, exist_ok=True)
            (root / "dropreel.toml").write_text(settings)
        self.settings: Settings
        self.home: Home
        self.settings, self.home = load_settings(root)
        fsops.confine(self.home.root, self.home.mac.hot)
        halves = [half for half in (self.home.mac, self.home.gpu) if self.settings.role in {half.root.name, "both"}]
        self.home.prepare(*halves)
        self._state = halves[-1].state
        self.clock = Clock()
        self.events: list[dict[str, Any]] = []
        self.daemons: list[Daemon] = []

    def _runtime(self, name: str) -> Runtime:
        def note(_logger: object, method: str, event: Any) -> Any:
            self.events.append({"level": method, "daemon": name, **event})
            raise structlog.DropEvent

        log = structlog.wrap_logger(structlog.PrintLogger(), processors=[note], wrapper_class=structlog.BoundLogger)
        return Unhurried(name, self._state, self.settings.daemons, log, self.clock)

    def start(self, *names: str) -> None:
        """Start every daemon afresh, as after a boot; or these alone."""
        home, settings = self.home, self.settings
        makers: dict[str, Callable[[Runtime], Daemon]] = {
            "keyframes": lambda life: KeyframesDaemon(home, settings, life),
            "courier": lambda life: CourierDaemon(home, settings, life),
            "intake": lambda life: IntakeDaemon(home, settings, life),
            "generate": lambda life: GenerateDaemon(home, settings, "gpu0", life),
            "interpolate": lambda life: InterpolateDaemon(home, settings, "gpu0", life),
            "qa": lambda life: QaDaemon(home, settings, "cpu0", life),
            "encode": lambda life: EncodeDaemon(home, settings, "cpu0", life),
        }
        self.daemons = [make(self._runtime(name)) for name, make in makers.items() if not names or name in names]

    def stop(self) -> None:
        """Let every daemon go."""
        for daemon in self.daemons:
            daemon.close()
            daemon.runtime.wake.close()
        self.daemons = []

    def rest(self, limit_seconds: float = 600.0) -> None:
        """Step all daemons until none has anything to do; time passes when all wait."""
        begun = self.clock.seconds
        while True:
            delays = [daemon.step() for daemon in self.daemons]
            if AGAIN in delays:
                continue
            soonest = min(delays)
            if math.isinf(soonest):
                return
            self.clock.seconds += soonest
            assert self.clock.seconds - begun < limit_seconds, f"no rest: {self.events[-10:]}"

    def drop(self, stem: str, image: bytes | None = None, sidecar: dict[str, Any] | bytes | None = SIDECAR) -> None:
        """Put an image and its sidecar into the hot folder, as an operator does."""
        hot = self.home.mac.hot
        (hot / f"{stem}.png").write_bytes(picture() if image is None else image)
        if sidecar is not None:
            data = sidecar if isinstance(sidecar, bytes) else json.dumps(sidecar).encode()
            (hot / f"{stem}.motion.json").write_bytes(data)

    def said(self, event: str) -> list[dict[str, Any]]:
        """The log events of this name."""
        return [said for said in self.events if said["event"] == event]

    def metas(self) -> dict[str, VideoMeta]:
        """What came back, by the path below ``results/`` without its batch: ``img.mp4``'s meta is ``img``."""
        results = self.home.mac.results
        found = {}
        for path in results.rglob("*.video_meta.json"):
            place = "/".join(path.relative_to(results).parts[1:])
            found[place.removesuffix(".video_meta.json")] = load(VideoMeta, path)
        return found
