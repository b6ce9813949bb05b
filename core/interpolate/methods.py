"""Which method makes the frames between two: the one that the settings name, or the best whose weights are there."""

from __future__ import annotations

import hashlib
import importlib.util
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Literal, NamedTuple

from pydantic import BaseModel, ConfigDict, Field

from core.errors import BadSettings, Refused
from core.interpolate.plan import Mode

if TYPE_CHECKING:
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
    return next((name for name, file in files(rules, weights).items() if file.is_file()), MethodName.flow)


def files(rules: InterpolateSettings, weights: Path) -> dict[MethodName, Path]:
    """Where the weights of the networks are looked for, the better network first; flow has none."""
    return {MethodName.rife: weights / rules.rife, MethodName.film: weights / rules.film}


class Chosen(NamedTuple):
    """A method, loaded."""

    method: Method
    record: dict[str, str]
    """What a clip's record says of it beside its name: which weights, on what."""


def load(name: MethodName, file: Path | None, device: str = "auto") -> Chosen:
    """A method, ready to work. ``file`` holds its weights; flow has none.

    Raises ``BadSettings`` where torch or the device is missing, and ``Refused`` where the file is, or is none of this
    method's.
    """
    if name is MethodName.flow:
        from core.interpolate.flow import Flow

        return Chosen(Flow(), {})
    if file is None or not file.is_file():
        raise Refused.because(
            "interpolator_missing",
            f"The weights of {name} are not there: {file or 'no file is named'}.",
            remedy="Put them there, or choose the method flow, which needs none.",
        )
    if importlib.util.find_spec("torch") is None:
        raise BadSettings(f"{name} needs torch: pip install 'dropreel[gpu]', or choose the method flow.")
    from core.device import device_here

    place = device_here(device)
    if device == "auto" and place.type == "mps":  # not tried there
        place = device_here("cpu")
    with file.open("rb") as opened:
        digest = hashlib.file_digest(opened, "sha256").hexdigest()
    record = {"weights": f"{file.name}#{digest[:16]}", "device": str(place)}
    if name is MethodName.rife:
        from core.interpolate.rife import Rife

        rife = Rife.load(file, place)
        return Chosen(rife, record | {"variant": rife.variant.name})
    from core.interpolate.film import Film

    return Chosen(Film.load(file, place), record)


def load_from(rules: InterpolateSettings, weights: Path) -> Chosen:
    """The method of the settings. Raises as ``load`` does."""
    name = choose(rules, weights)
    if name is not MethodName.flow and rules.memory_gib is not None:
        from core.device import device_here, limit_card_memory

        limit_card_memory(device_here(rules.device), rules.memory_gib)
    return load(name, files(rules, weights).get(name), rules.device)
