"""Predicts how much memory a preset takes at its worst, on the card and on the host, without loading anything.

The sizes of components are exact, read from the headers of their files; where the files are not there, they are the
parameter counts of the architecture. What a model needs while it works is reckoned from figures that were taken by
running the full-size architectures on torch's fake tensors, which have sizes but no memory, and adding up all that
lives at once. That leaves out what kernels take for themselves and what the allocator wastes; ``ERROR`` is for those.
"""

from __future__ import annotations

import json
import struct
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from core.errors import Finding, Refused
from core.generate.family import Family, family
from core.generate.layout import models_in
from core.generate.presets import HONOURED, FamilyName, Memory, Preset
from core.generate.weights import Found

if TYPE_CHECKING:
    from core.generate.plan import Plan

GB = 10**9
DTYPE_BYTES = {"bf16": 2, "fp16": 2, "fp32": 4}
QUANTISED_BYTES = 1.03
"""Of a parameter in fp8: its byte, and a share of the scales and of the few layers that stay as they are."""
CONTEXT_BYTES = 1.0 * GB
"""On the card beside all tensors: CUDA's context and the workspaces of cuBLAS and cuDNN. An assumption: drivers differ
between 0.5 and 1.2 GB."""
WORKER_BYTES = 3.0 * GB
"""On the host for each worker: Python, torch and CUDA's libraries, and clips on their way. An assumption."""
ERROR = 0.1
"""How far a prediction may be off: what fits by less than that is a warning."""
RESERVE = 0.02
"""The share of a card's memory that its driver keeps."""
POST_BYTES = 39
"""For a pixel of a made frame: the decoder's float32, two copies of it on the way to bytes, and the bytes."""
TINY_DECODE_PIXEL_BYTES = 12_000
"""For a pixel of the canvas, by a tiny decoder that makes a few frames at a time. An assumption."""
_HEADER_MAX = 100 << 20  # the format's own limit


