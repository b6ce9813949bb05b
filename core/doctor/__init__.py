"""Everything that would make tonight's run fail, each with its remedy."""

from core.doctor import alive, boot, clock, disk, folders, gpu, link, macos, programs, watching, weights
from core.doctor.examination import examine
from core.doctor.result import Patient, Result, Verdict

CHECKS = (
    *folders.CHECKS,
    *macos.CHECKS,
    *disk.CHECKS,
    *watching.CHECKS,
    *programs.CHECKS,
    *gpu.CHECKS,
    *weights.CHECKS,
    *link.CHECKS,
    *clock.CHECKS,
    *alive.CHECKS,
    *boot.CHECKS,
)
"""In the order in which they are run and shown."""

__all__ = ["CHECKS", "Patient", "Result", "Verdict", "examine"]
