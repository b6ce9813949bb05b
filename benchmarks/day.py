"""A thousand clips a day on 1, 2, 4 and 8 cards: the real rooms, loop, daemons and admission on a virtual clock.

Ours: what the simulated server does; theirs: the ideal, which loses nothing, or the same server set otherwise. The
stages' seconds are those of ``TIMES``, for a clip of 6 s, and scale with a clip's length, 4 to 8 s; what of them is
measured and what is assumed is said there. A hand-off takes what a real one took on this disk at the beginning of the
same run, and longer by what it took longer for each clip that waits. Everything else follows: the same seconds, the
same day.

Draws ``docs/plots/day-*.svg``, which ``docs/explanation/a-day.md`` shows.

    python -m benchmarks.day [--clips N] [--plots FOLDER]
"""

from __future__ import annotations

import argparse
import math
import multiprocessing
import os
import random
import tempfile
from collections.abc import Callable, Iterable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import NamedTuple

from benchmarks import handoff
from benchmarks.plots import plot
from benchmarks.rows import Row, table
from benchmarks.simulation import (
    CLIP_SECONDS,
    Batch,
    Day,
    Model,
    Server,
    Times,
    Wanted,
    at_once,
    pass_day,
    through_the_day,
)
from core.settings import RoomBounds

QUICK, BEST = "ltx-video-2b-distilled", "wan2.2-i2v-a14b-4step"
TIMES = Times(
    models={
        QUICK: Model(work=8.0, load=30.0),  # assumed: the studio's target, 7.5 clips a minute on an RTX 4090
        BEST: Model(work=66.0, load=90.0, swap=2.0),  # assumed: the class is published at 63 to 75 s on an RTX 4090
    },
    check=0.5,  # assumed: a quarter of a gigabyte looked at and written
    network=1.5,  # assumed: RIFE makes about 100 frames of 1024×576 a second on an RTX 4090
    flow=0.0,
    film=1.7,  # measured on two cores: 180 frames, 106 a second
    qa=1.8,  # measured on two cores that other work shared: 101 frames a second, with the plan
    encode=6.5,  # measured: 13 core-seconds for `vmaf:95` within a batch, docs/explanation/encoding.md
    width=2.0,  # so many cores those are spread over
    handoff=0.0,  # measured at the beginning,
    look=0.0,  # as this is
)
FLOW = 12.0
"""Measured on two cores: ``flow`` makes 12.2 frames a second, of which a clip of 6 s needs 145."""
CARDS = (1, 2, 4, 8)
WORKING = (1, 4)
"""With so many cards the clips are dropped through a working day, too."""
HOURS, DROP = 8.0, 25
"""A working day; so many keyframes are dropped at a time, at any time of it."""
CORES = 8
"""To each card; a server of several cards has that many or more."""
BOUNDS = (1, 2, 4, 8)
SHORT = 24
"""Clips for each card in the comparisons."""
STEP = 180.0
"""Seconds between two points of the plot of the queue."""
EIGHT = tuple(f"cpu{number}" for number in range(8))
PLOTS = Path("docs/plots")
MEMORY = Path("/dev/shm")  # noqa: S108 - folders of our own are made in it
"""Where there is one, days pass there, and no disk is written to: what that costs is in the table."""


class Asked(NamedTuple):
    """A day to be simulated."""

    server: Server
    batches: list[Batch]


def clips(count: int, models: Iterable[str] = (QUICK,), seed: int = 0) -> list[Wanted]:
    """Clips of 4 to 8 s, of these models in turn; one takes up to 1.4 times as long to encode as usual, or 0.6."""
    dice = random.Random(seed)  # noqa: S311 - no secret
    models = list(models)
    return [
        Wanted(models[number % len(models)], round(dice.uniform(4, 8), 2), round(dice.uniform(0.6, 1.4), 2))
        for number in range(count)
    ]


class Cost(NamedTuple):
    """Seconds of a hand-off, and how much more for each clip that waits."""

    handoff: float
    look: float


def cost_here() -> Cost:
    """Measured on this disk."""
    few, many = handoff.seconds(0), handoff.seconds(handoff.CROWD)
    return Cost(few, max(0.0, many - few) / handoff.CROWD)


def server(cards: int, cost: Cost, *, bound: int = 0, cores: float = CORES, encoders: int = 1,
           network: bool = True, in_turn: bool = False, generators: tuple[str, ...] = (),
           interpolators: tuple[str, ...] = ()) -> Server:  # fmt: skip
    """A server with so many cores and encoding workers to each card; a bound of 0 is the settings' own."""
    times = TIMES._replace(handoff=cost.handoff, look=cost.look)
    if not network:
        times = times._replace(network=0.0, flow=FLOW)
    bounds = RoomBounds(interpolate=bound, qa=bound, encode=bound) if bound else RoomBounds()
    return Server(cards, times, cores * cards, bounds, generators, interpolators, encoders * cards, in_turn)


