"""Two machines on one: a Mac's home and a server's, and between them a real sshd with the keys of ``ssh-setup``."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path

from core import fsops
from core.settings import load_settings
from core.ssh import Ssh
from core.work import unwatched
from daemons.courier import CourierDaemon
from daemons.runtime import AGAIN, Daemon
from tests.house import TINY, House
from tests.integration.sshd import Sshd

LINK = """
[transport]
kind = "rsync"
host = "{host}"
port = {port}
user = "{user}"
"""
SERVER = "gpu server's home"
"""A name that no shell must split."""


class Machines:
    """The two homes, the sshd between them, and the daemons of both, stepped by hand on one clock."""

    def __init__(
        self,
        root: Path,
        settings: str = TINY,
        *,
        look_seconds: float = 5.0,
        resend_seconds: float = 15.0,
        address: str = "127.0.0.1",
        inside: Sequence[str] = (),
    ) -> None:
        """``inside`` is put before sshd's command, to run it in another network than this one."""
        fsops.confine()
        self.sshd = Sshd(root / "sshd", address, inside)
        self.server_root = root / SERVER
        self.mac_root = root / "the mac's home"
        way = LINK.format(host=self.sshd.address, port=self.sshd.port, user=self.sshd.user)
        way += f"look_seconds = {look_seconds}\nresend_seconds = {resend_seconds}\n"
        for home, role, more in ((self.server_root, "gpu", ""), (self.mac_root, "mac", way)):
            home.mkdir(parents=True)
            (home / "dropreel.toml").write_text(settings.replace('role = "both"', f'role = "{role}"') + more)
        transport, _ = load_settings(self.mac_root)
        self.ssh = Ssh(self.mac_root, transport.transport)
        self.ssh.make_keys(unwatched)
        self.ssh.known_hosts.write_text(self.sshd.known_hosts)
        self.sshd.allow(*self.ssh.authorized_keys(str(self.server_root)))
        self.sshd.start()

    def open(self) -> tuple[House, House]:
        """Start the daemons of both; the Mac's house and the server's."""
        self.server, self.mac = House(self.server_root), House(self.mac_root)
        fsops.confine(self.server_root, self.mac_root)
        self.mac.clock = self.server.clock
        self.server.start("intake", "generate", "interpolate", "qa", "encode")
        self.mac.start("keyframes", "courier")
        return self.mac, self.server

    @property
    def couriers(self) -> list[Daemon]:
        """The courier, unless a test has taken it away."""
        return [daemon for daemon in self.mac.daemons if isinstance(daemon, CourierDaemon)]

    def live_until(self, condition: Callable[[], object], what: str, seconds: float = 300.0) -> None:
        """Step all daemons until it is so; time passes when all wait."""
        clock = self.mac.clock
        deadline = clock.seconds + seconds
        daemons = [daemon for daemon in (*self.mac.daemons, *self.server.daemons) if daemon not in self.couriers]
        while not condition():
            delays = [daemon.step() for daemon in daemons]
            if AGAIN in delays:
                continue
            delays += [courier.step() for courier in self.couriers]  # last: each look of it takes ssh a while
            if AGAIN not in delays and not condition():
                clock.seconds += min(delays)
            assert clock.seconds < deadline, f"not yet: {what}; {self.mac.events[-10:]} {self.server.events[-10:]}"

    def pass_time(self, seconds: float) -> None:
        """Step all daemons for so long."""
        end = self.mac.clock.seconds + seconds
        self.live_until(lambda: self.mac.clock.seconds >= end, "time passes", math.inf)

    def close(self) -> None:
        """Stop everything."""
        for house in (getattr(self, "mac", None), getattr(self, "server", None)):
            if house is not None:
                house.stop()
        self.sshd.stop()
