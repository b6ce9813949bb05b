"""How true a frame is to the picture it ought to show."""

from __future__ import annotations

import math
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from core.light import Frame

_WINDOW, _SIGMA = 11, 1.5
_C1, _C2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
IDENTICAL_DB = 100.0
"""What stands for the infinite PSNR of two frames that are the same."""


@dataclass(frozen=True)
class Fidelity:
    """How alike two pictures are."""

    ssim: float
    """-1..1, 1 for the same structure."""
    psnr: float
    """dB, ``IDENTICAL_DB`` at most."""


def fidelity(frame: Frame, expected: Frame) -> Fidelity:
    """How alike two frames of one size are, ``(H, W, 3)`` uint8.

    Raises ``ValueError`` if they differ in shape or are smaller than the window of 11 pixels.
    """
    if frame.shape != expected.shape:
        raise ValueError(f"Frames of {frame.shape} and {expected.shape} cannot be compared.")
    if min(frame.shape[:2]) < _WINDOW:
        raise ValueError(f"Frames of {frame.shape} are smaller than the window of {_WINDOW} pixels.")
    return Fidelity(ssim=_ssim(_luma(frame), _luma(expected)), psnr=_psnr(frame, expected))


def _luma(frame: Frame) -> NDArray[np.float32]:
    return np.asarray(cv2.cvtColor(np.ascontiguousarray(frame), cv2.COLOR_RGB2GRAY), np.float32)


def similarity(a: NDArray[np.float32], b: NDArray[np.float32]) -> NDArray[np.float32]:
    """The structural similarity of two planes, 0..255, about every pixel, -1..1.

    Wang et al. 2004, "Image quality assessment: from error visibility to structural similarity", with the Gaussian
    window; half a window from the edge it reaches beyond, where the planes are mirrored.
    """

    def mean(plane: NDArray[np.float32]) -> NDArray[np.float32]:
        return np.asarray(cv2.GaussianBlur(plane, (_WINDOW, _WINDOW), _SIGMA), np.float32)

    # Variances are differences of large means; about the middle grey they lose the fewest digits.
    a, b = a - 128, b - 128
    mean_a, mean_b = mean(a), mean(b)
    variances = mean(a * a) - mean_a**2 + mean(b * b) - mean_b**2
    covariance = mean(a * b) - mean_a * mean_b
    mean_a, mean_b = mean_a + 128, mean_b + 128
    similar = (2 * mean_a * mean_b + _C1) * (2 * covariance + _C2)
    return np.asarray(similar / ((mean_a**2 + mean_b**2 + _C1) * (variances + _C2)), np.float32)


def _ssim(a: NDArray[np.float32], b: NDArray[np.float32]) -> float:
    """The mean similarity of two planes, over all windows that lie within them."""
    inside = slice(_WINDOW // 2, -(_WINDOW // 2))
    return float(np.mean(similarity(a, b)[inside, inside], dtype=np.float64))


def _psnr(a: Frame, b: Frame) -> float:
    """10 log10(255² / MSE) over all three channels, in dB."""
    squared = cv2.norm(np.ascontiguousarray(a), np.ascontiguousarray(b), cv2.NORM_L2SQR)
    return min(IDENTICAL_DB, 10 * math.log10(255**2 * a.size / squared)) if squared else IDENTICAL_DB
