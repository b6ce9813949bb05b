"""Whether a disk has room to begin anything new: two marks, so that nobody flutters between yes and no."""

from __future__ import annotations

import math
import shutil
import time
from collections.abc import Callable
from pathlib import Path

from core.logs import Logger
from core.settings import DiskSettings

LOW = "disk is low"
"""Why a room is held, as logs and status say it."""

FULL_SECONDS = 30.0
"""After a write found the disk full nothing is begun for so long, however much seems to be free."""


class DiskGuard:
    """Watches the free space of one folder's disk."""

    def __init__(
        self, folder: Path, settings: DiskSettings, log: Logger, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._folder = folder
        self._settings = settings
        self.log = log
        self._clock = clock
        self._short = False
        self._full_until = -math.inf

    @property
    def low(self) -> bool:
        """Whether to begin nothing new: below the low-water mark, and from then on until above the high-water mark.

        Says so when it changes.
        """
        if self.again_in > 0:
            return True
        mark = self._settings.high_water_mb if self._short else self._settings.low_water_mb
        free = shutil.disk_usage(self._folder).free
        short = free < mark << 20
        if short != self._short:
            self.log.warning("disk.low" if short else "disk.enough", free_mb=free >> 20)
        self._short = short
        return short

    @property
    def again_in(self) -> float:
        """Seconds for which a full disk rests; 0 where it was not found full."""
        return max(0.0, self._full_until - self._clock())

    def found_full(self) -> None:
        """A write met a full disk: begin nothing until the high-water mark, and not at once."""
        self._short = True
        self._full_until = self._clock() + FULL_SECONDS
