"""Every motion rule holds just below its limit, fails just above it, and names a move that passes."""

from __future__ import annotations

import json
import math
import re
from fractions import Fraction
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from pydantic import ValidationError

from core.contract import Motion, MotionSidecar, parse
from core.errors import Finding
from core.limits import MotionLimits
from core.motion import FULL, CameraPath, Easing, MotionType, Rect, Size
from core.safety import SIDECAR_NAMES, Scene, check, nearest

LIMITS = MotionLimits()
WIDE: Size = (1920, 1080)
"""An image and an output of one shape, so large that nothing is soft."""
EXAMPLE = b"""{"keyframe": [0.0, 0.0, 1.0, 1.0], "motion_type": "zoom_in", "motion_intensity": 0.6,
 "start_frame": [0.1, 0.1, 0.9, 0.9], "end_frame": [0.3, 0.3, 0.7, 0.7], "duration_sec": 6.0}"""


def move(kind: str, start: tuple[float, ...], end: tuple[float, ...], seconds: float = 6.0, **more: Any) -> Motion:
    return Motion(type=MotionType(kind), start_rect=Rect(*start), end_rect=Rect(*end), duration_sec=seconds, **more)


def scene(picture: NDArray[np.uint8] | Size = (3840, 2160), output: Size = WIDE, fps: int = 30, **limits: Any) -> Scene:
    return Scene(picture, output, fps, MotionLimits(**limits))


def codes(motion: Motion, over: Scene) -> list[str]:
    return [finding.code for finding in check(motion, over)]


def only(motion: Motion, over: Scene) -> Finding:
    (finding,) = check(motion, over)
    return finding


def obey(motion: Motion, remedy: str) -> Motion:
    """The motion with a remedy's words carried out, as an operator would with an editor."""
    changed: dict[str, Any] = {}
    for field, value in re.findall(
        r"(?:[Ss]et|[Ll]engthen|[Ss]horten) (\w+) to (\[[^]]*\]|[\w.]+?)(?=\.$| and )", remedy
    ):
        changed[field] = json.loads(value) if value[0] in "[0123456789" else value
    assert changed, remedy
    return Motion.model_validate(motion.model_dump() | changed)


def step(left: int, right: int, at: float, size: Size = WIDE) -> NDArray[np.uint8]:
    """A picture of two grey levels, left and right of a line."""
    picture = np.full((size[1], size[0], 3), left, np.uint8)
    picture[:, round(at * size[0]) :] = right
    return picture


def test_the_designs_example_passes() -> None:
    sidecar = parse(MotionSidecar, EXAMPLE, "img_001.motion.json")
    motion = move(sidecar.motion_type, sidecar.start_frame, sidecar.end_frame, sidecar.duration_sec)
    picture = np.random.default_rng(1).integers(0, 256, (2304, 1296, 3), dtype=np.uint8)
    assert check(motion, scene(picture, (576, 1024))) == []
    assert nearest(motion, scene(picture, (576, 1024))) == motion


# The rectangles


@pytest.mark.parametrize(
    ("rect", "code", "value", "limit", "mended"),
    [
        ((0.9, 0.1, 0.1, 0.9), "rect_out_of_order", "[0.9, 0.1, 0.1, 0.9]", None, (0.1, 0.1, 0.9, 0.9)),
        ((0.1, 0.9, 0.9, 0.1), "rect_out_of_order", "[0.1, 0.9, 0.9, 0.1]", None, (0.1, 0.1, 0.9, 0.9)),
        ((0.4, 0.4, 1.2, 0.9), "rect_outside_image", 1.2, 1.0, (0.2, 0.4, 1.0, 0.9)),
        ((-0.1, 0.4, 0.7, 0.9), "rect_outside_image", -0.1, 0.0, (0.0, 0.4, 0.8, 0.9)),
        ((-0.1, -0.3, 1.5, 0.5), "rect_outside_image", 1.5, 1.0, (0.0, 0.0, 1.0, 0.5)),
    ],
)
def test_a_rectangle_that_cannot_be_used_is_put_right(
    rect: tuple[float, ...],
    code: str,
    value: float | str,
    limit: float | None,
    mended: tuple[float, ...],
) -> None:
    finding = only(move("zoom_in", (0, 0, 1, 1), rect), scene())
    assert (finding.code, finding.field, finding.value, finding.limit) == (code, "end_rect", value, limit)
    assert finding.frame == 179
    repaired = obey(move("zoom_in", (0, 0, 1, 1), rect), finding.remedy or "")
    assert repaired.end_rect == pytest.approx(mended)
    assert only(move("zoom_out", rect, (0, 0, 1, 1)), scene()).frame == 0


