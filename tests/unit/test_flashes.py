"""The photosensitivity screen against stimuli drawn from the text of the rule, each just inside or just outside it."""

from __future__ import annotations

import itertools
import tracemalloc
from collections.abc import Iterable, Iterator

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from core.qa.flashes import FlashReport, screen
from core.qa.thresholds import Standard

Frame = NDArray[np.uint8]
Colour = tuple[int, int, int]
Area = tuple[int, int, int, int]
"""Left, top, width and height in pixels."""

HD_QUARTER = (480, 270)
"""Width and height: shown four times as large on the reference screen, so that a window is 104 pixels of its own."""
SMALL = (64, 36)
"""Shown thirty times as large: a window is 14 pixels."""
BLACK, WHITE, RED, GREY = (0, 0, 0), (255, 255, 255), (255, 0, 0), (118, 118, 118)
QUARTER_WINDOW = (200, 100, 52, 52)
"""Of 104 x 104 a quarter exactly."""


def grey(code: int) -> Colour:
    return (code, code, code)


def square_wave(low: Colour, high: Colour, held: int, transitions: int, lead: int = 5) -> list[Colour]:
    """``low`` for ``lead`` frames, then as many ``transitions``, each state held for as many frames."""
    states = itertools.islice(itertools.cycle([high, low]), transitions)
    return [low] * lead + [state for state in states for _ in range(held)]


def drawn(
    areas: dict[Area, list[Colour]], size: tuple[int, int] = HD_QUARTER, ground: Colour = BLACK
) -> Iterator[Frame]:
    """Frames of ``size`` with areas that show one colour a frame, the last one for ever."""
    for index in range(max(len(colours) for colours in areas.values())):
        frame = np.full((size[1], size[0], 3), ground, np.uint8)
        for (left, top, width, height), colours in areas.items():
            frame[top : top + height, left : left + width] = colours[min(index, len(colours) - 1)]
        yield frame


def whole(colours: list[Colour], fps: float) -> FlashReport:
    """The screening of a clip whose whole frame shows one colour after the other."""
    return screen(drawn({(0, 0, *SMALL): colours}, SMALL), fps)


def luminance(code: int) -> float:
    c = code / 255
    return c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4


# --- how often ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("transitions", "passes"), [(6, True), (7, False)])
@pytest.mark.parametrize("colour", [WHITE, RED])
def test_six_transitions_in_a_second_pass_and_seven_fail(transitions: int, colour: Colour, passes: bool) -> None:
    report = whole(square_wave(BLACK, colour, 2, transitions), 30)
    assert report.passed is passes
    assert report.luminance_transitions == transitions
    assert report.red_transitions == (transitions if colour == RED else 0)


@pytest.mark.parametrize(
    ("fps", "held", "passes"),
    [
        (30, 5, True),  # 3 Hz: the first and the seventh are a second apart
        (30, 4, False),  # 3.75 Hz
        (60, 10, True),
        (60, 9, False),
        (24, 4, True),
        (24, 3, False),
        (25, 4, False),  # 3.125 Hz
        (29.97, 5, True),
        (12, 2, True),
        (12, 1, False),
    ],
)
def test_three_flashes_a_second_pass_and_any_faster_fail(fps: float, held: int, passes: bool) -> None:
    report = whole(square_wave(BLACK, WHITE, held, 30), fps)
    assert report.passed is passes
    assert report.luminance_transitions >= 6


def test_the_second_slides() -> None:
    # Three transitions end one second and four begin the next: no second that starts on the dot holds all seven.
    colours = [BLACK] * 24 + square_wave(BLACK, WHITE, 2, 7, lead=0)
    report = whole(colours, 30)
    assert not report.passed
    (violation,) = report.violations
    assert (violation.first_frame, violation.last_frame) == (24, 36)
    assert (violation.start, violation.end) == (24 / 30, 36 / 30)


@pytest.mark.parametrize("size", [(480, 270), (576, 1024), (1920, 1080)])
def test_how_an_array_lies_in_memory_makes_no_difference(size: tuple[int, int]) -> None:
    frames = list(drawn({(0, 0, *size): square_wave(BLACK, RED, 2, 7)}, size))
    expected = screen(frames, 30)
    assert expected.red_transitions == 7
    planes = [np.ascontiguousarray(frame.transpose(2, 0, 1)) for frame in frames]
    backwards = [np.ascontiguousarray(frame[..., ::-1]) for frame in frames]
    assert screen([one.transpose(1, 2, 0) for one in planes], 30) == expected
    assert screen([one[..., ::-1] for one in backwards], 30) == expected
    assert screen([np.asfortranarray(one)[:, ::-1] for one in frames], 30) == expected


