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
        self.mac, self.server = (f"dropreel-{side}-{os.getpid()}" for side in ("mac", "server"))
        self.bad = True
        """Whether it delays and loses, which not every kernel can have it do."""
        for name in (self.mac, self.server):
            _ip("netns", "add", name)
        _ip("link", "add", "wire", "netns", self.mac, "type", "veth", "peer", "name", "wire", "netns", self.server)
        for name, address in ((self.mac, MAC), (self.server, SERVER)):
            _ip("-n", name, "addr", "add", f"{address}/24", "dev", "wire")
            for link in ("lo", "wire"):
                _ip("-n", name, "link", "set", link, "up")
            emulate = ["tc", "-n", name, "qdisc", "add", "dev", "wire", "root", "netem", *NETEM.split()]
            self.bad &= subprocess.run(emulate, check=False, capture_output=True).returncode == 0

    def pull(self) -> None:
        """Pull the Mac's end out."""
        _ip("-n", self.mac, "link", "set", "wire", "down")

    def plug(self) -> None:
        """Put it back in."""
        _ip("-n", self.mac, "link", "set", "wire", "up")

    def close(self) -> None:
        """Let go of the namespaces."""
        for name in (self.mac, self.server):
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


@needs_sshd
@pytest.mark.timeout(150)
def test_over_a_wire_that_is_pulled_out_everything_arrives(tmp_path: Path, wire: Wire) -> None:
    inside = [("ip", "netns", "exec", name) for name in (wire.mac, wire.server)]
    pair = Pair(tmp_path, SERVER, *inside)
    try:
        for household in (pair.mac, pair.server):
            household.dropreel("up")
        pair.drop("near", picture(1))
        until(lambda: "near" in pair.returned(), "the clip is back", 60)
        wire.pull()
        pair.drop("far", picture(2))
        until(lambda: pair.said("link.lost"), "the courier knows", 60)
        assert "far" not in pair.returned()
        wire.plug()
        until(lambda: pair.said("link.back"), "it is told at once that the network is there", 60)
        until(lambda: "far" in pair.returned(), "so is what was dropped meanwhile", 60)
        until(lambda: not list(pair.mac.home.mac.hot.glob("*.png")), "the originals are put away", 30)
    finally:
        pair.close()
