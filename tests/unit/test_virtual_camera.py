"""The camera that films a model's frames: where it looks, what it puts down, and how it goes about it."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.camera import path_error, scene
from core.camera import Camera, Pixels
from core.errors import Stopped
from core.interpolate.filmed import THREADS, canvas_views, film, shows_all
from core.motion import FULL, CameraPath, Rect, on_canvas
from core.work import unwatched

PATH = CameraPath(Rect(0.2, 0.15, 0.8, 0.75), Rect(0.3, 0.3, 0.6, 0.6))
CANVAS_VIEW = Rect(0.15, 0.1, 0.85, 0.8)


def noise(count: int, width: int, height: int) -> Pixels:
    return np.random.default_rng(3).integers(0, 256, (count, height, width, 3), dtype=np.uint8)


def test_the_path_over_a_canvas_is_the_path_over_the_keyframe() -> None:
    """Read from the pixels: a still canvas of the keyframe, filmed, shows what the keyframe shows along the path."""
    keyframe = scene((1024, 576))
    canvas = Camera(keyframe, (768, 432)).render(CANVAS_VIEW)
    views = canvas_views("virtual", PATH, CANVAS_VIEW, 12)
    out = np.zeros((12, 288, 512, 3), np.uint8)
    film(iter([canvas] * 12), views, out, unwatched)
    assert path_error(out, PATH.views(12)) <= 0.05


def test_the_ends_of_a_models_own_move_get_one_crop() -> None:
    views = canvas_views("endpoints", PATH, CANVAS_VIEW, 5)
    assert views == [on_canvas(PATH.start, CANVAS_VIEW)] * 5
    assert views[0] == pytest.approx((0.05 / 0.7, 0.05 / 0.7, 0.65 / 0.7, 0.65 / 0.7))


def test_there_is_no_third_means() -> None:
    with pytest.raises(ValueError, match="hand-held"):
        canvas_views("hand-held", PATH, FULL, 5)


share = st.floats(0, 0.3)


@given(share, share, share, share, st.floats(0.05, 0.6), st.floats(0.05, 0.6))
def test_no_view_leaves_the_canvas_that_holds_both_ends(
    x: float, y: float, x2: float, y2: float, width: float, height: float
) -> None:
    path = CameraPath(Rect(x, y, x + width, y + height), Rect(x2, y2, x2 + width / 2, y2 + height / 2))
    hull = Rect(min(x, x2), min(y, y2), max(x + width, x2 + width / 2), max(y + height, y2 + height / 2))
    for seen, there in zip(path.views(9), canvas_views("virtual", path, hull, 9), strict=True):
        assert 0 <= there.x1 < there.x2 <= 1
        assert 0 <= there.y1 < there.y2 <= 1
        assert hull.x1 + there.x1 * hull.width == pytest.approx(seen.x1)
        assert hull.y1 + there.y2 * hull.height == pytest.approx(seen.y2)


@given(share, share, st.floats(0.05, 0.6), st.floats(0.05, 0.6))
def test_a_canvas_seen_whole_is_seen_whole_to_the_bit(x: float, y: float, width: float, height: float) -> None:
    view = Rect(x, y, x + width, y + height)
    assert canvas_views("virtual", CameraPath(view, view), view, 3) == [FULL] * 3


def test_only_the_whole_canvas_at_its_own_size_needs_no_camera() -> None:
    assert shows_all([FULL, FULL], (64, 48), (64, 48))
    assert not shows_all([FULL, FULL], (64, 48), (32, 24))
    assert not shows_all([FULL, Rect(0, 0, 1, 0.9)], (64, 48), (64, 48))


def test_every_frame_is_filmed_in_one_resample_and_in_order() -> None:
    frames = noise(7, 96, 64)
    views = canvas_views("virtual", PATH, CANVAS_VIEW, 7)
    out = np.zeros((7, 36, 48, 3), np.uint8)
    told: list[float] = []
    film(iter(frames), views, out, told.append)
    assert all(
        np.array_equal(made, Camera(frame, (48, 36)).render(view))
        for made, frame, view in zip(out, frames, views, strict=True)
    )
    assert told == sorted(told)
    assert told[-1] == 1.0


def test_without_views_frames_are_put_down_as_they_are() -> None:
    frames = noise(5, 32, 16)
    out = np.zeros_like(frames)
    film(iter(frames), None, out, unwatched)
    assert np.array_equal(out, frames)


def test_few_frames_are_held_however_many_there_are() -> None:
    made, most, count = 0, 0, 40
    out = np.zeros((count, 16, 16, 3), np.uint8)

    def frames() -> Iterator[Pixels]:
        nonlocal made, most
        for number in range(count):
            made += 1
            most = max(most, made - int((out.max(axis=(1, 2, 3)) > 0).sum()))
            yield np.full((32, 32, 3), number + 1, np.uint8)

    film(frames(), [FULL] * count, out, unwatched)
    assert made == count
    assert most <= THREADS + 2
    assert (out[:, 0, 0, 0] == np.arange(1, count + 1)).all()


def test_reports_come_from_the_callers_thread_and_a_stop_ends_the_work() -> None:
    frames, out = noise(30, 64, 48), np.zeros((30, 48, 64, 3), np.uint8)
    caller = threading.get_ident()

    def report(fraction: float) -> None:
        assert threading.get_ident() == caller
        if fraction > 0.3:
            raise Stopped

    with pytest.raises(Stopped):
        film(iter(frames), [FULL] * 30, out, report)
    assert not out[-1].any()


def test_what_goes_wrong_in_a_thread_is_told() -> None:
    def frames() -> Iterator[Pixels]:
        yield from noise(2, 32, 32)
        raise OSError("the disk is gone")

    with pytest.raises(OSError, match="the disk is gone"):
        film(frames(), [FULL] * 5, np.zeros((5, 32, 32, 3), np.uint8), unwatched)
    with pytest.raises(ValueError, match="not a view"):
        film(iter(noise(2, 32, 32)), [Rect(0, 0, 1, 2)] * 2, np.zeros((2, 32, 32, 3), np.uint8), unwatched)
