"""Clips that take turns: in which order, how often something is brought to the card, and how a round ends."""

from __future__ import annotations

import gc
import threading
import weakref
from collections.abc import Callable, Sequence
from functools import partial
from itertools import groupby

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from core.errors import Cancelled, DiskFull, DropreelError, MustRestart, Stopped
from core.generate.presets import Memory
from core.generate.residency import Residency
from core.generate.turns import Turns

TURNING = "abc"
STAYS = "s"
steps = st.lists(st.sampled_from(TURNING + STAYS), max_size=7).map("".join)
quick = settings(max_examples=60, deadline=None)


class Round:
    """Clips that do nothing but need components, and what was seen of them."""

    def __init__(self, ways: Sequence[str], fail: Callable[[int, int], None] = lambda _clip, _step: None) -> None:
        """``ways[i]`` are the components that clip i needs, one after the other; ``fail`` is called at each."""
        modules = {name: torch.nn.Linear(1, 1) for name in TURNING + STAYS}
        self.residency = Residency(modules, dict.fromkeys(TURNING, Memory(residency="turn")), torch.device("cpu"))
        self.seen: list[tuple[int, str]] = []
        self.running: list[int | None] = []
        self.turns = Turns(self.residency, [self._work(n, way, fail) for n, way in enumerate(ways)], self.hear)

    def hear(self, clip: int | None) -> None:
        self.running.append(clip)

    def _work(self, number: int, way: str, fail: Callable[[int, int], None]) -> Callable[[], str]:
        def work() -> str:
            for step, name in enumerate(way):
                self.turns.need(name)
                assert self.residency.has(name)
                assert self.running[-1] == number, "another clip's turn"
                self.seen.append((number, name))
                fail(number, step)
            return way

        return work

    def results(self) -> dict[int, str | Exception]:
        return dict(self.turns.run())


def phases(way: str) -> int:
    """How often something else is brought to the card on one clip's way."""
    return len([name for name, _ in groupby(name for name in way if name != STAYS)])


def clips_alive() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("clip ")]


@quick
@given(steps, st.integers(1, 6))
def test_together_every_phase_is_one_swap(way: str, clips: int) -> None:
    round_ = Round([way] * clips)
    assert round_.results() == dict.fromkeys(range(clips), way)
    assert round_.residency.swaps == phases(way)
    assert not clips_alive()


@quick
@given(st.lists(steps, max_size=6))
def test_whatever_clips_need_they_end_with_no_more_swaps_than_alone(ways: list[str]) -> None:
    round_ = Round(ways)
    assert round_.results() == dict(enumerate(ways))
    for clip, way in enumerate(ways):
        assert "".join(name for number, name in round_.seen if number == clip) == way
    assert round_.residency.swaps <= sum(map(phases, ways))


def test_the_order_is_all_of_one_component_then_all_of_the_next() -> None:
    round_ = Round(["sab"] * 3)
    assert [number for number, _ in round_.turns.run()] == [0, 1, 2]
    assert [f"{name}{clip}" for clip, name in round_.seen] == ["s0", "s1", "s2", "a0", "a1", "a2", "b0", "b1", "b2"]
    assert [clip for clip, _ in groupby(round_.running)] == [0, 1, 2, 0, 1, 2, 0, 1, 2, None]


def test_what_is_on_the_card_already_is_used_first() -> None:
    round_ = Round(["ab", "ab"])
    round_.residency.bring("a")
    round_.results()
    assert round_.residency.swaps == 2


@quick
@given(st.lists(steps.filter(bool), min_size=1, max_size=6), st.data())
def test_a_clip_that_fails_disturbs_no_other(ways: list[str], data: st.DataObject) -> None:
    failing = {n: data.draw(st.integers(0, len(way) - 1)) for n, way in enumerate(ways) if data.draw(st.booleans())}
    error = data.draw(st.sampled_from([ValueError("broken"), Cancelled(), DropreelError("broken")]))

    def fail(clip: int, step: int) -> None:
        if failing.get(clip) == step:
            raise error

    results = Round(ways, fail).results()
    assert results == {clip: error if clip in failing else way for clip, way in enumerate(ways)}


@quick
@given(st.lists(steps, min_size=1, max_size=6), st.data())
def test_a_round_may_be_left_at_any_point(ways: list[str], data: st.DataObject) -> None:
    round_ = Round(ways)
    running = round_.turns.run()
    for _ in range(data.draw(st.integers(0, len(ways)))):
        next(running)
    running.close()  # type: ignore[attr-defined]  # it is a generator
    assert not clips_alive()


class Killed(BaseException):
    pass


@pytest.mark.parametrize("error", [Stopped(), MustRestart("The card is lost."), Killed()])
@pytest.mark.parametrize("clip", [0, 1, 2])
def test_what_ends_a_round_gives_nobody_else_a_turn(error: BaseException, clip: int) -> None:
    def fail(number: int, step: int) -> None:
        if (number, step) == (clip, 1):
            raise error

    round_ = Round(["sab"] * 3, fail)
    with pytest.raises(type(error)):
        round_.results()
    assert round_.running[-2:] == [clip, None]
    assert round_.seen[-1] == (clip, "a")
    assert not clips_alive()


@pytest.mark.parametrize("which", range(6))
def test_if_nobody_can_be_told_whose_turn_it_is_the_round_ends(which: int) -> None:
    round_ = Round(["ab"] * 3)

    def full(clip: int | None) -> None:
        if clip is not None and len(round_.running) == which:
            raise DiskFull
        Round.hear(round_, clip)

    round_.turns._running = full
    with pytest.raises(DiskFull):
        round_.results()
    assert not clips_alive()


def test_a_failure_holds_on_to_nothing() -> None:
    kept: list[weakref.ref[torch.Tensor]] = []

    def fail(clip: int, step: int) -> None:
        large = torch.zeros(10)
        kept.append(weakref.ref(large))
        try:
            raise RuntimeError("out of memory")
        except RuntimeError as error:
            raise DropreelError("No memory.") from error

    (failure,) = Round(["a"], fail).results().values()
    gc.collect()
    assert isinstance(failure, DropreelError)
    assert kept[0]() is None


def test_a_clips_own_time_is_without_the_turns_of_others(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [0.0]
    monkeypatch.setattr("core.generate.turns.time.perf_counter", lambda: clock[0])
    own: dict[int, float] = {}
    modules = {name: torch.nn.Linear(1, 1) for name in TURNING}
    residency = Residency(modules, dict.fromkeys(TURNING, Memory(residency="turn")), torch.device("cpu"))

    def work(number: int) -> int:
        begun = clock[0]
        for component in "ab":
            rounds.need(component)
            clock[0] += 1.0
        own[number] = clock[0] - begun - rounds.waited
        return number

    rounds = Turns(residency, [partial(work, number) for number in range(3)], lambda _clip: None)
    assert sorted(number for number, _ in rounds.run()) == [0, 1, 2]
    assert clock == [6.0]
    assert own == {0: 2.0, 1: 2.0, 2: 2.0}
