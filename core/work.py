"""What long work calls between its steps, so that it can be watched, stopped and cancelled."""

from __future__ import annotations

from collections.abc import Callable

Report = Callable[[float], None]
"""``report(fraction)``, 0..1 of this stage's work done; call it at least every 100 ms or once a step.

It tells the operator how far the clip is and feeds the watchdog. It raises ``Stopped`` when the daemon must leave
and ``Cancelled`` when the operator wants the clip no more; the work lets it through and leaves no file behind.
"""


def unwatched(fraction: float) -> None:
    """The ``Report`` of work that nobody watches, stops or cancels."""
