"""The daemon of ``rooms/generate``: one worker a GPU makes base frames."""

from __future__ import annotations

import contextlib
import math
import os
import threading
import time
from collections.abc import Callable, Collection, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar

from core import gpu
from core.cards import CardFigures, open_nvml, read, visible
from core.errors import MustRestart, Refused, Stopped, UnreadableClip
from core.generate.checks import BadFrames
from core.generate.models import Models, host_bytes
from core.generate.stage import film, keep, prepare, rehearsal
from core.home import Home
from core.rooms import ClipFolder, Waiting
from core.settings import Settings
from core.work import Report
from daemons.runtime import AGAIN, Runtime
from daemons.stage import StageDaemon

if TYPE_CHECKING:
    from core.generate.generator import Generator, Job
    from core.generate.presets import Preset

R = TypeVar("R")

AHEAD = 16
"""So many of the clips that wait are decoded, and their captions encoded, while others are made."""
OVERTAKEN_MAX = 16
"""So often may clips of the loaded model go before one of another, which a change of models would take minutes for."""
HOST_GROWTH_BYTES = 8 << 30
"""A worker that holds so much more memory than after its model's first clip leaves, to be started afresh."""
LOAD_SECONDS_MAX = 1800.0
"""A model that takes longer to load, or prompts to be encoded, is not waited for any more: the watchdog may have this
worker."""
BAD_FRAMES_MAX = 2
"""A clip that came out as none so often is given up: plan and seed are the same at every attempt, and so are frames."""


