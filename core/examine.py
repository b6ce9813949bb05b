"""Looking at a drop before a GPU second is spent: the manifest entry that it makes, or what is wrong with it."""

from __future__ import annotations

import errno
import hashlib
from dataclasses import dataclass
from pathlib import Path

from core import fsops, image, safety
from core.companions import Group
from core.contract import (
    MAX_JSON_BYTES,
    GenerationParams,
    Keyframe,
    Motion,
    MotionSidecar,
    PayloadFile,
    parse,
    seed_from,
)
from core.drops import Drop, FileIdentity
from core.errors import Finding, Refused
from core.home import HOT_FOLDER
from core.motion import FULL, MotionType, Size
from core.safety import Scene
from core.settings import Settings

MAX_STEM_BYTES = 200
"""Leaves room for ``.video_manifest.json`` in the 255 bytes that file systems give a name."""
MAX_CAPTION_BYTES = 64 << 10
MAYBE_UNFINISHED = frozenset({"image_truncated", "image_empty", "image_damaged", "json_invalid", "file_changed"})
"""What a file that is still being copied looks like; worth a longer wait than what is plainly wrong."""


@dataclass(frozen=True)
class Examined:
    """A drop that can be made."""

    drop: Drop
    entry: Keyframe
    """Its ``files`` carry the names they get on the wire once the batch numbers them."""
    findings: list[Finding]
    """Warnings and notes; no errors."""


def examine(drop: Drop, hot: Path, settings: Settings) -> Examined:
    """Read, decode and judge one drop. Raises ``Refused`` with the first error, and ``OSError``.

    Every file is read once: what is hashed is what was decoded.
    """
    _check_names(drop)
    members = drop.group
    name = members.images[0]
    data = _read(drop, name, settings.image.max_bytes)
    picture = image.decode(data, name, settings.image)
    height, width = picture.pixels.shape[:2]
    output = settings.output.size_for((width, height))
    files = [_payload(name, data, drop.files[name])]
    if members.sidecar:
        raw = _read(drop, members.sidecar, MAX_JSON_BYTES)
        sidecar = parse(MotionSidecar, raw, members.sidecar)
        files.append(_payload(members.sidecar, raw, drop.files[members.sidecar]))
        motion = Motion(
            type=sidecar.motion_type,
            start_rect=sidecar.start_frame,
            end_rect=sidecar.end_frame,
            duration_sec=sidecar.duration_sec,
            easing=sidecar.easing,
        )
        intensity = sidecar.motion_intensity
    else:
        motion = Motion(
            type=MotionType.static,
            start_rect=FULL,
            end_rect=FULL,
            duration_sec=settings.hot_folder.static_seconds,
        )
        intensity = 0.0
    for caption in captions(members):
        files.append(_payload(caption, _read(drop, caption, MAX_CAPTION_BYTES), drop.files[caption]))
    scene = Scene(picture.pixels, output, settings.output.fps, settings.motion)
    judged = safety.check(motion, scene, safety.SIDECAR_NAMES)
    findings = [*picture.notes, *(f.model_copy(update={"file": members.sidecar or name}) for f in judged)]
    refuse_errors(findings)
    params = settings.generation.params(motion.type, intensity).model_copy(
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
    return Examined(drop, entry, findings)


def captions(members: Group) -> list[str]:
    """The companions that travel with the picture for its prompt; all others stay on the Mac."""
    return [name for name in members.others if name.lower().endswith(".caption")]


def output_size(params: GenerationParams, picture: Size, settings: Settings) -> Size:
    """The size that an entry asks for, or the settings' for a picture of this shape."""
    width, height = settings.output.size_for(picture)
    return params.width or width, params.height or height


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
