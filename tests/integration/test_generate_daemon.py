"""Real pipelines with tiny random weights, through the real daemon: from a clip's folder to base frames, and on."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from core import frames
from core.generate.generator import Generator
from core.rooms import BASE_FILE, ClipFolder
from daemons.generate import GenerateDaemon
from tests.house import SIDECAR, TINY, House, picture
from tests.tiny import tiny_preset

pytestmark = pytest.mark.timeout(120)
TURNS = "memory = { transformer = { residency = 'turn' }, transformer_2 = { residency = 'turn' } }\n"
WIDE = (
    TINY.replace("portrait = [64, 96]", "portrait = [64, 128]").replace("landscape = [96, 64]", "landscape = [128, 64]")
    + "[qa]\nfirst_ssim_same = 0.0\n"
)


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    torch.set_num_threads(1)
    return


def house_with(root: Path, kind: Any, more: str = "", settings: str = "") -> House:
    """A house whose model is a tiny one of this kind."""
    root.mkdir(parents=True, exist_ok=True)
    (root / "presets.toml").write_text(tiny_preset(kind, more=more))
    (root / "dropreel.toml").write_text(f'{WIDE}{settings}[generation]\nmodel = "tiny-{kind}"\n')
    return House(root)


def drop(house: House, *stems: str) -> None:
    for number, stem in enumerate(stems):
        house.drop(stem, picture(number, (256, 128)), SIDECAR)


def base_frames(house: House) -> dict[str, bytes]:
    """What ``generate`` made, by the clip's name."""
    found = {}
    for path in (house.home.gpu.rooms / "interpolate" / "ready").iterdir():
        folder = ClipFolder.open(path)
        found[folder.clip.entry.stem] = frames.open(path / BASE_FILE).tobytes()
    return found


def up_to_generate(house: House) -> None:
    house.start("keyframes", "courier", "intake", "generate")
    house.rest()


@pytest.mark.parametrize("kind", ["wan_a14b", "wan_5b", "ltx"])
def test_a_drop_becomes_an_encoded_clip(kind: str, tmp_path: Path) -> None:
    house = house_with(tmp_path / "home", kind)
    drop(house, "a")
    house.start()
    house.rest()
    (meta,) = house.metas().values()
    assert meta.failure is None, meta.failure
    details = meta.stages["generate"].details
    assert details["model"] == f"tiny-{kind}"
    assert meta.frames == 5
    assert (meta.width, meta.height) == (128, 64)
    assert details["camera"] == "virtual"


def test_expert_major_makes_the_same_bits_with_fewer_swaps(tmp_path: Path) -> None:
    made, swaps = [], []
    for together in (1, 4):
        house = house_with(tmp_path / f"home{together}", "wan_a14b", f"{TURNS}together = {together}\n")
        drop(house, "a", "b", "c", "d")
        up_to_generate(house)
        made.append(base_frames(house))
        generator = next(d for d in house.daemons if isinstance(d, GenerateDaemon))._models._generator
        assert isinstance(generator, Generator)
        swaps.append(generator.residency.swaps)
        house.stop()
    assert set(made[0]) == {"a", "b", "c", "d"}
    assert made[0] == made[1]
    assert swaps == [8, 2]
