"""Components that come to the card and go: what is copied, what is shared, and what never changes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from core.generate import residency as module_under_test
from core.generate.presets import Memory
from core.generate.residency import Residency, watch_entries

CPU = torch.device("cpu")
TURN = Memory(residency="turn")


class Tied(torch.nn.Module):
    """Two layers with the same weight, and buffers, one of them changed as it works."""

    def __init__(self) -> None:
        super().__init__()
        self.first = torch.nn.Linear(4, 4, bias=False)
        self.second = torch.nn.Linear(4, 4, bias=False)
        self.second.weight = self.first.weight
        self.scale: torch.Tensor
        self.count: torch.Tensor
        self.register_buffer("scale", torch.full((4,), 2.0))
        self.register_buffer("count", torch.zeros(1), persistent=False)

    def forward(self, given: torch.Tensor) -> torch.Tensor:
        self.count += 1
        out: torch.Tensor = self.second(self.first(given)) * self.scale
        return out


def tensors(module: torch.nn.Module) -> dict[str, torch.Tensor]:
    return dict(module.named_parameters()) | dict(module.named_buffers())


def held(**modules: torch.nn.Module) -> Residency:
    return Residency(modules, dict.fromkeys(modules, TURN), CPU)


def test_only_one_is_on_the_card_and_it_is_a_copy() -> None:
    modules = {"a": torch.nn.Linear(3, 3), "b": torch.nn.Linear(3, 3)}
    host = {name: module.weight.data_ptr() for name, module in modules.items()}
    residency = held(**modules)
    assert residency.here is None
    assert residency.turning == {"a", "b"}
    for name, other in (("a", "b"), ("b", "a"), ("a", "b")):
        residency.bring(name)
        residency.bring(name)  # it is there
        assert (residency.has(name), residency.has(other)) == (True, False)
        assert modules[name].weight.data_ptr() != host[name]
        assert modules[other].weight.data_ptr() == host[other]
    assert residency.swaps == 3
    assert residency.bytes == 3 * (3 * 3 + 3) * 4
    assert residency.seconds > 0
    residency.clear()
    assert [module.weight.data_ptr() for module in modules.values()] == list(host.values())


def test_work_never_changes_what_is_on_the_host() -> None:
    module = Tied()
    module.requires_grad_(requires_grad=False)
    before = {name: tensor.clone() for name, tensor in tensors(module).items()}
    residency = held(a=module)
    given = torch.ones(1, 4)
    expected = module(given)
    module.count.zero_()
    for _ in range(2):
        residency.bring("a")
        assert torch.equal(module(given), expected)
        module.scale += 1.0
        module.first.weight.mul_(0.5)
        assert module.count == 1
        residency.clear()
        for name, tensor in tensors(module).items():
            assert torch.equal(tensor, before[name]), name


def test_tied_weights_are_copied_once_and_stay_tied() -> None:
    module = Tied()
    residency = held(a=module)
    residency.bring("a")
    assert module.first.weight.data_ptr() == module.second.weight.data_ptr()
    assert residency.bytes == (4 * 4 + 4 + 1) * 4


def test_mapped_weights_are_mapped_still_when_they_have_gone(tmp_path: Path) -> None:
    save_file({"weight": torch.ones(64, 64)}, tmp_path / "a.safetensors")
    module = torch.nn.Linear(64, 64, bias=False)
    module.load_state_dict(load_file(tmp_path / "a.safetensors"), assign=True)
    mapped = module.weight.data_ptr()
    residency = held(a=module)
    residency.bring("a")
    assert module.weight.data_ptr() != mapped
    residency.clear()
    assert module.weight.data_ptr() == mapped


def test_what_does_not_fit_is_not_half_there(monkeypatch: pytest.MonkeyPatch) -> None:
    module, other = Tied(), torch.nn.Linear(2, 2)
    before = {name: tensor.data_ptr() for name, tensor in tensors(module).items()}
    residency = held(a=module, b=other)
    residency.bring("b")
    copies: list[torch.Tensor] = []

    def full(tensor: torch.Tensor, _device: torch.device) -> torch.Tensor:
        if copies:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        copies.append(tensor.clone())
        return copies[0]

    with monkeypatch.context() as patch:
        patch.setattr(module_under_test, "_copied", full)
        with pytest.raises(torch.OutOfMemoryError):
            residency.bring("a")
    assert residency.here is None
    assert {name: tensor.data_ptr() for name, tensor in tensors(module).items()} == before
    assert residency.swaps == 1
    residency.bring("a")
    assert residency.has("a")


def test_in_need_everything_takes_turns() -> None:
    modules = {"a": torch.nn.Linear(2, 2), "b": Tied(), "c": torch.nn.Linear(2, 2)}
    residency = Residency(modules, {"a": TURN}, CPU)
    assert residency.turning == {"a"}
    assert all(residency.has(name) for name in "bc")
    residency.bring("a")
    residency.all_turn()
    assert residency.turning == {"a", "b", "c"}
    assert [name for name in "abc" if residency.has(name)] == ["a"]
    residency.bring("b")
    assert torch.isfinite(modules["b"](torch.ones(1, 4))).all()


def test_what_cannot_take_turns_stays_even_in_need() -> None:
    modules = {"a": torch.nn.Linear(2, 2), "b": torch.nn.Linear(2, 2)}
    residency = Residency(modules, {}, CPU, stays={"b"})
    residency.all_turn()
    assert residency.turning == {"a"}
    residency.bring("a")
    assert residency.has("b")


class Coder(torch.nn.Module):
    """Has the two entries of an autoencoder."""

    def encode(self, given: int, *, more: int = 0) -> int:
        return given + more

    def decode(self, given: int) -> int:
        return -given

    def forward(self, given: int) -> int:
        return given


@pytest.mark.parametrize(
    "enter", [lambda c: c(1), lambda c: c.encode(1), lambda c: c.encode(0, more=1), lambda c: -c.decode(1)]
)
def test_every_entry_is_watched(enter: Callable[[Any], int]) -> None:
    coder, entered = Coder(), []
    watch_entries(coder, lambda: entered.append(1))
    assert enter(coder) == 1
    assert entered == [1]
