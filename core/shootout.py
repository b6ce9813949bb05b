"""The shootout's rules: which preset is out, how many points each makes, what its clips cost. Pure.

The same keyframes and motions go through each preset on one machine, one room after another. What is measured of every
clip is put together here, by formulas that the report prints as they stand.
"""

from __future__ import annotations

import datetime as dt
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean, median
from typing import Any, Self

from core.contract import VideoMeta

SECONDS_MAX, SECONDS_GOOD = 30.0, 7.5
"""A clip in 7.5 s is eight a minute, what one server is built for; over 30 s the preset is out."""
MEMORY_GIB = 24.0
"""Of the studio's cards."""
MEMORY_GOOD = 1 / 4
"""Of the card: four workers fit on one, or a card of a quarter of the price does."""
STEADY_MIN, STEADY_GOOD = 0.85, 0.99
"""Mean SSIM of consecutive frames, motion undone. Slow pans over ten real stills measure 0.967 to 0.998, noise 0.04."""
FIRST_MIN, FIRST_GOOD = 0.5, 0.97
"""SSIM of the first frame: where QA sees another picture, and what clean clips have in the median."""

Figure = float | None


@dataclass(frozen=True)
class ClipFigures:
    """What was measured of one clip; None where it could not be."""

    name: str
    """The keyframe's."""
    outcome: str
    """``pass``, ``flag``, ``fail`` or ``refused``."""
    reasons: tuple[str, ...]
    seconds: Mapping[str, float]
    """By room; the model's load is not in them, and what it waited for other clips is not either."""
    peak_gib: Figure
    """The most that was taken of the card's memory; None where no card was used."""
    flash_frames: int
    steadiness: Figure
    """``core.temporal.Steadiness.ssim``, -1..1."""
    first_frame: Figure
    """SSIM of the delivered first frame and the keyframe's view, -1..1, by QA."""
    card: str
    """What made it; ``CPU`` where nothing else says so."""
    cold: bool = False
    """Whether it was made in the first round after its model's load, which warms everything up."""

    @classmethod
    def of(
        cls,
        name: str,
        outcome: str,
        reasons: Sequence[str],
        meta: VideoMeta | None,
        steadiness: Figure,
        *,
        cold: bool = False,
    ) -> Self:
        """The figures of a clip, by its meta; of an entry that was refused there is none."""
        made = meta.stages["generate"].details if meta and "generate" in meta.stages else {}
        measures = meta.qa.measures if meta and meta.qa else {}
        seconds = {stage: record.seconds for stage, record in meta.stages.items()} if meta else {}
        if "make_seconds" in made:  # a model's stage also waits: for the load, and for the clips that are made with it
            parts = ("encode_seconds", "make_seconds", "keep_seconds")
            seconds["generate"] = round(sum(made.get(part, 0.0) for part in parts), 3)
        card = str(made.get("card") or "CPU")
        return cls(
            name=name,
            outcome=outcome,
            reasons=tuple(reasons),
            seconds=seconds,
            peak_gib=made.get("memory", {}).get("peak_gib"),
            flash_frames=int(measures.get("flash_frames") or 0),
            steadiness=steadiness,
            first_frame=_figure(measures.get("first_frame_ssim")),
            card="CPU" if card == "cpu" else card,
            cold=cold,
        )

    @property
    def came_out(self) -> bool:
        """Whether there is a clip."""
        return self.outcome in {"pass", "flag"}


@dataclass(frozen=True)
class Figures:
    """What was measured of a preset: of its clips that came out the medians, or for seconds the means."""

    n: int
    """How many came out."""
    of: int
    """How many it was asked for."""
    seconds: Figure
    """A clip, all rooms one after another: the mean, for the first clip of a round pays for what all of it need."""
    rooms: Mapping[str, float]
    """The mean of each room, in seconds."""
    timed: int
    """Over how many clips: those that are not cold, or all where there is no other."""
    cold: bool
    """Whether it had to be over cold ones."""
    peak_gib: Figure
    """The most that any clip took."""
    flash_frames: int
    """Of all clips, those among them that failed."""
    steadiness: Figure
    first_frame: Figure
    card: str

    @classmethod
    def of_clips(cls, clips: Sequence[ClipFigures]) -> Self:
        """The figures of a preset's clips."""
        out = [clip for clip in clips if clip.came_out]
        warm = [clip for clip in out if not clip.cold]
        timed = warm or out
        names = dict.fromkeys(room for clip in timed for room in clip.seconds)
        return cls(
            n=len(out),
            of=len(clips),
            seconds=fmean(sum(clip.seconds.values()) for clip in timed) if timed else None,
            rooms={room: fmean(clip.seconds.get(room, 0.0) for clip in timed) for room in names},
            timed=len(timed),
            cold=bool(timed) and not warm,
            peak_gib=max((clip.peak_gib for clip in clips if clip.peak_gib is not None), default=None),
            flash_frames=sum(clip.flash_frames for clip in clips),
            steadiness=_median(clip.steadiness for clip in out),
            first_frame=_median(clip.first_frame for clip in out),
            card=next((clip.card for clip in out), "CPU"),
        )

    @property
    def clips_per_minute(self) -> Figure:
        """With a worker in every room: the slowest sets the pace."""
        slowest = max(self.rooms.values(), default=0.0)
        return 60 / slowest if slowest > 0 else None

    def dollars_per_clip(self, dollars_per_hour: float) -> Figure:
        """At that pace, for the hours of the one card."""
        pace = self.clips_per_minute
        return dollars_per_hour / 60 / pace if pace else None


