"""``make bench``: every figure, one after the other, as one table."""

from __future__ import annotations

import importlib
import sys

from benchmarks.rows import Row, table

BENCHMARKS = ("camera", "encode", "handoff", "courier", "drop", "journey", "generate", "holdout", "interpolate")


def main() -> None:
    """Run them all; a benchmark's figures are printed as soon as they are there, and all of them at the end."""
    rows: list[Row] = []
    for name in BENCHMARKS:
        print(f"{name} ...", file=sys.stderr, flush=True)
        rows += importlib.import_module(f"benchmarks.{name}").run()
        print(table(rows), file=sys.stderr, flush=True)
    print(table(rows))


main()
