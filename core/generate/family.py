"""A model family: what differs between models, and nothing else. Its pure half needs no torch."""

from __future__ import annotations

import importlib
from abc import ABC, abstractmethod
from functools import cache
from typing import TYPE_CHECKING, Any, ClassVar

from core.generate.presets import FamilyName, Preset

if TYPE_CHECKING:
    import numpy as np
    import torch
    from numpy.typing import NDArray

    from core.generate.plan import Plan
    from core.motion import Size

    Pixels = NDArray[np.uint8]

Embeddings = dict[str, "torch.Tensor"]
"""What a prompt is to the model: the arguments of its call, by name, on the CPU."""


class Family(ABC):
    """What a model family asks for, and how its diffusers pipeline is called."""

    # ---- pure: used before any GPU second, on the Mac too -------------------------------------------------------
    multiple: ClassVar[int]
    """The canvas's sides are multiples of this many pixels."""
    frame_step: ClassVar[int]
    """Frame counts are ``frame_step * k + 1``."""
    has_prompt: ClassVar[bool] = True
    takes_last: ClassVar[bool] = False
    """Whether it can be given the last frame too."""
    one_dtype: ClassVar[bool] = False
    """Whether its decoder is of the model's own dtype, whatever one wishes."""
    step_cache: ClassVar[bool] = False
    """Whether diffusers can skip the blocks of steps that change little."""
    stays: ClassVar[frozenset[str]] = frozenset()
    """The components that cannot take turns, for the pipeline changes their weights' dtype as it goes."""
    call_keys: ClassVar[frozenset[str]] = frozenset()
    """The keys that a preset's ``call`` may hold."""

    def frames(self, least: int) -> int:
        """The smallest count of frames that this family makes and that is not below ``least``."""
        return -(-(max(least, 1) - 1) // self.frame_step) * self.frame_step + 1

    def makes(self, canvas: Size, preset: Preset) -> bool:  # noqa: ARG002 - some families make few sizes
        """Whether it makes pictures of this (width, height), multiples as they are."""
        return True

    def prompt_key(self, plan: Plan, picture: Pixels) -> tuple[str, ...]:  # noqa: ARG002 - some families need it
        """All that a clip's embeddings depend on beside the encoder and its template."""
        return plan.prompt, str(plan.guided), plan.negative if plan.guided else "", str(plan.max_tokens)

    # ---- with torch ---------------------------------------------------------------------------------------------
    pipeline: ClassVar[str]
    """The class in diffusers."""
    denoisers: ClassVar[tuple[str, ...]] = ("transformer",)
    """The components that run once or twice a step."""
    encoders: ClassVar[tuple[str, ...]] = ("text_encoder", "tokenizer")
    """The components that turn prompts into embeddings, and are needed for nothing else."""
    unused: ClassVar[tuple[str, ...]] = ()
    """Components that these weights may name and that are never needed."""
    built_with: ClassVar[tuple[str, ...]] = ()
    """Components without which its pipeline cannot be made, not even to encode prompts."""

    @abstractmethod
    def embed(self, pipe: Any, plan: Plan, picture: Pixels, device: torch.device) -> Embeddings:
        """Encode a plan's prompts; ``picture`` is the canvas's first frame, ``(H, W, 3)``. Only with ``has_prompt``."""

    @abstractmethod
    def call(self, plan: Plan, preset: Preset, picture: Pixels, last: Pixels | None) -> dict[str, Any]:
        """The arguments of the pipeline's call; seed, embeddings and output are the generator's to add."""

    def forwards(self, plan: Plan, preset: Preset) -> int:  # noqa: ARG002 - some families need it
        """How many times a denoiser runs for one clip, by which progress is told."""
        return plan.steps * (2 if plan.guided else 1)

    def run(self, pipe: Any, arguments: dict[str, Any], preset: Preset) -> Any:  # noqa: ARG002 - some families need it
        """Make the clip; what the pipeline returns."""
        return pipe(**arguments)

    def decode(self, pipe: Any, output: Any) -> torch.Tensor:  # noqa: ARG002 - some families need it
        """The frames of a pipeline's output, ``(T, 3, H, W)``, float, 0..1, still on the card."""
        frames: torch.Tensor = output.frames[0]
        return frames


def as_picture(pixels: Pixels) -> Any:
    """Pixels, ``(H, W, 3)`` uint8, as the pipelines take a picture."""
    from PIL import Image

    return Image.fromarray(pixels)


@cache
def family(name: FamilyName) -> Family:
    """The family of this name. Imports no torch."""
    made: Family = importlib.import_module(f"core.generate.{name}").FAMILY
    return made
