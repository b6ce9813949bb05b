"""Frames that do not move on are told from what a slow camera, or a picture without detail, does."""

from __future__ import annotations

from collections.abc import Iterable

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from core.camera import Camera
from core.motion import FULL, CameraPath, Rect
from core.qa.inspector import Seen
from core.qa.planned import Planned
from core.qa.repeats import Repeats
from core.qa.thresholds import QaThresholds

SIZE = (96, 64)


def textured(seed: int = 5, size: tuple[int, int] = SIZE) -> NDArray[np.uint8]:
    """Soft blobs of every brightness, from a code of 40 to one of 160."""
    blobs = np.random.default_rng(seed).uniform(40, 160, (8, 12, 3))
    return np.asarray(cv2.resize(blobs, size, interpolation=cv2.INTER_CUBIC).clip(0, 255), np.uint8)


def measured(frames: Iterable[NDArray[np.uint8]], planned: Planned) -> Repeats:
    repeats = Repeats(QaThresholds(), planned)
    for number, frame in enumerate(frames):
        repeats.add(Seen.of(number, frame))
    return repeats


# --- repeats --------------------------------------------------------------------------------------------------------


def move(still: NDArray[np.uint8], pixels: float, frames: int = 12) -> tuple[list[NDArray[np.uint8]], Planned]:
    """A pan to the right by so many pixels a frame, and its plan."""
    width = 0.5
    shift = pixels / SIZE[0] * width
    views = [Rect(0.1 + n * shift, 0.2, 0.1 + n * shift + width, 0.7) for n in range(frames)]
    camera = Camera(still, SIZE)
    return [camera.render(view) for view in views], Planned.of(still, views, SIZE)


def test_frames_that_ought_to_differ_and_do_not_are_repeats() -> None:
    frames, planned = move(textured(), 2)
    assert measured(frames, planned).repeats == []
    frames[5] = frames[6] = frames[7] = frames[4]
    assert measured(frames, planned).repeats == [5, 6, 7]


def test_noise_does_not_hide_a_repeat() -> None:
    frames, planned = move(textured(), 2)
    frames[5] = frames[4].copy()
    frames[5][::8, ::8] += 1
    assert measured(frames, planned).repeats == [5]


def test_what_has_no_detail_may_stand_still() -> None:
    frames, planned = move(np.full((64, 96, 3), 120, np.uint8), 3)
    assert measured(frames, planned).repeats == []


def test_detail_along_the_move_may_stand_still() -> None:
    stripes = np.repeat(np.repeat(np.arange(0, 256, 4, dtype=np.uint8)[:, None, None], 96, axis=1), 3, axis=2)
    frames, planned = move(stripes, 3)
    assert measured(frames, planned).repeats == []


def test_a_still_that_is_planned_so_repeats_nothing() -> None:
    frame = textured()
    assert measured([frame] * 5, Planned.of(frame, [FULL] * 5, SIZE)).repeats == []
    assert measured([frame] * 5, Planned(5)).repeats == []


@pytest.mark.parametrize(("first", "length", "found"), [(5, 3, [5, 6, 7]), (5, 2, []), (2, 3, []), (9, 3, [])])
def test_without_a_plan_a_pause_amid_movement_is_a_fault(first: int, length: int, found: list[int]) -> None:
    """A clip may begin and end at rest, and one frame shown twice is how films become video."""
    frames, _ = move(textured(), 2)
    for number in range(first, first + length):
        frames[number] = frames[first - 1]
    inspection = measured(frames, Planned(None)).finish()
    codes = [(each.finding.code, each.finding.severity, each.finding.frame) for each in inspection.found]
    assert codes == ([("frozen_frames", "warning", found[0])] if found else [])


def test_a_clip_that_stands_still_by_itself_is_no_fault() -> None:
    assert measured([textured()] * 12, Planned(None)).finish().found == []


# --- the plan -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "pixels"),
    [
        (CameraPath(Rect(0.1, 0.1, 0.6, 0.6), Rect(0.3, 0.1, 0.8, 0.6)), 38.4),  # 0.2 of it in views of 0.5, of 96 px
        (CameraPath(Rect(0.1, 0.1, 0.6, 0.6), Rect(0.1, 0.2, 0.6, 0.7)), 12.8),
        (CameraPath(Rect(0, 0, 1, 1), Rect(0.1, 0.1, 0.9, 0.9)), 14.2),  # corners go out by 12 and 7.9
    ],
)
def test_the_step_takes_a_frame_to_the_next(path: CameraPath, pixels: float) -> None:
    still = textured(size=(192, 128))
    views = [path.start, path.end]
    before, after = (Camera(still, SIZE).render(view) for view in views)
    planned = Planned.of(still, views, SIZE)
    step = planned.step(1)
    assert step is not None
    assert planned.motion(1) == pytest.approx(pixels, abs=0.3)
    moved = np.asarray(cv2.warpAffine(before, step, SIZE, borderMode=cv2.BORDER_TRANSPARENT, dst=after.copy()))
    assert np.abs(moved.astype(int) - after).mean() < 0.5
    assert np.abs(before.astype(int) - after).mean() > 5


def test_the_plan_says_how_bright_each_view_is() -> None:
    still = np.zeros((64, 96, 3), np.uint8)
    still[:, 48:] = 255
    planned = Planned.of(still, [Rect(0, 0, 0.5, 0.5), Rect(0.25, 0, 0.75, 0.5), Rect(0.5, 0.5, 1, 1)], SIZE)
    assert planned.levels == pytest.approx([0, 0.5, 1], abs=0.03)


def test_what_is_not_planned_does_not_move() -> None:
    planned = Planned(10)
    assert planned.step(3) is None
    assert planned.motion(3) == 0
    assert Planned.of(textured(), [FULL, FULL], SIZE).step(0) is None
    assert Planned.of(textured(), [FULL, FULL], SIZE).step(2) is None
