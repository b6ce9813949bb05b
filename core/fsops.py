"""The only module that renames, fsyncs, writes atomically, locks or deletes; its steps can be counted and crashed.

Three rules hold for every caller. A file appears under its final name whole and fsynced, or not at all. A rename is
durable when the call returns: both parents are fsynced, the destination first, so that a power cut may show the old
place or the new one but never neither. And nothing outside the safe zones is touched: ``confine`` names them once a
process, and the studio's protected folders are refused whatever the zones say.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import itertools
import os
import re
import stat
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from core.errors import AlreadyRunning, DiskFull, OutsideZone

PROTECTED = re.compile(r"mojo.*|__crop|__cropped|__selected", re.DOTALL)
"""The studio's own folders: nothing in them is ever touched."""
PART = ".part"
"""The ending of a file that is still being written; no reader looks at one."""

HOLD_SECONDS = 0.5

seam: Callable[[str, tuple[Path, ...]], None] | None = None
"""Called before every step with its name and paths. Tests count, fail and crash here; it is None in service."""

_zones: tuple[Path, ...] = ()
_serial = itertools.count()
_OUR_PART = re.compile(r"\..+\.\d+-\d+\.part", re.DOTALL)
_CHUNK = 1 << 20


def confine(*zones: Path) -> None:
    """From now on this process writes only below these folders. With none, only protected folders are refused."""
    global _zones  # noqa: PLW0603 - a process has one set of zones, named once at its start
    _zones = tuple(Path(os.path.realpath(zone)) for zone in zones)


def guard(path: Path) -> None:
    """Raise ``OutsideZone`` where this process may not write."""
    real = Path(os.path.realpath(path.parent)) / path.name
    folders = real.parts if real.is_dir() else real.parts[:-1]  # a picture may be called mojo_001.png
    if any(PROTECTED.fullmatch(name) for name in folders):
        raise OutsideZone(path)
    if _zones and not any(real.is_relative_to(zone) for zone in _zones):
        raise OutsideZone(path)


@contextlib.contextmanager
def _step(name: str, *paths: Path) -> Iterator[None]:
    """One crash point; turns a full disk into ``DiskFull`` wherever it shows."""
    try:
        if seam is not None:
            seam(name, paths)
        yield
    except OSError as error:
        if error.errno in {errno.ENOSPC, errno.EDQUOT}:
            raise DiskFull(f"{DiskFull.__doc__} While writing {paths[-1]}.") from error
        raise


def _flush(fd: int) -> None:
    # macOS: fsync leaves the data in the drive's cache; only F_FULLFSYNC empties it. Network shares lack it.
    if sys.platform == "darwin":
        try:
            fcntl.fcntl(fd, fcntl.F_FULLFSYNC)
        except OSError:
            os.fsync(fd)
    else:
        os.fsync(fd)


def _sync(step: str, path: Path, flags: int = os.O_RDONLY) -> None:
    with _step(step, path):
        fd = os.open(path, flags | os.O_CLOEXEC)
        try:
            _flush(fd)
        finally:
            os.close(fd)


def sync_file(path: Path) -> None:
    """Bring a file's content to the disk."""
    _sync("fsync", path)


def sync_folder(path: Path) -> None:
    """Bring a folder's entries to the disk."""
    _sync("fsync_folder", path, os.O_DIRECTORY)


def _rename(source: Path, target: Path) -> None:
    guard(source)
    guard(target)
    with _step("rename", source, target):
        source.rename(target)


def _sync_parents(source: Path, target: Path) -> None:
    sync_folder(target.parent)
    if source.parent != target.parent:
        sync_folder(source.parent)


def part_of(final: Path) -> Path:
    """A name beside ``final`` to write under, unique to this process and call."""
    return final.with_name(f".{final.name}.{os.getpid()}-{next(_serial)}{PART}")


@contextlib.contextmanager
def _part_for(final: Path) -> Iterator[Path]:
    """A name to write under that is gone again if the writing fails."""
    guard(final)
    part = part_of(final)
    try:
        yield part
    except BaseException:
        with contextlib.suppress(OSError):
            part.unlink()
        raise


def publish(part: Path, final: Path, *, durable: bool = True) -> None:
    """Fsync ``part``, rename it to ``final`` (replacing what is there), fsync the folder.

    Without ``durable`` the folder is not fsynced: callers publish several files and then ``sync_folder`` once.
    """
    sync_file(part)
    _rename(part, final)
    if durable:
        _sync_parents(part, final)


def write(final: Path, data: bytes, *, durable: bool = True) -> None:
    """Write a file whole: readers see what was there before, or all of ``data``.

    Without ``durable`` a power cut may bring back what was there before; never less than one or the other.
    """
    with _part_for(final) as part:
        with _step("write", part):
            part.write_bytes(data)
        publish(part, final, durable=durable)


def read(source: Path, max_bytes: int) -> bytes:
    """Read a file that a stranger made. Raises ``OSError`` as ``copy`` does."""
    return b"".join(_chunks(source, max_bytes))


