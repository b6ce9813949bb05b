"""How this machine reaches the server: two restricted keys, the server's pinned host key, one configuration for ssh.

Each key opens one door: the server's ``authorized_keys`` ties it to ``rrsync`` on one folder, so that the one can only
put files into the inbox and the other only read the outbox. Nobody who steals them gets a shell.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from core import fsops, process
from core.errors import BadSettings
from core.settings import TransportSettings
from core.work import Report

CONFIG_FILE = "ssh_config"
INBOX = "dropreel-inbox"
"""What ``ssh_config`` calls the server when the key of the inbox opens the door."""
OUTBOX = "dropreel-outbox"

_CONFIG = """\
# Written by the courier from dropreel.toml, each time it starts. Try it: ssh -F {file} {outbox} true
Host {inbox}
    IdentityFile {inbox_key}
Host {outbox}
    IdentityFile {outbox_key}
Host *
    HostName {host}
    Port {port}
    User {user}
    IdentitiesOnly yes
    IdentityAgent none
    UserKnownHostsFile {known_hosts}
    GlobalKnownHostsFile /dev/null
    StrictHostKeyChecking yes
    UpdateHostKeys no
    CheckHostIP no
    BatchMode yes
    ClearAllForwardings yes
    ForwardAgent no
    ControlPath none
    RequestTTY no
    ConnectTimeout 10
    ServerAliveInterval 5
    ServerAliveCountMax 3
    LogLevel ERROR
"""


@dataclass(frozen=True)
class Door:
    """One key and what the server lets it do."""

    alias: str
    key: Path
    folder: str
    """Below the server's home."""
    right: str
    """The options of ``rrsync`` that grant it."""

    @property
    def public(self) -> Path:
        """The half of the key that the server gets."""
        return self.key.with_name(f"{self.key.name}.pub")


class Ssh:
    """The keys of a home."""

    def __init__(self, root: Path, settings: TransportSettings) -> None:
        self.settings = settings
        self.folder = root / settings.keys.expanduser()
        self.known_hosts = self.folder / "known_hosts"
        # -munge: a link that is sent arrives broken; one that led out of the inbox would have intake delete elsewhere.
        # -no-lock: a call that was cut off may still be ending when the next one comes.
        self.inbox = Door(INBOX, self.folder / "inbox_ed25519", "gpu/inbox", "-wo -no-del -munge -no-lock")
        self.outbox = Door(OUTBOX, self.folder / "outbox_ed25519", "gpu/outbox", "-ro")

    @property
    def doors(self) -> tuple[Door, Door]:
        """Both keys."""
        return self.inbox, self.outbox

    def write_config(self, folder: Path) -> None:
        """Write ``ssh_config`` into a folder. Raises ``BadSettings`` where a key or the server's is missing."""
        for path in (self.inbox.key, self.outbox.key, self.known_hosts):
            if not path.is_file():
                raise BadSettings(f"{path} is missing. Run `dropreel ssh-setup`: it makes the keys, pins the server's, "
                                  "and prints what the server must know.")  # fmt: skip
        config = _CONFIG.format(
            file=CONFIG_FILE,
            inbox=INBOX,
            outbox=OUTBOX,
            inbox_key=_word(self.inbox.key),
            outbox_key=_word(self.outbox.key),
            known_hosts=_word(self.known_hosts),
            host=self.settings.host,
            port=self.settings.port,
            user=self.settings.user,
        )
        fsops.write(folder / CONFIG_FILE, config.encode())

    def make_keys(self, report: Report) -> list[Path]:
        """Make the keys that are missing, without a passphrase, for a daemon has nobody to ask; which these were."""
        made = []
        fsops.make_folder(self.folder)
        for door in self.doors:
            if not door.key.exists():
                comment = door.alias
                process.run(
                    ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", comment, "-f", str(door.key)],
                    report,
                    limit=60.0,
                )
                made.append(door.key)
        return made

    def authorized_keys(self, server_home: str) -> Iterator[str]:
        """The lines that the server's ``~/.ssh/authorized_keys`` needs, for a home at this path there."""
        for door in self.doors:
            folder = f"{server_home.rstrip('/')}/{door.folder}"
            command = f"rrsync {door.right} {shlex.quote(folder)}".replace("\\", "\\\\").replace('"', '\\"')
            yield f'restrict,command="{command}" {door.public.read_text(encoding="utf-8").strip()}'

    def offered_host_keys(self, report: Report) -> list[str]:
        """What the server says its host keys are, as lines of ``known_hosts``; believe none unseen.

        Raises ``ProcessFailed`` where it cannot be reached.
        """
        command = ["ssh-keyscan", "-T", "10", "-p", str(self.settings.port), self.settings.host]
        said = process.run(command, report, limit=30.0).stdout
        return [line for line in said.splitlines() if line and not line.startswith("#")]

    def fingerprint(self, line: str, report: Report) -> str:
        """``SHA256:…`` of a line of ``known_hosts``, as ``ssh-keygen -l`` says it."""
        said = process.run(["ssh-keygen", "-l", "-f", "-"], report, limit=10.0, stdin=[line.encode() + b"\n"]).stdout
        return said.split()[1]

    def pin(self, lines: list[str]) -> None:
        """Believe these host keys from now on, and no other."""
        fsops.write(self.known_hosts, "".join(f"{line}\n" for line in lines).encode())


def _word(path: Path) -> str:
    """A path as ``ssh_config`` reads it: quoted, its ``%`` doubled."""
    text = str(path)
    if any(mark in text for mark in '"$\n'):
        raise BadSettings(f'ssh cannot be told of {text}: move the keys to a folder without ", $ or a line\'s end, '
                          "and name it as transport.keys.")  # fmt: skip
    return f'"{text.replace("%", "%%")}"'
