"""Telling someone: the one seam on Apprise, and the threads in which a slow service can hold up nobody else.

Threads, and no child: what a service needs is a socket and patience, and waiting for a socket lets other threads run.
They are daemon threads, so even one that hangs in its service does not outlive the process.
"""

from __future__ import annotations

import datetime as dt
import hashlib
import logging
import socket
import threading
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from pydantic import ValidationError
from tenacity import (
    RetryCallState,
    Retrying,
    retry_if_exception_type,
    sleep_using_event,
    stop_when_event_set,
    wait_exponential,
    wait_random,
)

from core import fsops
from core.errors import DropreelError
from core.logs import Logger
from core.messages import Memory, Message, Messages, Trouble, render
from core.settings import NotifySettings

LOOK_SECONDS = 5.0
"""How often one looks whether a message that waits may be told by now."""
RETRY_SECONDS = 15.0
"""What could not be delivered is tried again after so long, doubling,"""
RETRY_LONGEST_SECONDS = 900.0
"""to this."""
CLOSE_SECONDS = 1.0
"""At the end a delivery in flight is waited for so long; what is left is told after the next start."""


class NotDelivered(DropreelError):
    """The message did not arrive."""


class Unusable(DropreelError):
    """This URL is none that Apprise knows, or a service that this machine lacks."""


class Service:
    """One URL, through Apprise."""

    def __init__(self, url: str) -> None:
        """Imports Apprise, which takes a moment. Raises ``Unusable``, whose text may hold a secret."""
        import apprise

        words = _listen()
        asset = apprise.AppriseAsset(app_id="Dropreel", app_desc="Dropreel")
        # Apprise's own dispatcher would send from a pool of threads, for whose last one a process waits at its end.
        try:
            service: Any = apprise.Apprise.instantiate(url, asset=asset)
        except Exception as error:  # a hundred services read their URL in a hundred ways
            raise Unusable(f"{type(error).__name__}: {error}") from error
        if service is None:
            raise Unusable(words.last())
        self._service = service
        self._format = apprise.NotifyFormat.TEXT
        self.name = _without_secrets(service.url(privacy=True))
        """The service and its host: fit for a log."""

    def send(self, title: str, text: str) -> None:
        """Send one message, and wait until it has arrived. Raises ``NotDelivered``, whose text may hold a secret."""
        words = _listen()
        try:
            arrived = self._service.notify(title=title, body=text, body_format=self._format)
        except Exception as error:  # likewise
            raise NotDelivered(f"{type(error).__name__}: {error}") from error
        if not arrived:
            raise NotDelivered(words.last())


class Teller:
    """Tells every URL of the settings what is wrong; never blocks and never raises. Without URLs it does nothing."""

    def __init__(
        self,
        file: Path,
        settings: NotifySettings,
        log: Logger,
        clock: Callable[[], dt.datetime] = lambda: dt.datetime.now().astimezone(),
    ) -> None:
        """``file`` keeps what was told across restarts; ``clock`` gives the local time with its zone."""
        urls = list(dict.fromkeys(settings.urls))
        self._account = _Account(file, settings, [_id(url) for url in urls], log, clock)
        self._closing = threading.Event()
        self._listeners = [
            _Listener(number, url, self._account, self._closing, log) for number, url in enumerate(urls, 1)
        ]
        for listener in self._listeners:
            listener.start()

    def lasting(self, troubles: Iterable[Trouble]) -> None:
        """Say all troubles that there are now; to be called at every look.

        Each is told when it is new, again after ``repeat_hours`` while it lasts, and once more when it is over: when
        it has not been among them for a while.
        """
        if self._listeners and self._account.lasting(troubles):
            self._wake()

    def knows(self, key: str) -> bool:
        """Whether there was this trouble when one last looked, before a restart or after."""
        return self._account.knows(key)

    def happened(self, key: str, line: str, title: Callable[[int], str]) -> None:
        """Say, in a line, that something happened.

        What happens under one key within a moment is one message; ``title`` makes its title of their number.
        """
        if self._listeners:
            self._account.happened(key, line, title)
            self._wake()

    def close(self) -> None:
        """Stop telling, in bounded time; what waits is kept."""
        self._closing.set()
        self._wake()
        deadline = time.monotonic() + CLOSE_SECONDS
        for listener in self._listeners:
            listener.join(max(0.0, deadline - time.monotonic()))

    def _wake(self) -> None:
        for listener in self._listeners:
            listener.wake.set()


