"""SSIM and PSNR against values worked out by hand and against their properties."""

from __future__ import annotations

import math

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from core.fidelity import IDENTICAL_DB, fidelity

Frame = NDArray[np.uint8]


def noise(seed: int = 0, low: int = 0, high: int = 256) -> Frame:
    return np.random.default_rng(seed).integers(low, high, (48, 64, 3), dtype=np.uint8)


def soft(seed: int = 0) -> Frame:
    blobs = np.random.default_rng(seed).uniform(20, 235, (6, 8, 3))
    return np.asarray(cv2.resize(blobs, (64, 48), interpolation=cv2.INTER_CUBIC).clip(0, 255), np.uint8)


def flat(code: int) -> Frame:
    return np.full((48, 64, 3), code, np.uint8)


def test_the_same_frame_is_as_true_as_can_be() -> None:
    found = fidelity(noise(), noise())
    assert found.ssim == pytest.approx(1, abs=1e-6)
    assert found.psnr == IDENTICAL_DB


@pytest.mark.parametrize("codes", [(100, 110), (0, 255), (40, 41)])
def test_flat_frames_differ_in_luminance_alone(codes: tuple[int, int]) -> None:
    # Of the formula only (2 ab + C1)/(a² + b² + C1) is left, C1 = (0.01 · 255)², and the error is the same everywhere.
    a, b = codes
    found = fidelity(flat(a), flat(b))
    assert found.ssim == pytest.approx((2 * a * b + 6.5025) / (a * a + b * b + 6.5025), rel=1e-3)
    assert found.psnr == pytest.approx(20 * math.log10(255 / abs(a - b)))


def test_a_window_is_weighed_by_the_formula() -> None:
    # One window of 11 x 11, so one value: worked out from the definition with sums over the window.
    a, b = noise(1)[:11, :11], noise(2)[:11, :11]
    offset = np.arange(11) - 5
    gauss = np.exp(-(offset**2) / (2 * 1.5**2))
    weights = np.outer(gauss, gauss) / gauss.sum() ** 2
    x, y = (cv2.cvtColor(np.ascontiguousarray(f), cv2.COLOR_RGB2GRAY).astype(float) for f in (a, b))
    mean_x, mean_y = (weights * x).sum(), (weights * y).sum()
    var_x, var_y = (weights * (x - mean_x) ** 2).sum(), (weights * (y - mean_y) ** 2).sum()
    covariance = (weights * (x - mean_x) * (y - mean_y)).sum()
    c1, c2 = 2.55**2, 7.65**2
    expected = ((2 * mean_x * mean_y + c1) * (2 * covariance + c2)) / (
        (mean_x**2 + mean_y**2 + c1) * (var_x + var_y + c2)
    )
    assert fidelity(a, b).ssim == pytest.approx(expected, abs=1e-4)


def test_it_falls_as_the_fault_grows() -> None:
    frame = soft()
    blurred = [fidelity(np.asarray(cv2.GaussianBlur(frame, (0, 0), sigma)), frame) for sigma in (0.5, 1, 2, 4, 8)]
    assert [found.ssim for found in blurred] == sorted((found.ssim for found in blurred), reverse=True)
    assert [found.psnr for found in blurred] == sorted((found.psnr for found in blurred), reverse=True)


def test_another_picture_has_little_in_common() -> None:
    assert fidelity(soft(1), soft(2)).ssim < 0.5
    assert abs(fidelity(noise(1), noise(2)).ssim) < 0.1


def test_it_is_symmetric_and_sees_colour_in_the_error() -> None:
    a, b = soft(1), soft(2)
    there, back = fidelity(a, b), fidelity(b, a)
    assert there.ssim == pytest.approx(back.ssim)
    assert there.psnr == pytest.approx(back.psnr)
    tinted = flat(100)
    tinted[..., 2] = 130
    assert fidelity(tinted, flat(100)).psnr == pytest.approx(20 * math.log10(255 / math.sqrt(300)))


@pytest.mark.parametrize(("a", "b"), [((48, 64, 3), (48, 65, 3)), ((10, 64, 3), (10, 64, 3))])
def test_frames_that_cannot_be_compared_are_refused(a: tuple[int, ...], b: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="Frames of"):
        fidelity(np.zeros(a, np.uint8), np.zeros(b, np.uint8))
