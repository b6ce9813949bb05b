"""What ``[encode] quality`` asks for, in words: a score to reach, a constant factor, or a number of bits."""

from __future__ import annotations

import re
from typing import Literal, NamedTuple, cast

Kind = Literal["vmaf", "crf", "bitrate"]

CRF_MIN, CRF_MAX = 16.0, 28.0
"""Below, files grow and nobody sees why; above, everybody sees why they are small."""
VMAF_MIN, VMAF_MAX = 60.0, 99.0
"""Below is broken; 100 is the frames themselves, which no file of ours is."""
BITRATE_MIN, BITRATE_MAX = 100_000.0, 400_000_000.0
"""Bits a second."""

_UNITS = {"": 1, "k": 1_000, "M": 1_000_000}
_LIMITS = {"vmaf": (VMAF_MIN, VMAF_MAX), "crf": (CRF_MIN, CRF_MAX), "bitrate": (BITRATE_MIN, BITRATE_MAX)}


class Quality(NamedTuple):
    """One way to say how good a file is to be."""

    kind: Kind
    value: float
    """A VMAF score, a constant rate factor, or bits a second."""

    def __str__(self) -> str:
        return f"{self.kind}:{self.value:.9g}"


def quality_of(text: str) -> Quality:
    """Read ``vmaf:95``, ``crf:23`` or ``bitrate:8M``. Raises ``ValueError`` that says what is allowed."""
    if not (match := re.fullmatch(r"(vmaf|crf|bitrate):([0-9]+(?:\.[0-9]+)?)([kM]?)", text)):
        raise ValueError(f"'{text}' is not of the form vmaf:95, crf:23 or bitrate:8M")
    kind, number, unit = match.groups()
    least, most = _LIMITS[kind]
    value = float(number) * _UNITS[unit]
    if unit and kind != "bitrate":
        raise ValueError(f"'{text}': only a bitrate has a unit")
    if not least <= value <= most:
        raise ValueError(f"'{text}' is not within {least:g} to {most:g}")
    return Quality(cast("Kind", kind), value)
