"""Wan 2.2 image-to-video: A14B with its two experts, and TI2V-5B, by one diffusers pipeline."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

from core.generate.family import Embeddings, Family, as_picture

if TYPE_CHECKING:
    import torch

    from core.generate.family import Pixels
    from core.generate.plan import Plan
    from core.generate.presets import Preset


class Wan(Family):
    """Frames 4k + 1. The pipeline would round sides and counts in silence: the plan leaves it nothing to round."""

    multiple: ClassVar = 32
    """A14B asks for 16, TI2V-5B for 32."""
    frame_step: ClassVar = 4
    takes_last: ClassVar = True
    step_cache: ClassVar = True
    pipeline: ClassVar = "WanImageToVideoPipeline"
    denoisers: ClassVar = ("transformer", "transformer_2")
    unused: ClassVar = ("image_encoder", "image_processor")

    def embed(self, pipe: Any, plan: Plan, picture: Pixels, device: torch.device) -> Embeddings:  # noqa: ARG002 - the picture is no part of the prompt here
        """``prompt_embeds`` and, if guided, ``negative_prompt_embeds``: ``(1, max_tokens, C)``."""
        positive, negative = pipe.encode_prompt(
            plan.prompt, plan.negative, plan.guided, max_sequence_length=plan.max_tokens, device=device
        )
        return {"prompt_embeds": positive} | ({"negative_prompt_embeds": negative} if plan.guided else {})

    def call(self, plan: Plan, preset: Preset, picture: Pixels, last: Pixels | None) -> dict[str, Any]:  # noqa: ARG002 - nothing of the preset's own
        """The second guidance is the low-noise expert's."""
        arguments = {
            "image": as_picture(picture),
            "width": plan.canvas[0],
            "height": plan.canvas[1],
            "num_frames": plan.frames,
            "num_inference_steps": plan.steps,
            "guidance_scale": plan.guidance,
        }
        if plan.guidance_low is not None:
            arguments["guidance_scale_2"] = plan.guidance_low
        return arguments | ({} if last is None else {"last_image": as_picture(last)})


FAMILY = Wan()
