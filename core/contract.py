"""Every JSON file in the system as a versioned model; ``dropreel schema`` publishes their JSON Schemas."""

from __future__ import annotations

import datetime as dt
import hashlib
import re
import unicodedata
from collections import Counter
from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import Annotated, Any, Literal, Self, TypeVar

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    StringConstraints,
    ValidationError,
    model_validator,
)

from core.errors import Finding, Refused
from core.motion import CameraPath, Easing, MotionType, Rect

MAX_JSON_BYTES = 8 << 20
"""No JSON file of ours comes near this; a larger one is refused unread."""

BATCH_ID = r"[0-9]{8}_[0-9]{6}"
BATCH_ID_FORMAT = "%Y%m%d_%H%M%S"
CLIP_ID = rf"{BATCH_ID}-[0-9]{{3,6}}-[0-9a-f]{{8}}(-r[0-9]{{1,4}})?"
ClipId = Annotated[str, StringConstraints(pattern=f"^{CLIP_ID}$")]
Sha256 = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
WireName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}$")]
"""A file name that is the same on every file system and in every shell."""


MAX_PATH_BYTES = 4096
"""No file system takes a longer path."""
MAX_TRIED_SEEDS = 1000
"""An entry names so many at most; every run carries them along."""
MAX_NAMES = 1000
"""So many files of one folder are named where it is set aside."""
MAX_FILES = 8
"""An entry has a picture, a sidecar and a caption; all that it has is in memory at once when it is taken in."""


def _plain_name(name: str) -> str:
    if not name or "/" in name or "\0" in name or name.startswith(".") or len(name.encode()) > 255:
        raise ValueError("must be a file name, not hidden and without folders")
    return name


def _relative_path(path: str) -> str:
    if not path or "\0" in path or "\\" in path or PurePosixPath(path).is_absolute() or re.match("[A-Za-z]:", path):
        raise ValueError("must be a relative path with forward slashes")
    if len(path.encode()) > MAX_PATH_BYTES:
        raise ValueError(f"must not be longer than {MAX_PATH_BYTES} bytes")
    parts = PurePosixPath(path).parts
    if ".." in parts:
        raise ValueError("must not climb out of its folder with '..'")
    for name in parts or ("",):
        _plain_name(name)
    return path


def batch_moment(name: str) -> dt.datetime | None:
    """The moment that a batch's id names; None where the name is no batch's."""
    if not re.fullmatch(BATCH_ID, name):
        return None
    try:
        return dt.datetime.strptime(name, BATCH_ID_FORMAT).replace(tzinfo=dt.UTC)
    except ValueError:
        return None


def _batch_id(name: str) -> str:
    if batch_moment(name) is None:
        raise ValueError("must be a moment, as YYYYMMDD_HHMMSS")
    return name


BatchId = Annotated[str, StringConstraints(pattern=f"^{BATCH_ID}$"), AfterValidator(_batch_id)]
"""``YYYYMMDD_HHMMSS``, UTC."""
PlainName = Annotated[str, AfterValidator(_plain_name)]
RelativePath = Annotated[str, AfterValidator(_relative_path)]
Seconds = Annotated[float, Field(gt=0, le=3600)]
SEEDS = 1 << 63
"""Seeds are 0 to one less."""
Seed = Annotated[int, Field(ge=0, lt=SEEDS)]


class Record(BaseModel):
    """What all our files share: no unknown keys, no NaN, a version."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)

    def to_json(self) -> bytes:
        """UTF-8 JSON, indented, absent values left out. Raises ``Refused`` rather than make what ``parse`` would."""
        data = (self.model_dump_json(indent=1, exclude_none=True) + "\n").encode()
        _check_length(data, type(self).__name__, "Make it of fewer parts: split the batch.")
        return data


class MotionSidecar(Record):
    """``<stem>.motion.json``: the camera move that the motion tool drew over a keyframe."""

    keyframe: Rect
    """The studio's existing crop; information only."""
    motion_type: MotionType
    motion_intensity: float = Field(ge=0, le=1)
    start_frame: Rect
    end_frame: Rect
    duration_sec: Seconds
    easing: Easing = Easing.ease_in_out
    schema_version: Literal[1] = 1

    @property
    def motion(self) -> Motion:
        """The camera move alone."""
        return Motion(
            type=self.motion_type,
            start_rect=self.start_frame,
            end_rect=self.end_frame,
            duration_sec=self.duration_sec,
            easing=self.easing,
        )

    def moved(self, motion: Motion) -> MotionSidecar:
        """The same sidecar with another camera move."""
        change = {
            "motion_type": motion.type,
            "start_frame": motion.start_rect,
            "end_frame": motion.end_rect,
            "duration_sec": motion.duration_sec,
            "easing": motion.easing,
        }
        return self.model_copy(update=change)


