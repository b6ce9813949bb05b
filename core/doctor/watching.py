"""Watching: the folders are really watched, and an event really comes."""

from __future__ import annotations

import contextlib
import logging
import os
import sys
from collections.abc import Iterator
from pathlib import Path

from core import fsops
from core.doctor.mounts import mount_of
from core.doctor.result import Check, Patient, Result, ok, skipped, warn
from core.home import GpuHalf, MacHalf
from core.watch import Hint, Wake, Watcher

_INOTIFY = Path("/proc/sys/fs/inotify")
_WATCHES, _INSTANCES = 8192, 64  # a file manager and an editor take as many; we take some forty and one a daemon
_EVENT_SECONDS = 10.0
_POLL = "Set daemons.poll = true; or live with it: scans find everything, every {:g} s."


def limits(patient: Patient) -> Iterator[Result]:
    """The system's limits on inotify (Linux)."""
    if sys.platform != "linux" or patient.settings.daemons.poll:
        return
    watches, instances = (int((_INOTIFY / f"max_user_{what}").read_text()) for what in ("watches", "instances"))
    seen = f"{watches:,} watches and {instances:,} instances a user"
    if watches < _WATCHES or instances < _INSTANCES:
        yield warn("inotify", seen, f"Raise them: sysctl fs.inotify.max_user_watches={_WATCHES * 8} "
                   f"fs.inotify.max_user_instances={_INSTANCES * 8}, and the same in /etc/sysctl.d/.")  # fmt: skip
    else:
        yield ok("inotify", seen)


def events(patient: Patient) -> Iterator[Result]:
    """Watch all folders as the daemons do; then change something and wait for the event."""
    if patient.settings.daemons.poll:
        yield skipped(
            "events", f"daemons.poll is on: all folders are looked at every {patient.settings.daemons.poll_seconds} s"
        )
        return
    remedy = _POLL.format(patient.settings.daemons.scan_seconds)
    for name, half in patient.halves.items():
        folders = [folder for folder in half.folders if folder.is_dir()]
        with _watching(folders) as (watcher, _):
            if watcher.blind:
                yield warn(name, f"{len(watcher.blind)} of {len(folders)} folders cannot be watched: the system's "
                           "limit is reached", f"Raise fs.inotify.max_user_watches. {remedy}")  # fmt: skip
                continue
        front = _front(half)
        if not front.is_dir():
            continue  # the folders' own check says so
        with _watching([front]) as (_, wake):
            if _hears(front, wake):
                yield ok(name, f"{len(folders)} folders watched; an event came from {front}")
            else:
                yield warn(name, f"a file was made in {front}, and no event came in {_EVENT_SECONDS:g} s", remedy)


def shares(patient: Patient) -> Iterator[Result]:
    """A network share tells nobody of what others change on it."""
    for name, half in patient.halves.items():
        mount = mount_of(_front(half))
        if not mount.network or patient.settings.daemons.poll:
            yield ok(f"{name} share", f"{_front(half)} is on {mount.kind}")
        else:
            yield warn(
                f"{name} share",
                f"{_front(half)} is on {mount.kind}, mounted at {mount.point}: no event tells what others change there",
                _POLL.format(patient.settings.daemons.scan_seconds),
            )


CHECKS = (
    Check("watching", "inotify", limits),
    Check("watching", "events", events, seconds=30.0),
    Check("watching", "share", shares),
)


def _front(half: MacHalf | GpuHalf) -> Path:
    """Where others put things."""
    return half.inbox if isinstance(half, GpuHalf) else half.hot


@contextlib.contextmanager
def _watching(folders: list[Path]) -> Iterator[tuple[Watcher, Wake]]:
    logging.getLogger("watchdog").setLevel(logging.CRITICAL)  # what it misses is just what is looked for here
    wake = Wake()
    watcher = Watcher((Hint(folder) for folder in folders), wake)
    try:
        watcher.check()
        wake.wait(0)
        yield watcher, wake
    finally:
        watcher.close()
        wake.close()


def _hears(folder: Path, wake: Wake) -> bool:
    """Whether a file that is made in a folder wakes who watches it."""
    probe = folder / f".doctor-{os.getpid()}"
    try:
        fsops.write(probe, b"", durable=False)
    finally:
        fsops.remove(probe)
    return wake.wait(_EVENT_SECONDS)
