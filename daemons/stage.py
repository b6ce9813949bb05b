"""What the daemons of the four rooms share: claim a clip, do the stage's work on it, hand it on."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Collection
from typing import Any, ClassVar

from core import delivery, fsops
from core.contract import Failure, Rejection, StageRecord, now
from core.disk import LOW, DiskGuard
from core.errors import Cancelled, DiskFull, MustRestart, Refused, Stopped, UnreadableClip
from core.home import REASON_FILE, STAGES, GpuHalf, Home
from core.logs import Logger
from core.rooms import ClipFolder, Room, Waiting, Worker
from core.settings import Settings
from core.tracker import FileTracker
from core.watch import Hint
from core.work import Report
from daemons.runtime import AGAIN, IDLE, Daemon, Runtime


class StageDaemon(Daemon):
    """One worker of one room."""

    stage: ClassVar[str]
    done: ClassVar[str]
    """The event that says this stage is done with a clip: ``clip.generated``."""

    def __init__(self, home: Home, settings: Settings, worker: str, runtime: Runtime) -> None:
        self.home: GpuHalf = home.gpu
        self.settings = settings
        self.runtime = runtime
        self.log: Logger = runtime.log.bind(room=self.stage)
        self.tracker = FileTracker(self.home.logs, self.stage)
        self.room = room_of(self.home, self.stage, settings)
        following = STAGES[STAGES.index(self.stage) + 1 :]
        self.next = room_of(self.home, following[0], settings) if following else None
        self.worker = Worker(self.room, worker)
        self.disk = DiskGuard(self.home.root, settings.disk, self.log, runtime.clock)
        self._held = ""
        self._unreturned: set[str] = set()
        """Clips that stay in hand because the disk has not even room for giving them back."""

    @abstractmethod
    def work(self, folder: ClipFolder, report: Report) -> dict[str, Any]:
        """Do this stage's work inside the clip's folder; returns what is to be recorded of it.

        May run again on a folder where it ran before, whole or in part. Raises ``Refused`` for a clip that can never
        be made, ``Stopped`` and ``Cancelled`` as ``report`` does; anything else is tried again.
        """

    @property
    def busy(self) -> Collection[str]:
        """The clips that are worked on beside the one that is in hand."""
        return ()

    def order(self, waiting: list[Waiting]) -> list[Waiting]:
        """The order in which waiting clips are claimed; the room's own."""
        return waiting

    @property
    def hints(self) -> tuple[Hint, ...]:
        """Clips that arrive, a place that becomes free in the next room, ``PAUSED`` that goes."""
        rooms = (self.room, self.next) if self.next else (self.room,)
        return (*(Hint(room.ready) for room in rooms), Hint(self.room.root))

    def close(self) -> None:
        """Let go of the worker's name."""
        self.worker.close()

    def step(self) -> float:
        """Help the dead, then work on the next clip."""
        try:
            for path in self.worker.orphans(self.busy):
                self._recover(ClipFolder.open(path))
            if self._must_wait():
                return self.disk.again_in or IDLE
            folder = self.worker.claim(self.order)
        except UnreadableClip as error:
            self._set_aside(error)
            return AGAIN
        if folder is None:
            return IDLE
        self._handle(folder)
        return AGAIN

    def _must_wait(self) -> bool:
        """Whether nothing may be claimed now; says why once, when it changes."""
        if self.room.paused:
            reason = "paused"
        elif self.next is not None and self.next.places <= len(self.busy):  # each of those has a place there
            reason = f"{self.next.name} is full"
        elif self.disk.low:
            reason = LOW
        else:
            reason = ""
        if reason != self._held:
            self.log.info("room.held" if reason else "room.open", **({"reason": reason} if reason else {}))
            self._held = reason
        return reason != ""

    def _recover(self, folder: ClipFolder) -> None:
        """Put a dead worker's clip back, or give it up when it has killed its workers too often."""
        attempts = folder.clip.attempts.get(self.stage, 0)
        log = self.log.bind(clip=folder.clip.clip_id, attempts=attempts)
        if folder.clip.failure is not None:
            self._fail(folder)
        elif folder.clip.clip_id in self._unreturned:
            self._return(folder)
        elif attempts >= self.settings.rooms.max_attempts:
            self.runtime.metrics.attempt_failed()
            self._give_up(folder, "worker_died", f"The worker died {attempts} times over this clip.",
                          "Look for its last words in the logs, then `dropreel retry` it.")  # fmt: skip
        else:
            self.worker.give_back(folder, count_attempt=True)
            self.runtime.metrics.attempt_failed()
            log.warning("clip.recovered")

    def _return(self, folder: ClipFolder) -> None:
        """Give back a clip that the disk had no room for: that was no attempt, however long it takes to say so."""
        self.worker.give_back(folder, count_attempt=False)
        self._unreturned.discard(folder.clip.clip_id)

    def _handle(self, folder: ClipFolder) -> None:
        """Do all that this stage does with one clip."""
        self.announce(folder)

        def whole() -> None:
            if self.due(folder):
                begun = self.runtime.clock()
                details = self.work(folder, self.runtime.reporter(folder))
                self.record(folder, details, self.runtime.clock() - begun)
            self.hand_on(folder)

        self.settle(folder, whole)

    def announce(self, folder: ClipFolder) -> None:
        """Say that a clip is in hand."""
        clip = folder.clip
        self.log.info("clip.claimed", clip=clip.clip_id, attempt=clip.attempts[self.stage], name=clip.entry.stem)

    def due(self, folder: ClipFolder) -> bool:
        """Whether this stage's work is still to be done; not where a crash came after it. Raises ``Cancelled``."""
        if folder.cancelled:
            raise Cancelled
        return self.stage not in folder.clip.stages

    def record(self, folder: ClipFolder, details: dict[str, Any], seconds: float) -> None:
        """Note in a clip that this stage is done with it. Raises ``Cancelled``."""
        if folder.cancelled:
            raise Cancelled
        folder.clip.stages[self.stage] = StageRecord(
            seconds=round(seconds, 3),
            finished_at=now(),
            worker=self.worker.name,
            attempts=max(1, folder.clip.attempts.get(self.stage, 1)),
            details=details,
        )
        self.log.info(self.done, clip=folder.clip.clip_id, seconds=round(seconds, 3))

    def hand_on(self, folder: ClipFolder) -> None:
        """Give a clip that this stage is done with to the next."""
        clip = folder.clip
        self.publish(folder)
        flagged = clip.qa is not None and clip.qa.verdict == "flag"
        self.runtime.metrics.clip("flagged" if flagged else "done", clip.stages[self.stage].seconds)

    def settle(self, folder: ClipFolder, do: Callable[[], None]) -> None:
        """Do something with a clip in hand; whatever goes wrong, it ends where it belongs.

        Raises ``Stopped``, ``MustRestart``, and what fails once the clip has left this room.
        """
        try:
            self._try(folder, do)
        except DiskFull as error:  # is no attempt: the clip goes behind those that the disk has room for
            self.log.error("disk.full", clip=folder.clip.clip_id, reason=str(error))
            self.disk.found_full()
            self.worker.hindmost.add(folder.clip.clip_id)
            if folder.path.exists():
                self._unreturned.add(folder.clip.clip_id)
                self._return(folder)

    def _try(self, folder: ClipFolder, do: Callable[[], None]) -> None:
        clip = folder.clip
        attempts = clip.attempts.get(self.stage, 1)
        log = self.log.bind(clip=clip.clip_id)
        try:
            if clip.failure is not None:  # it was given up before, on a full disk
                self._fail(folder)
            else:
                do()
        except Stopped:
            self.worker.give_back(folder, count_attempt=False)
            log.info("clip.given_back")
            raise
        except Cancelled:
            self._give_up(
                folder,
                "cancelled",
                "The operator cancelled this clip.",
                "`dropreel retry` makes it all the same.",
            )
        except Refused as error:
            self._give_up(folder, error.finding.code, str(error), error.finding.remedy)
        except DiskFull:
            raise
        except MustRestart as error:
            log.error("clip.attempt_failed", attempt=attempts, error=str(error))
            raise  # the clip stays in hand: the next life of this worker finds it there, and counts the attempt
        except Exception as error:
            if not folder.path.exists():  # it has left this room: what failed came after
                raise
            log.exception("clip.attempt_failed", attempt=attempts, error=str(error))
            self.runtime.metrics.attempt_failed()
            if attempts >= self.settings.rooms.max_attempts:
                self._give_up(folder, "gave_up", f"{type(error).__name__}: {error}",
                              "The log has the traceback; `dropreel retry` tries again.")  # fmt: skip
            else:
                self.worker.give_back(folder, count_attempt=True)

    def publish(self, folder: ClipFolder) -> None:
        """Hand a clip on to the next room."""
        assert self.next is not None, "the last stage has a publish of its own"  # noqa: S101 - a fact of the code
        self.worker.publish(folder, self.next)

    def _give_up(self, folder: ClipFolder, code: str, message: str, remedy: str | None) -> None:
        attempts = max(1, folder.clip.attempts.get(self.stage, 1))
        folder.clip.failure = Failure(
            stage=self.stage, code=code, message=message, remedy=remedy, attempts=attempts, failed_at=now()
        )
        self._fail(folder)

    def _fail(self, folder: ClipFolder) -> None:
        """Bring a clip that is given up to its end, again where a crash or a full disk came between."""
        failure = folder.clip.failure
        assert failure is not None  # noqa: S101 - who calls this has seen to it
        delivery.fail(folder, failure, self.home)
        self.log.error("clip.failed", clip=folder.clip.clip_id, code=failure.code, reason=failure.message)
        self.runtime.metrics.clip("cancelled" if failure.code == "cancelled" else "failed")
        self.tracker.track("fail", folder.path.parent, self.home.failed, [folder.path.name],
                           batch_id=folder.clip.batch_id, notes=failure.code)  # fmt: skip

    def _set_aside(self, error: UnreadableClip) -> None:
        """A folder whose ``clip.json`` cannot be read is no clip any more; a person may look at it."""
        reason = Rejection.of([error.finding], [path.name for path in error.path.iterdir()])
        fsops.write(error.path / REASON_FILE, reason.to_json())
        target = fsops.free_name(self.home.failed / f"{error.path.name}.unreadable")
        fsops.move(error.path, target)
        self.log.error("clip.unreadable", folder=str(target), reason=str(error))


def room_of(gpu: GpuHalf, name: str, settings: Settings) -> Room:
    """A room with the bound that the settings give it."""
    return Room(gpu.rooms / name, settings.rooms.bounds.of(name))