def test_bursts_that_are_a_second_apart_are_not_added() -> None:
    burst = square_wave(BLACK, WHITE, 1, 6, lead=0)
    assert whole([*burst, *[BLACK] * 30, *burst, *[BLACK] * 30, *burst], 30).passed


def test_a_transition_a_second_ago_is_forgotten() -> None:
    # Up fast, down too slowly to count, and up fast again: no alternation, but within a second of either no other.
    slow = [grey(int(code)) for code in np.linspace(140, 0, 60)]
    assert whole([BLACK, grey(140), *slow], 30).luminance_transitions == 1
    assert not whole([BLACK, grey(140), *slow, *square_wave(BLACK, WHITE, 2, 7, lead=0)], 30).passed
    assert whole([BLACK, grey(140), *slow, *square_wave(BLACK, WHITE, 2, 6, lead=0)], 30).passed


def test_a_saw_tooth_does_not_alternate() -> None:
    # 4 Hz: up in one frame, down over fourteen, of which no three make more than 0.07.
    tooth = [grey(int(code)) for code in np.linspace(110, 0, 14)]
    assert whole([BLACK, *tooth * 8], 60).luminance_transitions == 1


def test_a_clip_shorter_than_a_second_can_fail() -> None:
    report = whole(square_wave(BLACK, WHITE, 1, 7, lead=1), 30)
    assert report.frames == 8
    assert not report.passed


@pytest.mark.parametrize("frames", [0, 1, 2])
def test_too_few_frames_to_flash_pass(frames: int) -> None:
    report = whole([BLACK, WHITE][:frames], 30)
    assert report.passed
    assert report.frames == frames


# --- how much -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("low", [0, 60, 120, 180, 229, 230, 231, 240])
def test_a_step_of_a_tenth_counts_and_above_four_fifths_a_michelson_contrast_of_a_seventeenth(low: int) -> None:
    def counts(high: int) -> bool:
        dark, light = luminance(low), luminance(high)
        return light - dark >= 0.1 if dark < 0.8 else (light - dark) / (light + dark) >= 1 / 17

    sufficient = next((code for code in range(low + 1, 256) if counts(code)), None)
    for high in range(low + 1, 256) if sufficient is None else (sufficient - 1, sufficient):
        report = whole(square_wave(grey(low), grey(high), 2, 7), 30)
        assert report.passed is not counts(high), f"{low} to {high}"


def test_luminance_is_weighted_by_channel_in_linear_light() -> None:
    # 0.2126, 0.7152 and 0.0722 of 0.4969: only green and red reach a tenth.
    counts = {
        colour: whole(square_wave(BLACK, colour, 2, 7), 30).luminance_transitions
        for colour in [(187, 0, 0), (0, 187, 0), (0, 0, 187), (180, 0, 0), (0, 0, 255)]
    }
    assert counts == {(187, 0, 0): 7, (0, 187, 0): 7, (0, 0, 187): 0, (180, 0, 0): 0, (0, 0, 255): 0}


@pytest.mark.parametrize(
    ("one", "other", "transitions"),
    [
        (RED, BLACK, 7),
        (RED, WHITE, 7),
        (RED, GREY, 7),
        (RED, (0, 255, 0), 7),
        (RED, (0, 0, 255), 7),
        ((90, 0, 0), BLACK, 7),  # regardless of luminance: 0.02 of it
        (RED, (120, 0, 0), 0),  # the same chromaticity
        (RED, (255, 185, 0), 0),  # 0.198 apart
        (RED, (255, 190, 0), 7),  # 0.202
        (RED, (255, 165, 165), 0),  # 0.197
        (RED, (255, 170, 170), 7),  # 0.202
        ((255, 140, 0), (0, 0, 255), 0),  # R/(R + G + B) is 0.79
        ((255, 135, 0), (0, 0, 255), 7),  # 0.81
        (WHITE, (0, 255, 0), 0),  # no red in it
        ((2, 0, 0), BLACK, 0),  # noise in the shadows is no colour
    ],
)
def test_red_transitions_are_to_or_from_a_saturated_red(one: Colour, other: Colour, transitions: int) -> None:
    for low, high in ((one, other), (other, one)):
        report = whole(square_wave(low, high, 2, 7), 30)
        assert report.red_transitions == transitions


