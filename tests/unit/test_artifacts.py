"""Faults of whole frames are told from what a camera, a cut or a moving thing does."""

from __future__ import annotations

from collections.abc import Iterable

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from core.camera import Camera
from core.light import linear_cells, luminance
from core.motion import FULL, CameraPath, Rect
from core.qa.artifacts import Artifacts, Swing
from core.qa.planned import Planned

SIZE = (96, 64)
NOISE = 0.25


def textured(seed: int = 5, size: tuple[int, int] = SIZE) -> NDArray[np.uint8]:
    """Soft blobs of every brightness, from a code of 40 to one of 160."""
    blobs = np.random.default_rng(seed).uniform(40, 160, (8, 12, 3))
    return np.asarray(cv2.resize(blobs, size, interpolation=cv2.INTER_CUBIC).clip(0, 255), np.uint8)


def measured(frames: Iterable[NDArray[np.uint8]], planned: Planned | None = None) -> Artifacts:
    artifacts = Artifacts(NOISE)
    for number, frame in enumerate(frames):
        step = planned.step(number) if planned else None
        artifacts.add(frame, luminance(linear_cells(frame, SIZE[0] // 2, SIZE[1] // 2)), step)
    return artifacts


def swings(frames: Iterable[NDArray[np.uint8]]) -> list[Swing]:
    return measured(frames).swings(0.5, 3)


def lit(frame: NDArray[np.uint8], gain: float) -> NDArray[np.uint8]:
    """The frame with so many times its light."""
    return np.asarray((frame * gain ** (1 / 2.2)).clip(0, 255), np.uint8)


# --- swings ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("gain", "length"), [(3.0, 1), (0.3, 1), (3.0, 2), (3.0, 3), (0.0, 3)])
def test_a_swing_that_comes_back_is_a_flash(gain: float, length: int) -> None:
    frame = textured()
    frames = [frame] * 6 + [lit(frame, gain)] * length + [frame] * 6
    (swing,) = swings(frames)
    assert (swing.kind, swing.frame, swing.last, swing.tile) == ("flash", 6, 5 + length, None)
    assert swing.before == pytest.approx(luminance(linear_cells(frame, *SIZE)).mean(), rel=0.01)


@pytest.mark.parametrize("gain", [3.0, 0.3])
@pytest.mark.parametrize("length", [4, 20])
def test_a_swing_that_stays_is_a_cut(gain: float, length: int) -> None:
    frame = textured()
    found = swings([*[frame] * 6, *[lit(frame, gain)] * length])
    assert [(swing.kind, swing.frame) for swing in found] == [("cut", 6)]


@pytest.mark.parametrize("gain", [1.6, 0.65, 1.0])
def test_a_smaller_swing_is_none(gain: float) -> None:
    frame = textured()
    assert swings([frame, lit(frame, gain), frame]) == []


def test_a_flash_in_a_part_of_the_picture_names_its_tile() -> None:
    frame = textured()
    flashed = frame.copy()
    flashed[16:32, 48:72] = 255  # the second row of tiles, the third column
    (swing,) = swings([frame, frame, flashed, frame])
    assert (swing.kind, swing.frame, swing.tile) == ("flash", 2, (1, 2))


def test_a_thing_that_moves_through_a_tile_is_no_flash() -> None:
    frames = []
    for left in range(-24, 96, 6):  # as large as a tile, a quarter of it a frame
        frame = np.full((64, 96, 3), 60, np.uint8)
        frame[16:32, max(left, 0) : max(left + 24, 0)] = 230
        frames.append(frame)
    assert swings(frames) == []


def test_in_the_dark_little_is_seen() -> None:
    dark = np.full((64, 96, 3), 5, np.uint8)
    assert swings([dark, dark * 5, dark]) == []


@given(st.lists(st.integers(100, 130), min_size=1, max_size=12))
def test_flicker_below_the_limit_never_swings(codes: list[int]) -> None:
    assert swings([np.full((64, 96, 3), code, np.uint8) for code in codes]) == []


def test_levels_are_mean_linear_luminance() -> None:
    # By the formula of IEC 61966-2-1; 10 lies below its knee, 0.03928 and 0.04045 lie between the same two codes.
    greys = {0: 0.0, 10: 0.003035, 11: 0.003347, 118: 0.181164, 188: 0.502886, 236: 0.838799, 255: 1.0}
    frames = [np.full((64, 96, 3), code, np.uint8) for code in greys]
    halves = frames[0].copy()
    halves[:32] = 255
    colours = [np.full((64, 96, 3), colour, np.uint8) for colour in ((255, 0, 0), (0, 255, 0), (0, 0, 188))]
    expected = [*greys.values(), 0.5, 0.2126, 0.7152, 0.0722 * 0.502886]
    assert measured([*frames, halves, *colours]).levels == pytest.approx(expected, abs=1e-5)


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
    assert measured([frame] * 5).repeats == []


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
