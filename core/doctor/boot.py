"""The services: what starts the daemons at boot is of this installation, as it is now."""

from __future__ import annotations

import os
import pwd
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

from core.doctor.result import Check, Patient, Result, ok, skipped, warn
from core.services.launchd import Launchd
from core.services.plan import Installation, Manager, Scope
from core.services.systemd import Systemd
from core.settings import Role

_LINGER = Path("/var/lib/systemd/linger")
_ROLES: tuple[Role, ...] = ("both", "mac", "gpu")
_SCOPES: tuple[Scope, ...] = ("user",) if sys.platform == "darwin" else ("system", "user")


def services(patient: Patient) -> Iterator[Result]:
    """Compare the files of the service manager with what would be written today."""
    manager: Callable[[Installation, Scope], Manager] = Launchd if sys.platform == "darwin" else Systemd
    roles = [role for role in _ROLES if patient.settings.role in {role, "both"}]
    nothing = True
    for scope in _SCOPES:
        whats = [Installation(patient.settings, patient.home, role) for role in roles]
        managers = [manager(what, scope) for what in whats]
        if managers[0].installed():
            nothing = False
            yield from compared(managers, scope, whats[0].user)
    if nothing:
        yield skipped("services", "none are installed: nothing starts the daemons at boot")


CHECKS = (Check("services", "services", services),)


def compared(managers: list[Manager], scope: Scope, owner: str) -> Iterator[Result]:
    """Whether what is installed is what one of these would install; there is one for each role of ``owner``'s home."""
    there = {path: path.read_bytes() for path in managers[0].installed()}
    differing = min((_differing(there, manager.files()) for manager in managers), key=len)
    if differing:
        yield warn(
            f"{scope} services",
            f"{len(differing)} files are not what this installation would write, {differing[0]} first: the home, "
            "Python, the workers or the time limits were others then",
            f"Do `dropreel services install --scope {scope}` again.",
        )
    else:
        yield ok(f"{scope} services", f"{len(there)} files in {managers[0].folder} are of this installation")
    user = pwd.getpwuid(os.getuid()).pw_name
    if scope == "system" and owner == "root":
        yield warn("system services", "the home is root's, so they run as root",
                   "Make a user for them, give it the home with chown -R, and install the services again.")  # fmt: skip
    if scope == "user" and sys.platform == "linux" and not (_LINGER / user).exists():
        yield warn("user services", f"they end when {user} logs out", f"loginctl enable-linger {user}")


def _differing(there: dict[Path, bytes], wanted: dict[Path, bytes]) -> list[Path]:
    return sorted(path for path in there.keys() | wanted.keys() if there.get(path) != wanted.get(path))
