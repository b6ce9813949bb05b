"""The stage: a clip's keyframe becomes base frames, by the family of the preset that its entry names."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from core.generate import camera
from core.rooms import ClipFolder
from core.settings import Settings, presets
from core.work import Report

FAMILIES: dict[str, Callable[[ClipFolder, Settings, Report], dict[str, Any]]] = {"camera": camera.generate}


def generate(folder: ClipFolder, settings: Settings, report: Report) -> dict[str, Any]:
    """Make the base frames that the clip's manifest entry asks for; returns the recorded plan.

    Raises ``Refused`` for what this preset cannot honour, ``DiskFull``, and what ``report`` raises.
    """
    model = folder.clip.entry.generation_params.model
    family = presets()[model]["family"]
    return {"model": model, "family": family, "seed": folder.clip.seed} | FAMILIES[family](folder, settings, report)
