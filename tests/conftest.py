"""What every test leaves as it found it: a process is confined once in service, but tests share one."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from core import fsops


@pytest.fixture(autouse=True)
def unconfined() -> Iterator[None]:
    """No zones and no crash points but those that a test sets itself."""
    fsops.confine()
    fsops.seam = None
    yield
    fsops.confine()
    fsops.seam = None
