"""HunyuanVideo 1.5 image-to-video: its sizes come from a table, and its guidance is a component."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Any, ClassVar

from core.errors import Refused
from core.generate.family import Embeddings, Family, as_picture
from core.motion import Size

if TYPE_CHECKING:
    import torch

    from core.generate.family import Pixels
    from core.generate.plan import Plan
    from core.generate.presets import Preset

PATCH = 16
RATIO_MAX = 4.0
TARGET_SIZE = 640
"""The side of the square that the model was trained near, where a preset's ``call`` names no ``target_size``."""


class Hunyuan15(Family):
    """Frames 4k + 1, of the sizes of ``sizes_of``."""

    multiple: ClassVar = PATCH
    frame_step: ClassVar = 4
    call_keys: ClassVar = frozenset({"target_size"})
    pipeline: ClassVar = "HunyuanVideo15ImageToVideoPipeline"
    encoders: ClassVar = ("text_encoder", "tokenizer", "text_encoder_2", "tokenizer_2")
    built_with: ClassVar = ("vae",)

    def makes(self, canvas: Size, preset: Preset) -> bool:
        """Only what is in the table."""
        return canvas in sizes_of(preset.call.get("target_size", TARGET_SIZE))

    def embed(self, pipe: Any, plan: Plan, picture: Pixels, device: torch.device) -> Embeddings:  # noqa: ARG002 - the picture is no part of the prompt here
        """The embeddings of the prompt, ``(1, max_tokens, C)``, and of what is quoted in it, each with its mask."""
        pipe.tokenizer_max_length = plan.max_tokens
        names = ("prompt_embeds", "prompt_embeds_mask", "prompt_embeds_2", "prompt_embeds_mask_2")
        found = dict(zip(names, pipe.encode_prompt(plan.prompt, device=device), strict=True))
        if plan.guided:
            without = pipe.encode_prompt(plan.negative, device=device)
            found |= {f"negative_{name}": tensor for name, tensor in zip(names, without, strict=True)}
        return found

    def call(self, plan: Plan, preset: Preset, picture: Pixels, last: Pixels | None) -> dict[str, Any]:  # noqa: ARG002 - it takes no last frame
        """The size is the picture's to say."""
        return {
            "image": as_picture(_fitting(picture)),
            "num_frames": plan.frames,
            "num_inference_steps": plan.steps,
            "guidance_scale": plan.guidance,
        }

    def run(self, pipe: Any, arguments: dict[str, Any], preset: Preset) -> Any:
        """Raises ``Refused`` where the weights make other sizes than the preset says."""
        planned = preset.call.get("target_size", TARGET_SIZE)
        if pipe.target_size != planned:
            raise Refused.because(
                "preset_unusable",
                f"Preset '{preset.name}': call.target_size is {planned}, but these weights make sizes for "
                f"{pipe.target_size}.",
                field="call.target_size",
                value=planned,
                limit=pipe.target_size,
                remedy="Set it to that, or choose another model.",
            )
        pipe.guider = pipe.guider.new(guidance_scale=arguments["guidance_scale"])
        return pipe(**{name: value for name, value in arguments.items() if name != "guidance_scale"})


@cache
def sizes_of(target: int) -> frozenset[Size]:
    """The sizes (width, height) that a model for squares of ``target`` makes, at most 4 times as long as short.

    As ``generate_crop_size_list`` of ``diffusers/pipelines/hunyuan_video1_5/image_processor.py`` finds them (there
    from Tencent's ``hyvideo/utils/data_utils.py``): along the line of equal area, one patch less wide or one more
    high at a time.
    """
    patches = round((target / PATCH) ** 2)
    found, wide, high = set(), patches, 1
    while wide > 0:
        if max(wide, high) / min(wide, high) <= RATIO_MAX:
            found.add((high * PATCH, wide * PATCH))
        if (high + 1) * wide <= patches:
            high += 1
        else:
            wide -= 1
    return frozenset(found)


def _fitting(picture: Pixels) -> Pixels:
    """The picture with its longer side a pixel longer.

    The pipeline takes the nearest size of the table that is *less* oblong than the picture, with the table's shapes
    rounded to five digits: a picture of exactly a table's size may fall to its neighbour. The pixel that is too much
    is cut off again, and nothing is resampled.
    """
    import numpy as np

    height, width = picture.shape[:2]
    longer = ((0, 1), (0, 0)) if height >= width else ((0, 0), (0, 1))
    return np.pad(picture, (*longer, (0, 0)), mode="edge")


FAMILY = Hunyuan15()
