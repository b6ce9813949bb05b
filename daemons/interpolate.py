"""The daemon of ``rooms/interpolate``: from the model's rate to the delivered one."""

from __future__ import annotations

from typing import Any, ClassVar

from core import gpu
from core.errors import BadSettings, Refused
from core.home import Home
from core.interpolate.methods import MethodName, choose, load_from
from core.interpolate.stage import interpolate
from core.rooms import ClipFolder
from core.settings import Settings
from core.work import Report
from daemons.runtime import Runtime
from daemons.stage import StageDaemon


class InterpolateDaemon(StageDaemon):
    """Brings base frames to the delivered rate. Holds the network, if there is one, for as long as it lives."""

    stage: ClassVar = "interpolate"
    done: ClassVar = "clip.interpolated"

    def __init__(self, home: Home, settings: Settings, worker: str, runtime: Runtime) -> None:
        """Raises ``BadSettings`` where the method that the settings name cannot be used here."""
        rules, weights = settings.interpolate, home.root / settings.generation.weights.expanduser()
        if choose(rules, weights) is not MethodName.flow:
            gpu.self_test()
        super().__init__(home, settings, worker, runtime)
        try:
            self._chosen = load_from(rules, weights)
        except Refused as error:
            raise BadSettings(f"[interpolate]: {error}") from error
        self.log.info("interpolator.ready", method=self._chosen.method.name, **self._chosen.record)

    def work(self, folder: ClipFolder, report: Report) -> dict[str, Any]:
        """Make the delivered frames."""
        record = interpolate(folder, self.settings, self._chosen, report)
        self.tracker.track_video_operation(
            "interpolate", folder.clip, folder.image, frame_count=record["frames"], notes=record["method"]
        )
        return record
