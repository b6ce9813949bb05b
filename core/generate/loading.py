"""From weights on disk to a pipeline that can run: one way for every family, nothing asked of the network."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

import torch

from core.errors import BadSettings
from core.generate.family import Family
from core.generate.presets import Preset, Source
from core.generate.weights import Located

diffusers: Any = importlib.import_module("diffusers")  # neither is typed
transformers: Any = importlib.import_module("transformers")

DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}


def load_model(preset: Preset, kind: Family, located: Located, device: torch.device) -> Any:
    """The pipeline without its prompt encoders, its weights on the host, ready to be brought to ``device``.

    Raises ``BadSettings`` where the preset asks for what these weights do not have, and what diffusers raises.
    """
    dtype = DTYPES[preset.dtype]
    given: dict[str, Any] = dict.fromkeys((*kind.encoders, *kind.unused)) | {
        name: _component(name, source, preset, located) for name, source in preset.components.items()
    }
    pipe = _pipeline(kind, preset, located, given)
    _on(pipe, device)
    if preset.schedule.scheduler or preset.schedule.shift or preset.schedule.sigmas:
        pipe.scheduler = _scheduler(preset, pipe.scheduler)
    for lora, file in zip(preset.loras, located.loras, strict=True):
        into_second = {"load_into_transformer_2": True} if lora.component == "transformer_2" else {}
        pipe.load_lora_weights(file.parent, weight_name=file.name, local_files_only=True, **into_second)
        pipe.fuse_lora(components=[lora.component], lora_scale=lora.weight)
        pipe.unload_lora_weights()
    for name, kept in preset.memory.items():
        if name not in pipe.components:
            raise BadSettings(f"Preset '{preset.name}': memory.{name}: these weights have no such component. They "
                              f"have: {', '.join(pipe.components)}.")  # fmt: skip
        if kept.storage == "fp8":
            pipe.components[name].enable_layerwise_casting(torch.float8_e4m3fn, compute_dtype=dtype)
    if preset.vae_tiling:
        pipe.vae.enable_tiling()
    if preset.tiny_decoder is not None and located.tiny_decoder is not None:
        from core.generate.taehv import load_decoder, put_into

        put_into(pipe, load_decoder(located.tiny_decoder, dtype))
    if preset.upsampler is not None and located.upsampler is not None:
        upsampler = diffusers.LTXLatentUpsamplerModel.from_pretrained(
            located.upsampler, dtype=dtype, local_files_only=True, use_safetensors=True
        )
        pipe.upsample = diffusers.LTXLatentUpsamplePipeline(vae=pipe.vae, latent_upsampler=upsampler)
        _on(pipe.upsample, device)
    for name in kind.denoisers:
        if (denoiser := getattr(pipe, name, None)) is not None:
            _prepare(denoiser, preset)
    return pipe


def load_encoders(preset: Preset, kind: Family, located: Located, device: torch.device) -> Any:
    """The same pipeline with nothing but its prompt encoders, on ``device``."""
    index = diffusers.DiffusionPipeline.load_config(located.weights, local_files_only=True)
    needed = {*kind.encoders, *kind.built_with}
    others = [name for name, made in index.items() if isinstance(made, list) and name not in needed]
    pipe = _pipeline(kind, preset, located, dict.fromkeys(others))
    for name in kind.encoders:
        if isinstance(module := getattr(pipe, name, None), torch.nn.Module):
            module.to(device)
    _on(pipe, device)
    return pipe


def versions() -> dict[str, str]:
    """The libraries that frames depend on."""
    return {"torch": torch.__version__, "diffusers": diffusers.__version__}


def _pipeline(kind: Family, preset: Preset, located: Located, given: dict[str, Any]) -> Any:
    made = getattr(diffusers, kind.pipeline)
    for library in (diffusers, transformers):
        library.utils.logging.set_verbosity_error()
        library.utils.logging.disable_progress_bar()
    dtype = {"default": DTYPES[preset.dtype], "vae": DTYPES[preset.vae_dtype]}
    return made.from_pretrained(
        located.weights,
        dtype=dtype,
        local_files_only=True,
        use_safetensors=True,
        variant=located.variant,
        **given,
    )


def _component(name: str, source: Source, preset: Preset, located: Located) -> torch.nn.Module:
    """A component that comes from elsewhere than the preset's own weights."""
    index = diffusers.DiffusionPipeline.load_config(located.weights, local_files_only=True)
    library, made = index[name]
    cls: Any = getattr(diffusers, made) if library == "diffusers" else getattr(__import__(library), made)
    dtype = DTYPES[preset.vae_dtype if name == "vae" else preset.dtype]
    place: Path = located.components[name]
    if source.file:
        module = cls.from_single_file(
            str(place), config=str(located.weights), subfolder=source.config, dtype=dtype, local_files_only=True
        )
    else:
        module = cls.from_pretrained(place, dtype=dtype, local_files_only=True, use_safetensors=True)
    assert isinstance(module, torch.nn.Module)  # noqa: S101 - what every model class of both libraries is
    return module


def _on(pipe: Any, device: torch.device) -> None:
    """Have the pipeline run on ``device``, wherever its components lie while they wait."""
    cls = type(pipe)
    pipe.__class__ = type(
        cls.__name__, (cls,), {"_execution_device": device, "device": device, "__module__": cls.__module__}
    )
    pipe.set_progress_bar_config(disable=True)


def _scheduler(preset: Preset, own: Any) -> Any:
    """The preset's scheduler; one of exact levels takes no others, whatever number of steps it is asked for."""
    schedule = preset.schedule
    cls = getattr(diffusers, schedule.scheduler) if schedule.scheduler else type(own)
    if not schedule.sigmas:
        changed = {} if schedule.shift is None else {"shift": schedule.shift, "flow_shift": schedule.shift}
        known = cls.from_config(own.config).config
        return cls.from_config(own.config, **{key: value for key, value in changed.items() if key in known})

    class Exact(diffusers.FlowMatchEulerDiscreteScheduler):  # type: ignore[misc]  # not typed
        def set_timesteps(self, _steps: int | None = None, device: Any = None, **_others: Any) -> None:
            super().set_timesteps(sigmas=list(schedule.sigmas), device=device)

    return Exact(shift=schedule.shift or 1.0, num_train_timesteps=own.config.num_train_timesteps)


def _prepare(denoiser: Any, preset: Preset) -> None:
    if preset.attention != "native":
        denoiser.set_attention_backend(preset.attention)
    if preset.cache is not None:
        denoiser.enable_cache(diffusers.FirstBlockCacheConfig(threshold=preset.cache.threshold))
    if preset.compile:
        if getattr(denoiser, "_repeated_blocks", None):
            denoiser.compile_repeated_blocks()
        else:
            denoiser.compile()
