"""``make bench``: every figure, one after the other, as one table."""

from __future__ import annotations

import importlib
import sys

from benchmarks.rows import Row, table

BENCHMARKS = ("camera", "encode", "interpolate", "handoff", "drop", "journey")


def main() -> None:
    """Run them all; a figure is printed as soon as it is there."""
    rows: list[Row] = []
    for name in BENCHMARKS:
        print(f"{name} ...", file=sys.stderr, flush=True)
        rows += [Row(*row) for row in importlib.import_module(f"benchmarks.{name}").run()]
    print(table(rows))


main()
