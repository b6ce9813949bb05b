"""Folders: every one of them is written to, and a file moves from them as clips do."""

from __future__ import annotations

import errno
import os
import pwd
import sys
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

from core import fsops
from core.doctor.result import Check, Patient, Result, fail, ok, standing, warn
from core.errors import DropreelError, OutsideZone
from core.home import STAGES, GpuHalf, Home, MacHalf

_TRIES = 3  # a daemon that tidies up may take the probe away
_NAMED = 3  # folders in one line


def hot(patient: Patient) -> Iterator[Result]:
    """A hot folder outside the home is never made: it may be a share that is not mounted."""
    if patient.settings.mac and not _is_missing_share(patient.home.mac, patient.home):
        yield ok("hot folder", str(patient.home.mac.hot))
    elif patient.settings.mac:
        yield fail("hot folder", f"{patient.home.mac.hot} is not there", "Mount the share, make the folder, or correct "
                   "hot_folder.folder.")  # fmt: skip


def whole(patient: Patient) -> Iterator[Result]:
    """Each folder takes a file, fsyncs it, and lets it go to another by a rename."""
    for name, half in patient.halves.items():
        troubles: dict[tuple[str, str], list[Path]] = defaultdict(list)
        folders = _folders(half, patient.home)
        for folder, onwards in folders.items():
            trouble = _probe(folder, onwards)
            if trouble is not None:
                troubles[trouble].append(folder)
        for (seen, remedy), where in troubles.items():
            yield fail(name, f"{_list(where)}: {seen}", remedy)
        if not troubles:
            yield ok(name, f"{len(folders)} folders: each was written to, fsynced and renamed from")


def owner(patient: Patient) -> Iterator[Result]:
    """The doctor sees what the daemons see only as their user."""
    owns = patient.home.root.stat().st_uid
    if owns == os.geteuid():
        yield ok("owner", _user(owns))
    else:
        yield warn(
            "owner",
            f"the home is {_user(owns)}'s, and {_user(os.geteuid())} is asking",
            f"Ask as the user who runs the daemons: sudo -u {_user(owns)} dropreel doctor --home {patient.home.root}",
        )


def content(patient: Patient) -> Iterator[Result]:
    """What lies in the folders can be moved on; a batch that another user wrote could not be taken away."""
    stuck = [path for half in patient.halves.values() for path in _within(half) if not _is_ours(path)]
    if stuck:
        yield fail(
            "content",
            f"{_list(stuck)}: {_user(stuck[0].stat().st_uid)}'s, and not for {_user(os.geteuid())} to move",
            "One user must own all: the one who runs the daemons, and on the server the ssh user too. "
            f"Then: sudo chown -R {_user(os.geteuid())} {patient.home.root}",
        )
    else:
        yield ok("content", "all that lies in the folders can be moved on")


CHECKS = (
    Check("folders", "hot folder", hot),
    Check("folders", "folders", whole, seconds=60.0),
    Check("folders", "owner", owner),
    Check("folders", "content", content),
)


def _is_missing_share(mac: MacHalf, home: Home) -> bool:
    return not mac.hot.is_relative_to(home.root) and not mac.hot.is_dir()


def _folders(half: MacHalf | GpuHalf, home: Home) -> dict[Path, Path | None]:
    """The folders to write to, each with the one that a file must be able to go to from there by a rename."""
    found: dict[Path, Path | None] = dict.fromkeys((half.root, *half.folders))
    found |= dict.fromkeys(half.moved_within, half.root)
    if isinstance(half, GpuHalf):
        hands = [path for stage in STAGES for path in (half.rooms / stage / "active").glob("[!.]*")]
        found |= dict.fromkeys((path for path in hands if path.is_dir()), half.root)
    else:
        found |= dict.fromkeys((half.sent, half.rejected), half.hot)
        if _is_missing_share(half, home):
            found = {path: onwards for path, onwards in found.items() if not path.is_relative_to(half.hot)}
    return found


def _probe(folder: Path, onwards: Path | None) -> tuple[str, str] | None:
    """What is wrong with a folder, and the remedy."""
    for last in range(_TRIES, 0, -1):
        try:
            _pass_through(standing(folder), onwards if folder.is_dir() else None)
        except (OSError, DropreelError) as error:
            if not isinstance(error, FileNotFoundError) or last == 1:
                return _judge(error, onwards)
        else:
            break
    return None


def _pass_through(folder: Path, onwards: Path | None) -> None:
    probe = folder / f".doctor-{os.getpid()}"
    fsops.write(probe, b"dropreel doctor was here\n")
    try:
        if onwards is not None:
            fsops.move(probe, onwards / f"{probe.name}-moved")
            fsops.remove(onwards / f"{probe.name}-moved")
    finally:
        fsops.remove(probe)


def _judge(error: Exception, onwards: Path | None) -> tuple[str, str]:
    """What an error says, and what to do."""
    number = error.errno if isinstance(error, OSError) else None
    me = _user(os.geteuid())
    if number == errno.EXDEV:
        return (
            f"on another file system than {onwards}",
            "Clips go from room to room by a rename: move the home as a whole to the other disk, not a part of it.",
        )
    if number == errno.EROFS:
        return "on a disk that is mounted read-only", "Mount it writable; if it turned so by itself, look at the disk."
    if number in {errno.ENOTDIR, errno.EEXIST, errno.ELOOP}:
        return "no folder, but something else", "Move away what lies there; the daemons make the folder."
    if number == errno.EPERM and sys.platform == "darwin":
        return "macOS does not let this shell in", "See the results of macos, or try from another terminal."
    if number in {errno.EACCES, errno.EPERM}:
        return f"not for {me} to write", f"Give it to the user who runs the daemons: sudo chown -R {me} FOLDER"
    if isinstance(error, OutsideZone):
        return (
            "a link that leads out of the home, or one of the studio's protected folders",
            "Nothing is written there. Put folders where the links are; or move the home to where the space is.",
        )
    return str(error) if isinstance(error, DropreelError) else os.strerror(number or errno.EIO), "Look at the disk."


def _within(half: MacHalf | GpuHalf) -> Iterator[Path]:
    """The folders that will be moved on."""
    for folder in half.moved_within:
        yield from (path for path in folder.glob("[!.]*") if path.is_dir() and not path.is_symlink())


def _is_ours(folder: Path) -> bool:
    """Whether it can be renamed into another folder, and taken apart."""
    effective = os.access in os.supports_effective_ids
    return os.access(folder, os.R_OK | os.W_OK | os.X_OK, effective_ids=effective)


def _list(paths: list[Path]) -> str:
    named = ", ".join(map(str, paths[:_NAMED]))
    return f"{named} and {len(paths) - _NAMED} more" if len(paths) > _NAMED else named


def _user(number: int) -> str:
    try:
        return pwd.getpwuid(number).pw_name
    except KeyError:
        return str(number)
