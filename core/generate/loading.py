"""From weights on disk to a pipeline that can run: one way for every family, nothing asked of the network."""

from __future__ import annotations

import importlib
import importlib.util
from pathlib import Path
from typing import Any

import torch

from core.errors import BadSettings
from core.generate.family import Family
from core.generate.layout import models_in
from core.generate.presets import Preset, Schedule
from core.generate.weights import Located

diffusers: Any = importlib.import_module("diffusers")  # neither is typed
transformers: Any = importlib.import_module("transformers")

DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}


def load_model(preset: Preset, kind: Family, located: Located, device: torch.device) -> Any:
    """The pipeline without its prompt encoders, its weights on the host, ready to be brought to ``device``.

    Raises ``BadSettings`` where the preset asks for what these weights, or this machine, do not have: before any is
    loaded, where names tell; and what diffusers raises.
    """
    _look_over(preset, kind, located, device)
    dtype = DTYPES[preset.dtype]
    given: dict[str, Any] = dict.fromkeys((*kind.encoders, *kind.unused))
    narrow = [name for name, kept in preset.memory.items() if kept.storage == "fp8"]
    changed = {lora.component for lora in preset.loras}
    for name in {*preset.components, *narrow}:  # one at a time: all of them wide would fill the host's memory
        given[name] = _component(name, preset, located)
        if name in narrow and name not in changed:
            given[name].enable_layerwise_casting(torch.float8_e4m3fn, compute_dtype=dtype)
    pipe = _pipeline(kind, preset, located, given)
    _on(pipe, device)
    if preset.schedule != Schedule():
        pipe.scheduler = _scheduler(preset, pipe.scheduler)
    for lora, file in zip(preset.loras, located.loras, strict=True):
        into_second = {"load_into_transformer_2": True} if lora.component == "transformer_2" else {}
        pipe.load_lora_weights(file.parent, weight_name=file.name, local_files_only=True, **into_second)
        pipe.fuse_lora(components=[lora.component], lora_scale=lora.weight)
        pipe.unload_lora_weights()
    for name in changed.intersection(narrow):
        pipe.components[name].enable_layerwise_casting(torch.float8_e4m3fn, compute_dtype=dtype)
    for name in _multiplied(preset):
        _multiply_as_fp8(pipe.components[name], device)
    _add(pipe, preset, located, device)
    for name in kind.denoisers:
        if (denoiser := getattr(pipe, name, None)) is not None:
            _prepare(denoiser, preset)
    return pipe


def _look_over(preset: Preset, kind: Family, located: Located, device: torch.device) -> None:
    """Refuse the names that mean nothing here, and arithmetic that the card has not: loading takes minutes."""
    _quiet()
    there = [name for name in models_in(located.weights) if name not in {*kind.encoders, *kind.unused}]
    for name in (*preset.components, *preset.memory, *(lora.component for lora in preset.loras)):
        if name not in there:
            raise BadSettings(f"Preset '{preset.name}': '{name}' is none of the components that these weights run "
                              f"with: {', '.join(there)}.")  # fmt: skip
    scheduler = preset.schedule.scheduler
    if scheduler is not None and not _is_scheduler(getattr(diffusers, scheduler, None)):
        raise BadSettings(f"Preset '{preset.name}': schedule.scheduler: diffusers {diffusers.__version__} has no "
                          f"scheduler '{scheduler}'. Its documentation lists them.")  # fmt: skip
    try:
        diffusers.ModelMixin().set_attention_backend(preset.attention)
    except (ValueError, RuntimeError) as error:  # unknown, or not installed
        raise BadSettings(
            f"Preset '{preset.name}': attention = \"{preset.attention}\" cannot be used: {error}"
        ) from error
    capable = torch.cuda.get_device_capability(device) if device.type == "cuda" else (0, 0)
    if _multiplied(preset) and capable < (8, 9):
        raise BadSettings(f"Preset '{preset.name}': storage = \"fp8_matmul\" needs a card of compute capability 8.9 or "
                          f"more; this is {device}. Say \"fp8\", which only stores so, or \"as_is\".")  # fmt: skip
    if _multiplied(preset) and importlib.util.find_spec("torchao") is None:
        raise BadSettings(f"Preset '{preset.name}': storage = \"fp8_matmul\" needs torchao. Install it: "
                          "pip install 'dropreel[gpu,fp8]'.")  # fmt: skip


def _is_scheduler(named: Any) -> bool:
    return isinstance(named, type) and issubclass(named, diffusers.SchedulerMixin)


def _multiplied(preset: Preset) -> list[str]:
    return [name for name, kept in preset.memory.items() if kept.storage == "fp8_matmul"]


def _quiet() -> None:
    for library in (diffusers, transformers):
        library.utils.logging.set_verbosity_error()
        library.utils.logging.disable_progress_bar()


