"""One call of rsync over ssh, with options that both rsync 3 and macOS' openrsync know, and what its end means."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from core import process
from core.errors import BadSettings, DiskFull, DropreelError, ProcessFailed
from core.settings import TransportSettings
from core.ssh import CONFIG_FILE
from core.work import Report

SILENCE_SECONDS = 30
"""A connection over which nothing comes for so long is given up."""
LIMIT_SECONDS = 24 * 3600.0
"""Whatever a slow line makes of it, no call takes longer; a line that is dead ends by its silence."""

_HOPELESS = {1, 2, 3, 4, 6}
"""Exit statuses that another try cannot change: usage, protocol versions, missing folders, unsupported, no log."""
_INCOMPLETE = {23, 24, 25}
"""Some files were not carried: unreadable, or gone while we looked. The others were."""
_REMEDIES = {
    "Host key verification failed": "The server is not the one whose key is pinned. If it was set up anew, compare its "
    "key and run `dropreel ssh-setup` again; if not, somebody stands between you and it.",
    "Permission denied (publickey": "The server does not know our keys: `dropreel ssh-setup` prints the lines for its "
    "authorized_keys.",
    "rrsync error": "The server's rrsync refuses it: compare authorized_keys with what `dropreel ssh-setup` prints.",
    "rrsync: ": "The server cannot run rrsync: install it there, it comes with rsync.",
    "Bad owner or permissions": "Let nobody else read the keys: chmod 600.",
    "UNPROTECTED PRIVATE KEY": "Let nobody else read the keys: chmod 600.",
}
"""What ssh or the server says that a person has to mend, and how."""
_FULL = ("No space left on device", "Disk quota exceeded")


class LinkTrouble(DropreelError):
    """Something went wrong on the way to the server."""

    def __init__(self, said: str, meaning: str = "") -> None:
        self.meaning = meaning or str(self.__doc__)
        """What it comes to, in the same words each time; what rsync said may differ."""
        super().__init__(f"{self.meaning} (rsync said: {said})")


class LinkLost(LinkTrouble):
    """The server cannot be reached; the courier tries again by itself."""


class LinkRefused(LinkTrouble):
    """The server, or ours, refuses: trying again changes nothing."""


class Incomplete(LinkTrouble):
    """Some files could not be carried; they are tried again at a later look."""


class ServerFull(LinkTrouble):
    """The server's disk is full; what goes there is tried again at a later look."""


class Flavour(NamedTuple):
    """Which rsync this is."""

    name: str
    """``rsync``, or ``openrsync``, which is what macOS calls rsync since 15.4."""
    version: tuple[int, ...]
    """``(3, 2, 7)``; for openrsync that of the protocol, ``(29,)``."""


def probe(program: str, report: Report) -> Flavour:
    """Ask a program which rsync it is.

    Raises ``BadSettings`` where it is none that will do, ``ProcessFailed`` where it was killed before it could tell.
    """
    try:
        said = process.run([program, "--version"], report, limit=10.0).stdout
    except (process.ProgramMissing, ProcessFailed) as error:
        if isinstance(error, ProcessFailed) and error.returncode < 0:
            raise  # that says nothing of the settings, and a daemon whose settings are bad is not started again
        raise BadSettings(f"transport.rsync: {program} cannot be run. Install rsync (apt install rsync, or brew "
                          f"install rsync), or name its path. {error}") from error  # fmt: skip
    if found := re.match(r"openrsync: protocol version (\d+)", said):
        return Flavour("openrsync", (int(found[1]),))
    found = re.match(r"rsync +version v?([\d.]+)", said)
    version = tuple(int(part) for part in found[1].strip(".").split(".")) if found else ()
    if version < (3,):
        raise BadSettings(f"transport.rsync: {program} is {said.splitlines()[0] if said else 'no rsync'}: Dropreel "
                          "needs rsync 3 or openrsync.")  # fmt: skip
    return Flavour("rsync", version)


class Rsync:
    """Calls rsync; ``folder`` holds the ``ssh_config`` that leads to the server."""

    def __init__(self, settings: TransportSettings, folder: Path, report: Report) -> None:
        self._settings = settings
        self._folder = folder
        self._report = report

    def __call__(
        self, source: str, target: str, rules: Iterable[str], *options: str, report: Report | None = None
    ) -> None:
        """Carry what the rules let through from one folder to the other, each a path or ``alias:./``.

        ``rules`` are filters in the order in which they are tried, ``+/pattern`` to carry and ``-pattern`` not to.
        No shell sees a name: the server's end is one that ssh starts by its ``authorized_keys``. ``report`` takes, for
        this call, the place of the one given at first.

        Raises ``LinkLost``, ``LinkRefused``, ``ServerFull``, ``Incomplete``; ``DiskFull`` where this machine's disk is.
        """
        filters = [f"--{'include' if rule[0] == '+' else 'exclude'}={rule[1:]}" for rule in rules]
        command = [
            self._settings.rsync,
            "-rt",
            f"--timeout={SILENCE_SECONDS}",
            *([f"--bwlimit={self._settings.bandwidth_kib}"] if self._settings.bandwidth_kib else []),
            # A name without a path, which needs no quoting: rsync splits this by rules that differ with its flavour.
            "-e",
            f"ssh -F {CONFIG_FILE}",
            *options,
            *filters,
            source,
            target,
        ]
        try:
            process.run(command, report or self._report, limit=LIMIT_SECONDS, cwd=self._folder)
        except ProcessFailed as error:
            raise _meaning(error, pulls=not source.startswith("/")) from error


def _meaning(error: ProcessFailed, *, pulls: bool) -> DropreelError:
    """What the end of an rsync that went wrong means."""
    said = " ".join(line for line in error.stderr.splitlines() if line.strip())[-500:] or str(error)
    if any(sign in error.stderr for sign in _FULL):
        return DiskFull() if pulls else ServerFull(said)
    if error.returncode in _INCOMPLETE:  # before the signs: a file may be called, or be refused, like one of them
        return Incomplete(said)
    for sign, remedy in _REMEDIES.items():
        if sign in error.stderr:
            return LinkRefused(said, remedy)
    if error.returncode in _HOPELESS:
        return LinkRefused(said)
    return LinkLost(said)
