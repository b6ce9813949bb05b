"""Generation on the card that is here: our generator against the plain diffusers pipeline, full size, random weights.

The architectures are built from their real configurations with normally distributed weights, written to a temporary
folder, and loaded by our loader and by diffusers. Nothing is downloaded. Step caches are off. Text encoders are left
out on both sides: the embeddings are random, of the true shape. Times are of warm clips, from the call to finished
bytes in host memory; medians, with the least and the most. Both sides take the same precision of the decoder.

    python -m benchmarks.generate_gpu [--only ltx,5b/clip] [--repeats N] [--steps N] [--out FILE] [--tiny]

Models: ltx, 5b, a14b (one of its two experts). Parts: clip, decoder, attention, compile, tokens, passes, swap.
``--tiny`` shrinks every architecture, so that the same code runs without a card; its figures mean nothing.
"""

from __future__ import annotations

import argparse
import gc
import json
import math
import os
import shutil
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple, Protocol

os.environ.setdefault("PYTORCH_CUDA_ALLOC_CONF", "expandable_segments:True")  # as the daemon has it, for both sides

import diffusers
import numpy as np
import torch
from safetensors.torch import save_file

from benchmarks.encode import drawn
from benchmarks.rows import Row, table
from core.device import device_here
from core.generate.embeddings import EmbeddingCache, embedding_key
from core.generate.family import Family, family
from core.generate.generator import Generator, Job, Pixels, name_of
from core.generate.hashes import fingerprint
from core.generate.loading import DTYPES
from core.generate.plan import Plan
from core.generate.presets import Memory, Preset, Source, shipped_presets
from core.generate.studio import GenerationSettings
from core.generate.weights import locate
from core.motion import Rect, Size, frame_count
from core.versions import versions

DELIVERED = 30
"""Frames a second of the delivered clip: its last frame is the last that is made."""
HALF_RATE = Fraction(15)
SHARD = 4 << 30
NOT_MEASURED = "not measured"
GUIDED = "wan2.2-i2v-a14b"
BACKENDS = ("_native_cudnn", "_native_flash", "_native_efficient", "flash", "_flash_3", "sage", "xformers")
"""The kinds of attention that ask nothing of the network; those that are not installed are named in the notes."""


class Model(NamedTuple):
    """One architecture, full or tiny: the classes' own defaults where nothing is said."""

    preset: str
    pipeline: str
    transformer: tuple[str, dict[str, Any]]
    vae: tuple[str, dict[str, Any]]
    scheduler: tuple[str, dict[str, Any]]
    settings: dict[str, Any]
    """Of the pipeline."""
    upsampler: dict[str, Any] | None = None
    decoder: dict[str, Any] | None = None
    """Of the tiny decoder, where there is one for these latents."""


_LTX_VAE = {
    "down_block_types": ["LTXVideo095DownBlock3D"] * 4,
    "spatio_temporal_scaling": [True] * 4,
    "decoder_spatio_temporal_scaling": [True] * 3,
    "decoder_inject_noise": [False] * 4,
    "downsample_type": ["spatial", "temporal", "spatiotemporal", "spatiotemporal"],
    "upsample_residual": [True] * 3,
    "upsample_factor": [2] * 3,
    "timestep_conditioning": True,
    "spatial_compression_ratio": 32,
    "temporal_compression_ratio": 8,
}
_WAN_22_VAE = {
    "z_dim": 48,
    "is_residual": True,
    "in_channels": 12,
    "out_channels": 12,
    "patch_size": 2,
    "latents_mean": [0.0] * 48,
    "latents_std": [1.0] * 48,
    "scale_factor_spatial": 16,
    "scale_factor_temporal": 4,
}
_FLOW = {"prediction_type": "flow_prediction", "use_flow_sigmas": True, "flow_shift": 5.0}
_TINY_WAN = {"num_attention_heads": 2, "attention_head_dim": 12, "text_dim": 32, "ffn_dim": 32, "num_layers": 2}
_TINY_WAN_VAE = {"base_dim": 3, "dim_mult": [1, 1, 1, 1], "num_res_blocks": 1}

