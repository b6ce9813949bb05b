"""The daemon of the server's inbox: batches enter once, results leave on the Mac's word, what fails QA enters again."""

from __future__ import annotations

import contextlib
from pathlib import Path

from core import delivery, fsops
from core.admission import Admission, NotYet
from core.alerts import ServerAlerts
from core.contract import ResultAck, load
from core.disk import LOW, DiskGuard
from core.drops import Settler
from core.errors import BadSettings, DiskFull, DropreelError, ProcessFailed, Refused, Stopped, UnreadableClip
from core.figures import DiskFigures, RoomFigures
from core.home import Home
from core.metrics import forget
from core.notify import Teller
from core.overview import ServerStatus, results_in, server_status
from core.pace import Pace
from core.rooms import Worker
from core.rsync import probe
from core.settings import NotifySettings, Settings
from core.tracker import FileTracker
from core.watch import Hint
from core.work import unwatched
from daemons.runtime import AGAIN, IDLE, Daemon, Runtime
from daemons.stage import room_of
from daemons.supervisor import children_of

PATIENCE_RESENDS = 3
"""A file that does not come while the sender would have sent it so often is not coming."""
STATUS_SECONDS = 5.0
"""So often the server says how it stands,"""
FORGET_SECONDS = 60.0
"""and looks for metrics of workers that are no longer."""
RETRY_SECONDS = 30.0
"""A batch that could not be read, or a retry that could not be finished, is tried again after so long."""


