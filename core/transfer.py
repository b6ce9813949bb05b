"""The few verbs by which the two halves reach each other; here as copies on one disk."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

from core import fsops
from core.contract import CLIP_ID
from core.home import MANIFEST_FILE, GpuHalf
from core.work import Report


class Transport(Protocol):
    """What the courier asks of the way to the server.

    Every verb may be repeated, may deliver nothing, and may raise ``OSError``: only an acknowledgement is believed.
    """

    def push_batch(self, batch: Path, report: Report) -> None:
        """Send a batch's folder into the server's inbox, the manifest last."""

    def fetch_batch_ack(self, batch_id: str, into: Path) -> bool:
        """Bring the server's answer to a batch; False where there is none yet."""
        ...

    def results(self) -> Iterator[tuple[str, str]]:
        """The results that wait on the server, as (batch_id, clip_id), the oldest first."""
        ...

    def fetch_result(self, batch_id: str, clip_id: str, into: Path) -> None:
        """Bring the files of one result into a folder."""

    def push_result_ack(self, ack: Path) -> None:
        """Tell the server that a result is here."""


class LocalTransport:
    """Both halves on one disk: what rsync does between machines, done by copying."""

    def __init__(self, gpu: GpuHalf) -> None:
        self._gpu = gpu
        fsops.sweep(gpu.inbox)

    def push_batch(self, batch: Path, report: Report) -> None:
        """Copy what is missing, then the manifest."""
        target = self._gpu.inbox / batch.name
        fsops.make_folder(target)
        payload = sorted(path for path in batch.iterdir() if path.name != MANIFEST_FILE)
        for number, path in enumerate(payload):
            report(number / len(payload))
            there = target / path.name
            if not there.exists() or there.stat().st_size != path.stat().st_size:
                fsops.copy(path, there)
        fsops.sync_folder(target)
        fsops.copy(batch / MANIFEST_FILE, target / MANIFEST_FILE)
        fsops.sync_folder(target)

    def fetch_batch_ack(self, batch_id: str, into: Path) -> bool:
        """Copy the answer, if there is one."""
        name = f"{batch_id}.json"
        try:
            fsops.copy(self._gpu.batch_acks / name, into / name)
        except FileNotFoundError:
            return False
        fsops.sync_folder(into)
        return True

    def results(self) -> Iterator[tuple[str, str]]:
        """List the outbox."""
        for batch in sorted(self._gpu.outbox.glob("????????_??????")):
            for result in _entries(batch):
                if re.fullmatch(CLIP_ID, result.name):
                    yield batch.name, result.name

    def fetch_result(self, batch_id: str, clip_id: str, into: Path) -> None:
        """Copy the files, whatever they are: the meta says which of them count."""
        fsops.make_folder(into)
        for path in sorted((self._gpu.outbox / batch_id / clip_id).iterdir()):
            fsops.copy(path, into / path.name)
        fsops.sync_folder(into)

    def push_result_ack(self, ack: Path) -> None:
        """Copy it."""
        fsops.copy(ack, self._gpu.result_acks / ack.name)
        fsops.sync_folder(self._gpu.result_acks)


def _entries(folder: Path) -> list[Path]:
    try:
        return sorted(folder.iterdir())
    except FileNotFoundError:  # its last result was released this moment
        return []
