"""The one model that is loaded: brought in when a clip asks for it, let go when one asks for another."""

from __future__ import annotations

import gc
import os
from pathlib import Path
from typing import TYPE_CHECKING

from core.errors import BadSettings, Refused
from core.generate.memory import planned, refuse_if_too_large
from core.generate.presets import Preset
from core.generate.weights import locate
from core.settings import Settings

if TYPE_CHECKING:
    from core.generate.generator import Generator
    from core.generate.plan import Plan

COMPILE_CACHE = "TORCHINDUCTOR_CACHE_DIR"
"""Where torch keeps what it compiled, so that the next start need not."""


class Models:
    """A worker's model."""

    def __init__(self, root: Path, state: Path, settings: Settings) -> None:
        """``root`` is the home, ``state`` the half's folder of what may be lost."""
        self._root, self._state, self._settings = root, state, settings
        self._generator: Generator | None = None
        os.environ.setdefault(COMPILE_CACHE, str(state / "compiled"))
        os.environ.setdefault(
            "PYTORCH_CUDA_ALLOC_CONF", "expandable_segments:True"
        )  # canvases differ from clip to clip

    @property
    def loaded(self) -> str:
        """The preset whose model is loaded; empty before the first."""
        return self._generator.preset.name if self._generator is not None else ""

    def get(self, preset: Preset) -> Generator:
        """The generator of a preset, loaded now if it was not.

        Raises ``Refused`` where weights are missing, where the card cannot hold what the preset's plan needs, or where
        the preset asks for what these weights, or this machine, do not have.
        """
        if self._generator is None or self._generator.preset != preset:
            files = locate(preset, self._settings.generation, self._root)
            from core.device import card_memory, device_here, limit_card_memory
            from core.generate.generator import Generator

            device = device_here(self._settings.generation.device)
            limit_card_memory(device, self._settings.generation.memory_gib)
            if device.type == "cuda":
                refuse_if_too_large(preset, files.found, card_memory(device, self._settings.generation.memory_gib))
            self._generator = None  # before the next one comes: two do not fit
            gc.collect()
            try:
                self._generator = Generator(preset, files, device, self._state / "embeddings")
            except BadSettings as error:  # another attempt would load it all again, for nothing
                raise Refused.because(
                    "preset_unusable", str(error), field="generation_params.model", value=preset.name
                ) from error
        return self._generator

    def refuse_what_does_not_fit(self, plan: Plan) -> None:
        """Raise ``Refused`` where the card cannot hold what this very clip needs, or where weights are missing."""
        from core.device import card_memory, device_here

        device = device_here(self._settings.generation.device)
        if device.type == "cuda":
            preset, memory = self._settings.presets[plan.preset], self._settings.generation.memory_gib
            files = locate(preset, self._settings.generation, self._root)
            refuse_if_too_large(preset, files.found, card_memory(device, memory), clip=planned(plan))

    def gain_from_rehearsal(self, preset: Preset) -> bool:
        """Whether a first clip takes longer than the others. Raises ``Refused`` where weights are missing."""
        locate(preset, self._settings.generation, self._root)
        from core.device import device_here

        return preset.compile or device_here(self._settings.generation.device).type == "cuda"


def host_bytes() -> int:
    """How much memory of the host this process holds for itself; 0 where the system does not tell."""
    try:
        status = Path("/proc/self/status").read_text(encoding="ascii")
    except OSError:
        return 0
    return next((int(line.split()[1]) << 10 for line in status.splitlines() if line.startswith("RssAnon:")), 0)
