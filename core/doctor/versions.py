"""Versions of rsync: which of them will do, at which end of the link."""

from __future__ import annotations

from core.doctor.result import Result, fail, ok, warn
from core.rsync import Flavour

SAFE_HERE = (3, 4, 3)
"""Before, a bad server can read this machine's memory (CVE-2026-43618) and more."""
SAFE_THERE = (3, 5, 0)
"""Before, rrsync lets one out of its folder (CVE-2026-53783)."""
_OPENRSYNC_BROKEN = {"15.4", "15.4.0"}  # of macOS; mended in 15.4.1
_UPGRADE = "Install a newer rsync: from the distribution's updates, or on macOS `brew install rsync`{}."


def judge(flavour: Flavour, safe: tuple[int, ...], macos: str = "", name: str = "rsync") -> Result:
    """Whether this rsync will do, on this version of macOS (empty elsewhere)."""
    seen = f"{flavour.name} {'.'.join(map(str, flavour.version))}"
    name_it = ', and name it: transport.rsync = "/opt/homebrew/bin/rsync"'
    if flavour.name == "openrsync":
        if macos in _OPENRSYNC_BROKEN:
            return fail(name, f"{seen} of macOS {macos}, which is broken",
                        "Update macOS to 15.4.1 or later. " + _UPGRADE.format(name_it))  # fmt: skip
        return warn(name, f"{seen}: its manual has all that Dropreel asks of it, but nobody has tried it",
                    _UPGRADE.format(name_it))  # fmt: skip
    if flavour.version < safe:
        return warn(name, f"{seen}: known holes were closed in {'.'.join(map(str, safe))}", _UPGRADE.format(""))
    return ok(name, seen)