class Part(NamedTuple):
    """One component."""

    parameters: int
    file_bytes: int = 0
    """Of its tensors on the disk; 0 where they are not there."""
    largest: int = 0
    """The parameters of its largest tensor,"""
    block: int = 0
    """of the largest of its repeated blocks,"""
    rest: int = 0
    """and of all that is in no block."""

    @classmethod
    def of_architecture(cls, parameters: float) -> Part:
        """One of which only the size is known: its blocks and tensors are taken as those of the common ones."""
        count = round(parameters)
        return cls(count, 0, count // 100, count // 25, count // 25)


class Clip(NamedTuple):
    """The size of what is made."""

    pixels: int
    """Of the canvas."""
    frames: int
    decoded_at_once: int | None = None
    """The manifest's ``decode_chunk_size``; None where the preset decides."""


class Growth(NamedTuple):
    """The bytes that an autoencoder needs at once, by the size of the clip."""

    fixed: float = 0
    pixel: float = 0
    """For each pixel of the canvas,"""
    frame_pixel: float = 0
    """for each pixel of each frame,"""
    chunk_pixel: float = 0
    """and for each pixel of those frames that ``decode_chunk_size`` has decoded at once."""

    def at(self, pixels: int, frames: int, at_once: int = 0) -> float:
        """For one clip of which so many frames are decoded at once."""
        return self.fixed + pixels * (self.pixel + self.frame_pixel * frames + self.chunk_pixel * at_once)


class Architecture(NamedTuple):
    """What a kind of model needs while it works."""

    family: FamilyName
    words: tuple[str, ...]
    """In the hub's name of its weights, in small letters."""
    parameters: dict[str, float]
    """By component, in billions."""
    token: tuple[int, int]
    """A token covers so many pixels each way, and so many frames."""
    token_bytes: float
    """Live at once for each, in 16 bits."""
    decode: Growth
    """Of the autoencoder in 16 bits, with the whole picture at once,"""
    tiled: Growth
    """and in tiles of diffusers' own size."""
    batched: bool = False
    """Whether a guided step runs with the prompt and without as one batch."""
    encode: Growth = Growth()
    """Where a whole clip is encoded; a single picture takes less than decoding."""
    encode_tiled: Growth = Growth()


@dataclass(frozen=True)
class Forecast:
    """What a preset takes at its worst."""

    preset: str
    card_phases: dict[str, dict[str, float]]
    """The bytes on the card, by phase of the work and by what needs them."""
    host_phases: dict[str, dict[str, float]]
    """The bytes on the host that each worker has for itself, likewise."""
    shared: dict[str, float]
    """Those that all workers have together: pages of files."""
    unknown: tuple[str, ...]
    """Components of whose size nothing is known: they are missing from all sums."""
    measured: bool
    """Whether the sizes of all components were read from their files."""

    @property
    def card_worst(self) -> str:
        """The phase that needs the card most."""
        return max(self.card_phases, key=lambda phase: sum(self.card_phases[phase].values()))

    @property
    def card(self) -> float:
        """The peak on the card, in bytes."""
        return sum(self.card_phases[self.card_worst].values())

    @property
    def host_worst(self) -> str:
        """The phase that needs the host most."""
        return max(self.host_phases, key=lambda phase: sum(self.host_phases[phase].values()))

    @property
    def host_each(self) -> float:
        """The peak of what each worker has for itself on the host."""
        return sum(self.host_phases[self.host_worst].values())

    def host(self, workers: int) -> float:
        """The peak on the host with so many workers, all in their worst phase at once."""
        return workers * self.host_each + sum(self.shared.values())


def largest(preset: Preset) -> Clip:
    """The largest clip that a preset makes."""
    return Clip(preset.canvas.pixels_max, preset.frames_max)


def usual(preset: Preset) -> Clip:
    """One of the canvas that it has where nothing needs more; as long as it makes them."""
    return Clip(preset.canvas.pixels, preset.frames_max)


def planned(plan: Plan) -> Clip:
    """The one that a plan makes."""
    asked = plan.values.get("decode_chunk_size")
    width, height = plan.canvas
    return Clip(width * height, plan.frames, asked if plan.parameters.get("decode_chunk_size") == HONOURED else None)


def predict(preset: Preset, looked: Iterable[Found], clip: Clip | None = None) -> Forecast:
    """The forecast of a model's preset from what ``look`` found of its weights; without a clip, of its largest.

    Raises ``OSError`` and ``ValueError`` where the files cannot be read.
    """
    hub = (preset.weights.hub or "").lower() if preset.weights is not None else ""
    kin = [each for each in ARCHITECTURES if each.family == preset.family]
    named = next((each for each in kin if any(word in hub for word in each.words)), None)
    parts, unknown = _parts(looked, named.parameters if named is not None else {})
    if named is None:  # other weights of a known family: what they need while they work is that of the nearest
        size = sum(part.parameters for part in parts.values()) / 1e9
        named = min(kin, key=lambda each: abs(size - sum(each.parameters.values())))
    return forecast(preset, family(preset.family), named, parts, clip or largest(preset), unknown=unknown)


def forecast(
    preset: Preset,
    kind: Family,
    architecture: Architecture,
    parts: Mapping[str, Part],
    clip: Clip,
    *,
    unknown: Iterable[str] = (),
) -> Forecast:
    """The arithmetic: which components are on the card in which phase, and what is live beside them."""
    rooms = {name: preset.memory.get(name, Memory()) for name in parts}
    encoders = {name: _loaded(preset, name, part) for name, part in parts.items() if name in kind.encoders}
    own = {name: part for name, part in parts.items() if name not in encoders}
    always = {"CUDA": CONTEXT_BYTES}
    for name, part in own.items():
        if rooms[name].residency == "card":
            always[name] = _stored(preset, name, part)
        elif rooms[name].residency == "blocks":
            always[f"{name} (2 blocks)"] = (part.rest + 2 * part.block) * _dtype_bytes(preset, name)
    if preset.text_encoder == "card":
        always |= encoders
    pixels, frames, at_once = clip
    at_once = min(at_once or preset.call.get("decode_chunk_size") or frames, frames)
    vae_turn = _on_its_turn(preset, {name: part for name, part in own.items() if name.endswith("vae")}, rooms)
    wide = DTYPE_BYTES[preset.vae_dtype] / 2
    decode, encode = (
        (architecture.tiled, architecture.encode_tiled)
        if preset.vae_tiling
        else (architecture.decode, architecture.encode)
    )
    denoisers = {name: part for name, part in own.items() if name in kind.denoisers}
    across, deep = architecture.token
    tokens = -(-pixels // (across * across)) * ((frames - 1) // deep + 1)
    batch = 2 if architecture.batched and max(preset.guidance, preset.guidance_low or 0) > 1 else 1
    narrow = DTYPE_BYTES[preset.dtype] / 2
    phases = {}
    if kind.has_prompt and preset.text_encoder == "turn":
        phases["encoding prompts"] = always | encoders
    if encode != Growth():
        phases["encoding the picture"] = always | vae_turn | {"activations": encode.at(pixels, frames) * wide}
    phases["denoising"] = (
        always
        | _on_its_turn(preset, denoisers, rooms)
        | {"activations": tokens * batch * architecture.token_bytes * narrow}
        | _widening(preset, denoisers, rooms)
    )
    if preset.tiny_decoder is None:
        phases["decoding"] = always | vae_turn | {"activations": decode.at(pixels, frames, at_once) * wide}
    else:
        phases["decoding"] = always | {"activations": float(TINY_DECODE_PIXEL_BYTES * pixels)}
    phases["finishing"] = always | vae_turn | {"frames": float(POST_BYTES * pixels * frames)}
    host, shared = _on_the_host(preset, own, rooms, encoders)
    measured = bool(parts) and all(part.file_bytes for part in parts.values()) and not tuple(unknown)
    return Forecast(preset.name, phases, host, shared, tuple(unknown), measured)


def room_on(card_bytes: float) -> float:
    """How much of a card's memory can be had."""
    return card_bytes * (1 - RESERVE)


def misfit(forecast: Forecast, card_bytes: float, card: str, clip: Clip | None = None) -> Finding | None:
    """What to say of a preset that needs more than a card has, ``clip`` if it is of one in hand; None where it fits."""
    room = room_on(card_bytes)
    if forecast.card <= room:
        return None
    phase = forecast.card_phases[forecast.card_worst]
    biggest = max(phase, key=lambda name: phase[name])
    of = f" for {clip.frames} frames of {clip.pixels / 1e6:.2f} megapixels" if clip else ""
    chunk = clip.decoded_at_once if clip else None
    return Finding(
        code="preset_too_large",
        field="generation_params.model",
        value=forecast.preset,
        limit=f"{room / GB:.1f} GB",
        message=f"'{forecast.preset}' needs {forecast.card / GB:.1f} GB of {card}{of} while {forecast.card_worst}, "
        f"where {room / GB:.1f} GB are to be had; {biggest} takes {phase[biggest] / GB:.1f} GB of it.",
        remedy=(f"Ask for a decode_chunk_size below {chunk}. Or choose" if chunk and chunk > 1 else "Choose")
        + " another preset; or copy this one into presets.toml with a leaner memory, vae_tiling = true, a "
        "smaller canvas or fewer frames.",
    )


def refuse_if_too_large(
    preset: Preset, looked: Iterable[Found], card_bytes: float, card: str = "the card", clip: Clip | None = None
) -> None:
    """Raise ``Refused`` where a preset's usual clip, or this one, cannot fit on a card with so much memory.

    Loads nothing. Raises what ``predict`` does.
    """
    if problem := misfit(predict(preset, looked, clip or usual(preset)), card_bytes, card, clip):
        raise Refused(problem)


def host_memory() -> tuple[int | None, int | None]:
    """How much of the host's memory can be had now, and how much there is, in bytes; None where nobody tells."""
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
    except OSError:
        return None, None
    told = {line.partition(":")[0]: int(line.split()[1]) << 10 for line in lines}
    return told.get("MemAvailable"), told.get("MemTotal")


# The arithmetic's pieces


def _dtype_bytes(preset: Preset, name: str) -> int:
    return DTYPE_BYTES[preset.vae_dtype if name == "vae" else preset.dtype]


def _loaded(preset: Preset, name: str, part: Part) -> float:
    return float(part.parameters * _dtype_bytes(preset, name))


def _stored(preset: Preset, name: str, part: Part) -> float:
    """On the card, as the preset keeps it."""
    quantised = preset.memory.get(name, Memory()).storage != "as_is"
    return part.parameters * QUANTISED_BYTES if quantised else _loaded(preset, name, part)


def _on_its_turn(preset: Preset, parts: Mapping[str, Part], rooms: Mapping[str, Memory]) -> dict[str, float]:
    """The largest of those that take turns: they are never there together."""
    turning = {name: _stored(preset, name, part) for name, part in parts.items() if rooms[name].residency == "turn"}
    if not turning:
        return {}
    largest = max(turning, key=lambda name: turning[name])
    return {largest: turning[largest]}


def _widening(preset: Preset, parts: Mapping[str, Part], rooms: Mapping[str, Memory]) -> dict[str, float]:
    """The layer that runs, of those that are kept in fewer bits than they run in."""
    sizes = [part.largest * _dtype_bytes(preset, name) for name, part in parts.items() if rooms[name].storage == "fp8"]
    return {"a layer as it runs": float(max(sizes))} if sizes else {}


def _on_the_host(
    preset: Preset, own: Mapping[str, Part], rooms: Mapping[str, Memory], encoders: dict[str, float]
) -> tuple[dict[str, dict[str, float]], dict[str, float]]:
    """What each worker has for itself, by phase, and what all share.

    Tensors that are used as they lie in their file are that file's pages, of which there is one copy for everybody;
    those that are converted, quantised or pinned are each worker's own.
    """
    loading, working, shared = {"worker": WORKER_BYTES}, {"worker": WORKER_BYTES}, {}
    widest = 0.0
    for name, part in own.items():
        loaded, room = _loaded(preset, name, part), rooms[name]
        as_filed = abs(part.file_bytes - loaded) <= 0.02 * loaded
        if room.storage != "as_is":
            loading[name] = _stored(preset, name, part)
            widest = max(widest, 0.0 if as_filed else loaded - loading[name])
        elif not as_filed:
            loading[name] = loaded
        if room.residency == "card":
            continue
        pinned = room.residency == "turn" and room.host == "pinned"
        if as_filed and room.storage == "as_is":
            shared[name] = float(part.file_bytes)
        if pinned or not (as_filed and room.storage == "as_is"):
            working[name] = _stored(preset, name, part)
    if widest:  # they are narrowed one at a time
        loading["a component as it is narrowed"] = widest
    phases = {"loading": loading, "working": working}
    if encoders and preset.text_encoder != "card":
        phases["encoding prompts"] = working | encoders
    return phases, shared


# What the files say


def measure(files: Iterable[Path], component: str = "") -> Part:
    """A component's size by the headers of its safetensors. Raises ``OSError``, ``ValueError``.

    Makers' own single files hold the autoencoder's tensors too, as ``vae.…``: each component counts its own.
    """
    tensors = {name: sizes for path in files for name, sizes in _tensors(path).items()}
    if any(name.startswith("vae.") for name in tensors):
        tensors = {name: sizes for name, sizes in tensors.items() if name.startswith("vae.") == (component == "vae")}
    blocks: dict[str, int] = defaultdict(int)
    rest = 0
    for name, (count, _) in tensors.items():
        words = name.split(".")
        number = next((place for place, word in enumerate(words) if word.isdigit()), None)
        if number is None:
            rest += count
        else:
            blocks[".".join(words[: number + 1])] += count
    counts = [count for count, _ in tensors.values()]
    size = sum(size for _, size in tensors.values())
    return Part(sum(counts), size, max(counts, default=0), max(blocks.values(), default=0), rest)


def _tensors(path: Path) -> dict[str, tuple[int, int]]:
    """The number of elements and of bytes of each tensor of a file."""
    with path.open("rb") as file:
        length = int(struct.unpack("<Q", file.read(8).ljust(8, b"\0"))[0])
        if not 2 <= length <= _HEADER_MAX:
            raise ValueError(f"{path} is no safetensors file")
        header = json.loads(file.read(length))
    found = {}
    for name, entry in header.items():
        if name != "__metadata__":
            count = 1
            for side in entry["shape"]:
                count *= int(side)
            begin, end = entry["data_offsets"]
            found[name] = count, int(end) - int(begin)
    return found


def _parts(looked: Iterable[Found], known: Mapping[str, float]) -> tuple[dict[str, Part], list[str]]:
    """The components with their sizes, and those of whose size nothing is known."""
    parts: dict[str, Part] = {}
    unknown = []
    for found in looked:
        for name, files in _components(found, known).items():
            if files and not any(_belongs(missing, name, found) for missing in found.missing):
                parts[name] = measure((found.folder / file for file in files), name)
            elif name in known:
                parts[name] = Part.of_architecture(known[name] * 1e9)
            elif name != "tiny_decoder":  # a few megabytes
                unknown.append(name)
    return parts, unknown


def _components(found: Found, known: Iterable[str]) -> dict[str, list[str]]:
    """The models of one need, each with those files of its weights that are loaded."""
    name, tensors = found.need.name, [file for file in found.files if file.endswith(".safetensors")]
    if name.startswith("loras"):  # fused into what they belong to
        return {}
    if not found.need.is_pipeline:
        return {"latent_upsampler" if name == "upsampler" else name.removeprefix("components."): _chosen(tensors)}
    elsewhere = {"latent_upsampler", *found.need.without}
    return {
        part: _chosen([file for file in tensors if file.startswith(f"{part}/")])
        for part in models_in(found.folder) or known
        if part not in elsewhere
    }


def _belongs(missing: str, name: str, found: Found) -> bool:
    weights = missing.endswith((".safetensors", "*"))
    return weights and (not found.need.is_pipeline or missing.startswith(f"{name}/"))


def _chosen(files: list[str]) -> list[str]:
    """Of the files of one model those that are loaded: the plain one, else its shards, else a variant."""
    plain = [file for file in files if file.count(".") == 1 and "-of-" not in file]
    shards = [file for file in files if file.count(".") == 1 and "-of-" in file]
    return plain or shards or files


# The architectures: parameters by diffusers' and transformers' own classes at their full size; what lives while they
# work by one run of each on fake tensors, at 576×1024 and two lengths, without the parameters themselves.

_T5, _UMT5, _CLIP_L = 4.762, 5.681, 0.123

_WAN = Architecture(
    "wan",
    ("wan2.2-i2v-a14b", "wan2.1-i2v"),
    {"transformer": 14.289, "transformer_2": 14.289, "vae": 0.127, "text_encoder": _UMT5},
    (16, 4),
    114_700,
    Growth(0, 9_730, 6.3),
    Growth(0.47 * GB, 0, 15.7),
    encode=Growth(0, 7_040, 6.3),
    encode_tiled=Growth(0.46 * GB, 0, 6.3),
)
_WAN_5B = Architecture(
    "wan",
    ("wan2.2-ti2v-5b",),
    {"transformer": 5.0, "vae": 0.705, "text_encoder": _UMT5},
    (32, 4),
    201_000,
    Growth(0, 10_750, 6.3),
    Growth(0.6 * GB, 0, 15.7),
)
_HUNYUAN = Architecture(
    "hunyuan",
    ("hunyuanvideo-i2v",),
    {"transformer": 12.821, "vae": 0.246, "text_encoder": 8.355, "text_encoder_2": _CLIP_L},
    (16, 4),
    112_500,
    Growth(0, 39_100, 8.7),  # diffusers decodes it sixteen frames at a time by itself
    Growth(2.52 * GB, 0, 8.7),
)
_HUNYUAN_15 = Architecture(
    "hunyuan15",
    ("hunyuanvideo-1.5",),
    {"transformer": 8.327, "vae": 1.261, "text_encoder": 7.071, "text_encoder_2": 0.219, "image_encoder": 0.428},
    (16, 4),
    112_500,
    Growth(0, 0, 1_796),
    Growth(0, 0, 206),
)
_LTX = Architecture(
    "ltx",
    ("ltx-video",),
    {"transformer": 1.923, "vae": 1.246, "text_encoder": _T5, "latent_upsampler": 0.252},
    (32, 8),
    66_100,
    Growth(0, 0, 100),
    Growth(0.2 * GB, 0, 47),
    batched=True,
)
_LTX_2 = Architecture(
    "ltx2",
    ("ltx-2",),
    {"transformer": 18.884, "vae": 1.222, "text_encoder": 12.187, "audio_vae": 0.053, "connectors": 1.431,
     "vocoder": 0.056},
    (32, 8),
    370_000,
    Growth(0, 100, 84.4),
    Growth(0.2 * GB, 0, 22.5),
    batched=True,
)  # fmt: skip
_SVD = Architecture(
    "svd",
    ("stable-video-diffusion",),
    {"unet": 1.525, "vae": 0.098, "image_encoder": 0.632},
    (1, 1),  # it has no tokens: for each pixel of each frame
    282,
    Growth(0, 0, 6, 2_048),
    Growth(0, 0, 6, 2_048),  # it has no tiles
    batched=True,
)
_MOCHI = Architecture(
    "mochi",
    ("mochi",),
    {"transformer": 10.028, "vae": 0.46, "text_encoder": _T5},
    (16, 6),
    116_000,
    Growth(0, 5_600, 1_842),
    Growth(0, 0, 201),
    batched=True,
)
ARCHITECTURES = (_WAN, _WAN_5B, _HUNYUAN, _HUNYUAN_15, _LTX, _LTX_2, _SVD, _MOCHI)
