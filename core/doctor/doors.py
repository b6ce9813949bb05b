"""The two keys, tried on the server itself: each does what it must, and nothing more."""

from __future__ import annotations

import importlib.metadata
import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path

from core import fsops, process
from core.doctor.result import Patient, Result, fail, ok, warn
from core.doctor.versions import SAFE_THERE, judge
from core.errors import DropreelError, ProcessFailed
from core.home import STATUS_FILE
from core.rsync import Flavour, LinkRefused, Rsync
from core.ssh import CONFIG_FILE, Door, Ssh
from core.work import unwatched

PROBE = ".doctor.part"
"""What the key of the inbox leaves in the server's ``inbox/acks/``: nobody looks at such a name."""
_LIMIT = 40.0
_SSH_FAILED = 255
_REFUSALS = ("PTY allocation request failed", "open failed")
_LINE = ("Replace the line of this key in the server's authorized_keys by the one that `dropreel ssh-setup` prints; "
         "it begins with restrict,command=.")  # fmt: skip
_UNKNOWN = ("Where it says Permission denied, that user of the server does not know this key: `dropreel ssh-setup` "
            "prints the lines for the user's authorized_keys; or transport.user is not the right one. Else the link "
            "broke: try again.")  # fmt: skip


class _NotTold(Exception):
    """The key did not come so far, or the link broke meanwhile."""


def key_of(line: str) -> tuple[str, str]:
    """The kind and the key in a line of ``known_hosts``."""
    words = [word for word in line.split() if not word.startswith("@")]
    return words[1], words[2]


def pinned(ssh: Ssh) -> set[tuple[str, str]]:
    """The host keys that are believed."""
    lines = ssh.known_hosts.read_text(encoding="utf-8").splitlines()
    return {key_of(line) for line in lines if len(line.split()) >= 3 and line[0] != "#"}


def tried(patient: Patient, ssh: Ssh) -> Iterator[Result]:
    """Both keys, as the courier uses them."""
    state = patient.home.mac.state
    folder = state / f".doctor-{os.getpid()}"
    try:
        fsops.make_folder(folder / "in")
        fsops.make_folder(folder / "out")
        fsops.write(folder / "out" / PROBE, b"dropreel doctor was here\n")
        ssh.write_config(folder)
        rsync = Rsync(ssh.settings, folder, unwatched)

        def read(door: Door, rules: list[str]) -> None:
            rsync(f"{door.alias}:./", f"{folder / 'in'}/", rules)

        def write(door: Door, target: str, *options: str) -> None:
            rsync(f"{folder / 'out'}/", f"{door.alias}:./{target}", [f"+/{PROBE}", "-*"], *options)

        found = _door(
            folder,
            ssh.outbox,
            ("read the outbox", lambda: read(ssh.outbox, [f"+/{STATUS_FILE}", "-*"])),
            {"writing": lambda: write(ssh.outbox, "")},
        )
        yield found
        if found.verdict == "ok":
            yield from _status(folder / "in" / STATUS_FILE, ssh.outbox)
        inbox = _door(
            folder,
            ssh.inbox,
            ("write into the inbox", lambda: write(ssh.inbox, "acks/")),
            {
                "reading": lambda: read(ssh.inbox, ["-*"]),
                "deleting": lambda: write(ssh.inbox, "acks/", "--remove-source-files"),
            },
        )
        same = inbox.remedy is not None and inbox.remedy == found.remedy
        yield inbox.model_copy(update={"remedy": f"As for {found.name}."}) if same else inbox
    finally:
        fsops.discard(folder, state / "trash")


def _status(file: Path, door: Door) -> Iterator[Result]:
    """Whether it was the outbox of a server that came, and of which version."""
    if not file.exists():
        yield warn("status", f"what {door.key.name} opens holds no {STATUS_FILE}",
                   "If the server's intake has never run, start it; else the folder in the line of this key is not "
                   "gpu/outbox of its home.")  # fmt: skip
        return
    here = importlib.metadata.version("dropreel")
    try:
        said = json.loads(file.read_bytes())
        there, rsync = said["version"], tuple(int(part) for part in (said.get("rsync") or "").split(".") if part)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        there, rsync = "unknown", ()
    if there == here:
        yield ok("versions", f"Dropreel {here} here and there")
    else:
        yield warn("versions", f"Dropreel {here} here, {there} there", "Install one version on both machines.")
    if rsync:
        yield judge(Flavour("rsync", rsync), SAFE_THERE, name="rsync there")


def _door(
    folder: Path, door: Door, must: tuple[str, Callable[[], None]], must_not: dict[str, Callable[[], None]]
) -> Result:
    """One key. A shell is looked for first: with one, rsync would work somewhere else than in the right folder."""
    name, (duty, act) = door.key.name, must
    try:
        excess = list(_more_than_rsync(folder, door))
        if "a shell" not in excess:
            try:
                act()
            except DropreelError as error:
                return fail(name, f"it cannot {duty}", str(error))
            excess += [what for what, attempt in must_not.items() if _is_allowed(attempt)]
    except _NotTold as error:
        return fail(name, f"what it does cannot be told: {error}", _UNKNOWN)
    if excess:
        return fail(name, f"it gives whoever has it more than it should: {', '.join(excess)}", _LINE)
    return ok(name, f"it can {duty}; {', '.join(must_not)}, a shell, a terminal and forwarding are refused")


def _is_allowed(attempt: Callable[[], None]) -> bool:
    try:
        attempt()
    except LinkRefused:
        return False
    except DropreelError as error:
        raise _NotTold(str(error)) from error
    return True


def _more_than_rsync(folder: Path, door: Door) -> Iterator[str]:
    """What the key gives that no key of ours needs. Raises ``_NotTold``."""
    said = _ssh(folder, door.alias, "echo", "a", "shell")  # not `true`, which rrsync lets one do
    yield from ["a shell"] if "a shell" in said else []
    if "PTY allocation request failed" not in _ssh(folder, "-tt", door.alias, "true"):
        yield "a terminal"
    # To where nothing listens: who may not forward is told so before anything is tried.
    if "administratively prohibited" not in _ssh(folder, "-W", "127.0.0.1:1", door.alias):
        yield "forwarding"


def _ssh(folder: Path, *words: str) -> str:
    """All that ssh says."""
    try:
        command = ["ssh", "-F", CONFIG_FILE, "-o", "LogLevel=INFO", *words]
        return "\n".join(process.run(command, unwatched, limit=_LIMIT, cwd=folder))
    except process.TimedOut as error:
        raise _NotTold(str(error)) from error
    except ProcessFailed as error:
        if error.returncode == _SSH_FAILED and not any(sign in error.stderr for sign in _REFUSALS):
            raise _NotTold(error.stderr.strip()) from error
        return error.stderr
