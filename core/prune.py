"""What may go: what was given up, remembered or kept for long enough, and that nobody can need any more.

Never a result that the Mac has not acknowledged, never what lies in ``inbox/taken``, never a clip in a room.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

from core import fsops
from core.companions import group, housekeeping
from core.contract import BATCH_ID, CLIP_ID, Manifest, VideoMeta, load
from core.delivery import VIDEO_FILE
from core.errors import Refused
from core.home import MANIFEST_FILE, STAGES, GpuHalf, Home, MacHalf
from core.settings import PruneSettings, Settings
from core.tracker import FileTracker

DAY = 86_400.0
EMPTY_DAYS = 1
"""An empty folder of a batch goes after so long; a younger one may be about to be filled."""
TRASH = ".trash"
"""Below ``sent/``, which may lie on another disk than the rest of the home."""

_FAILED_CLIP = re.compile(rf"{CLIP_ID}(\.unreadable)?(\.[0-9]+)?")
_REFUSED_BATCH = re.compile(rf"{BATCH_ID}\.[0-9a-f]{{8}}(\.[0-9]+)?")
_OLD_LOG = re.compile(r".+\.log\.([0-9]{1,3}|[0-9]{8}_[0-9]{6}(\.[0-9]+)?)")
_BATCH_ID = re.compile(BATCH_ID)


@dataclass(frozen=True)
class Leaving:
    """A file or folder that may go."""

    half: MacHalf | GpuHalf
    kind: str
    path: Path
    bytes: int
    days: float
    """Since the newest thing in it was touched."""


def leaving(home: Home, settings: Settings, moment: float) -> Iterator[Leaving]:
    """All that may go at this moment (seconds of the epoch).

    Each is judged when it is asked for, so that whoever removes it at once need not judge it again.
    """
    if settings.mac:
        yield from _mac(home.mac, settings.prune, moment)
    if settings.gpu:
        yield from _gpu(home.gpu, settings.prune, moment, home.mac if settings.mac else None)


def remove(item: Leaving, tracker: FileTracker) -> None:
    """Delete one; the audit says so first, for it must not miss a deletion. Raises ``OSError`` and ``DropreelError``.

    A folder leaves in one rename, so that a crash leaves it whole, or gone.
    """
    path = item.path
    names = sorted(file.name for file in path.iterdir()) if item.kind == "originals" else [path.name]
    source = path if item.kind == "originals" else path.parent
    batch_id = path.name[:15] if _BATCH_ID.match(path.name) else None
    tracker.track("prune", source, None, names, batch_id=batch_id, notes=item.kind)
    if item.kind == "empty folder":
        fsops.remove_folder(path)
    elif path.is_dir():
        try:
            fsops.discard(path, _trash_of(item))
        except FileNotFoundError:  # a retry took it this moment
            return
    else:
        fsops.remove(path)


def finish(home: Home, settings: Settings) -> None:
    """Delete what an earlier run had thrown away and not yet deleted when it was cut off."""
    places = [home.mac.state / "trash", home.mac.sent / TRASH] if settings.mac else []
    for trash in [*places, *([home.gpu.trash] if settings.gpu else [])]:
        fsops.empty(trash)


def _trash_of(item: Leaving) -> Path:
    if isinstance(item.half, GpuHalf):
        return item.half.trash
    return item.half.sent / TRASH if item.kind == "originals" else item.half.state / "trash"


# The server.


def _gpu(gpu: GpuHalf, settings: PruneSettings, moment: float, mac: MacHalf | None) -> Iterator[Leaving]:
    present = _present(gpu, mac)  # before anything goes: what a dry run shows is what goes
    for path in _entries(gpu.failed):
        if _FAILED_CLIP.fullmatch(path.name) and not _is_told_of(path.name, gpu):
            yield from _if_old(gpu, "failed clip", path, settings.failed_days, moment)
        elif _REFUSED_BATCH.fullmatch(path.name) and _came_from_a_mac(path):
            yield from _if_old(gpu, "refused batch", path, settings.failed_days, moment)
    for path in _entries(gpu.batch_acks):
        if path.suffix == ".json" and _BATCH_ID.fullmatch(path.stem) and path.stem not in present:
            yield from _if_old(gpu, "memory", path, settings.memory_days, moment)
    yield from _logs(gpu, settings, moment)
    yield from _empty(gpu, gpu.outbox, moment)


def _is_told_of(name: str, gpu: GpuHalf) -> bool:
    """Whether the failure's result still waits for the Mac: until then one may want to retry it."""
    clip_id = name.split(".", 1)[0]
    return (gpu.outbox / clip_id[:15] / clip_id).exists()


def _came_from_a_mac(batch: Path) -> bool:
    """Whether its originals lie in a hot folder; of one that was put here by hand this may be the only copy."""
    try:
        return all(entry.files for entry in load(Manifest, batch / MANIFEST_FILE).keyframes)
    except (Refused, OSError):
        return False


