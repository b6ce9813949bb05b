"""One figure of a benchmark, and how figures are printed."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple


class CannotRun(Exception):
    """This machine has not what the benchmark needs."""


class Row(NamedTuple):
    """A figure of ours beside that of another, taken in the same run."""

    figure: str
    """What was measured, with its unit."""
    ours: float
    theirs: float
    ratio: float
    """Ours over theirs."""
    target: float | None = None
    """What the studio set; of the ratio, or of ours where the figure says so."""


def table(rows: Iterable[Row]) -> str:
    """A Markdown table of the rows."""
    lines = ["| figure | ours | theirs | ratio | target |", "| --- | ---: | ---: | ---: | ---: |"]
    for row in rows:
        target = "" if row.target is None else f"{row.target:g}"
        lines.append(f"| {row.figure} | {row.ours:.4g} | {row.theirs:.4g} | {row.ratio:.3g} | {target} |")
    return "\n".join(lines)
