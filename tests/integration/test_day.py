"""The simulated day: real rooms and daemons on a virtual clock, where nothing is lost and time adds up."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.day import BEST, QUICK, Asked, Cost, clips, ideal, server, simulate
from benchmarks.simulation import Batch, Clock, Shared, Wanted, at_once, pass_day
from core.contract import VideoMeta, load
from core.delivery import META_FILE

HANDOFF = Cost(0.02, 2e-5)


def test_who_shares_waits_as_long_as_the_others_take() -> None:
    clock = Clock()
    card = Shared(clock)
    ended = {}

    def work(name: str, begin: float, seconds: float) -> None:
        clock.sleep(begin)
        card.work(name, seconds)
        ended[name] = clock()

    clock.spawn(lambda: work("long", 0.0, 10.0))
    clock.spawn(lambda: work("short", 2.0, 3.0))
    clock.spawn(lambda: work("late", 20.0, 1.0))
    clock.run()
    assert ended == pytest.approx({"long": 13.0, "short": 8.0, "late": 21.0})
    assert card.busy == pytest.approx({"long": 10.0, "short": 3.0, "late": 1.0})
    assert card.idle(0.0, 21.0) == pytest.approx(7.0)


def test_cores_are_shared_only_where_there_are_too_few() -> None:
    clock = Clock()
    cores = Shared(clock, 3.0)
    ended = []

    def work(seconds: float) -> None:
        cores.work("encode", seconds, 2.0)
        ended.append(clock())

    clock.spawn(lambda: work(4.0))
    clock.spawn(lambda: work(6.0))
    clock.run()
    # Four cores' work on three until 4 s are done at three quarters of the speed; then there are enough.
    assert ended == pytest.approx([4 / 0.75, 4 / 0.75 + 2])


def test_every_clip_is_delivered_once_and_a_full_queue_keeps_the_cards_busy(tmp_path: Path) -> None:
    asked = Asked(server(2, HANDOFF), at_once(clips(16)))
    day = pass_day(tmp_path, asked.server, asked.batches)
    metas = [load(VideoMeta, path / META_FILE) for path in (tmp_path / "gpu/outbox").glob("2*/2*")]
    assert sorted(meta.clip_id for meta in metas) == sorted(day.arrived) == sorted(day.delivered)
    assert len(metas) == 16
    assert {meta.outcome for meta in metas} == {"pass"}
    assert not [*(tmp_path / "gpu/rooms").glob("*/ready/*"), *(tmp_path / "gpu/rooms").glob("*/active/*/*")]
    assert day.failures == []
    assert all(depth >= 0 for depths in day.depths.values() for _, depth in depths)
    # What the cards were used for is what the table says, second for second.
    assert sum(sum(card.busy.values()) for card in day.cards) == pytest.approx(2 * ideal(asked))
    assert day.waiting < 0.01
    assert ideal(asked) < day.makespan < ideal(asked) + 40


def test_the_same_day_passes_the_same_way() -> None:
    asked = Asked(server(2, HANDOFF), [Batch(0.0, clips(6)), Batch(50.0, clips(2, (BEST,)))])
    assert simulate(asked) == simulate(asked)


def test_clips_of_the_loaded_model_go_first_and_none_waits_for_ever() -> None:
    mixed = at_once([Wanted(model, 6.0) for _ in range(6) for model in (QUICK, BEST)])
    by_model, in_turn = (simulate(Asked(server(1, HANDOFF, in_turn=turn), mixed)) for turn in (False, True))
    assert by_model.spent["load"] * by_model.makespan == pytest.approx(90.0)
    assert in_turn.spent["load"] * in_turn.makespan > 200
    assert by_model.makespan < in_turn.makespan - 100


def test_a_next_room_that_is_full_holds_the_cards_back() -> None:
    starved = simulate(Asked(server(2, HANDOFF, cores=0.5), at_once(clips(16))))
    assert starved.waiting > 0.2
