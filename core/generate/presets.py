"""The model presets as checked tables: what a model is, what it takes, and how it is run on a card."""

from __future__ import annotations

import importlib.resources
import re
import tomllib
from fractions import Fraction
from functools import cache
from pathlib import Path
from typing import Annotated, Any, Literal, Self, get_args

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    StringConstraints,
    ValidationError,
    field_validator,
    model_validator,
)

from core.errors import BadSettings

PRESETS_FILE = "presets.toml"
"""In a home, beside ``dropreel.toml``: tables that join the shipped ones, or stand in for one of the same name."""
PRESET_NAME = r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}"

FamilyName = Literal["camera", "wan", "hunyuan", "hunyuan15", "ltx", "ltx2", "svd", "mochi"]
Parameter = Literal[
    "motion_bucket_id",
    "noise_aug_strength",
    "decode_chunk_size",
    "num_inference_steps",
    "min_guidance_scale",
    "max_guidance_scale",
    "camera_motion",
]
"""What a manifest's ``generation_params`` may ask of a model, beside the output, the seed and the rectangles."""
PARAMETERS: tuple[Parameter, ...] = get_args(Parameter)
HONOURED = "honoured"
Dtype = Literal["bf16", "fp16", "fp32"]
Limit = Annotated[float | None, BeforeValidator(lambda given: None if given == "off" else given)]
"""A limit of a check; ``"off"`` in a file, and then it is not looked at."""
HubId = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*/[A-Za-z0-9][A-Za-z0-9._-]*$")]


class Table(BaseModel):
    """A table of a presets file; a misspelt key is an error."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class Source(Table):
    """Where weights come from: a repository of the hub, or a folder."""

    hub: HubId | None = None
    revision: str = "main"
    """Of the hub; the commit that was used is recorded with every clip."""
    folder: Path | None = None
    """Instead of the hub: absolute, or in the folder that ``generation.weights`` names."""
    files: tuple[str, ...] = ()
    """Which files, as glob patterns; without any, what ``model_index.json`` names. Only safetensors are weights."""
    file: str | None = None
    """One safetensors file that is the whole of it, for a component in its makers' own layout;"""
    config: str | None = None
    """the folder of the preset's own weights whose ``config.json`` then says what it is, such as ``transformer``."""

    @model_validator(mode="after")
    def _is_one_place(self) -> Self:
        if (self.hub is None) == (self.folder is None):
            raise ValueError("name either hub or folder")
        if self.file and not self.file.endswith(".safetensors"):
            raise ValueError("file must be a .safetensors: other files can run code when they are opened")
        return self


class Canvas(Table):
    """How large the picture is that the model makes."""

    pixels: int = Field(default=1024 * 576, ge=256)
    """The area that it is asked for where nothing needs more."""
    pixels_max: int = Field(default=1280 * 720, ge=256)
    """The largest area that it can make on the cards that the preset is for."""
    resolution_min: float = Field(default=0.5, gt=0, le=4)
    """Pixels of the canvas for each pixel of the output, each way, where the camera is closest; the canvas grows
    for it up to ``pixels_max``, and what needs more is refused."""

    @model_validator(mode="after")
    def _is_in_order(self) -> Self:
        if self.pixels > self.pixels_max:
            raise ValueError("pixels is above pixels_max")
        return self


class Schedule(Table):
    """The noise levels of the steps. Without anything the weights' own scheduler decides."""

    scheduler: str | None = None
    """A scheduler class of diffusers that takes the place of the weights' own."""
    shift: float | None = Field(default=None, gt=0)
    """The flow shift."""
    sigmas: tuple[float, ...] = ()
    """The exact levels, before the shift: for models distilled to few steps, which work on no others."""
    timesteps: tuple[float, ...] = ()
    """Or the exact timesteps, after it, 0..1000."""


