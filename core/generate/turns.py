"""Clips taking turns: one runs at a time, and one whose component is not on the card waits until no other can go on.

Each clip runs an unmodified pipeline in a thread of its own. With one clip this is the plain order of things; with
many, all pass one expert of a model before the next is brought onto the card.
"""

from __future__ import annotations

import queue
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from typing import Generic, TypeVar

from core.errors import MustRestart, Stopped
from core.generate.residency import Residency

R = TypeVar("R")


class Abandoned(Exception):
    """The clips in hand were given up; those that wait stop too."""


class Turns(Generic[R]):
    """One round: so many clips, each with the work that makes it, over one set of components."""

    def __init__(self, residency: Residency, works: Sequence[Callable[[], R]], running: Callable[[int | None], None]):
        """``works[i]`` makes clip i and calls ``need`` before each component.

        ``running`` hears whose turn it is, in whatever thread; None at the end.
        """
        self._residency = residency
        self._works = works
        self._running = running
        self._changed = threading.Condition()
        self._turn: int | None = None
        self._waits: dict[int, str | None] = dict.fromkeys(range(len(works)))
        """What each clip that does not run waits for: a component, or None before it has begun."""
        self._abandoned = False
        self._broken: BaseException | None = None
        """What ``running`` raised."""
        self._results: queue.SimpleQueue[tuple[int, R | BaseException]] = queue.SimpleQueue()
        self._mine = threading.local()

    def run(self) -> Iterator[tuple[int, R | Exception]]:
        """Each clip as it is done, with what its work returned or raised; leaving early gives up the rest.

        Raises what ``running`` raises, and what is no single clip's failure: ``Stopped``, ``MustRestart`` and what is
        no ``Exception``. No other clip is given its turn after it.
        """
        threads = [
            threading.Thread(target=self._live, args=(number,), name=f"clip {number}", daemon=True)
            for number in range(len(self._works))
        ]
        for thread in threads:
            thread.start()
        try:
            with self._changed:
                self._pass_on()
            for _ in threads:
                number, result = self._results.get()
                if self._broken is not None:
                    raise self._broken
                if isinstance(result, BaseException) and (not isinstance(result, Exception) or _ends(result)):
                    raise result
                yield number, result
        finally:
            with self._changed:
                self._abandoned = True
                self._changed.notify_all()
            for thread in threads:
                thread.join()
            self._running(None)

    def need(self, component: str) -> None:
        """Go on if the component is on the card, else wait until it is. Raises ``Abandoned``."""
        if self._abandoned:
            raise Abandoned
        if self._residency.has(component):
            return
        me: int = self._mine.number
        begun = time.perf_counter()
        with self._changed:
            self._waits[me] = component
            self._pass_on()
            self._await(me)
        self._mine.waited += time.perf_counter() - begun
        if not self._residency.has(component):
            self._residency.bring(component)
            self._mine.brought += 1

    @property
    def waited(self) -> float:
        """For how many seconds the clip of this thread has let others go on."""
        seconds: float = self._mine.waited
        return seconds

    @property
    def brought(self) -> int:
        """How many components the clip of this thread has brought onto the card."""
        count: int = self._mine.brought
        return count

    def _live(self, number: int) -> None:
        self._mine.number, self._mine.waited, self._mine.brought = number, 0.0, 0
        result: R | BaseException
        try:
            with self._changed:
                self._await(number)
            result = self._works[number]()
        except BaseException as error:  # noqa: BLE001 - it is whoever asked for the clip that must hear of it
            forget_variables(error)
            result = error
        with self._changed:
            if isinstance(result, BaseException) and _ends(result):
                self._abandoned = True
                self._changed.notify_all()
            elif self._turn == number:
                self._pass_on()
            self._results.put((number, result))  # after the turn has passed on, and before anybody hears of an end

    def _await(self, me: int) -> None:
        self._changed.wait_for(lambda: self._turn == me or self._abandoned)
        if self._abandoned:
            raise Abandoned
        self._waits.pop(me, None)

    def _pass_on(self) -> None:
        """Give the turn to who can go on as things are, else to who has yet to begin, else to the first that waits."""
        able = [n for n, component in self._waits.items() if component and self._residency.has(component)]
        new = [n for n, component in self._waits.items() if component is None]
        order = able or new or list(self._waits)
        self._turn = min(order) if order else None
        try:
            if self._turn is not None:
                self._running(self._turn)
        except BaseException as error:  # noqa: BLE001 - raised by ``run``; here it would leave the others waiting
            self._broken, self._abandoned = error, True
        self._changed.notify_all()


def forget_variables(error: BaseException) -> None:
    """Let go of what the frames of a traceback hold: a clip's tensors would stay on the card for as long as it."""
    seen: list[BaseException] = []
    following: BaseException | None = error
    while following is not None and following not in seen:
        seen.append(following)
        traceback.clear_frames(following.__traceback__)
        following = following.__cause__ or following.__context__


def _ends(error: BaseException) -> bool:
    """Whether it ends the round for all."""
    return isinstance(error, (Stopped, MustRestart, Abandoned)) or not isinstance(error, Exception)
