"""The eight invariants of the design, asserted on a home's folders."""

from __future__ import annotations

import hashlib
import json
import re
from collections import Counter
from collections.abc import Container, Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from core import fsops
from core.contract import CLIP_ID, BatchAck, Clip, Manifest, Record, Rejection, VideoMeta, load
from core.home import MANIFEST_FILE, REASON_FILE, STATUS_FILE, GpuHalf, Home, MacHalf
from core.overview import ServerStatus
from core.rooms import CLIP_FILE

JSON_OF: dict[str, type[Record]] = {
    MANIFEST_FILE: Manifest,
    CLIP_FILE: Clip,
    REASON_FILE: Rejection,
    STATUS_FILE: ServerStatus,
    "video_meta.json": VideoMeta,
}


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _final_files(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file() and not path.name.endswith(fsops.PART)]


PUBLISHED = "clip.delivered"
PLACED = "clip.received"


class Halves(NamedTuple):
    """The halves to look at, be they of one home or of two."""

    mac: MacHalf
    gpu: GpuHalf


def check_always(home: Home, dropped: dict[str, bytes]) -> None:
    """What must hold at any moment, a crash's included. ``dropped`` are the keyframes by name."""
    halves = Halves(home.mac, home.gpu)
    check_originals(halves, dropped)
    check_whole(halves)
    check_manifests(halves)
    check_claims(halves)
    check_released(halves)


def check_originals(halves: Halves, dropped: dict[str, bytes]) -> None:
    """1: every dropped keyframe is in exactly one place (the outbox's are copies), or in a place with a reason."""
    mac = halves.mac
    wanted = {hashlib.sha256(data).hexdigest(): name for name, data in dropped.items()}
    places = Counter(wanted.get(_digest(path)) for path in mac.hot.rglob("*.png"))
    assert {name: places[name] for name in dropped} == dict.fromkeys(dropped, 1), places
    for path in mac.rejected.rglob("*.png"):
        load(Rejection, path.parent / REASON_FILE)


def check_whole(halves: Halves, but_for: Container[Path] = ()) -> None:
    """2: nothing partial is visible under a final name: each of our files parses, each clip is what its meta says.

    ``but_for`` the files that were damaged on purpose.
    """
    mac, gpu = halves
    theirs = {path for path in mac.hot.rglob("*") if path.name != REASON_FILE}  # the operator's, be they what they may
    for path in _final_files(mac.root) + _final_files(gpu.root):
        if path in theirs or path in but_for:
            continue
        if model := JSON_OF.get(path.name):
            load(model, path)
        elif path.suffix == ".json":
            json.loads(path.read_bytes())
    for path in mac.results.rglob("*.video_meta.json"):
        meta = load(VideoMeta, path)
        if meta.outcome != "fail":
            video = path.with_name(path.name.replace(".video_meta.json", ".mp4"))
            assert _digest(video) == meta.files[0].sha256
            assert path.with_name(path.name.replace("video_meta", "video_manifest")).exists()


def check_manifests(halves: Halves, but_for: Container[Path] = ()) -> None:
    """3: a visible manifest's hashes verify; ``but_for`` the files that were damaged on purpose."""
    mac, gpu = halves
    for manifest in [*mac.outbox.glob(f"*/{MANIFEST_FILE}"), *gpu.inbox.glob(f"*/{MANIFEST_FILE}")]:
        for entry in load(Manifest, manifest).keyframes:
            for file in entry.files:
                path = manifest.parent / file.path
                assert path in but_for or _digest(path) == file.sha256, path


def check_claims(halves: Halves) -> None:
    """4: one live claim a clip: its folder is in one place."""
    gpu = halves.gpu
    clips = Counter(
        path.name
        for folder in (*gpu.rooms.glob("*/ready"), *gpu.rooms.glob("*/active/*"), *gpu.outbox.glob("*_*"), gpu.failed)
        for path in folder.iterdir()
        if re.fullmatch(CLIP_ID, path.name) and not (path / "video_meta.json").exists()
    )
    assert all(count == 1 for count in clips.values()), clips


def check_released(halves: Halves) -> None:
    """8: a source is released only after a verified ack: a keyframe in ``sent/`` has an accepted clip on the server,
    and a result that left the server's outbox is on the Mac."""
    mac, gpu = halves
    acks = [load(BatchAck, path) for path in gpu.batch_acks.glob("[!.]*.json")]
    accepted = {(ack.batch_id, Path(outcome.image_path).name) for ack in acks for outcome in ack.entries
                if outcome.clip_id}  # fmt: skip
    for path in mac.sent.rglob("*.png"):
        assert (path.parent.name, path.name) in accepted, path
    here = {load(VideoMeta, path).clip_id for path in mac.results.rglob("*.video_meta.json")}
    on_server = {path.name for path in gpu.root.rglob("*") if re.fullmatch(CLIP_ID, path.name)}
    for ack in acks:
        for outcome in ack.entries:
            if outcome.clip_id:
                assert outcome.clip_id in here | on_server, f"{outcome.clip_id} is nowhere"


def check_once(said: Iterable[Mapping[str, Any]], *events: str) -> None:
    """5: a run's result is published once, and put in its place once; ``said`` are the log events of all daemons.

    Of a second time nothing else tells: it lies where the first lay. A kill between the act and its line hides one of
    two at most here, so that both ``events`` are looked at: the server's line and the Mac's.
    """
    told = [(one["event"], one["clip"]) for one in said if one["event"] in (events or (PUBLISHED, PLACED))]
    twice = sorted(f"{event} {clip}: {count} times" for (event, clip), count in Counter(told).items() if count > 1)
    assert not twice, f"twice: {twice}"


def check_at_rest(home: Home, dropped: dict[str, bytes], delivered: set[str], rejected: set[str]) -> None:
    """What must hold once all is done: where the clips ended, and that nothing is left behind."""
    check_always(home, dropped)
    mac, gpu = home.mac, home.gpu
    metas = [load(VideoMeta, path) for path in mac.results.rglob("*.video_meta.json")]

    # 5: a drop has one result, see also check_once.  6, 7: all clips end where they would have without the crash.
    assert Counter(meta.entry.stem for meta in metas) == Counter(delivered)
    assert all(meta.outcome == "pass" for meta in metas), [(meta.outcome, meta.failure) for meta in metas]
    places = {path.parent.name for path in mac.rejected.rglob("*.png")}
    assert places == rejected, places
    shells = {path.name for path in mac.rejected.iterdir()} - places
    assert not shells, shells
    assert {path.stem for path in mac.sent.rglob("*.png")} == delivered

    left = left_on_the_way(Halves(mac, gpu)) + list(gpu.failed.iterdir())
    assert not left, left


def left_on_the_way(halves: Halves) -> list[Path]:
    """What is not where it ends: a clip, an unfinished file, an acknowledgement that nobody waits for."""
    mac, gpu = halves
    left = [
        path
        for folder in (mac.outbox, mac.incoming, mac.building, mac.acks, mac.result_acks, gpu.rooms, gpu.inbox)
        for path in folder.rglob("*")
        if path.is_file() and not path.is_relative_to(gpu.by_hand)
    ]
    answers = {gpu.status, *gpu.batch_acks.iterdir()}
    left += [path for path in gpu.outbox.rglob("*") if path.is_file() and path not in answers]
    left += [path for path in [*mac.root.rglob("*"), *gpu.root.rglob("*")] if path.name.endswith(fsops.PART)]
    return left
