"""A real sshd on loopback, under a port of its own, with real restricted keys; it can be cut, stopped and started."""

from __future__ import annotations

import contextlib
import getpass
import os
import shutil
import socket
import subprocess
from collections.abc import Sequence
from pathlib import Path

import psutil
import pytest

from tests.waiting import until

SBIN = os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin", "/usr/local/sbin", "/opt/homebrew/bin"])
SSHD = shutil.which("sshd", path=SBIN) or ""
RRSYNC = shutil.which("rrsync", path=SBIN) or ""
NEEDED = {"sshd": SSHD, "rrsync": RRSYNC, "rsync": shutil.which("rsync"), "ssh-keygen": shutil.which("ssh-keygen")}

needs_sshd = pytest.mark.skipif(
    not all(NEEDED.values()), reason=f"not installed: {', '.join(name for name, path in NEEDED.items() if not path)}"
)


def free_port() -> int:
    """A port that nobody listens on this moment."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


class Sshd:
    """The server's sshd: a folder of its own, one host key, the ``authorized_keys`` that ``allow`` writes."""

    def __init__(self, folder: Path, address: str = "127.0.0.1", inside: Sequence[str] = ()) -> None:
        """``inside`` is put before the command: ``("ip", "netns", "exec", NAME)``."""
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self.address = address
        self.port = free_port()
        self.user = getpass.getuser()
        self.host_key = folder / "host_ed25519"
        self._inside = inside
        self._process: subprocess.Popen[bytes] | None = None
        if os.geteuid() == 0:
            Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)  # where a root's sshd wants to be confined
        if not self.host_key.exists():
            make_key(self.host_key)
        (folder / "authorized_keys").touch()
        (folder / "sshd_config").write_text(
            f"ListenAddress {address}\nPort {self.port}\nHostKey {self.host_key}\nPidFile none\n"
            f"AuthorizedKeysFile {folder / 'authorized_keys'}\nStrictModes no\nUsePAM no\n"
            "PasswordAuthentication no\nKbdInteractiveAuthentication no\nPermitRootLogin prohibit-password\n"
            "MaxStartups 100\nLogLevel VERBOSE\n"
            "SetEnv SHLVL=2\n"  # else bash, run by sshd, reads a .bashrc that is none of a test's business
        )

    @property
    def known_hosts(self) -> str:
        """This server's host key, as ``ssh-keyscan`` would say it."""
        kind, key, *_ = self.host_key.with_suffix(".pub").read_text().split()
        return f"[{self.address}]:{self.port} {kind} {key}\n"

    def allow(self, *lines: str) -> None:
        """Write ``authorized_keys``."""
        (self.folder / "authorized_keys").write_text("".join(f"{line}\n" for line in lines))

    def start(self) -> None:
        """Listen."""
        with (self.folder / "sshd.log").open("wb") as log:
            command = [*self._inside, SSHD, "-D", "-e", "-f", str(self.folder / "sshd_config")]
            self._process = subprocess.Popen(command, stderr=log, stdin=subprocess.DEVNULL)
        said = self.folder / "sshd.log"
        listening = f"listening on {self.address} port {self.port}"
        until(lambda: listening in said.read_text() or self._process_has_ended(), "sshd listens")
        assert not self._process_has_ended(), said.read_text()

    def _process_has_ended(self) -> bool:
        return self._process is None or self._process.poll() is not None

    def stop(self) -> None:
        """Listen no more, and end what was connected."""
        if self._process is not None:
            self.cut()
            self._process.kill()
            self._process.wait()
            self._process = None

    @property
    def sessions(self) -> list[psutil.Process]:
        """The processes that serve connections."""
        if self._process is None:
            return []
        found: list[psutil.Process] = psutil.Process(self._process.pid).children(recursive=True)
        return found

    def cut(self) -> int:
        """Kill the connections that there are; how many processes served them."""
        sessions = self.sessions
        for process in sessions:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        return len(sessions)


def make_key(path: Path) -> None:
    """A new key without a passphrase."""
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", path.name, "-f", str(path)], check=True)
