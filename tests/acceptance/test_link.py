"""The courier as it runs in service, over a link that fails: killed, cut off, stopped while it waits."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path

import pytest

from core.contract import VideoMeta, load
from tests.acceptance.processes import SMALL, Household
from tests.house import SIDECAR, picture
from tests.integration.machines import Machines
from tests.integration.sshd import needs_sshd
from tests.waiting import until

pytestmark = [needs_sshd, pytest.mark.timeout(120)]

QUICK = SMALL + "\n[daemons]\nscan_seconds = 0.5\n"


class Pair:
    """The processes of two machines, and the link between them."""

    def __init__(
        self, root: Path, address: str = "127.0.0.1", mac: Sequence[str] = (), server: Sequence[str] = ()
    ) -> None:
        """``mac`` and ``server`` are put before the commands of the two: each may have a network of its own."""
        self.machines = Machines(root, QUICK, look_seconds=0.3, resend_seconds=2.0, address=address, inside=server)
        self.mac = Household(self.machines.mac_root, inside=mac)
        self.server = Household(self.machines.server_root, inside=server)

    def drop(self, stem: str, image: bytes) -> None:
        """Drop a picture as an operator does."""
        hot = self.mac.home.mac.hot
        (hot / f"{stem}.motion.json").write_text(json.dumps(SIDECAR))
        (hot / f"{stem}.png").write_bytes(image)

    def returned(self) -> dict[str, VideoMeta]:
        """What has come back, by the name that it was dropped under."""
        found = self.mac.home.mac.results.rglob("*.video_meta.json")
        return {path.name.removesuffix(".video_meta.json"): load(VideoMeta, path) for path in found}

    def said(self, event: str) -> int:
        """How often the courier's log has an event."""
        log = self.mac.home.mac.logs / "courier.log"
        return log.read_text().count(f" {event} ") if log.exists() else 0

    def has_said(self, event: str, times: int) -> bool:
        """Whether the courier's log has an event so often."""
        return self.said(event) >= times

    def close(self) -> None:
        """Kill what still runs."""
        self.mac.close()
        self.server.close()
        self.machines.close()


@pytest.fixture
def pair(tmp_path: Path) -> Iterator[Pair]:
    """Two machines, nobody at work."""
    made = Pair(tmp_path)
    yield made
    made.close()


def test_a_link_that_is_down_for_a_while_delays_and_loses_nothing(pair: Pair) -> None:
    pair.machines.sshd.stop()
    for household in (pair.mac, pair.server):
        household.dropreel("up")
    pair.drop("early", picture(1))
    until(lambda: pair.said("link.lost"), "the courier knows", 40)
    assert pair.returned() == {}
    pair.machines.sshd.start()
    until(lambda: "early" in pair.returned(), "the clip is back", 60)
    assert pair.said("link.back") == 1
    until(lambda: pair.machines.sshd.sessions, "something is connected")
    assert pair.machines.sshd.cut() > 0
    pair.drop("late", picture(2))
    until(lambda: "late" in pair.returned(), "so is the one dropped after it was cut", 60)
    until(lambda: not list(pair.mac.home.mac.hot.glob("*.png")), "the originals are put away", 30)


def test_a_courier_killed_at_any_time_loses_nothing(pair: Pair) -> None:
    pair.server.dropreel("up")
    names = [f"clip{number}" for number in range(4)]
    for number, name in enumerate(names):
        pair.drop(name, picture(number, (600, 400)))
    assert pair.mac.command("run", "keyframes", "--once")[0] == 0
    for event in ("batch.pushed", "batch.acknowledged", "clip.received"):
        before = pair.said(event)
        courier = pair.mac.dropreel("run", "courier")
        until(partial(pair.has_said, event, before + 1), event, 60)
        courier.kill()
        courier.wait()
    pair.mac.dropreel("up")
    until(lambda: set(names) <= set(pair.returned()), "all are back", 60)
    assert {meta.run for meta in pair.returned().values()} == {1}
    until(lambda: not list(pair.server.home.gpu.outbox.glob("2*")), "the server has let go of them", 30)


def test_a_stop_is_heeded_at_once_while_it_waits_for_the_link(pair: Pair) -> None:
    pair.machines.sshd.stop()
    courier = pair.mac.dropreel("run", "courier")
    until(lambda: pair.said("link.lost"), "it waits", 40)
    courier.send_signal(signal.SIGTERM)
    assert courier.wait(5) == 0


def test_once_says_that_the_server_cannot_be_reached_and_leaves(pair: Pair) -> None:
    pair.machines.sshd.stop()
    status, _, said = pair.mac.command("run", "courier", "--once")
    assert status == 1
    assert "The server cannot be reached" in said
    assert "Connection refused" in said


def test_without_keys_the_courier_says_what_to_do(pair: Pair) -> None:
    pair.machines.ssh.inbox.key.unlink()
    status, _, said = pair.mac.command("run", "courier", "--once")
    assert status == 78
    assert "dropreel ssh-setup" in said


NETWORK = """
import select, subprocess
from core.network import NetworkChanges
changes = NetworkChanges()
assert not changes.happened()
subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
assert select.select(changes.descriptors, [], [], 5)[0], "the wait ends"
assert changes.happened()
assert not changes.happened(), "once"
changes.close()
"""


@pytest.mark.skipif(sys.platform != "linux" or os.geteuid() != 0, reason="a network of its own needs root, on Linux")
def test_the_system_tells_when_the_network_changes() -> None:
    done = subprocess.run(["unshare", "-n", sys.executable, "-c", NETWORK], capture_output=True, text=True, check=False)
    if "unshare failed" in done.stderr:
        pytest.skip(done.stderr)
    assert done.returncode == 0, done.stderr


# ssh-setup


def test_ssh_setup_makes_keys_once_and_prints_what_the_server_needs(pair: Pair) -> None:
    machines = pair.machines
    for path in machines.ssh.folder.iterdir():
        path.unlink()
    asked = ["ssh-keygen", "-l", "-f", str(machines.sshd.host_key)]
    fingerprint = subprocess.run(asked, capture_output=True, text=True, check=True).stdout.split()[1]
    status, _, said = pair.mac.command("ssh-setup", "--pin", "SHA256:another")
    assert status == 1
    assert fingerprint in said, "it says what there is"
    assert not machines.ssh.known_hosts.exists()
    words = ("ssh-setup", "--pin", fingerprint, "--server-home", str(machines.server_root))
    status, out, said = pair.mac.command(*words)
    assert status == 0, said
    assert [oct(door.key.stat().st_mode & 0o777) for door in machines.ssh.doors] == ["0o600", "0o600"]
    lines = [line for line in out.splitlines() if line.startswith("restrict,command=")]
    machines.sshd.allow(*lines)
    assert pair.mac.command("run", "courier", "--once")[0] == 0, "the lines are all that it takes"
    assert [line for line in pair.mac.command(*words)[1].splitlines() if line.startswith("restrict,")] == lines
    assert "are pinned already" in " ".join(pair.mac.command(*words)[1].split())


def test_ssh_setup_pins_nothing_that_nobody_confirms(pair: Pair) -> None:
    pair.machines.ssh.known_hosts.unlink()
    status, _, said = pair.mac.command("ssh-setup")
    assert status == 1
    assert "Aborted" in said or "Nothing is pinned" in said
    assert not pair.machines.ssh.known_hosts.exists()
