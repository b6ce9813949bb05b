"""New frames by optical flow, on scenes whose truth is known."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
from numpy.typing import NDArray

from core.camera import Camera
from core.interpolate.flow import Flow, is_cut
from core.interpolate.plan import Sample, plan
from core.motion import Rect

Frame = NDArray[np.uint8]
SIZE = (192, 128)


def _scene(seed: int = 0) -> Frame:
    """Detail at several scales, (384, 512, 3), as a photograph has it."""
    dice = np.random.default_rng(seed)
    layers = [np.kron(dice.normal(0, 30, (384 // k, 512 // k, 3)), np.ones((k, k, 1))) for k in (64, 32, 16, 8, 4)]
    return np.clip(sum(layers) + 128, 0, 255).astype(np.uint8)


def _seen(x: float, y: float = 0.1, width: float = 0.6) -> Frame:
    return np.array(Camera(_scene(), SIZE).render(Rect(x, y, x + width, y + width * 512 / 384 * SIZE[1] / SIZE[0])))


def _psnr(a: Frame, b: Frame) -> float:
    inner = (slice(8, -8), slice(8, -8))
    error = float(np.mean((a[inner].astype(float) - b[inner].astype(float)) ** 2))
    return 10 * np.log10(255**2 / error) if error else np.inf


def _between(a: Frame, b: Frame, *times: float) -> list[Frame]:
    return list(Flow().between(a, b, times))


@pytest.mark.parametrize("shift", [0.01, 0.03, 0.06], ids=lambda shift: f"{shift * SIZE[0] / 0.6:.0f} px")
@pytest.mark.parametrize("t", [0.25, 0.5, 0.8])
def test_a_moving_scene_is_where_it_should_be(shift: float, t: float) -> None:
    a, b, truth = _seen(0.1), _seen(0.1 + shift), _seen(0.1 + t * shift)
    (made,) = _between(a, b, t)
    blended = np.rint(a * (1 - t) + b * t).astype(np.uint8)
    assert _psnr(made, truth) > _psnr(blended, truth) + 4


def test_a_zooming_scene_is_where_it_should_be() -> None:
    a, b, truth = _seen(0.1, width=0.6), _seen(0.12, 0.12, 0.56), _seen(0.11, 0.11, 0.58)
    (made,) = _between(a, b, 0.5)
    assert _psnr(made, truth) > _psnr(np.rint((a.astype(float) + b) / 2).astype(np.uint8), truth) + 3


def test_what_stands_still_stays_bit_for_bit() -> None:
    a = _seen(0.1)
    assert all(np.array_equal(made, a) for made in _between(a, a.copy(), 0.25, 0.5, 0.75))


def test_two_shots_are_never_blended() -> None:
    a, b = _seen(0.1), 255 - np.array(Camera(_scene(5), SIZE).render(Rect(0.1, 0.1, 0.9, 0.9)))
    early, late = _between(a, b, 0.3, 0.7)
    assert np.array_equal(early, a)
    assert np.array_equal(late, b)


@pytest.mark.parametrize("seed", range(1, 7))
def test_a_cut_between_any_two_pictures_is_seen(seed: int) -> None:
    view = Rect(0.1, 0.1, 0.7, 0.7)
    a, b = (np.array(Camera(_scene(each), SIZE).render(view)) for each in (0, seed))
    assert is_cut(a, b)
    assert is_cut(b, a)
    assert np.array_equal(_between(a, b, 0.5)[0], b)


def test_a_flash_is_not_spread_over_its_neighbours() -> None:
    a = _seen(0.1)
    flash = np.clip(a.astype(int) + 110, 0, 255).astype(np.uint8)
    for before, after in ((a, flash), (flash, a)):
        early, late = _between(before, after, 0.4, 0.6)
        assert np.array_equal(early, before)
        assert np.array_equal(late, after)


def test_a_slow_fade_is_no_cut_and_goes_on_evenly() -> None:
    a = _seen(0.1)
    dimmed = [np.rint(a * share).astype(np.uint8) for share in (0.9, 0.85, 0.8)]
    assert not is_cut(dimmed[0], dimmed[2])
    (made,) = _between(dimmed[0], dimmed[2], 0.5)
    assert _psnr(made, dimmed[1]) > 40


@pytest.mark.parametrize("shift", [0.0, 0.03, 0.06])
def test_a_move_is_no_cut(shift: float) -> None:
    assert not is_cut(_seen(0.1), _seen(0.1 + shift))


def test_halves_go_up_as_codecs_have_it() -> None:
    a = np.full((64, 96, 3), 100, np.uint8)
    (made,) = _between(a, a + 1, 0.5)
    assert np.array_equal(made, a + 1)
    (made,) = _between(a, a + 1, 0.49)
    assert np.array_equal(made, a)


def test_what_is_taken_late_or_not_at_all_is_no_trouble() -> None:
    flow, a, b = Flow(), _seen(0.1), _seen(0.12)
    wanted = _between(a, b, 0.2, 0.4, 0.6, 0.8)
    first = flow.between(a, b, [0.2, 0.4, 0.6, 0.8])
    assert np.array_equal(next(first), wanted[0])
    larger = np.ascontiguousarray(np.pad(a, ((0, 16), (0, 0), (0, 0))))
    assert next(flow.between(larger, larger, [0.5])).shape == larger.shape
    assert all(map(np.array_equal, first, wanted[1:]))
    assert list(flow.between(a, b, [])) == []


def test_the_same_pair_gives_the_same_bytes() -> None:
    a, b = _seen(0.1), _seen(0.13)
    assert all(np.array_equal(x, y) for x, y in zip(_between(a, b, 0.3, 0.6), _between(a, b, 0.3, 0.6), strict=True))


def test_retime_passes_base_frames_through_and_makes_the_rest() -> None:
    base = np.stack([_seen(0.1 + 0.01 * number) for number in range(5)])
    samples = plan(5, 8, 0.5, 20)
    for sample, frame in zip(samples, Flow().clip(base, samples), strict=True):
        assert np.array_equal(frame, base[sample.source]) == (sample.t == 0)


def test_a_loop_leads_from_the_last_frame_to_the_first() -> None:
    base = np.stack([_seen(0.1), _seen(0.12)])
    (made,) = Flow().clip(base, [Sample(1, Fraction(1, 2))])
    assert _psnr(made, _seen(0.11)) > _psnr(base[1], _seen(0.11)) + 4
