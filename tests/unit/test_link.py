"""The link: what fails it is said once and tried again, ever more seldom, and at once when the network is back."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import structlog

from core.errors import Stopped
from core.network import NetworkChanges
from core.rsync import LinkLost, LinkRefused
from core.settings import DaemonSettings
from daemons.link import LONGEST_PAUSE, SHORTEST_PAUSE, Link
from daemons.runtime import Runtime
from tests.house import Clock


class Patient(Runtime):
    """A runtime whose rests pass on a clock of their own; one may say what happens in each."""

    def __init__(self, state: Path, clock: Clock, *, once: bool = False) -> None:
        self.said: list[dict[str, Any]] = []
        self.rests: list[float] = []
        self.in_rest: Callable[[], object] = lambda: None
        self._time = clock

        def note(_logger: object, _method: str, event: Any) -> Any:
            self.said.append(dict(event))
            raise structlog.DropEvent

        log = structlog.wrap_logger(structlog.PrintLogger(), processors=[note], wrapper_class=structlog.BoundLogger)
        super().__init__("courier", state, DaemonSettings(), log, clock, once=once)

    def rest(self, seconds: float, network: NetworkChanges | None = None) -> None:
        """Wait on the clock: to the end, or not at all where the network has changed."""
        self.in_rest()
        self.breathe()
        if seconds > 0 and not (network and network.happened()):
            self.rests.append(seconds)
            self._time.seconds += seconds

    def events(self) -> list[str]:
        """What was said, in order."""
        return [said["event"] for said in self.said]


@pytest.fixture
def life(tmp_path: Path) -> Iterator[Patient]:
    """A courier's life."""
    runtime = Patient(tmp_path, Clock())
    yield runtime
    runtime.wake.close()


@pytest.fixture
def link(life: Patient) -> Iterator[Link]:
    """The link of that courier."""
    made = Link(life)
    yield made
    made.close()


def _failing(times: int, error: Exception) -> Callable[[], str]:
    left = [error] * times

    def work() -> str:
        if left:
            raise left.pop()
        return "done"

    return work


def test_work_is_tried_until_the_link_carries_it(life: Patient, link: Link) -> None:
    assert link.over(_failing(30, LinkLost("Connection refused"))) == "done"
    assert life.events() == ["link.lost", "link.back"], "each is said once"
    pauses = [pause for pause in life.rests if pause != SHORTEST_PAUSE]
    assert max(pauses) <= LONGEST_PAUSE
    assert len(set(pauses)) > len(pauses) // 2, "at random, so that many couriers do not come at once"
    assert sum(pauses[-10:]) > sum(pauses[:10]), "and ever more seldom"
    assert life.rests.count(SHORTEST_PAUSE) == 30, "a moment at least"


def test_a_link_that_answers_but_carries_nothing_is_down_all_the_time(life: Patient, link: Link) -> None:
    downs = []
    life.in_rest = lambda: downs.append(link.down_seconds)
    link.over(_failing(20, LinkLost("reset by peer")))
    assert downs == sorted(downs)
    assert downs[-1] > 60
    assert link.down_seconds == 0


def test_a_change_of_the_network_ends_the_pause_but_not_the_moment(life: Patient, link: Link) -> None:
    """A network may change all the time: that is no reason for a storm of tries."""
    here, there = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    link._network.close()
    here.setblocking(False)
    link._network._fd = here.detach()
    life.in_rest = lambda: there.send(b"changed")
    link.over(_failing(5, LinkLost("no route to host")))
    assert life.rests == [SHORTEST_PAUSE] * 5
    there.close()


def test_what_a_person_must_mend_is_said_once_and_not_tried_again_here(life: Patient, link: Link) -> None:
    for number in range(3):
        with pytest.raises(LinkRefused):
            link.over(_failing(1, LinkRefused(f"from port {number}", "The server is another.")))
    assert life.events() == ["link.refused"]
    assert link.trouble == "The server is another."
    assert life.rests == []
    link.over(_failing(0, LinkLost("")))
    assert life.events() == ["link.refused", "link.back"]


def test_it_is_well_as_soon_as_something_has_gone_over_it(life: Patient, link: Link) -> None:
    """However long the rest of the work takes."""
    fails = _failing(3, LinkLost("reset by peer"))

    def work() -> None:
        fails()
        link.carried()
        assert link.down_seconds == 0

    link.over(work)
    assert life.events() == ["link.lost", "link.back"]


def test_another_trouble_is_said_too(life: Patient, link: Link) -> None:
    with pytest.raises(LinkRefused):
        link.over(_failing(1, LinkRefused("", "The server is another.")))
    link.over(_failing(2, LinkLost("Connection refused")))
    assert life.events() == ["link.refused", "link.lost", "link.back"]


def test_a_stop_ends_the_waiting(life: Patient, link: Link) -> None:
    life.in_rest = life.stop
    with pytest.raises(Stopped):
        link.over(_failing(9, LinkLost("Connection refused")))


def test_once_gives_up(tmp_path: Path) -> None:
    life = Patient(tmp_path, Clock(), once=True)
    link = Link(life)
    with pytest.raises(LinkLost):
        link.over(_failing(9, LinkLost("Connection refused")))
    link.close()
    life.wake.close()


def test_other_trouble_is_not_the_links(life: Patient, link: Link) -> None:
    with pytest.raises(ZeroDivisionError):
        link.over(_failing(1, ZeroDivisionError()))
    assert life.events() == []
    assert link.trouble == ""
