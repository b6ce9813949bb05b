"""What changes from frame to frame is judged: planted faults are found over a drawn still, a clean move passes."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from benchmarks import faults
from benchmarks.planted import (
    FAULTS,
    FPS,
    MOVES,
    PACES,
    TALL,
    WIDE,
    Fault,
    boil,
    brightness_drift,
    colour_drift,
    film,
    flicker,
    ghost,
    jump,
    morph,
    warp,
)
from benchmarks.rows import CannotRun
from core.motion import Easing
from core.qa.flicker import Flicker
from core.qa.inspector import Inspection, Seen
from core.qa.likeness import Likeness
from core.qa.movement import Movement
from core.qa.planned import Planned
from core.qa.thresholds import QaThresholds
from core.qa.verdict import judge
from core.report import wilson
from tests.unit.test_verdict import still

Frames = NDArray[np.uint8]
LIMITS = QaThresholds()
SMALL = (90, 160)
"""Height and width."""
KEYFRAME = still(4)
CLIP = film(KEYFRAME, "pan and zoom", Easing.ease_in_out, 0.8, (144, 256))
FILMED = Planned.of(KEYFRAME, CLIP.views, (144, 256))
Plant = Callable[[Frames, float, np.random.Generator], Frames]


def said(frames: Frames, planned: Planned) -> dict[str, Inspection]:
    """What each of the three inspectors says."""
    inspectors = {"flicker": Flicker(LIMITS, filmed=planned.still is not None), "movement": Movement(LIMITS, planned)}
    if planned.still is not None:
        inspectors["likeness"] = Likeness(LIMITS, planned, planned.still)
    for number, frame in enumerate(frames):
        for inspector in inspectors.values():
            inspector.add(Seen.of(number, frame))
    return {name: inspector.finish() for name, inspector in inspectors.items()}


def codes(frames: Frames, planned: Planned) -> list[str]:
    return [found.finding.code for each in said(frames, planned).values() for found in each.found]


@pytest.mark.parametrize("planned", [FILMED, Planned()], ids=["plan", "nothing"])
def test_a_clean_move_passes(planned: Planned) -> None:
    assert codes(CLIP.frames, planned) == []


@pytest.mark.parametrize(
    ("plant", "strength", "code"),
    [
        (flicker, 0.02, "flicker"),
        (jump, 2, "jump"),
        (warp, 1, "warp"),
        (boil, 0.4, "texture_boil"),
        (ghost, 0.35, "ghosting"),
        (morph, 8, "local_morph"),
        (colour_drift, 0.1, "colour_drift"),
        (brightness_drift, 0.1, "brightness_drift"),
    ],
)
def test_a_fault_in_a_filmed_still_is_found(plant: Plant, strength: float, code: str) -> None:
    assert code in codes(plant(CLIP.frames, strength, np.random.default_rng(1)), FILMED)


@pytest.mark.parametrize(
    ("plant", "strength", "code"),
    [
        (flicker, 0.05, "flicker"),
        (jump, 4, "jump"),
        (warp, 4, "warp"),
        (colour_drift, 0.4, "colour_drift"),
        (brightness_drift, 0.5, "brightness_drift"),
    ],
)
def test_a_gross_fault_is_found_where_nothing_is_known(plant: Plant, strength: float, code: str) -> None:
    assert code in codes(plant(CLIP.frames, strength, np.random.default_rng(1)), Planned())


def test_a_jump_is_named_by_its_frame() -> None:
    (found,) = (found for found in said(jump(CLIP.frames, 4), Planned())["movement"].found)
    assert (found.finding.code, found.finding.frame, found.finding.severity) == ("jump", 10, "warning")


def test_every_measure_has_its_trace_over_all_frames() -> None:
    for inspection in said(CLIP.frames, FILMED).values():
        assert inspection.traces
        assert {len(trace.values) for trace in inspection.traces} == {len(CLIP.frames)}
        assert all(trace.limit is not None for trace in inspection.traces)


def test_a_picture_without_detail_and_one_too_small_are_not_judged() -> None:
    grey = np.full((6, 256, 144, 3), 120, np.uint8)
    assert codes(grey, Planned()) == []
    small = np.random.default_rng(0).integers(0, 256, (4, 8, 8, 3), dtype=np.uint8)
    assert codes(small, Planned()) == []


@pytest.mark.parametrize("size", [(60, 468), (64, 1920), (3840, 64), (96, 1536), (31, 400)])
def test_a_banner_has_too_few_rows_for_flow_and_is_judged_by_the_rest(size: tuple[int, int]) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (3, *size, 3), dtype=np.uint8)
    report = judge(noise, FPS, Planned(), LIMITS)
    assert report.measures["frames"] == 3
    assert "warp" not in report.measures


@pytest.mark.parametrize("first", [0, 7, 20, 26])
def test_what_lasts_is_found_wherever_in_the_clip_it_is(first: int) -> None:
    frames = np.repeat(CLIP.frames[:1], 48, axis=0)
    for plant, strength, code in ((flicker, 0.05, "flicker"), (boil, 0.9, "texture_boil")):
        faulty = frames.copy()
        faulty[first : first + 20] = plant(frames[first : first + 20], strength, np.random.default_rng(1))
        assert code in codes(faulty, Planned()), code


def test_light_is_followed_from_cut_to_cut() -> None:
    shot = np.stack([(frame * (0.9 + 0.1 * share)).astype(np.uint8) for frame, share in
                     zip(CLIP.frames[:9], np.linspace(0, 1, 9), strict=True)])  # fmt: skip
    other = np.asarray(shot[:, ::-1, ::-1])

    def drift(shots: int) -> float:
        clip = np.concatenate([(shot, other)[number % 2] for number in range(shots)])
        return float(said(clip, Planned())["movement"].measures["brightness_drift"] or 0)

    assert drift(1) > 0.03
    assert drift(8) == pytest.approx(drift(2), rel=0.05)


def test_clean_clips_are_as_fast_as_the_motion_rules_allow() -> None:
    steps = [max(abs(now.x1 - was.x1), abs(now.x2 - was.x2)) / was.width for was, now in pairwise(CLIP.views)]
    assert max(steps) * FPS == pytest.approx(0.8 * 0.2, rel=0.05)


def test_clean_clips_are_of_every_move_in_both_orientations_at_full_speed() -> None:
    files = [Path(f"{number}.png") for number in range(5)]
    tasks = [task for task in faults.clean(files, faults.CLEAN) if not task.coded]
    assert wilson(0, len(tasks))[1] < 0.05
    fastest = {(task.still, task.move, task.size) for task in tasks if task.share == max(share for _, share in PACES)}
    assert fastest == {(file, move, size) for file in files for move in MOVES for size in (WIDE, TALL)}


@pytest.mark.parametrize("fault", FAULTS[:2], ids=lambda fault: fault.name)
def test_a_train_at_the_edge_of_the_rule_is_found(fault: Fault) -> None:
    frames = np.full((24, *SMALL, 3), 90, np.uint8)
    (code,) = fault.codes
    report = judge(fault.plant(frames, fault.strengths[0], np.random.default_rng(0)), FPS, Planned(), LIMITS)
    assert code in [found.code for found in report.reasons]
    report = judge(fault.plant(frames, 0.9 * fault.strengths[0], np.random.default_rng(0)), FPS, Planned(), LIMITS)
    assert code not in [found.code for found in report.reasons]


def test_a_fault_that_is_flagged_by_another_name_is_not_found() -> None:
    (said,) = faults.judged(CLIP, jump(CLIP.frames, 4), "jump", 4, fits=["ghosting"], knew=["nothing"])
    assert (said.codes, said.found) == (["jump"], False)


def test_without_stills_the_benchmark_cannot_run(tmp_path: Path) -> None:
    for folder in (tmp_path, tmp_path / "keyframes"):
        with pytest.raises(CannotRun, match="no stills"):
            faults.run(folder)
