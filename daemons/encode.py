"""The daemon of ``rooms/encode``: frames become a proven file, and the clip leaves for the outbox."""

from __future__ import annotations

from typing import Any, ClassVar

from core import delivery
from core.encode.stage import make_video
from core.rooms import ClipFolder
from core.work import Report
from daemons.stage import StageDaemon


class EncodeDaemon(StageDaemon):
    """Makes the file, and delivers it."""

    stage: ClassVar = "encode"
    done: ClassVar = "clip.encoded"

    def work(self, folder: ClipFolder, report: Report) -> dict[str, Any]:
        """Encode and prove."""
        record = make_video(folder, self.settings, report)
        self.tracker.track_video_operation(
            "transcode",
            folder.clip,
            folder.image,
            video_output=folder.path / delivery.VIDEO_FILE,
            validation_results=record.proof.model_dump(mode="json"),
            frame_count=record.proof.frames,
        )
        return record.model_dump(mode="json")

    def publish(self, folder: ClipFolder) -> None:
        """Put the finished clip into the outbox."""
        folder.clip.attempts.pop(self.stage, None)
        folder.save()
        delivery.deliver(folder, self.home)
        self.log.info("clip.delivered", clip=folder.clip.clip_id)
