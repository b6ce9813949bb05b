"""The daemon of the hot folder: drops become checked batches, and move on when the server has them."""

from __future__ import annotations

import os
from concurrent.futures import Future, ThreadPoolExecutor

from core import fsops
from core.batches import Batches, is_held
from core.contract import BatchAck, Manifest, work_key
from core.disk import DiskGuard
from core.drops import Drop, DropKey, Settler, scan
from core.errors import DiskFull, DropreelError, Finding, Refused, Stopped
from core.examine import MAYBE_UNFINISHED, Examined, examine
from core.home import Home
from core.settings import Settings
from core.tracker import FileTracker
from core.watch import Hint
from daemons.runtime import AGAIN, IDLE, Daemon, Runtime

EXAMINERS = min(4, os.cpu_count() or 1)
"""Threads that look at drops at the same time; each holds one decoded picture."""
RETRY_SECONDS = 30.0
"""A drop that could not be read or moved is tried again after so long, or when it changes."""


class KeyframesDaemon(Daemon):
    """Watches the hot folder."""

    def __init__(self, home: Home, settings: Settings, runtime: Runtime) -> None:
        self.mac = home.mac
        self.settings = settings
        self.runtime = runtime
        self._lock = fsops.hold(self.mac.state / "locks" / "keyframes")
        self.log = runtime.log
        self.tracker = FileTracker(self.mac.logs, "keyframes")
        self.batches = Batches(self.mac, settings.project_id)
        self.disk = DiskGuard(self.mac.root, settings.disk, self.log, runtime.clock)
        self._ours = (self.mac.sent, self.mac.rejected)
        self._settler: Settler[DropKey] = Settler()
        self._examined: dict[DropKey, Examined] = {}
        self._made_by: dict[str, DropKey] = {}
        """Of what was examined, by its ``work_key``: a thousand drops are not to be compared with each other."""
        self._last_settled = 0.0
        self._retry_at: dict[tuple[DropKey, object], float] = {}
        self._conclude_at: dict[str, float] = {}
        self._hot_is_there = True
        self._recovered = False

    @property
    def hints(self) -> tuple[Hint, ...]:
        """Drops, and the server's answers."""
        return Hint(self.mac.hot), Hint(self.mac.acks)

    def close(self) -> None:
        """Let another of this name run."""
        os.close(self._lock)

    def step(self) -> float:
        """Conclude what the server has answered, then look at what lies in the hot folder."""
        if self.mac.hot.is_dir() != self._hot_is_there:
            self._hot_is_there = not self._hot_is_there
            word = "source.back" if self._hot_is_there else "source.unavailable"
            self.log.warning(word, folder=str(self.mac.hot))
        if not self._hot_is_there:  # deleted, or not mounted: that is not the same as empty
            return IDLE
        for folder in self._ours:  # the operator may have made the hot folder again
            fsops.make_folder(folder)
        if not self._recovered:
            self._recovered = True  # tried once: what cannot be tidied must not keep drops from being taken
            self.batches.recover()
        wait = self._conclude()
        drops = [drop for drop in scan(self.mac.hot, self._ours) if drop.group.images]
        held = self.batches.held()
        here = {drop.key: drop for drop in drops if not is_held(drop, held.get(drop.key, ()))}
        rested = self._settler.look({key: drop.identity() for key, drop in here.items()}, self.runtime.clock())
        wait = min(wait, self._examine_rested(here, rested))
        return wait if self.disk.low else min(wait, self._send())

    def _examine_rested(self, here: dict[DropKey, Drop], rested: dict[DropKey, float]) -> float:
        """Examine the drops that have come to rest; the seconds until the next one will have."""
        limits = self.settings.hot_folder
        moment = self.runtime.clock()
        # A drop that changed or went after it was examined is examined again, or forgotten.
        self._examined = {
            k: e for k, e in self._examined.items() if k in here and e.drop.identity() == here[k].identity()
        }
        wait = IDLE
        resting = []
        for key, drop in here.items():
            if key in self._examined:
                continue
            blocked = self._retry_at.get((key, drop.identity()), moment)
            patience = limits.settle_seconds
            if not drop.group.sidecars:
                patience = IDLE if limits.sidecar_required else max(patience, limits.sidecar_grace_seconds)
            due = max(patience - rested[key], blocked - moment)
            if due > 0:
                wait = min(wait, due)
            else:
                resting.append(drop)
        # Never more than fill one batch, which then goes out: the first of a thousand do not wait for the last.
        resting = resting[: limits.batch_max - len(self._examined)]
        with ThreadPoolExecutor(EXAMINERS) as pool:  # decoding and hashing let other threads run
            futures = [pool.submit(examine, drop, self.mac.hot, self.settings) for drop in resting]
            for drop, future in zip(resting, futures, strict=True):
                wait = min(wait, self._judge(drop, future, rested[drop.key]))
                self.runtime.alive()
                if self.runtime.stopping:
                    pool.shutdown(cancel_futures=True)
                    break
        return wait

    def _judge(self, drop: Drop, future: Future[Examined], rested: float) -> float:
        """Take up what was found of one drop; the seconds until it wants to be looked at again."""
        key, name = drop.key, drop.group.images[0]
        try:
            try:
                fsops.guard(drop.folder / name)  # what must not be moved must not be taken
                examined = future.result()
            except Refused as error:
                patience = self.settings.hot_folder.incomplete_seconds - rested
                if error.finding.code in MAYBE_UNFINISHED and patience > 0:
                    return self._later(drop, patience)
                self._reject(drop, [error.finding])
                return AGAIN
            twin = self._twin_of(examined)
            if twin is not None:
                self._reject(drop, [twin])
                return AGAIN
        except FileNotFoundError:  # gone while we looked: the next scan tells
            return IDLE
        except DiskFull:
            raise
        except (OSError, DropreelError) as error:
            self.log.error("drop.trouble", name=name, error=str(error), again_in=RETRY_SECONDS)
            return self._later(drop, RETRY_SECONDS)
        except Exception as error:  # one drop that finds a fault of ours must not hold up the others
            self.log.exception("drop.crashed", name=name)
            self._reject(drop, [Finding(code="unexpected", file=name, message=f"{type(error).__name__}: {error}.",
                                        remedy="This is a fault of Dropreel: the log has the traceback.")])  # fmt: skip
            return IDLE
        self.log.info("drop.settled", name=name, motion=examined.entry.motion.type)
        for finding in examined.findings:
            self.log.warning("drop.finding", name=name, code=finding.code, finding=str(finding))
        self._examined[key] = examined
        self._made_by[work_key(examined.entry)] = key
        self._last_settled = self.runtime.clock()
        return IDLE

    def _twin_of(self, examined: Examined) -> Finding | None:
        """What to say of a drop whose clip was asked for before, in an earlier batch or in the one being gathered."""
        taken = self.batches.made_before(examined.entry)
        if taken is not None:
            said, remedy = f"are in batch {taken.batch_id} as '{taken.stem}'", f"Look in results/{taken.batch_id}/"
        else:
            key = work_key(examined.entry)
            other = self._examined.get(self._made_by[key]) if key in self._made_by else None
            if other is None or work_key(other.entry) != key:  # it went, or was changed, after it was examined
                return None
            said, remedy = f"were dropped as '{other.entry.stem}'", "Wait for that one"
        return Finding(
            code="made_before",
            file=examined.drop.group.images[0],
            message=f"The same picture and motion {said}.",
            remedy=f"{remedy}, or change the motion.",
        )

    def _later(self, drop: Drop, seconds: float) -> float:
        """Leave a drop alone for a while, unless it changes."""
        moment = self.runtime.clock()
        self._retry_at = {which: due for which, due in self._retry_at.items() if due > moment}
        self._retry_at[drop.key, drop.identity()] = moment + seconds
        return seconds

    def _send(self) -> float:
        """Close the batch if it is full or nothing new has settled for a while; the seconds until it might be."""
        if not self._examined:
            return IDLE
        limits = self.settings.hot_folder
        due = limits.batch_seconds - (self.runtime.clock() - self._last_settled)
        if len(self._examined) < limits.batch_max and due > 0:
            return due
        stems: dict[str, Examined] = {}  # unique within a batch; a second of the same name waits for the next
        for examined in sorted(self._examined.values(), key=lambda e: e.drop.key):
            if len(stems) < limits.batch_max:
                stems.setdefault(examined.entry.stem.casefold(), examined)
        manifest, changed = self.batches.send(list(stems.values()), self.runtime.breathe)
        for examined in stems.values():
            del self._examined[examined.drop.key]
        self._made_by = {made: key for made, key in self._made_by.items() if key in self._examined}
        for examined in changed:
            self.log.info("drop.changed", name=examined.drop.group.images[0])
        if manifest is not None:
            names = [entry.stem for entry in manifest.keyframes]
            self.log.info("batch.sent", batch=manifest.batch_id, clips=len(names))
            self.tracker.track("package", self.mac.hot, self.mac.outbox / manifest.batch_id,
                               [file.name for entry in manifest.keyframes for file in entry.files],
                               batch_id=manifest.batch_id)  # fmt: skip
        return AGAIN

    def _reject(self, drop: Drop, findings: list[Finding]) -> None:
        names = drop.group.files
        place = self.batches.reject(drop.folder, names, drop.group.stem, findings)
        self.log.warning("drop.rejected", name=drop.group.stem, code=findings[0].code, reason=str(findings[0]),
                         folder=str(place))  # fmt: skip
        self.tracker.track("reject", drop.folder, place, list(names), notes=findings[0].code)

    def _conclude(self) -> float:
        """Let go of the batches that the server has answered; ``AGAIN``, or the seconds until one is tried again."""
        moment = self.runtime.clock()
        self._conclude_at = {batch: due for batch, due in self._conclude_at.items() if due > moment}
        wait = min(self._conclude_at.values(), default=IDLE) - moment
        for manifest, ack in self.batches.acknowledged():
            batch = manifest.batch_id
            if batch in self._conclude_at:
                continue
            try:
                self._conclude_batch(manifest, ack)
            except (Stopped, DiskFull):  # these concern all of them
                raise
            except (OSError, DropreelError) as error:  # a folder that is read-only, perhaps: the others go on
                self.log.error("batch.trouble", batch=batch, error=str(error), again_in=RETRY_SECONDS)
                self._conclude_at[batch] = moment + RETRY_SECONDS
                wait = min(wait, RETRY_SECONDS)
                continue
            self.log.info("batch.accepted", batch=batch)
            wait = AGAIN
        return wait

    def _conclude_batch(self, manifest: Manifest, ack: BatchAck) -> None:
        for entry, outcome, place in self.batches.conclude(manifest, ack):
            names = [file.name for file in entry.files]
            if outcome.clip_id:
                self.log.info("drop.accepted", name=entry.stem, clip=outcome.clip_id)
                self.tracker.track("archive", self.mac.hot, place, names, batch_id=manifest.batch_id)
            else:
                reason = outcome.findings[0] if outcome.findings else ack.refused
                self.log.warning("drop.rejected", name=entry.stem, code=reason.code if reason else "not_taken",
                                 reason=str(reason), folder=str(place))  # fmt: skip
                self.tracker.track("reject", self.mac.hot, place, names, batch_id=manifest.batch_id)
            self.runtime.breathe()
