"""The one model that is loaded: brought in when a clip asks for it, let go when one asks for another."""

from __future__ import annotations

import gc
import os
from pathlib import Path
from typing import TYPE_CHECKING

from core.generate.memory import refuse_if_too_large
from core.generate.presets import Preset
from core.generate.weights import locate
from core.settings import Settings

if TYPE_CHECKING:
    from core.generate.generator import Generator

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

        Raises ``Refused`` where weights are missing, or where the card cannot hold what the preset's plan needs.
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
            self._generator = Generator(preset, files, device, self._state / "embeddings")
        return self._generator

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
