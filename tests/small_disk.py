"""A disk of a few megabytes, which really becomes full."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest


@contextmanager
def small_disk(place: Path, mib: int) -> Iterator[None]:
    """Mount one on a folder, for as long as it is needed; skips the test where nobody may do so."""
    if sys.platform != "linux" or os.geteuid() != 0:
        pytest.skip("a disk of its own needs root, on Linux")
    mount = ["mount", "-t", "tmpfs", "-o", f"size={mib}m,mode=700", "none", str(place)]
    mounted = subprocess.run(mount, capture_output=True, text=True, check=False)
    if mounted.returncode:
        pytest.skip(f"no disk can be mounted here: {mounted.stderr}")
    try:
        yield
    finally:
        subprocess.run(["umount", "--lazy", str(place)], check=True)


def resize(place: Path, mib: int) -> None:
    """Make it larger, or smaller."""
    subprocess.run(["mount", "-o", f"remount,size={mib}m", str(place)], check=True)