class Motion(Record):
    """The camera move of one clip; rectangles are (x1, y1, x2, y2), 0..1 of the whole upright image."""

    type: MotionType
    start_rect: Rect
    end_rect: Rect
    duration_sec: Seconds
    easing: Easing = Easing.ease_in_out

    @property
    def path(self) -> CameraPath:
        """The same move as the renderer takes it."""
        return CameraPath(self.start_rect, self.end_rect, self.easing)


class GenerationParams(Record):
    """How to make a clip; what a manifest leaves out, the preset decides and the meta records."""

    model: Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")]
    fps: int = Field(default=30, ge=1, le=120)
    """The delivered rate; a model's own rate belongs to its preset."""
    seed: Seed | None = None
    width: int | None = Field(default=None, ge=16, le=8192, multiple_of=2)
    height: int | None = Field(default=None, ge=16, le=8192, multiple_of=2)
    motion_bucket_id: int | None = Field(default=None, ge=0, le=255)
    noise_aug_strength: float | None = Field(default=None, ge=0, le=1)
    decode_chunk_size: int | None = Field(default=None, ge=1, le=1024)
    num_inference_steps: int | None = Field(default=None, ge=1, le=1000)
    min_guidance_scale: float | None = Field(default=None, ge=0, le=100)
    max_guidance_scale: float | None = Field(default=None, ge=0, le=100)
    camera_motion: MotionType | None = None
    start_rect: Rect | None = None
    end_rect: Rect | None = None


class PayloadFile(Record):
    """A file that travels with a manifest entry: its name here, its name on the wire, and what it must be."""

    name: PlainName
    """As the operator calls it, in any alphabet."""
    path: WireName
    """Beside the manifest."""
    size: int = Field(ge=0)
    sha256: Sha256
    inode: int
    mtime_ns: int
    """``inode`` and ``mtime_ns`` tell the Mac whether the file in the hot folder is still the one it took."""


class Keyframe(Record):
    """One entry of a manifest: a keyframe and what is to be made of it."""

    image_path: RelativePath
    motion: Motion
    generation_params: GenerationParams
    files: Annotated[list[PayloadFile], Field(max_length=MAX_FILES)] = []
    """The image first, then its companions; empty in a manifest written by hand."""
    priority: int = Field(default=0, ge=-100, le=100)
    tried_seeds: Annotated[list[Seed], Field(max_length=MAX_TRIED_SEEDS)] = []
    """Seeds of which no good clip came, in the order of the tries; ``next_try`` adds to them."""

    @model_validator(mode="after")
    def _payload_is_this_image(self) -> Self:
        if self.files and self.files[0].name != PurePosixPath(self.image_path).name:
            raise ValueError("files[0] must be the image that image_path names")
        return self

    @property
    def image_name(self) -> str:
        """The image's name beside the manifest."""
        return self.files[0].path if self.files else PurePosixPath(self.image_path).name

    @property
    def stem(self) -> str:
        """What the operator calls the clip, in Unicode NFC: a Mac and a server may spell one name differently."""
        return unicodedata.normalize("NFC", PurePosixPath(self.image_path).stem)


class Manifest(Record):
    """``manifest.json``: one batch."""

    project_id: Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")]
    batch_id: BatchId
    keyframes: list[Keyframe] = Field(min_length=1, max_length=10_000)
    schema_version: Literal[1] = 1

    @model_validator(mode="after")
    def _stems_are_unique(self) -> Self:
        twice = [stem for stem, n in Counter(entry.stem.casefold() for entry in self.keyframes).items() if n > 1]
        if twice:
            raise ValueError(f"two entries would make clips of one name: {', '.join(sorted(twice))}")
        return self

    @model_validator(mode="after")
    def _files_are_unique(self) -> Self:
        # Else one picture on the line would be ten thousand on the server's disk.
        twice = [path for path, n in Counter(file.path for e in self.keyframes for file in e.files).items() if n > 1]
        if twice:
            raise ValueError(f"a file belongs to two entries: {', '.join(sorted(twice)[:5])}")
        return self


class StageRecord(Record):
    """What a stage says of a clip when it is done with it."""

    seconds: float
    finished_at: dt.datetime
    worker: str
    attempts: int
    details: dict[str, Any] = {}


