"""What ``dropreel report`` says of results: counted from their metas, tolerant of what is missing, no clip twice."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from core.contract import Failure, QaReport, VideoMeta, now
from core.errors import DropreelError, Finding
from core.report import Flagged, batches, report, results, wilson
from daemons.cli import load
from daemons.cli.app import app
from tests.house import TINY
from tests.unit.test_regenerate import entry

load("report")
FIRST, SECOND = "20250704_143022", "20250704_150000"
FOLDERS = {"pass": ".", "flag": "flagged", "fail": "failed"}


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """A home without results."""
    (tmp_path / "dropreel.toml").write_text(TINY)
    return tmp_path


def put(home: Path, batch: str, stem: str, outcome: str = "pass", *codes: str, run: int = 1, tried: int = 0,
        **quality: Any) -> Path:  # fmt: skip
    """Put a result's meta where it belongs; ``quality`` is what ``encode`` recorded, nothing without."""
    severity = "warning" if outcome == "flag" else "error"
    reasons = [Finding.model_validate({"code": code, "message": "It is so.", "severity": severity}) for code in codes]
    failure = Failure(stage="qa", code=codes[0], message="It is so.", failed_at=now()) if outcome == "fail" else None
    meta = VideoMeta.model_validate(
        {
            "clip_id": f"{batch}-001-00000000" + (f"-r{run}" if run > 1 else ""),
            "run": run,
            "batch_id": batch,
            "outcome": outcome,
            "entry": entry(image_path=f"{stem}.png", tried_seeds=list(range(tried))),
            "seed": tried,
            "plan": {"encode": {"quality": quality}} if quality else {},
            "qa": QaReport.model_validate({"verdict": outcome, "reasons": reasons, "screened": ""}),
            "failure": failure,
        }
    )
    place = home / "mac" / "results" / batch / FOLDERS[outcome] / f"{stem}.video_meta.json"
    place.parent.mkdir(parents=True, exist_ok=True)
    place.write_bytes(meta.to_json())
    return place


def said(home: Path, *words: str) -> str:
    done = CliRunner().invoke(app, ["report", *words, "--home", str(home)])
    if done.exception is not None:
        raise done.exception
    return " ".join(done.stdout.split())


@pytest.mark.parametrize(
    ("hits", "of", "low", "high"),
    [  # R's prop.test(hits, of, correct = FALSE)
        (0, 10, 0.0, 0.27753),
        (1, 10, 0.01788, 0.40415),
        (5, 100, 0.02154, 0.11175),
        (10, 10, 0.72247, 1.0),
    ],
)
def test_the_interval_is_wilsons(hits: int, of: int, low: float, high: float) -> None:
    assert wilson(hits, of) == pytest.approx((low, high), abs=1e-4)


@pytest.mark.parametrize(
    ("flagged", "delivered", "verdict"),
    [(0, 20, "open"), (0, 72, "open"), (0, 73, "kept"), (1, 20, "open"), (5, 20, "broken"), (10, 400, "kept")],
)
def test_few_clips_prove_nothing(flagged: int, delivered: int, verdict: str) -> None:
    assert Flagged.of(flagged, delivered).verdict == verdict


def test_a_batch_is_counted_by_outcome_and_by_code(home: Path) -> None:
    for number in range(6):
        put(home, FIRST, f"a{number}")
    put(home, FIRST, "b", "flag", "cut", "light_drift")
    put(home, FIRST, "c", "flag", "cut", "cut")
    put(home, FIRST, "d", "fail", "flash_frame")
    found = report(results(home / "mac/results" / FIRST))
    assert (found.clips, found.passed, found.flagged, found.failed) == (9, 6, 2, 1)
    assert (found.flagged_by, found.failed_by) == ({"cut": 2, "light_drift": 1}, {"flash_frame": 1})
    assert found.flagged_share is not None
    assert found.flagged_share.share == 2 / 8, "of those that were delivered"
    words = said(home, FIRST)
    for part in ("2: cut 2, light_drift 1", "1: flash_frame 1", "25.0% (7.1% to 59.1%), 95% sure; at most 5%: broken"):
        assert part in words