def _chunks(source: Path, max_bytes: int) -> Iterator[bytes]:
    # A link could lead anywhere, and a FIFO would hold the daemon for ever: only plain files are read.
    fd = os.open(source, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            raise OSError(errno.EINVAL, "not a plain file", str(source))
        size = 0
        while chunk := os.read(fd, _CHUNK):
            size += len(chunk)
            if size > max_bytes:
                raise OSError(errno.EFBIG, "larger than allowed", str(source))
            yield chunk
    finally:
        os.close(fd)


def copy(source: Path, final: Path, *, max_bytes: int = sys.maxsize) -> str:
    """Copy a file whole and return the SHA-256 of the bytes that were written.

    The folder is not fsynced: callers copy several files and then ``sync_folder`` once.

    Raises ``OSError`` (ELOOP for a link, EINVAL for what is no plain file, EFBIG beyond ``max_bytes``), ``DiskFull``.
    """
    digest = hashlib.sha256()
    with _part_for(final) as part:
        with _step("write", part), part.open("wb") as out:
            for chunk in _chunks(source, max_bytes):
                digest.update(chunk)
                out.write(chunk)
        publish(part, final, durable=False)
    return digest.hexdigest()


def move(source: Path, target: Path) -> None:
    """Rename a file or folder durably, on one file system. Raises ``FileExistsError`` rather than replace anything.

    A file is fsynced first: it may be one that an operator dropped a moment ago, and be in memory alone.
    """
    if os.path.lexists(target):
        raise FileExistsError(errno.EEXIST, "already there", str(target))
    if source.is_file() and not source.is_symlink():
        sync_file(source)
    _rename(source, target)
    _sync_parents(source, target)


def free_name(path: Path) -> Path:
    """This path, or where something lies there already the first of ``path.2``, ``path.3`` … that is free."""
    numbered = (path.with_name(f"{path.name}.{number}") for number in itertools.count(2))
    return path if not os.path.lexists(path) else next(other for other in numbered if not os.path.lexists(other))


def claim(source: Path, target: Path) -> bool:
    """Rename a folder that others want too; True for the one that got it.

    Not fsynced: a claim that a power cut undoes is a clip that waits again, which is where it belongs.
    """
    try:
        _rename(source, target)
    except FileNotFoundError:
        return False
    return True


def make_folder(path: Path) -> None:
    """Make a folder and its missing parents, durably; one that is there is left as it is."""
    missing = list(itertools.takewhile(lambda p: not p.is_dir(), (path, *path.parents)))
    for folder in reversed(missing):
        guard(folder / "any")
        with _step("mkdir", folder):
            folder.mkdir(exist_ok=True)
        sync_folder(folder.parent)


def remove(path: Path) -> None:
    """Delete a file, durably; one that is gone is no error."""
    guard(path)
    with _step("unlink", path), contextlib.suppress(FileNotFoundError):
        path.unlink()
    with contextlib.suppress(FileNotFoundError):
        sync_folder(path.parent)


def remove_folder(path: Path) -> None:
    """Delete an empty folder; one that is gone, or not empty, stays as it is."""
    guard(path)
    with _step("rmdir", path):
        try:
            path.rmdir()
        except OSError as error:
            if error.errno not in {errno.ENOENT, errno.ENOTEMPTY, errno.EEXIST}:
                raise


def discard(path: Path, trash: Path) -> None:
    """Delete a folder: out of sight in one durable rename, then piece by piece. Finishes what a crash left.

    A restart calls ``empty`` on the trash.
    """
    make_folder(trash)
    if path.is_dir():
        move(path, trash / f"{path.name}.{os.getpid()}-{next(_serial)}")
    empty(trash)


def empty(trash: Path) -> None:
    """Delete all that lies in a folder whose content nobody wants."""
    guard(trash / "any")
    for entry in list(trash.iterdir()) if trash.is_dir() else []:
        with _step("rmtree", entry):
            if entry.is_dir() and not entry.is_symlink():
                _take_apart(entry)
            else:
                entry.unlink(missing_ok=True)


def _take_apart(folder: Path) -> None:
    # The folders in it come up beside it first: a stranger may nest them deeper than a stack, or a path, is long.
    left = [folder]
    while left:
        folder = left.pop()
        with contextlib.suppress(OSError):
            for entry in list(os.scandir(folder)):
                if entry.is_dir(follow_symlinks=False):
                    left.append(folder.with_name(f"{os.getpid()}-{next(_serial)}"))
                    Path(entry.path).rename(left[-1])
                else:
                    Path(entry.path).unlink()
            folder.rmdir()


def sweep(*folders: Path) -> None:
    """Delete the unfinished files that a dead process left in these folders, and below them.

    Only names that ``part_of`` gives: a browser's half download in the hot folder is the operator's.
    """
    left = list(folders)
    while left:
        entries: list[os.DirEntry[str]] = []
        with contextlib.suppress(OSError):  # gone, not ours to read, or nested deeper than paths are long
            entries = list(os.scandir(left.pop()))
        for entry in entries:
            if entry.is_dir(follow_symlinks=False):
                left.append(Path(entry.path))
            elif _OUR_PART.fullmatch(entry.name):
                remove(Path(entry.path))


def append(path: Path, line: str) -> None:
    """Add one line to a log; lines of several processes never mix, being one ``write`` each."""
    guard(path)
    with _step("append", path):
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o644)
        try:
            os.write(fd, (line + "\n").encode(errors="backslashreplace"))
        finally:
            os.close(fd)


def lock(folder: Path) -> int | None:
    """Take the lock of a folder; its descriptor, or None where a living process holds it.

    The descriptor is inheritable on purpose: the children of a worker hold its lock too, so nobody takes a clip
    over while one of them may still write into it. The kernel lets go when the last of them is dead.
    """
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(fd)
        return None
    except BaseException:
        os.close(fd)
        raise
    os.set_inheritable(fd, True)
    return fd


def hold(folder: Path) -> int:
    """Take the lock of a folder, made if it is missing. Raises ``AlreadyRunning`` where a living process holds it.

    Waits for a moment: one who looks whether we are dead holds the lock meanwhile.
    """
    make_folder(folder)
    deadline = time.monotonic() + HOLD_SECONDS
    while (fd := lock(folder)) is None:
        if time.monotonic() > deadline:
            raise AlreadyRunning
        time.sleep(0.01)
    return fd


def hash_file(path: Path) -> str:
    """The SHA-256 of a file, as 64 hex digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