def test_luminance_and_red_are_counted_apart() -> None:
    # Four transitions of luminance and then four of red between equally bright colours: neither has seven.
    reds = [RED, (128, 128, 128)] * 2  # 0.2126 and 0.2159
    colours = [BLACK, WHITE, BLACK, WHITE, BLACK, *reds]
    report = whole([colour for colour in colours for _ in range(2)], 30)
    assert (report.passed, report.luminance_transitions, report.red_transitions) == (True, 5, 4)


def test_what_alternates_need_not_return_to_the_same_state() -> None:
    codes = [0, 120, 40, 160, 100, 255, 130, 200]
    assert not whole([grey(code) for code in codes for _ in range(2)], 30).passed


def test_steps_the_same_way_are_one_transition() -> None:
    codes = np.searchsorted([luminance(code) for code in range(256)], np.arange(0, 0.8, 0.11))
    stairs = [grey(int(code)) for code in codes for _ in range(2)]
    report = whole(stairs, 30)
    assert report.luminance_transitions == 1
    # Nor is one half's stair a transition against the other half's stair that leads down.
    opposite = {(0, 0, 240, 270): stairs, (240, 0, 240, 270): stairs[::-1]}
    assert screen(drawn(opposite), 30).luminance_transitions == 1


# --- how fast -------------------------------------------------------------------------------------------------------


def ramps(steps: int, share: float, transitions: int = 7, rest: int = 2) -> list[Colour]:
    """Alternating ramps of ``share`` of white's luminance in equal steps of linear light, with pauses between."""
    table = np.array([luminance(code) for code in range(256)])
    up = [0.2 + share * step / steps for step in range(1, steps + 1)]
    down = [0.2 + share - share * step / steps for step in range(1, steps + 1)]
    levels = [0.2] * 3
    for index in range(transitions):
        ramp = down if index % 2 else up
        levels += ramp + [ramp[-1]] * rest
    return [grey(int(np.abs(table - level).argmin())) for level in levels]


@pytest.mark.parametrize(
    ("fps", "steps", "passes"),
    [
        (60, 1, False),
        (60, 3, False),  # 50 ms
        (60, 4, True),  # 66.7 ms, for all of it
        (50, 3, False),
        (50, 4, True),
        (30, 1, False),
        (30, 2, True),  # 66.7 ms
        (31, 2, False),
        (120, 7, False),
        (120, 8, True),
        (10, 1, False),  # 100 ms, but no picture changes faster than its rate
        (10, 2, True),
    ],
)
def test_a_transition_takes_66_ms_or_one_frame(fps: float, steps: int, passes: bool) -> None:
    report = whole(ramps(steps, 0.105, rest=2 if fps > 10 else 0), fps)
    assert report.luminance_transitions == (0 if passes else 7)
    assert report.passed is passes


@pytest.mark.parametrize(("share", "passes"), [(0.7, False), (0.12, True)])
def test_a_longer_ramp_counts_if_a_part_of_it_is_steep_enough(share: float, passes: bool) -> None:
    # Six steps of 100 ms in all: 0.7 in them is 0.35 in any 50 ms, 0.12 is 0.06.
    assert whole(ramps(6, share), 60).passed is passes


def test_a_fade_is_no_flash() -> None:
    down_and_up = [grey(code) for code in (*range(255, 0, -5), *range(0, 255, 5))] * 3
    assert whole(down_and_up, 30).luminance_transitions == 0


def test_parts_that_change_together_count_together_though_one_reaches_the_step_sooner() -> None:
    # Both halves of the square ramp over the same three frames; the brighter one is there after the first of them.
    bright, dim = ramps(3, 0.7), ramps(3, 0.11)
    areas = {(200, 100, 26, 52): bright, (226, 100, 26, 52): dim}
    assert not screen(drawn(areas), 60).passed
    assert screen(drawn({(200, 100, 26, 52): bright}), 60).passed