FULL = {
    "ltx": Model(
        "ltx-video-2b-distilled",
        "LTXConditionPipeline",
        ("LTXVideoTransformer3DModel", {}),
        (
            "AutoencoderKLLTXVideo",
            _LTX_VAE
            | {
                "block_out_channels": [128, 256, 512, 1024, 2048],
                "decoder_block_out_channels": [256, 512, 1024],
                "layers_per_block": [4, 6, 6, 2, 2],
                "decoder_layers_per_block": [5, 5, 5, 5],
                "decoder_spatial_padding_mode": "reflect",
                "encoder_spatial_padding_mode": "zeros",
            },
        ),
        ("FlowMatchEulerDiscreteScheduler", {}),
        {},
        upsampler={},
    ),
    "5b": Model(
        "wan2.2-ti2v-5b",
        "WanImageToVideoPipeline",
        (
            "WanTransformer3DModel",
            {"num_attention_heads": 24, "in_channels": 48, "out_channels": 48, "ffn_dim": 14336, "num_layers": 30},
        ),
        ("AutoencoderKLWan", _WAN_22_VAE | {"base_dim": 160, "decoder_base_dim": 256}),
        ("UniPCMultistepScheduler", _FLOW),
        {"expand_timesteps": True},
        decoder={"channels": 48, "widths": (256, 128, 64, 64), "times": (1, 2, 2), "patch": 2},
    ),
    "a14b": Model(
        "wan2.2-i2v-a14b-4step",
        "WanImageToVideoPipeline",
        ("WanTransformer3DModel", {"in_channels": 36}),
        ("AutoencoderKLWan", {}),
        ("UniPCMultistepScheduler", _FLOW),
        {},
        decoder={"channels": 16, "widths": (256, 128, 64, 64), "times": (1, 2, 2), "patch": 1},
    ),
}
TINY = {
    "ltx": FULL["ltx"]._replace(
        transformer=(
            "LTXVideoTransformer3DModel",
            {"in_channels": 8, "out_channels": 8, "num_attention_heads": 4, "attention_head_dim": 8,
             "cross_attention_dim": 32, "num_layers": 2, "caption_channels": 32},
        ),
        vae=(
            "AutoencoderKLLTXVideo",
            _LTX_VAE
            | {"latent_channels": 8, "block_out_channels": [8, 8, 16, 16, 16],
               "decoder_block_out_channels": [8, 16, 32], "layers_per_block": [1] * 5,
               "decoder_layers_per_block": [1] * 4},
        ),
        upsampler={"in_channels": 8, "mid_channels": 32, "num_blocks_per_stage": 1},
    ),
    "5b": FULL["5b"]._replace(
        transformer=("WanTransformer3DModel", _TINY_WAN | {"in_channels": 48, "out_channels": 48}),
        vae=("AutoencoderKLWan", _WAN_22_VAE | _TINY_WAN_VAE),
        decoder={"channels": 48, "widths": (8, 8, 8, 8), "times": (1, 2, 2), "patch": 2},
    ),
    "a14b": FULL["a14b"]._replace(
        transformer=("WanTransformer3DModel", _TINY_WAN | {"in_channels": 36}),
        vae=("AutoencoderKLWan", _TINY_WAN_VAE),
        decoder={"channels": 16, "widths": (8, 8, 8, 8), "times": (1, 2, 2), "patch": 1},
    ),
}  # fmt: skip


# Random weights on disk


@dataclass(frozen=True)
class Built:
    """One model's random weights, in a folder of the layout that diffusers saves."""

    name: str
    model: Model
    folder: Path
    layers: int
    """How many blocks its transformer has,"""
    all_layers: int
    """and how many it should have."""
    block_parameters: int
    text_width: int

    @property
    def scale(self) -> float:
        """What the time of the blocks that there are is multiplied by for that of all."""
        return self.all_layers / self.layers

    @property
    def marked(self) -> str:
        """Said with every figure that is not of the whole architecture."""
        return "" if self.layers == self.all_layers else f" [scaled from {self.layers} of {self.all_layers} layers]"


def build(name: str, model: Model, root: Path, device: torch.device) -> Built:
    """Write a model's weights, bf16, a shard at a time, with as many of its layers as disk and memory hold."""
    kind, config = model.transformer
    transformer = _meta(kind, config)
    blocks: Any = transformer.get_submodule("transformer_blocks" if hasattr(transformer, "transformer_blocks")
                                            else "blocks")  # fmt: skip
    all_layers = len(blocks)
    block_parameters = sum(tensor.numel() for tensor in blocks[0].parameters())
    size = 2 * sum(tensor.numel() for tensor in transformer.parameters())
    disk = shutil.disk_usage(root).free - (2 << 30)
    share = min(1.0, disk / (1.1 * size), _host_available() / (1.6 * size))  # as files, and once more as fp8, pinned
    layers = max(1, math.floor(all_layers * share))
    if layers < all_layers:
        transformer = _meta(kind, config | {"num_layers": layers})
    vae = _meta(*model.vae)
    scheduler_kind, scheduler_config = model.scheduler
    scheduler = getattr(diffusers, scheduler_kind)(**scheduler_config)
    folder = root / name
    rest = dict.fromkeys(("text_encoder", "tokenizer"))
    if model.pipeline == "WanImageToVideoPipeline":
        rest |= dict.fromkeys(("image_encoder", "image_processor", "transformer_2"))
    pipe = getattr(diffusers, model.pipeline)(
        vae=vae, transformer=transformer, scheduler=scheduler, **rest, **model.settings
    )
    pipe.save_config(folder)
    scheduler.save_pretrained(folder / "scheduler")
    _write(transformer, folder / "transformer", device)
    _write(vae, folder / "vae", device)
    if model.upsampler is not None:
        from diffusers.pipelines.ltx.modeling_latent_upsampler import LTXLatentUpsamplerModel

        with torch.device("meta"):
            upsampler = LTXLatentUpsamplerModel(**model.upsampler)
        _write(upsampler, root / f"{name}-upsampler", device)
    if model.decoder is not None:
        from core.generate.taehv import TinyDecoder

        with torch.device("meta"):
            tiny = TinyDecoder(**model.decoder)
        (root / f"{name}-decoder").mkdir()
        save_file(
            {key: _random(key, tensor, device) for key, tensor in tiny.state_dict().items()},
            root / f"{name}-decoder" / "tiny.safetensors",
        )
    width = transformer.config.get("caption_channels") or transformer.config.text_dim
    return Built(name, model, folder, layers, all_layers, block_parameters, width)