def test_the_edge_of_the_image_is_inside_and_a_hair_beyond_is_not() -> None:
    assert codes(move("static", (0, 0, 1, 1), (0, 0, 1, 1)), scene()) == []
    assert codes(move("static", (0, 0, 1.0000001, 1), (0, 0, 1, 1)), scene()) == ["rect_outside_image"]


def test_a_view_of_one_pixel_is_one_and_of_less_is_none() -> None:
    over = scene((1000, 1000), (100, 100), upscale_max=1000)
    one, less = (0.5, 0.5, 0.501, 0.501), (0.5, 0.5, 0.5009, 0.501)
    assert codes(move("static", one, one), over) == []
    finding = check(move("static", less, less), over)[0]
    assert (finding.code, finding.limit) == ("rect_without_area", 1.0)
    assert finding.value == pytest.approx(0.9)
    assert finding.remedy == "Draw it again."
    assert nearest(move("static", less, less), over) is None


def test_a_rectangle_wrong_in_two_ways_is_put_right_in_both() -> None:
    motion = move("zoom_in", (0, 0, 1, 1), (1.2, 0.9, 0.4, 0.4))
    found = check(motion, scene())
    assert [finding.code for finding in found] == ["rect_out_of_order", "rect_outside_image"]
    assert obey(motion, found[1].remedy or "").end_rect == pytest.approx((0.2, 0.4, 1.0, 0.9))


# The duration


@pytest.mark.parametrize(
    ("seconds", "code", "limit"),
    [(3.99, "duration_too_short", 4), (4.0, None, 0), (8.0, None, 0), (8.01, "duration_too_long", 8)],
)
def test_the_duration_keeps_within_its_limits(seconds: float, code: str | None, limit: float) -> None:
    motion = move("static", FULL, FULL, seconds)
    if code is None:
        assert codes(motion, scene()) == []
        return
    finding = only(motion, scene())
    assert (finding.code, finding.field, finding.value, finding.limit) == (code, "duration_sec", seconds, limit)
    assert obey(motion, finding.remedy or "").duration_sec == limit


# The shape


def test_a_view_of_another_shape_is_fitted_and_that_is_noted() -> None:
    motion = move("static", (0, 0, 0.5, 1), (0, 0, 0.5, 1))
    finding = only(motion, scene())
    assert (finding.code, finding.severity, finding.value) == ("view_fitted", "note", 0.5)
    assert obey(motion, finding.remedy or "").start_rect == (0, 0.25, 0.5, 0.75)
    assert nearest(motion, scene()) == motion


@pytest.mark.parametrize(("off", "refused"), [(0.0009, False), (-0.0009, False), (0.0011, True), (-0.0011, True)])
def test_a_view_off_the_shape_by_more_than_a_thousandth_may_be_refused(off: float, refused: bool) -> None:
    drawn = (0, 0, 0.5 * (1 + off), 0.5)
    motion = move("static", drawn, drawn)
    over = scene(shape_rule="refuse")
    assert codes(motion, over) == (["view_shape"] if refused else [])
    if refused:
        assert codes(obey(motion, only(motion, over).remedy or ""), over) == []


def test_the_frame_where_the_shape_is_first_lost_is_named() -> None:
    motion = move("zoom_in", (0, 0, 1, 1), (0.2, 0.2, 0.8, 0.7), 8)
    finding = check(motion, scene(shape_rule="refuse"))[0]
    path = motion.path
    shapes = [view.width / view.height for view in path.views(240)]
    assert finding.frame is not None
    assert shapes[finding.frame - 1] <= 1.001 < shapes[finding.frame]


# The word


LEFT, RIGHT, CLOSE = (0.1, 0.3, 0.6, 0.8), (0.3, 0.3, 0.8, 0.8), (0.35, 0.4, 0.65, 0.7)


