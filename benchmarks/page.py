"""The benchmark page: what was measured last, when, on what and of which commit; and what the README quotes of it."""

from __future__ import annotations

import ast
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from pydantic import ConfigDict, TypeAdapter

from benchmarks.rows import Row, table

ROOT = Path(__file__).parents[1]
FIGURES = ROOT / "benchmarks" / "figures.json"
"""The truth; the page and the README's table are made of it."""
PAGE = ROOT / "docs" / "benchmarks.md"
README = ROOT / "README.md"
BEGIN, END = "<!-- figures: `make bench` writes what is between here -->\n", "<!-- and here -->"
HEADLINES = (
    ("drop", "drop to manifest"),
    ("journey", "drop to result"),
    ("handoff", "hand-off, ms"),
    ("handoff", "hand-off through one room, ms (theirs: Huey, SQLite, fsync)"),
    ("handoff", "hand-off through one room, ms (theirs: Huey, SQLite, its default)"),
    ("courier", "courier out"),
    ("courier", "courier back"),
    ("courier", "the same"),
    ("camera", "path error, px (target: ours), 1024x576 against zoompan"),
    ("camera", "frames a second, 1024x576 against zoompan"),
    ("holdout", "new frames a second"),
    ("generate", "8 clips"),
    ("qa", "frames a second that QA takes in"),
    ("faults", "flagged knowing"),
    ("encode", "seconds to encode"),
    ("encode", "seconds to prove"),
    ("day", "8 cards, "),
)
"""What the README quotes: of each benchmark the first row that begins so."""

HEAD = """\
# Benchmarks

`make bench` measures all of this again and writes this page; `python -m benchmarks NAME...` measures some of it and
renews their sections. Each figure stands beside another that was taken in the same run, on the same machine: what one
learns from is the ratio, ours over theirs. A target is the studio's, for the ratio unless the figure says otherwise.
Models on a graphics card are measured apart, by `python -m benchmarks.generate_gpu`, where there is a card.
"""


class Measured(NamedTuple):
    """What became of one benchmark, and under what circumstances."""

    rows: list[Row]
    missing: str
    """Why there are no rows; empty where there are."""
    failed: bool
    """Whether that is a failure, and not that this machine lacks something."""
    seconds: float
    """How long it took."""
    date: str
    commit: str
    machine: str


Figures = dict[str, Measured]
_FORM: TypeAdapter[Figures] = TypeAdapter(Figures, config=ConfigDict(ser_json_inf_nan="strings"))
"""JSON knows no infinity, which is the ratio where theirs is nothing."""


def read() -> Figures:
    """What was measured last, by benchmark; nothing where nothing was."""
    return _FORM.validate_json(FIGURES.read_bytes()) if FIGURES.exists() else {}


def write(figures: Mapping[str, Measured]) -> None:
    """Keep the figures, and renew the page and the README's table."""
    FIGURES.write_bytes(_FORM.dump_json(dict(figures), indent=1) + b"\n")
    PAGE.write_text(render(figures), encoding="utf-8")
    README.write_text(quoting(README.read_text(encoding="utf-8"), figures), encoding="utf-8")


def render(figures: Mapping[str, Measured]) -> str:
    """The page."""
    parts = [HEAD]
    for name, one in figures.items():
        became = "Failed" if one.failed else "Cannot run here"
        what = table(one.rows) if not one.missing else f"{became}: {one.missing}"
        when = f"{one.date}, commit {one.commit}; {one.machine}; took {one.seconds:.0f} s."
        parts.append(f"## {name}\n\n{about(name)}\n\n{what}\n\n{when}\n")
    return "\n".join(parts)


def about(name: str) -> str:
    """What a benchmark compares with what: its module's docstring."""
    tree = ast.parse((ROOT / "benchmarks" / f"{name}.py").read_text(encoding="utf-8"))
    return (ast.get_docstring(tree) or "").replace("``", "`")


def quoted(figures: Mapping[str, Measured]) -> str:
    """The README's table: a row for each of ``HEADLINES`` that was measured, which leads to its section."""
    rows = []
    for name, begins in HEADLINES:
        found = figures[name].rows if name in figures else []
        rows += [row._replace(figure=f"[{row.figure}](docs/benchmarks.md#{name})")
                 for row in found if row.figure.startswith(begins)][:1]  # fmt: skip
    return table(rows)


def quoting(readme: str, figures: Mapping[str, Measured]) -> str:
    """The README, with its table renewed."""
    between = re.compile(f"(?<={re.escape(BEGIN)}).*(?={re.escape(END)})", re.DOTALL)
    return between.sub(lambda _: quoted(figures) + "\n", readme)


def in_json(said: Any) -> list[Row]:
    """The rows that ``benchmarks.one`` left."""
    return TypeAdapter(list[Row]).validate_python([tuple(row) for row in said])
