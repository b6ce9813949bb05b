"""A room: where clips of one stage wait, are claimed, worked on, and leave. Where a clip's folder lies is its state."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from core import fsops
from core.contract import CLIP_ID, Clip, load
from core.errors import Finding, Refused, UnreadableClip

CLIP_FILE = "clip.json"
BASE_FILE = "base.npy"
"""What ``generate`` leaves in a clip's folder: frames at the model's own rate and canvas."""
FRAMES_FILE = "frames.npy"
"""What ``interpolate`` leaves: frames as they are delivered."""
CANCEL_FILE = "CANCEL"
"""Present in a clip's folder: the operator wants it no more. It travels with the folder."""
PAUSED_FILE = "PAUSED"
"""Present in a room: its daemons claim nothing."""

_IS_CLIP = re.compile(CLIP_ID).fullmatch


@dataclass
class ClipFolder:
    """A clip in a worker's hands: its folder and what is known of it."""

    path: Path
    clip: Clip

    @classmethod
    def open(cls, path: Path) -> ClipFolder:
        """Raises ``UnreadableClip`` where ``clip.json`` is not what it should be."""
        try:
            return cls(path, load(Clip, path / CLIP_FILE))
        except Refused as error:
            raise UnreadableClip(path, error.finding) from error
        except (FileNotFoundError, NotADirectoryError, IsADirectoryError) as error:
            finding = Finding(code="clip_unreadable", message=f"clip.json cannot be read: {error}.", file=path.name)
            raise UnreadableClip(path, finding) from error

    def save(self, *, durable: bool = True) -> None:
        """Write ``clip.json``."""
        fsops.write(self.path / CLIP_FILE, self.clip.to_json(), durable=durable)

    @property
    def cancelled(self) -> bool:
        """Whether the operator wants it no more."""
        return (self.path / CANCEL_FILE).exists()

    @property
    def image(self) -> Path:
        """The keyframe."""
        return self.path / self.clip.image


class Waiting(NamedTuple):
    """A clip that waits in a room."""

    clip_id: str
    rank: tuple[int, int]
    """Attempts at this stage and priority, negated: the least comes first."""
    model: str
    """Empty where that cannot be told."""

    @property
    def fresh(self) -> bool:
        """Whether no attempt at this stage has failed yet."""
        return self.rank[0] == 0


class Room:
    """One stage's folder: ``tmp/`` being built, ``ready/`` waiting, ``active/<worker>/`` in hand."""

    def __init__(self, root: Path, bound: int | None = None) -> None:
        self.root = root
        self.bound = bound
        """How many clips may wait here before the room in front holds back; None for no bound."""
        self._known: dict[str, tuple[tuple[int, int], Waiting]] = {}

    @property
    def name(self) -> str:
        """The stage."""
        return self.root.name

    @property
    def tmp(self) -> Path:
        """Folders being put together; nobody reads them."""
        return self.root / "tmp"

    @property
    def ready(self) -> Path:
        """Whole, fsynced, waiting."""
        return self.root / "ready"

    @property
    def active(self) -> Path:
        """One folder a worker, with the clips in its hands."""
        return self.root / "active"

    @property
    def paused(self) -> bool:
        """Whether the operator told its daemons to claim nothing."""
        return (self.root / PAUSED_FILE).exists()

    @property
    def ids(self) -> list[str]:
        """The clips that wait here, in no order. What is no clip (``.DS_Store``) is not seen."""
        return _ids_in(self.ready)

    @property
    def places(self) -> float:
        """How many more clips may wait here; infinite where there is no bound, negative where it was lowered."""
        return math.inf if self.bound is None else self.bound - len(self.ids)

    @property
    def full(self) -> bool:
        """Whether as many clips wait here as may."""
        return self.places <= 0

    def enter(self, folder: Path) -> None:
        """Take in a clip's folder, whole and fsynced, from anywhere on this file system."""
        fsops.move(folder, self.ready / folder.name)

    def waiting(self) -> list[Waiting]:
        """The waiting clips: fewest attempts at this stage first, then priority, then age."""
        ids = self.ids
        self._known = {i: known for i in ids if (known := self._known.get(i))}
        folder = str(self.ready)
        return sorted((self._look(folder, i) for i in ids), key=lambda clip: (clip.rank, clip.clip_id))

    def _look(self, folder: str, clip_id: str) -> Waiting:
        # A thousand may wait; clip.json is read again only when it is another file than last time.
        # A path as text, and no more of the system than one stat, is a tenth of the time.
        path = f"{folder}/{clip_id}/{CLIP_FILE}"
        try:
            info = os.stat(path)  # noqa: PTH116
            seen = (info.st_ino, info.st_mtime_ns)
            known = self._known.get(clip_id)
            if known is None or known[0] != seen:
                clip = load(Clip, Path(path))
                rank = clip.attempts.get(self.name, 0), -clip.entry.priority
                known = self._known[clip_id] = (seen, Waiting(clip_id, rank, clip.entry.generation_params.model))
        except (OSError, Refused):  # claimed by another meanwhile, or broken: the claim will tell
            return Waiting(clip_id, (0, 0), "")
        return known[1]


