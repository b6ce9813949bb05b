"""Something may have changed: file-system events as hints that wake a loop whose scans are the truth."""

from __future__ import annotations

import contextlib
import os
import select
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

from watchdog.events import FileSystemEvent, FileSystemEventHandler
from watchdog.observers import Observer
from watchdog.observers.api import BaseObserver


class Hint(NamedTuple):
    """A folder whose changes are worth a look."""

    folder: Path
    deep: bool = False
    """Whether what changes in the folders below it counts too."""


class Wake:
    """A flag that a signal handler, another thread or an event may set, and that one loop waits for.

    A pipe rather than a ``threading.Event``: a signal handler that sets an Event may interrupt its own loop inside
    the Event's lock and wait for itself for ever.
    """

    def __init__(self) -> None:
        self._read, self._write = os.pipe()
        os.set_blocking(self._read, False)
        os.set_blocking(self._write, False)

    def set(self) -> None:
        """Wake the loop; never blocks, never raises."""
        with contextlib.suppress(OSError):  # full: it is awake already; closed: it has left
            os.write(self._write, b"!")

    def wait(self, seconds: float, also: Sequence[int] = ()) -> bool:
        """Wait until set, or until one of these descriptors is readable, or for so long; True where it was not that."""
        ready, _, _ = select.select([self._read, *also], [], [], max(0.0, seconds))
        with contextlib.suppress(BlockingIOError):
            while os.read(self._read, 4096):
                pass
        return bool(ready)

    def close(self) -> None:
        """Give the pipe back."""
        read, write = self._read, self._write
        self._read = self._write = -1  # a late ``set`` must not write into whatever gets the number next
        os.close(read)
        os.close(write)


class _Waker(FileSystemEventHandler):
    """Does one thing, so that it cannot raise, block or hold a list: wakes the loop."""

    def __init__(self, wake: Wake) -> None:
        self._wake = wake

    def on_any_event(self, event: FileSystemEvent) -> None:
        if event.event_type not in {"opened", "closed_no_write"}:  # our own scans would wake us for ever
            self._wake.set()


class Watcher:
    """Watches folders and says when it no longer can.

    ``check`` is called by the loop now and then. It rebuilds the watch where an emitter thread has died or a folder
    is another one than before (deleted and made again, unmounted and mounted), which the operating system's own
    watch would never notice.
    """

    def __init__(self, hints: Iterable[Hint], wake: Wake) -> None:
        self._hints = tuple(hints)
        self._wake = wake
        self._observer: BaseObserver | None = None
        self._seen: dict[Path, tuple[int, int] | None] = {}

    def check(self) -> bool:
        """Make sure that every folder is watched; True where the watch had to be built again."""
        now = {hint.folder: _identity(hint.folder) for hint in self._hints}
        observer = self._observer
        if observer is None:
            alive = not any(now.values())  # nothing is there to be watched
        else:
            alive = observer.is_alive() and all(emitter.is_alive() for emitter in observer.emitters)
        if alive and now == self._seen:
            return False
        self.close()
        for hint in self._hints:
            if now[hint.folder] is not None and not self._watch(hint):
                now[hint.folder] = None
        self._seen = now
        self._wake.set()
        return True

    def _watch(self, hint: Hint) -> bool:
        """Watch a folder; False where it is gone this moment or the system's limit is reached: scans still see it."""
        try:
            if self._observer is None:
                self._observer = Observer()
                self._observer.start()  # first, so that the start of one watch fails alone
            self._observer.schedule(_Waker(self._wake), str(hint.folder), recursive=hint.deep)
        except OSError:
            return False
        return True

    @property
    def blind(self) -> list[Path]:
        """The folders that are not watched: missing, or beyond the system's limit on watches."""
        return [folder for folder, identity in self._seen.items() if identity is None]

    def close(self) -> None:
        """Stop watching."""
        if self._observer is not None and self._observer.is_alive():
            self._observer.stop()
            self._observer.join()
        self._observer = None


def _identity(folder: Path) -> tuple[int, int] | None:
    try:
        info = folder.stat()
    except OSError:
        return None
    return info.st_dev, info.st_ino
