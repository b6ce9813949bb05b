"""What a power cut leaves of a tree: undoes every file-system step that was not yet on the disk.

The model is a journalling file system at its least helpful. The content of a file is there only if the file was
fsynced. A new name, a removed name and a rename hold only if their folder was fsynced afterwards; else the old state
comes back, what a rename replaced included.
"""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass
from pathlib import Path


@dataclass
class Step:
    """One step that ``fsops`` announced, and what it was about to destroy."""

    name: str
    paths: tuple[Path, ...]
    saved: Path | None = None
    durable: bool = False


class Journal:
    """Listens at the ``fsops`` seam and remembers what is not yet durable."""

    def __init__(self, root: Path, shadow: Path) -> None:
        self._root = root
        self._shadow = shadow
        shadow.mkdir(parents=True)
        self.steps: list[Step] = []
        self._synced: set[tuple[int, int, int]] = set()
        self._hollow: set[int] = set()

    def note(self, name: str, paths: tuple[Path, ...]) -> None:
        """Hear of a step before it happens; all those before it have happened."""
        step = Step(name, paths)
        victim = {"rename": paths[-1], "unlink": paths[-1]}.get(name)
        if victim is not None and victim.is_file():
            step.saved = self._shadow / str(len(self.steps))
            os.link(victim, step.saved)
        if name == "fsync":
            self._synced.add(_state(paths[0]))
        elif name == "rename" and paths[0].is_file() and _state(paths[0]) not in self._synced:
            self._hollow.add(paths[0].stat().st_ino)  # it gets its final name, but not its content
        elif name == "fsync_folder":
            for earlier in self.steps:
                if earlier.name in {"rename", "mkdir", "unlink"} and earlier.paths[-1].parent == paths[0]:
                    earlier.durable = True
        self.steps.append(step)

    def cut(self, copy: Path) -> None:
        """Do to ``copy``, a copy of the tree as it is now, what a power cut at this moment would."""
        happened = self.steps[:-1]  # the last was announced, not done

        def there(path: Path) -> Path:
            return copy / path.relative_to(self._root)

        for step in reversed(happened):
            if step.durable:
                continue
            match step.name:
                case "rename":
                    source, target = map(there, step.paths)
                    if target.exists() and not source.exists() and source.parent.exists():
                        target.rename(source)
                        if step.saved:
                            os.link(step.saved, target)
                case "unlink":
                    if step.saved and not there(step.paths[0]).exists() and there(step.paths[0]).parent.exists():
                        os.link(step.saved, there(step.paths[0]))
                case "mkdir":
                    shutil.rmtree(there(step.paths[0]), ignore_errors=True)
        for path in copy.rglob("*"):
            if path.is_file() and path.stat().st_ino in self._hollow:
                path.unlink()  # never truncated: the copy may share its files with the original
                path.touch()


def _state(path: Path) -> tuple[int, int, int]:
    """Which file this is, and how far it is written: what an fsync now would bring to the disk."""
    info = path.stat()
    return info.st_ino, info.st_size, info.st_mtime_ns
