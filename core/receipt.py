"""Results on the Mac: verified against their meta, put where the operator looks, then acknowledged."""

from __future__ import annotations

from pathlib import Path

from core import fsops
from core.contract import ResultAck, VideoMeta, load
from core.delivery import META_FILE, SEAL_FILE, VIDEO_FILE
from core.errors import Refused
from core.home import MacHalf

_FOLDERS = {"pass": ".", "flag": "flagged", "fail": "failed"}
"""Where in its batch's folder a result goes, by its outcome."""


def place(incoming: Path, mac: MacHalf) -> tuple[VideoMeta, Path | None]:
    """Put a received result into ``results/``, and write its acknowledgement; but not over that of a later run.

    Returns the meta and where it lies now, None for one that a later run has superseded. Nothing is moved unless all
    is as it should be; after a crash halfway the result is fetched and placed again. Raises ``Refused`` where the
    files are not what they were at the server (they are fetched again), or the meta names what cannot be.
    """
    meta = load(VideoMeta, incoming / META_FILE)
    if incoming.name != meta.clip_id or not meta.clip_id.startswith(f"{meta.batch_id}-"):
        raise Refused.because(
            "result_misplaced",
            file=incoming.name,
            message=f"It holds {meta.clip_id}.",
            remedy="Look at the server's outbox: something moved a folder there.",
        )
    for file in meta.files:
        _verify(incoming / file.path, file.size, file.sha256)
    stem, batch = meta.entry.stem, mac.results / meta.batch_id
    sha256s = {file.path: file.sha256 for file in meta.files}
    meta_sha256 = _verify_meta(incoming)
    ack = ResultAck(clip_id=meta.clip_id, run=meta.run, meta_sha256=meta_sha256, sha256s=sha256s)
    places = {outcome: batch / folder / f"{stem}.video_meta.json" for outcome, folder in _FOLDERS.items()}
    final = None if any(_run_of(path) > meta.run for path in places.values()) else places[meta.outcome]
    if final is not None:
        _move_in(meta, incoming, final)
    # Lost in a power cut, it costs another fetch, or nothing where it was sent.
    fsops.write(mac.result_acks / f"{meta.clip_id}.json", ack.to_json(), durable=False)
    fsops.empty(incoming)
    fsops.remove_folder(incoming)
    return meta, final


def _move_in(meta: VideoMeta, incoming: Path, final: Path) -> None:
    """Clip and evidence first, the meta last: who sees the meta sees all of it, after a power cut too."""
    folder, stem = final.parent, meta.entry.stem
    fsops.make_folder(folder)
    for file in meta.files:
        name = f"{stem}.mp4" if file.path == VIDEO_FILE else f"{stem}.{file.path}"
        fsops.publish(incoming / file.path, folder / name, durable=False)
    fsops.write(folder / f"{stem}.video_manifest.json", meta.entry.to_json(), durable=False)
    fsops.sync_folder(folder)
    fsops.publish(incoming / META_FILE, final, durable=False)
    fsops.sync_folder(folder)


def _run_of(meta: Path) -> int:
    """Which run of a clip a meta on this machine is of; 0 where there is none that can be read."""
    try:
        return load(VideoMeta, meta).run
    except (Refused, OSError):
        return 0


def _verify_meta(incoming: Path) -> str:
    """The hash of the meta, which must be the one that the server wrote beside it; older servers wrote none."""
    sha256 = fsops.hash_file(incoming / META_FILE)
    try:
        sealed = fsops.read(incoming / SEAL_FILE, len(sha256))
    except FileNotFoundError:
        return sha256
    except OSError:  # it is no plain file, or a longer one
        sealed = b""
    if sealed != sha256.encode():
        raise _damaged(incoming / META_FILE)
    return sha256


def _verify(path: Path, size: int, sha256: str) -> None:
    if not path.is_file() or path.is_symlink() or path.stat().st_size != size or fsops.hash_file(path) != sha256:
        raise _damaged(path)


def _damaged(path: Path) -> Refused:
    return Refused.because(
        "result_damaged",
        file=path.name,
        message="The file is not what it was at the server.",
        remedy="Nothing to do: it is fetched again.",
    )
