"""A daemon under a service manager: what it tells the manager's socket while it waits, works, stops and hangs."""

from __future__ import annotations

import itertools
import os
import re
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from core.gpu import CARD_DRIVER
from tests.acceptance.processes import SMALL, Household
from tests.acceptance.test_daemons import BIG, _feed

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells who sent a message")

WATCHDOG = 3.0
STATUS = re.compile(r"generate (\S+): (\d+) %, about \d+ s left")


class Message(NamedTuple):
    """What a daemon said, when, and which process it was."""

    fields: dict[str, str]
    at: float
    pid: int


class ServiceManager:
    """Starts a daemon as systemd does, with a socket to speak to, and listens."""

    def __init__(self, house: Household) -> None:
        self._house = house
        self._folder = tempfile.TemporaryDirectory(prefix="notify-")  # an address has room for 107 bytes
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(f"{self._folder.name}/socket")
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
        self.heard: list[Message] = []

    def run(self, *words: str, **environment: str) -> subprocess.Popen[str]:
        """Start ``dropreel run`` with these words; it dies with the household."""
        process = subprocess.Popen(
            [sys.executable, "-P", "-m", "daemons.cli", "run", *words],
            cwd=Path(__file__).parents[2],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            env=os.environ
            | {
                "PYTHONPATH": str(Path(__file__).parents[2]),
                "DROPREEL_HOME": str(self._house.home.root),
                "NOTIFY_SOCKET": f"{self._folder.name}/socket",
                "WATCHDOG_USEC": str(int(WATCHDOG * 1e6)),
            }
            | environment,
            start_new_session=True,
        )
        self._house.processes.append(process)
        return process

    def hear(self, seconds: float = 20.0) -> Message | None:
        """The next message; None where nothing is said for so long."""
        self._socket.settimeout(seconds)
        try:
            data, ancillary, _, _ = self._socket.recvmsg(4096, socket.CMSG_SPACE(12))
        except TimeoutError:
            return None
        ((_, _, credentials),) = ancillary
        fields = dict(line.partition("=")[::2] for line in data.decode().splitlines())
        self.heard.append(Message(fields, time.monotonic(), struct.unpack("3i", credentials)[0]))
        return self.heard[-1]

    def hear_until(self, condition: Callable[[Message], object]) -> Message:
        """Listen on until a message is as it should be; fails where none comes any more."""
        while message := self.hear():
            if condition(message):
                return message
        raise AssertionError(f"it fell silent after {self.heard[-3:]}")

    def drain(self) -> None:
        """Take what was said before now."""
        while self.hear(0.05):
            pass

    @property
    def longest_silence(self) -> float:
        """Seconds between two messages that feed the watchdog, from READY on."""
        fed = [message.at for message in self.heard if message.fields.get("WATCHDOG") == "1"]
        return max(after - before for before, after in itertools.pairwise(fed))

    def close(self) -> None:
        """Stop listening."""
        self._socket.close()
        self._folder.cleanup()


@pytest.fixture
def house(tmp_path: Path) -> Iterator[Household]:
    """A home whose clips keep a worker busy for seconds."""
    made = Household(tmp_path / "home", BIG)
    yield made
    made.close()


@pytest.fixture
def manager(house: Household) -> Iterator[ServiceManager]:
    """A manager of that home's daemons."""
    made = ServiceManager(house)
    yield made
    made.close()


def test_a_daemon_that_waits_says_so_and_feeds_the_watchdog_in_half_its_time(manager: ServiceManager) -> None:
    daemon = manager.run("qa")
    ready = manager.hear_until(lambda message: True)
    assert ready.fields["READY"] == "1", "the first thing that it says"
    manager.hear_until(lambda message: message.at - ready.at > WATCHDOG)
    assert manager.longest_silence < WATCHDOG / 2
    assert manager.heard[-1].fields.get("STATUS", "waiting") == "waiting"
    daemon.send_signal(signal.SIGTERM)
    manager.hear_until(lambda message: message.fields.get("STOPPING") == "1")
    assert daemon.wait(10) == 0
    assert {message.pid for message in manager.heard} == {daemon.pid}, "systemd hears the main process only"


@pytest.mark.timeout(60)
def test_a_daemon_that_works_says_on_what_and_how_far_and_feeds_the_watchdog_meanwhile(
    house: Household, manager: ServiceManager
) -> None:
    _feed(house, 1, duration_sec=8.0)
    (clip,) = (path.name for path in (house.gpu / "rooms/generate/ready").iterdir())
    daemon = manager.run("generate")
    seen: list[int] = []

    def is_far_enough(message: Message) -> bool:
        if found := STATUS.fullmatch(message.fields.get("STATUS", "")):
            assert found[1] == clip
            seen.append(int(found[2]))
        return len(set(seen)) >= 3

    manager.hear_until(is_far_enough)
    assert seen == sorted(seen)
    assert seen[-1] <= 100
    assert manager.longest_silence < WATCHDOG / 2
    daemon.send_signal(signal.SIGTERM)
    manager.hear_until(lambda message: message.fields.get("STOPPING") == "1")
    assert daemon.wait(10) == 0
    assert (house.gpu / "rooms/generate/ready" / clip).exists()


def test_a_frozen_daemon_falls_silent_for_longer_than_its_watchdog(manager: ServiceManager) -> None:
    daemon = manager.run("intake")
    manager.hear_until(lambda message: "READY" in message.fields)
    daemon.send_signal(signal.SIGSTOP)
    os.waitid(os.P_PID, daemon.pid, os.WSTOPPED | os.WNOWAIT)
    manager.drain()
    assert manager.hear(WATCHDOG) is None
    daemon.send_signal(signal.SIGCONT)
    manager.hear_until(lambda message: message.fields.get("WATCHDOG") == "1")


def test_settings_that_cannot_be_used_end_it_for_good(house: Household, manager: ServiceManager) -> None:
    (house.home.root / "dropreel.toml").write_text(SMALL + "\n[daemons]\nscan_seconds = 'soon'\n")
    daemon = manager.run("intake")
    _, err = daemon.communicate(timeout=20)
    assert daemon.returncode == 78
    assert "daemons.scan_seconds" in err
    assert manager.hear(0.05) is None, "it never was ready"


@pytest.mark.skipif(CARD_DRIVER.exists(), reason="this machine has a card")
def test_a_worker_without_the_card_that_it_was_given_never_is_ready(manager: ServiceManager) -> None:
    daemon = manager.run("generate", CUDA_VISIBLE_DEVICES="0")
    _, err = daemon.communicate(timeout=20)
    assert daemon.returncode == 78
    assert "CUDA_VISIBLE_DEVICES=0" in err
    assert manager.hear(0.05) is None
