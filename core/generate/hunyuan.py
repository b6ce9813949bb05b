"""HunyuanVideo image-to-video, 13 B: its prompt embeddings show the picture to a language model."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Any, ClassVar

from core.generate.family import Embeddings, Family, as_picture

if TYPE_CHECKING:
    import torch

    from core.generate.family import Pixels
    from core.generate.plan import Plan
    from core.generate.presets import Preset

PICTURE_TOKENS = 576
"""How many of the embeddings are the picture's; they come first. 336 pixels in patches of 14, each way."""
THINNED = {"latent_concat": 2, "token_replace": 4}
"""Of the picture's embeddings the model takes every so many, by how it is given the picture itself."""
DROPPED = 4
"""Frames that the pipeline cuts off the beginning where the picture is given as ``latent_concat``."""


class Hunyuan(Family):
    """Frames 4k + 1. ``guidance`` is an input of the model, which runs once a step; there is no negative prompt."""

    multiple: ClassVar = 16
    frame_step: ClassVar = 4
    pipeline: ClassVar = "HunyuanVideoImageToVideoPipeline"
    encoders: ClassVar = ("text_encoder", "tokenizer", "text_encoder_2", "tokenizer_2", "image_processor")

    def prompt_key(self, plan: Plan, picture: Pixels) -> tuple[str, ...]:
        """The picture is part of the prompt."""
        return plan.prompt, str(plan.max_tokens), hashlib.sha256(picture.tobytes()).hexdigest(), str(picture.shape)

    def embed(self, pipe: Any, plan: Plan, picture: Pixels, device: torch.device) -> Embeddings:
        """``prompt_embeds`` with all of the picture's tokens, ``(1, 576 + max_tokens - 4, C)``, and their mask."""
        embeds, pooled, mask = pipe.encode_prompt(
            image=as_picture(picture),
            prompt=plan.prompt,
            device=device,
            max_sequence_length=plan.max_tokens,
            image_embed_interleave=1,
        )
        return {"prompt_embeds": embeds, "pooled_prompt_embeds": pooled, "prompt_attention_mask": mask}

    def call(self, plan: Plan, preset: Preset, picture: Pixels, last: Pixels | None) -> dict[str, Any]:  # noqa: ARG002 - nothing of the preset's own, and it takes no last frame
        """As the pipeline takes it."""
        return {
            "image": as_picture(picture),
            "width": plan.canvas[0],
            "height": plan.canvas[1],
            "num_frames": plan.frames,
            "num_inference_steps": plan.steps,
            "guidance_scale": plan.guidance,
        }

    def forwards(self, plan: Plan, preset: Preset) -> int:  # noqa: ARG002 - the same for every preset
        """Guidance costs no second run."""
        return plan.steps

    def run(self, pipe: Any, arguments: dict[str, Any], preset: Preset) -> Any:  # noqa: ARG002 - the weights decide
        """What depends on how these weights take the picture: the tokens of it, and the frames that are cut off."""
        import torch

        way = pipe.transformer.config.image_condition_type
        ours = {"num_frames": arguments["num_frames"] + (DROPPED if way == "latent_concat" else 0)}
        for name in ("prompt_embeds", "prompt_attention_mask"):
            seen, said = arguments[name][:, :PICTURE_TOKENS], arguments[name][:, PICTURE_TOKENS:]
            ours[name] = torch.cat([seen[:, :: THINNED[way]], said], dim=1)
        return pipe(**arguments | ours)


FAMILY = Hunyuan()
