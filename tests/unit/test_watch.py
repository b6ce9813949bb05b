"""Hints wake the loop, and a watch that has died is noticed; what is there is told by looking, never by events."""

from __future__ import annotations

import itertools
import os
import resource
import shutil
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.drops import Settler, scan
from core.watch import Hint, Wake, Watcher
from tests.waiting import until


@pytest.fixture
def wake() -> Iterator[Wake]:
    wake = Wake()
    yield wake
    wake.close()


@pytest.fixture
def watch(wake: Wake) -> Iterator[Callable[..., Watcher]]:
    """Makes a watcher over these hints, ended with the test."""
    made: list[Watcher] = []

    def start(*hints: Hint) -> Watcher:
        made.append(Watcher(hints, wake))
        assert made[-1].check(), "the first time it is built"
        assert wake.wait(0), "and worth a look"
        return made[-1]

    yield start
    for watcher in made:
        watcher.close()


def _drain(wake: Wake) -> None:
    while wake.wait(0.2):
        pass


# The wake


def test_a_wake_is_set_once_and_then_forgotten(wake: Wake) -> None:
    assert not wake.wait(0)
    for _ in range(3):
        wake.set()
    assert wake.wait(10)
    assert not wake.wait(0)


def test_a_wake_that_nobody_hears_never_blocks(wake: Wake) -> None:
    for _ in range(200_000):  # more than any pipe holds
        wake.set()
    assert wake.wait(0)
    assert not wake.wait(0)


def test_a_signal_wakes_the_loop_that_it_interrupts(wake: Wake) -> None:
    before = signal.signal(signal.SIGUSR1, lambda *_: wake.set())
    try:
        timer = threading.Timer(0.05, os.kill, [os.getpid(), signal.SIGUSR1])
        timer.start()
        assert wake.wait(20)
        timer.join()
    finally:
        signal.signal(signal.SIGUSR1, before)


def test_a_late_wake_writes_into_nobodys_file(tmp_path: Path) -> None:
    wake = Wake()
    wake.close()
    with (tmp_path / "frames").open("wb") as one, (tmp_path / "clip").open("wb") as other:  # they get its numbers
        wake.set()
        assert one.tell() == other.tell() == 0
    assert not any(path.stat().st_size for path in tmp_path.iterdir())


# The watcher

DISTURBANCES: dict[str, Callable[[Path], object]] = {
    "a new file": lambda folder: (folder / "new").write_bytes(b"x"),
    "a file that grows": lambda folder: (folder / "old").write_bytes(b"longer than before"),
    "a file moved in": lambda folder: (folder.parent / "outside").rename(folder / "inside"),
    "a file moved away": lambda folder: (folder / "old").rename(folder.parent / "gone"),
    "a file deleted": lambda folder: (folder / "old").unlink(),
    "a new folder": lambda folder: (folder / "deep").mkdir(),
    "a name that is no text": lambda folder: Path(os.fsdecode(os.fsencode(folder) + b"/\xff.png")).touch(),
}
NO_TEXT = sys.platform == "darwin"  # its file systems refuse such names


@pytest.mark.parametrize("disturb", DISTURBANCES.values(), ids=DISTURBANCES)
def test_what_changes_wakes_the_loop(
    tmp_path: Path, wake: Wake, watch: Callable[..., Watcher], disturb: Callable[[Path], object]
) -> None:
    if NO_TEXT and disturb is DISTURBANCES["a name that is no text"]:
        pytest.skip("this file system refuses such names")
    hot = tmp_path / "hot"
    hot.mkdir()
    (hot / "old").touch()
    (tmp_path / "outside").touch()
    watcher = watch(Hint(hot))
    assert not watcher.check(), "it stands"
    _drain(wake)
    disturb(hot)
    assert wake.wait(10)


def test_our_own_looking_does_not_wake_us(tmp_path: Path, wake: Wake, watch: Callable[..., Watcher]) -> None:
    (tmp_path / "a.png").write_bytes(b"x")
    watch(Hint(tmp_path, deep=True))
    _drain(wake)
    list(scan(tmp_path, ()))
    (tmp_path / "a.png").read_bytes()
    assert not wake.wait(0.3)


@pytest.mark.parametrize("deep", [True, False])
def test_only_a_deep_hint_counts_what_changes_below(
    tmp_path: Path, wake: Wake, watch: Callable[..., Watcher], deep: bool
) -> None:
    (tmp_path / "below").mkdir()
    watch(Hint(tmp_path, deep=deep))
    _drain(wake)
    (tmp_path / "below" / "ack.json").touch()
    assert wake.wait(10 if deep else 0.3) is deep


def _again(folder: Path) -> None:
    shutil.rmtree(folder)
    folder.mkdir()


