"""LTX-Video: by its condition pipeline, in one pass or in two with its latent upsampler between them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

from core.generate.family import Embeddings, Family, as_picture

if TYPE_CHECKING:
    import torch

    from core.generate.family import Pixels
    from core.generate.plan import Plan
    from core.generate.presets import Preset


class Ltx(Family):
    """Frames 8k + 1."""

    multiple: ClassVar = 64
    """Of 32, the model's own, twice: two passes begin at half the size."""
    frame_step: ClassVar = 8
    takes_last: ClassVar = True
    one_dtype: ClassVar = True
    step_cache: ClassVar = True
    call_keys: ClassVar = frozenset({"decode_timestep", "decode_noise_scale", "image_cond_noise_scale"})
    pipeline: ClassVar = "LTXConditionPipeline"

    def embed(self, pipe: Any, plan: Plan, picture: Pixels, device: torch.device) -> Embeddings:  # noqa: ARG002 - the picture is no part of the prompt here
        """The embeddings, ``(1, max_tokens, C)``, and which of their tokens count."""
        positive, mask, negative, negative_mask = pipe.encode_prompt(
            plan.prompt, plan.negative, plan.guided, max_sequence_length=plan.max_tokens, device=device
        )
        found = {"prompt_embeds": positive, "prompt_attention_mask": mask}
        if plan.guided:
            found |= {"negative_prompt_embeds": negative, "negative_prompt_attention_mask": negative_mask}
        return found

    def call(self, plan: Plan, preset: Preset, picture: Pixels, last: Pixels | None) -> dict[str, Any]:
        """Conditions are pictures at a frame's place; the noise added to them is what SVD calls augmentation."""
        from diffusers.pipelines.ltx.pipeline_ltx_condition import LTXVideoCondition

        conditions = [LTXVideoCondition(image=as_picture(picture), frame_index=0)]
        if last is not None:
            conditions.append(LTXVideoCondition(image=as_picture(last), frame_index=plan.frames - 1))
        arguments = {
            "conditions": conditions,
            "width": plan.canvas[0],
            "height": plan.canvas[1],
            "num_frames": plan.frames,
            "num_inference_steps": plan.steps,
            "guidance_scale": plan.guidance,
            "frame_rate": float(preset.rate),
        }
        if preset.schedule.timesteps:
            arguments["timesteps"] = list(preset.schedule.timesteps)
        if "noise_aug_strength" in plan.values:
            arguments["image_cond_noise_scale"] = plan.values["noise_aug_strength"]
        return preset.call | arguments

    def forwards(self, plan: Plan, preset: Preset) -> int:
        """Guided steps run the prompt and its absence as one batch."""
        second = preset.upsampler
        return plan.steps + (int(len(second.timesteps) * second.denoise) if second else 0)

    def run(self, pipe: Any, arguments: dict[str, Any], preset: Preset) -> Any:
        """In two passes: half the size, the latents enlarged, a few steps at the whole size."""
        if preset.upsampler is None:
            return pipe(**arguments)
        second = preset.upsampler
        small = {"width": arguments["width"] // 2, "height": arguments["height"] // 2, "output_type": "latent"}
        latents = pipe(**arguments | small).frames
        latents = pipe.upsample(
            latents=latents,
            height=small["height"],
            width=small["width"],
            adain_factor=second.adain,
            tone_map_compression_ratio=second.tone_map,
            output_type="latent",
            generator=arguments["generator"],
        ).frames
        steps = {"timesteps": list(second.timesteps), "denoise_strength": second.denoise, "latents": latents}
        return pipe(**arguments | steps)


FAMILY = Ltx()
