"""The daemon of ``rooms/interpolate``: from the model's rate to the delivered one."""

from __future__ import annotations

from typing import Any, ClassVar

from core.interpolate.stage import interpolate
from core.rooms import ClipFolder
from core.work import Report
from daemons.stage import StageDaemon


class InterpolateDaemon(StageDaemon):
    """Brings base frames to the delivered rate."""

    stage: ClassVar = "interpolate"
    done: ClassVar = "clip.interpolated"

    def work(self, folder: ClipFolder, report: Report) -> dict[str, Any]:
        """Make the delivered frames."""
        record = interpolate(folder, self.settings, report)
        self.tracker.track_video_operation(
            "interpolate", folder.clip, folder.image, frame_count=record["frames"], notes=record["method"]
        )
        return record
