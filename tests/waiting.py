"""Waiting for what other processes do: as long as it takes, and no longer than a deadline."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import TypeVar

import psutil

T = TypeVar("T")
_PAUSE = threading.Event()


def children(pid: int = 0) -> set[int]:
    """The living and unburied children of a process, or of this one."""
    return {child.pid for child in psutil.Process(pid or None).children()}


def until(condition: Callable[[], T | None], what: str, seconds: float = 20.0) -> T:
    """The first true value of ``condition``; fails, saying what was waited for, after so long."""
    deadline = time.monotonic() + seconds
    while not (value := condition()):
        if time.monotonic() > deadline:
            raise AssertionError(f"after {seconds:g} s still not: {what}")
        _PAUSE.wait(0.01)
    return value
