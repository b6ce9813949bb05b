"""The long run: ``python -m tests.chaos FOLDER``. The folder is kept.

``chaos.log`` in it has the schedule, and all that happened.
"""

from __future__ import annotations

import argparse
import math
import os
import sys
from pathlib import Path

from tests.chaos.performance import perform
from tests.chaos.schedule import schedule

PATIENCE_SECONDS = 600.0
SPARE = 1.3
"""So many kills are planned for one that is asked for: some find nobody."""


def main() -> int:
    """1 where anything is wrong, fewer were killed than asked for, or less than half of these held a clip."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument(
        "--seed", type=int, default=int.from_bytes(os.urandom(4)), help="the same for the same schedule"
    )
    parser.add_argument("--minutes", type=float, default=30.0)
    parser.add_argument("--workers", type=int, default=2, help="in each room")
    parser.add_argument("--drops", type=int, default=300, help="keyframes for the camera preset")
    parser.add_argument("--models", type=int, default=8, help="and for a tiny model")
    parser.add_argument("--kills", type=int, default=500, help="at least; some more are planned")
    parser.add_argument("--faults", type=int, default=300, help="other things that go wrong")
    chosen = parser.parse_args()
    sys.stdout.write(f"seed {chosen.seed}\n")
    sys.stdout.flush()
    seconds = chosen.minutes * 60
    planned = math.ceil(chosen.kills * SPARE)
    acts = schedule(chosen.seed, seconds, chosen.drops, planned, chosen.faults, chosen.models)
    presets = _presets() if chosen.models else ""
    found = perform(
        chosen.folder.resolve(), acts, seconds, PATIENCE_SECONDS, workers=chosen.workers, presets=presets, show=True
    )
    sys.stdout.write(f"{found}\n")
    short = [
        f"{name}: {count}, and at least {least} were asked for"
        for name, count, least in (
            ("kills", found.kills, chosen.kills),
            ("kills of a worker with a clip", found.tally.holding.total(), math.ceil(found.kills / 2)),
        )
        if count < least
    ]
    sys.stdout.writelines(f"{line}\n" for line in short)
    return 0 if found.is_well and not short else 1


def _presets() -> str:
    from tests.tiny import tiny_preset  # torch, which a run without models can do without

    return tiny_preset("svd")


if __name__ == "__main__":
    sys.exit(main())
