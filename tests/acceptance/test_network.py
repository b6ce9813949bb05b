"""Two network namespaces and a wire between them: far away, lossy where the kernel has netem, and pulled out."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.acceptance.test_link import Pair
from tests.house import picture
from tests.integration.sshd import needs_sshd
from tests.waiting import until

MAC, SERVER = "10.213.0.1", "10.213.0.2"
NETEM = "delay 60ms 10ms loss 1%"
"""Each way: another continent, over a poor Wi-Fi."""


def _ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True, capture_output=True)


class Wire:
    """Two namespaces with one end of a wire each."""

    def __init__(self) -> None:
        self.mac, self.server = self.names = tuple(f"dropreel-{side}-{os.getpid()}" for side in ("mac", "server"))
        for name in self.names:
            _ip("netns", "add", name)
        _ip("link", "add", "wire", "netns", self.mac, "type", "veth", "peer", "name", "wire", "netns", self.server)
        for name, address in ((self.mac, MAC), (self.server, SERVER)):
            _ip("-n", name, "addr", "add", f"{address}/24", "dev", "wire")
            for link in ("lo", "wire"):
                _ip("-n", name, "link", "set", link, "up")

    def emulate(self, how: str) -> bool:
        """Delay and lose what goes over the wire, both ways; False where the kernel cannot."""
        commands = (
            ["tc", "-n", name, "qdisc", "add", "dev", "wire", "root", "netem", *how.split()] for name in self.names
        )
        return all(subprocess.run(command, check=False, capture_output=True).returncode == 0 for command in commands)

    def pull(self) -> None:
        """Pull the Mac's end out."""
        _ip("-n", self.mac, "link", "set", "wire", "down")

    def plug(self) -> None:
        """Put it back in."""
        _ip("-n", self.mac, "link", "set", "wire", "up")

    def close(self) -> None:
        """Let go of the namespaces."""
        for name in self.names:
            subprocess.run(["ip", "netns", "del", name], check=False, capture_output=True)


@pytest.fixture
def wire() -> Iterator[Wire]:
    """The wire, where this machine lets us lay one."""
    if os.geteuid() != 0 or not shutil.which("ip"):
        pytest.skip("namespaces need root, and iproute2")
    try:
        made = Wire()
    except subprocess.CalledProcessError as error:
        pytest.skip(f"no namespaces here: {error.stderr.decode()}")
    yield made
    made.close()


def _pair(root: Path, wire: Wire) -> Pair:
    """Both machines at work, each in its own network."""
    pair = Pair(root, SERVER, *(("ip", "netns", "exec", name) for name in (wire.mac, wire.server)))
    for household in (pair.mac, pair.server):
        household.dropreel("up")
    return pair


@needs_sshd
@pytest.mark.timeout(150)
def test_over_a_wire_that_is_pulled_out_everything_arrives(tmp_path: Path, wire: Wire) -> None:
    pair = _pair(tmp_path, wire)
    try:
        pair.drop("near", picture(1))
        until(lambda: "near" in pair.returned(), "the clip is back", 60)
        wire.pull()
        pair.drop("far", picture(2))
        until(lambda: pair.said("link.lost"), "the courier knows", 60)
        assert "far" not in pair.returned()
        wire.plug()
        until(lambda: pair.said("link.back"), "it notices that the wire is back", 60)
        until(lambda: "far" in pair.returned(), "so is what was dropped meanwhile", 60)
        until(lambda: not list(pair.mac.home.mac.hot.glob("*.png")), "the originals are put away", 30)
    finally:
        pair.close()


@needs_sshd
@pytest.mark.timeout(150)
def test_from_far_away_over_a_lossy_wire_everything_arrives(tmp_path: Path, wire: Wire) -> None:
    if not wire.emulate(NETEM):
        pytest.skip("this kernel has no netem")
    pair = _pair(tmp_path, wire)
    try:
        for number in range(3):
            pair.drop(f"clip{number}", picture(number, (600, 400)))
        until(lambda: len(pair.returned()) == 3, "the clips are back", 120)
    finally:
        pair.close()
