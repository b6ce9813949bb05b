"""Which card a worker is given."""

from __future__ import annotations

from pathlib import Path

import pytest

from core import gpu


@pytest.fixture
def _driver(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "version").touch()
    monkeypatch.setattr(gpu, "CARD_DRIVER", tmp_path / "version")


@pytest.mark.usefixtures("_driver")
@pytest.mark.parametrize(("worker", "card"), [("gpu0", "0"), ("gpu3", "3"), ("GPU-8932f937-d72c", "GPU-8932f937-d72c")])
def test_a_worker_is_given_the_card_of_its_name_and_no_other(worker: str, card: str) -> None:
    given = {"CUDA_DEVICE_ORDER": "PCI_BUS_ID", "CUDA_VISIBLE_DEVICES": card}
    assert gpu.card_environment("generate", worker, {}) == given
    assert gpu.card_environment("interpolate", worker, {}) == given


@pytest.mark.usefixtures("_driver")
def test_who_has_chosen_cards_or_needs_none_is_given_none() -> None:
    assert gpu.card_environment("generate", "gpu0", {"CUDA_VISIBLE_DEVICES": "2"}) == {}
    assert gpu.card_environment("qa", "gpu0", {}) == {}
    assert gpu.card_environment("generate", "cpu0", {}) == {}
    assert gpu.card_environment("intake", None, {}) == {}


def test_without_a_driver_there_is_no_card(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu, "CARD_DRIVER", tmp_path / "version")
    assert gpu.card_environment("generate", "gpu0", {}) == {}