class Memory(Table):
    """How a component lives on the card."""

    storage: Literal["as_is", "fp8", "fp8_matmul"] = "as_is"
    """``fp8``: kept in float8_e4m3 and widened as each layer runs; ``fp8_matmul``: multiplied as float8 too, by
    torchao, on cards of compute capability 8.9 or more; faster only with ``compile``."""
    residency: Literal["card", "turn", "blocks"] = "card"
    """``card``: it stays; ``turn``: it is on the card while it works; ``blocks``: only the block that works is."""
    host: Literal["mapped", "pinned"] = "mapped"
    """For ``turn`` and ``blocks``: kept as the file's own pages, which all workers share, or in page-locked memory,
    which is faster to copy."""

    @model_validator(mode="after")
    def _is_one_mechanism(self) -> Self:
        if self.residency == "blocks" and self.storage != "as_is":
            raise ValueError("blocks moves what is stored as it is: one mechanism a component")
        if self.storage == "fp8_matmul" and self.residency != "card":
            raise ValueError("fp8_matmul is quantised where it works: it stays on the card")
        return self


class Upsampler(Table):
    """The second of two passes: the first one's latents, enlarged, and a few steps more."""

    source: Source
    timesteps: tuple[float, ...] = Field(min_length=1)
    """Of the second pass, 0..1000; the first is at half the canvas's sides, by the preset's own schedule."""
    denoise: float = Field(default=0.999, gt=0, le=1)
    """The share of these timesteps that is run; below 1 the first is only the level of noise to begin with."""
    adain: float = Field(default=1.0, ge=0, le=1)
    """How far the enlarged latents' means and spreads are brought back to the first pass's."""
    tone_map: float = Field(default=0.6, ge=0, le=1)
    """How far extreme latents are compressed."""


class StepCache(Table):
    """Skipping the blocks of a step whose first block says that little has changed."""

    threshold: float = Field(default=0.05, gt=0)
    """By what share the first block's output may have changed since the step that was last run in full."""


class Lora(Table):
    """Weights added to a component before the first clip, and fused into it."""

    source: Source
    component: str = "transformer"
    weight: float = 1.0


class FirstFrame(Table):
    """How close the first frame must be to the picture that the model was given: SSIM, -1..1."""

    error: Limit = 0.4
    """Below it the clip is tried again: it shows something else."""
    flag: Limit = 0.8
    """Below it the clip is delivered flagged."""


class Drift(Table):
    """How far brightness and colour may wander from the first frame's."""

    flag: Limit = 0.15
    """Share of the mean linear light that may come or go by the end, in any channel."""
    correct: bool = False
    """Whether each frame's channels are scaled back to the first frame's means."""


class Licence(Table):
    """Under which terms the weights may be used."""

    name: str
    url: str
    excludes: tuple[str, ...] = ()
    """Regions in which they may not: ``EU``, ``UK``, ``KR``."""
    note: str = ""


class Prompt(Table):
    """What is said to the model beside the picture."""

    template: str = "{caption} {motion} {camera}"
    """``{caption}`` is the caption, or the settings' ``prompt``; ``{motion}`` how much moves, where the manifest says
    so; ``{camera}`` what the camera does."""
    negative: str = ""
    """What the picture should not be; only with guidance above 1."""
    max_tokens: int = Field(default=512, ge=64)
    """So many tokens the model is given: a longer caption is cut."""

    @field_validator("template")
    @classmethod
    def _has_known_places(cls, given: str) -> str:
        unknown = set(re.findall(r"\{[^{}]*\}", given)) - {"{caption}", "{motion}", "{camera}"}
        if unknown:
            raise ValueError(f"{', '.join(sorted(unknown))}: a template has places for {{caption}}, {{motion}} and "
                             "{camera}")  # fmt: skip
        return given


