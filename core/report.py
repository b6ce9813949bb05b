"""How a batch came out, from its results alone: what was flagged and why, how good the clips are, what took seeds."""

from __future__ import annotations

import math
import re
import statistics
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

from pydantic import BaseModel, ConfigDict

from core.contract import BATCH_ID, VideoMeta, load
from core.errors import Refused

FLAGGED_MAX = 0.05
"""The studio's: of the clips that it gets, it looks at no larger share."""
CONFIDENCE = 0.95
"""Of the interval in which a share is said to lie."""
META_SUFFIX = ".video_meta.json"
_Z = statistics.NormalDist().inv_cdf((1 + CONFIDENCE) / 2)
_PLACES = ("", "flagged", "failed")
"""Where in a batch's folder its metas lie."""


class Figures(BaseModel):
    """A table of the report."""

    model_config = ConfigDict(frozen=True)


class Flagged(Figures):
    """Which share of the delivered clips is flagged, against the studio's ``FLAGGED_MAX``."""

    share: float
    low: float
    high: float
    """The share that such clips have in the long run lies between these two, with ``CONFIDENCE``."""
    limit: float = FLAGGED_MAX
    verdict: Literal["kept", "broken", "open"]
    """Whether the whole interval is at most the limit, above it, or neither: then there are too few clips to tell."""

    @classmethod
    def of(cls, flagged: int, delivered: int) -> Flagged:
        """Of at least one clip."""
        low, high = wilson(flagged, delivered)
        verdict: Literal["kept", "broken", "open"]
        verdict = "kept" if high <= FLAGGED_MAX else "broken" if low > FLAGGED_MAX else "open"
        return cls(share=flagged / delivered, low=low, high=high, verdict=verdict)


class Vmaf(Figures):
    """The clips' scores, 0..100: each clip's mean over its frames."""

    clips: int
    """How many have one."""
    mean: float
    lowest: float
    spread: float
    """From the lowest to the highest."""
    deviation: float | None
    """The standard deviation of the clips as a sample; None of one clip."""
    lowest_moment: float | None
    """The lowest of the clips' 5th percentiles; None where none is known."""


class Quality(Figures):
    """How good the files are."""

    vmaf: Vmaf | None
    crf_lowest: float | None
    crf_highest: float | None
    """None where no clip was made with a constant rate factor."""
    unmet: int
    """Clips whose target was not met."""


class Outcomes(Figures):
    """How some clips came out. Of a clip that was made again its last run counts."""

    clips: int
    passed: int
    flagged: int
    failed: int
    flagged_by: dict[str, int]
    """Clips by code, most first; a clip counts with each of its codes."""
    failed_by: dict[str, int]
    flagged_share: Flagged | None
    """None where no clip was delivered."""
    quality: Quality
    regenerated: int
    """Clips of which more than one seed was tried,"""
    seeds_tried: int
    """and how many seeds that failed they had in all."""


class BatchReport(Outcomes):
    """One batch."""

    batch_id: str
    broken: list[str] = []
    """Metas that cannot be read, each with the reason; they count nowhere else."""


class Results(NamedTuple):
    """What came back of one batch."""

    batch_id: str
    metas: list[VideoMeta]
    broken: list[str]


def results(folder: Path) -> Results:
    """Read a batch's folder: of each clip the meta of its last run, wherever its outcome put it."""
    last: dict[str, VideoMeta] = {}
    broken: list[str] = []
    for path in (path for place in _PLACES for path in sorted((folder / place).glob(f"[!.]*{META_SUFFIX}"))):
        try:
            meta = load(VideoMeta, path)
        except (Refused, OSError) as error:
            broken.append(f"{path.relative_to(folder.parent)}: {error}")
            continue
        if path.name not in last or last[path.name].run < meta.run:
            last[path.name] = meta
    return Results(folder.name, [last[name] for name in sorted(last)], broken)


