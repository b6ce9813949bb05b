"""The camera path keeps its promises for any two views, any easing and any rate."""

from __future__ import annotations

import math
from decimal import Decimal
from fractions import Fraction
from itertools import pairwise

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from pydantic import BaseModel, ValidationError

from core.motion import FULL, CameraPath, Easing, Rect, Size, fit, frame_count

EASINGS = st.sampled_from(Easing)
SHARES = st.floats(0, 1)
SIZES = st.tuples(st.integers(16, 8192), st.integers(16, 8192))


@st.composite
def rects(draw: st.DrawFn) -> Rect:
    """Any rectangle inside the image that is at least a hundredth of it wide and high."""
    width, height = draw(st.floats(0.01, 1)), draw(st.floats(0.01, 1))
    x1, y1 = draw(SHARES) * (1 - width), draw(SHARES) * (1 - height)
    return Rect(x1, y1, min(x1 + width, 1.0), min(y1 + height, 1.0))


@st.composite
def paths(draw: st.DrawFn) -> CameraPath:
    """Any path as it is rendered: over some image, for some output."""
    return CameraPath(draw(rects()), draw(rects()), draw(EASINGS)).fitted(draw(SIZES), draw(SIZES))


@given(rects(), rects(), EASINGS)
def test_the_ends_are_exact(start: Rect, end: Rect, easing: Easing) -> None:
    path = CameraPath(start, end, easing)
    assert path.view(0) == start
    assert path.view(1) == end


@given(rects(), rects(), EASINGS, SHARES)
def test_no_view_leaves_the_hull_of_the_ends(start: Rect, end: Rect, easing: Easing, u: float) -> None:
    for edge, first, last in zip(CameraPath(start, end, easing).view(u), start, end, strict=True):
        assert min(first, last) <= edge <= max(first, last)


@given(paths(), SHARES, SHARES)
def test_every_edge_goes_one_way(path: CameraPath, u: float, v: float) -> None:
    ways = zip(path.start, path.view(min(u, v)), path.view(max(u, v)), path.end, strict=True)
    for first, before, after, last in ways:
        assert (after - before) * math.copysign(1, last - first) >= -1e-15


@given(paths(), SHARES)
def test_a_zoom_magnifies_by_equal_factors_in_equal_times(path: CameraPath, u: float) -> None:
    linear = CameraPath(path.start, path.end, Easing.linear)
    expected = path.start.width * (path.end.width / path.start.width) ** u
    assert linear.view(u).width == pytest.approx(expected, rel=1e-12)


@given(rects(), st.floats(-1e-9, 1e-9), SHARES)
def test_a_zoom_of_almost_nothing_is_a_straight_pan(rect: Rect, growth: float, u: float) -> None:
    assume(rect.x1 > 0.01 and rect.x2 < 0.99)
    end = Rect(rect.x1 - 0.01, rect.y1, rect.x2 - 0.01 + growth * rect.width, rect.y2)
    view = CameraPath(rect, end, Easing.linear).view(u)
    assert view.x1 == pytest.approx(rect.x1 - 0.01 * u, abs=1e-11)


@given(paths(), SHARES)
def test_the_fixed_point_of_a_zoom_stands_still(path: CameraPath, u: float) -> None:
    (ax1, _, ax2, _), (bx1, _, bx2, _) = path.start, path.end
    narrowing = (ax2 - ax1) - (bx2 - bx1)
    assume(abs(narrowing) > 0.01)
    on_screen = (bx1 - ax1) / narrowing
    fixed = ax1 + on_screen * (ax2 - ax1)
    view = path.view(u)
    assert view.x1 + on_screen * view.width == pytest.approx(fixed, abs=1e-9)


