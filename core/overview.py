"""How a home stands, from its folders alone: works just as well when every daemon is dead."""

from __future__ import annotations

import datetime as dt
import json
import os
import re
import shutil
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

from pydantic import AwareDatetime, Field

from core import fsops
from core.cards import Card, published
from core.contract import BATCH_ID, CLIP_ID, ClipId, Record, load
from core.disk import LOW
from core.errors import Refused
from core.home import STAGES, GpuHalf, Home, MacHalf
from core.metrics import folder_of
from core.rooms import Room
from core.settings import Settings
from core.versions import installed

LATE_SECONDS = 60.0
"""A server that has said nothing for so long is silent, or cannot be reached."""
_BATCH_ID = re.compile(BATCH_ID)


class WorkerStatus(Record):
    """One worker of a room."""

    worker: str
    alive: bool
    clip: ClipId | None = None
    """What it works on."""
    fraction: float | None = Field(default=None, ge=0, le=1)
    """How much of this stage's work on it is done,"""
    remaining_seconds: float | None = None
    """and how long the rest takes if it goes on like this."""


class RoomStatus(Record):
    """One room."""

    room: str
    paused: bool
    held: str | None = None
    """Why nothing is claimed now: paused, the next room is full, or the disk is low."""
    ready: int
    active: int
    bound: int | None = None
    oldest_seconds: float | None = None
    """How long the clip that waits longest has waited."""
    workers: list[WorkerStatus] = Field(default_factory=list)


class ServerStatus(Record):
    """``gpu/outbox/status.json``: how the server stands; written by ``intake``, brought to the Mac by the courier."""

    schema_version: Literal[1] = 1
    written_at: AwareDatetime
    version: str
    """Of Dropreel."""
    rsync: str | None = None
    """Of rsync on the server, such as ``3.5.0``; None where there is none."""
    inbox: int
    """Batches not yet taken in."""
    held: str | None = None
    """Why none is taken in now: paused, or the disk is low."""
    rooms: list[RoomStatus]
    outbox: int
    """Results that the Mac has not acknowledged."""
    failed: int
    """Clips and batches that were given up."""
    disk_free_bytes: int
    clips_per_minute: float | None = None
    """Over the last ten minutes, time with nothing to do not counted; None where nobody has been counting."""
    eta_seconds: float | None = None
    """Until all clips in the rooms have left, at this pace."""
    cards: list[Card] = Field(default_factory=list)

    @property
    def clips(self) -> int:
        """All clips in the rooms."""
        return sum(room.ready + room.active for room in self.rooms)


class MacStatus(Record):
    """How the operator's half stands."""

    hot_folder: int
    """Files that wait."""
    rejected: int
    outbox: int
    """Batches that the server has not acknowledged."""
    delivered: int
    flagged: int
    failed: int
    """Clips that failed and have not been made well since."""
    disk_free_bytes: int


class Overview(Record):
    """A home; on the Mac of a server elsewhere, ``gpu`` is what that server last said."""

    home: str
    mac: MacStatus | None = None
    gpu: ServerStatus | None = None
    gpu_age_seconds: float | None = None
    """How old that is; None where the folders themselves were looked at."""
    gpu_trouble: str | None = None
    """Why it is not to be relied upon."""


def overview(home: Home, settings: Settings, wall: Callable[[], float] = time.time) -> Overview:
    """What lies where; ``dropreel status`` draws it. Takes no lock for longer than a moment, and writes nothing."""
    found = Overview(home=str(home.root))
    if settings.mac:
        found.mac = _mac(home.mac)
    if not settings.gpu:
        _hear_of_server(home.mac, found, wall)
        return found
    said, age = _said(home.gpu.status, wall)
    fresh = said if isinstance(said, ServerStatus) and age < LATE_SECONDS else None
    if fresh is not None:  # it knows what the folders do not show
        low = LOW in {fresh.held, *(room.held for room in fresh.rooms)}
        pace, rsync = fresh.clips_per_minute, fresh.rsync
    else:
        low, pace, rsync = _free(home.gpu.root) < settings.disk.low_water_mb << 20, None, None
    found.gpu = server_status(home, settings, pace, wall, disk_is_low=low, rsync=rsync)
    return found


def server_status(
    home: Home,
    settings: Settings,
    clips_per_minute: float | None,
    wall: Callable[[], float] = time.time,
    *,
    disk_is_low: bool,
    rsync: str | None = None,
) -> ServerStatus:
    """How the server's half of this home stands, at this pace; ``rsync`` is the version that it has of it."""
    gpu = home.gpu
    rooms = [Room(gpu.rooms / stage, settings.rooms.bounds.of(stage)) for stage in STAGES]
    found = ServerStatus(
        written_at=dt.datetime.fromtimestamp(round(wall(), 3), dt.UTC),
        version=installed("dropreel"),
        inbox=len(_batches(gpu.inbox)),
        held="paused" if Room(gpu.rooms / "intake").paused else LOW if disk_is_low else None,
        rooms=[_room(room, settings.rooms.workers.of(room.name), gpu, wall) for room in rooms],
        outbox=len(results_in(gpu)),
        failed=len(_entries(gpu.failed)),
        disk_free_bytes=_free(gpu.root),
        rsync=rsync,
        clips_per_minute=clips_per_minute,
        cards=published(folder_of(settings.metrics, home, gpu.state), wall),
    )
    for room, status, after in zip(rooms, found.rooms, [*rooms[1:], None], strict=True):
        if room.paused:
            status.held = "paused"
        elif after is not None and after.ready.is_dir() and after.full:
            status.held = f"{after.name} is full"
        elif disk_is_low:
            status.held = LOW
    if found.clips == 0:
        found.eta_seconds = 0.0
    elif clips_per_minute:
        found.eta_seconds = round(60 * found.clips / clips_per_minute, 1)
    return found