def batches(folder: Path) -> Iterator[Results]:
    """All batches of a ``results/`` folder, the newest last."""
    for path in sorted(folder.iterdir()) if folder.is_dir() else []:
        if re.fullmatch(BATCH_ID, path.name) and path.is_dir():
            yield results(path)


def report(found: Results) -> BatchReport:
    """The report of one batch."""
    return BatchReport(batch_id=found.batch_id, broken=found.broken, **dict(outcomes(found.metas)))


def outcomes(metas: Sequence[VideoMeta]) -> Outcomes:
    """How these clips came out, of one batch or of many."""
    delivered = [meta for meta in metas if meta.outcome != "fail"]
    flagged = [meta for meta in delivered if meta.outcome == "flag"]
    failed = [meta for meta in metas if meta.outcome == "fail"]
    again = [meta for meta in metas if meta.entry.tried_seeds]
    return Outcomes(
        clips=len(metas),
        passed=len(delivered) - len(flagged),
        flagged=len(flagged),
        failed=len(failed),
        flagged_by=_by_code(_warnings(meta) for meta in flagged),
        failed_by=_by_code({_failure(meta)} for meta in failed),
        flagged_share=Flagged.of(len(flagged), len(delivered)) if delivered else None,
        quality=_quality(delivered),
        regenerated=len(again),
        seeds_tried=sum(len(meta.entry.tried_seeds) for meta in again),
    )


def wilson(hits: int, of: int) -> tuple[float, float]:
    """The interval, 0..1, in which the share lies that ``hits`` of at least one speak for, with ``CONFIDENCE``.

    E. B. Wilson, "Probable inference, the law of succession, and statistical inference", JASA 22 (1927): it holds for
    few clips and for shares near 0, where the usual ± does not.
    """
    share, weight = hits / of, _Z * _Z / of
    centre = (share + weight / 2) / (1 + weight)
    reach = _Z * math.sqrt(share * (1 - share) / of + weight / (4 * of)) / (1 + weight)
    return max(0.0, centre - reach), min(1.0, centre + reach)


def _warnings(meta: VideoMeta) -> set[str]:
    return {reason.code for reason in meta.qa.reasons if reason.severity == "warning"} if meta.qa else set()


def _failure(meta: VideoMeta) -> str:
    return meta.failure.code if meta.failure else "unknown"


def _by_code(clips: Iterator[set[str]]) -> dict[str, int]:
    counts = Counter(code for codes in clips for code in codes)
    return dict(sorted(counts.items(), key=lambda item: (-item[1], item[0])))


def _quality(delivered: Sequence[VideoMeta]) -> Quality:
    said = [_said_of_quality(meta) for meta in delivered]
    crfs = [crf for one in said if (crf := _number(one.get("crf"))) is not None]
    scores = [score for one in said if (score := _number(one.get("vmaf"))) is not None]
    lows = [low for one in said if (low := _number(one.get("vmaf_low"))) is not None]
    vmaf = None
    if scores:
        vmaf = Vmaf(
            clips=len(scores),
            mean=statistics.fmean(scores),
            lowest=min(scores),
            spread=max(scores) - min(scores),
            deviation=statistics.stdev(scores) if len(scores) > 1 else None,
            lowest_moment=min(lows, default=None),
        )
    unmet = sum(one.get("met") is False for one in said)
    return Quality(vmaf=vmaf, crf_lowest=min(crfs, default=None), crf_highest=max(crfs, default=None), unmet=unmet)


def _said_of_quality(meta: VideoMeta) -> dict[str, Any]:
    """What ``encode`` recorded of the file; nothing where another version made it."""
    encoded = meta.plan.get("encode")
    quality = encoded.get("quality") if isinstance(encoded, dict) else None
    return quality if isinstance(quality, dict) else {}


def _number(value: object) -> float | None:
    return float(value) if isinstance(value, (int, float)) and not isinstance(value, bool) else None
