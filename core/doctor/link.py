"""The link to the server: the programs here, the keys, and whether the server is the one that is meant."""

from __future__ import annotations

import os
import platform
import shutil
import stat
from collections.abc import Iterator
from pathlib import Path

from core import process
from core.doctor import doors
from core.doctor.result import Check, Patient, Result, fail, ok, warn
from core.errors import BadSettings, DropreelError
from core.rsync import Flavour, probe
from core.ssh import Ssh
from core.work import unwatched

_SAFE_HERE = (3, 4, 3)  # before, a bad server can read this machine's memory (CVE-2026-43618) and more
_SAFE_THERE = (3, 5, 0)  # before, rrsync lets one out of its folder (CVE-2026-53783)
_OPENRSYNC_BROKEN = {"15.4", "15.4.0"}  # of macOS; mended in 15.4.1
_UPGRADE = "Install a newer rsync: from the distribution's updates, or on macOS `brew install rsync`{}."
_SETUP = "Run `dropreel ssh-setup`."


def programs(patient: Patient) -> Iterator[Result]:
    """The rsync and the ssh of this end; on a server of its own also rrsync, which holds the keys to their folders."""
    settings = patient.settings
    if not leads_away(patient) and settings.role != "gpu":
        return
    try:
        flavour = probe(settings.transport.rsync, unwatched)
    except BadSettings as error:
        yield fail("rsync", str(error), "Install rsync: apt install rsync, or brew install rsync.")
    else:
        yield judge(flavour, _SAFE_HERE if leads_away(patient) else _SAFE_THERE, platform.mac_ver()[0])
    wanted = ("ssh", "ssh-keygen", "ssh-keyscan") if leads_away(patient) else ("rrsync",)
    for name in wanted:
        if shutil.which(name) is None:
            package = "rsync" if name == "rrsync" else "openssh-client"
            yield fail(name, f"{name} is not installed", f"Install {package}, which it comes with.")
    if leads_away(patient) and shutil.which("ssh"):
        yield ok("ssh", process.run(["ssh", "-V"], unwatched, limit=10.0).stderr.strip())


def judge(flavour: Flavour, safe: tuple[int, ...], macos: str) -> Result:
    """Whether this rsync will do, on this version of macOS (empty elsewhere)."""
    seen = f"{flavour.name} {'.'.join(map(str, flavour.version))}"
    name_it = ', and name it: transport.rsync = "/opt/homebrew/bin/rsync"'
    if flavour.name == "openrsync":
        if macos in _OPENRSYNC_BROKEN:
            return fail("rsync", f"{seen} of macOS {macos}, which is broken",
                        "Update macOS to 15.4.1 or later. " + _UPGRADE.format(name_it))  # fmt: skip
        return warn("rsync", f"{seen}: it does, at half the speed", _UPGRADE.format(name_it))
    if flavour.version < safe:
        return warn("rsync", f"{seen}: known holes were closed in {'.'.join(map(str, safe))}", _UPGRADE.format(""))
    return ok("rsync", seen)


def route(patient: Patient) -> Iterator[Result]:
    """The courier of a home without a server's half must be told where the server is."""
    if patient.settings.role == "mac" and not leads_away(patient):
        yield fail("server", "transport.kind is \"local\", and this home has no server's half: nothing can be sent",
                   "Set transport.kind = \"rsync\" and transport.host; then `dropreel ssh-setup`.")  # fmt: skip


def keys(patient: Patient) -> Iterator[Result]:
    """The key files, for nobody else to read, and the server's pinned key."""
    if not leads_away(patient):
        return
    ssh = Ssh(patient.home.root, patient.settings.transport)
    troubles = [fail(door.key.name, *trouble) for door in ssh.doors if (trouble := _wrong(door.key)) is not None]
    if not ssh.known_hosts.is_file() or not doors.pinned(ssh):
        troubles.append(fail("known_hosts", f"{ssh.known_hosts} pins no key", _SETUP))
    yield from troubles or [ok("keys", f"two keys and known_hosts in {ssh.folder}")]


def _wrong(key: Path) -> tuple[str, str] | None:
    """What is wrong with a key's file, and the remedy."""
    if not key.is_file():
        return f"{key} is not there", _SETUP
    if key.stat().st_mode & (stat.S_IRWXG | stat.S_IRWXO):
        return f"{key} is open to others; ssh refuses such a key", f"chmod 600 {key}"
    if not os.access(key, os.R_OK):
        return f"{key} is not for this user to read", f"Give it to the user who runs the courier: sudo chown USER {key}"
    return None


def server(patient: Patient) -> Iterator[Result]:
    """Whether the server answers with the pinned key, and what our keys let us do there; else nothing is sent."""
    if not leads_away(patient) or any(result.verdict == "fail" for result in keys(patient)):
        return
    ssh = Ssh(patient.home.root, patient.settings.transport)
    where = f"{ssh.settings.host} port {ssh.settings.port}"
    try:
        offered = ssh.offered_host_keys(unwatched)
    except DropreelError as error:
        offered, said = [], f": {error}"
    else:
        said = ""
    if not offered:
        yield fail("server", f"{where} does not answer as an ssh server{said}",
                   "Is it on, is the network there, is its sshd running, are transport.host and port right? "
                   "What waits is sent by itself later.")  # fmt: skip
        return
    theirs, pinned = {doors.key_of(line) for line in offered}, doors.pinned(ssh)
    if not theirs & pinned:
        fingerprints = ", ".join(ssh.fingerprint(line, unwatched) for line in offered)
        yield fail("server", f"{where} has another key than the one that is pinned: {fingerprints}. Nothing was sent",
                   "If it was set up anew, compare these with what `ssh-keygen -lf` says there of "
                   "/etc/ssh/ssh_host_*.pub, and run `dropreel ssh-setup` again; if not, somebody stands between you "
                   "and it.")  # fmt: skip
        return
    yield ok("server", f"{where} has the key that is pinned")
    yield from doors.tried(patient, ssh)


CHECKS = (
    Check("link", "programs", programs, seconds=40.0),
    Check("link", "server", route),
    Check("link", "keys", keys),
    Check("link", "server", server, seconds=240.0),
)


def leads_away(patient: Patient) -> bool:
    """Whether the courier of this home goes to another machine."""
    return patient.settings.mac and patient.settings.transport.kind == "rsync"
