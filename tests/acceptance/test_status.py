"""How the server stands, seen from the Mac: the real daemons of two machines, and the real ssh between them."""

from __future__ import annotations

import json
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from core.overview import LATE_SECONDS, Overview, overview
from core.settings import load_settings
from tests.acceptance.test_link import Pair
from tests.house import picture
from tests.integration.sshd import needs_sshd
from tests.waiting import until

pytestmark = [needs_sshd, pytest.mark.timeout(120)]


@pytest.fixture
def pair(tmp_path: Path) -> Iterator[Pair]:
    """Two machines, nobody at work."""
    made = Pair(tmp_path)
    yield made
    made.close()


def test_the_mac_shows_how_its_server_stands(pair: Pair) -> None:
    settings, home = load_settings(pair.mac.home.root)

    def told() -> Overview:
        return overview(home, settings)

    assert told().gpu is None
    ups = [household.dropreel("up") for household in (pair.server, pair.mac)]
    names = {"one", "two", "three"}  # of fewer no pace is told
    for number, name in enumerate(sorted(names)):
        pair.drop(name, picture(number))
    until(lambda: names <= set(pair.returned()), "the clips are back", 60)
    found = until(lambda: o if (o := told()).gpu and o.gpu.clips_per_minute else None, "the server has told of it", 40)
    assert found.gpu is not None
    assert found.gpu_trouble is None
    assert found.gpu_age_seconds is not None
    assert found.gpu_age_seconds < LATE_SECONDS
    assert [worker.alive for room in found.gpu.rooms for worker in room.workers] == [True] * 4
    shown = json.loads(pair.mac.command("status", "--json")[1])
    assert shown["gpu"]["rooms"][0]["room"] == "generate"
    assert "server, as of" in pair.mac.command("status")[1]

    for up in ups:
        up.send_signal(signal.SIGTERM)
    assert [up.wait(20) for up in ups] == [0, 0]
    carried = figures(home.mac.state / "metrics" / "dropreel_courier.prom", "dropreel_courier_bytes_total")
    assert carried["out"] > sum(len(picture(number)) for number in range(3))
    assert carried["in"] > 0
    encoded = pair.server.gpu / "state" / "metrics" / "dropreel_encode@cpu0.prom"
    assert figures(encoded, "dropreel_clips_total", "outcome") == {"done": 3, "flagged": 0, "failed": 0, "cancelled": 0}


def figures(file: Path, name: str, label: str = "direction") -> dict[str, float]:
    """A figure's values in a process's file, by one of its labels."""
    families = text_string_to_metric_families(file.read_text())
    samples = [sample for family in families for sample in family.samples if sample.name == name]
    return {sample.labels[label]: sample.value for sample in samples}
