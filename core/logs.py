"""Logs for people: one line an event in ``logs/<daemon>.log``, the same as JSON on stdout under a service manager."""

from __future__ import annotations

import json
import logging
import logging.handlers
import sys
from collections.abc import Callable, Mapping, MutableMapping
from pathlib import Path
from typing import Any

import structlog

Logger = structlog.stdlib.BoundLogger
EventDict = MutableMapping[str, Any]

ROTATE_BYTES = 20 << 20
ROTATE_KEEP = 5


def line(_logger: object, _method: str, event: EventDict) -> str:
    """``2026-11-22T14:03:01.123Z info    clip.claimed        clip=… room=…``: fixed columns, then ``key=value``."""
    moment, level, name = event.pop("timestamp"), event.pop("level"), event.pop("event")
    trace = event.pop("exception", None)
    words = " ".join(f"{key}={_word(value)}" for key, value in event.items())
    text = f"{moment} {level:<7} {name:<22} {words}".rstrip()
    return "\n    | ".join([text, *map(harmless, trace.split("\n"))]) if trace else text


def _word(value: object) -> str:
    """A value as one word; quoted like JSON where it holds what would break the line apart."""
    if isinstance(value, float):
        return f"{value:.4g}"
    text = str(value)
    plain = text.isprintable() and not any(mark in text for mark in ' "=') and text != ""
    return text if plain else harmless(json.dumps(text, ensure_ascii=False))


def harmless(text: str) -> str:
    """With what a terminal, or a reader of lines, would act on escaped as in JSON."""
    return "".join(mark if mark.isprintable() else json.dumps(mark)[1:-1] for mark in text)


class _Rendered(logging.Formatter):
    """Renders one event for one place."""

    def __init__(self, render: Callable[[object, str, EventDict], str | bytes], **more: str) -> None:
        super().__init__()
        self._render = render
        self._more = more

    def format(self, record: logging.LogRecord) -> str:
        event = record.msg
        if not isinstance(event, Mapping):  # a library that logs the ordinary way
            said = {"event": "library.said", "level": record.levelname.lower(), "library": record.name}
            event = _stamp(None, "", {**said, "said": record.getMessage()})
        return str(self._render(None, "", {**self._more, **event}))


_stamp = structlog.processors.TimeStamper(fmt="%Y-%m-%dT%H:%M:%S.%fZ", utc=True)


def open_log(name: str, folder: Path, *, screen: bool = True) -> Logger:
    """Start this process's log: ``folder/<name>.log`` and, with ``screen``, stdout (lines on a terminal, else JSON)."""
    file = logging.handlers.RotatingFileHandler(
        folder / f"{name}.log",
        maxBytes=ROTATE_BYTES,
        backupCount=ROTATE_KEEP,
        encoding="utf-8",
        errors="backslashreplace",
    )
    file.setFormatter(_Rendered(line))
    root = logging.getLogger()
    for handler in list(root.handlers):
        root.removeHandler(handler)
        handler.close()
    root.addHandler(file)
    if screen:
        stdout = logging.StreamHandler(sys.stdout)
        as_json = structlog.processors.JSONRenderer(default=str)  # ASCII: whatever takes it up can
        stdout.setFormatter(_Rendered(line if sys.stdout.isatty() else as_json, daemon=name))
        root.addHandler(stdout)
    root.setLevel(logging.INFO)
    logging.getLogger("watchdog").setLevel(logging.CRITICAL)  # its events are hints; what it misses, a scan finds
    structlog.configure(
        processors=[
            structlog.stdlib.filter_by_level,
            structlog.stdlib.add_log_level,
            _stamp,
            structlog.processors.format_exc_info,
            # The event goes through as a mapping, so that each place renders it its own way.
            lambda _logger, _method, event: ((event,), {}),
        ],
        wrapper_class=structlog.stdlib.BoundLogger,
        logger_factory=structlog.stdlib.LoggerFactory(),
        cache_logger_on_first_use=False,
    )
    log: Logger = structlog.get_logger("dropreel")
    return log