class Found(NamedTuple):
    """What came of a day; times in seconds."""

    clips: int
    makespan: float
    per_minute: float
    waiting: float
    """Share of the time with a full queue in which the cards did nothing,"""
    queued: float
    """and how long that time was."""
    spent: dict[str, float]
    """Share of all cards' time by what it was spent on: ``generate``, ``interpolate``, ``load``, ``swap``."""
    swapping: float
    """Seconds of swaps of experts for each clip."""
    p50: float
    p95: float
    """Latencies, from the inbox to the outbox."""
    depths: list[tuple[float, float]]
    """How many clips waited for base frames at most, by the hour, in steps of 3 minutes."""


def simulate(asked: Asked) -> Found:
    """A day, in a folder that goes again."""
    with tempfile.TemporaryDirectory(prefix="dropreel-day-", dir=MEMORY if MEMORY.is_dir() else None) as folder:
        day = pass_day(Path(folder), asked.server, asked.batches)
    lost = len(day.arrived) - len(day.delivered)
    assert not lost, f"{lost} clips are lost"
    assert not day.failures, f"{day.failures} failed"
    spent = {kind: day.busy(kind) for kind in ("generate", "interpolate", "load", "swap")}
    swapping = spent["swap"] * day.makespan * asked.server.cards / len(day.delivered)
    begin, end = day.full
    return Found(len(day.delivered), day.makespan, day.per_minute, day.waiting, end - begin, spent, swapping,
                 day.latency(0.5), day.latency(0.95), _depths(day))  # fmt: skip


def ideal(asked: Asked) -> float:
    """Seconds that all clips take of the cards, spread evenly: no makespan is shorter."""
    times = asked.server.times
    wanted = [clip for batch in asked.batches for clip in batch.clips]
    work = sum((times.models[clip.model].work + times.network) * clip.seconds / CLIP_SECONDS for clip in wanted)
    return work / asked.server.cards


def run(count: int = 1000, plots: Path | None = PLOTS) -> list[Row]:
    """The days, what they are compared with, and the plots."""
    cost = cost_here()
    wanted, few = clips(count), at_once(clips(4 * SHORT))
    asked: dict[str, Asked] = {}
    for cards in CARDS:
        asked[f"full {cards}"] = Asked(server(cards, cost), at_once(wanted))
    for cards in WORKING:
        asked[f"working {cards}"] = Asked(server(cards, cost), through_the_day(wanted, HOURS, DROP))
    for bound in BOUNDS:
        asked[f"bound {bound}"] = Asked(server(4, cost, bound=bound), few)
        asked[f"tight {bound}"] = Asked(server(4, cost, bound=bound, cores=2), few)
        asked[f"rounds {bound}"] = Asked(server(2, cost, bound=bound), at_once(clips(32, (BEST,))))
    asked["one"] = Asked(server(4, cost, interpolators=("gpu3",)), few)
    asked["apart"] = Asked(server(4, cost, generators=("gpu0", "gpu1", "gpu2"), interpolators=("gpu3",)), few)
    asked["flow"] = Asked(server(4, cost, network=False, interpolators=EIGHT), few)
    for cores in (1, 2, 3, 4):
        asked[f"cores {cores}"] = Asked(server(4, cost, cores=cores), few)
    asked["two encoders"] = Asked(server(4, cost, encoders=2), few)
    for order, in_turn in (("by model", False), ("in turn", True)):
        asked[order] = Asked(server(2, cost, in_turn=in_turn), at_once(clips(60, (QUICK, QUICK, QUICK, BEST))))
    with ProcessPoolExecutor(min(2, os.cpu_count() or 1), multiprocessing.get_context("spawn")) as pool:
        days = dict(zip(asked, pool.map(simulate, asked.values()), strict=True))
    if plots is not None:
        draw(days, plots)
    return _rows(asked, days)


