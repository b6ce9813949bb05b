"""The daemon between the halves: batches go out, acknowledgements and results come back."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TypeVar

from core import alerts, fsops, receipt
from core.contract import BATCH_ID, load
from core.disk import DiskGuard
from core.errors import BadSettings, DiskFull, DropreelError, Refused, Stopped
from core.figures import DiskFigures
from core.home import STATUS_FILE, Home
from core.metrics import Outcome
from core.notify import Teller
from core.overview import ServerStatus
from core.rsync import Incomplete, LinkLost, LinkRefused, LinkTrouble
from core.settings import Settings
from core.tracker import FileTracker
from core.transfer import Listing, LocalTransport, Result, RsyncTransport, Transport
from core.watch import Hint
from daemons.link import Link
from daemons.runtime import AGAIN, IDLE, Daemon, Runtime

REFUSED_SECONDS = 60.0
"""What a person has to mend is tried again after so long."""
ALERT_SECONDS = 5.0
"""So often one looks whether there is trouble that somebody should be told of."""

OUTCOMES: dict[str, Outcome] = {"pass": "done", "flag": "flagged", "fail": "failed"}
"""What a meta says of a clip, as the metrics call it."""

_BATCH_ID = re.compile(BATCH_ID)


class NoRoom(Exception):
    """The disk is low: nothing more is fetched now."""


class CourierDaemon(Daemon):
    """Carries; it believes nothing to have arrived but what is acknowledged by hash."""

    def __init__(self, home: Home, settings: Settings, runtime: Runtime) -> None:
        self.mac = mac = home.mac
        self.settings = settings.transport
        self.runtime = runtime
        self._lock = fsops.hold(mac.state / "locks" / "courier")
        self.log = runtime.log
        self._fetching = False
        self.tracker = FileTracker(mac.logs, "courier")
        fsops.sweep(mac.acks, mac.incoming, mac.result_acks, mac.results)
        self.transport: Transport
        if self.settings.kind == "rsync":
            self.transport = RsyncTransport(mac, home.root, self.settings, self._breathe)
            self._hints: tuple[Hint, ...] = (Hint(mac.outbox),)
            self._look_seconds = self.settings.look_seconds
        else:
            if not home.gpu.root.is_dir():  # else it would carry everything into a folder that nobody looks into
                raise BadSettings("transport.kind = \"local\" carries to the server's half of this home, and there is "
                                  "none. Set kind = \"rsync\", or make a home with --role both.")  # fmt: skip
            self.transport = LocalTransport(mac, home.gpu, self._breathe)
            self._hints = Hint(mac.outbox), Hint(home.gpu.outbox, deep=True)
            self._look_seconds = IDLE
        runtime.metrics.add(DiskFigures("mac", mac.root))
        self.disk = DiskGuard(mac.root, settings.disk, self.log, runtime.clock)
        self._patience = settings.notify.link_minutes * 60
        self._teller = Teller(mac.state / "notify.json", settings.notify, runtime.log)
        self._server_alerts = alerts.ServerAlerts(settings.notify.stalled_minutes)
        self._server_status = mac.server / STATUS_FILE if self.settings.kind == "rsync" else home.gpu.status
        self.link = Link(runtime)
        if settings.notify.urls:
            runtime.every(ALERT_SECONDS, "alerts", self._tell_of_trouble)
        self._pushed_at: dict[str, float] = {}
        self._answered_at: dict[str, float] = {}
        self._told_at: dict[str, float] = {}
        self._damaged_at: dict[str, float] = {}
        self._look_trouble = ""

    @property
    def hints(self) -> tuple[Hint, ...]:
        """Batches to send; and, where both halves are on one disk, what the server answers and delivers."""
        return self._hints

    def close(self) -> None:
        """Let another of this name run."""
        self._teller.close()
        self.link.close()
        os.close(self._lock)

    def step(self) -> float:
        """Carry all there is to carry; the seconds until the next look."""
        try:
            did = self.link.over(self._carry)
        except LinkRefused:
            if self.runtime.once:
                raise
            return REFUSED_SECONDS
        return AGAIN if did else IDLE if self.runtime.once else self._look_seconds

    def _carry(self) -> bool:
        """Look at what the server has, and do what follows from it; whether there was anything to do."""
        # An answer that came and could not be used is asked for again, but not at once: it may be the same.
        unanswered = [batch_id for batch_id in self._unanswered() if self._is_due(self._answered_at, batch_id)]
        try:
            listing = self.transport.look(unanswered)
        except DiskFull as error:
            self._say_full(error)
            return self._push()
        self._say_trouble(listing.trouble)
        did = self._take_answers(unanswered)
        sent, trouble = self._send(listing)
        received = self._receive(listing)
        if trouble is not None:
            raise trouble
        return did or sent or received

    def _send(self, listing: Listing) -> tuple[bool, LinkTrouble | None]:
        """Send what goes to the inbox: whether there was anything, and what is wrong with that way.

        The way back is another: what waits in the outbox comes all the same, be it that the inbox's key is refused,
        or that the server's disk is full and its rsync dies of it.
        """
        try:
            told = self._tell(listing)  # first, for it frees the server's disk
            return self._push() or told, None
        except (LinkLost, LinkRefused) as error:
            return False, error

    def _breathe(self, fraction: float) -> None:
        """The ``Report`` of the transport: a server sends what it likes, and what is not yet whole takes room too."""
        self.runtime.breathe(fraction)
        if self._fetching and self.disk.low:
            raise NoRoom

    def _say_trouble(self, trouble: Incomplete | None) -> None:
        """Say once why the server's outbox cannot be seen whole."""
        if trouble is not None and trouble.meaning != self._look_trouble:
            self.log.error("courier.trouble", what="the server's outbox", error=str(trouble))
        self._look_trouble = trouble.meaning if trouble is not None else ""

    def _say_full(self, error: DiskFull) -> None:
        self.disk.found_full()
        self.log.error("disk.full", reason=str(error))

    @contextlib.contextmanager
    def _apart(self, what: Sequence[str]) -> Iterator[None]:
        """The trouble of some batches or clips is their own: the others go on, and a later look tries them again."""
        try:
            yield
        except (Stopped, NoRoom, DiskFull, LinkLost, LinkRefused):  # these concern all of them
            raise
        except (OSError, DropreelError) as error:
            self.log.error("courier.trouble", what=" ".join(what), error=str(error))

    def _is_due(self, sent_at: dict[str, float], name: str) -> bool:
        return name not in sent_at or self.runtime.clock() - sent_at[name] >= self.settings.resend_seconds

    def _unanswered(self) -> list[str]:
        ids = [path.name for path in sorted(self.mac.outbox.iterdir()) if _BATCH_ID.fullmatch(path.name)]
        return [batch_id for batch_id in ids if not (self.mac.acks / f"{batch_id}.json").exists()]

    def _take_answers(self, asked: list[str]) -> bool:
        """Say which batches have been answered."""
        answered = sorted(set(asked) - set(self._unanswered()))
        self._answered_at |= dict.fromkeys(answered, self.runtime.clock())
        for batch_id in answered:
            self._pushed_at.pop(batch_id, None)
            self.log.info("batch.acknowledged", batch=batch_id)
            self.runtime.metrics.batch("done")
        return bool(answered)

    def _push(self) -> bool:
        """Send the batches that are due; one that was sent and is not answered in time is sent again."""
        due = [batch_id for batch_id in self._unanswered() if self._is_due(self._pushed_at, batch_id)]
        for some in _groups(due, self.transport.together):
            with self._apart(some):
                batches = [self.mac.outbox / batch_id for batch_id in some]
                self.transport.push(batches)
                self.link.carried()
                for batch in batches:
                    self.log.info("batch.pushed", batch=batch.name)
                    self.runtime.metrics.moved("out", sum(path.stat().st_size for path in batch.iterdir()))
                    self.tracker.track("push", batch, None, sorted(path.name for path in batch.iterdir()),
                                       batch_id=batch.name)  # fmt: skip
            self._pushed_at |= dict.fromkeys(some, self.runtime.clock())
            self.runtime.breathe()
        return bool(due)

    def _receive(self, listing: Listing) -> bool:
        """Fetch results and put them in their places; whether any is here now that was not."""
        placed: list[Result] = []

        def arrived(result: Result) -> None:
            with self._apart([result.clip_id]):
                placed.extend([result] if self._place(result) else [])
            self.link.carried()
            self.runtime.breathe()
            if self.disk.low:
                raise NoRoom

        wanted = [result for result in listing.results if self._is_wanted(result.clip_id)]
        for some in _groups(wanted, self.transport.together):
            if self.disk.low:
                break
            self._fetching = True
            try:
                with self._apart([result.clip_id for result in some]):
                    self.transport.fetch(some, arrived)
            except NoRoom:
                break
            except DiskFull as error:
                self._say_full(error)
            finally:
                self._fetching = False
            self._send(listing)  # the server's disk, and new drops, do not wait for the last of a thousand results
        if listing.trouble is None:
            self._clear_incoming(wanted)
        return bool(placed)

    def _clear_incoming(self, wanted: list[Result]) -> None:
        """Throw away the parts of what was placed before a crash, or is gone from the server."""
        for batch in filter(Path.is_dir, self.mac.incoming.iterdir()):
            for clip in batch.iterdir():
                if Result(batch.name, clip.name) not in wanted:
                    fsops.discard(clip, self.mac.state / "trash")
            fsops.remove_folder(batch)

    def _is_wanted(self, clip_id: str) -> bool:
        """Whether a result is not here; one that came damaged is not fetched again at once."""
        return not (self.mac.result_acks / f"{clip_id}.json").exists() and self._is_due(self._damaged_at, clip_id)

    def _place(self, result: Result) -> bool:
        """Put one result in its place; False for one that arrived damaged or not at all: a later look fetches it."""
        incoming = self.mac.incoming / result.batch_id / result.clip_id
        log = self.log.bind(clip=result.clip_id)
        try:
            meta, place = receipt.place(incoming, self.mac)
        except Refused as error:
            fsops.discard(incoming, self.mac.state / "trash")
            self._damaged_at[result.clip_id] = self.runtime.clock()
            log.error("clip.damaged", reason=str(error), again_in=self.settings.resend_seconds)
            return False
        except FileNotFoundError as error:  # it left the outbox while we looked, or is not all here
            log.warning("clip.not_fetched", error=str(error))
            return False
        if place is None:
            log.info("clip.superseded", name=meta.entry.stem, run=meta.run)
            return True
        folder = str(place.parent)
        size = sum(file.size for file in meta.files)
        self.runtime.metrics.clip(OUTCOMES[meta.outcome])
        self.runtime.metrics.moved("in", size)
        log.info("clip.received", name=meta.entry.stem, outcome=meta.outcome, bytes=size, folder=folder)
        if meta.failure is not None:
            log.error("clip.failed", name=meta.entry.stem, stage=meta.failure.stage, reason=meta.failure.message)
        self.tracker.track(
            "receive", incoming, place.parent, [file.path for file in meta.files], batch_id=meta.batch_id
        )
        if (line := alerts.of_clip(meta)) is not None:
            self._teller.happened(f"{meta.outcome} {meta.batch_id}", line, alerts.clips(meta))
        return True

    def _tell(self, listing: Listing) -> bool:
        """Acknowledge what is here, until the server lists it no more; whether there was anything to say or forget."""
        there = {result.clip_id for result in listing.results}
        due = []
        did = False
        for ack in sorted(self.mac.result_acks.glob("[!.]*.json")):
            if ack.stem not in there and listing.trouble is None:
                fsops.remove(ack)
                self._told_at.pop(ack.stem, None)
                self.log.info("clip.released", clip=ack.stem)
                did = True
            elif ack.stem in there and self._is_due(self._told_at, ack.stem):
                due.append(ack)
        if due:
            clips = [ack.stem for ack in due]
            with self._apart(clips):
                self.transport.acknowledge(due)
                self.link.carried()
            self._told_at |= dict.fromkeys(clips, self.runtime.clock())
        return did or bool(due)

    def _tell_of_trouble(self) -> None:
        """Name all that is wrong now, here and at the server."""
        moment = self.runtime.clock()
        try:
            status = load(ServerStatus, self._server_status)
        except (Refused, OSError):
            status = None
        down = self.link.down_seconds
        troubles = self._server_alerts.look(status, moment, reachable=down == 0)
        silent = self._server_alerts.silence(moment)
        if self._lasts("link", down):
            troubles.append(alerts.link_lost(down, self.link.trouble))
        if self._lasts("silent", silent):
            troubles.append(alerts.server_silent(silent))
        if self.disk.low:
            troubles.append(alerts.disk_low("mac", shutil.disk_usage(self.mac.root).free))
        self._teller.lasting(troubles)

    def _lasts(self, key: str, seconds: float) -> bool:
        """Whether something has been wrong for too long; a restart in the midst of it is no end of it."""
        return seconds > self._patience or (seconds > 0 and self._teller.knows(key))


T = TypeVar("T")


def _groups(things: Sequence[T], size: int) -> Iterator[Sequence[T]]:
    for start in range(0, len(things), size):
        yield things[start : start + size]
