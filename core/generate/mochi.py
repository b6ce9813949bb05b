"""Mochi 1 makes videos of words alone: here it is made to begin with a picture, which it was never trained for."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any, ClassVar

from core.generate.family import Embeddings, Family, as_picture

if TYPE_CHECKING:
    import torch

    from core.generate.family import Pixels
    from core.generate.plan import Plan
    from core.generate.presets import Preset

STRENGTH = 0.9
"""How much noise covers the still clip that the steps begin with, 0..1, where a preset's ``call`` says nothing."""
LINEAR_UNTIL = 0.025
"""Where the schedule's linear half ends; the pipeline's own figure."""


class Mochi(Family):
    """Frames 6k + 1. The steps begin with the keyframe held for the whole clip, covered with ``strength`` of noise;
    after each, the first latent frame is the keyframe's own again, with the noise of that level.

    docs/explanation/mochi.md says what is known of it.
    """

    multiple: ClassVar = 16
    frame_step: ClassVar = 6
    step_cache: ClassVar = True
    call_keys: ClassVar = frozenset({"strength"})
    pipeline: ClassVar = "MochiPipeline"

    def embed(self, pipe: Any, plan: Plan, picture: Pixels, device: torch.device) -> Embeddings:  # noqa: ARG002 - the picture is no part of the prompt here
        """The embeddings, ``(1, max_tokens, C)``, and which of their tokens count."""
        positive, mask, negative, negative_mask = pipe.encode_prompt(
            plan.prompt, plan.negative, plan.guided, max_sequence_length=plan.max_tokens, device=device
        )
        found = {"prompt_embeds": positive, "prompt_attention_mask": mask}
        if plan.guided:
            found |= {"negative_prompt_embeds": negative, "negative_prompt_attention_mask": negative_mask}
        return found

    def call(self, plan: Plan, preset: Preset, picture: Pixels, last: Pixels | None) -> dict[str, Any]:  # noqa: ARG002 - it takes no last frame
        """``image`` and ``strength`` are for ``run``: the pipeline knows neither."""
        return {
            "image": as_picture(picture),
            "strength": preset.call.get("strength", STRENGTH),
            "width": plan.canvas[0],
            "height": plan.canvas[1],
            "num_frames": plan.frames,
            "num_inference_steps": plan.steps,
            "guidance_scale": plan.guidance,
        }

    def forwards(self, plan: Plan, preset: Preset) -> int:
        """Guided steps run the prompt and its absence as one batch; steps of more noise than ``strength`` are left
        out."""
        return len(_levels(plan.steps, preset.call.get("strength", STRENGTH)))

    def run(self, pipe: Any, arguments: dict[str, Any], preset: Preset) -> Any:  # noqa: ARG002 - its call is in the arguments
        """The pipeline, begun later and held to the picture."""
        from diffusers.utils.torch_utils import randn_tensor

        given = dict(arguments)
        image, strength = given.pop("image"), given.pop("strength")
        pipe.scheduler = _later(pipe.scheduler, _levels(given["num_inference_steps"], strength))
        level = pipe.scheduler.noise_levels()
        shot = latents_of(pipe, image, given["width"], given["height"])
        count = (given["num_frames"] - 1) // pipe.vae_temporal_scale_factor + 1
        still = shot.expand(-1, -1, count, -1, -1)
        noise = randn_tensor(still.shape, generator=given["generator"], device=still.device, dtype=still.dtype)

        def hold(_pipe: Any, step: int, _time: Any, tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
            first = level[step + 1] * noise[:, :, :1] + (1 - level[step + 1]) * shot
            tensors["latents"][:, :, :1] = first.to(tensors["latents"].dtype)
            return tensors

        begun = level[0] * noise + (1 - level[0]) * still
        return pipe(**given | {"latents": begun, "callback_on_step_end": hold, "output_type": "latent"})

    def decode(self, pipe: Any, output: Any) -> torch.Tensor:
        """The pipeline would give the decoder latents of another precision than its own."""
        mean, std = _spread(pipe.vae, output.frames)
        latents = output.frames.float() * std / pipe.vae.config.scaling_factor + mean
        video = pipe.vae.decode(latents.to(pipe.vae.dtype), return_dict=False)[0]
        frames: torch.Tensor = pipe.video_processor.postprocess_video(video, output_type="pt")[0]
        return frames


def latents_of(pipe: Any, image: Any, width: int, height: int) -> torch.Tensor:
    """One frame's latents as the steps see them, ``(1, 12, 1, H/8, W/8)`` float32.

    The encoder is causal and pads with the first frame, so that those of a still clip are the same all along.
    """
    pixels = pipe.video_processor.preprocess(image, height=height, width=width).unsqueeze(2)
    pixels = pixels.to(pipe._execution_device, pipe.vae.dtype)  # noqa: SLF001 - there is no public name for it
    found = pipe.vae.encode(pixels).latent_dist.mode().float()
    mean, std = _spread(pipe.vae, found)
    made: torch.Tensor = (found - mean) * pipe.vae.config.scaling_factor / std
    return made


def _spread(vae: Any, latents: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The mean and standard deviation of each of the decoder's channels, ``(1, C, 1, 1, 1)``."""
    import torch

    mean, std = (
        torch.tensor(values, device=latents.device).view(1, -1, 1, 1, 1)
        for values in (vae.config.latents_mean, vae.config.latents_std)
    )
    return mean, std


def _levels(steps: int, strength: float) -> list[float]:
    """The noise levels, 1..0, of the model's own schedule that are not above ``strength``; at least one."""
    theirs: Any = importlib.import_module("diffusers.pipelines.mochi.pipeline_mochi")  # not typed
    levels: list[float] = theirs.linear_quadratic_schedule(steps, LINEAR_UNTIL)
    return [level for level in levels if level <= strength] or levels[-1:]


def _later(scheduler: Any, levels: list[float]) -> Any:
    """The scheduler at these levels, whatever it is asked for: the pipeline has no other way to begin later."""
    diffusers: Any = importlib.import_module("diffusers")  # not typed

    class Later(diffusers.FlowMatchEulerDiscreteScheduler):  # type: ignore[misc]
        def set_timesteps(self, steps: int | None = None, device: Any = None, sigmas: Any = None) -> None:  # noqa: ARG002 - as it is called
            super().set_timesteps(sigmas=levels, device=device)

        def noise_levels(self) -> list[float]:
            """Of every step, and of what the last one leaves: 0."""
            self.set_timesteps()
            return [1 - float(s) if self.config.invert_sigmas else float(s) for s in self.sigmas]

    return Later.from_config(scheduler.config)


FAMILY = Mochi()
