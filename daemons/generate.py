"""The daemon of ``rooms/generate``: one worker a GPU makes base frames."""

from __future__ import annotations

from typing import Any, ClassVar

from core.generate.stage import generate
from core.rooms import ClipFolder
from core.work import Report
from daemons.stage import StageDaemon


class GenerateDaemon(StageDaemon):
    """Makes base frames."""

    stage: ClassVar = "generate"
    done: ClassVar = "clip.generated"

    def work(self, folder: ClipFolder, report: Report) -> dict[str, Any]:
        """Make the base frames."""
        plan = generate(folder, self.settings, report)
        self.tracker.track_video_operation("generate", folder.clip, folder.image, frame_count=plan["frames"])
        return plan