@dataclass
class InHand:
    """A clip that is being made by a model."""

    folder: ClipFolder
    job: Job
    attempt: int
    """Which attempt at it this is, from 1."""
    begun: float
    """When it was taken, by the clock of the runtime."""
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
        """The clip in hand whose steps run, or ran last: the only one whose attempt is counted."""
        self._overtaken = 0
        self._host_bytes: dict[str, int] = {}
        self._attention, self._leaner = "", False
        if not runtime.once:
            self._warm_up()

    def _warm_up(self) -> None:
        """Load the model that the settings name and make one clip of nothing, so that the first real one is as quick
        as the others; on a processor, where nothing is compiled and every clip takes long, only say what is missing."""
        preset = self.settings.presets[self.settings.generation.model]
        if preset.camera == "path":
            return
        try:
            if self._models.gain_from_rehearsal(preset):
                generator, job = self._generator(preset), rehearsal(preset, self.settings, self.runtime.breathe)
                self._encode(generator, [job])
                for _, made in generator.run([job]):
                    if isinstance(made, Exception):
                        raise made
                    self.log.info("model.ready", model=preset.name)
        except Stopped:
            return
        except MustRestart:
            raise
        except Exception as error:  # noqa: BLE001 - clips of other models can be made all the same
            self.log.error("model.missing", model=preset.name, reason=str(error))

    def work(self, folder: ClipFolder, report: Report) -> dict[str, Any]:
        """Make the base frames of a clip that needs no model. Raises ``Refused`` for one whose preset is gone."""
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
                delay = AGAIN
        except MustRestart:
            self._writing.clear()  # what has not left the card never will: found in hand, they are made again
            raise
        self._recycle()
        return delay

    def close(self) -> None:
        """Hand on what is made, and let go of everything."""
        try:
            self._hand_on_written(wait=True)
        finally:
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
        return ours + [clip for clip in waiting if clip.model != loaded or clip.rank != first.rank]

    def _handle(self, folder: ClipFolder) -> None:
        self._release()
        preset = self.settings.presets.get(folder.clip.entry.generation_params.model)
        if preset is None or preset.camera == "path":
            super()._handle(folder)
        else:
            self._charged = folder
            self._make([folder, *self._companions(folder)])

    def _companions(self, folder: ClipFolder) -> list[ClipFolder]:
        """More clips for a round; one that was attempted before is worked alone. They are charged when they run."""
        model = folder.clip.entry.generation_params.model
        together: float = self.settings.presets[model].together
        if self.next is not None:
            together = min(together, self.next.places - len(self.busy))
        overtaking: set[str] = set()

        def fitting(waiting: list[Waiting]) -> list[Waiting]:
            first = next((number for number, clip in enumerate(waiting) if clip.model != model), len(waiting))
            before = [clip for clip in waiting[:first] if clip.fresh]
            equals = [clip for clip in waiting[first:] if clip.model == model and clip.rank == waiting[first].rank]
            behind = [clip for clip in equals if clip.fresh][: max(0, OVERTAKEN_MAX - self._overtaken)]
            overtaking.update(clip.clip_id for clip in behind)
            return before + behind

        found: list[ClipFolder] = []
        while folder.clip.attempts[self.stage] == 1 and len(found) < together - 1:
            try:
                companion = self.worker.claim(fitting)
            except UnreadableClip as error:
                self._set_aside(error)
                continue
            if companion is None:
                break
            self._overtaken += companion.clip.clip_id in overtaking
            self.worker.charge(companion, -1)
            found.append(companion)
        return found

    def _make(self, folders: list[ClipFolder]) -> None:
        """One round: every clip is made, or given back, or given up."""
        hands: dict[str, InHand] = {}
        for folder in folders:
            self._charge(folder)
            self.announce(folder)
            self.settle(folder, partial(self._take, folder, hands))
        try:
            if hands:
                self._charge(next(iter(hands.values())).folder)
                self._round(hands)
        except Exception as error:  # noqa: BLE001 - raised again where it is nobody's
            self._end(hands, error)

    def _take(self, folder: ClipFolder, hands: dict[str, InHand]) -> None:
        if not self.due(folder):
            self.hand_on(folder)
            return
        name = folder.clip.clip_id
        # The first one imports torch and diffusers, which may take longer than the watchdog is patient.
        job = self._prepared(name) or self._breathing(partial(prepare, folder, self.settings))
        self._models.refuse_what_does_not_fit(job.plan)
        job = replace(job, report=self.runtime.reporter(folder))
        hands[name] = InHand(folder, job, folder.clip.attempts[self.stage], self.runtime.clock())

    def _end(self, hands: dict[str, InHand], error: Exception) -> None:
        """What ends a round ends it for all that are not done: it is the attempt of the one whose steps ran, and the
        others wait again; what is refused is refused to all."""
        culprits = [hand for hand in hands.values() if hand.folder is self._charged or isinstance(error, Refused)]
        for hand in hands.values():
            if hand not in culprits:
                self._settle(hand, partial(_throw, Stopped()))
        for hand in culprits:
            self._settle(hand, partial(_throw, error))
        if isinstance(error, (Stopped, MustRestart)) or not culprits:
            raise error

    def _settle(self, hand: InHand, do: Callable[[], None]) -> None:
        """``settle`` a clip whose steps are done, or given up; its attempt is its own again, whoever runs by now."""
        counted = hand.folder.clip.attempts.get(self.stage, 0)
        if counted != hand.attempt:
            self.worker.charge(hand.folder, hand.attempt - counted)
        with contextlib.suppress(Stopped):  # it was given back; whoever stops knows
            self.settle(hand.folder, partial(self._no_third_time, hand, do))

    def _no_third_time(self, hand: InHand, do: Callable[[], None]) -> None:
        try:
            do()
        except BadFrames as error:
            if hand.attempt < min(BAD_FRAMES_MAX, self.settings.rooms.max_attempts):
                raise
            self.runtime.metrics.attempt_failed()
            raise Refused.because("frames_bad", f"{type(error).__name__}: {error}",
                                  remedy="Choose another seed, or another model.") from error  # fmt: skip

    def _round(self, hands: dict[str, InHand]) -> None:
        jobs = [hand.job for hand in hands.values()]
        preset = self.settings.presets[jobs[0].plan.preset]
        self._look_ahead(preset.name)
        generator = self._generator(preset)
        self._encode(generator, jobs)
        with self.runtime.metrics.gpu_time():
            for job, made in generator.run(jobs, lambda job: self._charge(hands[job.name].folder if job else None)):
                self._tell_changes(generator)
                hand = hands.pop(job.name)
                if isinstance(made, Exception):
                    self._settle(hand, partial(_throw, made))
                else:
                    hand.kept = self._aside.submit(keep, hand.folder, hand.job, made, self.settings)
                    self._writing.append(hand)
                self._hand_on_written()

    def _generator(self, preset: Preset) -> Generator:
        """The model of a preset, loaded now if it was not: aside, so that this worker hears when it is to leave."""
        if self._models.loaded == preset.name:
            return self._models.get(preset)
        self.log.info("model.loading", model=preset.name)
        generator = self._breathing(partial(self._models.get, preset))
        self.log.info("model.loaded", model=preset.name, seconds=round(generator.load_seconds, 1))
        self._attention, self._leaner = preset.attention, False
        return generator

    def _encode(self, generator: Generator, jobs: Sequence[Job]) -> None:
        """Encode the prompts of a round, and of what comes after it."""

        def ours(jobs: Sequence[Job]) -> list[Job]:  # feeding the watchdog is for the loop's own thread
            return [replace(job, report=self._heed_stop) for job in jobs]

        encoded = self._breathing(lambda: generator.encode(ours(jobs), lambda: ours(self._coming())))
        if encoded:
            self.log.info("prompts.encoded", model=generator.preset.name, prompts=encoded)

    def _heed_stop(self, _fraction: float = 0.0) -> None:
        if self.runtime.stopping:
            raise Stopped

    def _breathing(self, do: Callable[[], R]) -> R:
        """Do something long in a thread, so that this worker feeds the watchdog and hears when it is to leave."""
        promise: Future[R] = Future()
        threading.Thread(target=_fulfil, args=(promise, do), daemon=True).start()
        return _result(promise, self.runtime.breathe, LOAD_SECONDS_MAX)

    def _tell_changes(self, generator: Generator) -> None:
        """Say that the loaded model works otherwise than before: the generator found that it must."""
        if generator.attention != self._attention:
            self.log.warning("attention.fallback", model=generator.preset.name, attention=self._attention)
        if generator.leaner and not self._leaner:
            self.log.warning("memory.leaner", model=generator.preset.name)
        self._attention, self._leaner = generator.attention, generator.leaner

    def _hand_on_written(self, *, wait: bool = False) -> None:
        for hand in [hand for hand in self._writing if hand.kept and (wait or hand.kept.done())]:
            self._writing.remove(hand)
            self._settle(hand, partial(self._conclude, hand))

    def _conclude(self, hand: InHand) -> None:
        assert hand.kept is not None  # noqa: S101 - it was submitted before it got on the list
        details = _result(hand.kept, self.runtime.alive)  # what is made is handed on, also by one who is to leave
        self.record(hand.folder, details, self.runtime.clock() - hand.begun)
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

    def _release(self) -> None:
        """Another clip is in hand: one that is only written by now is not to be blamed for what becomes of it."""
        for hand in self._writing:
            if hand.folder is self._charged:
                self.worker.charge(hand.folder, -1)
        self._charged = None

    def _look_ahead(self, model: str) -> None:
        """Begin to prepare the clips that come next."""
        waiting = [clip.clip_id for clip in self.room.waiting() if clip.model == model][:AHEAD]
        self._ahead = {name: job for name, job in self._ahead.items() if name in waiting} | {
            name: self._aside.submit(self._prepare_waiting, name) for name in waiting if name not in self._ahead
        }

    def _coming(self) -> list[Job]:
        """The clips that come next, once they are prepared; what is wrong with one is said when it is claimed."""
        waiting = list(self._ahead.values())
        return [preparing.result() for preparing in waiting if preparing.exception() is None]

    def _prepare_waiting(self, name: str) -> Job:
        return prepare(ClipFolder.open(self.room.ready / name), self.settings)

    def _prepared(self, name: str) -> Job | None:
        job = self._ahead.pop(name, None)
        if job is None:
            return None
        try:
            return _result(job, self.runtime.alive)
        except Exception:  # noqa: BLE001 - it may have been claimed meanwhile: whatever it is, it comes again
            return None

    def _recycle(self) -> None:
        """Leave, to be started afresh, when memory of the host was not given back."""
        model = self._models.loaded
        if not model or self.runtime.once:
            return
        held = host_bytes()
        if model not in self._host_bytes:
            self._host_bytes = {model: held}  # models differ in what they hold
        grown = held - self._host_bytes[model]
        if grown > HOST_GROWTH_BYTES:
            self.log.warning("worker.recycled", grown_gib=round(grown / 2**30, 1))
            self.runtime.stop()


def _result(promise: Future[R], between: Callable[[], None], seconds: float = math.inf) -> R:
    """What a promise becomes; ``between`` is called while it is waited for, but no longer than ``seconds``."""
    limit = time.monotonic() + seconds
    while time.monotonic() < limit and not wait([promise], timeout=0.5).done:
        between()
    return promise.result()


def _throw(error: Exception) -> None:
    raise error


def _fulfil(promise: Future[Any], do: Callable[[], Any]) -> None:
    try:
        promise.set_result(do())
    except BaseException as error:  # noqa: BLE001 - whoever waits is to hear of it
        promise.set_exception(error)
