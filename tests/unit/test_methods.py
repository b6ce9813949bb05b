"""Which method makes the frames between two, and what is said of it."""

from __future__ import annotations

import hashlib
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch

from benchmarks.interpolate import random_weights
from core.errors import Refused
from core.interpolate.flow import Flow
from core.interpolate.ifnet import RIFE_4_6
from core.interpolate.methods import InterpolateSettings, MethodName, choose, load, load_from
from core.interpolate.plan import Sample
from core.interpolate.rife import Rife

AUTO = InterpolateSettings()


def test_what_is_there_is_used_and_the_better_first(tmp_path: Path) -> None:
    assert choose(AUTO, tmp_path) is MethodName.flow
    (tmp_path / AUTO.film).touch()
    assert choose(AUTO, tmp_path) is MethodName.film
    (tmp_path / AUTO.rife).touch()
    assert choose(AUTO, tmp_path) is MethodName.rife


@pytest.mark.parametrize("name", MethodName)
def test_what_is_named_is_used_whatever_is_there(name: MethodName, tmp_path: Path) -> None:
    (tmp_path / AUTO.rife).touch()
    assert choose(InterpolateSettings(method=name), tmp_path) is name


@pytest.mark.parametrize("name", [MethodName.rife, MethodName.film])
def test_weights_that_are_not_there_are_named(name: MethodName, tmp_path: Path) -> None:
    with pytest.raises(Refused, match=r"flownet\.pkl|film_net_fp16\.pt") as raised:
        load_from(InterpolateSettings(method=name), tmp_path)
    assert raised.value.finding.code == "interpolator_missing"
    with pytest.raises(Refused, match="no file is named"):
        load(name, None)


def test_flow_needs_nothing_and_has_nothing_to_say() -> None:
    chosen = load(MethodName.flow, None)
    assert isinstance(chosen.method, Flow)
    assert chosen.record == {}


def test_a_network_is_recorded_with_its_weights(tmp_path: Path) -> None:
    file = tmp_path / AUTO.rife
    torch.save(random_weights(RIFE_4_6), file)
    chosen = load_from(AUTO, tmp_path)
    assert isinstance(chosen.method, Rife)
    digest = hashlib.sha256(file.read_bytes()).hexdigest()[:16]
    assert chosen.record == {"weights": f"flownet.pkl#{digest}", "device": "cpu", "variant": "4.6"}
    base = np.zeros((2, 64, 64, 3), np.uint8)
    samples = [Sample(0, Fraction(0)), Sample(0, Fraction(1, 2)), Sample(1, Fraction(0))]
    assert len(list(chosen.method.clip(base, samples))) == 3
