"""What lies in the hot folder: groups of files that share a stem, and which of them have come to rest."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Generic, TypeVar

from core.companions import Group, group, ignored

DropKey = tuple[Path, str]
"""The folder and the stem: which drop this is, while its files come and change."""
K = TypeVar("K")
MAX_DEPTH = 8
"""A folder dragged in is looked into so deep."""


@dataclass(frozen=True)
class FileIdentity:
    """What tells whether a file is still the one that was seen: replaced or edited, it differs."""

    inode: int
    size: int
    mtime_ns: int
    is_plain: bool = True
    """False for a link, a FIFO, a device: nothing that an operator means to drop."""


@dataclass(frozen=True)
class Drop:
    """One group of the hot folder: an image and its companions, or what there is of them so far."""

    folder: Path
    group: Group
    files: dict[str, FileIdentity] = field(compare=False)

    @property
    def key(self) -> DropKey:
        """Which drop this is."""
        return self.folder, self.group.stem

    def identity(self, *names: str) -> tuple[tuple[str, FileIdentity], ...]:
        """The identity of these of its files, or of all."""
        return tuple((name, self.files[name]) for name in names or sorted(self.files))


def scan(hot: Path, skip: Iterable[Path]) -> Iterator[Drop]:
    """The drops in the hot folder and in folders dragged into it, as they lie there now.

    ``skip`` names the folders that are ours (``sent``, ``rejected``). Links to folders are not followed. Raises
    ``OSError`` where the hot folder itself is not there: an unmounted share is no empty one.
    """
    yield from _scan(hot, frozenset(skip), 0)


def _scan(folder: Path, skip: frozenset[Path], depth: int) -> Iterator[Drop]:
    files: dict[str, FileIdentity] = {}
    folders: list[Path] = []
    with os.scandir(folder) as entries:
        for entry in entries:
            try:
                info = entry.stat(follow_symlinks=False)
            except OSError:  # vanished between the listing and the look, or not for us to see
                continue
            if stat.S_ISDIR(info.st_mode):
                path = Path(entry.path)
                if path not in skip and not ignored(entry.name) and depth < MAX_DEPTH:
                    folders.append(path)
            elif not ignored(entry.name):
                plain = stat.S_ISREG(info.st_mode)
                files[entry.name] = FileIdentity(info.st_ino, info.st_size, info.st_mtime_ns, plain)
    for members in group(files).values():
        yield Drop(folder, members, {name: files[name] for name in members.files})
    for path in sorted(folders):
        try:
            yield from _scan(path, skip, depth + 1)
        except OSError:  # gone, or not for us to read; that holds up no other
            continue


class Settler(Generic[K]):
    """Tells since when things have not changed, by looks at them and not by their own times: clocks of shares lie."""

    def __init__(self) -> None:
        self._since: dict[K, tuple[object, float]] = {}

    def look(self, things: Mapping[K, object], moment: float) -> dict[K, float]:
        """Take one look at all there is, each with its identity; for each, the seconds it has lain unchanged."""
        seen = {}
        for key, identity in things.items():
            known = self._since.get(key)
            seen[key] = known if known and known[0] == identity else (identity, moment)
        self._since = seen
        return {key: moment - since for key, (_, since) in seen.items()}
