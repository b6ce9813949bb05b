"""The daemon of ``rooms/generate``: one worker a GPU makes base frames."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Collection, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar

from core import gpu
from core.cards import CardFigures, open_nvml, read, visible
from core.errors import Stopped
from core.generate.models import Models, host_bytes
from core.generate.stage import film, keep, prepare
from core.home import Home
from core.rooms import ClipFolder, Waiting
from core.settings import Settings
from core.work import Report
from daemons.runtime import AGAIN, Runtime
from daemons.stage import StageDaemon

if TYPE_CHECKING:
    from core.generate.generator import Job, Made

AHEAD = 16
"""So many of the clips that wait are decoded, and their captions encoded, while others are made."""
OVERTAKEN_MAX = 16
"""So often may clips of the loaded model go before one of another, which a change of models would take minutes for."""
HOST_GROWTH_BYTES = 8 << 30
"""A worker that holds so much more memory than after its first clip leaves, to be started afresh."""


@dataclass
class InHand:
    """A clip that is being made by a model."""

    folder: ClipFolder
    job: Job
    begun: float = field(default_factory=time.monotonic)
    kept: Future[dict[str, Any]] | None = None
    """Its frames, while they are checked and written."""


class GenerateDaemon(StageDaemon):
    """Makes base frames. While the card makes the next clip, the one before it is written."""

    stage: ClassVar = "generate"
    done: ClassVar = "clip.generated"

    def __init__(self, home: Home, settings: Settings, worker: str, runtime: Runtime) -> None:
        card = gpu.self_test()
        super().__init__(home, settings, worker, runtime)
        if card:
            self.log.info("gpu.ready", card=card)
        if (nvml := open_nvml()) is not None:
            runtime.metrics.add(CardFigures(lambda: visible(read(nvml), os.environ)))
        self._models = Models(home.root, self.home.state, settings)
        self._aside = ThreadPoolExecutor(2, "aside")
        self._ahead: dict[str, Future[Job]] = {}
        self._writing: list[InHand] = []
        self._charged: ClipFolder | None = None
        self._overtaken = 0
        self._host_bytes = 0

    def work(self, folder: ClipFolder, report: Report) -> dict[str, Any]:
        """Make the base frames of a clip that needs no model."""
        with self.runtime.metrics.gpu_time():
            plan = film(folder, self.settings, report)
        self.tracker.track_video_operation("generate", folder.clip, folder.image, frame_count=plan["frames"])
        return plan

    def step(self) -> float:
        """Hand on what is written; make the next clips; where there are none, wait for what is being written."""
        try:
            self._hand_on_written()
            delay = super().step()
            if delay != AGAIN and self._writing:
                self._hand_on_written(wait=True)
                return AGAIN
        except Stopped:
            self._hand_on_written(wait=True)
            raise
        self._recycle()
        return delay

    def close(self) -> None:
        """Let go of everything."""
        self._aside.shutdown(cancel_futures=True)
        super().close()

    @property
    def busy(self) -> Collection[str]:
        """Those whose frames are being written."""
        return {hand.folder.clip.clip_id for hand in self._writing}

    def order(self, waiting: list[Waiting]) -> list[Waiting]:
        """Clips of the loaded model before their equals, but not for ever."""
        first, loaded = next(iter(waiting), None), self._models.loaded
        ours = [clip for clip in waiting if first and clip.model == loaded and clip.rank == first.rank]
        if not first or not ours or first in ours or self._overtaken >= OVERTAKEN_MAX:
            self._overtaken = 0
            return waiting
        self._overtaken += 1
        return ours + [clip for clip in waiting if clip not in ours]

    def _handle(self, folder: ClipFolder) -> None:
        if self.settings.presets[folder.clip.entry.generation_params.model].camera == "path":
            super()._handle(folder)
        else:
            self._charged = folder
            self._make([folder, *self._companions(folder)])

    def _companions(self, folder: ClipFolder) -> list[ClipFolder]:
        """More clips for a round; one that was attempted before is worked alone. They are charged when they run."""
        model = folder.clip.entry.generation_params.model
        together = self.settings.presets[model].together
        if self.next is not None and self.next.bound is not None:
            together = min(together, self.next.bound - len(self.next.ids))
        found: list[ClipFolder] = []
        while folder.clip.attempts[self.stage] == 1 and len(found) < together - 1:
            other = self.worker.claim(lambda waiting: [clip for clip in waiting if clip.model == model and clip.fresh])
            if other is None:
                break
            self.worker.charge(other, -1)
            found.append(other)
        return found

    def _make(self, folders: list[ClipFolder]) -> None:
        """One round: every clip is made, or given back, or given up."""
        hands: dict[str, InHand] = {}
        for folder in folders:
            self.announce(folder)
            self.settle(folder, partial(self._take, folder, hands))
        try:
            if hands:
                self._round(hands)
        except Exception as error:
            for hand in hands.values():  # whatever ends a round ends it for all that were not done
                with contextlib.suppress(Stopped):
                    self.settle(hand.folder, partial(_throw, error))
            if isinstance(error, Stopped):
                raise

    def _take(self, folder: ClipFolder, hands: dict[str, InHand]) -> None:
        if not self.due(folder):
            self.hand_on(folder)
            return
        name = folder.clip.clip_id
        self._charge(folder)
        job = self._prepared(name) or prepare(folder, self.settings)
        hands[name] = InHand(folder, replace(job, report=self.runtime.reporter(folder)))

    def _round(self, hands: dict[str, InHand]) -> None:
        jobs = [hand.job for hand in hands.values()]
        preset = self.settings.presets[jobs[0].plan.preset]
        if self._models.loaded != preset.name:
            self.log.info("model.loading", model=preset.name)
        generator = self._models.get(preset)
        encoded = generator.encode([*jobs, *self._look_ahead(preset.name)])
        if encoded:
            self.log.info("prompts.encoded", model=preset.name, prompts=encoded)
        with self.runtime.metrics.gpu_time():
            for job, made in generator.run(jobs, lambda job: self._charge(hands[job.name].folder if job else None)):
                hand = hands.pop(job.name)
                self.settle(hand.folder, partial(self._write, hand, made))

    def _write(self, hand: InHand, made: Made | Exception) -> None:
        if isinstance(made, Exception):
            if self._charged is not hand.folder:  # another runs by now
                self.worker.charge(hand.folder, 1)
            raise made
        hand.kept = self._aside.submit(keep, hand.folder, hand.job, made, self.settings)
        self._writing.append(hand)
        self._hand_on_written()

    def _hand_on_written(self, *, wait: bool = False) -> None:
        for hand in [hand for hand in self._writing if hand.kept and (wait or hand.kept.done())]:
            self._writing.remove(hand)
            self.settle(hand.folder, partial(self._conclude, hand))

    def _conclude(self, hand: InHand) -> None:
        assert hand.kept is not None  # noqa: S101 - it was submitted before it got on the list
        details = hand.kept.result()
        self.record(hand.folder, details, time.monotonic() - hand.begun)
        clip = hand.folder.clip
        self.tracker.track_video_operation("generate", clip, hand.folder.image, frame_count=details["frames"])
        self.hand_on(hand.folder)

    def _charge(self, folder: ClipFolder | None) -> None:
        """Count the attempt against the clip whose steps run: if this process dies now, it is that one's."""
        if folder is None or folder is self._charged:
            return
        if self._charged is not None and self._charged.path.exists():
            self.worker.charge(self._charged, -1)
        self.worker.charge(folder, 1)
        self._charged = folder

    def _look_ahead(self, model: str) -> Sequence[Job]:
        """Begin to prepare the clips that come next; those that are prepared."""
        waiting = [clip.clip_id for clip in self.room.waiting() if clip.model == model][:AHEAD]
        self._ahead = {name: job for name, job in self._ahead.items() if name in waiting} | {
            name: self._aside.submit(self._prepare_waiting, name) for name in waiting if name not in self._ahead
        }
        done = [job for job in self._ahead.values() if job.done() and job.exception() is None]
        return [replace(job.result(), report=self.runtime.breathe) for job in done]

    def _prepare_waiting(self, name: str) -> Job:
        return prepare(ClipFolder.open(self.room.ready / name), self.settings)

    def _prepared(self, name: str) -> Job | None:
        job = self._ahead.pop(name, None)
        if job is None:
            return None
        try:
            return job.result()
        except Exception:  # noqa: BLE001 - it may have been claimed meanwhile: whatever it is, it comes again
            return None

    def _recycle(self) -> None:
        """Leave, to be started afresh, when memory of the host was not given back."""
        held = host_bytes() if self._models.loaded else 0
        self._host_bytes = self._host_bytes or held
        if held > self._host_bytes + HOST_GROWTH_BYTES and not self._writing:
            self.log.warning("worker.recycled", grown_gib=round((held - self._host_bytes) / 2**30, 1))
            self.runtime.stop()


def _throw(error: Exception) -> None:
    raise error
