"""What became of everything that was dropped, once all is quiet: nothing lost, nothing twice, nothing left over."""

from __future__ import annotations

import hashlib
import re
import statistics
from collections import Counter, defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from core.contract import CLIP_ID, Rejection, VideoMeta, load
from core.encode.proof import ProofFailed, prove
from core.home import REASON_FILE
from core.work import unwatched
from tests.chaos.conductor import Conductor, Drop, Tally
from tests.invariants import (
    PLACED,
    Halves,
    check_claims,
    check_manifests,
    check_once,
    check_released,
    check_whole,
    left_on_the_way,
)

SAID = re.compile(rf"\S+ \w+ +(clip\.\w+) .*?\bclip=({CLIP_ID})(?: |$)")
"""A line of a daemon's log that is about a clip."""


@dataclass
class Reckoning:
    """The account of a run."""

    tally: Tally
    seconds: float
    drops: int = 0
    garbage: int = 0
    outcomes: Counter[str] = field(default_factory=Counter)
    lost: list[str] = field(default_factory=list)
    twice: list[str] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)
    waits: list[float] = field(default_factory=list)
    """Seconds from each drop to its result."""
    decoded: int = 0
    """Results that were read and decoded once more, strictly."""

    @property
    def kills(self) -> int:
        """All of them."""
        return self.tally.kills.total()

    @property
    def is_well(self) -> bool:
        """Whether nothing is lost, nothing twice, and nothing else as it must not be."""
        return not (self.lost or self.twice or self.wrong or self.tally.wrong)

    def __str__(self) -> str:
        ordered = sorted(self.waits) or [0.0]
        kills, holding = self.tally.kills, self.tally.holding
        rows = [f"  {name:<28}{kills[name]:>6}{holding[name]:>12}" for name in sorted(kills)]
        faults, missed = (
            [f"  {name:<28}{count:>6}" for name, count in sorted(counted.items())]
            for counted in (self.tally.faults, self.tally.missed)
        )
        outcomes = ", ".join(f"{count} {name}" for name, count in sorted(self.outcomes.items()))
        waits = (f"median {statistics.median(ordered):.1f} s, 95 of 100 within "
                 f"{ordered[int(len(ordered) * 0.95) - 1]:.1f} s, longest {ordered[-1]:.1f} s")  # fmt: skip
        wrong = self.wrong + self.tally.wrong
        return "\n".join([
            f"{'killed':<30}{'times':>6}{'with a clip':>12}",
            *rows,
            f"  {'all':<28}{self.kills:>6}{holding.total():>12}",
            "other faults",
            *faults,
            "found nothing to befall",
            *missed,
            f"{self.drops} keyframes: {outcomes}; {self.garbage} that were none, each set aside with its reason",
            f"{self.decoded} clips decoded strictly; drop to result: {waits}",
            f"{self.seconds:.0f} s in all, until all was quiet",
            f"{len(self.lost)} lost, {len(self.twice)} twice, {len(wrong)} else wrong",
            *self.lost, *self.twice, *wrong,
        ])  # fmt: skip


def reckon(conductor: Conductor) -> Reckoning:
    """Account for all of it; the daemons have left."""
    found = Reckoning(conductor.tally, conductor.seconds, len(conductor.drops), len(conductor.garbage))
    halves = conductor.halves
    checks: tuple[Callable[[], None], ...] = (
        lambda: check_whole(halves),
        lambda: check_manifests(halves),
        lambda: check_claims(halves),
        lambda: check_released(halves),
    )
    for check in checks:
        try:
            check()
        except Exception as error:  # noqa: BLE001 - whatever it is, it is told beside the rest
            found.wrong.append(f"{type(error).__name__}: {error}")
    temporary = [halves.mac.building, halves.mac.state / "trash", halves.gpu.trash, halves.gpu.released]
    temporary += halves.gpu.rooms.glob("*/tmp")
    left = {*left_on_the_way(halves), *(path for folder in temporary for path in folder.iterdir())}
    found.wrong += sorted(f"left over: {path}" for path in left)
    found.wrong += [f"still alive: {said}" for said in _alive(conductor)]
    _drops(conductor, found)
    _publications(conductor, found)
    _garbage(conductor, found)
    return found


def _publications(conductor: Conductor, found: Reckoning) -> None:
    """Once each, by what both machines' logs say; they may say nothing of one only where a kill kept them from it."""
    said = said_in(conductor.halves)
    try:
        check_once(said)
    except AssertionError as error:
        found.twice.append(str(error))
    placed = {one["clip"] for one in said if one["event"] == PLACED}
    untold = {load(VideoMeta, path).clip_id for path in halves_results(conductor)} - placed
    kills = conductor.tally.kills
    if len(untold) > kills["courier"] + kills["up"]:
        found.wrong.append(f"placed, and the log knows nothing of it: {sorted(untold)}")


