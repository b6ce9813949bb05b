"""Results on the server: a clip or its failure enters the outbox once, and leaves it on the Mac's word."""

from __future__ import annotations

import hashlib
from pathlib import Path

from core import fsops
from core.contract import Clip, DeliveredFile, Failure, ResultAck, VideoMeta, load
from core.errors import Refused
from core.home import GpuHalf
from core.rooms import BASE_FILE, CANCEL_FILE, CLIP_FILE, FRAMES_FILE, ClipFolder
from core.versions import versions

VIDEO_FILE = "clip.mp4"
META_FILE = "video_meta.json"
SEAL_FILE = "video_meta.sha256"
"""The meta vouches for all other files of a result, and this one for the meta."""
FAILURE_FILE = "failure.json"


def _meta(clip: Clip, files: list[DeliveredFile]) -> VideoMeta:
    proof = clip.stages["encode"].details["proof"] if "encode" in clip.stages else {}
    return VideoMeta(
        clip_id=clip.clip_id,
        run=clip.run,
        batch_id=clip.batch_id,
        outcome="fail" if clip.failure or clip.qa is None or clip.qa.verdict == "fail" else clip.qa.verdict,
        entry=clip.entry,
        seed=clip.seed,
        files=files,
        frames=proof.get("frames"),
        fps=proof.get("fps"),
        width=proof.get("width"),
        height=proof.get("height"),
        plan={stage: record.details for stage, record in clip.stages.items()},
        stages=clip.stages,
        versions=versions(),
        qa=clip.qa,
        failure=clip.failure,
    )


def _delivered(path: Path) -> DeliveredFile:
    return DeliveredFile(path=path.name, size=path.stat().st_size, sha256=fsops.hash_file(path))


def _write_meta(result: Path, clip: Clip, files: list[DeliveredFile]) -> None:
    meta = _meta(clip, files).to_json()
    fsops.write(result / META_FILE, meta)
    fsops.write(result / SEAL_FILE, hashlib.sha256(meta).hexdigest().encode())


def deliver(folder: ClipFolder, gpu: GpuHalf) -> None:
    """Strip a finished clip's folder to clip, meta and evidence, and put it in the outbox.

    May be repeated after a crash: ``clip.json`` stays, and says that encoding is done.
    """
    clip = folder.clip
    evidence = clip.qa.evidence if clip.qa else []
    files = [_delivered(folder.path / name) for name in (VIDEO_FILE, *evidence)]
    _write_meta(folder.path, clip, files)
    keep = {CLIP_FILE, META_FILE, SEAL_FILE, *(file.path for file in files)}
    for path in folder.path.iterdir():
        if path.name not in keep:
            fsops.remove(path)
    _into_outbox(folder.path, clip, gpu)


def fail(folder: ClipFolder, failure: Failure, gpu: GpuHalf) -> None:
    """Give a clip up: its meta-only result enters the outbox first, then the folder goes to ``failed/``.

    May be repeated after a crash. The result is put together inside the clip's folder and is whole when
    ``failure.json`` is there; that it has left the folder then says that it was published.
    """
    clip = folder.clip
    clip.failure = failure
    folder.save()
    package = folder.path / "result"
    if not (folder.path / FAILURE_FILE).exists():
        fsops.make_folder(package)
        fsops.sweep(package)
        evidence = [folder.path / name for name in (clip.qa.evidence if clip.qa else [])]
        for path in evidence:
            fsops.copy(path, package / path.name)
        files = [_delivered(package / path.name) for path in evidence]
        _write_meta(package, clip, files)
        fsops.write(package / CLIP_FILE, clip.to_json())
        fsops.write(folder.path / FAILURE_FILE, failure.to_json())
    if package.is_dir():
        _into_outbox(package, clip, gpu)
    for name in (CANCEL_FILE, BASE_FILE, FRAMES_FILE):  # keyframe, plan and evidence stay, for a person and a retry
        fsops.remove(folder.path / name)
    fsops.move(folder.path, fsops.free_name(gpu.failed / clip.clip_id))


def release(ack: ResultAck, gpu: GpuHalf) -> bool:
    """Let go of a result that the Mac has; False where the ack is for other bytes than lie here."""
    result = _result(ack.clip_id, gpu)
    if not result.is_dir():  # released before
        return True
    try:
        meta = load(VideoMeta, result / META_FILE)
        known = {file.path: file.sha256 for file in meta.files}
        meta_sha256 = fsops.hash_file(result / META_FILE)
    except (Refused, OSError):
        return False
    same = (ack.run, ack.meta_sha256, ack.sha256s) == (meta.run, meta_sha256, known)
    if same:
        fsops.discard(result, gpu.released)
        fsops.remove_folder(result.parent)
    return same


def _result(clip_id: str, gpu: GpuHalf) -> Path:
    return gpu.outbox / clip_id.split("-", 1)[0] / clip_id


def _into_outbox(package: Path, clip: Clip, gpu: GpuHalf) -> None:
    target = _result(clip.clip_id, gpu)
    while True:
        fsops.make_folder(target.parent)
        try:
            return fsops.move(package, target)
        except FileNotFoundError:  # the batch's folder was empty, and was cleared away this moment
            if not package.exists():
                raise