def _meta(kind: str, config: dict[str, Any]) -> Any:
    with torch.device("meta"):
        return getattr(diffusers, kind)(**config).eval()


def _write(model: Any, folder: Path, device: torch.device) -> None:
    """As ``save_pretrained`` would, without ever having the whole model in memory."""
    model.save_config(folder)
    shards: list[list[str]] = [[]]
    size = total = 0
    tensors = model.state_dict()
    for name, tensor in tensors.items():
        if size + 2 * tensor.numel() > SHARD and shards[-1]:
            shards.append([])
            size = 0
        shards[-1].append(name)
        size += 2 * tensor.numel()
        total += 2 * tensor.numel()
    stem = "diffusion_pytorch_model"
    where: dict[str, str] = {}
    for number, names in enumerate(shards, 1):
        file = f"{stem}-{number:05d}-of-{len(shards):05d}.safetensors" if len(shards) > 1 else f"{stem}.safetensors"
        save_file({name: _random(name, tensors[name], device) for name in names}, folder / file, {"format": "pt"})
        where |= dict.fromkeys(names, file)
    if len(shards) > 1:
        index = {"metadata": {"total_size": total}, "weight_map": where}
        (folder / f"{stem}.safetensors.index.json").write_text(json.dumps(index))


def _random(name: str, like: torch.Tensor, device: torch.device) -> torch.Tensor:
    """Normally distributed, so that what goes in and what comes out are of one size; norms and biases do nothing."""
    if like.dim() < 2 or name.endswith("gamma"):
        neutral = 0.0 if name.endswith(("bias", "mean")) else 1.0
        return torch.full(like.shape, neutral, dtype=torch.bfloat16)
    made = torch.empty(like.shape, dtype=torch.bfloat16, device=device)
    return made.normal_(std=like[0].numel() ** -0.5).cpu()


def _host_available() -> int:
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
        return next(int(line.split()[1]) << 10 for line in lines if line.startswith("MemAvailable:"))
    except OSError:  # no Linux
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2


# What is measured


class Stamp:
    """A moment of the device's work: an event in its stream, or the time."""

    def __init__(self, device: torch.device) -> None:
        self._event = torch.cuda.Event(enable_timing=True) if device.type == "cuda" else None  # type: ignore[no-untyped-call]  # torch's own
        self._time = time.perf_counter()
        if self._event is not None:
            self._event.record()

    def until(self, later: Stamp) -> float:
        """Seconds; only once the device has come that far."""
        if self._event is None or later._event is None:
            return later._time - self._time
        return float(self._event.elapsed_time(later._event)) / 1000


class Forward(NamedTuple):
    """One run of the transformer."""

    tokens: int
    begun: Stamp
    ended: Stamp


