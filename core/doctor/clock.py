"""The clock: ids and ages come from it, and the halves compare theirs."""

from __future__ import annotations

import datetime as dt
import json
from collections.abc import Iterator

from core.contract import now
from core.doctor.result import Check, Patient, Result, ago, fail, ok, skipped, warn
from core.home import STATUS_FILE

_BORN = dt.datetime(2025, 1, 1, tzinfo=dt.UTC)  # nothing of Dropreel is older
_AHEAD_SECONDS = 5.0  # two clocks that are kept by NTP differ by less
_OLD_SECONDS = 60.0  # the server writes it, and the courier brings it, several times a minute
_NTP = "Let NTP set it: `timedatectl set-ntp true` on Linux; Set time automatically on macOS."


def sane(patient: Patient) -> Iterator[Result]:
    """A clock that has gone back gives ids that sort before those that are there."""
    moment = now()
    newest = max((path.stat().st_mtime for half in patient.halves.values() if half.logs.is_dir()
                  for path in half.logs.iterdir()), default=0.0)  # fmt: skip
    behind = newest - moment.timestamp()
    seen = f"{moment:%Y-%m-%d %H:%M:%S} UTC"
    if moment < _BORN:
        yield fail("clock", f"{seen}: before Dropreel was made", _NTP)
    elif behind > _OLD_SECONDS:
        yield fail("clock", f"{seen}: {ago(behind)} before what its own logs say", _NTP)
    else:
        yield ok("clock", seen)


def skew(patient: Patient) -> Iterator[Result]:
    """The server's clock, by the status that the courier brings."""
    if not patient.settings.mac or patient.settings.transport.kind == "local":
        return
    file = patient.home.mac.server / STATUS_FILE
    try:
        written_at = dt.datetime.fromisoformat(json.loads(file.read_bytes())["written_at"])
        age = (now() - written_at).total_seconds()
    except FileNotFoundError:
        yield skipped("skew", "the courier has not brought the server's status yet")
        return
    except (ValueError, KeyError, TypeError, OverflowError, RecursionError) as error:
        yield warn("skew", f"{file} cannot be read: {error}", "Delete it; the courier brings another.")
        return
    if age < -_AHEAD_SECONDS:
        yield warn("skew", f"the server's clock is at least {ago(-age)} ahead of this one", f"{_NTP} On both machines.")
    elif age > _OLD_SECONDS:
        yield warn(
            "skew",
            f"the server's last status was written {ago(age)} ago by its clock: its intake is dead, the link is cut, "
            "or its clock is behind",
            f"Look at the link's results, and at the daemons on the server. If all is well there: {_NTP}",
        )
    else:
        yield ok("skew", f"the server's status was written {age:.1f} s ago by its clock")


CHECKS = (Check("clock", "clock", sane), Check("clock", "skew", skew))
