"""The daemon of ``rooms/generate``: one worker a GPU makes base frames."""

from __future__ import annotations

import os
from typing import Any, ClassVar

from core import gpu
from core.cards import CardFigures, open_nvml, read, visible
from core.generate.stage import generate
from core.home import Home
from core.rooms import ClipFolder
from core.settings import Settings
from core.work import Report
from daemons.runtime import Runtime
from daemons.stage import StageDaemon


class GenerateDaemon(StageDaemon):
    """Makes base frames."""

    stage: ClassVar = "generate"
    done: ClassVar = "clip.generated"

    def __init__(self, home: Home, settings: Settings, worker: str, runtime: Runtime) -> None:
        card = gpu.self_test()
        super().__init__(home, settings, worker, runtime)
        if card:
            self.log.info("gpu.ready", card=card)
        if (nvml := open_nvml()) is not None:
            runtime.metrics.add(CardFigures(lambda: visible(read(nvml), os.environ)))

    def work(self, folder: ClipFolder, report: Report) -> dict[str, Any]:
        """Make the base frames."""
        with self.runtime.metrics.gpu_time():
            plan = generate(folder, self.settings, report)
        self.tracker.track_video_operation("generate", folder.clip, folder.image, frame_count=plan["frames"])
        return plan