@given(paths(), st.integers(2, 400))
def test_the_first_frame_sees_the_start_and_the_last_the_end(path: CameraPath, frames: int) -> None:
    views = list(path.views(frames))
    assert (len(views), views[0], views[-1]) == (frames, path.start, path.end)
    assert views[frames // 2] == path.view(frames // 2 / (frames - 1))


def test_a_single_frame_sees_the_start_and_no_frame_sees_nothing() -> None:
    path = CameraPath(FULL, Rect(0.25, 0.25, 0.75, 0.75))
    assert list(path.views(1)) == [FULL]
    assert list(path.views(0)) == []


def test_a_view_without_area_is_refused() -> None:
    with pytest.raises(ValueError, match="x1 < x2"):
        CameraPath(FULL, Rect(0.5, 0.5, 0.5, 0.7))


@given(EASINGS, SHARES, SHARES)
def test_an_easing_is_monotone_from_0_to_1(easing: Easing, u: float, v: float) -> None:
    assert (easing.at(0), easing.at(1)) == (0, 1)
    assert easing.at(min(u, v)) <= easing.at(max(u, v)) + 1e-15


@given(EASINGS, st.floats(0.001, 0.999))
def test_the_slope_is_the_derivative(easing: Easing, u: float) -> None:
    assert easing.slope(u) == pytest.approx((easing.at(u + 1e-6) - easing.at(u - 1e-6)) / 2e-6, abs=1e-6)
    assert easing.slope(u) <= easing.peak_slope


@pytest.mark.parametrize("easing", Easing)
def test_the_peak_slope_is_reached(easing: Easing) -> None:
    assert max(easing.slope(n / 100) for n in range(101)) == pytest.approx(easing.peak_slope)


def test_the_default_easing_is_smoothstep() -> None:
    assert CameraPath(FULL, FULL).easing is Easing.ease_in_out
    assert [Easing.ease_in_out.at(u) for u in (0.25, 0.5, 0.75)] == [0.15625, 0.5, 0.84375]


def seen_at(view: Rect, x: float, y: float) -> tuple[float, float]:
    """Where a point of the image is on screen, 0..1 of the picture."""
    return (x - view.x1) / view.width, (y - view.y1) / view.height


@given(paths(), st.floats(0.01, 0.99), SHARES, SHARES)
def test_no_visible_point_is_faster_than_the_speed(path: CameraPath, u: float, across: float, down: float) -> None:
    """Any point in sight at ``u``, followed on screen through a short time about it."""
    dt = 1e-5
    view, before, after = (path.view(moment) for moment in (u, u - dt, u + dt))
    point = view.x1 + across * view.width, view.y1 + down * view.height
    moved = (abs(b - a) / (2 * dt) for a, b in zip(seen_at(before, *point), seen_at(after, *point), strict=True))
    assert max(moved) <= path.speed(u) * (1 + 1e-4) + 1e-6
    assert path.speed(u) <= path.peak_speed


@given(paths(), st.floats(0.01, 0.99))
def test_some_corner_is_as_fast_as_the_speed(path: CameraPath, u: float) -> None:
    dt = 1e-5
    view, before, after = (path.view(moment) for moment in (u, u - dt, u + dt))
    fastest = max(
        abs(b - a) / (2 * dt)
        for corner in ((view.x1, view.y1), (view.x2, view.y2))
        for a, b in zip(seen_at(before, *corner), seen_at(after, *corner), strict=True)
    )
    assert fastest == pytest.approx(path.speed(u), rel=1e-4, abs=1e-6)


def test_the_speed_of_a_pan_and_of_a_zoom_worked_out_by_hand() -> None:
    pan = CameraPath(Rect(0.0, 0.2, 0.5, 0.7), Rect(0.25, 0.2, 0.75, 0.7), Easing.linear)
    assert pan.peak_speed == pytest.approx(0.5)  # a quarter of the image is half a picture
    zoom = CameraPath(Rect(0.1, 0.1, 0.9, 0.9), Rect(0.3, 0.3, 0.7, 0.7))
    assert zoom.peak_speed == pytest.approx(1.5 * math.log(2) / 2)  # twice as large, about the centre


@given(rects(), SIZES, SIZES)
def test_a_fitted_view_has_the_outputs_shape_inside_and_about_the_same_centre(
    rect: Rect, image: Size, output: Size
) -> None:
    view = fit(rect, image, output)
    assert rect.x1 <= view.x1 < view.x2 <= rect.x2
    assert rect.y1 <= view.y1 < view.y2 <= rect.y2
    assert view.centre == pytest.approx(rect.centre, abs=1e-12)
    shape = (view.width * image[0]) / (view.height * image[1])
    assert shape == pytest.approx(output[0] / output[1], rel=1e-9)
    assert (view.x1, view.x2) == (rect.x1, rect.x2) or (view.y1, view.y2) == (rect.y1, rect.y2)  # the largest


@given(SIZES, st.integers(1, 4))
def test_a_view_of_the_right_shape_stays_as_it_is(size: Size, times: int) -> None:
    assert fit(FULL, size, (size[0] * times, size[1] * times)) == FULL


@given(paths(), SHARES)
def test_every_view_of_a_fitted_path_keeps_the_shape(path: CameraPath, u: float) -> None:
    view = path.view(u)
    assert view.width / view.height == pytest.approx(path.start.width / path.start.height, rel=1e-9)


@given(st.integers(0, 10_000), st.integers(1, 120))
def test_frames_round_half_up_on_the_decimal_that_was_written(milliseconds: int, fps: int) -> None:
    duration = Decimal(milliseconds) / 1000
    exact = duration * fps
    frames = frame_count(float(duration), fps)
    assert frames - Decimal("0.5") <= exact < frames + Decimal("0.5")


@pytest.mark.parametrize(
    ("duration", "fps", "frames"),
    [
        (6.0, 30, 180),
        (4.02, 25, 101),  # 100.5 exactly, although 4.02 * 25 is 100.49999999999999 in binary
        (1.15, 30, 35),
        (0.0, 30, 0),
        (5, Fraction(30000, 1001), 150),  # 149.85
        (4.004, Fraction(30000, 1001), 120),
    ],
)
def test_frames_of_well_known_cases(duration: float, fps: int | Fraction, frames: int) -> None:
    assert frame_count(duration, fps) == frames


class Drawn(BaseModel):
    """A model with a rectangle in it, as the contract's are."""

    rect: Rect


def test_a_rect_is_a_json_list_of_four_numbers() -> None:
    drawn = Drawn.model_validate_json('{"rect": [0.1, 0.2, 0.9, 0.8]}')
    assert drawn.rect == Rect(0.1, 0.2, 0.9, 0.8)
    assert drawn.model_dump_json() == '{"rect":[0.1,0.2,0.9,0.8]}'
    for wrong in ("[0.1, 0.2, 0.9]", "[0.1, 0.2, 0.9, 0.8, 1]", '["a", 0, 1, 1]', "0.5"):
        with pytest.raises(ValidationError):
            Drawn.model_validate_json(f'{{"rect": {wrong}}}')


def test_the_pace_is_even_under_linear_easing() -> None:
    path = CameraPath(Rect(0.0, 0.0, 0.9, 0.9), Rect(0.5, 0.5, 0.8, 0.8), Easing.linear)
    ratios = [b.width / a.width for a, b in pairwise(path.views(100))]
    assert max(ratios) - min(ratios) < 1e-12
