"""Looking at a drop before a GPU second is spent: the manifest entry that it makes, or what is wrong with it."""

from __future__ import annotations

import errno
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

import numpy as np
from numpy.typing import NDArray

from core import fsops, image, safety
from core.companions import Group
from core.contract import (
    MAX_JSON_BYTES,
    Keyframe,
    Motion,
    MotionSidecar,
    PayloadFile,
    parse,
    seed_from,
)
from core.drops import Drop, FileIdentity
from core.errors import Finding, Refused
from core.generate.plan import Plan, check_terms, judge_parameters, plan_of, preset_of
from core.generate.prompts import CAPTION_SUFFIX, MAX_CAPTION_BYTES, caption_text
from core.home import HOT_FOLDER
from core.motion import FULL, MotionType, Size, frame_count
from core.safety import Scene
from core.settings import Settings

MAX_STEM_BYTES = 200
"""Leaves room for ``.video_manifest.json`` in the 255 bytes that file systems give a name."""
MANIFEST_NAMES = {name: f"motion.{name}" for name in Motion.model_fields}
"""What a manifest's entry calls the fields of its ``Motion``."""
MAYBE_UNFINISHED = frozenset({"image_truncated", "image_empty", "image_damaged", "json_invalid", "file_changed"})
"""What a file that is still being copied looks like; worth a longer wait than what is plainly wrong."""


@dataclass(frozen=True)
class Judged:
    """What would become of a manifest entry."""

    findings: list[Finding]
    """Errors too."""
    parameters: dict[str, str] = field(default_factory=dict)
    """What becomes of each parameter that it names: ``honoured``, or ``translated: to what``."""
    plan: Plan | None = None
    """What a model would be asked; None where there is an error, or the preset has no model."""


@dataclass(frozen=True)
class Examined:
    """A drop that can be made."""

    drop: Drop
    entry: Keyframe
    """Its ``files`` carry the names they get on the wire once the batch numbers them."""
    findings: list[Finding]
    """Warnings and notes; no errors."""
    judged: Judged


def judge_entry(
    entry: Keyframe,
    pixels: NDArray[np.uint8],
    caption: tuple[str, bytes] | None,
    settings: Settings,
    names: Mapping[str, str] = MANIFEST_NAMES,
) -> Judged:
    """All that the rules and the preset have against an entry: on the Mac, at intake and in ``check`` the same.

    ``pixels`` is the keyframe, (H, W, 3); ``caption`` its file's name and content; ``names`` what the fields of its
    ``Motion`` are called where it was written.
    """
    params = entry.generation_params
    picture = pixels.shape[1], pixels.shape[0]
    output = settings.output.asked_by(params, picture)
    if (too_large := _too_large(entry, output, settings, names)) is not None:  # to be judged by its frames, too
        return Judged([too_large])
    findings = safety.check(entry.motion, Scene(pixels, output, params.fps, settings.motion), names)
    parameters: dict[str, str] = {}
    plan = None
    try:
        preset = preset_of(entry, settings)
        text = caption_text(caption[1], caption[0]) if caption else ""
        parameters = judge_parameters(entry, preset)
        check_terms(preset, settings.generation)
        if preset.family != "camera" and not any(finding.severity == "error" for finding in findings):
            plan = plan_of(params.seed or 0, entry, picture, text, settings)
    except Refused as error:
        finding, (whole, _, part) = error.finding, (error.finding.field or "").partition(".")
        place = names.get(part, part) if whole == "motion" and part else error.finding.field
        findings.append(finding.model_copy(update={"field": place}))
    if plan is not None and plan.slowed > 1:
        findings.append(Finding(code="clip_slowed", severity="warning", field=names.get("duration_sec", "duration_sec"),
                                value=round(plan.slowed, 3),
                                message=f"'{params.model}' makes no more than {plan.frames} frames: they are shown "
                                f"{plan.slowed:.2f} times slower than they are meant."))  # fmt: skip
    return Judged(findings, parameters, plan)


def _too_large(entry: Keyframe, output: Size, settings: Settings, names: Mapping[str, str]) -> Finding | None:
    """What to say of a clip whose frames no disk here is meant to hold: uint8 RGB, as ``core.frames`` stores them."""
    duration, fps = entry.motion.duration_sec, entry.generation_params.fps
    count, limit = frame_count(duration, fps), settings.disk.clip_max_mb
    size = count * output[0] * output[1] * 3
    if size <= limit << 20:
        return None
    return Finding(
        code="clip_too_large",
        field=names.get("duration_sec", "duration_sec"),
        value=size >> 20,
        limit=limit,
        message=f"{duration:g} s of {output[0]}×{output[1]} at {fps} frames a second are {count} frames, "
        f"{size >> 20} MiB before they are encoded; at most {limit} MiB are allowed.",
        remedy="Ask for less of one of them; or raise disk.clip_max_mb, where the disks are large.",
    )


def unmoved(settings: Settings) -> MotionSidecar:
    """What an image without a sidecar is taken as."""
    return MotionSidecar(
        keyframe=FULL,
        motion_type=MotionType.static,
        motion_intensity=0.0,
        start_frame=FULL,
        end_frame=FULL,
        duration_sec=settings.hot_folder.static_seconds,
    )


