"""The link to the server: the programs here, the keys, whether the server is the one that is meant, and answers."""

from __future__ import annotations

import contextlib
import os
import platform
import shutil
import stat
import time
from collections.abc import Iterator
from pathlib import Path

from core import process
from core.contract import load, now
from core.doctor import doors
from core.doctor.result import Check, Patient, Result, ago, fail, ok, warn
from core.doctor.versions import SAFE_HERE, SAFE_THERE, judge
from core.errors import BadSettings, DropreelError, ProcessFailed, Refused
from core.home import STATUS_FILE
from core.overview import LATE_SECONDS, ServerStatus
from core.rsync import probe
from core.ssh import Ssh
from core.transfer import BATCHES
from core.work import unwatched

_SETUP = "Run `dropreel ssh-setup`."


def programs(patient: Patient) -> Iterator[Result]:
    """The rsync and the ssh of this end; on a server of its own also rrsync, which holds the keys to their folders."""
    settings = patient.settings
    if not leads_away(patient) and settings.role != "gpu":
        return
    try:
        flavour = probe(settings.transport.rsync, unwatched)
    except (BadSettings, ProcessFailed) as error:
        yield fail("rsync", str(error), "Install rsync: apt install rsync, or brew install rsync.")
    else:
        yield judge(flavour, SAFE_HERE if leads_away(patient) else SAFE_THERE, platform.mac_ver()[0])
    wanted = ("ssh", "ssh-keygen", "ssh-keyscan") if leads_away(patient) else ("rrsync",)
    for name in wanted:
        if shutil.which(name) is None:
            package = "rsync" if name == "rrsync" else "openssh-client"
            yield fail(name, f"{name} is not installed", f"Install {package}, which it comes with.")
    if leads_away(patient) and shutil.which("ssh"):
        yield ok("ssh", process.run(["ssh", "-V"], unwatched, limit=10.0).stderr.strip())


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
        words = (isinstance(error, ProcessFailed) and error.stderr) or str(error)
        offered, said = [], ": " + "; ".join(dict.fromkeys(words.splitlines()))  # it tries each kind of key
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


def answers(patient: Patient) -> Iterator[Result]:
    """Whether a server that works answers what it was sent: no key of ours can see that it goes into a wrong folder."""
    mac, patience = patient.home.mac, 2 * patient.settings.transport.resend_seconds + 60.0
    try:
        status = load(ServerStatus, mac.server / STATUS_FILE)
    except (Refused, OSError):
        return
    if not leads_away(patient) or (now() - status.written_at).total_seconds() > LATE_SECONDS:
        return  # nothing is known of it, and other checks say why
    if status.held:
        yield warn("answers", f"the server takes no batch in: {status.held}", "There: `dropreel resume intake` where "
                   "it is paused, `dropreel prune` where its disk is low.")  # fmt: skip
        return
    ages: dict[str, float] = {}
    for batch in mac.outbox.glob(BATCHES):
        with contextlib.suppress(FileNotFoundError):  # its originals were put away this moment
            if not (mac.acks / f"{batch.name}.json").exists():
                ages[batch.name] = time.time() - batch.stat().st_mtime
    oldest = max(ages, key=ages.__getitem__, default="")
    if ages.get(oldest, 0.0) > patience:
        yield warn("answers", f"the server works, and for {ago(ages[oldest])} has not answered {oldest}",
                   "Compare the folders in its authorized_keys with its home: the key of the inbox may open another "
                   "home's. If they are right, intake.log in gpu/logs there says what it waits for.")  # fmt: skip
    else:
        yield ok("answers", f"no batch has waited longer than {patience:g} s for the server's word")


CHECKS = (
    Check("link", "programs", programs, seconds=40.0),
    Check("link", "server", route),
    Check("link", "keys", keys),
    Check("link", "server", server, seconds=240.0),
    Check("link", "answers", answers),
)


def leads_away(patient: Patient) -> bool:
    """Whether the courier of this home goes to another machine."""
    return patient.settings.mac and patient.settings.transport.kind == "rsync"
