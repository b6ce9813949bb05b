"""The daemon of ``rooms/qa``: frames are judged before anybody spends time on encoding them."""

from __future__ import annotations

from typing import Any, ClassVar

from core.errors import Refused
from core.motion import frame_count
from core.qa.stage import inspect
from core.rooms import ClipFolder
from core.work import Report
from daemons.stage import StageDaemon


class QaDaemon(StageDaemon):
    """Judges frames; what fails stays on the server with its evidence."""

    stage: ClassVar = "qa"
    done: ClassVar = "clip.judged"

    def work(self, folder: ClipFolder, report: Report) -> dict[str, Any]:
        """Judge the frames. Raises ``Refused`` where they fail."""
        clip = folder.clip
        clip.qa = found = inspect(folder, self.settings, report)
        self.tracker.track_video_operation(
            "validate",
            clip,
            folder.image,
            validation_results=found.model_dump(mode="json", include={"verdict", "measures"}),
            frame_count=frame_count(clip.entry.motion.duration_sec, clip.entry.generation_params.fps),
        )
        for reason in found.reasons:
            self.log.warning("qa.finding", clip=clip.clip_id, code=reason.code, finding=reason.message)
        if found.verdict == "fail":
            raise Refused(next(reason for reason in found.reasons if reason.severity == "error"))
        return {"verdict": found.verdict, "screened": found.screened}
