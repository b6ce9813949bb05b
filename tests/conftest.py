"""What every test leaves as it found it: a process is confined once in service, but tests share one."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator

import pytest

from core import fsops

# Hundreds of processes import the same modules: these are compiled once, whatever the environment says of bytecode.
sys.dont_write_bytecode = False
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
# Several tests share the cores, and tiny networks gain nothing from threads but waiting for each other.
os.environ.setdefault("OMP_NUM_THREADS", "1")


MOST_PROCESSES = 4
"""Of tests at once: each may start daemons, and load models."""


@pytest.hookimpl(optionalhook=True)  # it is xdist's
def pytest_xdist_auto_num_workers() -> int:
    """Two more than there are cores, since for a third of their time tests wait: for ssh, for a backoff, for an end."""
    return min(MOST_PROCESSES, (os.cpu_count() or 1) + 2)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What may take longest begins first: begun last, it would keep one core busy when all else is done."""
    items.sort(key=_seconds_allowed, reverse=True)


def _seconds_allowed(item: pytest.Item) -> float:
    mark = item.get_closest_marker("timeout")
    return float(mark.args[0]) if mark else 0.0


@pytest.fixture(autouse=True)
def unconfined() -> Iterator[None]:
    """No zones and no crash points but those that a test sets itself."""
    fsops.confine()
    fsops.seam = None
    yield
    fsops.confine()
    fsops.seam = None
