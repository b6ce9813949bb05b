"""The daemon between the halves: batches go out, acknowledgements and results come back."""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Iterator

from core import fsops, receipt
from core.contract import BATCH_ID
from core.errors import BadSettings, DiskFull, DropreelError, Refused, Stopped
from core.home import Home
from core.settings import Settings
from core.tracker import FileTracker
from core.transfer import LocalTransport, Transport
from core.watch import Hint
from daemons.runtime import AGAIN, IDLE, Daemon, Runtime

_BATCH_ID = re.compile(BATCH_ID)


class CourierDaemon(Daemon):
    """Carries; it believes nothing to have arrived but what is acknowledged by hash."""

    def __init__(self, home: Home, settings: Settings, runtime: Runtime) -> None:
        self.mac = home.mac
        self.settings = settings
        self.runtime = runtime
        self._lock = fsops.hold(self.mac.state / "locks" / "courier")
        self.log = runtime.log
        self.tracker = FileTracker(self.mac.logs, "courier")
        if not home.gpu.root.is_dir():  # else it would carry everything into a folder that nobody looks into
            raise BadSettings("transport.kind = \"local\" carries to the server's half of this same home, and there is "
                              "none. Make the home with --role both.")  # fmt: skip
        mac = self.mac
        fsops.sweep(mac.acks, mac.incoming, mac.result_acks, mac.results)
        for ack in mac.result_acks.glob("[!.]*.json"):  # what was placed before a crash need not be fetched again
            fsops.discard(mac.incoming / ack.stem, mac.state / "trash")
        self.transport: Transport = LocalTransport(home.gpu)
        self._server = home.gpu
        self._pushed_at: dict[str, float] = {}
        self._told_at: dict[str, float] = {}

    @property
    def hints(self) -> tuple[Hint, ...]:
        """Batches to send; and, both halves being on one disk, what the server answers and delivers."""
        return Hint(self.mac.outbox), Hint(self._server.outbox, deep=True)

    def close(self) -> None:
        """Let another of this name run."""
        os.close(self._lock)

    def step(self) -> float:
        """Carry all there is to carry; what is not answered is sent again at a later look."""
        did = False
        for batch_id in self._unanswered():
            with self._apart(batch_id):
                did |= self._carry_batch(batch_id)
            self.runtime.breathe()
        listed = set()
        for batch_id, clip_id in self.transport.results():
            listed.add(clip_id)
            if not (self.mac.result_acks / f"{clip_id}.json").exists():
                with self._apart(clip_id):
                    did |= self._receive(batch_id, clip_id)
            self.runtime.breathe()
        did |= self._tell(listed)
        return AGAIN if did else IDLE

    @contextlib.contextmanager
    def _apart(self, what: str) -> Iterator[None]:
        """The trouble of one batch or clip is its own: the others go on, and a later look tries it again."""
        try:
            yield
        except (Stopped, DiskFull):  # these concern all of them
            raise
        except (OSError, DropreelError) as error:
            self.log.error("courier.trouble", what=what, error=str(error))

    def _is_due(self, sent_at: dict[str, float], name: str) -> bool:
        return name not in sent_at or self.runtime.clock() - sent_at[name] >= self.settings.transport.resend_seconds

    def _unanswered(self) -> list[str]:
        ids = [path.name for path in sorted(self.mac.outbox.iterdir()) if _BATCH_ID.fullmatch(path.name)]
        self._pushed_at = {batch_id: at for batch_id, at in self._pushed_at.items() if batch_id in ids}
        return [batch_id for batch_id in ids if not (self.mac.acks / f"{batch_id}.json").exists()]

    def _carry_batch(self, batch_id: str) -> bool:
        """Fetch the answer to a batch, or send the batch; whether there was either to do."""
        if self.transport.fetch_batch_ack(batch_id, self.mac.acks):
            self._pushed_at.pop(batch_id, None)
            self.log.info("batch.acknowledged", batch=batch_id)
            return True
        if self._is_due(self._pushed_at, batch_id):
            batch = self.mac.outbox / batch_id
            self._pushed_at[batch_id] = self.runtime.clock()
            self.transport.push_batch(batch, self.runtime.breathe)
            self.log.info("batch.pushed", batch=batch_id)
            self.tracker.track("push", batch, None, sorted(path.name for path in batch.iterdir()), batch_id=batch_id)
            return True
        return False

    def _receive(self, batch_id: str, clip_id: str) -> bool:
        """Fetch one result and put it in its place; False for one that arrived damaged, which a later look fetches."""
        incoming = self.mac.incoming / clip_id
        log = self.log.bind(clip=clip_id)
        try:
            self.transport.fetch_result(batch_id, clip_id, incoming)
            meta, place = receipt.place(incoming, self.mac)
        except Refused as error:
            fsops.discard(incoming, self.mac.state / "trash")
            log.error("clip.damaged", reason=str(error))
            return False
        except OSError as error:  # it left the outbox while we looked, or cannot be written: the others go on
            log.warning("clip.not_fetched", error=str(error))
            return False
        size = meta.files[0].size if meta.files else 0
        log.info("clip.received", name=meta.entry.stem, outcome=meta.outcome, bytes=size, folder=str(place.parent))
        if meta.failure is not None:
            log.error("clip.failed", name=meta.entry.stem, stage=meta.failure.stage, reason=meta.failure.message)
        self.tracker.track("receive", incoming, place.parent, [file.path for file in meta.files], batch_id=batch_id)
        return True

    def _tell(self, listed: set[str]) -> bool:
        """Acknowledge what is here, until the server lists it no more; whether there was anything to say or forget."""
        did = False
        for path in sorted(self.mac.result_acks.glob("*.json")):
            clip_id = path.stem
            if clip_id not in listed:
                fsops.remove(path)
                self._told_at.pop(clip_id, None)
                self.log.info("clip.released", clip=clip_id)
                did = True
            elif self._is_due(self._told_at, clip_id):
                self._told_at[clip_id] = self.runtime.clock()
                with self._apart(clip_id):
                    self.transport.push_result_ack(path)
                    did = True
        return did
