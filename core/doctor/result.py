"""What a check is, and what it finds: a verdict, what was seen, and what to do about it."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Literal, NamedTuple

from pydantic import BaseModel, ConfigDict

from core.errors import Text
from core.home import GpuHalf, Home, MacHalf
from core.settings import Settings

Verdict = Literal["ok", "warn", "fail", "skipped"]
"""``fail``: tonight's run will fail; ``warn``: it may, or will be slower; ``skipped``: nothing was tested, and why."""


class Result(BaseModel):
    """One thing that was looked at."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str
    verdict: Verdict
    seen: Text
    """With the numbers in it."""
    remedy: Text | None = None
    """What the operator can do; every ``warn`` and ``fail`` has one."""


def ok(name: str, seen: str) -> Result:
    """As it should be."""
    return Result(name=name, verdict="ok", seen=seen)


def warn(name: str, seen: str, remedy: str) -> Result:
    """It may go wrong, or be slower than it could."""
    return Result(name=name, verdict="warn", seen=seen, remedy=remedy)


def fail(name: str, seen: str, remedy: str) -> Result:
    """It will go wrong."""
    return Result(name=name, verdict="fail", seen=seen, remedy=remedy)


def skipped(name: str, why: str) -> Result:
    """Not tested."""
    return Result(name=name, verdict="skipped", seen=why)


class Patient(NamedTuple):
    """A home that is looked at."""

    settings: Settings
    home: Home

    @property
    def halves(self) -> dict[str, MacHalf | GpuHalf]:
        """The halves that a home of this role has, by their folders' names."""
        found: dict[str, MacHalf | GpuHalf] = {}
        if self.settings.mac:
            found["mac"] = self.home.mac
        if self.settings.gpu:
            found["gpu"] = self.home.gpu
        return found


class Check(NamedTuple):
    """One look at a home. ``look`` changes nothing that stays."""

    family: str
    name: str
    """What its result is called where it could not be run."""
    look: Callable[[Patient], Iterable[Result]]
    seconds: float = 20.0
    """After so long without an end it is given up, and that is its result."""


def standing(folder: Path) -> Path:
    """This folder, or what of its path is there: the daemons make the rest when they start."""
    return next(path for path in (folder, *folder.parents) if os.path.lexists(path))


def ago(seconds: float) -> str:
    """So long ago, for a person: ``12 s``, ``5 min``, ``3 h``, ``9 days``."""
    for unit, size in (("days", 86400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds:.0f} s"
