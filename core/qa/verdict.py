"""Judges a clip's frames against its plan, in one pass, and says what is wrong in a person's words."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from fractions import Fraction
from operator import length_hint
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from core.contract import QaReport, verdict_of
from core.errors import Finding
from core.light import Frame
from core.qa.achieved import achieved_path, judge_path
from core.qa.beginning import Beginning
from core.qa.evidence import Pictures, show
from core.qa.exposure import LUMINANCE, Exposure
from core.qa.flashes import Kind, Screening
from core.qa.flicker import Flicker
from core.qa.hazards import hazards
from core.qa.inspector import Found, Inspection, Inspector, Seen, Trace, joined
from core.qa.likeness import Likeness
from core.qa.movement import Movement
from core.qa.planned import Planned
from core.qa.repeats import Repeats
from core.qa.thresholds import QaThresholds
from core.work import Report, unwatched

SHEET = "qa_sheet.png"

AHEAD = 3
"""Frames that inspectors may lag behind: some cost them twice as much as others. They look at the one before, too."""
_PATH_SHARE = 0.2
"""Of the time of judging, where the camera must be found in the keyframe."""


def judge(
    frames: NDArray[np.uint8] | Pictures,
    fps: float | Fraction,
    planned: Planned,
    thresholds: QaThresholds,
    *,
    flags: Sequence[Finding] = (),
    more: Sequence[Inspector] = (),
    evidence: Path | None = None,
    report: Report = unwatched,
) -> QaReport:
    """Judge ``frames``, each ``(H, W, 3)`` uint8; an array of ``(T, H, W, 3)`` is often a memory map.

    ``flags`` is what earlier stages found, and counts as if it had been found here. ``more`` are inspectors beside
    the house's own. Where there is something to show, a contact sheet is put into the folder ``evidence``, if one is
    given. ``report`` is called at least every 100 ms; what it raises ends the work, and nothing is left behind.
    """
    inspectors = [*_inspectors(planned, thresholds, float(fps)), *more]
    inspections = _inspect(frames, planned, Screening(fps, thresholds.standard), inspectors, report)
    said = joined(inspections)
    said.found[:0] = [Found(flag, _ends(said)) for flag in flags]
    findings = [found.finding for found in said.found]
    shown: list[str] = []
    if evidence:
        traces, sheet = _concerned(inspections), evidence / SHEET
        shown = show(said.found, frames, float(fps), traces=traces, keyframe=lambda: planned.first, place=sheet,
                     report=report)  # fmt: skip
    return QaReport(
        verdict=verdict_of(findings),
        reasons=findings,
        measures=said.measures,
        screened=f"screened against {thresholds.standard}; not a certification" if said.measures else "not screened",
        evidence=shown,
    )


def _inspect(
    frames: NDArray[np.uint8] | Pictures,
    planned: Planned,
    screening: Screening,
    inspectors: Sequence[Inspector],
    report: Report,
) -> list[Inspection]:
    """Go once through all frames, and say for each inspector, and for the screening, what it has found.

    The inspectors look at a frame in two threads, dealt out between them, while the next ones are screened for flashes:
    each sees the frames in order, so nothing depends on which is quicker.
    """
    shape = None if planned.first is None else planned.first.shape
    share = 1 - _PATH_SHARE if planned.asked else 1
    expected = planned.frames or length_hint(frames) or 1
    counts: list[dict[Kind, int]] = []
    with ThreadPoolExecutor(1, "inspectors") as one, ThreadPoolExecutor(1, "inspectors") as other:
        behind: deque[Future[None]] = deque()
        for frame in frames:
            fault = _format_fault(frame, shape)
            if fault is not None:
                return [Inspection([Found(fault)])]
            shape = frame.shape
            screening.add(frame)
            counts.append(screening.counts())
            seen = one.submit(Seen.of, len(counts) - 1, frame)
            behind += one.submit(_see, inspectors[::2], seen), other.submit(_see, inspectors[1::2], seen)
            while len(behind) > 2 * AHEAD:
                behind.popleft().result()
            report(min(1.0, len(counts) / expected) * share)
        for done in behind:
            done.result()
    if not counts:
        planned_for = "" if planned.frames is None else f"; {planned.frames} are planned"
        finding = Finding(code="frame_count", message=f"There are no frames{planned_for}.")
        return [Inspection([Found(finding)])]
    said = [_count(len(counts), planned.frames), *(inspector.finish() for inspector in inspectors)]
    if planned.asked:
        views = planned.views[: len(counts)]
        path = achieved_path(frames, planned.asked.keyframe, views, lambda done: report(share + _PATH_SHARE * done))
        said.append(judge_path(path, planned.asked.flag))
    return [*said, hazards(screening.report(), counts)]


def _see(inspectors: Sequence[Inspector], seen: Future[Seen]) -> None:
    for inspector in inspectors:
        inspector.add(seen.result())


def _inspectors(planned: Planned, limits: QaThresholds, fps: float) -> Iterator[Inspector]:
    """Those of the house that have something to hold the clip against."""
    if planned.first is not None:
        yield Beginning(planned.first, planned.first_limits or limits.first)
    if planned.still is not None:
        yield Likeness(limits, planned, planned.still)
    yield Exposure(limits, fps, planned.levels)
    yield Flicker(limits, filmed=planned.still is not None)
    yield Movement(limits, planned)
    yield Repeats(limits, planned)


def _format_fault(frame: Frame, shape: tuple[int, ...] | None) -> Finding | None:
    """What makes this no frame of the clip."""
    if np.issubdtype(frame.dtype, np.floating) and not np.isfinite(frame).all():
        return Finding(code="not_finite", message="Some values are no numbers.")
    if (
        frame.dtype != np.uint8
        or frame.ndim != 3
        or frame.shape[2] != 3
        or (shape is not None and frame.shape != shape)
    ):
        wanted = "(H, W, 3)" if shape is None else str(shape)
        return Finding(code="frame_format", message=f"{frame.shape} {frame.dtype} is not {wanted} uint8.")
    return None


def _ends(said: Inspection) -> Sequence[int]:
    """The frames that show what is said of a clip as a whole."""
    count = said.measures.get("frames")
    return (0, count // 2, count - 1) if isinstance(count, int) else ()


def _count(made: int, planned: int | None) -> Inspection:
    said = Inspection(measures={"frames": made})
    if planned is not None and made != planned:
        message = f"There are {made} frames; {planned} are planned."
        said.find(Finding(code="frame_count", message=message, value=made, limit=planned))
    return said


def _concerned(inspections: Sequence[Inspection]) -> list[Trace]:
    """How bright the clip is, and after that the traces of those that have found something."""
    traces = [trace for each in inspections for trace in each.traces if each.found or trace.name == LUMINANCE]
    return sorted(traces, key=lambda trace: trace.name != LUMINANCE)