def _rows(asked: dict[str, Asked], days: dict[str, Found]) -> list[Row]:
    one, times = days["full 1"], asked["full 1"].server.times
    work, crowded = times.models[QUICK].work, times.handoff + handoff.CROWD * times.look
    rows = [
        Row(f"{name}, ms (theirs: a clip's work)", 1e3 * took, 1e3 * work, took / work)
        for name, took in (("a hand-off", times.handoff), (f"one where {handoff.CROWD:,} clips wait", crowded))
    ]
    for cards in CARDS:
        day, best = days[f"full {cards}"], ideal(asked[f"full {cards}"])
        name = f"{_named(cards)}, {day.clips:,} clips at once"
        rows += [
            Row(f"{name}: minutes (theirs: the ideal)", day.makespan / 60, best / 60, day.makespan / best, 1.02),
            Row(f"{name}: s that a card waits while the queue is full (theirs: of so many)", day.waiting * day.queued,
                day.queued, day.waiting, 0.02),
        ]  # fmt: skip
        if cards > 1:
            rows.append(Row(f"{name}: clips a minute (theirs: {cards} times one card's)", day.per_minute,
                            cards * one.per_minute, day.per_minute / (cards * one.per_minute)))  # fmt: skip
    alone = _alone(asked["working 1"].server.times)
    for cards in WORKING:
        day = days[f"working {cards}"]
        name = f"{_named(cards)}, {day.clips:,} clips in {HOURS:g} h, {DROP} at a time"
        rows += [
            Row(f"{name}: s to a result, median (theirs: a clip alone)", day.p50, alone, day.p50 / alone),
            Row(f"{name}: s to a result, 95 % (theirs: a clip alone)", day.p95, alone, day.p95 / alone),
            Row(f"{name}: % of the cards' time at work (theirs: with a full queue)", 100 * _worked(day),
                100 * _worked(days[f"full {cards}"]), _worked(day) / _worked(days[f"full {cards}"])),
        ]  # fmt: skip

    def against(figure: str, ours: str, theirs: str) -> None:
        a, b = days[ours].per_minute, days[theirs].per_minute
        rows.append(Row(figure, a, b, a / b))

    most = BOUNDS[-1]
    for bound in BOUNDS[:-1]:
        against(f"4 cards, clips a minute, rooms of {bound} (theirs: {most})", f"bound {bound}", f"bound {most}")
    for bound in BOUNDS[:-1]:
        against(f"the same with 2 cores a card, rooms of {bound} (theirs: {most})", f"tight {bound}", f"tight {most}")
    for bound in BOUNDS[:-1]:
        ours, theirs = (days[f"rounds {each}"].swapping for each in (bound, most))
        rows.append(Row(f"two experts in turn, s of swaps a clip, rooms of {bound} (theirs: {most})", ours, theirs,
                        ours / theirs))  # fmt: skip
    usual = "bound 4"
    against("one interpolator for 4 cards (theirs: one a card)", "one", usual)
    against("a card that only interpolates (theirs: one interpolator a card)", "apart", usual)
    against("`flow` on the processor, two workers a card (theirs: one interpolator a card)", "flow", usual)
    for cores in (1, 2, 3, 4):
        against(f"{cores} core{'s' * (cores > 1)} a card (theirs: {CORES})", f"cores {cores}", usual)
    against("two encoders a card (theirs: one)", "two encoders", usual)
    against("two models, clips of the loaded one first (theirs: as they came)", "by model", "in turn")
    return rows


def draw(days: dict[str, Found], folder: Path) -> None:
    """The three plots of the page."""
    folder.mkdir(exist_ok=True)
    kinds: dict[str, Callable[[Found], float]] = {"at work": _worked, "generating": lambda day: day.spent["generate"]}
    plots = {
        "day-queue": plot(
            f"{days['working 1'].clips:,} clips in a working day, {DROP} at a time", "hour", "clips that wait",
            {_named(number): days[f"working {number}"].depths for number in WORKING},
            marks=range(0, round(HOURS) + 2, 2)),
        "day-busy": plot(
            "Everything at once", "cards", "% of the cards' time",
            {name: [(number, 100 * share(days[f"full {number}"])) for number in CARDS]
             for name, share in kinds.items()},
            marks=CARDS),
        "day-bounds": plot(
            "4 cards and a full queue", "clips that may wait in a room", "% of the time that a card waits",
            {f"{cores} cores a card": [(bound, 100 * days[f"{name} {bound}"].waiting) for bound in BOUNDS]
             for name, cores in (("bound", CORES), ("tight", 2))},
            marks=BOUNDS),
    }  # fmt: skip
    for name, text in plots.items():
        (folder / f"{name}.svg").write_text(text, encoding="utf-8")


def _named(cards: int) -> str:
    return f"{cards} card{'s' * (cards > 1)}"


def _worked(day: Found) -> float:
    """Share of the cards' time in which they made frames."""
    return day.spent["generate"] + day.spent["interpolate"]


def _alone(times: Times) -> float:
    """Seconds that a clip of 6 s takes when there is no other."""
    return times.models[QUICK].work + times.check + times.network + times.flow + times.film + times.qa + times.encode


def _depths(day: Day) -> list[tuple[float, float]]:
    depths, found, at = day.depths["generate"], [], 0
    last = max(day.delivered.values())
    for number in range(math.ceil(last / STEP) + 1):
        most = depths[at][1]
        while at + 1 < len(depths) and depths[at + 1][0] <= number * STEP:
            at += 1
            most = max(most, depths[at][1])
        found.append((number * STEP / 3600, float(most)))
    return found


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clips", type=int, default=1000)
    parser.add_argument("--plots", type=Path, default=PLOTS)
    chosen = parser.parse_args()
    print(table(run(chosen.clips, chosen.plots)))