@pytest.mark.parametrize(
    ("kind", "start", "end", "true"),
    [
        ("zoom_in", RIGHT, CLOSE, "zoom_in"),
        ("zoom_out", RIGHT, CLOSE, "zoom_in"),
        ("zoom_in", CLOSE, RIGHT, "zoom_out"),
        ("pan_left", RIGHT, LEFT, "pan_left"),
        ("pan_right", RIGHT, LEFT, "pan_left"),
        ("pan_left", LEFT, RIGHT, "pan_right"),
        ("pan_left", LEFT, CLOSE, "pan_right"),  # it zooms as well; the word stays in its family
        ("static", LEFT, RIGHT, "pan_right"),
        ("static", RIGHT, CLOSE, "zoom_in"),
        ("zoom_in", LEFT, LEFT, "static"),
        ("pan_left", LEFT, LEFT, "static"),
    ],
)
def test_a_type_must_be_true_of_its_views(kind: str, start: Any, end: Any, true: str) -> None:
    motion = move(kind, start, end, 8)
    if kind == true:
        assert codes(motion, scene()) == []
        return
    finding = only(motion, scene())
    assert (finding.code, finding.field, finding.value) == ("type_contradicts_views", "type", kind)
    assert finding.remedy == f"Set type to {true}."


@pytest.mark.parametrize(("share", "moves"), [(0.0009, False), (0.0011, True)])
def test_a_movement_of_a_thousandth_is_where_moving_begins(share: float, moves: bool) -> None:
    aside = (0.3 - share / 2, 0.3, 0.8 - share / 2, 0.8)
    assert codes(move("static", RIGHT, aside), scene()) == (["type_contradicts_views"] if moves else [])
    assert codes(move("pan_left", RIGHT, aside), scene()) == ([] if moves else ["type_contradicts_views"])
    closer = (0.3 + share / 4, 0.3 + share / 4, 0.8 - share / 4, 0.8 - share / 4)
    assert codes(move("zoom_in", RIGHT, closer), scene()) == ([] if moves else ["type_contradicts_views"])
    assert codes(move("zoom_out", closer, RIGHT), scene()) == ([] if moves else ["type_contradicts_views"])


def test_a_tilt_has_no_word_and_gets_a_hint_of_zoom() -> None:
    motion = move("pan_left", RIGHT, (0.3, 0.2, 0.8, 0.7), 8)
    repaired = obey(motion, only(motion, scene()).remedy or "")
    assert repaired.type == "zoom_in"
    assert repaired.end_rect == pytest.approx(motion.end_rect, abs=0.001)
    assert codes(repaired, scene()) == []


# The detail


def test_a_view_is_enlarged_up_to_its_limit() -> None:
    over = scene((1600, 900), (1600, 900), upscale_max=2.0)
    half, less = (0.3, 0.3, 0.8, 0.8), (0.3, 0.3, 0.798, 0.798)
    assert codes(move("static", half, half), over) == []
    finding = only(move("static", less, less), over)
    assert (finding.code, finding.severity, finding.frame) == ("view_upscaled", "warning", 0)
    assert finding.value == pytest.approx(2.008, abs=1e-4)
    assert codes(obey(move("static", less, less), finding.remedy or ""), over) == []


def test_an_image_too_small_for_any_view_must_be_a_larger_one() -> None:
    finding = only(move("static", FULL, FULL), scene((640, 360), (1920, 1080)))
    assert finding.remedy == "Use an image 1.50 times as wide and high."


def test_the_frame_where_softness_begins_is_named() -> None:
    motion = move("zoom_in", (0, 0, 1, 1), (0.3, 0.3, 0.7, 0.7), 8)
    finding = only(motion, scene((1600, 900), (1600, 900)))
    widths = [view.width for view in motion.path.views(240)]
    assert finding.frame is not None
    assert widths[finding.frame] < 0.5 <= widths[finding.frame - 1]


# The speed


def pan(distance: float, seconds: float, easing: Easing, kind: str = "pan_right") -> Motion:
    """A pan by so much of its own view, a quarter of the image wide."""
    end = (0.1 + 0.25 * distance, 0.4, 0.35 + 0.25 * distance, 0.65)
    return move(kind, (0.1, 0.4, 0.35, 0.65), end, seconds, easing=easing)


