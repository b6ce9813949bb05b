"""Flash frames and cuts are told from what a camera, a fade or a moving thing does."""

from __future__ import annotations

from collections.abc import Iterable

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from core.light import linear_cells, luminance
from core.qa.exposure import Exposure, Swing
from core.qa.inspector import Seen
from core.qa.thresholds import QaThresholds

SIZE = (96, 64)
LIMITS = QaThresholds()


def textured(seed: int = 5, size: tuple[int, int] = SIZE) -> NDArray[np.uint8]:
    """Soft blobs of every brightness, from a code of 40 to one of 160."""
    blobs = np.random.default_rng(seed).uniform(40, 160, (8, 12, 3))
    return np.asarray(cv2.resize(blobs, size, interpolation=cv2.INTER_CUBIC).clip(0, 255), np.uint8)


def measured(frames: Iterable[NDArray[np.uint8]], fps: float = 30) -> Exposure:
    exposure = Exposure(LIMITS, fps)
    for number, frame in enumerate(frames):
        exposure.add(Seen.of(number, frame))
    return exposure


def swings(frames: Iterable[NDArray[np.uint8]], fps: float = 30) -> list[Swing]:
    return measured(frames, fps).swings()


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


@pytest.mark.parametrize(("fps", "whole", "part"), [(30, 3, 1), (60, 6, 2), (120, 12, 4)])
def test_a_flash_may_last_as_long_at_any_rate(fps: float, whole: int, part: int) -> None:
    frame = textured()
    flashed = frame.copy()
    flashed[16:32, 48:72] = 255

    def found(changed: NDArray[np.uint8], length: int) -> list[str]:
        return [swing.kind for swing in swings([*[frame] * 6, *[changed] * length, *[frame] * 6], fps)]

    assert (found(lit(frame, 3.0), whole), found(flashed, part)) == (["flash"], ["flash"])
    assert (found(lit(frame, 3.0), whole + 1), found(flashed, part + 1)) == (["cut", "cut"], [])


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


# --- black ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("planned", "severity"), [([0.2] * 12, "error"), ([], "warning")])
def test_black_frames_in_a_clip_that_is_not(planned: list[float], severity: str) -> None:
    exposure = Exposure(LIMITS, 30, planned)
    for number in range(12):
        frame = np.zeros((64, 96, 3), np.uint8) if number >= 9 else textured()
        exposure.add(Seen.of(number, frame))
    (finding,) = [found.finding for found in exposure.finish().found if found.finding.code == "black_frames"]
    assert (finding.severity, finding.frame, finding.value) == (severity, 9, 3)


@pytest.mark.parametrize("planned", [[0.01] * 12, []])
def test_a_clip_that_is_dark_throughout_may_be_meant_so(planned: list[float]) -> None:
    exposure = Exposure(LIMITS, 30, planned)
    for number in range(12):
        frame = np.full((64, 96, 3), 5 if number < 9 else 0, np.uint8)
        exposure.add(Seen.of(number, frame))
    assert exposure.finish().measures["black_frames"] == 0
