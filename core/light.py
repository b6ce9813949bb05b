"""The linear light of sRGB frames: averaged into cells, or of one pixel in four that speaks for a cell."""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

Frame = NDArray[np.uint8]
"""``(H, W, 3)`` sRGB."""
Plane = NDArray[np.float32]

_CODES = np.arange(256) / 255
LINEAR = np.where(_CODES <= 0.04045, _CODES / 12.92, ((_CODES + 0.055) / 1.055) ** 2.4)
"""The linear light of each code, 0..1, ``(256,)``, after IEC 61966-2-1."""
_LINEAR_16 = np.round(LINEAR * 65535).astype(np.uint16)
"""At most 1/131070 off: sixteen-bit integers are averaged several times as fast as floats."""
_LIGHT = _LINEAR_16 * np.float32(1 / 65535)
"""The same of what is not averaged, so that a pixel has one light wherever it is looked up."""

XYZ = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]])
"""From linear (R, G, B) to CIE (X, Y, Z), after the same standard."""


def linear_cells(frame: Frame, columns: int, rows: int) -> Plane:
    """The mean linear light of each of ``columns`` by ``rows`` cells, ``(rows, columns, 3)``, 0..1."""
    if frame.shape[:2] == (rows, columns):
        return np.asarray(cv2.LUT(np.ascontiguousarray(frame), _LIGHT), np.float32)
    return _averaged(frame, columns, rows) * np.float32(1 / 65535)


def linear_samples(frame: Frame, side: int) -> Plane:
    """The linear light of cells of ``side`` by ``side`` pixels, a power of two, ``(rows, columns, 3)``, 0..1.

    One pixel of four speaks for a cell: of every four by four, one in each row and one in each column. Stripes and
    boards of one pixel, of two and of four keep their shares in them, and their contrast, which no average would
    leave them. In larger cells a pixel is the mean of such as make up half a cell's side. A last cell of which less
    than half is there is left out; of others the frame's last row or column is repeated.
    """
    rows, columns = (max(1, round(length / side)) for length in frame.shape[:2])
    missing = [max(0, cells * side - length) for cells, length in zip((rows, columns), frame.shape[:2], strict=True)]
    frame = frame[: rows * side, : columns * side]
    if any(missing):
        frame = np.pad(frame, ((0, missing[0]), (0, missing[1]), (0, 0)), mode="edge")
    if side == 1:
        return linear_cells(frame, columns, rows)
    if side == 2:  # most clips: only what is looked at is looked up
        return linear_cells(_one_of_four(frame), columns, rows)
    return _one_of_four(_averaged(frame, 2 * columns, 2 * rows)) * np.float32(1 / 65535)


def _one_of_four(pixels: NDArray[Any]) -> NDArray[Any]:
    """Every fourth pixel, on a lattice known as the rotated grid, half as many rows and columns of them."""
    if pixels.strides[-1] != pixels.itemsize:  # an array of planes, or of BGR read backwards
        pixels = np.ascontiguousarray(pixels)
    whole = pixels.view(f"V{3 * pixels.itemsize}")[..., 0]  # copied as one thing, a pixel takes half the time
    picked = np.empty((whole.shape[0] // 2, whole.shape[1] // 2), whole.dtype)
    picked[0::2, 0::2] = whole[0::4, 0::4]
    picked[0::2, 1::2] = whole[1::4, 2::4]
    picked[1::2, 0::2] = whole[2::4, 1::4]
    picked[1::2, 1::2] = whole[3::4, 3::4]
    return picked.view(pixels.dtype).reshape(*picked.shape, 3)


def _averaged(frame: Frame, columns: int, rows: int) -> NDArray[np.uint16]:
    """The mean light of so many cells, 0..65535."""
    light = cv2.LUT(np.ascontiguousarray(frame), _LINEAR_16)
    if light.shape[:2] != (rows, columns):
        light = cv2.resize(light, (columns, rows), interpolation=cv2.INTER_AREA)
    return np.asarray(light, np.uint16)


def luminance(light: Plane) -> Plane:
    """Relative luminance Y, 0..1, ``(rows, columns)``, of linear light ``(rows, columns, 3)``."""
    return np.asarray(cv2.transform(light, XYZ[1:2]), np.float32)