@pytest.mark.parametrize(("easing", "slope"), [("linear", 1), ("ease_in", 2), ("ease_out", 2), ("ease_in_out", 1.5)])
@pytest.mark.parametrize("fps", [24, 30, 60])
def test_a_pan_is_judged_by_its_fastest_moment(easing: Easing, slope: float, fps: int) -> None:
    seconds = (5 * fps - 1) / fps  # from the first frame to the last
    just = 0.2 * seconds / slope
    assert codes(pan(just * 0.999, 5, easing), scene(fps=fps)) == []
    finding = only(pan(just * 1.001, 5, easing), scene(fps=fps))
    assert (finding.code, finding.limit) == ("motion_too_fast", 0.2)
    assert finding.value == pytest.approx(0.2002)


@pytest.mark.parametrize(("factor", "passes"), [(0.999, True), (1.001, False)])
def test_a_zoom_is_judged_by_the_edge_of_the_picture(factor: float, passes: bool) -> None:
    seconds = 179 / 30
    zoom = math.exp(-0.2 * seconds / 1.5 * 2 * factor)  # about the centre: half of ln(zoom) is the edge's way
    motion = move("zoom_in", (0, 0, 1, 1), (0.5 - zoom / 2, 0.5 - zoom / 2, 0.5 + zoom / 2, 0.5 + zoom / 2))
    assert codes(motion, scene(upscale_max=9)) == ([] if passes else ["motion_too_fast"])


def test_each_axis_counts_by_its_own_extent() -> None:
    """Up a tenth of the image is a tenth of the picture's height, whatever its width."""
    down = move("zoom_in", (0, 0, 1, 0.5), (0.0, 0.4, 0.998, 0.899), 4, easing=Easing.linear)
    tall = scene((1000, 4000), (1000, 2000), upscale_max=9)
    assert only(down, tall).value == pytest.approx(0.8 / (119 / 30), rel=0.01)


def sampled_speed(path: CameraPath, frames: int, fps: int) -> float:
    """The fastest step of any corner from one frame to the next, in pictures a second."""
    fastest = 0.0
    views = list(path.views(frames))
    for a, b in pairwise(views):
        for x, y in ((a.x1, a.y1), (a.x2, a.y2), (b.x1, b.y1), (b.x2, b.y2)):
            across = (x - b.x1) / b.width - (x - a.x1) / a.width
            down = (y - b.y1) / b.height - (y - a.y1) / a.height
            fastest = max(fastest, abs(across), abs(down))
    return fastest * fps


def test_the_value_is_the_speed_that_the_frames_show() -> None:
    motion = move("zoom_in", (0.05, 0.1, 0.95, 1.0), (0.4, 0.3, 0.6, 0.5), 4)
    finding = only(motion, scene(fps=120, upscale_max=9))
    assert finding.value == pytest.approx(sampled_speed(motion.path, 480, 120), rel=0.01)
    views = list(motion.path.views(480))
    assert finding.frame is not None
    around = CameraPath(views[finding.frame - 1], views[finding.frame + 1], Easing.linear)
    assert sampled_speed(around, 3, 120) == pytest.approx(0.2, rel=0.03)


def test_a_move_too_fast_is_lengthened_by_tenths_as_little_as_will_do() -> None:
    motion = pan(0.8, 4, Easing.ease_in_out)
    finding = only(motion, scene())
    assert finding.remedy == "Lengthen duration_sec to 6.1."  # 1.5 x 0.8 / 0.2 s between first and last frame
    assert codes(motion.model_copy(update={"duration_sec": 6.0}), scene()) == ["motion_too_fast"]
    assert codes(obey(motion, finding.remedy), scene()) == []


def test_a_move_too_fast_at_any_length_ends_earlier() -> None:
    motion = pan(2.0, 4, Easing.ease_in_out)
    repaired = obey(motion, only(motion, scene()).remedy or "")
    assert repaired.duration_sec == 8
    assert codes(repaired, scene()) == []
    whole, part = motion.end_rect.x1 - 0.1, repaired.end_rect.x1 - 0.1
    assert part == pytest.approx(whole * (0.2 * 239 / 30 / 1.5) / 2.0, abs=0.002 * whole)


# The luminance


def linear(level: int) -> float:
    """Relative luminance of a grey level (WCAG 2.2)."""
    c = level / 255
    return c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4


