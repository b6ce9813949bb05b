"""The daemon of ``rooms/encode``: frames become a proven file, and the clip leaves for the outbox."""

from __future__ import annotations

from typing import Any, ClassVar

from core import delivery, image
from core.encode.batch import BatchQuality
from core.encode.stage import make_video
from core.encode.tryout import try_settings
from core.home import Home
from core.light import Frame
from core.qa.delivered import judge_delivered, of_the_file
from core.rooms import ClipFolder
from core.settings import Settings
from core.work import Report
from daemons.runtime import Runtime
from daemons.stage import StageDaemon


class EncodeDaemon(StageDaemon):
    """Makes the file, and delivers it."""

    stage: ClassVar = "encode"
    done: ClassVar = "clip.encoded"

    def __init__(self, home: Home, settings: Settings, worker: str, runtime: Runtime) -> None:
        """Raises ``BadSettings`` where an encoder or a LUT that the settings name cannot be used here."""
        self._rules = settings.encode.within(home.root)
        try_settings(self._rules)
        super().__init__(home, settings, worker, runtime)

    def work(self, folder: ClipFolder, report: Report) -> dict[str, Any]:
        """Encode and prove; what changes the pictures after QA has them screened once more."""
        clip, video = folder.clip, folder.path / delivery.VIDEO_FILE
        batch = BatchQuality(self.home.state / "quality", clip.batch_id)
        record = make_video(folder, self._rules, batch, report)
        self.tracker.track_video_operation(
            "transcode",
            clip,
            folder.image,
            video_output=video,
            validation_results=record.proof.model_dump(mode="json"),
            frame_count=record.proof.frames,
        )
        findings = record.findings
        if clip.qa is not None and (filters := self._rules.filters):
            fps, standard = clip.entry.generation_params.fps, self.settings.qa.standard

            def keyframe() -> Frame:
                return image.open_image(folder.image, self.settings.image)

            clip.qa = judge_delivered(clip.qa, video, fps, keyframe, filters=filters, standard=standard, report=report)
            findings = [*findings, *(reason for reason in clip.qa.reasons if of_the_file(reason))]
        for finding in findings:
            self.log.warning("encode.finding", clip=clip.clip_id, code=finding.code, finding=finding.message)
        if (spread := batch.spread()) is not None:
            self.log.info(
                "batch.quality",
                batch=clip.batch_id,
                clip=clip.clip_id,
                crf=record.quality.crf,
                vmaf=record.quality.vmaf,
                clips=spread.clips,
                lowest=spread.lowest,
                highest=spread.highest,
            )
        return record.model_dump(mode="json")

    def publish(self, folder: ClipFolder) -> None:
        """Put the finished clip into the outbox."""
        folder.clip.attempts.pop(self.stage, None)
        folder.save()
        delivery.deliver(folder, self.home)
        self.log.info("clip.delivered", clip=folder.clip.clip_id)