class Worker:
    """A worker's place in a room: ``active/<name>/``, whose lock it holds for as long as it or a child lives."""

    def __init__(self, room: Room, name: str) -> None:
        """Raises ``AlreadyRunning`` while another process holds this name."""
        self.room = room
        self.name = name
        self.hands = room.active / name
        self.hindmost: set[str] = set()
        """Clips that the disk had no room for: all others come before them."""
        self._lock = fsops.hold(self.hands)

    def close(self) -> None:
        """Let go of the name."""
        os.close(self._lock)

    def claim(self, order: Callable[[list[Waiting]], list[Waiting]] = list) -> ClipFolder | None:
        """Take the next clip, counting the attempt; None where nothing waits. Raises ``UnreadableClip``.

        ``order`` may put the waiting clips in another order, and leave some out.
        """
        for clip_id in sorted((clip.clip_id for clip in order(self.room.waiting())), key=self.hindmost.__contains__):
            if fsops.claim(self.room.ready / clip_id, self.hands / clip_id):
                folder = ClipFolder.open(self.hands / clip_id)
                fsops.sweep(folder.path)
                self.charge(folder, 1)
                return folder
        return None

    def charge(self, folder: ClipFolder, attempts: int) -> None:
        """Count an attempt at a clip that is in hand, or take one off that was not its own."""
        counted = folder.clip.attempts
        counted[self.room.name] = max(0, counted.get(self.room.name, 0) + attempts)
        folder.save(durable=False)  # survives whatever kills this process; a power cut is no clip's fault

    def give_back(self, folder: ClipFolder, *, count_attempt: bool) -> None:
        """Return a clip to the room; an attempt that was not the clip's fault is not counted."""
        if not count_attempt:
            attempts = folder.clip.attempts
            attempts[self.room.name] = max(0, attempts.get(self.room.name, 1) - 1)
            folder.save()
        fsops.sweep(folder.path)
        self.room.enter(folder.path)

    def publish(self, folder: ClipFolder, room: Room) -> None:
        """Hand a clip on to the next room; its attempts at this stage are history."""
        folder.clip.attempts.pop(self.room.name, None)
        folder.save()
        room.enter(folder.path)

    def orphans(self, busy: Collection[str] = ()) -> Iterator[Path]:
        """The clips in dead workers' hands, and those that an earlier life of this worker left in its own.

        ``busy`` are those of its own that it still works on.

        A worker whose lock nobody holds is dead, and so are its children: they inherit the lock. Its lock is held
        while its clips are looked at, so that two who come to help do not help twice.
        """
        yield from (path for path in _clips_in(self.hands) if path.name not in busy)
        for hands in sorted(self.room.active.iterdir()):
            if hands != self.hands and hands.is_dir() and (lock := fsops.lock(hands)) is not None:
                try:
                    yield from _clips_in(hands)
                finally:
                    os.close(lock)


def _clips_in(folder: Path) -> list[Path]:
    """The clips' folders in a folder, by name."""
    return [folder / clip_id for clip_id in _ids_in(folder)]


def _ids_in(folder: Path) -> list[str]:
    """The names of the clips' folders in a folder, in order; a stray file is nobody's clip."""
    with os.scandir(folder) as entries:
        return sorted(entry.name for entry in entries if _IS_CLIP(entry.name) and entry.is_dir())
