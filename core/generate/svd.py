"""Stable Video Diffusion: from a picture alone, without a prompt, by the studio's own parameters."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

from core.generate.family import Embeddings, Family, as_picture
from core.generate.presets import Parameter

if TYPE_CHECKING:
    import torch

    from core.generate.family import Pixels
    from core.generate.plan import Plan
    from core.generate.presets import Preset

OWN: tuple[Parameter, ...] = (
    "motion_bucket_id",
    "noise_aug_strength",
    "decode_chunk_size",
    "min_guidance_scale",
    "max_guidance_scale",
)
"""The manifest's parameters that are arguments of the pipeline."""


class Svd(Family):
    """Any count of frames; guidance grows from the first frame to the last, up to the preset's ``guidance``.

    The decoder is given the latents as they are: a preset's ``vae_dtype`` must be its ``dtype``.
    """

    multiple: ClassVar = 64
    """Of 8, the decoder's, three times halved by the UNet."""
    frame_step: ClassVar = 1
    has_prompt: ClassVar = False
    one_dtype: ClassVar = True
    stays: ClassVar = frozenset({"vae"})
    """As fp16 it is brought to float32 to encode the picture, and back."""
    call_keys: ClassVar = frozenset({"fps", *OWN})
    pipeline: ClassVar = "StableVideoDiffusionPipeline"
    denoisers: ClassVar = ("unet",)
    encoders: ClassVar = ()

    def embed(self, pipe: Any, plan: Plan, picture: Pixels, device: torch.device) -> Embeddings:  # noqa: ARG002 - there is no prompt
        """Nothing: the picture is encoded by the pipeline itself."""
        return {}

    def call(self, plan: Plan, preset: Preset, picture: Pixels, last: Pixels | None) -> dict[str, Any]:  # noqa: ARG002 - it takes no last frame
        """``fps`` is what the model is told; the manifest's own values stand before the preset's ``call``."""
        arguments = {
            "image": as_picture(picture),
            "width": plan.canvas[0],
            "height": plan.canvas[1],
            "num_frames": plan.frames,
            "num_inference_steps": plan.steps,
        }
        asked = {name: plan.values[name] for name in OWN if name in plan.values and name in preset.honoured}
        return {"max_guidance_scale": plan.guidance} | preset.call | asked | arguments

    def forwards(self, plan: Plan, preset: Preset) -> int:  # noqa: ARG002 - the same for every preset
        """Guided steps run the picture and its absence as one batch."""
        return plan.steps

    def run(self, pipe: Any, arguments: dict[str, Any], preset: Preset) -> Any:
        """A clip that failed, or was cancelled, while the decoder was float32 left it so."""
        from core.generate.loading import DTYPES

        pipe.vae.to(DTYPES[preset.vae_dtype])
        return pipe(**arguments)


FAMILY = Svd()
