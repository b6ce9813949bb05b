"""The settings of a home: ``dropreel.toml``, checked, with ``DROPREEL_*`` variables above it."""

from __future__ import annotations

import datetime as dt
import importlib.resources
import os
import shlex
import tomllib
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    PrivateAttr,
    StringConstraints,
    ValidationError,
    field_validator,
    model_validator,
)
from pydantic_settings import (
    BaseSettings,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    TomlConfigSettingsSource,
)

from core.contract import GenerationParams
from core.encode.command import EncodeSettings
from core.errors import BadSettings
from core.generate.presets import PRESETS_FILE, Preset, presets_of, shipped_presets
from core.generate.studio import GenerationSettings
from core.home import SETTINGS_FILE, Home
from core.interpolate.methods import InterpolateSettings
from core.limits import ImageLimits, MotionLimits
from core.motion import Size
from core.qa.thresholds import QaThresholds
from core.settings_errors import HOME_VARIABLE, PREFIX, Variables, check_names, explain, not_toml

Role = Literal["mac", "gpu", "both"]


class Section(BaseModel):
    """A table of the settings file; a misspelt key is an error."""

    model_config = ConfigDict(extra="forbid")


class HotFolderSettings(Section):
    """What the operator drops, and when it is taken."""

    folder: Path | None = None
    """Another place for the hot folder than ``mac/__video_keyframes``."""
    settle_seconds: float = Field(default=2.0, ge=0)
    """A group is taken when none of its files has changed for so long."""
    sidecar_grace_seconds: float = Field(default=10.0, ge=0)
    """An image without a sidecar waits so long for one."""
    sidecar_required: bool = False
    """Whether it then waits on, or is taken as static,"""
    static_seconds: float = Field(default=4.0, gt=0)
    """for so long."""
    incomplete_seconds: float = Field(default=30.0, ge=0)
    """A file that looks half-copied is set aside when it has not grown for so long."""
    batch_seconds: float = Field(default=5.0, ge=0)
    """A batch is closed when nothing new has settled for so long,"""
    batch_max: int = Field(default=50, ge=1, le=1000)
    """or when it has so many keyframes."""


Side = Annotated[int, Field(ge=16, le=8192, multiple_of=2)]
"""Pixels; even, because 4:2:0 video is."""


class OutputSettings(Section):
    """The delivered clip."""

    portrait: tuple[Side, Side] = (576, 1024)
    landscape: tuple[Side, Side] = (1024, 576)
    fps: int = Field(default=30, ge=1, le=120)

    def size_for(self, image: Size) -> Size:
        """The output size for an image of this shape; a square one is landscape."""
        return self.portrait if image[1] > image[0] else self.landscape

    def asked_by(self, params: GenerationParams, image: Size) -> Size:
        """The size that a manifest entry asks for; what it leaves out is as for any image of this shape."""
        width, height = self.size_for(image)
        return params.width or width, params.height or height


Host = Annotated[str, StringConstraints(pattern=r"^([A-Za-z0-9:.][A-Za-z0-9:._-]*)?$")]
"""A host's name or address; it ends up in a configuration file of ssh, so nothing else can be in it."""


class TransportSettings(Section):
    """How the two halves reach each other."""

    kind: Literal["local", "rsync"] = "local"
    """``local``: both halves are in this home; ``rsync``: the server is another machine, reached by ssh."""
    host: Host = ""
    port: int = Field(default=22, ge=1, le=65535)
    user: Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_][A-Za-z0-9._-]*$")] = "dropreel"
    keys: Path = Path("ssh")
    """The folder of ``inbox_ed25519``, ``outbox_ed25519`` and ``known_hosts``: in the home, or absolute."""
    rsync: str = "rsync"
    """This machine's rsync: a name, or a path."""
    bandwidth_kib: int = Field(default=0, ge=0)
    """KiB a second, each way; 0 is no limit."""
    look_seconds: float = Field(default=5.0, gt=0)
    """How often the server is asked what it has."""
    resend_seconds: float = Field(default=60.0, gt=0)
    """A batch that the server has not acknowledged is sent again after so long."""

    @model_validator(mode="after")
    def _has_host(self) -> Self:
        if self.kind == "rsync" and not self.host:
            raise ValueError('kind = "rsync" needs the server\'s host')
        return self