class _Account:
    """What is to be told, shared by the daemon's thread and those that tell, and kept across restarts."""

    def __init__(
        self,
        file: Path,
        settings: NotifySettings,
        listeners: list[str],
        log: Logger,
        clock: Callable[[], dt.datetime],
    ) -> None:
        self._file = file
        self.log = log
        self._clock = clock
        self._lock = threading.Lock()
        self._kept = True
        self._messages = Messages(settings, listeners, _remembered(file) if listeners else Memory())

    def lasting(self, troubles: Iterable[Trouble]) -> bool:
        with self._lock:
            changed = self._messages.lasting(troubles, self._clock())
            if changed:
                self._keep()
            return changed

    def knows(self, key: str) -> bool:
        with self._lock:
            return key in self._messages.memory.troubles

    def happened(self, key: str, line: str, title: Callable[[int], str]) -> None:
        with self._lock:
            self._messages.happened(key, line, title, self._clock())
            self._keep()

    def due(self, listener: str) -> tuple[list[Message], str, str]:
        """What a listener should hear now, and that as a title and a text."""
        with self._lock:
            moment = self._clock()
            messages = self._messages.due(listener, moment)
            return messages, *render(messages, moment.tzinfo)

    def delivered(self, listener: str, messages: list[Message]) -> None:
        with self._lock:
            self._messages.delivered(listener, messages)
            self._keep()

    def _keep(self) -> None:
        try:
            fsops.write(self._file, self._messages.memory.model_dump_json(indent=1).encode())
            self._kept = True
        except (OSError, DropreelError) as error:  # the disk is full, and it is that which we have to tell
            if self._kept:
                self.log.warning("notify.not_kept", error=str(error))
            self._kept = False


class _Listener(threading.Thread):
    """Tells one URL; what does not arrive is tried again, together with what has come meanwhile."""

    def __init__(self, number: int, url: str, account: _Account, closing: threading.Event, log: Logger) -> None:
        super().__init__(name=f"notify-{number}", daemon=True)
        self.wake = threading.Event()
        self._number = number
        self._url = url
        self._account = account
        self._closing = closing
        self.log = log

    def run(self) -> None:
        """The thread."""
        try:
            service = Service(self._url)
        except Unusable:  # its reason may hold the URL
            self.log.error("notify.unusable", number=self._number)
            return
        retrying = Retrying(
            retry=retry_if_exception_type(NotDelivered),
            wait=wait_exponential(multiplier=RETRY_SECONDS, max=RETRY_LONGEST_SECONDS) + wait_random(0, RETRY_SECONDS),
            sleep=sleep_using_event(self._closing),
            stop=stop_when_event_set(self._closing),
            before_sleep=lambda attempt: self._say_failed(service, attempt),
            retry_error_callback=lambda _: None,
        )
        while not self._closing.is_set():
            self.wake.clear()
            retrying(self._tell, service)
            self.wake.wait(LOOK_SECONDS)

    def _tell(self, service: Service) -> None:
        messages, title, text = self._account.due(_id(self._url))
        if messages:
            service.send(f"Dropreel: {title}", f"{text}\n— {socket.gethostname()}".lstrip())
            self._account.delivered(_id(self._url), messages)
            self.log.info("notify.sent", service=service.name, title=title)

    def _say_failed(self, service: Service, attempt: RetryCallState) -> None:
        if attempt.attempt_number == 1:  # once, however often it is tried
            self.log.warning("notify.failed", service=service.name)


class _LastWords(logging.Handler):
    """Keeps what the library says away from our log, where it could show a secret, and for the one who asks."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self._of: dict[int | None, str] = {}

    def emit(self, record: logging.LogRecord) -> None:
        self._of[record.thread] = record.getMessage()

    def last(self) -> str | None:
        """What was last said in this thread since this was last asked."""
        return self._of.pop(threading.get_ident(), None)


_words = _LastWords()


def _listen() -> _LastWords:
    """From here on Apprise and what it stands on say nothing to our log."""
    for name in ("apprise", "urllib3"):
        logger = logging.getLogger(name)
        logger.propagate = False
        logger.handlers = [_words]
    _words.last()
    return _words


def _id(url: str) -> str:
    """What the memory calls a listener: its URL may hold a secret."""
    return hashlib.sha256(url.encode()).hexdigest()[:12]


def _without_secrets(url: str) -> str:
    """``service://host`` of a URL that Apprise has masked; a user, a path and a query may be secrets all the same."""
    scheme, _, rest = url.partition("://")
    return f"{scheme}://{rest.split('?')[0].split('/')[0].rpartition('@')[2]}"


def _remembered(file: Path) -> Memory:
    try:
        return Memory.model_validate_json(file.read_bytes())
    except (OSError, ValidationError):  # a memory lost costs a message told twice
        return Memory()
