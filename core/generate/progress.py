"""How far a clip is, told by the model's own layers: what is reported there may also stop the work there."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from core.work import Report

BEFORE, AFTER = 0.05, 0.85
"""The share of a clip that is done when its steps begin, and when they end: encoding and decoding are the rest."""


class Progress:
    """One clip's way through the layers."""

    def __init__(self, report: Report, forwards: int) -> None:
        self._report = report
        self._forwards = max(forwards, 1)
        self._begun = 0
        self._blocks = 0
        self._others = 0

    def forward(self) -> None:
        """A denoiser begins to run."""
        self._begun += 1
        self._blocks = 0
        self._steps(0.0)

    def block(self, count: int) -> None:
        """The next of a denoiser's ``count`` blocks begins to run. Raises what ``report`` does."""
        self._steps(min(1.0, self._blocks / count))
        self._blocks += 1

    def other(self) -> None:
        """A layer of an encoder or decoder begins to run; nobody knows how many will."""
        self._others += 1
        if 0 < self._begun < self._forwards:  # between two passes
            self._steps(1.0)
            return
        low, high = (AFTER, 1.0) if self._begun else (0.0, BEFORE)
        self._report(low + (high - low) * (1 - 0.99**self._others))

    def _steps(self, share: float) -> None:
        done = min(1.0, (max(self._begun, 1) - 1 + share) / self._forwards)
        self._report(BEFORE + (AFTER - BEFORE) * done)


def watch_denoiser(module: torch.nn.Module, now: Callable[[], Progress]) -> None:
    """Report from before every block of a component that runs once a step."""
    module.register_forward_pre_hook(_before(lambda: now().forward()))
    blocks = _blocks(module)
    for block in blocks:
        block.register_forward_pre_hook(_before(lambda: now().block(len(blocks))))


def watch_other(module: torch.nn.Module, now: Callable[[], Progress]) -> None:
    """Report from before every block of a component that runs before or after the steps."""
    for block in _blocks(module):
        block.register_forward_pre_hook(_before(lambda: now().other()))


def _before(tell: Callable[[], None]) -> Callable[[torch.nn.Module, Any], None]:
    def hook(_module: torch.nn.Module, _args: Any) -> None:
        tell()

    outside: Callable[[torch.nn.Module, Any], None]
    outside = torch.compiler.disable(hook)  # type: ignore[no-untyped-call]  # a compiled block leaves its graph
    return outside


def _blocks(module: torch.nn.Module) -> list[torch.nn.Module]:
    """What a component repeats: the members of its outermost lists of modules."""
    found: list[torch.nn.Module] = []
    for child in module.children():
        if isinstance(child, torch.nn.ModuleList):
            found += [block for block in child if block is not None]  # Mochi's decoder keeps places empty
        elif child is not None:
            found += _blocks(child)
    return found