class Watch:
    """Notes when a pipeline's transformer and autoencoder begin and end."""

    def __init__(self, pipe: Any, device: torch.device) -> None:
        self._device = device
        self.forwards: list[Forward] = []
        self.halves: dict[str, list[tuple[Stamp, Stamp]]] = {"encode": [], "decode": []}
        self._begun: tuple[int, Stamp]
        patch = pipe.transformer.config.patch_size

        def before(_module: torch.nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            latents = kwargs["hidden_states"] if "hidden_states" in kwargs else args[0]
            tokens = latents.shape[1] if latents.dim() == 3 else latents[0, 0].numel() // math.prod(patch)
            self._begun = tokens, Stamp(device)

        def after(_module: torch.nn.Module, _args: object, _made: object) -> None:
            self.forwards.append(Forward(*self._begun, Stamp(device)))

        pipe.transformer.register_forward_pre_hook(before, with_kwargs=True)
        pipe.transformer.register_forward_hook(after)
        for half in self.halves:
            setattr(pipe.vae, half, self._timed(half, getattr(pipe.vae, half)))

    def clear(self) -> None:
        """Forget the clip before."""
        self.forwards.clear()
        for found in self.halves.values():
            found.clear()

    def _timed(self, half: str, inner: Callable[..., Any]) -> Callable[..., Any]:
        def timed(*args: Any, **kwargs: Any) -> Any:
            begun = Stamp(self._device)
            made = inner(*args, **kwargs)
            self.halves[half].append((begun, Stamp(self._device)))
            return made

        return timed


@dataclass
class Figures:
    """What was measured of one side, in one setting: seconds, a value for each clip."""

    frames: int
    steps: int
    """Of which so many were run; where they are fewer than the preset's, the clip's time is reckoned for all."""
    preset_steps: int
    place: str
    """Where the components lie: as the preset has it, all on the card, or moved by ``enable_model_cpu_offload``."""
    decoder: str
    load_seconds: float
    marked: str
    first_clip: float = 0.0
    """The clip that warms up, compiling included; as it was run."""
    clip: list[float] = field(default_factory=list)
    step: dict[int, list[float]] = field(default_factory=dict)
    """By the number of tokens."""
    denoise: list[float] = field(default_factory=list)
    encode: list[float] = field(default_factory=list)
    decode: list[float] = field(default_factory=list)
    vae_share: list[float] = field(default_factory=list)
    """Of the clip: encoding and decoding."""
    together: list[float] = field(default_factory=list)
    """A clip's share of a round of several, where the preset makes them so."""
    peak_bytes: int | None = None
    """The most that was allocated on the card during the clips; None without a card."""

    @property
    def longest_step(self) -> list[float]:
        """Those of most tokens."""
        return self.step[max(self.step)]

    @property
    def per_minute(self) -> list[float]:
        """Clips a minute, one after the other."""
        return [60 / seconds for seconds in self.clip]

    def as_json(self) -> dict[str, Any]:
        """All of it."""
        peak = NOT_MEASURED if self.peak_bytes is None else round(self.peak_bytes / 2**30, 3)
        return {
            "frames": self.frames, "steps_run": self.steps, "steps": self.preset_steps, "place": self.place,
            "decoder": self.decoder, "load_seconds": self.load_seconds, "first_clip_seconds": self.first_clip,
            "marked": self.marked.strip(),
            "clip_seconds": spread(self.clip), "clips_per_minute": spread(self.per_minute),
            "step_seconds": {str(tokens): spread(values) for tokens, values in self.step.items()},
            "denoise_seconds": spread(self.denoise), "vae_encode_seconds": spread(self.encode),
            "vae_decode_seconds": spread(self.decode), "vae_share": spread(self.vae_share), "peak_gib": peak,
            "seconds_a_clip_of_a_round": spread(self.together) if self.together else None,
        }  # fmt: skip


def spread(values: Sequence[float]) -> dict[str, Any]:
    """Median, least, most and all."""
    return {"median": median(values), "min": min(values), "max": max(values), "values": list(values)}


class Side(Protocol):
    """One way to make the clip."""

    plan: Plan
    watch: Watch
    load_seconds: float
    place: str

    def clip(self) -> Pixels:
        """Make it; its finished bytes, ``(T, H, W, 3)``."""


class Ours:
    """Our generator."""

    def __init__(self, built: Built, preset: Preset, plan: Plan, root: Path, device: torch.device) -> None:
        self.plan = plan
        self.place = "as the preset has it" if preset.memory else "on the card"
        kind, picture = family(preset.family), _picture(plan)
        located = locate(preset, GenerationSettings(), root)
        files = (file for name in kind.encoders for file in located.files_of(name))
        place = name_of(torch.device("cpu") if preset.text_encoder == "cpu" else device)
        key = embedding_key(fingerprint(files), preset.dtype, place, kind.prompt_key(plan, picture))
        EmbeddingCache(root / "embeddings").put(key, _embeddings(built, preset, plan))
        self.generator = Generator(preset, located, device, root / "embeddings")
        self.load_seconds = self.generator.load_seconds
        self.pipe = self.generator._pipe  # noqa: SLF001 - to be timed from within
        self.watch = Watch(self.pipe, device)
        self._job = Job("clip", plan, picture)

    def clip(self) -> Pixels:
        """By a round of one."""
        return self.round(1)[-1]

    def round(self, count: int) -> list[Pixels]:
        """Several clips, as the preset's ``together`` lets them share an expert."""
        found = []
        for _, made in self.generator.run([self._job] * count):
            if isinstance(made, Exception):
                raise made
            if made.record["leaner"]:
                self.place = "in turns, decoded in tiles: it ran out of memory"
            found.append(made.frames())
        return found


class Plain:
    """The pipeline of diffusers as its documentation shows it: on the card, or moved there component by component."""

    def __init__(self, built: Built, preset: Preset, plan: Plan, device: torch.device) -> None:
        self.plan = plan
        self._device = device
        begun = time.perf_counter()
        self.pipe = getattr(diffusers, built.model.pipeline).from_pretrained(
            built.folder,
            dtype={"default": torch.bfloat16, "vae": DTYPES[preset.vae_dtype]},
            local_files_only=True,
            text_encoder=None,
            tokenizer=None,
        )
        self.pipe.set_progress_bar_config(disable=True)
        self.place = "on the card"
        try:
            self.pipe.to(device)
        except torch.OutOfMemoryError:
            self._offload()
        self.load_seconds = time.perf_counter() - begun
        self.watch = Watch(self.pipe, device)
        kind = family(preset.family)
        one_pass = preset.model_copy(update={"upsampler": None})
        embeddings = {name: tensor.to(device) for name, tensor in _embeddings(built, preset, plan).items()}
        self._arguments = kind.call(plan, one_pass, _picture(plan), None) | embeddings

    def clip(self) -> Pixels:
        """As arrays, rounded to bytes."""
        try:
            return self._made()
        except torch.OutOfMemoryError:
            if self.place != "on the card":
                raise
        self._offload()
        return self._made()

    def _made(self) -> Pixels:
        noise = torch.Generator("cpu").manual_seed(self.plan.seed)
        frames = self.pipe(**self._arguments, generator=noise, output_type="np").frames[0]
        found: Pixels = (frames * 255).round().astype(np.uint8)
        return found

    def _offload(self) -> None:
        self.place = "enable_model_cpu_offload"
        self.pipe.to("cpu")
        torch.cuda.empty_cache()
        self.pipe.enable_model_cpu_offload(device=self._device)


def _picture(plan: Plan) -> Pixels:
    return np.asarray(drawn(*plan.canvas))


def _embeddings(built: Built, preset: Preset, plan: Plan) -> dict[str, torch.Tensor]:
    """What a prompt of some sixty tokens would be."""
    noise = torch.Generator("cpu").manual_seed(0)

    def one() -> torch.Tensor:
        made = torch.randn(1, plan.max_tokens, built.text_width, generator=noise)
        return made.to(DTYPES[preset.dtype])

    found = {"prompt_embeds": one()} | ({"negative_prompt_embeds": one()} if plan.guided else {})
    if preset.family == "ltx":
        mask = torch.arange(plan.max_tokens)[None] < 60
        found |= {f"{name.removesuffix('embeds')}attention_mask": mask.clone() for name in list(found)}
    return found


def measure(side: Side, built: Built, preset: Preset, repeats: int, device: torch.device) -> Figures:
    """Warm up with one clip, then make ``repeats``."""
    plan, watch, steps = side.plan, side.watch, preset.steps
    begun = time.perf_counter()
    frames = side.clip()
    figures = Figures(plan.frames, plan.steps, steps, side.place, preset.vae_dtype, side.load_seconds, built.marked,
                      time.perf_counter() - begun)  # fmt: skip
    assert frames.shape == (plan.frames, plan.canvas[1], plan.canvas[0], 3), frames.shape
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        torch.cuda.reset_peak_memory_stats(device)
    for _ in range(repeats):
        watch.clear()
        begun = time.perf_counter()
        side.clip()
        _take(figures, watch, time.perf_counter() - begun, built, plan)
    figures.place = side.place  # a plain pipeline may have found that it does not fit
    if device.type == "cuda":
        missing = (built.all_layers - built.layers) * built.block_parameters
        bytes_each = 1 if preset.memory.get("transformer", Memory()).storage == "fp8" and isinstance(side, Ours) else 2
        figures.peak_bytes = torch.cuda.max_memory_allocated(device) + missing * bytes_each
    return figures


def _take(figures: Figures, watch: Watch, clip: float, built: Built, plan: Plan) -> None:
    """One clip's figures from what was noted; all work is done, for its frames are here."""
    each = 2 if plan.guided and built.model.preset.startswith("wan") else 1  # LTX guides in one batch
    denoise = 0.0
    for tokens in {forward.tokens for forward in watch.forwards}:
        run = [forward for forward in watch.forwards if forward.tokens == tokens]
        seconds = run[0].begun.until(run[-1].ended) * built.scale
        figures.step.setdefault(tokens, []).append(seconds / (len(run) / each))
        denoise += seconds
    as_run = denoise / built.scale
    if figures.steps < figures.preset_steps:
        denoise *= figures.preset_steps / figures.steps
    whole = clip - as_run + denoise
    encode, decode = (sum(begun.until(ended) for begun, ended in watch.halves[half]) for half in ("encode", "decode"))
    figures.denoise.append(denoise)
    figures.encode.append(encode)
    figures.decode.append(decode)
    figures.vae_share.append((encode + decode) / whole)
    figures.clip.append(whole)


# The parts


class Bench:
    """All that is measured in one run, as far as it has come."""

    PARTS = ("clip", "decoder", "attention", "compile", "tokens", "passes", "swap")

    def __init__(self, options: argparse.Namespace, device: torch.device, root: Path) -> None:
        self.device = device
        self.rows: list[Row] = []
        self.notes: list[str] = []
        self.failed: list[str] = []
        self._options = options
        self._root = root
        self._size: Size = (64, 128) if options.tiny else (576, 1024)
        self._seconds = 0.5 if options.tiny else options.seconds
        self._measured: dict[str, Figures] = {}
        self._others: dict[str, Any] = {}

    def run(self) -> None:
        """Every part that is asked for, of each model; what fails is noted, and the next begins."""
        for name, model in (TINY if self._options.tiny else FULL).items():
            wanted = [part for part in self.PARTS if self._asked(name, part)]
            if not wanted:
                continue
            begun = time.perf_counter()
            built = build(name, model, self._root, self.device)
            self._others[f"{name}/build_seconds"] = time.perf_counter() - begun
            if built.marked:
                self.note(f"{name}: disk or memory hold {built.layers} of {built.all_layers} layers; times and peaks "
                          "are scaled to all.")  # fmt: skip
            for part in wanted:
                print(f"{name}/{part} ...", file=sys.stderr, flush=True)
                try:
                    getattr(self, part)(built)
                except Exception as error:  # noqa: BLE001 - one part's failure is one of the results
                    traceback.print_exc()
                    self.failed.append(f"{name}/{part}: {type(error).__name__}: {error}")
                _let_go()
                self.write()
            for folder in self._root.glob(f"{name}*"):
                shutil.rmtree(folder)

    def clip(self, built: Built) -> None:
        """Like for like, all on the card at the model's own rate in one pass; and as the preset ships it."""
        shipped = self.preset(built)
        plain_one = one_pass(shipped, Fraction(24) if shipped.family == "ltx" else shipped.rate)
        theirs = self.plain(built, plain_one)
        named = built.model.preset
        for words, preset in (("on the card, like for like", on_card(plain_one)), ("as shipped", shipped)):
            with self._unless_full(f"{named}, {words}"):
                ours = self.ours(built, preset)
                say = f"{named}, {words}{built.marked}"
                self.row(f"{say}: seconds a step", ours.longest_step, theirs.longest_step)
                self.row(f"{say}: seconds a clip", ours.clip, theirs.clip)
                self.row(f"{say}: share of the autoencoder", ours.vae_share, theirs.vae_share)
                self.row(f"{say}: clips a minute", ours.per_minute, theirs.per_minute)
                if ours.peak_bytes is not None and theirs.peak_bytes is not None:
                    self.row(f"{say}: peak on the card, GiB", [ours.peak_bytes / 2**30], [theirs.peak_bytes / 2**30])
                if built.name == "a14b":
                    self.row(f"{GUIDED}, {words}{built.marked}: seconds a clip, reckoned from these steps",
                             _guided(ours), _guided(theirs))  # fmt: skip
                if ours.together:
                    self.row(f"{say}: seconds a clip of a round of {preset.together} (theirs: one alone)",
                             ours.together, ours.clip)  # fmt: skip
        if theirs.place != "on the card":
            self.note(f"{named}: the plain pipeline does not fit on this card and runs by {theirs.place}.")
        if theirs.steps < theirs.preset_steps:
            self.note(f"{named}: {theirs.steps} of {theirs.preset_steps} steps are run; a clip's time is reckoned for "
                      "all from these.")  # fmt: skip

    def decoder(self, built: Built) -> None:
        """The full decoder against the tiny one, and against itself in bf16."""
        preset = on_card(one_pass(self.preset(built)))
        full = self.ours(built, preset, steps=2)
        say = f"{built.model.preset}: seconds to decode"
        if built.model.decoder is None:
            self.note(f"{built.model.preset}: no tiny decoder is known for its latents.")
        else:
            source = Source(folder=self._root / f"{built.name}-decoder", file="tiny.safetensors")
            tiny = self.ours(built, preset.model_copy(update={"tiny_decoder": source}), steps=2)
            self.row(f"{say}, tiny decoder (theirs: the full one, {preset.vae_dtype})", tiny.decode, full.decode)
        if preset.vae_dtype != "bf16":
            less = self.ours(built, preset.model_copy(update={"vae_dtype": "bf16"}), steps=2)
            self.row(f"{say}, bf16 (theirs: {preset.vae_dtype})", less.decode, full.decode)

    def attention(self, built: Built) -> None:
        """Each kind that is installed against torch's own choice; a black or non-finite clip is a failure."""
        preset = on_card(one_pass(self.preset(built)))
        plan = self.plan(preset, 2)
        side = Ours(built, preset, plan, self._root, self.device)
        native = measure(side, built, preset, self._options.repeats, self.device)
        for name in BACKENDS:
            try:
                side.pipe.transformer.set_attention_backend(name)
                found = measure(side, built, preset, self._options.repeats, self.device)
            except Exception as error:  # noqa: BLE001 - not installed, or not for this card: either is a result
                self.note(f"{built.model.preset}: attention {name}: {type(error).__name__}: {str(error)[:120]}")
                continue
            finally:
                side.pipe.transformer.set_attention_backend("native")
            self._measured[f"{built.name}: attention {name}"] = found
            self.row(f"{built.model.preset}{built.marked}: seconds a step, attention {name} (theirs: native)",
                     found.longest_step, native.longest_step)  # fmt: skip

    def compile(self, built: Built) -> None:
        """The repeated blocks compiled."""
        preset = on_card(one_pass(self.preset(built)))
        plain = self.ours(built, preset, steps=2)
        compiled = self.ours(built, preset.model_copy(update={"compile": True}), steps=2)
        say = f"{built.model.preset}{built.marked}"
        self.row(f"{say}: seconds a step, compiled (theirs: not)", compiled.longest_step, plain.longest_step)
        self.row(f"{say}: seconds for the first clip, compiled (theirs: not)", [compiled.first_clip],
                 [plain.first_clip])  # fmt: skip

    def tokens(self, built: Built) -> None:
        """Half the delivered rate against 24 frames a second; the interpolation is not counted."""
        if built.name == "a14b":
            self.note("a14b is made for 16 frames a second: 15 against 24 says nothing of it.")
            return
        preset = on_card(one_pass(self.preset(built)))
        less, more = (self.ours(built, one_pass(preset, rate)) for rate in (HALF_RATE, Fraction(24)))
        say = f"{built.model.preset}, 15 frames a second ({max(less.step)} tokens; theirs: 24, {max(more.step)})"
        self.row(f"{say}: seconds a step", less.longest_step, more.longest_step)
        self.row(f"{say}: seconds a clip", less.clip, more.clip)

    def passes(self, built: Built) -> None:
        """Two passes against one, at the shipped rate."""
        preset = self.preset(built)
        if preset.upsampler is None:
            return
        two, one = self.ours(built, on_card(preset)), self.ours(built, on_card(one_pass(preset)))
        say = f"{built.model.preset}, two passes (theirs: one)"
        self.row(f"{say}: seconds of denoising", two.denoise, one.denoise)
        self.row(f"{say}: seconds a clip", two.clip, one.clip)

    def swap(self, built: Built) -> None:
        """An expert onto the card, from page-locked memory and from a file's pages, against moving it to and fro."""
        if built.name != "a14b":
            return
        found: dict[str, list[float]] = {}
        for storage in ("fp8", "as_is"):
            for host in ("pinned", "mapped"):
                kept = Memory(storage=storage, residency="turn", host=host)
                preset = on_card(self.preset(built)).model_copy(update={"memory": {"transformer": kept}})
                plan = self.plan(preset, 2)
                with self._unless_full(f"swap, {storage}, {host}"):
                    side = Ours(built, preset, plan, self._root, self.device)
                    residency = side.generator.residency
                    found[f"{storage}, {host}"] = seconds = []
                    for _ in range(self._options.repeats + 1):
                        residency.clear()
                        before = residency.seconds
                        residency.bring("transformer")
                        seconds.append((residency.seconds - before) * built.scale)
                    del seconds[0]  # the first finds the card's memory unreserved, and the file's pages not read
                    gigabytes = residency.bytes / residency.swaps * built.scale / 1e9
                    self._others[f"swap, {storage}, {host}"] = {
                        "seconds": spread(seconds), "gb": gigabytes, "gb_per_second": gigabytes / median(seconds)
                    }  # fmt: skip
                    del side, residency
                _let_go()
        moved = found["moved"] = self._moved(built)
        self._others["swap, moved to the card and back"] = {"seconds": spread(moved)}
        for ours, theirs in (("fp8, pinned", "fp8, mapped"), ("as_is, pinned", "as_is, mapped"),
                             ("as_is, pinned", "moved"), ("fp8, pinned", "moved")):  # fmt: skip
            if ours in found and theirs in found:
                said = "bf16 there and back, as offloading does" if theirs == "moved" else theirs
                self.row(f"one A14B expert{built.marked}: seconds to bring it, {ours} (theirs: {said})",
                         found[ours], found[theirs])  # fmt: skip

    def _moved(self, built: Built) -> list[float]:
        """What ``enable_model_cpu_offload`` does with a component for each clip."""
        kind = getattr(diffusers, built.model.transformer[0])
        module = kind.from_pretrained(built.folder / "transformer", dtype=torch.bfloat16, local_files_only=True)
        found = []
        for _ in range(self._options.repeats + 1):
            begun = time.perf_counter()
            module.to(self.device)
            module.to("cpu")
            if self.device.type == "cuda":
                torch.cuda.synchronize(self.device)
            found.append((time.perf_counter() - begun) * built.scale)
        return found[1:]

    # ---- what the parts are made of

    def preset(self, built: Built) -> Preset:
        """The shipped preset, with the random weights in the place of its own."""
        shipped = shipped_presets()[built.model.preset]
        changed: dict[str, Any] = {
            "weights": Source(folder=built.folder),
            "components": {},
            "loras": (),
            "cache": None,
            "memory": {name: kept for name, kept in shipped.memory.items() if name != "transformer_2"},
        }
        if shipped.upsampler is not None:
            source = Source(folder=self._root / f"{built.name}-upsampler")
            changed["upsampler"] = shipped.upsampler.model_copy(update={"source": source})
        return shipped.model_copy(update=changed)

    def plan(self, preset: Preset, steps: int | None = None) -> Plan:
        """One clip of the whole picture; exact schedules are run whole, others for ``--steps`` at most."""
        delivered = frame_count(self._seconds, DELIVERED)
        kind: Family = family(preset.family)
        most = min(preset.steps, steps or self._options.steps)
        return Plan(
            preset=preset.name,
            canvas=self._size,
            view=Rect(0.0, 0.0, 1.0, 1.0),
            stretched=1.0,
            last_view=None,
            frames=kind.frames(math.ceil(Fraction(delivered - 1, DELIVERED) * preset.rate) + 1),
            rate=preset.rate,
            slowed=1.0,
            steps=preset.steps if preset.fixed_steps else most,
            guidance=preset.guidance,
            guidance_low=None,
            seed=7,
            prompt="a picture",
            negative=preset.prompt.negative,
            max_tokens=preset.prompt.max_tokens,
            values={},
            parameters={},
        )

    def ours(self, built: Built, preset: Preset, steps: int | None = None) -> Figures:
        """Our figures; what was measured already is not measured again."""
        plan = self.plan(preset, steps)
        name = ", ".join([
            f"{built.name}: ours", f"{plan.steps} steps", f"rate {preset.rate}",
            "one pass" if preset.upsampler is None else "two passes",
            f"decoder {preset.vae_dtype}" if preset.tiny_decoder is None else "tiny decoder",
            "memory as shipped" if preset.memory else "on the card", *(["compiled"] if preset.compile else []),
        ])  # fmt: skip
        if name not in self._measured:
            _let_go()
            side = Ours(built, preset, plan, self._root, self.device)
            figures = measure(side, built, preset, self._options.repeats, self.device)
            if preset.together > 1 and preset.memory:
                begun = time.perf_counter()
                side.round(preset.together)
                alone = median(figures.denoise) * (1 - 1 / built.scale)
                figures.together = [(time.perf_counter() - begun) / preset.together + alone]
            self._measured[name] = figures
        return self._measured[name]

    def plain(self, built: Built, preset: Preset) -> Figures:
        """Those of diffusers."""
        plan = self.plan(preset)
        name = f"{built.name}: plain diffusers, {plan.steps} steps, rate {preset.rate}, decoder {preset.vae_dtype}"
        if name not in self._measured:
            _let_go()
            side = Plain(built, preset, plan, self.device)
            self._measured[name] = measure(side, built, preset, self._options.repeats, self.device)
        return self._measured[name]

    def row(self, figure: str, ours: Sequence[float], theirs: Sequence[float]) -> None:
        """One row of the table: medians, with the least and the most of both."""
        ranges = [f"{min(values):.3g} to {max(values):.3g}" for values in (ours, theirs) if len(values) > 1]
        said = f"{figure} ({'; '.join(ranges)})" if ranges else figure
        mine, other = median(ours), median(theirs)
        self.rows.append(Row(said, mine, other, mine / other if other else math.nan))

    def note(self, said: str) -> None:
        """What the reader of the figures has to know."""
        self.notes.append(said)
        print(said, file=sys.stderr, flush=True)

    def write(self) -> None:
        """The JSON as far as it goes, where ``--out`` says."""
        if self._options.out is not None:
            self._options.out.write_text(json.dumps(self.as_json(), indent=1))

    def as_json(self) -> dict[str, Any]:
        """All figures."""
        card = torch.cuda.get_device_properties(self.device) if self.device.type == "cuda" else None
        return {
            "card": card.name if card else self.device.type,
            "card_gib": round(card.total_memory / 2**30, 1) if card else NOT_MEASURED,
            "versions": versions(),
            "tiny": self._options.tiny,
            "repeats": self._options.repeats,
            "canvas": list(self._size),
            "seconds": self._seconds,
            "text_encoders": "left out on both sides: the embeddings are random, of the true shape",
            "step_caches": "off",
            "rows": [row._asdict() for row in self.rows],
            "measured": {name: figures.as_json() for name, figures in self._measured.items()},
            "others": self._others,
            "notes": self.notes,
            "failed": self.failed,
        }

    def _asked(self, model: str, part: str) -> bool:
        given: list[str] = self._options.only
        return not given or model in given or f"{model}/{part}" in given

    @contextmanager
    def _unless_full(self, what: str) -> Iterator[None]:
        """Go on without what this card cannot hold."""
        try:
            yield
        except Exception as error:
            if "out of memory" not in str(error).lower() and type(error).__name__ != "OutOfMemory":
                raise
            self.note(f"{what}: does not fit on this card.")
        _let_go()


def _guided(figures: Figures) -> list[float]:
    """The clip of the preset that is not distilled: its steps, each with the prompt and without."""
    more = 2 * shipped_presets()[GUIDED].steps / figures.steps - 1
    return [clip + more * denoise for clip, denoise in zip(figures.clip, figures.denoise, strict=True)]


def one_pass(preset: Preset, rate: Fraction | None = None) -> Preset:
    """Without the second pass, and at another rate."""
    return preset.model_copy(update={"upsampler": None, "rate": rate or preset.rate})


def on_card(preset: Preset) -> Preset:
    """With everything on the card as it is, all the time."""
    return preset.model_copy(update={"memory": {}})


def _let_go() -> None:
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def main() -> None:
    """Print the table and the notes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", type=lambda given: given.split(","), default=[], help="models, or models/parts")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--steps", type=int, default=10, help="run so many at most; the clip is reckoned for all")
    parser.add_argument("--seconds", type=float, default=4.0)
    parser.add_argument("--out", type=Path, help="a JSON file with everything, written after each part")
    parser.add_argument("--folder", type=Path, help="where the weights are written: 29 GB at most, one model at a time")
    parser.add_argument("--tiny", action="store_true")
    options = parser.parse_args()
    known = {*FULL, *(f"{model}/{part}" for model in FULL for part in Bench.PARTS)}
    if unknown := set(options.only) - known:
        parser.error(f"--only: there is no {', '.join(sorted(unknown))}. There are: {', '.join(sorted(known))}.")
    device = device_here()
    if device.type == "cpu" and not options.tiny:
        parser.error("here is no card. Run it where there is one, or with --tiny.")
    diffusers.utils.logging.set_verbosity_error()
    diffusers.utils.logging.disable_progress_bar()
    with tempfile.TemporaryDirectory(prefix="dropreel-bench-", dir=options.folder) as folder:
        bench = Bench(options, device, Path(folder))
        bench.run()
    bench.write()
    print(table(bench.rows))
    for said in ("Text encoders are left out on both sides.", *bench.notes, *(f"failed: {f}" for f in bench.failed)):
        print(said)
    if device.type != "cuda":
        print(f"Peak on the card: {NOT_MEASURED}.")
    sys.exit(1 if bench.failed else 0)


if __name__ == "__main__":
    main()