def examine(drop: Drop, hot: Path, settings: Settings, instead: MotionSidecar | None = None) -> Examined:
    """Read, decode and judge one drop, with the move of ``instead``, if given, in the place of its own sidecar's.

    Every file is read once: what is hashed is what was decoded. Raises ``Refused`` with the first error, and
    ``OSError``.
    """
    _check_names(drop)
    members = drop.group
    name = members.images[0]
    data = _read(drop, name, settings.image.max_bytes)
    picture = image.decode(data, name, settings.image)
    height, width = picture.pixels.shape[:2]
    files = [_payload(name, data, drop.files[name])]
    sidecar = unmoved(settings)
    if members.sidecar:
        raw = _read(drop, members.sidecar, MAX_JSON_BYTES)
        sidecar = parse(MotionSidecar, raw, members.sidecar)
        files.append(_payload(members.sidecar, raw, drop.files[members.sidecar]))
    sidecar = instead or sidecar
    motion = sidecar.motion
    read = [(caption, _read(drop, caption, MAX_CAPTION_BYTES)) for caption in captions(members)]
    files += [_payload(caption, raw, drop.files[caption]) for caption, raw in read]
    output = settings.output.size_for((width, height))
    preset = settings.presets[settings.generation.model]
    params = settings.generation.params(motion.type, sidecar.motion_intensity, preset.studio).model_copy(
        update={
            "fps": settings.output.fps,
            "width": output[0],
            "height": output[1],
            "seed": seed_from(files[0].sha256),
            "start_rect": motion.start_rect,
            "end_rect": motion.end_rect,
        }
    )
    place = drop.folder.relative_to(hot) / name
    entry = Keyframe(
        image_path=f"{HOT_FOLDER}/{place.as_posix()}", motion=motion, generation_params=params, files=files
    )
    judged = judge_entry(entry, picture.pixels, read[0] if read else None, settings, safety.SIDECAR_NAMES)
    said = [f if f.file else f.model_copy(update={"file": members.sidecar or name}) for f in judged.findings]
    refuse_errors(said)
    return Examined(drop, entry, [*picture.notes, *said], judged)


def captions(members: Group) -> list[str]:
    """The companions that travel with the picture for its prompt; all others stay on the Mac."""
    return [name for name in members.others if name.lower().endswith(CAPTION_SUFFIX)]


def caption_name(entry: Keyframe) -> str:
    """What an entry's caption is called beside the manifest, if it has one."""
    sent = (file.path for file in entry.files if file.path.endswith(CAPTION_SUFFIX))
    return next(sent, "" if entry.files else f"{PurePosixPath(entry.image_path).stem}{CAPTION_SUFFIX}")


def refuse_errors(findings: list[Finding]) -> None:
    """Raise ``Refused`` with the first error among the findings, if there is one."""
    for finding in findings:
        if finding.severity == "error":
            raise Refused(finding)


def check_stem(stem: str) -> None:
    """Raise ``Refused`` where the files of a result could not be named after it."""
    if len(stem.encode()) > MAX_STEM_BYTES:
        raise Refused.because(
            "name_too_long",
            file=stem,
            message=f"The name is longer than {MAX_STEM_BYTES} bytes.",
            limit=MAX_STEM_BYTES,
            remedy="Give it a shorter name.",
        )


def _check_names(drop: Drop) -> None:
    members = drop.group
    stem = members.stem
    for name in (str(drop.folder), *drop.files):
        try:
            name.encode()
        except UnicodeEncodeError:
            raise Refused.because(
                "name_not_text", file=stem, message="A name is not valid UTF-8.", remedy="Rename the file or folder."
            ) from None
        if "\\" in name:
            raise Refused.because(
                "name_not_allowed",
                file=stem,
                message="A name holds a backslash, which other systems take for a folder.",
                remedy="Rename the file or folder.",
            )
    twins = members.images if len(members.images) > 1 else members.sidecars if len(members.sidecars) > 1 else ()
    if twins:
        names = " and ".join(twins)
        raise Refused.because(
            "stem_twice",
            file=stem,
            message=f"{names} share the stem '{stem}'.",
            remedy="Keep one of them, or give them different names.",
        )
    check_stem(stem)
    for name, file in drop.files.items():
        if not file.is_plain:
            raise Refused.because(
                "file_is_link",
                file=name,
                message="This is a link or a device, not a file.",
                remedy="Drop the file itself.",
            )


def _read(drop: Drop, name: str, max_bytes: int) -> bytes:
    try:
        data = fsops.read(drop.folder / name, max_bytes)
    except OSError as error:
        if error.errno != errno.EFBIG:
            raise
        raise Refused.because(
            "file_too_large",
            file=name,
            message=f"{drop.files[name].size} bytes are too many.",
            value=drop.files[name].size,
            limit=max_bytes,
            remedy=f"At most {max_bytes} bytes are read of such a file.",
        ) from None
    if len(data) != drop.files[name].size:
        raise Refused.because(
            "file_changed",
            file=name,
            message="The file changed while it was read.",
            remedy="Nothing to do: it is read again when it rests.",
        )
    return data


def _payload(name: str, data: bytes, seen: FileIdentity) -> PayloadFile:
    return PayloadFile(name=name, path="unnumbered", size=len(data), sha256=hashlib.sha256(data).hexdigest(),
                       inode=seen.inode, mtime_ns=seen.mtime_ns)  # fmt: skip
