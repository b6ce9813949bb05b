"""The four verbs by which the two halves reach each other: copies on one disk, or rsync over ssh between machines."""

from __future__ import annotations

import contextlib
import re
import stat
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple, Protocol

from core import fsops
from core.contract import CLIP_ID, MAX_JSON_BYTES
from core.home import MANIFEST_FILE, STATUS_FILE, GpuHalf, MacHalf
from core.rsync import Incomplete, Rsync, probe
from core.settings import TransportSettings
from core.ssh import INBOX, OUTBOX, Ssh
from core.work import Report

BATCHES = "20??????_??????"
"""The names of batches, as a pattern for ``glob`` and for rsync's filters alike."""
MAX_RESULT_BYTES = 8 << 30
"""No file of a result comes near this; a larger one is left where it is."""


class Result(NamedTuple):
    """A result that waits on the server."""

    batch_id: str
    clip_id: str


class Listing(NamedTuple):
    """What the server has for the Mac."""

    results: list[Result]
    """In the order in which they are fetched."""
    trouble: Incomplete | None = None
    """Why there may be more than these; what is not listed need not have been released."""


class Transport(Protocol):
    """What the courier asks of the way to the server.

    Every verb may be repeated, may deliver nothing or part, and may raise ``OSError`` or ``DropreelError``: only an
    acknowledgement is believed.
    """

    together: int
    """How many batches, or results, one call had best carry."""

    def look(self, unanswered: Sequence[str]) -> Listing:
        """Bring the server's answers to these batches, where there are any, and list the results that wait."""
        ...

    def push(self, batches: Sequence[Path]) -> None:
        """Send batches' folders into the server's inbox, the manifests last."""

    def fetch(self, results: Sequence[Result], arrived: Callable[[Result], None]) -> None:
        """Bring the files of results into ``state/incoming/<batch_id>/<clip_id>/``.

        ``arrived`` is called for each as soon as no more is coming of it, in their order; what it raises ends the call.
        """

    def acknowledge(self, acks: Sequence[Path]) -> None:
        """Tell the server which results are here."""


class LocalTransport:
    """Both halves on one disk: what rsync does between machines, done by copying."""

    together = 1

    def __init__(self, mac: MacHalf, gpu: GpuHalf, report: Report) -> None:
        self._mac, self._gpu, self._report = mac, gpu, report
        fsops.sweep(gpu.inbox)

    def look(self, unanswered: Sequence[str]) -> Listing:
        """Copy the answers, list the outbox."""
        for batch_id in unanswered:
            _copy_answer(self._gpu.batch_acks, batch_id, self._mac)
        return Listing(list(waiting(self._gpu.outbox)))

    def push(self, batches: Sequence[Path]) -> None:
        """Copy what is missing, then the manifests."""
        for batch in batches:
            target = self._gpu.inbox / batch.name
            fsops.make_folder(target)
            payload = sorted(path for path in batch.iterdir() if path.name != MANIFEST_FILE)
            for number, path in enumerate(payload):
                self._report(number / len(payload))
                there = target / path.name
                if not there.exists() or there.stat().st_size != path.stat().st_size:
                    fsops.copy(path, there)
            fsops.sync_folder(target)
            fsops.copy(batch / MANIFEST_FILE, target / MANIFEST_FILE)
            fsops.sync_folder(target)

    def fetch(self, results: Sequence[Result], arrived: Callable[[Result], None]) -> None:
        """Copy the files, whatever they are: the meta says which of them count."""
        for result in results:
            batch_id, clip_id = result
            incoming = self._mac.incoming / batch_id / clip_id
            fsops.make_folder(incoming)
            with contextlib.suppress(FileNotFoundError):  # it was released this moment
                for path in sorted((self._gpu.outbox / batch_id / clip_id).iterdir()):
                    self._report(0.0)
                    if _is_file(path, MAX_RESULT_BYTES):
                        fsops.copy(path, incoming / path.name)
            arrived(result)

    def acknowledge(self, acks: Sequence[Path]) -> None:
        """Copy them."""
        for ack in acks:
            fsops.copy(ack, self._gpu.result_acks / ack.name)
        fsops.sync_folder(self._gpu.result_acks)


