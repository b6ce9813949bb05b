"""What a model's frames are held against: no clip, not its picture, light that wanders; and the light put right."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from core.errors import Stopped
from core.generate.checks import BLACK, GAIN_MAX, BadFrames, Blank, correct, drift, inspect
from core.generate.presets import Drift, FirstFrame, Preset, Source
from core.light import LINEAR, linear_cells

Frames = NDArray[np.uint8]
COUNT = 25
PLAIN = Preset(name="plain", family="wan", weights=Source(hub="a/b"))


def preset(**changes: object) -> Preset:
    return PLAIN.model_copy(update=changes)


LOOSE = preset(first_frame=FirstFrame(error=None, flag=None), drift=Drift(flag=None))


def picture() -> Frames:
    """A graded, textured picture with hard things in it, nowhere near white."""
    random = np.random.default_rng(0)
    grain = sum(np.asarray(cv2.resize(random.normal(size=(72 // s, 128 // s, 3)), (128, 72))) * s for s in (2, 6, 12))
    drawn = np.ascontiguousarray((90 + 3 * np.asarray(grain)).clip(5, 150).astype(np.uint8))
    for _ in range(12):
        centre = (int(random.integers(0, 128)), int(random.integers(0, 72)))
        colour = tuple(int(c) for c in random.integers(10, 160, 3))
        cv2.circle(drawn, centre, int(random.integers(4, 14)), colour, -1, cv2.LINE_AA)
    return drawn


def lit(frame: Frames, gain: NDArray[np.float64] | float) -> Frames:
    """The frame with its linear light multiplied, by channel."""
    light = (LINEAR[frame] * gain).clip(0, 1)
    codes = np.where(light <= 0.0031308, 12.92 * light, 1.055 * light ** (1 / 2.4) - 0.055)
    return np.asarray(np.rint(codes * 255), np.uint8)


def clip(gains: NDArray[np.float64] | None = None) -> Frames:
    """A still clip whose light goes as ``gains``, ``(T, 3)``, say."""
    return np.stack([lit(picture(), 1.0 if gains is None else gains[number]) for number in range(COUNT)])


def ramp(red: float, green: float, blue: float) -> NDArray[np.float64]:
    return np.asarray(1 + np.linspace(0, 1, COUNT)[:, None] * np.array([red, green, blue]))


# --- no clip --------------------------------------------------------------------------------------------------------


def test_a_clean_clip_is_let_through_without_a_word() -> None:
    told: list[float] = []
    found = inspect(clip(), picture(), PLAIN, COUNT, told.append)
    assert found.flags == []
    assert found.first_frame == {"ssim": 1.0, "psnr": 100.0, "error": 0.4, "flag": 0.8}
    assert found.drift == {"red": 0, "green": 0, "blue": 0, "largest": 0, "frame": 0}
    assert found.gains is None
    assert told == pytest.approx([(n + 1) / COUNT for n in range(COUNT)])


@pytest.mark.parametrize("frames", [clip()[:-1], np.concatenate([clip(), clip()[:1]]), clip()[:, :-8]])
def test_another_count_or_size_is_no_clip(frames: Frames) -> None:
    with pytest.raises(BadFrames, match="25 frames of 128×72 were asked for"):
        inspect(frames, picture(), LOOSE, COUNT)


@pytest.mark.parametrize("black", [slice(None), slice(7, 12), slice(24, 25)])
def test_black_frames_are_no_clip(black: slice) -> None:
    frames = clip()
    frames[black] = np.random.default_rng(0).integers(0, 4, frames[black].shape)
    with pytest.raises(Blank, match="black"):
        inspect(frames, picture(), LOOSE, COUNT)


def test_a_dark_picture_may_become_black_frames() -> None:
    dark = picture() // 8
    inspect(np.stack([dark // 2] * COUNT), dark, LOOSE, COUNT)


@given(st.integers(0, 255))
@settings(max_examples=30, deadline=None)
def test_black_is_judged_by_light(code: int) -> None:
    frames = np.full((2, 72, 128, 3), code, np.uint8)
    if LINEAR[code] < BLACK:
        with pytest.raises(BadFrames, match="All frames are black"):
            inspect(frames, picture(), LOOSE, 2)
    else:
        inspect(frames, picture(), LOOSE, 2)


# --- not its picture ------------------------------------------------------------------------------------------------


def test_another_first_frame_is_no_attempt_and_an_unlike_one_is_flagged() -> None:
    other = np.random.default_rng(7).integers(0, 200, (COUNT, 72, 128, 3), dtype=np.uint8)
    with pytest.raises(BadFrames, match="not the picture that it was given"):
        inspect(other, picture(), PLAIN, COUNT)
    soft = clip()
    grain = np.random.default_rng(1).normal(0, 9, soft[0].shape)
    soft[0] = (soft[0] + grain).clip(0, 255).astype(np.uint8)
    (flag,) = inspect(soft, picture(), PLAIN, COUNT).flags
    assert (flag.code, flag.severity, flag.limit) == ("given_frame_differs", "warning", 0.8)
    assert isinstance(flag.value, float)
    assert 0.4 < flag.value < 0.8


def test_a_threshold_that_is_not_there_judges_nothing() -> None:
    other = np.random.default_rng(7).integers(0, 200, (COUNT, 72, 128, 3), dtype=np.uint8)
    found = inspect(other, picture(), LOOSE, COUNT)
    assert found.flags == []
    assert found.first_frame == {"ssim": None, "psnr": None, "error": None, "flag": None}
    only_flag = preset(first_frame=FirstFrame(error=None, flag=0.8))
    assert [flag.code for flag in inspect(other, picture(), only_flag, COUNT).flags] == ["given_frame_differs"]


# --- light that wanders ---------------------------------------------------------------------------------------------


@given(st.tuples(*[st.floats(-0.4, 0.6)] * 3))
@settings(max_examples=10, deadline=None)
def test_a_gain_is_measured_as_what_it_is(by: tuple[float, float, float]) -> None:
    found = inspect(clip(ramp(*by)), picture(), LOOSE, COUNT).drift
    assert [found["red"], found["green"], found["blue"]] == pytest.approx(by, abs=0.06)
    assert abs(found["largest"]) == pytest.approx(max(map(abs, by)), abs=0.06)


def test_drift_above_the_limit_is_flagged_by_the_channel_that_drifts() -> None:
    (flag,) = inspect(clip(ramp(0.02, -0.03, 0.4)), picture(), PLAIN, COUNT).flags
    assert (flag.code, flag.severity, flag.limit) == ("light_drift", "warning", 0.15)
    assert flag.message.startswith("Blue light")
    assert inspect(clip(ramp(0.1, -0.1, 0.08)), picture(), PLAIN, COUNT).flags == []
    away_and_back = 1 - 0.4 * np.sin(np.linspace(0, np.pi, COUNT))[:, None] * np.ones(3)
    assert [flag.code for flag in inspect(clip(away_and_back), picture(), PLAIN, COUNT).flags] == ["light_drift"]


def test_a_flash_and_what_moves_by_itself_are_no_drift() -> None:
    frames = clip()
    frames[12] = 255
    frames[:, 10:40, :40] = 0
    for number in range(COUNT):  # bright, and a fifth of the picture
        frames[number, 20:60, 2 * number : 2 * number + 45] = 250
    assert inspect(frames, picture(), LOOSE, COUNT).drift["largest"] == pytest.approx(0, abs=0.05)


def test_a_camera_that_the_model_moves_is_not_held_against_the_first_frame() -> None:
    found = inspect(clip(ramp(0.5, 0.5, 0.5)), picture(), preset(camera="endpoints", drift=Drift(correct=True)), COUNT)
    assert found.drift == {}
    assert found.flags == []
    assert found.gains is None


@given(st.integers(1, 30), st.integers(0, 1000))
@settings(max_examples=30, deadline=None)
def test_the_first_frame_never_drifts(count: int, seed: int) -> None:
    cells = np.random.default_rng(seed).uniform(0, 1, (count, 9, 3))
    found = drift(cells)
    assert found.shape == (count, 3)
    assert found[0].tolist() == [0, 0, 0]
    assert (found > -1).all()


# --- light put right ------------------------------------------------------------------------------------------------


def mean_light(frames: Frames) -> NDArray[np.float64]:
    return np.array([linear_cells(frame, 1, 1)[0, 0] for frame in frames])


def test_light_is_brought_back_to_the_first_frames() -> None:
    frames = clip(ramp(0.3, -0.25, -0.1))
    found = inspect(frames, picture(), preset(drift=Drift(correct=True)), COUNT)
    assert found.flags == []
    assert found.drift["red"] == pytest.approx(0.3, abs=0.05)
    assert found.gains is not None
    assert np.abs(np.diff(found.gains, axis=0)).max() < 0.03
    out = np.empty_like(frames)
    before = frames.copy()
    done = correct(frames, found.gains, out)
    assert np.array_equal(frames, before)
    assert np.array_equal(out[0], frames[0])
    assert mean_light(out) == pytest.approx(np.broadcast_to(mean_light(frames[:1]), (COUNT, 3)), rel=0.04)
    assert done.clipped == 0
    assert done.gain_min == found.gains.min() < 0.8
    assert done.gain_max == found.gains.max() > 1.25


def test_it_may_be_done_in_place_and_stopped() -> None:
    frames = clip(ramp(0.3, 0.3, 0.3))
    gains = inspect(frames, picture(), preset(drift=Drift(correct=True)), COUNT).gains
    assert gains is not None
    out = np.empty_like(frames)
    told: list[float] = []
    correct(frames, gains, out)
    correct(frames, gains, report=told.append)
    assert np.array_equal(frames, out)
    assert told[-1] == 1.0

    def stop(fraction: float) -> None:
        raise Stopped

    with pytest.raises(Stopped):
        correct(frames, gains, report=stop)
    with pytest.raises(Stopped):
        inspect(frames, picture(), PLAIN, COUNT, stop)


def test_what_becomes_brighter_than_white_is_counted() -> None:
    frames = np.full((3, 10, 20, 3), 100, np.uint8)
    frames[1, :5, :, 0] = 250
    frames[:, 0, 0] = 255
    done = correct(frames, np.array([[1.0] * 3, [1.2] * 3, [0.9] * 3]))
    assert done.clipped_frame == 1
    assert done.clipped == pytest.approx((100 + 2) / frames.size)  # the corner's red is among the hundred
    assert frames[1, 1, 1].tolist() == [255, 109, 109]


def test_more_than_the_largest_gain_is_left_and_flagged() -> None:
    frames = clip(ramp(-0.6, -0.6, -0.6))
    found = inspect(frames, picture(), preset(drift=Drift(correct=True)), COUNT)
    assert found.gains is not None
    assert found.gains.max() == GAIN_MAX
    (flag,) = found.flags
    assert flag.code == "light_drift"
    assert flag.value == pytest.approx(1 - 0.4 * GAIN_MAX, abs=0.08)  # the last frames' median
