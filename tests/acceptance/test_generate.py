"""A worker of ``generate`` with a tiny real model, as a process: killed, told to stop, and started again."""

from __future__ import annotations

import json
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from core import frames
from core.contract import Clip, load
from core.rooms import BASE_FILE
from tests.acceptance.processes import SMALL, Household
from tests.house import SIDECAR, picture
from tests.tiny import saved, tiny_preset
from tests.waiting import until

pytestmark = pytest.mark.timeout(180)
STEPS = 24
"""So that a clip takes a second or two, and there is a middle of it."""
FOUR = """\
memory = { transformer = { residency = "turn" }, transformer_2 = { residency = "turn" } }
together = 4
"""
WIDE = SMALL.replace("[64, 96]", "[64, 128]").replace("[96, 64]", "[128, 64]")


@pytest.fixture(scope="module")
def fed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home in which four clips wait; to be copied."""
    root = tmp_path_factory.mktemp("fed") / "home"
    root.mkdir()
    table = tiny_preset("wan_a14b", saved("wan_a14b"), FOUR).replace("\nsteps = 2\n", f"\nsteps = {STEPS}\n")
    assert f"steps = {STEPS}" in table
    (root / "presets.toml").write_text(table)
    (root / "dropreel.toml").write_text(f'{WIDE}[generation]\nmodel = "tiny-wan_a14b"\n')
    house = Household(root)
    for number, stem in enumerate("abcd"):
        (house.home.mac.hot / f"{stem}.motion.json").write_text(json.dumps(SIDECAR))
        (house.home.mac.hot / f"{stem}.png").write_bytes(picture(number, (256, 128)))
    house.bring("keyframes", "courier", "intake")
    assert len(list((house.gpu / "rooms/generate/ready").iterdir())) == 4
    return root


@pytest.fixture
def house(fed: Path, tmp_path: Path) -> Iterator[Household]:
    shutil.copytree(fed, tmp_path / "home")
    household = Household(tmp_path / "home")
    yield household
    household.close()


def undisturbed(fed: Path, tmp_path: Path) -> dict[str, bytes]:
    """What the four clips are where nothing happens."""
    household = Household(shutil.copytree(fed, tmp_path / "undisturbed"))
    household.bring("generate")
    return made(household)


def made(house: Household) -> dict[str, bytes]:
    paths = (house.gpu / "rooms/interpolate/ready").iterdir()
    return {path.name: frames.open(path / BASE_FILE).tobytes() for path in paths}


def attempts(house: Household, where: str) -> dict[str, int]:
    """By the clips that lie in this folder of ``generate``; nothing while one is on its way."""
    try:
        clips = [load(Clip, path / "clip.json") for path in (house.gpu / "rooms/generate" / where).glob("2*")]
    except FileNotFoundError:
        return {}
    return {clip.clip_id: clip.attempts.get("generate", 0) for clip in clips}


def in_the_middle(house: Household) -> str:
    """Waits until another than the first of four clips runs; which it is."""

    def running() -> str:
        counted = attempts(house, "active/gpu0")
        (*_, last) = [*[""], *(clip for clip, count in counted.items() if count)]
        return last if len(counted) == 4 and last > min(counted) else ""

    until((house.gpu / "state/workers/generate@gpu0.json").exists, "steps run", 60)
    return until(running, "another clip runs", 60)


def test_killed_in_a_round_it_is_the_attempt_of_the_clip_whose_step_ran(
    house: Household, fed: Path, tmp_path: Path
) -> None:
    worker = house.dropreel("run", "generate")
    in_the_middle(house)
    worker.kill()
    worker.wait()
    counted = attempts(house, "active/gpu0")
    assert sorted(counted.values()) == [0, 0, 0, 1]
    (guilty,) = (clip for clip, count in counted.items() if count)
    status, _, err = house.command("run", "generate", "--once")
    assert status == 0, err
    assert made(house) == undisturbed(fed, tmp_path)
    tried = {}
    for path in (house.gpu / "rooms/interpolate/ready").iterdir():
        record = load(Clip, path / "clip.json").stages["generate"]
        tried[path.name] = record.attempts, record.details["together"]
    assert tried == {clip: (2, 1) if clip == guilty else (1, 3) for clip in counted}


def test_told_to_stop_in_a_round_it_leaves_soon_and_all_wait_as_before(house: Household) -> None:
    before = attempts(house, "ready")
    assert list(before.values()) == [0, 0, 0, 0]
    worker = house.dropreel("run", "generate")
    in_the_middle(house)
    worker.send_signal(signal.SIGTERM)
    assert worker.wait(5.0) == 0
    assert attempts(house, "active/gpu0") == {}
    assert attempts(house, "ready") == before


def test_told_to_stop_while_the_model_is_loaded_it_leaves_soon(house: Household) -> None:
    before = attempts(house, "ready")
    assert list(before.values()) == [0, 0, 0, 0]
    worker = house.dropreel("run", "generate")
    log = house.gpu / "logs/generate@gpu0.log"
    until(lambda: log.exists() and "model.loading" in log.read_text(), "the model is loaded", 60)
    worker.send_signal(signal.SIGTERM)
    assert worker.wait(5.0) == 0
    assert "model.loaded" not in log.read_text()
    assert attempts(house, "ready") == before