class RsyncTransport:
    """Two machines: rsync over ssh, one key for the server's inbox and one for its outbox."""

    together = 64

    def __init__(self, mac: MacHalf, root: Path, settings: TransportSettings, report: Report) -> None:
        """Raises ``BadSettings`` where rsync, a key or the server's host key is missing."""
        self._mac, self._report = mac, report
        probe(settings.rsync, report)
        Ssh(root, settings).write_config(mac.state)
        self._rsync = Rsync(settings, mac.state, report)

    def look(self, unanswered: Sequence[str]) -> Listing:
        """Bring the names in the outbox, the answers asked for and the server's status into ``state/listing/``."""
        listing = self._mac.listing
        fsops.empty(listing)  # rather than have rsync delete: openrsync would ask the server to, which its key forbids
        answers = [f"+/acks/{batch_id}.json" for batch_id in unanswered]
        rules = [f"+/{STATUS_FILE}", "+/acks/", *answers, f"+/{BATCHES}/", f"+/{BATCHES}/*/", "-*"]
        trouble: Incomplete | None = None
        try:
            self._rsync(f"{OUTBOX}:./", f"{listing}/", rules, f"--max-size={MAX_JSON_BYTES}")
        except Incomplete as error:
            trouble = error
        for batch_id in unanswered:
            _copy_answer(listing / "acks", batch_id, self._mac)
        if _is_file(listing / STATUS_FILE, MAX_JSON_BYTES):
            fsops.publish(listing / STATUS_FILE, self._mac.server / STATUS_FILE, durable=False)
        return Listing(list(waiting(listing)), trouble)

    def push(self, batches: Sequence[Path]) -> None:
        """One call for the files, a second for the manifests: within one call rsync promises no order."""
        source, target = f"{self._mac.outbox}/", f"{INBOX}:./"
        folders = [f"+/{batch.name}/" for batch in batches]
        trouble: Incomplete | None = None
        try:
            self._rsync(source, target, [f"-/*/{MANIFEST_FILE}", *folders, "-/*", "+*"])
        except Incomplete as error:  # one bad file must not hold up the other batches; its own is not acknowledged
            trouble = error
        self._rsync(source, target, [*folders, f"+/*/{MANIFEST_FILE}", "-*"])
        if trouble is not None:
            raise trouble

    def fetch(self, results: Sequence[Result], arrived: Callable[[Result], None]) -> None:
        """Bring them all in one call; what an earlier call left half-done is gone on with."""
        left = list(results)
        fresh = {result for result in results if not self._has_begun(result)}

        def report(fraction: float) -> None:
            """Take up a result while the next ones come: rsync keeps to their order, and has gone on from it."""
            self._report(fraction)
            while (later := next((result for result in left[1:] if result in fresh), None)) and self._has_begun(later):
                arrived(left.pop(0))

        batches = [f"+/{batch_id}/" for batch_id in dict.fromkeys(result.batch_id for result in results)]
        clips = [f"+/{batch_id}/{clip_id}/" for batch_id, clip_id in results]
        rules = [*batches, *clips, "-/*", "-/*/*", "-/*/*/*/", "+*"]
        trouble: Incomplete | None = None
        try:
            # In place: nobody else looks in there, and so the part that has come survives any kill.
            options = "--inplace", f"--max-size={MAX_RESULT_BYTES}"
            self._rsync(f"{OUTBOX}:./", f"{self._mac.incoming}/", rules, *options, report=report)
        except Incomplete as error:
            trouble = error
        for result in left:
            arrived(result)
        if trouble is not None:
            raise trouble

    def _has_begun(self, result: Result) -> bool:
        folder = self._mac.incoming / result.batch_id / result.clip_id
        return folder.is_dir() and any(path.is_file() for path in folder.iterdir())

    def acknowledge(self, acks: Sequence[Path]) -> None:
        """One call for all."""
        names = [f"+/{ack.name}" for ack in acks]
        self._rsync(f"{self._mac.result_acks}/", f"{INBOX}:./acks/", [*names, "-*"])


def _copy_answer(acks: Path, batch_id: str, mac: MacHalf) -> None:
    name = f"{batch_id}.json"
    if _is_file(acks / name, MAX_JSON_BYTES):  # else it is not yet answered
        fsops.copy(acks / name, mac.acks / name)
        fsops.sync_folder(mac.acks)


def _is_file(path: Path, max_bytes: int) -> bool:
    """Whether the server has a plain file there, of such a size; rsync carries nothing else either."""
    try:
        info = path.lstat()
    except (FileNotFoundError, NotADirectoryError):
        return False
    return stat.S_ISREG(info.st_mode) and info.st_size <= max_bytes


def waiting(outbox: Path) -> Iterator[Result]:
    """The results in an outbox, or in a listing of it, the oldest first; a batch may be cleared away meanwhile.

    In rsync's order, to which a folder's name ends in a slash: a clip's second run, ``…-r2``, comes before its first.
    """
    for batch in sorted(outbox.glob(BATCHES)):
        for name in sorted(_names(batch), key=lambda name: f"{name}/"):
            if re.fullmatch(CLIP_ID, name):
                yield Result(batch.name, name)


def _names(folder: Path) -> list[str]:
    try:
        return [path.name for path in folder.iterdir()]
    except (FileNotFoundError, NotADirectoryError):  # its last result was released this moment
        return []