def _present(gpu: GpuHalf, mac: MacHalf | None) -> set[str]:
    """The batches of which something is left: they may still come again, and must then be known.

    Of a batch of which nothing is left the Mac has acknowledged every clip; and it never asks for results without
    asking for the answers to its batches, so it has this one's, and sends the batch no more. Looked through in the
    order in which clips move, so that one that moves meanwhile is seen.
    """
    rooms = [gpu.rooms / name for name in ("intake", *STAGES)]
    inside = [[room / "tmp", room / "ready", *_entries(room / "active")] for room in rooms]
    places = [gpu.failed, gpu.inbox, gpu.by_hand, *chain.from_iterable(inside), gpu.outbox]
    if mac is not None:
        places += [mac.outbox, mac.acks]
    return {path.name[:15] for place in places for path in _entries(place)}


# The Mac.


def _mac(mac: MacHalf, settings: PruneSettings, moment: float) -> Iterator[Leaving]:
    for path in _entries(mac.sent):
        if _BATCH_ID.fullmatch(path.name) and not (mac.outbox / path.name).exists():
            for item in _if_old(mac, "originals", path, settings.sent_days, moment):
                if _came_back(path, mac):
                    yield item
    remembered = [path for path in _entries(mac.taken) if path.suffix == ".json" and _BATCH_ID.fullmatch(path.stem)]
    for path in remembered[:-1]:  # by the newest one new ids stay later than all before, whatever the clock says
        yield from _if_old(mac, "memory", path, settings.memory_days, moment)
    yield from _logs(mac, settings, moment)
    yield from _empty(mac, mac.sent, moment)
    yield from _empty(mac, mac.results, moment)


def _came_back(sent: Path, mac: MacHalf) -> bool:
    """Whether every picture of a sent batch has its clip in ``results/``, passed or flagged; and it holds nothing else.

    The picture must be the very one that the clip was made of: an operator may have put another into its place.
    """
    batch_id = sent.name
    try:
        asked = load(Manifest, mac.taken / f"{batch_id}.json").keyframes
    except (Refused, FileNotFoundError):
        asked = []
    if not all(_result(batch_id, entry.stem, mac) for entry in asked):
        return False
    names = {path.name for path in sent.iterdir() if not housekeeping(path.name)}
    plain = {name for name in names if (sent / name).is_file() and not (sent / name).is_symlink()}
    groups = group(plain)
    if names != {name for each in groups.values() for name in each.files}:
        return False
    for stem, each in groups.items():
        meta = _result(batch_id, stem, mac)
        known = {file.name: file.sha256 for file in meta.entry.files} if meta else {}
        if not each.images or any(fsops.hash_file(sent / name) != known.get(name) for name in each.images):
            return False
    return True


def _result(batch_id: str, stem: str, mac: MacHalf) -> VideoMeta | None:
    """The meta of a clip that came back well, if the clip lies beside it."""
    for folder in (mac.results / batch_id, mac.results / batch_id / "flagged"):
        try:
            meta = load(VideoMeta, folder / f"{stem}.video_meta.json")
            size = (folder / f"{stem}{Path(VIDEO_FILE).suffix}").stat().st_size
        except (Refused, OSError):
            continue
        if meta.outcome != "fail" and meta.batch_id == batch_id and meta.files and meta.files[0].size == size:
            return meta
    return None


# Both.


def _logs(half: MacHalf | GpuHalf, settings: PruneSettings, moment: float) -> Iterator[Leaving]:
    for path in _entries(half.logs):
        if _OLD_LOG.fullmatch(path.name) and path.is_file():
            yield from _if_old(half, "log", path, settings.log_days, moment)


def _empty(half: MacHalf | GpuHalf, parent: Path, moment: float) -> Iterator[Leaving]:
    for path in _entries(parent):
        if _BATCH_ID.fullmatch(path.name) and path.is_dir() and not any(path.iterdir()):
            yield from _if_old(half, "empty folder", path, EMPTY_DAYS, moment)


def _if_old(half: MacHalf | GpuHalf, kind: str, path: Path, days: int, moment: float) -> Iterator[Leaving]:
    """This, if its newest part is older than so many days; 0 is never."""
    if path.is_symlink() or not days:
        return
    size, newest = 0, 0.0
    try:
        for each in chain([path], (Path(root, name) for root, *names in os.walk(path) for name in chain(*names))):
            info = each.lstat()
            size += info.st_size if each.is_file() else 0
            newest = max(newest, info.st_mtime)
    except FileNotFoundError:  # it changes this moment
        return
    age = (moment - newest) / DAY
    if age > days:
        yield Leaving(half, kind, path, size, age)


def _entries(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if not path.name.startswith(".")) if folder.is_dir() else []
