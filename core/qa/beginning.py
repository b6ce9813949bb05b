"""Inspects whether a clip begins with its keyframe."""

from __future__ import annotations

from core.errors import Finding, Severity
from core.fidelity import fidelity
from core.light import Frame
from core.qa.inspector import Inspection, Inspector, Seen
from core.qa.thresholds import FirstLimits


class Beginning(Inspector):
    """Compares the first frame with the one that was planned."""

    def __init__(self, expected: Frame, limits: FirstLimits) -> None:
        """``expected`` is ``(H, W, 3)`` of the clip's size."""
        self._expected = expected
        self._limits = limits
        self._said = Inspection()

    def add(self, seen: Seen) -> None:
        """Judge the first frame; the others are let pass."""
        if seen.number:
            return
        limits = self._limits
        if limits == FirstLimits(None, None):
            self._said.measures["first_frame"] = "not looked at: the preset says so"
            return
        found = fidelity(seen.frame, self._expected)
        self._said.measures["first_frame_ssim"] = round(found.ssim, 4)
        self._said.measures["first_frame_psnr"] = round(found.psnr, 2)
        alike = f"(SSIM {found.ssim:.3f}, PSNR {found.psnr:.1f} dB)"
        if _below(found.ssim, limits.error):
            self._find("error", "first_frame_other", f"The clip does not begin with its keyframe {alike}.",
                       found.ssim, limits.error)  # fmt: skip
        elif _below(found.ssim, limits.flag) or _below(found.psnr, limits.psnr):
            self._find("warning", "first_frame_differs", f"The first frame is not quite the keyframe's view {alike}.",
                       found.ssim, limits.flag)  # fmt: skip

    def _find(self, severity: Severity, code: str, message: str, value: float, limit: float | None) -> None:
        finding = Finding(code=code, message=message, severity=severity, value=value, limit=limit, frame=0)
        self._said.find(finding, [0])

    def finish(self) -> Inspection:
        """What was found in the first frame."""
        return self._said


def _below(value: float, limit: float | None) -> bool:
    return limit is not None and value < limit