class Preset(Table):
    """One table of a presets file."""

    name: str
    family: FamilyName
    weights: Source | None = None
    components: dict[str, Source] = {}
    """Components that come from elsewhere than ``weights``."""
    tiny_decoder: Source | None = None
    """A small decoder (TAEHV) in the place of the model's own: much faster, a little softer."""
    dtype: Dtype = "bf16"
    vae_dtype: Dtype = "fp32"
    canvas: Canvas = Canvas()
    rate: Fraction = Fraction(24)
    """Frames a second at which the model's motion looks natural."""
    frames_max: int = Field(default=97, ge=2)
    """How many frames it makes at most, on the cards that the preset is for."""
    long: Literal["refuse", "stretch"] = "refuse"
    """What becomes of a clip that needs more frames: refused, or the most there are, shown more slowly,"""
    stretch_max: float = Field(default=1.0, ge=1, le=4)
    """by at most this factor, which is recorded."""
    steps: int = Field(default=30, ge=1, le=200)
    guidance: float = Field(default=1.0, ge=0, le=30)
    guidance_low: float | None = Field(default=None, ge=0, le=30)
    """Of the second of two experts."""
    schedule: Schedule = Schedule()
    memory: dict[str, Memory] = {}
    """By component; what is not named stays on the card."""
    text_encoder: Literal["card", "turn", "cpu"] = "turn"
    """Where prompts are encoded: an encoder that stays, one that is loaded for each phase and let go, or on the CPU."""
    vae_tiling: bool = False
    attention: str = "native"
    compile: bool = False
    cache: StepCache | None = None
    loras: tuple[Lora, ...] = ()
    upsampler: Upsampler | None = None
    camera: Literal["path", "virtual", "endpoints"] = "virtual"
    """``path``: it is rendered straight from the still; ``virtual``: a still camera's frames are filmed afterwards;
    ``endpoints``: the model is given the first and the last view and finds its way between them."""
    path_flag: float = Field(default=0.05, gt=0)
    """``endpoints``: how far, in pictures, the achieved path may be from the asked one before it is flagged."""
    first_frame: FirstFrame = FirstFrame()
    drift: Drift = Drift()
    prompt: Prompt = Prompt()
    parameters: dict[Parameter, str] = {}
    """What is honoured (``honoured``), or translated, and to what (``translated: …``); all others are refused."""
    studio: tuple[Parameter, ...] = ()
    """Which of them ``keyframes`` writes from the studio's settings."""
    call: dict[str, Any] = {}
    """Arguments of the family's own for every clip, such as ``decode_timestep``."""
    together: int = Field(default=1, ge=1, le=64)
    """How many waiting clips pass one expert before the next is brought onto the card."""
    approximate: str = ""
    """Said where the model only imitates what the manifest asks for; refused unless the settings allow it."""
    licence: Licence | None = None

    @field_validator("rate", mode="before")
    @classmethod
    def _as_fraction(cls, given: object) -> Fraction:
        try:
            rate = Fraction(given if isinstance(given, (int, str, Fraction)) and not isinstance(given, bool) else "")
        except (ValueError, ZeroDivisionError):
            raise ValueError('a rate is a whole number or a text such as "24000/1001"') from None
        if rate <= 0:
            raise ValueError("a rate is above 0")
        return rate

    @field_validator("parameters")
    @classmethod
    def _say_what(cls, given: dict[Parameter, str]) -> dict[Parameter, str]:
        for parameter, word in given.items():
            if not re.fullmatch(r"honoured|translated: \S.*", word):
                raise ValueError(f'{parameter} is "honoured" or "translated: to what"; what is left out is refused')
        return given

    @model_validator(mode="after")
    def _holds_together(self) -> Self:
        if (self.family == "camera") != (self.weights is None):
            raise ValueError("a model needs weights, and the camera has none")
        if (self.family == "camera") != (self.camera == "path"):
            raise ValueError('only the family "camera" renders the path itself')
        if self.together > 1 and self.cache is not None:
            raise ValueError("a step cache cannot follow clips that take turns: together and cache exclude each other")
        if refused := set(self.studio) - set(self.parameters):
            raise ValueError(f"studio names what parameters leaves out: {', '.join(sorted(refused))}")
        for name in ("sigmas", "timesteps"):
            levels = getattr(self.schedule, name)
            if levels and len(levels) != self.steps:
                raise ValueError(f"schedule.{name} needs one level a step: {len(levels)} for {self.steps} steps")
        for name, source in self.components.items():
            if source.file and not source.config:
                raise ValueError(f"components.{name}: a single file needs config: nothing is guessed, and nothing is "
                                 "asked of the network")  # fmt: skip
        if self.weights and self.weights.file:
            raise ValueError("weights are a folder of components; a single file is one of the components")
        return self

    @model_validator(mode="after")
    def _suits_its_family(self) -> Self:
        if self.family == "camera":
            return self
        from core.generate.family import family  # it knows presets itself

        kind = family(self.family)
        if unknown := set(self.call) - kind.call_keys:
            raise ValueError(f"call.{min(unknown)}: the family '{self.family}' knows no such argument. It knows: "
                             f"{', '.join(sorted(kind.call_keys)) or 'none'}")  # fmt: skip
        if self.camera == "endpoints" and not kind.takes_last:
            raise ValueError(f'camera: the family "{self.family}" takes no last frame, which endpoints gives it')
        if "_hub" in self.attention:
            raise ValueError("attention: a backend of the hub is code that is fetched while it runs; install one here, "
                             'such as "sage" or "flash"')  # fmt: skip
        if kind.one_dtype and self.vae_dtype != self.dtype:
            raise ValueError(f"vae_dtype: the family '{self.family}' hands its decoder what the model made, so it is "
                             f'dtype\'s: "{self.dtype}"')  # fmt: skip
        if self.cache is not None and not kind.step_cache:
            raise ValueError(f'cache: the family "{self.family}" runs every step whole: leave it out')
        if self.upsampler is not None and self.family != "ltx":
            raise ValueError('upsampler: only the family "ltx" makes two passes')
        return self

    @property
    def honoured(self) -> frozenset[Parameter]:
        """The parameters that the model is given as they are."""
        return frozenset(name for name, word in self.parameters.items() if word == HONOURED)

    @property
    def fixed_steps(self) -> bool:
        """Whether the model works on these very noise levels and no others."""
        return bool(self.schedule.sigmas or self.schedule.timesteps)


