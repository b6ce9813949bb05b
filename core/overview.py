"""How a home stands, from its folders alone: works just as well when every daemon is dead."""

from __future__ import annotations

import json
import os
import re
import time
from pathlib import Path
from typing import Any

from core import fsops
from core.contract import BATCH_ID, CLIP_ID
from core.home import STAGES, GpuHalf, Home, MacHalf
from core.rooms import Room
from core.settings import Settings

_BATCH_ID = re.compile(BATCH_ID)


def overview(home: Home, settings: Settings) -> dict[str, Any]:
    """What lies where, as plain data; ``dropreel status`` draws it."""
    found: dict[str, Any] = {"home": str(home.root)}
    if settings.mac:
        found["mac"] = _mac(home.mac)
    if settings.gpu:
        found["gpu"] = _gpu(home.gpu, settings)
    return found


def _mac(mac: MacHalf) -> dict[str, Any]:
    hot = [path for path in _entries(mac.hot) if path not in (mac.sent, mac.rejected) and path.is_file()]
    results = [path for batch in _batches(mac.results) for path in batch.rglob("*.video_meta.json")]
    return {
        "hot_folder": len(hot),
        "rejected": len(_entries(mac.rejected)),
        "outbox": len(_batches(mac.outbox)),
        "delivered": sum(path.parent.parent == mac.results for path in results),
        "flagged": sum(path.parent.name == "flagged" for path in results),
        "failed": sum(path.parent.name == "failed" for path in results),
    }


def _gpu(gpu: GpuHalf, settings: Settings) -> dict[str, Any]:
    return {
        "inbox": len(_batches(gpu.inbox)),
        "rooms": [_room(Room(gpu.rooms / stage, settings.rooms.bounds.of(stage)), gpu) for stage in STAGES],
        "outbox": sum(len(_entries(batch)) for batch in _batches(gpu.outbox)),
        "failed": len(_entries(gpu.failed)),
    }


def _room(room: Room, gpu: GpuHalf) -> dict[str, Any]:
    waiting = room.ids if room.ready.is_dir() else []
    oldest = max((age for name in waiting if (age := _age(room.ready / name)) is not None), default=None)
    return {
        "room": room.name,
        "paused": room.paused,
        "ready": len(waiting),
        "bound": room.bound,
        "oldest_seconds": oldest,
        "workers": [_worker(room, hands, gpu) for hands in _entries(room.active)],
    }


def _worker(room: Room, hands: Path, gpu: GpuHalf) -> dict[str, Any]:
    lock = fsops.lock(hands)
    if lock is not None:
        os.close(lock)
    clips = sorted(path.name for path in _entries(hands) if re.fullmatch(CLIP_ID, path.name))
    progress = _progress(gpu.state / "workers" / f"{room.name}@{hands.name}.json")
    current = clips[0] if clips else None
    fraction = progress.get("fraction") if progress.get("clip_id") == current else None
    return {"worker": hands.name, "alive": lock is None, "clip": current, "fraction": fraction}


def _progress(path: Path) -> dict[str, Any]:
    try:
        read: dict[str, Any] = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return {}
    return read


def _entries(folder: Path) -> list[Path]:
    return sorted(path for path in folder.glob("[!.]*")) if folder.is_dir() else []


def _batches(folder: Path) -> list[Path]:
    return [path for path in _entries(folder) if _BATCH_ID.fullmatch(path.name)]


def _age(path: Path) -> float | None:
    try:
        return round(time.time() - path.stat().st_mtime, 1)
    except OSError:
        return None