Verdict = Literal["pass", "flag", "fail"]


def verdict_of(reasons: Sequence[Finding]) -> Verdict:
    """What all the reasons come to: an error fails a clip, a warning flags it for a human."""
    severities = {reason.severity for reason in reasons}
    return "fail" if "error" in severities else "flag" if "warning" in severities else "pass"


class QaReport(Record):
    """What QA says of a clip's frames."""

    verdict: Verdict
    reasons: list[Finding] = []
    measures: dict[str, float | int | str | None] = {}
    screened: str
    """Against what the frames were screened for flashes; never a certification."""
    evidence: list[str] = []
    """Names of pictures in the clip's folder that show what is wrong."""


class Failure(Record):
    """``failure.json``: why a clip was given up."""

    stage: str
    code: str
    message: str
    remedy: str | None = None
    attempts: int = 1
    failed_at: dt.datetime


class Clip(Record):
    """``clip.json``: all that is known of a clip while it walks through the rooms."""

    schema_version: Literal[1] = 1
    clip_id: ClipId
    run: int = Field(default=1, ge=1)
    batch_id: BatchId
    entry: Keyframe
    image: WireName
    """The keyframe's file in the clip's folder."""
    seed: int
    """The entry's, or one derived from the keyframe where the entry names none."""
    taken_at: dt.datetime
    attempts: dict[str, int] = {}
    """How often each stage was begun and not finished; a stage's count goes when it is done."""
    stages: dict[str, StageRecord] = {}
    qa: QaReport | None = None
    failure: Failure | None = None


class DeliveredFile(Record):
    """A file of a result, and what it must be on arrival."""

    path: WireName
    size: int = Field(ge=0)
    sha256: Sha256


class VideoMeta(Record):
    """``<stem>.video_meta.json``: what was made of a keyframe, how, and how good it is; written last."""

    schema_version: Literal[1] = 1
    clip_id: ClipId
    run: int
    batch_id: BatchId
    outcome: Verdict
    entry: Keyframe
    seed: int
    files: list[DeliveredFile] = []
    """The clip first, then its evidence; empty where the clip failed."""
    frames: int | None = None
    fps: int | None = None
    width: int | None = None
    height: int | None = None
    plan: dict[str, Any] = {}
    """What the server had to choose: the same entry and plan make the same clip again."""
    stages: dict[str, StageRecord] = {}
    versions: dict[str, str] = {}
    qa: QaReport | None = None
    failure: Failure | None = None


class EntryOutcome(Record):
    """What the server made of one manifest entry."""

    image_path: str
    clip_id: ClipId | None = None
    """None where the entry was refused; ``findings`` says why."""
    findings: list[Finding] = []


class BatchAck(Record):
    """``gpu/outbox/acks/<batch_id>.json``: the server has this batch, or will not have it."""

    schema_version: Literal[1] = 1
    batch_id: BatchId
    manifest_sha256: Sha256
    entries: list[EntryOutcome]
    refused: Finding | None = None
    """Why the batch as a whole was not taken."""


class ResultAck(Record):
    """``gpu/inbox/acks/<clip_id>.json``: the Mac has this result, these bytes; the server may let go of it."""

    schema_version: Literal[1] = 1
    clip_id: ClipId
    run: int
    meta_sha256: Sha256
    sha256s: dict[WireName, Sha256]


class Rejection(Record):
    """``rejected/<name>/reason.json``: why a drop was set aside, and what to do about it."""

    code: str
    message: str
    field: str | None = None
    remedy: str | None = None
    files: list[str] = []
    """At most ``MAX_NAMES`` of them."""
    rejected_at: dt.datetime
    findings: list[Finding] = []
    """All that was found, the first of them above."""

    @classmethod
    def of(cls, findings: list[Finding], files: list[str]) -> Rejection:
        """The reason that these findings make, the first error leading."""
        first = next((finding for finding in findings if finding.severity == "error"), findings[0])
        # A name need not be text, and a stranger's folder may hold any number of them.
        names = [name.encode(errors="backslashreplace").decode() for name in files[:MAX_NAMES]]
        return cls(code=first.code, message=first.message, field=first.field, remedy=first.remedy, files=names,
                   rejected_at=now(), findings=findings)  # fmt: skip


SCHEMAS: dict[str, type[Record]] = {
    "motion_sidecar": MotionSidecar,
    "manifest": Manifest,
    "clip": Clip,
    "video_meta": VideoMeta,
    "batch_ack": BatchAck,
    "result_ack": ResultAck,
    "rejection": Rejection,
}

