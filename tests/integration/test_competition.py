"""Real processes of one room compete for its clips: each is claimed once, and the dead are helped once."""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from multiprocessing.connection import Connection
from multiprocessing.context import SpawnProcess
from multiprocessing.synchronize import Barrier
from pathlib import Path

import pytest

from core import fsops
from core.errors import AlreadyRunning
from core.rooms import ClipFolder, Room, Worker
from tests.waiting import until

CLIPS = 100
WORKERS = 4
SPAWN = multiprocessing.get_context("spawn")


def compete(root: Path, name: str, start: Barrier, wanted: int) -> None:
    """In a process: help the dead, claim and hand on, until the next room has all that are wanted."""
    room, following = Room(root / "generate"), Room(root / "qa")
    worker = Worker(room, name)
    start.wait()
    while len(following.ids) < wanted:
        for orphan in worker.orphans():
            fsops.append(root / "recovered.log", orphan.name)
            worker.give_back(ClipFolder.open(orphan), count_attempt=True)
        folder = worker.claim()
        if folder is not None:
            fsops.append(root / "claimed.log", f"{folder.clip.clip_id} {name}")
            worker.publish(folder, following)


def take_and_hold(root: Path, name: str, count: int, with_child: bool, pipe: Connection) -> None:
    """In a process: claim so many clips, perhaps start a child, and do nothing more until killed."""
    worker = Worker(Room(root / "generate"), name)
    taken = [folder.clip.clip_id for folder in iter(worker.claim, None) if folder][:count] if count else []
    child = None
    if with_child:
        child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"], close_fds=False)
    pipe.send((taken, child.pid if child else 0))
    signal.pause()


def turned_away(root: Path, name: str) -> None:
    """In a process: be the second of this name."""
    try:
        Worker(Room(root / "generate"), name)
    except AlreadyRunning as error:
        sys.exit(error.exit_code)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for part in ("tmp", "ready", "active"):
        for stage in ("generate", "qa"):
            (tmp_path / stage / part).mkdir(parents=True)
    return tmp_path


def _fill(root: Path, count: int) -> set[str]:
    """Have so many clips wait in ``generate``; their ids."""
    from tests.unit.test_rooms import put_in  # not above: the children import this module, and need none of that

    return {put_in(Room(root / "generate"), number) for number in range(count)}


@pytest.fixture
def processes() -> Iterator[list[SpawnProcess]]:
    """What is put in here is dead after the test."""
    started: list[SpawnProcess] = []
    yield started
    for process in started:
        process.kill()
        process.join()


def _start(processes: list[SpawnProcess], target: object, *args: object) -> SpawnProcess:
    process = SPAWN.Process(target=target, args=args)  # type: ignore[arg-type]  # a function of this module
    process.start()
    processes.append(process)
    return process


def _lines(log: Path) -> list[str]:
    return log.read_text().splitlines() if log.exists() else []


def _hold(
    root: Path, processes: list[SpawnProcess], count: int, *, with_child: bool = False
) -> tuple[SpawnProcess, int]:
    """A worker, and its child's pid, with so many clips in its hands."""
    ours, theirs = SPAWN.Pipe()
    process = _start(processes, take_and_hold, root, "victim", count, with_child, theirs)
    assert ours.poll(20)
    taken, child = ours.recv()
    assert len(taken) == count
    return process, child


def test_each_clip_is_claimed_once(root: Path, processes: list[SpawnProcess]) -> None:
    ids = _fill(root, CLIPS)
    start = SPAWN.Barrier(WORKERS)
    for number in range(WORKERS):
        _start(processes, compete, root, f"gpu{number}", start, CLIPS)
    for process in processes:
        process.join(25)
        assert process.exitcode == 0
    claimed = [line.split() for line in _lines(root / "claimed.log")]
    assert Counter(clip for clip, _ in claimed) == Counter(ids)
    assert len({worker for _, worker in claimed}) > 1, "they did compete"
    assert set(Room(root / "qa").ids) == ids
    assert not _lines(root / "recovered.log"), "nobody took a living worker for dead"
    assert not any(ClipFolder.open(path).clip.attempts for path in (root / "qa" / "ready").iterdir())


def test_the_clips_of_one_that_is_killed_are_taken_over_once(root: Path, processes: list[SpawnProcess]) -> None:
    ids = _fill(root, 10)
    victim, _ = _hold(root, processes, len(ids))
    start = SPAWN.Barrier(WORKERS + 1)
    helpers = [_start(processes, compete, root, f"gpu{number}", start, len(ids)) for number in range(WORKERS)]
    start.wait()
    assert not _lines(root / "recovered.log"), "it lives"
    victim.kill()
    for process in helpers:
        process.join(25)
        assert process.exitcode == 0
    assert Counter(_lines(root / "recovered.log")) == Counter(ids)
    assert Counter(line.split()[0] for line in _lines(root / "claimed.log")) == Counter(ids)
    assert set(Room(root / "qa").ids) == ids


def test_while_a_child_of_the_dead_may_write_nobody_takes_its_clips(root: Path, processes: list[SpawnProcess]) -> None:
    (name,) = _fill(root, 1)
    victim, child = _hold(root, processes, 1, with_child=True)
    helper = Worker(Room(root / "generate"), "gpu1")
    victim.kill()
    victim.join()
    assert not list(helper.orphans())
    with pytest.raises(AlreadyRunning):
        Worker(Room(root / "generate"), "victim")
    os.kill(child, signal.SIGKILL)
    orphan = until(lambda: next(helper.orphans(), None), "the lock is free")
    assert orphan.name == name
    helper.give_back(ClipFolder.open(orphan), count_attempt=True)
    again = helper.claim()
    assert again is not None
    assert again.clip.attempts == {"generate": 2}
    helper.close()


def test_a_second_process_of_one_name_is_turned_away(root: Path, processes: list[SpawnProcess]) -> None:
    _hold(root, processes, 0)
    second = _start(processes, turned_away, root, "victim")
    second.join(20)
    assert second.exitcode == AlreadyRunning.exit_code