@given(st.floats(0, 0.6), st.floats(0, 0.6), st.floats(0.02, 0.4), st.floats(0.02, 0.4))
def test_the_luminance_of_a_view_is_exact_between_pixels(x: float, y: float, width: float, height: float) -> None:
    rng = np.random.default_rng(3)
    picture = rng.integers(0, 256, (9, 16, 3), dtype=np.uint8)
    fine = np.array([[linear(int(level)) for level in row] for row in picture.reshape(-1, 3)]) @ [
        0.2126,
        0.7152,
        0.0722,
    ]
    columns = np.clip(np.minimum(x + width, (np.arange(16) + 1) / 16) - np.maximum(x, np.arange(16) / 16), 0, None)
    rows = np.clip(np.minimum(y + height, (np.arange(9) + 1) / 9) - np.maximum(y, np.arange(9) / 9), 0, None)
    expected = rows @ fine.reshape(9, 16) @ columns / (width * height)
    view = (x, y, x + width, y + height)
    motion = move("static", view, view)
    output = round(width * 16 * 1000), round(height * 9 * 1000)
    assert scene(picture, output).luminance(motion) == pytest.approx(expected, rel=1e-3, abs=1e-3)


def swept(left: int, right: int, kind: str, seconds: float = 4.0) -> tuple[Motion, Scene]:
    """A view that crosses the line between two levels, for ever faster than the speed limit would let it."""
    there, here = (0.5, 0.2, 0.75, 0.45), (0.0, 0.2, 0.25, 0.45)
    motion = move(kind, *((here, there) if kind == "pan_right" else (there, here)), seconds, easing=Easing.linear)
    return motion, scene(step(left, right, 0.5, (480, 270)), (480, 270), fps=10, speed_max=9, upscale_max=9)


def test_a_step_between_frames_is_an_error_and_counts_from_the_darker() -> None:
    motion, over = swept(120, 255, "pan_right")
    steps = scene(over.picture, over.output_size, fps=10, speed_max=9, upscale_max=9, luminance_swing_max=99)
    trace = over.luminance(motion)
    worst = max(abs(b - a) / min(a, b) for a, b in pairwise(trace))
    for limit, found in ((worst * 1.001, []), (worst * 0.999, ["luminance_step"])):
        limited = steps.limits.model_copy(update={"luminance_step_max": limit})
        assert codes(motion, Scene(over.picture, over.output_size, 10, limited)) == found
    limited = steps.limits.model_copy(update={"luminance_step_max": worst * 0.999})
    finding = only(motion, Scene(over.picture, over.output_size, 10, limited))
    assert finding.severity == "error"
    assert finding.value == pytest.approx(worst, abs=1e-4)
    assert finding.frame is not None
    assert abs(trace[finding.frame] - trace[finding.frame - 1]) / trace[finding.frame - 1] == pytest.approx(worst)


def test_there_and_back_are_judged_alike() -> None:
    values = [{f.code: f.value for f in check(*swept(40, 255, kind))} for kind in ("pan_right", "pan_left")]
    assert values[0] == values[1]
    assert set(values[0]) == {"luminance_step", "luminance_swing"}


def test_a_swing_within_any_second_is_a_warning() -> None:
    motion, over = swept(100, 255, "pan_right")
    trace = over.luminance(motion)
    worst = max(abs(a - b) / min(a, b) for i, a in enumerate(trace) for b in trace[i : i + 11])
    finding = next(finding for finding in check(motion, over) if finding.code == "luminance_swing")
    assert (finding.severity, finding.limit) == ("warning", 0.30)
    assert finding.value == pytest.approx(worst, abs=1e-4)
    assert finding.frame is not None
    since = trace[finding.frame - 10 : finding.frame + 1]
    assert max(since) / min(since) > 1.3 >= max(trace[: finding.frame]) / min(trace[: finding.frame])


def test_in_the_dark_a_change_counts_from_the_floor() -> None:
    motion, over = swept(0, 60, "pan_right")
    trace = over.luminance(motion)
    assert trace[0] == 0
    worst = max(b - a for a, b in pairwise(trace)) / 0.05
    assert worst < 0.3
    assert codes(motion, over) == ["luminance_swing"]


def test_luminance_is_not_judged_where_no_pixels_are_known() -> None:
    motion, over = swept(0, 255, "pan_right")
    assert "luminance_step" in codes(motion, over)
    assert codes(motion, Scene((480, 270), over.output_size, 10, over.limits)) == []


# All of them