class IntakeDaemon(Daemon):
    """Takes batches in and lets results go."""

    def __init__(self, home: Home, settings: Settings, runtime: Runtime) -> None:
        self.home = home
        self.gpu = home.gpu
        self.settings = settings
        self.runtime = runtime
        self.log = runtime.log
        self.tracker = FileTracker(self.gpu.logs, "intake")
        self.room = room_of(self.gpu, "intake", settings)
        self.worker = Worker(self.room, "cpu0")
        self.admission = Admission(self.gpu, settings, room_of(self.gpu, "generate", settings))
        self._settler: Settler[Path] = Settler()
        self._missing: dict[Path, str] = {}
        self._trouble_until: dict[Path, float] = {}
        self.disk = DiskGuard(self.gpu.root, settings.disk, self.log, runtime.clock)
        self._held = ""
        self._pace = Pace(results_in(self.gpu), runtime.clock)
        self._status: ServerStatus | None = None
        self._rsync = _version_of(settings.transport.rsync)
        runtime.metrics.add(RoomFigures(lambda: self._status))
        runtime.metrics.add(DiskFigures("gpu", self.gpu.root))
        runtime.every(STATUS_SECONDS, "status", self._write_status)
        runtime.every(FORGET_SECONDS, "metrics of former workers", self._forget_workers)
        who = NotifySettings() if settings.mac else settings.notify  # on one machine it is the courier that tells
        self._teller = Teller(self.gpu.state / "notify.json", who, runtime.log)
        self._alerts = ServerAlerts(settings.notify.stalled_minutes)
        if who.urls:
            runtime.every(STATUS_SECONDS, "alerts", self._tell_of_trouble)
        fsops.sweep(self.gpu.outbox, self.room.root)

    @property
    def hints(self) -> tuple[Hint, ...]:
        """Batches and acknowledgements that arrive, ``PAUSED`` that goes, clips that fail."""
        return Hint(self.gpu.inbox, deep=True), Hint(self.room.root), Hint(self.gpu.failed)

    def close(self) -> None:
        """Let go of the worker's name."""
        self._teller.close()
        self.worker.close()

    def step(self) -> float:
        """Finish what was cut off, let go of what the Mac has, take in what has arrived, try again what failed QA."""
        did = self._resume()
        did |= self._release()
        did |= self._finish()
        if self._must_wait():
            return IDLE
        arrivals, leftovers = self.admission.arrivals(), self.admission.leftovers()
        identities = {path: _identity(path) for path in (*arrivals, *leftovers)}
        rested = self._settler.look(identities, self.runtime.clock())
        wait = IDLE
        for path in leftovers:
            if rested[path] < self._patience:
                wait = min(wait, self._patience - rested[path])
            else:
                with contextlib.suppress(PermissionError):
                    fsops.discard(path, self.gpu.trash)
        for path in arrivals:
            again_in = self._trouble_until.get(path, 0.0) - self.runtime.clock()
            wait = min(wait, again_in if again_in > 0 else self._admit(path, rested[path]))
            self.runtime.breathe()
        did |= self._regenerate()
        return AGAIN if did else wait

    def _must_wait(self) -> bool:
        """Whether no batch may be taken in now; says why once, when it changes."""
        reason = "paused" if self.room.paused else LOW if self.disk.low else ""
        if reason != self._held:
            self.log.info("room.held" if reason else "room.open", **({"reason": reason} if reason else {}))
            self._held = reason
        return reason != ""

    def _admit(self, path: Path, rested: float) -> float:
        """Take one batch in; the seconds until it may be whole where it is not. Its trouble is its own."""
        try:
            return self._take(path, rested)
        except (Stopped, DiskFull):  # these concern all of them
            raise
        except (OSError, DropreelError) as error:
            self.log.error("batch.trouble", batch=path.name, error=str(error), again_in=RETRY_SECONDS)
            self._trouble_until[path] = self.runtime.clock() + RETRY_SECONDS
            return RETRY_SECONDS

    def _take(self, path: Path, rested: float) -> float:
        limits = self.settings.hot_folder
        repeated = (self.gpu.batch_acks / f"{path.name}.json").exists()
        try:
            arrival = self.admission.open(path)
            if arrival.by_hand and rested < limits.settle_seconds:
                return limits.settle_seconds - rested
            ack = self.admission.admit(arrival, self.runtime.breathe, wait=rested < self._patience)
            self._finish()
            self.admission.clear(arrival, ack)
        except NotYet as missing:
            if self._missing.get(path) != str(missing):
                self._missing[path] = str(missing)
                self.log.warning("batch.incomplete", batch=path.name, file=str(missing))
            return max(0.1, self._patience - rested)
        except Refused as error:
            if error.finding.code == "json_invalid" and rested < limits.incomplete_seconds:
                return limits.incomplete_seconds - rested  # perhaps half-written
            place = self.admission.refuse(path, error.finding)
            self.runtime.metrics.batch("failed")
            self.log.error("batch.refused", batch=path.name, reason=str(error), folder=str(place))
            return AGAIN
        if not repeated:
            self.runtime.metrics.batch("done")
        for outcome in ack.entries:
            if outcome.clip_id is None and not repeated:
                self.runtime.metrics.clip("failed")
            for finding in outcome.findings:
                self.log.warning("entry.refused", batch=path.name, image=outcome.image_path, reason=str(finding))
        self.log.info("batch.taken", batch=path.name, clips=sum(outcome.clip_id is not None for outcome in ack.entries))
        return AGAIN

    @property
    def _patience(self) -> float:
        """So long after the last change of a batch a file that is missing may still come."""
        return PATIENCE_RESENDS * self.settings.transport.resend_seconds

    def _finish(self) -> bool:
        did = False
        for clip in self.admission.finish():
            did = True
            self.runtime.alive()
            self.log.info("clip.entered", clip=clip.name)
            self.runtime.metrics.clip("done")
            self.tracker.track("intake", self.gpu.inbox, clip.parent, [clip.name], batch_id=clip.name.split("-")[0])
        return did

    def _resume(self) -> bool:
        """Finish the retries that were cut off. The trouble of one is its own; what cannot be read is set aside."""
        did = False
        for building in self.admission.unfinished():
            if self._trouble_until.get(building, 0.0) > self.runtime.clock():
                continue
            self.runtime.breathe()
            try:
                self.admission.resume(building)
                did = True
            except UnreadableClip as error:
                self.log.error("clip.unreadable", room="generate", folder=str(error.path), reason=str(error))
            except (OSError, DropreelError) as error:
                self.log.error("clip.trouble", clip=building.name, error=str(error), again_in=RETRY_SECONDS)
                self._trouble_until[building] = self.runtime.clock() + RETRY_SECONDS
        return did

    def _regenerate(self) -> bool:
        """Have clips that failed QA made again with the next seed, as often as the settings allow.

        Their failures lie in the outbox by then: a clip goes to ``failed/`` after its result.
        """
        did = False
        trouble: Exception | None = None
        for failed in self.admission.regenerable():
            self.runtime.breathe()
            try:
                again = self.admission.retry(failed, new_seed=True)
            except FileNotFoundError:  # an operator's retry took it this moment
                continue
            except (OSError, DropreelError) as error:  # the others are made again all the same
                trouble = trouble or error
                continue
            did = True
            clip = again.clip
            self.log.info("clip.regenerated", clip=clip.clip_id, run=clip.run, seed=clip.seed,
                          tried=clip.entry.tried_seeds)  # fmt: skip
            self.tracker.track("regenerate", failed.parent, again.path.parent, [clip.clip_id],
                               batch_id=clip.batch_id, notes=failed.name)  # fmt: skip
        if trouble is not None:
            raise trouble
        return did

    def _release(self) -> bool:
        if self.gpu.result_acks.is_symlink():  # nobody of ours made it one, and it would have us delete elsewhere
            fsops.remove(self.gpu.result_acks)
            fsops.make_folder(self.gpu.result_acks)
            self.log.error(
                "ack.unreadable", file=self.gpu.result_acks.name, reason="It was a link; now it is a folder."
            )
        found = sorted(self.gpu.result_acks.glob("[!.]*.json"))
        acks = [path for path in found if path.is_file() and not path.is_symlink()]
        for path in acks:
            try:
                ack = load(ResultAck, path)
                if delivery.release(ack, self.gpu):
                    self._pace.released(ack.clip_id)
                    self.log.info("clip.released", clip=ack.clip_id)
                    self.tracker.track(
                        "release", self.gpu.outbox, None, [ack.clip_id], batch_id=ack.clip_id.split("-")[0]
                    )
                else:
                    self.log.error("ack.mismatch", clip=ack.clip_id)
            except (Refused, UnicodeDecodeError) as error:
                self.log.error("ack.unreadable", file=path.name, reason=str(error))
            fsops.remove(path)  # one that does not fit is sent again by a Mac that still sees the result listed
        fsops.empty(self.gpu.released)
        return bool(acks)

    def _write_status(self) -> None:
        """Say how the server stands: for the Mac, for ``dropreel status``, and for Prometheus."""
        busy = self._status is not None and self._status.clips > 0
        pace = round(self._pace.look(results_in(self.gpu), busy=busy), 3)
        self._status = server_status(self.home, self.settings, pace, disk_is_low=self.disk.low, rsync=self._rsync)
        fsops.write(self.gpu.status, self._status.to_json(), durable=False)

    def _tell_of_trouble(self) -> None:
        if self._status is not None:
            self._teller.lasting(self._alerts.look(self._status, self.runtime.clock()))

    def _forget_workers(self) -> None:
        """Workers that the settings name no more are nobody's alarm."""
        forget(self.runtime.metrics.file.parent, {child.name for child in children_of(self.settings)})


def _identity(batch: Path) -> object:
    """What changes while a batch is still being put there."""
    try:
        return sorted((p.name, (s := p.lstat()).st_ino, s.st_size, s.st_mtime_ns) for p in batch.iterdir())
    except OSError:  # it is being put there this moment, or is not ours to look into
        return object()


def _version_of(rsync: str) -> str | None:
    """The version of this machine's rsync, which the Mac's doctor wants to know; None where there is none."""
    try:
        return ".".join(str(part) for part in probe(rsync, unwatched).version)
    except (BadSettings, ProcessFailed):
        return None
