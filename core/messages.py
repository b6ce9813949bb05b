"""What is still to be told, to whom and when: each thing once, gathered for a moment, and not in quiet hours."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from pydantic import BaseModel, ConfigDict

from core.settings import NotifySettings

GATHER_SECONDS = 20.0
"""A message waits for so long for more of its kind,"""
GATHER_LONGEST_SECONDS = 300.0
"""and no longer than this in all."""
CALM_SECONDS = 300.0
"""A trouble is over when it has not been seen for so long: what comes and goes is one trouble."""
LINES_MAX = 20
"""A message has at most so many lines, and says how many more there are."""
WAITING_MAX = 100
"""So many messages wait at most; the oldest that can be spared goes first."""


@dataclass(frozen=True)
class Trouble:
    """Something that is wrong, for as long as it is."""

    key: str
    """The same as long as it is the same trouble: ``disk:mac``, ``stalled:qa``."""
    title: str
    text: str
    """What it means, and what to do."""
    urgent: bool = False
    """Told in quiet hours too: it stops everything, and does not go by itself."""


class Message(BaseModel):
    """Something to tell, and who has not heard it yet."""

    model_config = ConfigDict(extra="forbid")

    key: str
    title: str
    lines: list[str]
    count: int
    """How many lines there would be, were there no limit."""
    urgent: bool = False
    first_at: dt.datetime
    last_at: dt.datetime
    """When its latest line came."""
    left: list[str]
    """The listeners that have still to hear it."""


class Known(BaseModel):
    """A trouble that lasts."""

    model_config = ConfigDict(extra="forbid")

    title: str
    urgent: bool
    queued_at: dt.datetime
    """When it was last put up to be told."""
    told: list[str] = []
    """The listeners that have heard of it, and will hear that it is over."""
    gone_at: dt.datetime | None = None
    """Since when it has not been seen."""


class Memory(BaseModel):
    """All that has to outlive a restart, so that nothing is told twice or forgotten."""

    model_config = ConfigDict(extra="forbid")

    troubles: dict[str, Known] = {}
    waiting: list[Message] = []
    """In the order in which they came."""


class Messages:
    """Keeps the account of who is told what; every moment is a time of the day where the operator is, with its zone."""

    def __init__(self, settings: NotifySettings, listeners: Sequence[str], memory: Memory) -> None:
        self._settings = settings
        self._listeners = list(listeners)
        self.memory = memory
        for message in memory.waiting:  # a listener that is no longer named waits for nothing
            message.left = [who for who in message.left if who in self._listeners]
        memory.waiting = [message for message in memory.waiting if message.left]

    def lasting(self, troubles: Iterable[Trouble], moment: dt.datetime) -> bool:
        """Take note of all troubles there are now; one that was there before and is not named is gone.

        Returns whether that changed anything.
        """
        now = moment.astimezone(dt.UTC)
        known = self.memory.troubles
        named = {trouble.key: trouble for trouble in troubles}
        changed = False
        for key, trouble in named.items():
            old = known.get(key)
            if old is None or (
                _is_past(old.queued_at, self._settings.repeat_hours * 3600, now) and self._unheard(key) is None
            ):
                self._withdraw(key)
                known[key] = Known(
                    title=trouble.title, urgent=trouble.urgent, queued_at=now, told=old.told if old else []
                )
                self._add(key, trouble.title, trouble.text, self._listeners, now, urgent=trouble.urgent)
                changed = True
            elif old.gone_at is not None:
                old.gone_at = None
                changed = True
        for key in known.keys() - named.keys():
            old = known[key]
            if old.gone_at is None:
                old.gone_at = now
                changed = True
            elif _is_past(old.gone_at, CALM_SECONDS, now):
                del known[key]
                self._withdraw(key)
                if told := [who for who in old.told if who in self._listeners]:
                    self._add(f"over {key}", f"Over: {old.title}", "", told, now, urgent=old.urgent)
                changed = True
        return changed

    def happened(self, key: str, line: str, title: Callable[[int], str], moment: dt.datetime) -> None:
        """Take note of something that happened; more of one key make one message, whose title is by their number."""
        now = moment.astimezone(dt.UTC)
        message = self._unheard(key)
        if message is None:
            self._add(key, title(1), line, self._listeners, now)
        else:
            message.count += 1
            message.lines = [*message.lines, _plain(line)][:LINES_MAX]
            message.title, message.last_at = _plain(title(message.count)), now

    def due(self, listener: str, moment: dt.datetime) -> list[Message]:
        """What this listener should hear now."""
        now = moment.astimezone(dt.UTC)
        quiet = self.quiet(moment)
        return [
            message
            for message in self.memory.waiting
            if listener in message.left
            and (message.urgent or (not quiet and _is_gathered(message, now)))
            and not self._is_gone(message.key)
        ]

    def delivered(self, listener: str, messages: Iterable[Message]) -> None:
        """This listener has heard these."""
        for message in messages:
            message.left = [who for who in message.left if who != listener]
            known = self.memory.troubles.get(message.key)
            if known is not None and listener not in known.told:
                known.told.append(listener)
        self.memory.waiting = [message for message in self.memory.waiting if message.left]

    def quiet(self, moment: dt.datetime) -> bool:
        """Whether this time of the day is within the quiet hours, which may go across midnight."""
        begin, end = self._settings.quiet_from, self._settings.quiet_until
        if begin is None or end is None:
            return False
        time = moment.time()
        return begin <= time < end if begin <= end else time >= begin or time < end

    def _unheard(self, key: str) -> Message | None:
        """The message of this key that nobody has heard yet."""
        waiting = self.memory.waiting
        return next((each for each in waiting if each.key == key and each.left == self._listeners), None)

    def _is_gone(self, key: str) -> bool:
        known = self.memory.troubles.get(key)
        return known is not None and known.gone_at is not None

    def _withdraw(self, key: str) -> None:
        self.memory.waiting = [message for message in self.memory.waiting if message.key != key]

    def _add(
        self, key: str, title: str, text: str, to: Sequence[str], now: dt.datetime, *, urgent: bool = False
    ) -> None:
        waiting = self.memory.waiting
        if len(waiting) >= WAITING_MAX:
            waiting.remove(next((message for message in waiting if not message.urgent), waiting[0]))
        lines = [_plain(text)] if text else []
        waiting.append(
            Message(key=key, title=_plain(title), lines=lines, count=len(lines), urgent=urgent,
                    first_at=now, last_at=now, left=list(to))
        )  # fmt: skip


def render(messages: Sequence[Message], zone: dt.tzinfo | None) -> tuple[str, str]:
    """The title and the text that tell these; several are one digest, each with the time at which it came."""
    if len(messages) == 1:
        return messages[0].title, "\n".join(_body(messages[0]))
    parts = []
    for message in messages:
        head = f"{message.first_at.astimezone(zone):%d %b %H:%M}  {message.title}"
        parts.append("\n".join([head, *_body(message)]))
    return f"{len(messages)} messages", "\n\n".join(parts)


def _body(message: Message) -> list[str]:
    more = message.count - len(message.lines)
    return [*message.lines, *([f"… and {more} more"] if more else [])]


def _is_gathered(message: Message, now: dt.datetime) -> bool:
    return _is_past(message.last_at, GATHER_SECONDS, now) or _is_past(message.first_at, GATHER_LONGEST_SECONDS, now)


def _is_past(then: dt.datetime, seconds: float, now: dt.datetime) -> bool:
    """Whether so long has passed; a clock that was set back must not hold anything up."""
    return not 0 <= (now - then).total_seconds() < seconds


def _plain(text: str) -> str:
    """On one line, and printable: names come from strangers, and a title becomes the header of a mail."""
    return "".join(mark if mark.isprintable() else " " for mark in text)