WORKER_NAME = r"[A-Za-z0-9][A-Za-z0-9_-]{0,31}"
WorkerName = Annotated[str, StringConstraints(pattern=f"^{WORKER_NAME}$")]
Workers = Annotated[list[WorkerName], Field(min_length=1)]


class RoomBounds(Section):
    """How many clips may wait in a room before the one in front holds back; frames are large."""

    interpolate: int = Field(default=4, ge=1)
    qa: int = Field(default=4, ge=1)
    encode: int = Field(default=4, ge=1)

    def of(self, stage: str) -> int | None:
        """A room's bound; None for ``intake`` and ``generate``, whose clips are small and many."""
        bound: int | None = getattr(self, stage, None)
        return bound


class RoomWorkers(Section):
    """The workers that ``dropreel up`` starts in each room."""

    generate: Workers = ["gpu0"]
    interpolate: Workers = ["gpu0"]
    qa: Workers = ["cpu0"]
    encode: Workers = ["cpu0"]

    @field_validator("*")
    @classmethod
    def _differ(cls, names: list[str]) -> list[str]:
        if len(set(names)) < len(names):
            raise ValueError("two workers of a room have one name")
        return names

    def of(self, stage: str) -> list[str]:
        """A room's workers."""
        names: list[str] = getattr(self, stage)
        return names


class RoomSettings(Section):
    """How clips wait and who works on them."""

    bounds: RoomBounds = RoomBounds()
    workers: RoomWorkers = RoomWorkers()
    max_attempts: int = Field(default=5, ge=1)
    max_regenerations: int = Field(default=0, ge=0, le=10)
    """So many seeds more a model is given for a keyframe whose clips fail QA, without anybody asking."""


class DiskSettings(Section):
    """When a disk is too full to begin anything."""

    low_water_mb: int = Field(default=2048, ge=0)
    """With less free than this nothing new is begun."""
    high_water_mb: int = Field(default=4096, ge=0)
    """Having stopped so, it goes on when so much is free again."""
    clip_max_mb: int = Field(default=8192, ge=1)
    """A clip whose delivered frames take more, as they lie between the stages, is refused."""

    @model_validator(mode="after")
    def _is_above(self) -> Self:
        if self.high_water_mb < self.low_water_mb:
            raise ValueError("high_water_mb is below low_water_mb")
        return self


class PruneSettings(Section):
    """What ``dropreel prune`` deletes, by age in days; 0 keeps it for ever."""

    sent_days: int = Field(default=0, ge=0)
    """On the Mac: originals in ``sent/`` whose clips have all come back well."""
    failed_days: int = Field(default=30, ge=0)
    """On the server: clips and batches that were given up."""
    memory_days: int = Field(default=90, ge=0)
    """On both: what is remembered of batches long done, by which a repeat is known."""
    log_days: int = Field(default=90, ge=0)
    """Logs that are no longer written to."""


class NotifySettings(Section):
    """Who is told of trouble."""

    urls: list[str] = []
    """Where to, in Apprise's notation: ``macosx://``, ``json://host/path``, ``mailtos://…``; none, and nobody is."""
    quiet_from: dt.time | None = None
    """From this time of the day, local, what can wait is held back,"""
    quiet_until: dt.time | None = None
    """until this one."""
    repeat_hours: float = Field(default=6.0, gt=0)
    """A trouble that lasts is told again after so long."""
    link_minutes: float = Field(default=5.0, gt=0)
    """A server that does not answer for so long is trouble;"""
    stalled_minutes: float = Field(default=20.0, gt=0)
    """so is a room whose oldest clip waits or is worked on for so long."""

    @model_validator(mode="after")
    def _both(self) -> Self:
        if (self.quiet_from is None) != (self.quiet_until is None):
            raise ValueError("quiet_from and quiet_until go together")
        return self


class MetricsSettings(Section):
    """Figures for Prometheus."""

    folder: Path | None = None
    """Where the ``.prom`` files go, for node_exporter's textfile collector; without, to ``state/metrics``."""
    gpu_dollars_per_hour: float = Field(default=0.40, ge=0)
    """What an hour of one GPU costs."""