def results_in(gpu: GpuHalf) -> list[str]:
    """The clips whose results wait in the outbox, by id."""
    return [result.name for batch in _batches(gpu.outbox) for result in _entries(batch)]


def _hear_of_server(mac: MacHalf, found: Overview, wall: Callable[[], float]) -> None:
    said, age = _said(mac.server / "status.json", wall)
    if not isinstance(said, ServerStatus):
        found.gpu_trouble = said
        return
    found.gpu = said
    found.gpu_age_seconds = max(0.0, round(age, 1))
    if age > LATE_SECONDS:
        found.gpu_trouble = "The server's intake is silent, or the link is down."
    elif age < -LATE_SECONDS:
        found.gpu_trouble = f"The server's clock is {-age:.0f} s ahead of this one: set both by NTP."


def _said(file: Path, wall: Callable[[], float]) -> tuple[ServerStatus | str, float]:
    """What the server wrote of itself, or why that is not known; and how long ago by our clock, in seconds."""
    try:
        status = load(ServerStatus, file)
    except FileNotFoundError:
        return "The server has not said anything yet.", 0.0
    except (Refused, OSError) as error:
        return f"What the server said cannot be read. Is its Dropreel of the same version? {error}", 0.0
    return status, wall() - status.written_at.timestamp()


def _mac(mac: MacHalf) -> MacStatus:
    hot = [path for path in _entries(mac.hot) if path not in (mac.sent, mac.rejected) and path.is_file()]
    came: dict[tuple[str, str], str] = {}
    for place in ("failed", "flagged", ""):  # a clip that failed and was made well since is told of once, as it ended
        for batch in _batches(mac.results):
            came.update(((batch.name, path.name), place) for path in (batch / place).glob("*.video_meta.json"))
    counts = Counter(came.values())
    return MacStatus(
        hot_folder=len(hot),
        rejected=len(_entries(mac.rejected)),
        outbox=len(_batches(mac.outbox)),
        delivered=counts[""],
        flagged=counts["flagged"],
        failed=counts["failed"],
        disk_free_bytes=_free(mac.root),
    )


def _room(room: Room, wanted: list[str], gpu: GpuHalf, wall: Callable[[], float]) -> RoomStatus:
    waiting = room.ids if room.ready.is_dir() else []
    ages = [age for name in waiting if (age := _age(room.ready / name, wall)) is not None]
    hands = _entries(room.active)
    found = {folder.name: _worker(room, folder, gpu) for folder in hands}
    # One that has never run is down; one that has, and is neither alive nor wanted any more, is history.
    workers = [found.pop(name, WorkerStatus(worker=name, alive=False)) for name in wanted]
    workers += [worker for worker in found.values() if worker.alive or worker.clip]
    return RoomStatus(
        room=room.name,
        paused=room.paused,
        ready=len(waiting),
        active=sum(len(_clips(folder)) for folder in hands),
        bound=room.bound,
        oldest_seconds=max(ages, default=None),
        workers=workers,
    )


def _worker(room: Room, hands: Path, gpu: GpuHalf) -> WorkerStatus:
    lock = fsops.lock(hands)
    if lock is not None:
        os.close(lock)
    status = WorkerStatus(worker=hands.name, alive=lock is None, clip=next(iter(_clips(hands)), None))
    progress = _progress(gpu.state / "workers" / f"{room.name}@{hands.name}.json")
    fraction, seconds = progress.get("fraction"), progress.get("seconds")
    if status.clip and progress.get("clip_id") == status.clip and isinstance(fraction, float):
        status.fraction = fraction
        if isinstance(seconds, float) and fraction > 0:
            status.remaining_seconds = round(seconds * (1 - fraction) / fraction, 1)
    return status


def _progress(path: Path) -> dict[str, Any]:
    try:
        read = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return {}
    return read if isinstance(read, dict) else {}


def _clips(folder: Path) -> list[str]:
    return [path.name for path in _entries(folder) if re.fullmatch(CLIP_ID, path.name)]


def _entries(folder: Path) -> list[Path]:
    return sorted(path for path in folder.glob("[!.]*")) if folder.is_dir() else []


def _batches(folder: Path) -> list[Path]:
    return [path for path in _entries(folder) if _BATCH_ID.fullmatch(path.name)]


def _age(path: Path, wall: Callable[[], float]) -> float | None:
    try:
        return max(0.0, round(wall() - path.stat().st_mtime, 1))
    except OSError:
        return None


def _free(folder: Path) -> int:
    """Bytes free where a folder lies; of the home's own disk where the folder is not there."""
    there = next(path for path in (folder, *folder.parents) if path.is_dir())
    return shutil.disk_usage(there).free