@dataclass(frozen=True)
class Rule:
    """A part of the score."""

    name: str
    points: int
    measure: str
    """What of the figures it judges."""
    formula: str
    """The share of the points, 0..1, of ``x``; ``share`` computes just this."""
    why: str
    share: Callable[[float], float]

    def to_json(self) -> dict[str, Any]:
        """What a reader of ``report.json`` may compute it by."""
        return {"name": self.name, "points": self.points, "formula": self.formula, "why": self.why}


def rules(memory_gib: float = MEMORY_GIB) -> tuple[Rule, ...]:
    """The parts of the score on cards of so much memory; their points are 100 in all."""
    memory_good = memory_gib * MEMORY_GOOD
    return (
        Rule(
            "speed",
            40,
            "seconds",
            f"clamp(log({SECONDS_MAX:g} / x) / log({SECONDS_MAX:g} / {SECONDS_GOOD:g}))",
            f"x: the mean seconds a clip. All at {SECONDS_GOOD:g} s, none at {SECONDS_MAX:g} s, and each halving is "
            "worth the same, as it is to whoever pays for cards.",
            lambda x: _halvings(x, SECONDS_MAX, SECONDS_GOOD),
        ),
        Rule(
            "temporal quality",
            35,
            "steadiness",
            f"clamp((x - {STEADY_MIN:g}) / ({STEADY_GOOD:g} - {STEADY_MIN:g}))",
            f"x: the median SSIM of consecutive frames, their motion undone. None at {STEADY_MIN:g}, which eliminates; "
            f"all at {STEADY_GOOD:g}, what a slow pan over a still measures.",
            lambda x: _between(x, STEADY_MIN, STEADY_GOOD),
        ),
        Rule(
            "first frame",
            15,
            "first_frame",
            f"clamp((x - {FIRST_MIN:g}) / ({FIRST_GOOD:g} - {FIRST_MIN:g}))",
            f"x: the median SSIM of the first frame and the keyframe's view. None at {FIRST_MIN:g}, below which QA "
            f"sees another picture; all at {FIRST_GOOD:g}, the median of clean clips.",
            lambda x: _between(x, FIRST_MIN, FIRST_GOOD),
        ),
        Rule(
            "memory",
            10,
            "peak_gib",
            f"clamp(log({memory_gib:g} / x) / log({memory_gib:g} / {memory_good:g}))",
            f"x: the most GiB of the card that any clip took. None at {memory_gib:g}, above which is eliminated; all "
            f"at {memory_good:g}, and each halving is worth the same: twice as many workers fit on a card.",
            lambda x: _halvings(x, memory_gib, memory_good),
        ),
    )


