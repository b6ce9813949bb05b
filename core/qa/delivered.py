"""Screens a finished file for flashes, where its pictures are not those that were judged: a LUT makes others."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from core.contract import QaReport, verdict_of
from core.errors import Finding
from core.footage import Footage
from core.light import Frame
from core.qa.evidence import show
from core.qa.flashes import Screening
from core.qa.hazards import hazards
from core.qa.thresholds import Standard
from core.work import Report

FILE_SHEET = "qa_file_sheet.png"


def judge_delivered(
    qa: QaReport,
    path: Path,
    fps: int,
    keyframe: Callable[[], Frame],
    *,
    filters: Sequence[str],
    standard: Standard,
    report: Report,
) -> QaReport:
    """What QA said of a clip's frames, and with it what a screening of the file at ``path`` finds.

    ``filters`` are the keys of ``[encode]``, one or more, by which pictures were changed after QA had seen them. A
    violation is a warning of the first of them, and flags the clip; a contact sheet, ``FILE_SHEET``, is then put beside
    the file, for which ``keyframe`` is opened. May be repeated: the last word on the file counts.
    Raises ``DropreelError`` where the file cannot be read, and whatever ``report`` raises.
    """
    screening, counts = Screening(fps, standard), []
    with Footage(path) as footage:
        for frame in footage:
            report(1.0)
            screening.add(frame)
            counts.append(screening.counts())
        said = hazards(screening.report(), counts)
        sheet = path.parent / FILE_SHEET
        shown = show(said.found, footage, fps, traces=said.traces, keyframe=keyframe, place=sheet, report=report)
    evidence = [name for name in qa.evidence if name != FILE_SHEET]
    after = " and ".join(filters)
    found = [
        each.finding.model_copy(
            update={
                "message": f"In the file, after {after}: {each.finding.message}",
                "field": f"encode.{filters[0]}",
            }
        )
        for each in said.found
    ]
    reasons = [*(reason for reason in qa.reasons if not of_the_file(reason)), *found]
    return qa.model_copy(
        update={
            "verdict": verdict_of(reasons),
            "reasons": reasons,
            "measures": qa.measures | {f"file_{name}": value for name, value in said.measures.items()},
            "evidence": evidence + shown,
            "screened": f"screened against {standard}, and the file again after {after}; not a certification",
        }
    )


def of_the_file(reason: Finding) -> bool:
    """Whether it is what ``judge_delivered`` has found; QA's own findings name no key of ``[encode]``."""
    return (reason.field or "").startswith("encode.")