@pytest.mark.parametrize(("fps", "period", "passes"), [(240, 2, True), (240, 6, False), (120, 2, False)])
def test_flashes_too_fast_to_see_are_one(fps: float, period: int, passes: bool) -> None:
    # 120 Hz: rises follow one another after 8 ms. 40 Hz and 60 Hz: after 25 and 17.
    report = whole(square_wave(BLACK, WHITE, period // 2, fps_frames(fps, period)), fps)
    assert report.passed is passes
    if passes:
        assert report.luminance_transitions == 2


def fps_frames(fps: float, period: int) -> int:
    """The transitions of half a second."""
    return int(fps / period)


# --- how wide -------------------------------------------------------------------------------------------------------


def flashing(
    *areas: Area, size: tuple[int, int] = HD_QUARTER, standard: Standard = "trace24", fps: float = 30
) -> FlashReport:
    return screen(drawn(dict.fromkeys(areas, square_wave(BLACK, WHITE, 2, 7)), size), fps, standard)


@pytest.mark.parametrize(
    ("areas", "passes"),
    [
        ([QUARTER_WINDOW], False),
        ([(200, 100, 52, 51)], True),
        ([(0, 0, 52, 52)], False),  # in the corner
        ([(428, 218, 52, 52)], False),
        ([(100, 100, 104, 26)], False),
        ([(100, 100, 26, 104)], False),
        ([(100, 100, 480 - 100, 25)], True),  # however long
        ([(100, 100, 26, 52), (178, 100, 26, 52)], False),  # both within one window
        ([(100, 100, 26, 52), (179, 100, 26, 52)], True),  # a pixel too far apart
        ([(10, 10, 50, 50), (200, 10, 50, 50), (400, 10, 50, 50), (200, 200, 50, 50)], True),
    ],
)
def test_a_quarter_of_some_window_must_flash(areas: list[Area], passes: bool) -> None:
    assert flashing(*areas).passed is passes


@pytest.mark.parametrize(
    ("size", "side", "passes"),
    [
        ((1920, 1080), 208, False),
        ((1920, 1080), 206, True),
        ((960, 540), 104, False),
        ((960, 540), 103, True),
        ((3840, 2160), 416, False),
        ((1080, 1920), 370, False),  # portrait is shown 1080 high: 208 px there are 369.8 here
        ((1080, 1920), 364, True),
        ((576, 1024), 198, False),
        ((576, 1024), 195, True),
    ],
)
def test_the_window_is_measured_on_the_reference_screen(size: tuple[int, int], side: int, passes: bool) -> None:
    # One frame a state, for these are large.
    areas = {(100, 100, side, side): square_wave(BLACK, WHITE, 1, 7, lead=1)}
    assert screen(drawn(areas, size), 30).passed is passes


@pytest.mark.parametrize(
    ("size", "passes"),
    [((480, 26), False), ((480, 25), True), ((26, 270), False), ((25, 270), True), ((52, 52), False)],
)
def test_what_lies_outside_the_frame_is_still(size: tuple[int, int], passes: bool) -> None:
    # Strips shown as large as fits: 1920 x 104 or 104 x 1080 are a quarter of a window, a little less is not.
    assert flashing((0, 0, *size), size=size).passed is passes


@pytest.mark.parametrize(
    ("standard", "side", "passes"),
    [("wcag", 148, False), ("wcag", 147, True), ("trace24", 148, True), ("broadcast", 207, True)],
)
def test_standards_differ_in_their_window(standard: Standard, side: int, passes: bool) -> None:
    # A quarter of 341 x 256 is 21,824 px, between 147² and 148².
    areas: dict[Area, list[Colour]] = {(301, 203, side, side): square_wave(BLACK, WHITE, 1, 7, lead=1)}
    assert screen(drawn(areas, (1920, 1080)), 30, standard).passed is passes


@pytest.mark.parametrize(("width", "passes"), [(240, False), (239, True)])
def test_broadcast_takes_a_quarter_of_the_frame(width: int, passes: bool) -> None:
    assert flashing((0, 0, width, 135), standard="broadcast").passed is passes


@pytest.mark.parametrize(
    ("fps", "late", "passes"),
    [(30, 1, True), (50, 1, False), (60, 1, False), (60, 2, True), (100, 2, False), (100, 3, True)],
)
def test_areas_sum_when_they_change_the_same_way_within_20_ms(fps: float, late: int, passes: bool) -> None:
    wave = square_wave(BLACK, WHITE, 4, 7)
    areas = {(200, 100, 26, 52): wave, (226, 100, 26, 52): [BLACK] * late + wave}
    assert screen(drawn(areas), fps).passed is passes


@pytest.mark.parametrize(("fps", "passes"), [(30, True), (50, False), (60, False), (120, False)])
def test_areas_that_flash_in_a_round_are_summed_two_by_two(fps: float, passes: bool) -> None:
    # Four in each seven rows, each one frame after the one before, so that some rise and some fall at every frame:
    # of a window of 14 rows each is a seventh, and any two that follow on each other within 20 ms are enough.
    rows = {
        (0, 7 * band + phase, 64, 1): square_wave(BLACK, WHITE, 2, 14, lead=2 + phase)
        for band in range(5)
        for phase in range(4)
    }
    assert screen(drawn(rows, SMALL), fps).passed is passes


def test_areas_that_change_against_each_other_are_not_summed() -> None:
    wave, opposite = square_wave(BLACK, WHITE, 2, 9), square_wave(WHITE, BLACK, 2, 9)
    half, other = (200, 100, 26, 52), (226, 100, 26, 52)
    assert screen(drawn({half: wave, other: opposite}), 30).passed
    assert not screen(drawn({half: wave, other: wave}), 30).passed


@pytest.mark.parametrize(("transitions", "passes"), [(6, True), (7, False)])
def test_counter_phase_halves_count_as_either_does(transitions: int, passes: bool) -> None:
    # The mean of the frame never changes.
    wave = square_wave(BLACK, WHITE, 2, transitions)
    halves = {(0, 0, 240, 270): wave, (240, 0, 240, 270): [(255 - c[0],) * 3 for c in wave]}
    report = screen(drawn(halves), 30)
    assert (report.passed, report.luminance_transitions) == (passes, transitions)


@pytest.mark.parametrize("square", [1, 2, 3, 4, 6])
@pytest.mark.parametrize("offset", [(0, 0), (1, 0), (1, 1)])
def test_a_checkerboard_finer_than_a_cell_or_beside_its_edges_fails_too(square: int, offset: tuple[int, int]) -> None:
    y, x = np.mgrid[:1024, :576]
    board = (((x + offset[0]) // square + (y + offset[1]) // square) % 2 * 255).astype(np.uint8)
    frames = [np.dstack([board] * 3), np.dstack([255 - board] * 3)]
    assert not screen(frames * 4, 30).passed


@pytest.mark.parametrize(("period", "passes"), [(2, False), (3, False), (4, False), (5, True), (8, True)])
@pytest.mark.parametrize("axis", [0, 1])
def test_fine_stripes_count_by_their_share(period: int, passes: bool, axis: int) -> None:
    lit = np.mgrid[:1024, :576][axis] % period == 0
    frames = [np.zeros((1024, 576, 3), np.uint8), np.dstack([lit * np.uint8(255)] * 3)]
    assert screen(frames * 4, 30).passed == passes


@pytest.mark.parametrize("square", [2, 8, 20, 50])
def test_a_checkerboard_that_reverses_fails(square: int) -> None:
    y, x = np.mgrid[:270, :480]
    board = np.where(((x // square + y // square) % 2)[..., None], np.uint8(255), np.uint8(0)).repeat(3, axis=2)
    assert not screen([board, 255 - board] * 4, 30).passed
    # A shift by half a square moves only a quarter of each colour, half of what a reversal does.
    assert screen([board] * 30, 30).luminance_transitions == 0


def test_halves_that_flash_in_turn_are_counted_as_they_alternate() -> None:
    # Each at 3 Hz, a quarter of a period apart: rise, rise, fall, fall.
    wave = square_wave(BLACK, WHITE, 6, 14, lead=0)
    halves = {(0, 0, 32, 36): [BLACK, *wave], (32, 0, 32, 36): [*[BLACK] * 4, *wave]}
    report = screen(drawn(halves, SMALL), 36)
    assert (report.passed, report.luminance_transitions) == (True, 6)


# --- what is around it ----------------------------------------------------------------------------------------------


def noisy(frames: Iterable[Frame], codes: int) -> Iterator[Frame]:
    random = np.random.default_rng(7)
    for frame in frames:
        noise = random.integers(-codes, codes + 1, frame.shape)
        yield np.clip(frame + noise, 0, 255).astype(np.uint8)


@pytest.mark.parametrize(("side", "passes"), [(52, False), (36, True)])
def test_noise_elsewhere_changes_nothing(side: int, passes: bool) -> None:
    wave = square_wave(BLACK, WHITE, 2, 7)
    frames = drawn({(200, 100, side, side): wave}, ground=GREY)
    assert screen(noisy(frames, 2), 30).passed is passes


def test_what_a_codec_leaves_behind_changes_nothing() -> None:
    # A few cells begin to fall a frame before the rest, by as little as counts: 255 to 240 is 0.13.
    wave = square_wave(BLACK, WHITE, 3, 8)
    early = list(wave)
    for index in range(1, len(wave)):
        if early[index] == WHITE and wave[min(index + 1, len(wave) - 1)] == BLACK:
            early[index] = grey(240)
    assert early != wave
    areas = {QUARTER_WINDOW: wave, (210, 110, 12, 12): early}
    assert screen(drawn(areas), 30).luminance_transitions == 8


def test_a_thing_that_only_grows_brighter_hides_no_flash() -> None:
    # It steps whenever the flash does, so that much of what changes in the window does not alternate.
    stairs = [grey(code) for code in (0, 0, 0, 0, 0, 100, 100, 135, 135, 165, 165, 185, 185, 205, 205, 220, 220)]
    areas = {QUARTER_WINDOW: square_wave(BLACK, WHITE, 2, 7), (200, 160, 52, 30): stairs}
    assert not screen(drawn(areas), 30).passed


def still(width: int, height: int) -> Frame:
    """A drawn picture with soft shapes, hard edges and fine texture."""
    random = np.random.default_rng(3)
    detail = sum(
        cv2.resize(
            random.normal(size=(height // s + 2, width // s + 2)), (width, height), interpolation=cv2.INTER_CUBIC
        )
        * s**0.6
        for s in (2, 4, 8, 16, 32, 64)
    )
    picture = np.repeat((110 + 10 * np.asarray(detail))[..., None], 3, axis=2) * (1.0, 0.9, 0.7)
    drawing: Frame = np.clip(picture, 0, 255).astype(np.uint8)
    for _ in range(40):
        centre = int(random.integers(0, width)), int(random.integers(0, height))
        colour = tuple(int(c) for c in random.integers(0, 255, 3))
        cv2.circle(drawing, centre, int(random.integers(8, 60)), colour, -1, cv2.LINE_AA)
    return drawing


@pytest.mark.parametrize("speed", [0.2, 0.5])
def test_a_camera_move_over_a_still_is_no_flash(speed: float) -> None:
    # speed: frame widths a second, at 30 fps
    picture = still(1400, 400)
    shift = speed * 576 / 30
    frames = (cv2.warpAffine(picture, np.array([[1, 0, -shift * index], [0, 1, 0]]), (576, 324)) for index in range(30))
    assert screen((np.asarray(frame, np.uint8) for frame in frames), 30).passed


def test_cuts_are_single_transitions() -> None:
    one = still(480, 270)
    other = one[::-1, ::-1]
    report = screen([*[one] * 10, *[other] * 10, *[one] * 10, *[other] * 10], 30)
    assert report.passed
    assert 1 <= report.luminance_transitions <= 3
    assert not screen([one, other] * 8, 30).passed


# --- the report -----------------------------------------------------------------------------------------------------


def test_the_report_says_when_where_and_how_many() -> None:
    wave = [BLACK] * 40 + square_wave(BLACK, RED, 2, 10) + [BLACK] * 60
    report = screen(drawn({(300, 100, 80, 90): wave}), 30)
    assert (report.luminance_transitions, report.red_transitions) == (10, 10)
    by_kind = {violation.kind: violation for violation in report.violations}
    assert set(by_kind) == {"luminance", "red"}
    for violation in by_kind.values():
        assert (violation.first_frame, violation.last_frame, violation.transitions) == (45, 63, 10)
        assert violation.place == pytest.approx((300 / 480, 100 / 270, 380 / 480, 190 / 270))


def test_stretches_that_do_not_overlap_are_reported_one_by_one() -> None:
    burst = square_wave(BLACK, WHITE, 2, 8)
    report = whole([*burst, *[BLACK] * 40, *burst], 30)
    assert [(v.first_frame, v.last_frame) for v in report.violations] == [(5, 19), (66, 80)]


@pytest.mark.parametrize("frame", [np.zeros((8, 8), np.uint8), np.zeros((8, 8, 4), np.uint8), np.zeros((8, 8, 3))])
def test_frames_of_another_kind_are_refused(frame: NDArray[np.generic]) -> None:
    with pytest.raises(ValueError, match="uint8"):
        screen([frame], 30)  # type: ignore[list-item]  # the point of the test


def test_frames_of_another_size_are_refused() -> None:
    with pytest.raises(ValueError, match="Frame 1"):
        screen([np.zeros((8, 8, 3), np.uint8), np.zeros((8, 9, 3), np.uint8)], 30)


@pytest.mark.parametrize("fps", [0, -1, 1001, float("nan"), float("inf")])
def test_rates_that_are_none_are_refused(fps: float) -> None:
    with pytest.raises(ValueError, match="fps"):
        screen([], fps)


@pytest.mark.parametrize("size", [(1, 1), (1, 40), (40, 1), (7, 5), (33, 101)])
def test_a_frame_may_have_any_size(size: tuple[int, int]) -> None:
    frames = drawn({(0, 0, *size): square_wave(BLACK, WHITE, 2, 7)}, size)
    wide = max(size) < 4 * min(size)  # a line is shown as a line, which is no quarter of a window
    assert screen(frames, 30).luminance_transitions == (7 if wide else 0)


def test_memory_does_not_grow_with_the_clip() -> None:
    def peak(frames: int) -> int:
        tracemalloc.start()
        wave = square_wave(BLACK, WHITE, 3, frames // 3)
        screen(drawn({QUARTER_WINDOW: wave}), 30)
        high = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return high

    assert peak(300) < 1.1 * peak(60)


# --- what must hold whatever flashes --------------------------------------------------------------------------------

clips = st.lists(st.lists(st.sampled_from([0, 60, 100, 150, 255]), min_size=4, max_size=4), min_size=2, max_size=24)


def four_tiles(codes: list[list[int]]) -> list[Frame]:
    return list(
        drawn(
            {(16 * tile, 8, 16, 20): [grey(row[tile]) for row in codes] for tile in range(4)},
            SMALL,
        )
    )


@settings(max_examples=60, deadline=None)
@given(clips, st.sampled_from([24.0, 30.0, 60.0]))
def test_mirroring_and_still_frames_around_it_change_nothing(codes: list[list[int]], fps: float) -> None:
    frames = four_tiles(codes)
    found = screen(frames, fps)
    assert screen([frame[::-1, ::-1] for frame in frames], fps).luminance_transitions == found.luminance_transitions
    padded = screen([*[frames[0]] * 5, *frames, *[frames[-1]] * 5], fps)
    assert (padded.luminance_transitions, padded.passed) == (found.luminance_transitions, found.passed)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.sampled_from([0, 60, 100, 150, 255]), min_size=2, max_size=40), st.integers(1, 4))
def test_one_area_is_counted_as_its_peaks_and_valleys(codes: list[int], held: int) -> None:
    # At 30 fps every step is fast, so the rule is one that a few lines can state.
    fps = 30
    shown = [code for code in codes for _ in range(held)]
    steps = [
        (frame, 1 if shown[frame] > shown[frame - 1] else -1)
        for frame in range(1, len(shown))
        if abs(luminance(shown[frame]) - luminance(shown[frame - 1])) >= 0.1
    ]
    expected = max(
        (
            sum(1 for _ in itertools.groupby(way for frame, way in steps if start <= frame < start + fps))
            for start, _ in steps
        ),
        default=0,
    )
    report = screen(drawn({(0, 0, *SMALL): [grey(code) for code in shown]}, SMALL), fps)
    # The second may begin between two steps the same way, which are one transition from the first of them on.
    assert expected - 1 <= report.luminance_transitions <= expected
    assert report.passed is (report.luminance_transitions <= 6)
