"""The stage: a clip's frames become its video file, as good as the settings ask."""

from __future__ import annotations

from core import frames, fsops
from core.delivery import VIDEO_FILE
from core.encode.batch import BatchQuality, Ended
from core.encode.command import EncodeSettings
from core.encode.encode import EncodeRecord, encode
from core.rooms import FRAMES_FILE, ClipFolder
from core.work import Report


def make_video(folder: ClipFolder, settings: EncodeSettings, batch: BatchQuality, report: Report) -> EncodeRecord:
    """Encode and prove the frames at the delivered rate; raises as ``encode`` does.

    Where a VMAF is asked for, ``batch`` says where its search begins, and learns where it ended.
    """
    pictures = frames.open(folder.path / FRAMES_FILE)
    fps, out = folder.clip.entry.generation_params.fps, folder.path / VIDEO_FILE
    if settings.target.kind != "vmaf":
        return encode(pictures, fps, out, settings, report)
    kind = kind_of(pictures, settings)
    record = encode(pictures, fps, out, settings, report, start=batch.last_crf(kind))
    batch.add(Ended(clip=folder.clip.clip_id, like=kind, crf=record.quality.crf, vmaf=record.quality.vmaf))
    return record


def kind_of(pictures: frames.Frames, settings: EncodeSettings) -> str:
    """What two clips must have in common for the factor of the one to tell something of the other's."""
    size = f"{pictures.shape[2]}x{pictures.shape[1]}"
    told = settings.model_dump_json(include={"codec", "preset", "quality", "deshake"})
    colours = fsops.hash_file(settings.lut) if settings.lut else ""  # another LUT may come under the same name
    return f"{size} {told} {colours}".rstrip()
