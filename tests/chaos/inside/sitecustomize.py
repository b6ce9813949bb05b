"""Runs inside every daemon of a chaos run, where Python finds it on the path: its disk, its rights and its clock fail.

No part of the product: the conductor puts this folder on ``PYTHONPATH``. What is to fail at this moment stands in the
file that ``CHAOS_FAULTS`` names, as ``tests.chaos.faults`` writes it.

A folder is shut, and a disk is full, at Python's own audit events: every ``open``, ``listdir``, ``rename`` of the
process passes there, whoever calls it. Root is no exception to it, as it is to the mode of a folder, and no mount is
needed, as it is for a small disk; but the programs that a daemon starts, ffmpeg and rsync, notice nothing.
"""

from __future__ import annotations

import datetime as dt
import errno
import importlib.abc
import importlib.machinery
import json
import os
import random
import shutil
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

FILE = os.environ["CHAOS_FAULTS"]
ROOT = os.path.dirname(FILE)  # noqa: PTH120 - pathlib would be imported before it is watched

NAMING = {"open": 1, "os.listdir": 1, "os.scandir": 1, "os.mkdir": 1, "os.rmdir": 1, "os.remove": 1, "os.rename": 2}
"""Audit events that say what a process is about to do to a file, and how many names they begin with."""

SHORTENED = {
    "core.disk": {"FULL_SECONDS": 2.0},
    "daemons.keyframes": {"RETRY_SECONDS": 2.0},
    "daemons.intake": {"RETRY_SECONDS": 2.0},
    "daemons.courier": {"REFUSED_SECONDS": 2.0},
    "daemons.link": {"LONGEST_PAUSE": 2.0},
    "daemons.supervisor": {"LONGEST_BACKOFF": 1.0},
}
"""So long, in service up to a minute, daemons wait after a trouble; here there is one every other second."""


class Faults(NamedTuple):
    """What fails now."""

    full: bool = False
    shut: tuple[str, ...] = ()
    """Folders that may not be looked into, nor anything below them."""
    broken: float = 0.0
    """The share of fsyncs and renames that end in EIO."""
    clock: float = 0.0
    """Seconds by which the wall clock is wrong."""


_seen: tuple[tuple[int, int], Faults] = ((0, 0), Faults())


def faults() -> Faults:
    """What fails now; the file is read when it is another than before."""
    global _seen  # noqa: PLW0603 - a process has one
    info = os.stat(FILE)  # noqa: PTH116 - it is asked thousands of times a second
    which = info.st_ino, info.st_mtime_ns
    if which != _seen[0]:
        with open(FILE, "rb") as file:  # noqa: PTH123
            told = json.load(file)
        _seen = which, Faults(**{**told, "shut": tuple(told["shut"])})
    return _seen[1]


def _audit(event: str, arguments: tuple[Any, ...]) -> None:
    names = NAMING.get(event)
    if names is None:
        return
    paths = [os.fsdecode(path) for path in arguments[:names] if isinstance(path, (str, bytes, os.PathLike))]
    if not any(path.startswith(ROOT) for path in paths) or paths[0].startswith(FILE):
        return
    now = faults()
    for path in paths:
        if any(path == folder or path.startswith(f"{folder}/") for folder in now.shut):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), path)
    makes = event == "os.mkdir" or (event == "open" and bool(arguments[2] & os.O_CREAT))
    if now.full and makes and not os.path.lexists(paths[0]):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), paths[0])


def _break(step: str, paths: tuple[Path, ...]) -> None:
    """At the seam of ``core.fsops``, before each step."""
    if step in {"fsync", "fsync_folder", "rename"} and random.random() < faults().broken:  # noqa: S311 - no secret
        raise OSError(errno.EIO, os.strerror(errno.EIO), str(paths[-1]))


def _wrong(module: ModuleType) -> None:
    true: Callable[[], dt.datetime] = module.now
    vars(module)["now"] = lambda: true() + dt.timedelta(seconds=faults().clock)


def _prepare(module: ModuleType) -> None:
    if module.__name__ == "core.fsops":
        vars(module)["seam"] = _break
    if module.__name__ == "core.contract":
        _wrong(module)
    for name, seconds in SHORTENED.get(module.__name__, {}).items():
        assert hasattr(module, name), f"{module.__name__} has no {name} any more"
        vars(module)[name] = seconds


class _Prepared(importlib.machinery.SourceFileLoader):
    """Loads a module, and puts into it what chaos needs there before anyone else sees it."""

    def exec_module(self, module: ModuleType) -> None:
        super().exec_module(module)
        _prepare(module)


class _Finder(importlib.abc.MetaPathFinder):
    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        if fullname not in {"core.fsops", "core.contract", *SHORTENED}:
            return None
        spec = importlib.machinery.PathFinder.find_spec(fullname, path, target)
        assert spec is not None
        assert spec.origin is not None
        spec.loader = _Prepared(fullname, spec.origin)
        return spec


def _inject() -> None:
    wall, usage, allocate = time.time, shutil.disk_usage, getattr(os, "posix_fallocate", None)

    def disk_usage(path: Any) -> Any:
        said = usage(path)
        return said._replace(free=0) if faults().full else said

    def posix_fallocate(fd: int, offset: int, length: int) -> None:
        if faults().full:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        assert allocate is not None
        allocate(fd, offset, length)

    sys.meta_path.insert(0, _Finder())
    time.time = lambda: wall() + faults().clock
    shutil.disk_usage = disk_usage
    if allocate is not None:
        vars(os)["posix_fallocate"] = posix_fallocate
    sys.addaudithook(_audit)


_inject()