def _swap(folder: Path) -> None:
    folder.with_name("fresh").mkdir()
    folder.rename(folder.with_name("old"))
    folder.with_name("fresh").rename(folder)


@pytest.mark.parametrize("remake", [_again, _swap], ids=["deleted and made again", "another one in its place"])
def test_a_folder_that_is_another_one_is_watched_anew(
    tmp_path: Path, wake: Wake, watch: Callable[..., Watcher], remake: Callable[[Path], None]
) -> None:
    hot = tmp_path / "hot"
    hot.mkdir()
    watcher = watch(Hint(hot))
    remake(hot)
    until(watcher.check, "that is noticed")  # by its inode; or, that being the same, by the death of its emitter
    _drain(wake)
    (hot / "new").touch()
    assert wake.wait(10)


def test_a_missing_folder_is_reported_and_watched_when_it_comes(
    tmp_path: Path, wake: Wake, watch: Callable[..., Watcher]
) -> None:
    hot, other = tmp_path / "hot", tmp_path / "other"
    other.mkdir()
    watcher = watch(Hint(hot), Hint(other))
    assert watcher.blind == [hot]
    _drain(wake)
    (other / "ack.json").touch()
    assert wake.wait(10), "the others are watched all the same"
    assert not watcher.check(), "still missing is nothing new"
    hot.mkdir()
    assert watcher.check()
    assert not watcher.blind
    _drain(wake)
    (hot / "new").touch()
    assert wake.wait(10)


def test_with_nothing_to_watch_nothing_is_built_again(
    tmp_path: Path, wake: Wake, watch: Callable[..., Watcher]
) -> None:
    watcher = watch(Hint(tmp_path / "hot"))
    assert not watcher.check()


def test_a_dead_emitter_is_noticed(tmp_path: Path, wake: Wake, watch: Callable[..., Watcher]) -> None:
    watcher = watch(Hint(tmp_path))
    assert watcher._observer is not None
    for emitter in watcher._observer.emitters:
        emitter.stop()
        emitter.join()
    assert watcher.check()
    _drain(wake)
    (tmp_path / "new").touch()
    assert wake.wait(10)


def test_a_dead_dispatcher_is_noticed(tmp_path: Path, wake: Wake, watch: Callable[..., Watcher]) -> None:
    watcher = watch(Hint(tmp_path))
    assert watcher._observer is not None
    watcher._observer.stop()
    watcher._observer.join()
    assert watcher.check()
    _drain(wake)
    (tmp_path / "new").touch()
    assert wake.wait(10)


@pytest.mark.skipif(sys.platform != "linux", reason="inotify's limits")
def test_beyond_the_systems_limit_it_is_blind_and_lives(tmp_path: Path, wake: Wake) -> None:
    watcher = Watcher([Hint(tmp_path)], wake)
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    in_use = os.open("/dev/null", os.O_RDONLY)  # the lowest number that is free
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (in_use + 1, before[1]))
        assert watcher.check()
        assert watcher.blind == [tmp_path]
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)
        os.close(in_use)
    assert watcher.check(), "tried again"
    assert not watcher.blind
    _drain(wake)
    (tmp_path / "new").touch()
    assert wake.wait(10)
    watcher.close()


def test_of_a_burst_nothing_is_lost(tmp_path: Path, wake: Wake, watch: Callable[..., Watcher]) -> None:
    watch(Hint(tmp_path))
    _drain(wake)
    names = {f"img_{number}.png" for number in range(2000)}

    def burst() -> None:
        for name in names:
            (tmp_path / name).touch()

    writer = threading.Thread(target=burst)
    writer.start()
    looks = 0

    def look() -> bool:
        nonlocal looks
        looks += wake.wait(0.1)
        return {drop.group.images[0] for drop in scan(tmp_path, ())} == names

    until(look, "all are seen")
    writer.join()
    assert looks, "events told us to look"


# Settling

LOOKS = st.lists(
    st.tuples(st.dictionaries(st.sampled_from("abc"), st.integers(0, 1)), st.floats(0, 10)), min_size=1, max_size=12
)


@given(LOOKS)
def test_what_lies_unchanged_has_settled_since_it_was_first_seen_so(looks: list[tuple[dict[str, int], float]]) -> None:
    settler: Settler[str] = Settler()
    moments = list(itertools.accumulate(pause for _, pause in looks))
    for number, (things, _) in enumerate(looks):
        seconds = settler.look(things, moments[number])
        assert seconds.keys() == things.keys()
        for key, identity in things.items():
            first = number
            while first and looks[first - 1][0].get(key) == identity:
                first -= 1
            assert seconds[key] == moments[number] - moments[first]