@dataclass(frozen=True)
class Contestant:
    """A preset, its figures, and what they come to."""

    preset: str
    clips: tuple[ClipFigures, ...]
    figures: Figures
    eliminated: tuple[str, ...]
    """Why it is out; empty where it is not. It is scored all the same."""
    points: Mapping[str, Figure]
    """By rule; None where there is nothing to judge."""
    out_of: int
    """How many points could be made with what was measured."""

    @property
    def score(self) -> float:
        """0..100: the points, as a share of those that could be made."""
        made = sum(points for points in self.points.values() if points is not None)
        return 100 * made / self.out_of if self.out_of else 0.0

    def to_json(self, dollars_per_hour: float) -> dict[str, Any]:
        """All of it, for ``report.json``."""
        figures = self.figures
        return {
            "preset": self.preset,
            "eliminated": list(self.eliminated),
            "score": round(self.score, 2),
            "out_of": self.out_of,
            "points": {name: _rounded(points) for name, points in self.points.items()},
            "n": figures.n,
            "of": figures.of,
            "card": figures.card,
            "seconds": _rounded(figures.seconds),
            "timed": figures.timed,
            "cold": figures.cold,
            "rooms": {room: round(seconds, 3) for room, seconds in figures.rooms.items()},
            "peak_gib": figures.peak_gib,
            "flash_frames": figures.flash_frames,
            "steadiness": _rounded(figures.steadiness),
            "first_frame": _rounded(figures.first_frame),
            "clips_per_minute": _rounded(figures.clips_per_minute),
            "dollars_per_clip": _rounded(figures.dollars_per_clip(dollars_per_hour), 6),
            "clips": [
                {
                    "name": clip.name,
                    "outcome": clip.outcome,
                    "reasons": list(clip.reasons),
                    "seconds": dict(clip.seconds),
                    "cold": clip.cold,
                    "peak_gib": clip.peak_gib,
                    "flash_frames": clip.flash_frames,
                    "steadiness": _rounded(clip.steadiness),
                    "first_frame": _rounded(clip.first_frame),
                }
                for clip in self.clips
            ],
        }


def cold(metas: Iterable[VideoMeta]) -> set[str]:
    """The ids of one preset's clips that were made in the first round after a load of its model.

    Rooms work one after another here, so that the model was loaded anew wherever another room worked in between.
    """
    made = sorted((meta for meta in metas if "generate" in meta.stages), key=lambda meta: _done(meta, "generate"))
    elsewhere = [_done(meta, stage) for meta in made for stage in meta.stages if stage != "generate"]
    found = set[str]()
    left, before = 0, None
    for meta in made:
        at = _done(meta, "generate")
        if before is None or any(before <= other < at for other in elsewhere):
            left = int(meta.stages["generate"].details.get("together", 0))  # the camera has no rounds
        if left > 0:
            found.add(meta.clip_id)
        left, before = left - 1, at
    return found


def judge(preset: str, clips: Sequence[ClipFigures], memory_gib: float = MEMORY_GIB) -> Contestant:
    """Score a preset by its clips."""
    figures = Figures.of_clips(clips)
    points: dict[str, Figure] = {}
    out_of = 0
    for rule in rules(memory_gib):
        measured: Figure = getattr(figures, rule.measure)
        points[rule.name] = None if measured is None else rule.points * rule.share(measured)
        out_of += 0 if measured is None else rule.points
    return Contestant(preset, tuple(clips), figures, _eliminated(figures, memory_gib), points, out_of)


def ranked(contestants: Sequence[Contestant]) -> list[Contestant]:
    """The best first; the eliminated after all others."""
    return sorted(contestants, key=lambda one: (bool(one.eliminated), -one.score, one.preset))


def _eliminated(figures: Figures, memory_gib: float) -> tuple[str, ...]:
    found = []
    if not figures.n:
        found.append(f"none of its {figures.of} clips came out")
    if figures.seconds is not None and figures.seconds > SECONDS_MAX:
        found.append(f"{figures.seconds:.1f} s a clip: over {SECONDS_MAX:g} s")
    if figures.peak_gib is not None and figures.peak_gib > memory_gib:
        found.append(f"{figures.peak_gib:.1f} GiB of the card: over {memory_gib:g}")
    if figures.flash_frames:
        found.append(f"{figures.flash_frames} flash frame{'s' if figures.flash_frames > 1 else ''}: none is allowed")
    if figures.steadiness is not None and figures.steadiness < STEADY_MIN:
        found.append(f"temporal SSIM {figures.steadiness:.3f}: below {STEADY_MIN:g}")
    return tuple(found)


def clamp(share: float) -> float:
    """Within 0..1."""
    return min(1.0, max(0.0, share))


def _halvings(x: float, worst: float, best: float) -> float:
    """1 at ``best`` and below, 0 at ``worst``, and as much for each halving between."""
    return 1.0 if x <= best else clamp(math.log(worst / x) / math.log(worst / best))


def _between(x: float, worst: float, best: float) -> float:
    return clamp((x - worst) / (best - worst))


def _done(meta: VideoMeta, stage: str) -> dt.datetime:
    return meta.stages[stage].finished_at


def _median(found: Any) -> Figure:
    figures = [figure for figure in found if figure is not None]
    return float(median(figures)) if figures else None


def _figure(value: object) -> Figure:
    return float(value) if isinstance(value, (int, float)) else None


def _rounded(value: Figure, digits: int = 4) -> Figure:
    return None if value is None else round(value, digits)
