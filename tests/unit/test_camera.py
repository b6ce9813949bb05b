"""The camera shows each view where it is, without aliasing, and the same on any number of threads."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from typing import overload

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.camera import path_error, scene
from core.camera import COLUMN_BITS, KEPT_BITS, MIDDLE, ROW_BITS, Camera, Pixels, _lanczos, shoot
from core.errors import Stopped
from core.motion import FULL, CameraPath, Rect, Size

ZOOM = CameraPath(Rect(0.1, 0.1, 0.9, 0.9), Rect(0.3, 0.22, 0.7, 0.62))
PAN = CameraPath(Rect(0.03, 0.2, 0.53, 0.7), Rect(0.41, 0.26, 0.91, 0.76))
SMALL = (96, 64)


def noise(*shape: int) -> Pixels:
    return np.random.default_rng(7).integers(0, 256, shape, dtype=np.uint8)


def film(picture: Pixels, path: CameraPath, frames: int, size: Size = SMALL, threads: int | None = None) -> Pixels:
    out = np.zeros((frames, size[1], size[0], 3), np.uint8)
    shoot(picture, list(path.views(frames)), out, threads=threads)
    return out


@pytest.mark.parametrize("path", [ZOOM, PAN], ids=["zoom", "pan"])
@pytest.mark.parametrize("output", [(288, 512), (512, 288)], ids=["portrait", "landscape"])
@pytest.mark.parametrize("source", [0.5, 1.5, 4.0], ids=["enlarged", "as it is", "made smaller"])
def test_the_picture_is_where_the_path_says(path: CameraPath, output: Size, source: float) -> None:
    picture = scene((round(output[0] * source), round(output[1] * source)))
    assert path_error(film(picture, path, 24, output), path.views(24)) <= 0.05


def test_the_instrument_sees_a_shift_of_a_tenth_of_a_pixel() -> None:
    """The test above could not fail otherwise."""
    width, height = 512, 288
    picture = scene((width, height))
    view = Rect(0.2, 0.2, 0.7, 0.7)
    shifted = Rect(0.2 + 0.05 / width, 0.2, 0.7 + 0.05 / width, 0.7)  # a tenth of a pixel on screen
    frame = Camera(picture, (width, height)).render(shifted)
    assert path_error([frame], [view]) == pytest.approx(0.1, abs=0.03)


@pytest.mark.parametrize("shape", [(64, 96, 3), (97, 33, 3)])
def test_the_whole_image_at_its_own_size_is_the_image(shape: tuple[int, int, int]) -> None:
    picture = noise(*shape)
    size = shape[1], shape[0]
    assert np.array_equal(Camera(picture, size).render(FULL), picture)
    assert np.array_equal(film(picture, CameraPath(FULL, FULL), 3, size), np.stack([picture] * 3))


@given(st.floats(0, 0.5), st.floats(0, 0.5), st.floats(0.05, 0.5), st.integers(0, 255))
def test_a_flat_image_is_flat_in_every_view(x: float, y: float, extent: float, level: int) -> None:
    picture = np.full((60, 80, 3), level, np.uint8)
    assert (Camera(picture, (50, 40)).render(Rect(x, y, x + extent, y + extent)) == level).all()


@given(st.floats(0, 0.5), st.floats(0, 0.5), st.floats(0.05, 0.5))
def test_the_mirrored_view_of_the_mirrored_image_is_the_mirrored_frame(x: float, y: float, extent: float) -> None:
    picture = noise(60, 80, 3)
    frame = Camera(picture, (50, 40)).render(Rect(x, y, x + extent, y + extent))
    mirrored = Camera(np.ascontiguousarray(picture[:, ::-1]), (50, 40)).render(
        Rect(1 - x - extent, y, 1 - x, y + extent)
    )
    assert np.abs(mirrored[:, ::-1].astype(int) - frame).max() <= 1


@pytest.mark.parametrize("period", [2, 3, 5], ids=lambda period: f"{period} px")
def test_detail_too_fine_to_show_turns_grey_and_does_not_alias(period: int) -> None:
    """Checks of the finest kinds at a sixth of their size, at a place off every grid."""
    row = (np.arange(960) % period) * (255 / (period - 1))
    checks = np.rint((row[:, None] + row[None, :]) % 255.5).astype(np.uint8)
    frame = Camera(np.repeat(checks[:, :, None], 3, axis=2), (140, 140)).render(Rect(0.0613, 0.0417, 0.9413, 0.9217))
    assert np.ptp(frame.astype(int)) <= 4
    assert abs(frame.mean() - checks.mean()) < 1.5


@given(st.floats(0, 100), st.floats(1, 12), st.sampled_from([ROW_BITS, COLUMN_BITS]))
def test_weights_are_balanced_whole_numbers_and_small_enough(place: float, width: float, bits: int) -> None:
    """What makes every sum exact, so that no BLAS can change a byte: see the bounds in ``core.camera``."""
    weights, pixels = _lanczos(np.array([place]), width, bits)
    assert (weights == np.rint(weights)).all()
    assert weights.sum() == 2**bits
    assert abs((weights * (pixels - place)).sum()) / 2**bits <= 0.01 * width  # a hundredth of a pixel on screen
    assert np.abs(weights).sum() <= 1.7 * 2**bits


def test_no_sum_needs_more_bits_than_a_float_has() -> None:
    kept = MIDDLE * 1.7 * 2**KEPT_BITS
    assert max(MIDDLE * 1.7 * 2**ROW_BITS, kept * 1.7 * 2**COLUMN_BITS) < 2**24


def test_threads_change_no_byte() -> None:
    picture = noise(130, 200, 3)
    alone = film(picture, ZOOM, 12, threads=1)
    assert all(np.array_equal(film(picture, ZOOM, 12, threads=threads), alone) for threads in (2, 3, 8))
    assert len(np.unique(alone.reshape(12, -1), axis=0)) == 12


def test_every_frame_of_a_moving_scene_gets_its_own_view() -> None:
    base = np.stack([noise(40, 60, 3) // 2 + 40 * t for t in range(3)])
    views = list(PAN.views(3))
    out = np.zeros((3, 64, 96, 3), np.uint8)
    shoot(base, views, out)
    for frame, image, view in zip(out, base, views, strict=True):
        assert np.array_equal(frame, Camera(image, SMALL).render(view))


def test_a_still_much_larger_than_needed_is_thinned_without_a_visible_trace() -> None:
    coarse = noise(60, 40, 3)
    picture = Camera(coarse, (1000, 1500)).render(FULL) // 2 + noise(1500, 1000, 3) // 2  # detail of all sizes
    view = Rect(0.07, 0.05, 0.97, 0.95)
    plain = Camera(picture, (80, 120)).render(view).astype(int)
    thinned = Camera(picture, (80, 120), [view]).render(view).astype(int)
    assert np.abs(thinned - plain).max() <= 3
    assert np.sqrt(np.mean((thinned - plain) ** 2)) < 0.7


def test_progress_only_grows_and_ends_at_1() -> None:
    fractions: list[float] = []
    out = np.zeros((9, 64, 96, 3), np.uint8)
    shoot(noise(64, 96, 3), list(ZOOM.views(9)), out, fractions.append)
    assert fractions == sorted(fractions)
    assert fractions[-1] == 1


class Held(Sequence[Rect]):
    """Views whose sixth no other thread can look up before the gate opens."""

    def __init__(self, views: list[Rect]) -> None:
        self.views, self.gate, self.owner = views, threading.Event(), threading.current_thread()

    def __len__(self) -> int:
        return len(self.views)

    def __iter__(self) -> Iterator[Rect]:
        return iter(self.views)

    @overload
    def __getitem__(self, index: int) -> Rect: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[Rect]: ...
    def __getitem__(self, index: int | slice) -> Rect | Sequence[Rect]:
        if index == 5 and threading.current_thread() is not self.owner:
            self.gate.wait(10)
        return self.views[index]


def test_a_report_that_raises_ends_the_work() -> None:
    views = Held(list(ZOOM.views(500)))
    out = np.zeros((500, 64, 96, 3), np.uint8)

    def stop(fraction: float) -> None:
        if fraction:
            views.gate.set()
            raise Stopped

    with pytest.raises(Stopped):
        shoot(noise(64, 96, 3), views, out, stop, threads=1)
    assert out[0].any()
    assert not out[-1].any()


def test_report_is_called_while_a_frame_takes_its_time() -> None:
    views = Held(list(ZOOM.views(6)))
    calls: list[float] = []

    def report(fraction: float) -> None:
        calls.append(fraction)
        if calls.count(calls[-1]) == 3:  # nothing new for two turns, and still we are called
            views.gate.set()

    out = np.zeros((6, 64, 96, 3), np.uint8)
    shoot(noise(64, 96, 3), views, out, report, threads=1)
    assert calls[-1] == 1
    assert calls.count(5 / 6) >= 3


def test_a_view_outside_the_image_is_refused() -> None:
    out = np.zeros((1, 64, 96, 3), np.uint8)
    with pytest.raises(ValueError, match="not a view"):
        shoot(noise(64, 96, 3), [Rect(0.5, 0.5, 1.1, 1.0)], out)


@pytest.mark.parametrize(("views", "frames", "scene_shape"), [(3, 2, (8, 8, 3)), (2, 2, (3, 8, 8, 3))])
def test_lengths_must_agree(views: int, frames: int, scene_shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="do not fill"):
        shoot(noise(*scene_shape), [FULL] * views, np.zeros((frames, 4, 4, 3), np.uint8))
