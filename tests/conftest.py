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


@pytest.fixture(autouse=True)
def unconfined() -> Iterator[None]:
    """No zones and no crash points but those that a test sets itself."""
    fsops.confine()
    fsops.seam = None
    yield
    fsops.confine()
    fsops.seam = None