class DaemonSettings(Section):
    """What all daemons have in common."""

    poll: bool = False
    """No file-system events: for network shares. The folders are then looked at every ``poll_seconds``."""
    poll_seconds: float = Field(default=1.0, gt=0)
    scan_seconds: float = Field(default=10.0, gt=0)
    """With events on, the folders are looked at this often all the same."""
    stop_seconds: float = Field(default=10.0, gt=0)
    """A daemon told to stop leaves within so long."""
    watchdog_seconds: float = Field(default=60.0, gt=0)
    """``dropreel up`` kills a daemon whose work loop says nothing for so long."""


class Settings(BaseSettings):
    """``dropreel.toml``."""

    model_config = SettingsConfigDict(extra="forbid", env_prefix=PREFIX, env_nested_delimiter="__")

    role: Role = "both"
    project_id: str = "video_gen_001"
    hot_folder: HotFolderSettings = HotFolderSettings()
    output: OutputSettings = OutputSettings()
    generation: GenerationSettings = GenerationSettings()
    motion: MotionLimits = MotionLimits()
    image: ImageLimits = ImageLimits()
    transport: TransportSettings = TransportSettings()
    rooms: RoomSettings = RoomSettings()
    disk: DiskSettings = DiskSettings()
    interpolate: InterpolateSettings = InterpolateSettings()
    qa: QaThresholds = QaThresholds()
    encode: EncodeSettings = EncodeSettings()
    daemons: DaemonSettings = DaemonSettings()
    prune: PruneSettings = PruneSettings()
    notify: NotifySettings = NotifySettings()
    metrics: MetricsSettings = MetricsSettings()
    _presets: dict[str, Preset] = PrivateAttr(default_factory=shipped_presets)

    @property
    def presets(self) -> dict[str, Preset]:
        """The model presets by name: the shipped ones and the home's own."""
        return self._presets

    def adopt(self, presets: dict[str, Preset]) -> None:
        """Take these presets. Raises ``BadSettings`` where ``generation.model`` is none of them."""
        if self.generation.model not in presets:
            raise BadSettings(f"generation.model: there is no preset '{self.generation.model}'. Choose one of: "
                              f"{', '.join(sorted(presets))}; or add its table to {PRESETS_FILE}.")  # fmt: skip
        self._presets = presets

    @property
    def mac(self) -> bool:
        """Whether this home has the operator's half."""
        return self.role != "gpu"

    @property
    def gpu(self) -> bool:
        """Whether this home has the server's half."""
        return self.role != "mac"


def load_settings(root: Path) -> tuple[Settings, Home]:
    """Read a home's settings. Raises ``BadSettings`` that names the file or the variable, the key and the remedy."""
    root = root.absolute()
    file = root / SETTINGS_FILE
    if not file.is_file():
        raise BadSettings(f'There is no {SETTINGS_FILE} in "{root}". Make a home with `dropreel init '
                          f"{shlex.quote(str(root))}`, or name one with --home or {HOME_VARIABLE}.")  # fmt: skip
    check_names(Settings)

    class FromFile(Settings):
        @classmethod
        def settings_customise_sources(
            cls,
            settings_cls: type[BaseSettings],
            init_settings: PydanticBaseSettingsSource,
            env_settings: PydanticBaseSettingsSource,  # noqa: ARG003 - the signature is pydantic's
            dotenv_settings: PydanticBaseSettingsSource,  # noqa: ARG003 - the signature is pydantic's
            file_secret_settings: PydanticBaseSettingsSource,  # noqa: ARG003 - the signature is pydantic's
        ) -> tuple[PydanticBaseSettingsSource, ...]:
            return init_settings, Variables(settings_cls), TomlConfigSettingsSource(settings_cls, file)

    try:
        settings = FromFile()
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise BadSettings(not_toml(error, file)) from None
    except ValidationError as error:
        raise BadSettings(explain(error.errors(include_url=False)[0], Settings, file)) from None
    settings.adopt(presets_of(root))
    root = Path(os.path.realpath(root))
    hot = settings.hot_folder.folder
    return settings, Home(root, (root / hot.expanduser()) if hot else None)


def default_file(name: str) -> str:
    """The text of a file in ``config/``."""
    return importlib.resources.files("config").joinpath(name).read_text(encoding="utf-8")