R = TypeVar("R", bound=Record)


def parse(model: type[R], data: bytes, name: str) -> R:
    """Read one of our files from its bytes. Raises ``Refused`` with the field and the remedy."""
    _check_length(data, name, "Is this the right file?")
    try:
        return model.model_validate_json(data)
    except ValidationError as error:
        raise Refused(_first_finding(error, model, name)) from None


def _check_length(data: bytes, name: str, remedy: str) -> None:
    if len(data) > MAX_JSON_BYTES:
        raise Refused.because(
            "json_too_large",
            message=f"{len(data)} bytes of JSON; at most {MAX_JSON_BYTES} are read.",
            file=name,
            value=len(data),
            limit=MAX_JSON_BYTES,
            remedy=remedy,
        )


def load(model: type[R], path: Path) -> R:
    """Read one of our files. Raises ``Refused`` as ``parse`` does, and ``OSError``."""
    with path.open("rb") as file:
        return parse(model, file.read(MAX_JSON_BYTES + 1), path.name)


def _first_finding(error: ValidationError, model: type[Record], name: str) -> Finding:
    problem = error.errors(include_url=False)[0]
    field = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in problem["loc"]).lstrip(".")
    match problem["type"]:
        case "json_invalid":
            return Finding(code="json_invalid", message=f"This is not JSON: {problem['msg']}.", file=name,
                           remedy="Save it again from the motion tool, or mend the syntax.")  # fmt: skip
        case "extra_forbidden":
            known = ", ".join(model.model_fields)
            return Finding(code="field_unknown", message=f"There is no field '{field}'.", file=name, field=field,
                           remedy=f"Remove it or correct its name. A {model.__name__} has: {known}.")  # fmt: skip
        case "missing":
            return Finding(code="field_missing", message=f"The field '{field}' is missing.", file=name, field=field,
                           remedy="Add it; `dropreel schema` prints what each file must hold.")  # fmt: skip
    given = str(problem.get("input"))[:80]
    code = "version_unknown" if field.endswith("schema_version") else "field_invalid"
    return Finding(code=code, message=f"{problem['msg']} (got {given}).", file=name, field=field or None,
                   value=given, remedy="Correct the value; `dropreel schema` prints what is allowed.")  # fmt: skip


def seed_from(sha256: str) -> int:
    """The seed of a keyframe that names none: the first 31 bits of its hash, so that it is the same every time."""
    return int(sha256[:8], 16) & 0x7FFFFFFF


def next_try(entry: Keyframe, seed: int) -> Keyframe:
    """The entry of another try, after one with ``seed``: it names the next seed that was not tried, 0 after the last.

    ``seed`` is the clip's, which its entry need not name. It joins ``tried_seeds``. Raises ``Refused`` where so many
    were tried that an entry cannot name them all.
    """
    tried = [*(earlier for earlier in entry.tried_seeds if earlier != seed), seed]
    if len(tried) > MAX_TRIED_SEEDS:
        raise Refused.because(
            "seeds_exhausted",
            file=entry.stem,
            field="tried_seeds",
            value=len(entry.tried_seeds),
            limit=MAX_TRIED_SEEDS,
            message=f"No good clip came of {len(tried)} seeds.",
            remedy="Change its motion, its caption or its model, and drop it again.",
        )
    following = (seed + 1) % SEEDS
    while following in tried:
        following = (following + 1) % SEEDS
    params = entry.generation_params.model_copy(update={"seed": following})
    return entry.model_copy(update={"generation_params": params, "tried_seeds": tried})


def clip_id(batch_id: str, number: int, image_sha256: str, run: int = 1) -> str:
    """``<batch_id>-<nnn>-<8 hex of the keyframe's sha256>``, and ``-r<run>`` from the second run on."""
    return f"{batch_id}-{number:03d}-{image_sha256[:8]}" + (f"-r{run}" if run > 1 else "")


def work_key(entry: Keyframe) -> str:
    """The same for two entries exactly when they would make the same clip: image bytes, motion and parameters."""
    made_of = [
        entry.files[0].sha256,
        entry.motion.model_dump_json(),
        entry.generation_params.model_dump_json(),
    ]
    made_of += sorted(file.sha256 for file in entry.files if file.name.endswith(".caption"))
    return hashlib.sha256("\n".join(made_of).encode()).hexdigest()


def now() -> dt.datetime:
    """The time, in UTC, to the millisecond: fit for a file."""
    moment = dt.datetime.now(dt.UTC)
    return moment.replace(microsecond=moment.microsecond // 1000 * 1000)