def test_findings_speak_the_language_of_the_file() -> None:
    motion = move("zoom_out", (0, 0, 1, 1), (0.2, 0.2, 0.8, 0.8), 3)
    fields = [(finding.field, finding.remedy) for finding in check(motion, scene(), SIDECAR_NAMES)]
    assert fields[0] == ("duration_sec", "Lengthen duration_sec to 4.")
    assert fields[1] == ("motion_type", "Set motion_type to zoom_in.")
    outside = check(move("static", (0, 0, 1, 1.1), (0, 0, 1, 1)), scene(), SIDECAR_NAMES)[0]
    assert (outside.field, (outside.remedy or "")[:19]) == ("start_frame", "Set start_frame to ")


def test_limits_know_no_other_fields_and_are_in_order() -> None:
    with pytest.raises(ValidationError):
        MotionLimits.model_validate({"speed": 1})
    with pytest.raises(ValidationError, match="duration_min"):
        MotionLimits(duration_min=5, duration_max=4)


@pytest.mark.parametrize("seconds", [0.01, 0.03, 0.05])
def test_a_clip_of_a_frame_or_none_is_judged_too(seconds: float) -> None:
    motion = move("zoom_in", (0, 0, 1, 1), (0.2, 0.2, 0.8, 0.8), seconds)
    found = codes(motion, scene(np.zeros((90, 160, 3), np.uint8), (160, 90)))
    assert found[0] == "duration_too_short"


def test_a_rate_need_not_be_whole() -> None:
    over = Scene((3840, 2160), WIDE, Fraction(30000, 1001), LIMITS)
    assert codes(pan(0.5, 6, Easing.linear), over) == []


COORDINATES = st.one_of(
    st.floats(0, 1),
    st.floats(-2, 3),
    st.sampled_from([0.0, 1.0, 1e308, -1e308, 5e-324, float("inf"), float("nan")]),
)
RECTS = st.builds(Rect, COORDINATES, COORDINATES, COORDINATES, COORDINATES)
NOISE = np.random.default_rng(5).integers(0, 256, (48, 64, 3), dtype=np.uint8)
NOISE[:, 30:] //= 8


@st.composite
def usable(draw: st.DrawFn) -> Rect:
    width, height = draw(st.floats(0.05, 1)), draw(st.floats(0.05, 1))
    x1, y1 = draw(st.floats(-0.2, 1.2)) * (1 - width), draw(st.floats(-0.2, 1.2)) * (1 - height)
    return Rect(x1, y1, x1 + width, y1 + height)


@st.composite
def scenes(draw: st.DrawFn) -> Scene:
    limits = MotionLimits(
        shape_rule=draw(st.sampled_from(["fit", "refuse"])),
        speed_max=draw(st.sampled_from([0.05, 0.2, 3.0])),
        luminance_step_max=draw(st.sampled_from([0.001, 0.05, 0.3])),
    )
    return Scene(NOISE, draw(st.sampled_from([(64, 48), (18, 32), (96, 54)])), draw(st.sampled_from([10, 30])), limits)


@st.composite
def motions(draw: st.DrawFn, rects: st.SearchStrategy[Rect]) -> Motion:
    return Motion.model_construct(
        type=draw(st.sampled_from(MotionType)),
        start_rect=draw(rects),
        end_rect=draw(rects),
        duration_sec=draw(st.sampled_from([0.02, 1.0, 4.0, 5.55, 8.0, 20.0])),
        easing=draw(st.sampled_from(Easing)),
    )


@settings(max_examples=50, deadline=None)
@given(motions(RECTS), scenes())
def test_whatever_is_drawn_nothing_is_raised(motion: Motion, over: Scene) -> None:
    check(motion, over)
    mended = nearest(motion, over)
    assert mended is None or not [f for f in check(mended, over) if f.severity == "error"]


@settings(max_examples=50, deadline=None)
@given(motions(usable()), scenes())
def test_the_nearest_move_passes_and_a_good_one_is_its_own(motion: Motion, over: Scene) -> None:
    mended = nearest(motion, over)
    assert mended is not None
    assert not [finding for finding in check(mended, over) if finding.severity == "error"]
    if not [finding for finding in check(motion, over) if finding.severity != "note"]:
        assert mended == motion


@settings(max_examples=50, deadline=None)
@given(motions(usable()), scenes())
def test_every_remedy_ends_its_own_finding(motion: Motion, over: Scene) -> None:
    for finding in check(motion, over):
        if finding.remedy and not finding.remedy.startswith(("Use an image", "Draw it again")):
            after = codes(obey(motion, finding.remedy), over)
            assert finding.code not in after, (finding, after)
