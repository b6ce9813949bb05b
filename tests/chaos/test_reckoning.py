"""What a run of chaos must not overlook is seen where it is planted: a result that is published twice."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from core.contract import Failure, VideoMeta, load, now
from core.rooms import Room
from tests.chaos.conductor import Conductor, Drop, Tally
from tests.chaos.reckoning import Reckoning, _publications, _results
from tests.house import House, picture
from tests.invariants import Halves, check_at_rest, check_once
from tests.unit.living import at_work, settle


def played(house: House) -> Conductor:
    """As much of a conductor as the reckoning asks; what the house said stands in the logs of its halves."""
    for half, names in ((house.home.mac, {"courier"}), (house.home.gpu, {"encode"})):
        said = [one for one in house.events if one["daemon"] in names and "clip" in one]
        lines = [f"2026-11-23T00:20:51.736399Z info    {one['event']:<22} clip={one['clip']}\n" for one in said]
        (half.logs / "some.log").write_text("".join(lines))
    return cast(
        "Conductor", SimpleNamespace(halves=Halves(house.home.mac, house.home.gpu), tally=Tally(), drops=[], garbage=[])
    )


def test_a_result_that_is_published_twice_is_seen_though_it_lies_where_the_first_lay(tmp_path: Path) -> None:
    with at_work(tmp_path / "home") as house:
        image = picture()
        house.drop("a", image)
        ready, saved = Room(house.home.gpu.rooms / "encode").ready, tmp_path / "saved"
        while not (waiting := [*ready.iterdir()]):
            for daemon in house.daemons[:-1]:  # all but encode
                daemon.step()
            house.clock.seconds += 1
        shutil.copytree(waiting[0], saved)
        settle(house)
        check_once(house.events)
        well = Reckoning(Tally(), 0.0)
        _publications(played(house), well)
        assert well.is_well, str(well)
        saved.rename(waiting[0])
        settle(house)
        check_at_rest(house.home, {"a.png": image}, {"a"}, set())  # it leaves no trace
        for event in ("clip.delivered", "clip.received"):
            with pytest.raises(AssertionError, match=f"{event} {waiting[0].name}: 2 times"):
                check_once(house.events, event)
        found = Reckoning(Tally(), 0.0)
        _publications(played(house), found)
        assert len(found.twice) == 1
        assert not found.is_well
        house.events.clear()
        _publications(played(house), silent := Reckoning(Tally(), 0.0))
        assert "the log knows nothing of it" in "".join(silent.wrong), "logs that are silent prove nothing"
        for change, by_hand, right in (
            (lambda meta: meta, False, True),
            (_failed("qa"), True, True),
            (_failed("qa"), False, False),
            (_failed("encode"), True, False),
        ):
            found = Reckoning(Tally(), 0.0)
            (path,) = house.home.mac.results.rglob("*.video_meta.json")
            _results(Drop("a", "", 0.0, by_hand=by_hand), [(path, change(load(VideoMeta, path)))], found)
            assert (not [told for told in found.wrong if "run 1:" in told]) == right


def _failed(stage: str) -> Callable[[VideoMeta], Any]:
    failure = Failure(stage=stage, code="gave_up", message="It was given up.", failed_at=now())
    return lambda meta: VideoMeta.model_validate(
        json.loads(meta.to_json()) | {"outcome": "fail", "failure": json.loads(failure.to_json())}
    )
