"""``make bench``: every figure, one benchmark after the other, as one table and as the benchmark page.

    python -m benchmarks [NAME...]

With names only those are run, and only their sections of the page are renewed. A benchmark that fails, or cannot run
on this machine, says so in its section, and the others are run all the same. One for which no time is left is not
begun, and its section stays as it was. The exit status is 1 if one failed or was not begun.
"""

from __future__ import annotations

import argparse
import datetime as dt
import json
import os
import platform
import re
import sys
import tempfile
import time
from pathlib import Path

from benchmarks import page
from benchmarks.page import Measured
from benchmarks.rows import table
from core import process
from core.errors import ProcessFailed
from core.work import unwatched

BENCHMARKS = (
    "handoff",
    "drop",
    "courier",
    "journey",
    "camera",
    "generate",
    "interpolate",
    "holdout",
    "qa",
    "faults",
    "encode",
    "day",
)
"""In the order of the page."""
LIMIT = 400.0
"""Seconds after which one is given up,"""
LIMITS = {"day": 900.0}
"""but these,"""
LIMIT_OF_ALL = 1800.0
"""and all; what is not begun by then keeps the figures it had."""
WRITTEN = ("benchmarks/figures.json", "docs/benchmarks.md", "docs/plots/", "README.md")
"""What a run itself changes."""


def main() -> int:
    """Run them; figures are kept as soon as they are there."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of: {', '.join(BENCHMARKS)}")
    names = parser.parse_args().names or BENCHMARKS
    if unknown := [name for name in names if name not in BENCHMARKS]:
        parser.error(f"there is no {', '.join(unknown)}; there are: {', '.join(BENCHMARKS)}")
    commit, machine, begun = commit_here(), machine_here(), time.monotonic()
    found: page.Figures = {}
    late: list[str] = []
    for number, name in enumerate(names, 1):
        left = LIMIT_OF_ALL - (time.monotonic() - begun)
        if left <= 0:
            late.append(name)
            continue
        print(f"{number} of {len(names)}: {name} ...", file=sys.stderr, flush=True)
        found[name] = one = measure(name, min(LIMITS.get(name, LIMIT), left), commit, machine)
        print(one.missing or table(one.rows), f"took {one.seconds:.0f} s", sep="\n", file=sys.stderr, flush=True)
        together = page.read() | found
        page.write({known: together[known] for known in BENCHMARKS if known in together})
    print(table(row for one in found.values() for row in one.rows))
    for name, one in found.items():
        if one.missing:
            print(f"{name}: {one.missing}")
    for name in late:
        print(f"{name}: not begun, since all together took longer than {LIMIT_OF_ALL:.0f} s")
    return 1 if late or any(one.failed for one in found.values()) else 0


def measure(name: str, limit: float, commit: str, machine: str) -> Measured:
    """Run one benchmark in a process of its own, no longer than ``limit`` seconds."""
    begun, date = time.monotonic(), dt.datetime.now(dt.UTC).date().isoformat()
    rows, missing, failed = [], "", False
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "figures.json")
        try:
            process.run([sys.executable, "-m", "benchmarks.one", name, str(file)], unwatched, limit=limit)
            said = json.loads(file.read_bytes())
            rows, missing = page.in_json(said.get("rows", [])), said.get("cannot", "")
            if not rows and not missing:
                missing, failed = "it found nothing to measure, and did not say why", True
        except process.TimedOut as error:
            missing, failed = f"it took longer than {error.limit:.0f} s", True
        except ProcessFailed as error:
            print(error, file=sys.stderr)
            missing, failed = last_words(error.stderr), True
    return Measured(rows, missing, failed, time.monotonic() - begun, date, commit, machine)


def last_words(stderr: str) -> str:
    """The error that a traceback ends with, without the places that it names."""
    line = next((line for line in reversed(stderr.splitlines()) if line.strip()), "it said nothing")
    return re.sub(r"(?<!\w)/\S+", "…", line).replace("|", "/")[:200]


def commit_here() -> str:
    """The commit, and whether files have changed since, other than those that a run writes."""
    try:
        short = process.run(["git", "rev-parse", "--short", "HEAD"], unwatched, limit=30).stdout.strip()
        changed = process.run(["git", "status", "--porcelain"], unwatched, limit=30).stdout.splitlines()
    except (process.ProgramMissing, ProcessFailed):  # no git, or no checkout
        return "unknown"
    return short + " and changes" * any(not line[3:].startswith(WRITTEN) for line in changed)


def machine_here() -> str:
    """The processor, its cores, the memory, the system and Python; nothing that says whose it is."""
    name = platform.processor() or platform.machine()
    try:
        name = dict(re.findall(r"(.+?)\s*: (.+)", Path("/proc/cpuinfo").read_text(encoding="utf-8"))).get(
            "model name", name
        )
    except OSError:  # macOS
        name = process.run(["sysctl", "-n", "machdep.cpu.brand_string"], unwatched, limit=30).stdout.strip()
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return f"{name}, {os.cpu_count()} cores, {memory:.0f} GiB, {platform.system()}, Python {platform.python_version()}"


if __name__ == "__main__":
    sys.exit(main())
