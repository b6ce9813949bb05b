"""What Prometheus is told of the rooms and the disks: figures that nobody counts, but that folders show."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Literal

from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from core.metrics import gauge
from core.overview import ServerStatus


class RoomFigures(Collector):
    """How the server stands, for the metrics of the one daemon that looks at all rooms."""

    def __init__(self, last_look: Callable[[], ServerStatus | None]) -> None:
        self._last_look = last_look

    def collect(self) -> Iterator[Metric]:
        """Nothing before the first look."""
        status = self._last_look()
        if status is None:
            return
        rooms = [({"room": room.room}, room) for room in status.rooms]
        places = [({**of, "place": place}, getattr(room, place)) for of, room in rooms for place in ("ready", "active")]
        yield gauge("dropreel_room_clips", "Clips in a room: waiting, or in a worker's hands.", *places)
        yield gauge("dropreel_room_oldest_seconds", "How long the clip that waits longest in a room has waited.",
                    *((of, room.oldest_seconds or 0.0) for of, room in rooms))  # fmt: skip
        yield gauge("dropreel_room_paused", "1 while a room is paused.",
                    *((of, float(room.paused)) for of, room in rooms))  # fmt: skip
        yield gauge("dropreel_room_held", "1 while a room claims nothing: paused, no place in the next, or no disk.",
                    *((of, float(room.held is not None)) for of, room in rooms))  # fmt: skip
        workers = (({**of, "worker": worker.worker}, float(worker.alive)) for of, room in rooms
                   for worker in room.workers)  # fmt: skip
        yield gauge("dropreel_worker_up", "1 while a worker of a room lives.", *workers)
        yield gauge("dropreel_inbox_batches", "Batches not yet taken in.", ({}, status.inbox))
        yield gauge("dropreel_outbox_clips", "Results that the Mac has not acknowledged.", ({}, status.outbox))
        yield gauge("dropreel_failed_clips", "Clips and batches that were given up and lie there.",
                    ({}, status.failed))  # fmt: skip


class DiskFigures(Collector):
    """The disk of one half."""

    def __init__(self, half: Literal["mac", "gpu"], folder: Path) -> None:
        self._half = half
        self._folder = folder

    def collect(self) -> Iterator[Metric]:
        """Raises ``OSError`` where the folder is not there."""
        yield gauge("dropreel_disk_free_bytes", "Bytes free on the disk of this half.",
                    ({"half": self._half}, shutil.disk_usage(self._folder).free))  # fmt: skip