def read_presets(text: str, file: str) -> dict[str, Preset]:
    """The tables of a presets file, by name. Raises ``BadSettings`` with the file, the table, the key, the remedy."""
    try:
        tables = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise BadSettings(f"{file} is not TOML: {error}. Mend the syntax.") from None
    found = {}
    for name, table in tables.items():
        if not re.fullmatch(PRESET_NAME, name) or not isinstance(table, dict):
            raise BadSettings(f"{file}: '{name}' is no preset: a table called by letters, digits, '_' and '-', in "
                              "quotes where there is a '.' in its name.")  # fmt: skip
        if "name" in table:
            raise BadSettings(f"{file}: {name}.name: there is no such key. A preset is called as its table is.")
        try:
            found[name] = Preset.model_validate(table | {"name": name})
        except ValidationError as error:
            raise BadSettings(f"{file}: {_told(name, error)}. docs/reference/presets.md says what each key "
                              "means.") from None  # fmt: skip
    return found


def _told(name: str, error: ValidationError) -> str:
    """The key that is wrong, and why; of several one that does not exist, from which the others may follow."""
    problems = error.errors(include_url=False)
    problem = next((each for each in problems if each["type"] == "extra_forbidden"), problems[0])
    key = ".".join(str(part) for part in (name, *problem["loc"]) if part != "[key]")
    match problem["type"]:
        case "extra_forbidden":
            hint = "; a preset's name that holds a '.' stands in quotes" if isinstance(problem["input"], dict) else ""
            return f"{key}: there is no such key{hint}"
        case "missing":
            return f"{key}: it is missing"
        case "value_error":  # one of our own rules
            return f"{key}: {problem['ctx']['error']}"
    return f"{key}: {problem['msg']} (got {str(problem['input'])[:80]})"


@cache
def shipped_presets() -> dict[str, Preset]:
    """The presets of ``config/presets.toml``."""
    text = importlib.resources.files("config").joinpath(PRESETS_FILE).read_text(encoding="utf-8")
    return read_presets(text, f"config/{PRESETS_FILE}")


def presets_of(root: Path) -> dict[str, Preset]:
    """The presets of a home: the shipped ones and its own. Raises ``BadSettings``, ``OSError``."""
    own = root / PRESETS_FILE
    if not own.is_file():
        return shipped_presets()
    try:
        text = own.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise BadSettings(f"{own} is not UTF-8: {error}. Save it as UTF-8.") from None
    return shipped_presets() | read_presets(text, str(own))
