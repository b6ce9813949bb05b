"""A short run in every test run; ``make chaos`` is the long one."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.chaos.performance import perform
from tests.chaos.schedule import WEIGHTS, schedule
from tests.integration.sshd import needs_sshd


@needs_sshd
@pytest.mark.timeout(240)
def test_nothing_is_lost_or_made_twice_whatever_befalls_the_daemons(tmp_path: Path) -> None:
    acts = schedule(seed=5, seconds=15.0, drops=6, kills=5, faults=len(WEIGHTS) - 2, models=0)
    found = perform(tmp_path, acts, 15.0, patience=120.0)
    assert found.is_well, str(found)
    assert found.outcomes == {"pass": 6}
    assert found.decoded == 6


def test_the_same_seed_gives_the_same_schedule() -> None:
    acts = schedule(seed=1, seconds=100.0, drops=30, kills=50, faults=40, models=2)
    assert acts == schedule(seed=1, seconds=100.0, drops=30, kills=50, faults=40, models=2)
    assert acts != schedule(seed=2, seconds=100.0, drops=30, kills=50, faults=40, models=2)
    kinds = [act.kind for act in acts]
    assert set(WEIGHTS) <= set(kinds)
    assert [sum(kind.startswith(word) for kind in kinds) for word in ("kill", "drop")] == [50, 32]
    assert kinds.count("kill a holder") > 25
    assert [act.moment for act in acts] == sorted(act.moment for act in acts)