def said_in(halves: Halves) -> list[dict[str, str]]:
    """What the logs of both machines say of clips: each event with its clip, in the order of the files."""
    files = sorted(path for half in halves for path in half.logs.glob("*.log*"))
    lines = (line for file in files for line in file.read_text().splitlines())
    return [{"event": line[1], "clip": line[2]} for line in map(SAID.match, lines) if line]


def _alive(conductor: Conductor) -> list[str]:
    """Processes of these homes that should have ended."""
    roots = [str(cast.house.home.root) for cast in conductor.casts]
    said = []
    for process in psutil.process_iter(["cmdline"]):
        words = process.info["cmdline"] or []
        if any(word.startswith(root) for word in words for root in roots):
            said.append(" ".join(words))
    return said


def _drops(conductor: Conductor, found: Reckoning) -> None:
    metas: dict[str, list[tuple[Path, VideoMeta]]] = defaultdict(list)
    for path in halves_results(conductor):
        meta = load(VideoMeta, path)
        metas[meta.entry.files[0].sha256 if meta.entry.files else meta.entry.stem].append((path, meta))
    mac, gpu = conductor.halves
    places = (mac.sent, mac.rejected, gpu.by_hand)
    originals: dict[str, list[Path]] = defaultdict(list)
    for path in (path for place in places for path in place.rglob("*.png") if path.is_file()):
        originals[hashlib.sha256(path.read_bytes()).hexdigest()].append(path)
    for drop in conductor.drops:
        results = metas.pop(drop.name if drop.by_hand else drop.sha256, [])
        _results(drop, results, found)
        _originals(drop, originals[drop.sha256], mac.rejected, found)
    found.wrong += [f"came from nowhere: {path}" for results in metas.values() for path, _ in results]
    in_hot = [path.name for path in mac.hot.rglob("*.png") if not path.is_relative_to(mac.sent)
              and not path.is_relative_to(mac.rejected)]  # fmt: skip
    found.wrong += [f"still in the hot folder: {name}" for name in in_hot]


def halves_results(conductor: Conductor) -> list[Path]:
    """The metas of all results."""
    return sorted(conductor.halves.mac.results.rglob("*.video_meta.json"))


def _results(drop: Drop, results: list[tuple[Path, VideoMeta]], found: Reckoning) -> None:
    if not results:
        found.lost.append(f"{drop.name}: no result")
    if len(results) > 1:
        found.twice.append(f"{drop.name}: {', '.join(str(path) for path, _ in results)}")
    for path, meta in results:
        found.outcomes[meta.outcome] += 1
        found.waits.append(path.stat().st_mtime - drop.at)
        by_qa = meta.failure is not None and meta.failure.stage == "qa"  # which may find a tiny model's clip bad
        if meta.run != 1 or (meta.outcome == "fail" and not (drop.by_hand and by_qa)):
            found.wrong.append(f"{drop.name}: {meta.outcome}, run {meta.run}: {meta.failure or meta.qa}")
        if meta.outcome == "fail":
            continue
        try:
            proof = prove(path.with_name(path.name.replace(".video_meta.json", ".mp4")), meta.frames or 0,
                          meta.fps or 0, (meta.width or 0, meta.height or 0), unwatched)  # fmt: skip
        except (ProofFailed, OSError) as error:
            found.wrong.append(f"{drop.name}: {error}")
        else:
            found.decoded += 1
            if (proof.frames, proof.fps, proof.width, proof.height) != (5, 10, 128, 64):
                found.wrong.append(f"{drop.name}: {proof}")


def _originals(drop: Drop, places: list[Path], rejected: Path, found: Reckoning) -> None:
    """One is kept beside what was made of it; another may be set aside, as a picture that was made before."""
    kept = [path for path in places if not path.is_relative_to(rejected)]
    if len(kept) != 1:
        found.wrong.append(f"{drop.name}: its original is {len(kept)} times where it belongs: {places}")
    for path in places:
        if (
            path.is_relative_to(rejected)
            and (reason := load(Rejection, path.parent / REASON_FILE)).code != "made_before"
        ):
            found.wrong.append(f"{drop.name}: rejected: {reason.message}")


def _garbage(conductor: Conductor, found: Reckoning) -> None:
    """Each image that was none lies in ``rejected/`` with its reason, once; all else where it was dropped."""
    mac = conductor.halves.mac
    for name in conductor.garbage:
        places = list(mac.rejected.glob(f"*/{name}"))
        if len(places) != 1 or not load(Rejection, places[0].parent / REASON_FILE).code:
            found.wrong.append(f"garbage {name}: set aside {len(places)} times")
    for name in conductor.stray:
        if not (mac.hot / name).exists():
            found.wrong.append(f"no drop, and gone: {name}")
