"""A hand-off through one room, fsyncs and all, beside a job through Huey's queue in SQLite.

Ours: claim a waiting clip, count the attempt, record the stage, publish into the next room. Theirs: dequeue a job,
run it (it does nothing), store its result, enqueue the next; SQLite with ``fsync=True``, and with Huey's default,
which survives no power cut.

    python -m benchmarks.handoff [--clips N]
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.rows import Row, table
from core.contract import Clip, GenerationParams, Keyframe, Motion, StageRecord, now
from core.motion import FULL, MotionType
from core.rooms import CLIP_FILE, Room, Worker

CLIP_SECONDS = 8.0
"""The work on one clip at the studio's target of 7.5 clips a minute."""
CROWD = 1000


def _clip(number: int) -> Clip:
    motion = Motion(type=MotionType.static, start_rect=FULL, end_rect=FULL, duration_sec=6.0)
    entry = Keyframe(image_path=f"__video_keyframes/{number}.png", motion=motion,
                     generation_params=GenerationParams(model="camera"))  # fmt: skip
    return Clip(clip_id=f"20250704_143022-{number:04d}-0123abcd", batch_id="20250704_143022", entry=entry,
                image="keyframe.png", seed=42, taken_at=now())  # fmt: skip


def _room(root: Path, name: str) -> Room:
    for part in ("tmp", "ready", "active"):
        (root / name / part).mkdir(parents=True)
    return Room(root / name)


def run(clips: int = 200) -> list[Row]:
    """Milliseconds a hand-off, medians, the three in turn."""
    from huey import SqliteHuey

    ours: list[float] = []
    theirs: dict[bool, list[float]] = {True: [], False: []}
    with tempfile.TemporaryDirectory(prefix=".bench-", dir=Path.cwd()) as name:  # /tmp may be no disk at all
        root = Path(name)
        worker, second = _rooms(root, clips)
        queues = {fsync: SqliteHuey(filename=str(root / f"huey-{fsync}.db"), fsync=fsync) for fsync in theirs}
        tasks = {fsync: queue.task()(_nothing) for fsync, queue in queues.items()}
        for number in range(clips):
            ours.append(_timed(partial(_hand_on, worker, second)))
            for fsync, queue in queues.items():
                payload = json.loads(_clip(number).to_json())
                tasks[fsync](payload)
                theirs[fsync].append(_timed(partial(_requeue, queue, tasks[fsync], payload)))
                queue.dequeue()
    mine = 1e3 * median(ours)
    rows = [
        Row(f"hand-off through one room, ms (theirs: Huey, SQLite, {'fsync' if fsync else 'its default'})", mine,
            1e3 * median(times), mine / (1e3 * median(times)), None)
        for fsync, times in theirs.items()
    ]  # fmt: skip
    crowded = 1e3 * seconds(CROWD)
    return [
        Row("hand-off, ms (theirs: 0.1 % of a clip's 8 s of work)", mine, CLIP_SECONDS, mine / CLIP_SECONDS, 1.0),
        *rows,
        Row(f"the same where {CROWD:,} clips wait, ms (theirs: {clips} or fewer)", crowded, mine, crowded / mine),
    ]


def seconds(waiting: int, clips: int = 50) -> float:
    """Seconds of a hand-off, the median of so many, out of a room in which so many clips wait."""
    with tempfile.TemporaryDirectory(prefix=".bench-", dir=Path.cwd()) as name:  # /tmp may be no disk at all
        worker, second = _rooms(Path(name), waiting + clips)
        return median(_timed(partial(_hand_on, worker, second)) for _ in range(clips))


def _rooms(root: Path, clips: int) -> tuple[Worker, Room]:
    """A worker of a room in which so many clips wait, and the next room."""
    first, second = _room(root, "generate"), _room(root, "interpolate")
    for number in range(clips):
        folder = first.ready / _clip(number).clip_id
        folder.mkdir()
        (folder / CLIP_FILE).write_bytes(_clip(number).to_json())
    return Worker(first, "gpu0"), second


def _nothing(payload: dict[str, object]) -> None:
    """The job."""


def _hand_on(worker: Worker, room: Room) -> None:
    folder = worker.claim()
    assert folder is not None
    folder.clip.stages["generate"] = StageRecord(seconds=0, finished_at=now(), worker="gpu0", attempts=1)
    worker.publish(folder, room)


def _requeue(queue: Any, task: Callable[..., object], payload: dict[str, object]) -> None:
    job = queue.dequeue()
    queue.execute(job)
    task(payload)


def _timed(work: Callable[[], object]) -> float:
    begun = time.perf_counter()
    work()
    return time.perf_counter() - begun


if __name__ == "__main__":
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--clips", type=int, default=200)
    print(table(run(arguments.parse_args().clips)))