def test_quality_is_that_of_the_clips_that_say_so(home: Path) -> None:
    put(home, FIRST, "a", vmaf=95.0, vmaf_low=91.5, crf=20.0, met=True, target="vmaf:95", probes=3, scale="1920×1080")
    put(home, FIRST, "b", vmaf=93.0, vmaf_low=None, crf=16.0, met=False)
    put(home, FIRST, "c", "flag", "cut", vmaf=97.0, vmaf_low=90.0, crf=24.5, met=True)
    put(home, FIRST, "d", vmaf=None, crf=None, met=None)
    put(home, FIRST, "e")
    put(home, FIRST, "f", vmaf="good", met="no")
    put(home, FIRST, "g", "fail", "black_frames", vmaf=1.0, crf=28.0)
    quality = report(results(home / "mac/results" / FIRST)).quality
    assert quality.vmaf is not None
    assert quality.vmaf.model_dump() == {
        "clips": 3,
        "mean": 95.0,
        "lowest": 93.0,
        "spread": 4.0,
        "deviation": 2.0,
        "lowest_moment": 90.0,
    }
    assert (quality.crf_lowest, quality.crf_highest, quality.unmet) == (16.0, 24.5, 1)
    words = said(home, FIRST)
    for part in ("mean 95.00, lowest 93.00, spread 4.00, standard deviation 2.00", "16 to 24.5", "of 3"):
        assert part in words


def test_of_a_clip_that_was_made_again_the_last_run_counts(home: Path) -> None:
    put(home, FIRST, "a", "fail", "flash_frame", run=1)
    put(home, FIRST, "a", "pass", run=3, tried=2)
    put(home, FIRST, "b", "fail", "flash_frame", run=2, tried=1)
    put(home, FIRST, "c", "fail", "cancelled")
    put(home, FIRST, "c", "flag", "cut", run=2)
    found = report(results(home / "mac/results" / FIRST))
    assert (found.clips, found.passed, found.flagged, found.failed) == (3, 1, 1, 1)
    assert (found.regenerated, found.seeds_tried) == (2, 3)
    assert "2, after 3 other seeds in all" in said(home, FIRST)


def test_a_broken_meta_is_named_and_stops_no_other(home: Path) -> None:
    put(home, FIRST, "a")
    put(home, FIRST, "b").write_bytes(b"{")
    put(home, FIRST, "d").write_bytes(b'{"schema_version": 2}')
    found = report(results(home / "mac/results" / FIRST))
    assert (found.clips, found.passed) == (1, 1)
    assert [line.split(":")[0] for line in found.broken] == [f"{FIRST}/b.video_meta.json", f"{FIRST}/d.video_meta.json"]
    assert f"not counted: {FIRST}/b.video_meta.json" in said(home)


def test_all_batches_are_a_line_each_the_newest_last_and_a_total(home: Path) -> None:
    put(home, SECOND, "a", "flag", "cut", vmaf=90.0, met=False)
    put(home, FIRST, "a", vmaf=96.0, crf=21.0, met=True)
    put(home, FIRST, "b")
    (home / "mac/results/notes").mkdir()
    (home / "mac/results" / FIRST / ".a.video_meta.json.1-1.part").write_bytes(b"half")
    lines = [line.split("│")[1:] for line in said_lines(home) if line.startswith("│")]
    assert [[cell.strip() for cell in line[:5]] for line in lines] == [
        [FIRST, "2", "2", "0", "0"],
        [SECOND, "1", "0", "1", "0"],
        ["all", "3", "2", "1", "0"],
    ]
    found = json.loads(CliRunner().invoke(app, ["report", "--home", str(home), "--json"]).stdout)
    assert [one["batch_id"] for one in found["batches"]] == [FIRST, SECOND]
    assert found["total"]["quality"]["vmaf"]["spread"] == 6.0
    assert found["total"]["flagged_share"]["share"] == pytest.approx(1 / 3)
    assert list(batches(home / "nowhere")) == []


def said_lines(home: Path) -> list[str]:
    return CliRunner().invoke(app, ["report", "--home", str(home)]).stdout.splitlines()


def test_a_batch_that_is_not_there_is_named_with_those_that_are(home: Path) -> None:
    assert said(home) == "There are no results yet."
    put(home, FIRST, "a")
    with pytest.raises(DropreelError, match=f"no results of {SECOND}. The last batches are: {FIRST}"):
        said(home, SECOND)
    (home / "dropreel.toml").write_text('role = "gpu"\n')
    with pytest.raises(DropreelError, match="Run it on the Mac"):
        said(home)
