"""The daemon between the halves: batches go out, acknowledgements and results come back."""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TypeVar

from tenacity import RetryCallState, Retrying, retry_if_exception_type, wait_random_exponential

from core import fsops, receipt
from core.contract import BATCH_ID
from core.errors import BadSettings, DiskFull, DropreelError, Refused, Stopped
from core.home import Home
from core.network import NetworkChanges
from core.rsync import LinkLost, LinkRefused
from core.settings import Settings
from core.tracker import FileTracker
from core.transfer import LocalTransport, Result, RsyncTransport, Transport
from core.watch import Hint
from daemons.runtime import AGAIN, IDLE, ONCE_TRIES, Daemon, Runtime

LONGEST_PAUSE = 60.0
"""While the server cannot be reached it is tried after a pause at random, which grows up to so many seconds."""
REFUSED_SECONDS = 60.0
"""What a person has to mend is tried again after so long."""

_BATCH_ID = re.compile(BATCH_ID)


class CourierDaemon(Daemon):
    """Carries; it believes nothing to have arrived but what is acknowledged by hash."""

    def __init__(self, home: Home, settings: Settings, runtime: Runtime) -> None:
        self.mac = mac = home.mac
        self.settings = settings.transport
        self.runtime = runtime
        self._lock = fsops.hold(mac.state / "locks" / "courier")
        self.log = runtime.log
        self.tracker = FileTracker(mac.logs, "courier")
        fsops.sweep(mac.acks, mac.incoming, mac.result_acks, mac.results)
        self.transport: Transport
        if self.settings.kind == "rsync":
            self.transport = RsyncTransport(mac, home.root, self.settings, runtime.breathe)
            self._hints: tuple[Hint, ...] = (Hint(mac.outbox),)
            self._look_seconds = self.settings.look_seconds
        else:
            if not home.gpu.root.is_dir():  # else it would carry everything into a folder that nobody looks into
                raise BadSettings("transport.kind = \"local\" carries to the server's half of this home, and there is "
                                  "none. Set kind = \"rsync\", or make a home with --role both.")  # fmt: skip
            self.transport = LocalTransport(mac, home.gpu, runtime.breathe)
            self._hints = Hint(mac.outbox), Hint(home.gpu.outbox, deep=True)
            self._look_seconds = IDLE
        self._network = NetworkChanges()
        self._link_lost_at: float | None = None
        self._refusal = ""
        self._pushed_at: dict[str, float] = {}
        self._told_at: dict[str, float] = {}

    @property
    def hints(self) -> tuple[Hint, ...]:
        """Batches to send; and, where both halves are on one disk, what the server answers and delivers."""
        return self._hints

    def close(self) -> None:
        """Let another of this name run."""
        self._network.close()
        os.close(self._lock)

    def step(self) -> float:
        """Carry all there is to carry, as often as the link needs; the seconds until the next look."""
        link = Retrying(
            retry=retry_if_exception_type(LinkLost),
            wait=wait_random_exponential(multiplier=1.0, max=LONGEST_PAUSE),
            stop=lambda tries: self.runtime.once and tries.attempt_number >= ONCE_TRIES,
            sleep=lambda seconds: self.runtime.rest(seconds, self._network),
            before_sleep=self._say_lost,
            reraise=True,
        )
        self._network.happened()  # what has changed until now is no reason to hurry
        try:
            did = link(self._carry)
        except LinkRefused as error:
            if self.runtime.once:
                raise
            if str(error) != self._refusal:
                self._refusal = str(error)
                self.log.error("link.refused", reason=self._refusal, again_in=REFUSED_SECONDS)
            return REFUSED_SECONDS
        return AGAIN if did else IDLE if self.runtime.once else self._look_seconds

    def _say_lost(self, tries: RetryCallState) -> None:
        if self._link_lost_at is None:
            self._link_lost_at = self.runtime.clock()
            error = tries.outcome.exception() if tries.outcome else None
            self.log.warning("link.lost", reason=str(error))
        self.runtime.alive(f"the server cannot be reached, try {tries.attempt_number}")

    def _say_back(self) -> None:
        if self._link_lost_at is not None:
            self.log.warning("link.back", seconds=round(self.runtime.clock() - self._link_lost_at, 1))
        self._link_lost_at = None
        self._refusal = ""

    def _carry(self) -> bool:
        """Look at what the server says, and do what follows from it; whether there was anything to do."""
        unanswered = self._unanswered()
        results = self.transport.look(unanswered)
        self._say_back()
        did = self._take_answers(unanswered)
        did |= self._push([batch_id for batch_id in self._unanswered() if self._is_due(self._pushed_at, batch_id)])
        did |= self._receive([result for result in results if not self._ack_of(result.clip_id).exists()])
        did |= self._tell({result.clip_id for result in results})
        return did

    @contextlib.contextmanager
    def _apart(self, what: Sequence[str]) -> Iterator[None]:
        """The trouble of some batches or clips is their own: the others go on, and a later look tries them again."""
        try:
            yield
        except (Stopped, DiskFull, LinkLost, LinkRefused):  # these concern all of them
            raise
        except (OSError, DropreelError) as error:
            self.log.error("courier.trouble", what=" ".join(what), error=str(error))

    def _is_due(self, sent_at: dict[str, float], name: str) -> bool:
        return name not in sent_at or self.runtime.clock() - sent_at[name] >= self.settings.resend_seconds

    def _ack_of(self, clip_id: str) -> Path:
        return self.mac.result_acks / f"{clip_id}.json"

    def _unanswered(self) -> list[str]:
        ids = [path.name for path in sorted(self.mac.outbox.iterdir()) if _BATCH_ID.fullmatch(path.name)]
        return [batch_id for batch_id in ids if not (self.mac.acks / f"{batch_id}.json").exists()]

    def _take_answers(self, asked: list[str]) -> bool:
        """Say which batches have been answered."""
        answered = sorted(set(asked) - set(self._unanswered()))
        for batch_id in answered:
            self._pushed_at.pop(batch_id, None)
            self.log.info("batch.acknowledged", batch=batch_id)
        return bool(answered)

    def _push(self, batch_ids: list[str]) -> bool:
        """Send batches; one that was sent and is not answered in time is sent again."""
        for some in _groups(batch_ids, self.transport.together):
            with self._apart(some):
                batches = [self.mac.outbox / batch_id for batch_id in some]
                self.transport.push(batches)
                for batch in batches:
                    self.log.info("batch.pushed", batch=batch.name)
                    self.tracker.track("push", batch, None, sorted(path.name for path in batch.iterdir()),
                                       batch_id=batch.name)  # fmt: skip
            self._pushed_at |= dict.fromkeys(some, self.runtime.clock())
            self.runtime.breathe()
        return bool(batch_ids)

    def _receive(self, results: list[Result]) -> bool:
        """Fetch results and put them in their places; whether any is here now that was not."""
        did = False
        for some in _groups(results, self.transport.together):
            with self._apart([result.clip_id for result in some]):
                self.transport.fetch(some)
            for result in some:  # whatever became of the others, and of the call
                with self._apart([result.clip_id]):
                    did |= self._place(result)
                self.runtime.breathe()
        for batch in self.mac.incoming.iterdir():
            for clip in batch.iterdir():
                if (
                    Result(batch.name, clip.name) not in results
                ):  # it was placed before a crash, or the server's is gone
                    fsops.discard(clip, self.mac.state / "trash")
            fsops.remove_folder(batch)
        return did

    def _place(self, result: Result) -> bool:
        """Put one result in its place; False for one that arrived damaged or not at all: a later look fetches it."""
        incoming = self.mac.incoming / result.batch_id / result.clip_id
        log = self.log.bind(clip=result.clip_id)
        try:
            meta, place = receipt.place(incoming, self.mac)
        except Refused as error:
            fsops.discard(incoming, self.mac.state / "trash")
            log.error("clip.damaged", reason=str(error))
            return False
        except FileNotFoundError as error:  # it left the outbox while we looked, or is not all here
            log.warning("clip.not_fetched", error=str(error))
            return False
        folder = str(place.parent)
        size = sum(file.size for file in meta.files)
        log.info("clip.received", name=meta.entry.stem, outcome=meta.outcome, bytes=size, folder=folder)
        if meta.failure is not None:
            log.error("clip.failed", name=meta.entry.stem, stage=meta.failure.stage, reason=meta.failure.message)
        self.tracker.track(
            "receive", incoming, place.parent, [file.path for file in meta.files], batch_id=meta.batch_id
        )
        return True

    def _tell(self, listed: set[str]) -> bool:
        """Acknowledge what is here, until the server lists it no more; whether there was anything to say or forget."""
        due = []
        did = False
        for ack in sorted(self.mac.result_acks.glob("[!.]*.json")):
            if ack.stem not in listed:
                fsops.remove(ack)
                self._told_at.pop(ack.stem, None)
                self.log.info("clip.released", clip=ack.stem)
                did = True
            elif self._is_due(self._told_at, ack.stem):
                due.append(ack)
        if due:
            clips = [ack.stem for ack in due]
            with self._apart(clips):
                self.transport.acknowledge(due)
            self._told_at |= dict.fromkeys(clips, self.runtime.clock())
        return did or bool(due)


T = TypeVar("T")


def _groups(things: Sequence[T], size: int) -> Iterator[Sequence[T]]:
    for start in range(0, len(things), size):
        yield things[start : start + size]
