"""Puts what a flash screening found into findings, and says who should look at them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from core.errors import Finding
from core.qa.flashes import LIMIT, FlashReport, Kind
from core.qa.inspector import Inspection, Trace


def hazards(found: FlashReport, counts: Sequence[Mapping[Kind, int]]) -> Inspection:
    """The stretches of time that break the rule; each is a warning, for a person who knows the risk.

    ``counts`` is what some window has seen within the last second, frame by frame: a trace for each kind, if any was.
    """
    said = Inspection(measures={
        "luminance_transitions": found.luminance_transitions,
        "red_transitions": found.red_transitions,
    })  # fmt: skip
    for violation in found.violations:
        first, last = violation.first_frame, violation.last_frame
        message = (
            f"{violation.transitions} {violation.kind} transitions within a second, between "
            f"{violation.start:.2f} and {violation.end:.2f} s; {LIMIT} are allowed."
        )
        said.find(
            Finding(
                code=f"photosensitive_{violation.kind}",
                message=message,
                severity="warning",
                value=violation.transitions,
                limit=LIMIT,
                frame=first,
                remedy="Let someone who knows the risk judge it before it is published.",
            ),
            [first - 1, first, last - 1, last],  # a transition each: what flashes, and what it flashes against
            violation.place,
        )
    for kind in counts[0] if counts else ():
        values = [each[kind] for each in counts]
        if any(values):
            said.traces.append(Trace(f"{kind} transitions within the last second", values, LIMIT))
    return said
