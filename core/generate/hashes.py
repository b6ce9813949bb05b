"""Which files of weights these are: their hashes, and a fingerprint that takes milliseconds."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterable
from pathlib import Path

from core import fsops
from core.generate.layout import read_json

HASHES_FILE = "weights.json"
"""In ``gpu/state``: hashes that were taken, so that none is taken twice."""
_SAMPLES, _SAMPLE_BYTES = 64, 1 << 14
_CHUNK = 8 << 20


def fingerprint(files: Iterable[Path]) -> str:
    """What tells files from others, as 16 hex digits: SHA-256 of names, sizes and 64 samples of 16 KiB each.

    Takes milliseconds where a hash of all takes minutes. A configuration is smaller than a sample, and read whole;
    other weights differ in nearly every number, so they differ here; a single damaged byte of theirs need not.
    """
    told = hashlib.sha256()
    for path in sorted(files):
        size = path.stat().st_size
        told.update(f"{path.name} {size}\n".encode())
        with path.open("rb") as file:
            for number in range(_SAMPLES):
                file.seek(max(0, size - _SAMPLE_BYTES) * number // (_SAMPLES - 1))
                told.update(file.read(_SAMPLE_BYTES))
    return told.hexdigest()[:16]


class Hashes:
    """The SHA-256 of files, each taken once: a file is the same while its inode, size and time are."""

    def __init__(self, state: Path) -> None:
        """``state`` is the folder in which they are remembered."""
        self._file = state / HASHES_FILE
        self._known = read_json(self._file)

    def known(self, path: Path) -> str | None:
        """The hash of a file, if it was taken since the file was last written."""
        entry = self._known.get(str(path), {})
        return entry.get("sha256") if isinstance(entry, dict) and entry.get("of") == _state_of(path) else None

    def take(self, path: Path, tell: Callable[[int], None]) -> str:
        """The hash of a file; ``tell`` hears how many bytes more have been read. Raises ``OSError``."""
        if (known := self.known(path)) is not None:
            tell(path.stat().st_size)
            return known
        of, told = _state_of(path), hashlib.sha256()
        with path.open("rb") as file:
            while chunk := file.read(_CHUNK):
                told.update(chunk)
                tell(len(chunk))
        self._known[str(path)] = {"of": of, "sha256": told.hexdigest()}
        self._known = {name: entry for name, entry in self._known.items() if Path(name).exists()}
        fsops.write(self._file, json.dumps(self._known, indent=1).encode(), durable=False)
        return told.hexdigest()


def named_hash(path: Path) -> str | None:
    """The SHA-256 that the hub's cache says a file has, by the name of the blob that it links to; None elsewhere."""
    name = Path(os.path.realpath(path)).name
    return name if path.is_symlink() and len(name) == 64 else None


def _state_of(path: Path) -> list[int]:
    status = path.stat()
    return [status.st_ino, status.st_size, status.st_mtime_ns]
