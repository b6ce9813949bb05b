"""Runs the checks of a home one after the other: none of them can hang or break the others."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator

from core.doctor.result import Check, Patient, Result, fail

_BROKEN = (
    "What was being looked at is in such a state that this could not be told. `dropreel doctor --json` has all else."
)
_HANGS = "Something that should answer at once hangs: a share whose server is gone, or a disk that is failing."


def examine(patient: Patient, checks: Iterable[Check]) -> Iterator[tuple[str, Result]]:
    """The results of the checks, each with its family, as they come."""
    for check in checks:
        for result in _run(check, patient):
            yield check.family, result


def _run(check: Check, patient: Patient) -> list[Result]:
    """What one check finds, in its own time; what it found before it broke or hung counts."""
    found: list[Result] = []

    def work() -> None:
        try:
            for result in check.look(patient):
                found.append(result)
        except Exception as error:  # noqa: BLE001 - a check that cannot be run is a finding, whatever the reason
            found.append(fail(check.name, f"cannot be told: {type(error).__name__}: {error}", _BROKEN))

    # In a thread of its own, because a look at a share that hangs cannot be interrupted: it is left behind.
    # Children that it started die with it, or at the latest with this process; see core.process.
    thread = threading.Thread(target=work, name=f"doctor {check.name}", daemon=True)
    thread.start()
    thread.join(check.seconds)
    results = list(found)
    if thread.is_alive():
        results.append(fail(check.name, f"no answer within {check.seconds:g} s", _HANGS))
    return results
