"""The courier's link to the server: work over it is tried until it succeeds, and what fails it is said once."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from tenacity import RetryCallState, Retrying, retry_if_exception_type, wait_random_exponential

from core.network import NetworkChanges
from core.rsync import LinkLost, LinkRefused, LinkTrouble
from daemons.runtime import ONCE_TRIES, Runtime

SHORTEST_PAUSE = 1.0
LONGEST_PAUSE = 60.0
"""While the server cannot be reached it is tried after a pause at random, which grows up to so many seconds."""

T = TypeVar("T")


class Link:
    """Whether the server can be reached, since when not, and why."""

    def __init__(self, runtime: Runtime) -> None:
        self.trouble = ""
        """What is wrong; empty while nothing is."""
        self._runtime = runtime
        self._network = NetworkChanges()
        self._down_at = 0.0

    def close(self) -> None:
        """Listen to the network no more."""
        self._network.close()

    @property
    def down_seconds(self) -> float:
        """For how long the server has not been reached; 0 while it is."""
        return self._runtime.clock() - self._down_at if self.trouble else 0.0

    def over(self, work: Callable[[], T]) -> T:
        """Do work that may be repeated, again until the link has carried it; at once when the network is back.

        Raises what ``work`` raises but for ``LinkLost``, which it raises with ``--once`` alone; and ``Stopped``.
        """
        tries = Retrying(
            retry=retry_if_exception_type(LinkLost),
            wait=wait_random_exponential(multiplier=2.0, max=LONGEST_PAUSE),
            stop=lambda state: self._runtime.once and state.attempt_number >= ONCE_TRIES,
            sleep=self._pause,
            before_sleep=self._say_lost,
            reraise=True,
        )
        try:
            done = tries(work)
        except LinkRefused as error:
            if self._is_new(error):
                self._runtime.log.error("link.refused", reason=str(error))
            raise
        self.carried()
        return done

    def carried(self) -> None:
        """Something has gone over the link: it is well. That the server answers is not enough to say so."""
        if self.trouble:
            self._runtime.log.warning("link.back", seconds=round(self.down_seconds, 1))
        self.trouble = ""
        self._runtime.metrics.link(up=True)

    def _pause(self, seconds: float) -> None:
        """Wait so long, or until the network changes; but a moment at least, for a network may change all the time."""
        self._network.happened()  # what has changed until now is no reason to hurry
        self._runtime.rest(SHORTEST_PAUSE)
        self._runtime.rest(seconds - SHORTEST_PAUSE, self._network)

    def _say_lost(self, tries: RetryCallState) -> None:
        error = tries.outcome.exception() if tries.outcome else None
        if isinstance(error, LinkLost) and self._is_new(error):
            self._runtime.log.warning("link.lost", reason=str(error))
        self._runtime.alive(f"the server cannot be reached, try {tries.attempt_number}")

    def _is_new(self, error: LinkTrouble) -> bool:
        """Take note of what is wrong; whether it is another thing than before."""
        if not self.trouble:
            self._down_at = self._runtime.clock()
        new = error.meaning != self.trouble
        self.trouble = error.meaning
        self._runtime.metrics.link(up=False)
        return new