def _add(pipe: Any, preset: Preset, located: Located, device: torch.device) -> None:
    """What comes after the steps, or between them: tiles, a tiny decoder, an upsampler."""
    dtype = DTYPES[preset.dtype]
    if preset.vae_tiling:
        pipe.vae.enable_tiling()
    if preset.tiny_decoder is not None and located.tiny_decoder is not None:
        from core.generate.taehv import load_decoder, put_into

        put_into(pipe, load_decoder(located.tiny_decoder, dtype))
    if preset.upsampler is not None and located.upsampler is not None:
        ltx = importlib.import_module("diffusers.pipelines.ltx")  # where it is public
        upsampler = ltx.LTXLatentUpsamplerModel.from_pretrained(
            located.upsampler, dtype=dtype, local_files_only=True, use_safetensors=True
        )
        pipe.upsample = diffusers.LTXLatentUpsamplePipeline(vae=pipe.vae, latent_upsampler=upsampler)
        _on(pipe.upsample, device)


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


def _pipeline(kind: Family, preset: Preset, located: Located, given: dict[str, Any]) -> Any:
    made = getattr(diffusers, kind.pipeline)
    _quiet()
    dtype = {"default": DTYPES[preset.dtype], "vae": DTYPES[preset.vae_dtype]}
    return made.from_pretrained(
        located.weights,
        dtype=dtype,
        local_files_only=True,
        use_safetensors=True,
        variant=located.variant,
        **given,
    )


def _component(name: str, preset: Preset, located: Located) -> Any:
    """One component, on the host: the preset's own weights' or one from elsewhere."""
    library, made = diffusers.DiffusionPipeline.load_config(located.weights, local_files_only=True)[name]
    cls = getattr(diffusers if library == "diffusers" else transformers, made)
    given: dict[str, Any] = {
        "dtype": DTYPES[preset.vae_dtype if name == "vae" else preset.dtype],
        "local_files_only": True,
    }
    source = preset.components.get(name)
    if source is None:
        whole = given | {"subfolder": name, "variant": located.variant, "use_safetensors": True}
        return cls.from_pretrained(located.weights, **whole)
    place = located.components[name]
    if source.file:
        return _whole_file(cls, place, located.weights, source.config, given["dtype"])
    return cls.from_pretrained(place, use_safetensors=True, **given)


def _whole_file(cls: Any, file: Path, weights: Path, config: str | None, dtype: torch.dtype) -> Any:
    """A component of one file in its makers' layout, each tensor of the type that ``from_pretrained`` gives it.

    Told a ``dtype``, ``from_single_file`` would cast all to it, even what the class keeps in float32; told none, it
    gives each tensor the type that it has in the empty model: so that one is made with the types that are wanted.
    """
    wide = cls._keep_in_fp32_modules or []

    def from_config(_cls: Any, given: Any) -> Any:
        model = cls.from_config(given)
        for name, tensor in model.state_dict(keep_vars=True).items():
            if tensor.is_floating_point():
                tensor.data = tensor.data.to(torch.float32 if set(name.split(".")) & set(wide) else dtype)
        return model

    typed: Any = type(cls.__name__, (cls,), {"from_config": classmethod(from_config), "__module__": cls.__module__})
    try:
        return typed.from_single_file(str(file), config=str(weights), subfolder=config, local_files_only=True)
    except NotImplementedError as error:  # of torch, of tensors that were never filled
        raise BadSettings(f"{file} lacks tensors of '{config}' of {weights}. Name the file that belongs to these "
                          "weights.") from error  # fmt: skip


def _multiply_as_fp8(module: torch.nn.Module, device: torch.device) -> None:
    """Have the linear layers of a component multiply in float8, one scale a row."""
    quantization: Any = importlib.import_module("torchao.quantization")
    module.to(device)  # it is quantised where it will work, and stays
    rows = quantization.Float8DynamicActivationFloat8WeightConfig(granularity=quantization.PerRow())
    quantization.quantize_(module, rows)


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
    if schedule.timesteps:  # these are given as they are; a shift of the repository's own would not fit them
        return diffusers.FlowMatchEulerDiscreteScheduler(num_train_timesteps=own.config.num_train_timesteps)
    cls = getattr(diffusers, schedule.scheduler) if schedule.scheduler else type(own)
    if not schedule.sigmas:
        changed = {} if schedule.shift is None else {"shift": schedule.shift, "flow_shift": schedule.shift}
        known = cls.from_config(own.config).config
        return cls.from_config(own.config, **{key: value for key, value in changed.items() if key in known})

    class Exact(diffusers.FlowMatchEulerDiscreteScheduler):  # type: ignore[misc]  # not typed
        def set_timesteps(
            self,
            steps: int | None = None,  # noqa: ARG002 - these levels, whatever a pipeline asks for
            device: Any = None,
            sigmas: Any = None,  # noqa: ARG002 - named, for pipelines look whether it is
            **_others: Any,
        ) -> None:
            super().set_timesteps(sigmas=list(schedule.sigmas), device=device)

    return Exact(shift=schedule.shift or 1.0, num_train_timesteps=own.config.num_train_timesteps)


def _prepare(denoiser: Any, preset: Preset) -> None:
    denoiser.set_attention_backend(preset.attention)  # native too: diffusers keeps the last one that was set anywhere
    if preset.cache is not None:
        denoiser.enable_cache(diffusers.FirstBlockCacheConfig(threshold=preset.cache.threshold))
    if preset.compile:
        if getattr(denoiser, "_repeated_blocks", None):
            denoiser.compile_repeated_blocks()
        else:
            denoiser.compile()
