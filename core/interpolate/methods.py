"""Which method makes the frames between two: the one that the settings name, or the best whose weights are there."""

from __future__ import annotations

import importlib.util
from enum import StrEnum
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from core.errors import Refused
from core.interpolate.flow import Flow
from core.interpolate.plan import Mode
from core.interpolate.retime import Method


class MethodName(StrEnum):
    """What makes new frames."""

    rife = "rife"
    film = "film"
    flow = "flow"


class InterpolateSettings(BaseModel):
    """From the model's rate to the delivered one."""

    model_config = ConfigDict(extra="forbid")

    mode: Mode = Mode.time_true
    method: Literal["auto"] | MethodName = "auto"
    """``auto``: RIFE where its weights are, else FILM where its are, else optical flow, which needs none."""
    rife: Path = Path("flownet.pkl")
    """RIFE's weights: in the folder that ``generation.weights`` names, or absolute."""
    film: Path = Path("film_net_fp16.pt")
    """FILM's, a TorchScript file: likewise."""
    device: Literal["auto", "cuda", "mps", "cpu"] = "auto"
    """What networks run on; ``auto`` is a CUDA card, else the processor."""
    memory_gib: float | None = Field(default=None, gt=0)
    """How much of a card that is shared with ``generate`` a worker may use; all of it without."""


def choose(rules: InterpolateSettings, weights: Path) -> MethodName:
    """The method that is used with the files that are there. ``weights`` is the folder of all weights."""
    if rules.method != "auto":
        return rules.method
    if importlib.util.find_spec("torch") is None:
        return MethodName.flow
    there = {MethodName.rife: weights / rules.rife, MethodName.film: weights / rules.film}
    return next((name for name, file in there.items() if file.is_file()), MethodName.flow)


def load(name: MethodName, file: Path | None, device: str = "auto") -> Method:
    """A method, ready. ``file`` holds its weights; flow has none.

    Raises ``Refused`` where the file is missing or is not what the method takes.
    """
    if name is MethodName.flow:
        return Flow()
    if file is None or not file.is_file():
        raise Refused.because(
            "interpolator_missing",
            f"The weights of {name} are not there: {file or 'no file is named'}.",
            file=None if file is None else file.name,
            remedy='Put them there, or say method = "flow", which needs none.',
        )
    place = _device(device)
    if name is MethodName.rife:
        from core.interpolate.rife import Rife

        return Rife.load(file, place)
    from core.interpolate.film import Film

    return Film.load(file, place)


def load_from(rules: InterpolateSettings, weights: Path) -> Method:
    """The method of the settings. Raises as ``load`` does."""
    name = choose(rules, weights)
    files = {MethodName.rife: weights / rules.rife, MethodName.film: weights / rules.film}
    return load(name, files.get(name), rules.device)


def _device(wanted: str) -> str:
    if wanted != "auto":
        return wanted
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"
