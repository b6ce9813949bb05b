"""The linear light of sRGB frames, averaged into cells."""

from __future__ import annotations

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

XYZ = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]])
"""From linear (R, G, B) to CIE (X, Y, Z), after the same standard."""


def linear_cells(frame: Frame, columns: int, rows: int) -> Plane:
    """The mean linear light of each of ``columns`` by ``rows`` cells, ``(rows, columns, 3)``, 0..1."""
    linear = cv2.LUT(np.ascontiguousarray(frame), _LINEAR_16)
    if linear.shape[:2] != (rows, columns):
        linear = cv2.resize(linear, (columns, rows), interpolation=cv2.INTER_AREA)
    light = linear.astype(np.float32)
    light *= np.float32(1 / 65535)
    return light


def luminance(light: Plane) -> Plane:
    """Relative luminance Y, 0..1, ``(rows, columns)``, of linear light ``(rows, columns, 3)``."""
    return np.asarray(cv2.transform(light, XYZ[1:2]), np.float32)
