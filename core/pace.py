"""How fast clips leave the rooms: over the last ten minutes, time with nothing to do not counted."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterable

WINDOW_SECONDS = 600.0
FEWEST = 3
"""Of fewer clips no pace is told: by one or two it would be chance."""


class Pace:
    """Told now and then what lies in the outbox, and of each result that leaves it.

    Idle time is left out, so that the first clips of a batch after a quiet hour already tell how long the rest takes.
    What lies in the outbox at the start came at an unknown time, and is not counted.
    """

    def __init__(self, results: Iterable[str], clock: Callable[[], float] = time.monotonic) -> None:
        """``results`` are those that lie in the outbox now, by id."""
        self._clock = clock
        self._looks: deque[tuple[float, float, int]] = deque()
        """When, the busy seconds since the look before, and the clips that came in them."""
        self._looked_at = clock()
        self._here = set(results)
        self._passed_through = 0

    def look(self, results: Iterable[str], *, busy: bool) -> float:
        """The clips a minute, 0 of fewer than ``FEWEST``; ``busy`` is whether there was work since the last look."""
        moment, here = self._clock(), set(results)
        came = len(here - self._here) + self._passed_through
        self._looks.append((moment, moment - self._looked_at if busy or came else 0.0, came))
        self._looked_at, self._here, self._passed_through = moment, here, 0
        while self._looks and self._looks[0][0] < moment - WINDOW_SECONDS:
            self._looks.popleft()
        seconds, clips = sum(worked for _, worked, _ in self._looks), sum(came for *_, came in self._looks)
        return 60.0 * clips / seconds if seconds and clips >= FEWEST else 0.0

    def released(self, clip_id: str) -> None:
        """A result leaves the outbox; one that came since the last look would otherwise not be seen."""
        if clip_id not in self._here:
            self._passed_through += 1
