"""A short soak in every test run; ``make soak`` is the long one."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.chaos.soak import Soak
from tests.integration.sshd import needs_sshd


@needs_sshd
@pytest.mark.timeout(180)
def test_nothing_is_lost_or_made_twice_while_links_are_cut_and_daemons_killed(tmp_path: Path) -> None:
    soak = Soak(tmp_path, seed=3)
    try:
        found = soak.run(20.0, drops=8, cuts=4, restarts=4)
    finally:
        soak.close()
    assert not found.wrong, str(found)
    assert (found.drops, sum(found.cuts.values()), sum(found.restarts.values())) == (8, 4, 4)
