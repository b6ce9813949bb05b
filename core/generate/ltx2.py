"""LTX-2: a picture begins the clip; the sound that it makes beside the picture is never decoded."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

from core.generate.family import Embeddings, Family, as_picture

if TYPE_CHECKING:
    import torch

    from core.generate.family import Pixels
    from core.generate.plan import Plan
    from core.generate.presets import Preset

ENCODED = ("video", "audio", "mask")


class Ltx2(Family):
    """Frames 8k + 1.

    It takes no last frame: diffusers' condition pipeline can put a picture no nearer to the end than seven frames.
    """

    multiple: ClassVar = 32
    frame_step: ClassVar = 8
    call_keys: ClassVar = frozenset(
        {
            "image_crf",
            "stg_scale",
            "modality_scale",
            "guidance_rescale",
            "spatio_temporal_guidance_blocks",
            "use_cross_timestep",
        }
    )
    pipeline: ClassVar = "LTX2ImageToVideoPipeline"
    encoders: ClassVar = ("text_encoder", "tokenizer", "connectors")
    """The connectors too: what they make of a prompt is fifty times smaller than what they are given."""
    unused: ClassVar = ("vocoder", "processor", "prompt_enhancer", "duration_head")

    def embed(self, pipe: Any, plan: Plan, picture: Pixels, device: torch.device) -> Embeddings:  # noqa: ARG002 - the picture is no part of the prompt here
        """``video`` and ``audio``, ``(B, max_tokens, C)``, and their ``mask``; B is 2 if guided, the negative first."""
        import torch

        positive, mask, negative, negative_mask = pipe.encode_prompt(
            plan.prompt, plan.negative, plan.guided, max_sequence_length=plan.max_tokens, device=device
        )
        if plan.guided:
            positive, mask = torch.cat([negative, positive]), torch.cat([negative_mask, mask])
        made = pipe.connectors(positive, mask, padding_side=pipe.tokenizer.padding_side)
        return dict(zip(ENCODED, made, strict=True))

    def call(self, plan: Plan, preset: Preset, picture: Pixels, last: Pixels | None) -> dict[str, Any]:  # noqa: ARG002 - it takes no last frame
        """Plain guidance and an untouched picture, where the preset's ``call`` asks for no more.

        ``image_crf`` above 0 compresses the picture as the training's were, which takes PyAV.
        """
        plain = {"image_crf": 0, "stg_scale": 0.0, "modality_scale": 1.0, "guidance_rescale": 0.0}
        chosen = plain | preset.call
        sound = {f"audio_{name}": chosen[name] for name in ("stg_scale", "modality_scale", "guidance_rescale")}
        arguments = {
            "image": as_picture(picture),
            "width": plan.canvas[0],
            "height": plan.canvas[1],
            "num_frames": plan.frames,
            "num_inference_steps": plan.steps,
            "guidance_scale": plan.guidance,
            "audio_guidance_scale": plan.guidance,
            "frame_rate": float(preset.rate),
        }
        return chosen | sound | arguments

    def forwards(self, plan: Plan, preset: Preset) -> int:
        """Guided steps run the prompt and its absence as one batch; each other guidance runs the model once more."""
        others: int = (preset.call.get("stg_scale", 0.0) > 0) + (preset.call.get("modality_scale", 1.0) > 1)
        return plan.steps * (1 + others)

    def run(self, pipe: Any, arguments: dict[str, Any], preset: Preset) -> Any:  # noqa: ARG002 - the same for every preset
        """The pipeline connects the prompt itself: it finds it connected."""
        given = dict(arguments)
        pipe.connectors = _Connected(*(given.pop(name) for name in ENCODED))
        place = given["prompt_embeds"] = pipe.connectors.video.new_zeros(1, 1, 1)
        given["prompt_attention_mask"] = given["negative_prompt_attention_mask"] = place[..., 0]
        given["negative_prompt_embeds"] = place
        return pipe(**given | {"output_type": "latent"})

    def decode(self, pipe: Any, output: Any) -> torch.Tensor:
        """The pipeline would decode the sound as well."""
        import torch

        latents = output.frames.to(pipe.vae.dtype)
        when = torch.zeros(1, device=latents.device, dtype=latents.dtype)
        video = pipe.vae.decode(latents, when if pipe.vae.config.timestep_conditioning else None, return_dict=False)[0]
        frames: torch.Tensor = pipe.video_processor.postprocess_video(video, output_type="pt")[0]
        return frames


class _Connected:
    """In the place of the connectors: what they have already made."""

    def __init__(self, video: torch.Tensor, audio: torch.Tensor, mask: torch.Tensor) -> None:
        self.video, self._rest = video, (audio, mask)

    def __call__(self, *_prompt: torch.Tensor, **_how: str) -> tuple[torch.Tensor, ...]:
        """As the connectors are called."""
        return self.video, *self._rest


FAMILY = Ltx2()
