"""What befalls the machines of a chaos run, and when: the same for the same seed."""

from __future__ import annotations

import random
from collections.abc import Mapping
from typing import NamedTuple

WEIGHTS = {
    "stop": 12, "freeze machine": 2, "look": 2, "fill disk": 6, "shut folder": 8, "break disk": 10, "set clock": 8,
    "cut link": 8, "close sshd": 3, "corrupt": 10, "garbage": 10, "rename": 10, "remake folder": 10,
    "reset machine": 2, "restart machine": 1,
}  # fmt: skip
"""How often each fault comes, beside the kills and the drops; the last are dear, and a short run leaves them out."""
HOLDING_SHARE = 0.62
"""Of the kills, how many are of a worker that holds a clip; more than the half that is asked for, as some find none."""
CHILD_SHARE = 0.12
"""And how many are of what a daemon has started: ffmpeg, rsync, ssh."""
BEFORE_END = 0.9
"""All drops fall into the first part of the time."""


class Act(NamedTuple):
    """One thing that happens."""

    moment: float
    """Seconds after the beginning."""
    kind: str
    seed: int
    """For what the act itself leaves to chance."""


def schedule(seed: int, seconds: float, drops: int, kills: int, faults: int, models: int) -> list[Act]:
    """All acts in their order: ``drops`` keyframes, ``models`` more for a tiny model, ``kills``, other ``faults``."""
    dice = random.Random(seed)  # noqa: S311 - no secret
    chosen = [*WEIGHTS][:faults]  # a short run has one of each, as far as it goes
    chosen += dice.choices([*WEIGHTS], [*WEIGHTS.values()], k=max(0, faults - len(chosen)))
    counts: Mapping[str, int] = {
        "drop": drops,
        "drop for a model": models,
        "kill a holder": round(kills * HOLDING_SHARE),
        "kill a child": round(kills * CHILD_SHARE),
        "kill a daemon": kills - round(kills * HOLDING_SHARE) - round(kills * CHILD_SHARE),
    }
    kinds = [kind for kind, count in counts.items() for _ in range(count)] + chosen
    acts = []
    for kind in kinds:
        end = seconds * BEFORE_END if kind.startswith("drop") else seconds
        acts.append(Act(round(dice.uniform(0, end), 2), kind, dice.getrandbits(32)))
    return sorted(acts)
