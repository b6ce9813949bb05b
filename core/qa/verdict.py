"""Judges a clip's frames against its plan, in one pass, and says what is wrong in a person's words."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field

from core import fsops
from core.contract import QaReport
from core.errors import Finding, Severity
from core.fidelity import fidelity
from core.qa.achieved import achieved_path
from core.qa.artifacts import TILES, Artifacts, Swing, difference
from core.qa.flashes import LIMIT, FlashReport, Place, Screening, Standard
from core.qa.planned import FirstLimits, Planned
from core.qa.sheet import Moment, contact_sheet
from core.work import Report, unwatched

SHEET = "qa_sheet.png"


class QaThresholds(BaseModel):
    """What a clip may show. A clip with an error fails, one with a warning is flagged for a human."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    standard: Standard = "trace24"
    """What the frames are screened against for flashes; ``docs/explanation/flashes.md``."""
    black_max: float = Field(default=0.005, ge=0, le=1)
    """Relative luminance. A frame that is darker in the mean is black: a code of 16 of 255, where a TV's black lies."""
    black_planned_min: float = Field(default=0.02, ge=0, le=1)
    """Relative luminance. Where the keyframe's view is darker in the mean, the clip may be black."""
    swing_max: float = Field(default=0.5, gt=0, le=1)
    """Share of the brighter frame's mean luminance that may come or go in one frame, in the whole frame or one of
    sixteen tiles. Camera moves over stills stay below 0.01, a frame of half the light is above (measured)."""
    swing_back_frames: int = Field(default=3, ge=1)
    """Frames within which a swing comes back if it is a flash and not a cut: 100 ms at 30 fps."""
    repeat_difference_max: float = Field(default=0.25, gt=0)
    """Codes of 255. Two frames whose mean absolute difference is smaller are one frame shown twice: a quarter of a
    code is what rounding makes of nothing."""
    repeat_frames: int = Field(default=3, ge=1)
    """How many frames that repeat the one before make a fault."""
    repeat_motion_min: float = Field(default=0.5, gt=0)
    """Pixels a frame. A camera slower than that may show one frame twice."""
    first_ssim_min: float = Field(default=0.95, ge=0, le=1)
    """SSIM of the first frame and the keyframe's view; less is flagged. Clean clips have 0.97 in the median."""
    first_ssim_same: float = Field(default=0.5, ge=0, le=1)
    """The same; less is another picture, and fails."""
    first_psnr_min: float = Field(default=30.0, ge=0)
    """dB, of the first frame and the keyframe's view; less is flagged: an error of eight codes."""

    @property
    def first(self) -> FirstLimits:
        """What the first frame of a filmed still is held against."""
        return FirstLimits(self.first_ssim_same, self.first_ssim_min, self.first_psnr_min)


def judge(
    frames: NDArray[np.uint8],
    fps: float | Fraction,
    planned: Planned,
    thresholds: QaThresholds,
    *,
    flags: Sequence[Finding] = (),
    evidence: Path | None = None,
    report: Report = unwatched,
) -> QaReport:
    """Judge ``frames``, ``(T, H, W, 3)`` uint8, often a memory map, which are read once, in order.

    ``flags`` is what earlier stages found, and counts as if it had been found here. Where there is something to show,
    a contact sheet is put into the folder ``evidence``, if one is given.
    ``report`` is called at least every 100 ms; what it raises ends the work, and nothing is left behind.
    """
    case = _Case(frames, float(fps), planned, thresholds, flags)
    if case.readable():
        case.look(report)
    shown = bool(evidence and case.moments)
    if evidence and shown:
        report(1.0)
        fsops.write(evidence / SHEET, contact_sheet(case.moments, planned.first))
    severities = {finding.severity for finding in case.findings}
    return QaReport(
        verdict="fail" if "error" in severities else "flag" if "warning" in severities else "pass",
        reasons=case.findings,
        measures=case.measures,
        screened=f"screened against {thresholds.standard}; not a certification",
        evidence=[SHEET] if shown else [],
    )


class _Case:
    """One clip's trial: the frames are looked at, and findings, measures and moments to show add up."""

    def __init__(
        self,
        frames: NDArray[np.uint8],
        fps: float,
        planned: Planned,
        limits: QaThresholds,
        flags: Sequence[Finding],
    ) -> None:
        self.findings = list(flags)
        self.measures: dict[str, float | int | str | None] = {}
        self.moments: list[Moment] = []
        self._frames = frames
        self._fps = fps
        self._planned = planned
        self._limits = limits
        self._flags = flags

    def readable(self) -> bool:
        """Whether these are frames at all, and of the planned size."""
        frames, first = self._frames, self._planned.first
        size = frames.shape[1:] if first is None else first.shape
        if np.issubdtype(frames.dtype, np.floating) and not all(np.isfinite(frame).all() for frame in frames):
            self._find("error", "not_finite", "Some values are no numbers.")
        elif frames.dtype != np.uint8 or frames.ndim != 4 or frames.shape[1:] != size or size[-1] != 3:
            self._find("error", "frame_format", f"{frames.shape} {frames.dtype} is not (T, H, W, 3) uint8 of {size}.")
        elif not len(frames):
            self._find("error", "frame_count", f"There are no frames; {self._planned.frames} are planned.")
        return len(self.findings) == len(self._flags)

    def look(self, report: Report) -> None:
        """Go once through all frames, and judge what was seen."""
        frames, planned, limits = self._frames, self._planned, self._limits
        for flag in self._flags:
            self._show(flag.code, (0, len(frames) // 2, len(frames) - 1))
        screening = Screening(self._fps, limits.standard)
        artifacts = Artifacts(limits.repeat_difference_max)
        for number, frame in enumerate(frames):
            level = screening.add(frame)
            moves = planned.motion(number) > limits.repeat_motion_min
            artifacts.add(frame, level, planned.step(number) if moves else None)
            report((number + 1) / len(frames) * (0.8 if planned.asked else 1))
        self._count()
        self._first()
        self._path(report)
        self._black(artifacts.levels)
        self._repeats(artifacts.repeats)
        self._lifeless()
        self._swings(artifacts.swings(limits.swing_max, limits.swing_back_frames))
        self._flashes(screening.report())

    def _count(self) -> None:
        made, planned = len(self._frames), self._planned.frames
        self.measures["frames"] = made
        if made != planned:
            message = f"There are {made} frames; {planned} are planned."
            self._find("error", "frame_count", message, value=made, limit=planned)

    def _first(self) -> None:
        if self._planned.first is None:
            return
        limits = self._planned.first_limits or self._limits.first
        if limits == FirstLimits(None, None):
            self.measures["first_frame"] = "not looked at: the preset says so"
            return
        found = fidelity(self._frames[0], self._planned.first)
        self.measures["first_frame_ssim"] = round(found.ssim, 4)
        self.measures["first_frame_psnr"] = round(found.psnr, 2)
        alike = f"(SSIM {found.ssim:.3f}, PSNR {found.psnr:.1f} dB)"
        if _below(found.ssim, limits.error):
            message = f"The clip does not begin with its keyframe {alike}."
            self._find("error", "first_frame_other", message, value=found.ssim, limit=limits.error, frame=0, show=[0])
        elif _below(found.ssim, limits.flag) or _below(found.psnr, limits.psnr):
            message = f"The first frame is not quite the keyframe's view {alike}."
            self._find("warning", "first_frame_differs", message, value=found.ssim, limit=limits.flag, frame=0,
                       show=[0])  # fmt: skip

    def _path(self, report: Report) -> None:
        asked = self._planned.asked
        if asked is None:
            return
        found = achieved_path(self._frames, asked.keyframe, self._planned.views, lambda done: report(0.8 + 0.2 * done))
        self.measures["path_error"] = found.error
        self.measures["path_error_frame"] = found.frame
        self.measures["path_measured"] = f"{len(found.errors)} of {found.sampled} frames"
        if found.error is not None and found.frame is not None and found.error > asked.flag:
            message = f"The camera is {found.error:.1%} of the picture from its path in frame {found.frame}."
            self._find("warning", "path_missed", message, value=found.error, limit=asked.flag, frame=found.frame,
                       show=[found.frame])  # fmt: skip
        if len(found.errors) < found.sampled / 2:
            message = (
                f"Whether the camera keeps to its path is not known: only {len(found.errors)} of {found.sampled} "
                "frames could be found in the keyframe."
            )
            self._find("warning", "path_unmeasured", message, value=len(found.errors), limit=found.sampled / 2)

    def _black(self, levels: NDArray[np.float32]) -> None:
        self.measures["luminance_min"] = round(float(levels.min()), 4)
        self.measures["luminance_max"] = round(float(levels.max()), 4)
        planned = np.array(self._planned.levels[: len(levels)])
        dark = levels[: len(planned)] < self._limits.black_max
        black = np.flatnonzero(dark & (planned > self._limits.black_planned_min)).tolist()
        self.measures["black_frames"] = len(black)
        if black:
            message = f"{_named(black)} black, and the keyframe is not."
            self._find("error", "black_frames", message, value=len(black), limit=0, frame=black[0], show=black)

    def _repeats(self, repeats: list[int]) -> None:
        self.measures["repeated_frames"] = len(repeats)
        least = self._limits.repeat_frames
        frozen = [number for stretch in _stretches(repeats) if len(stretch) >= least for number in stretch]
        if frozen:
            message = f"{_named(frozen)} frozen, and the camera moves."
            show = [frozen[0] - 1, frozen[-1]]
            # A model may wait for a moment before it moves its camera; that a person can tell.
            severity: Severity = "warning" if self._planned.asked else "error"
            self._find(severity, "frozen_frames", message, value=len(frozen), frame=frozen[0], show=show)
        elif len(repeats) >= least:
            message = f"{_named(repeats)} as the one before, and the camera moves."
            show = [number for repeat in repeats for number in (repeat - 1, repeat)]
            self._find("warning", "repeated_frames", message, value=len(repeats), frame=repeats[0], show=show)

    def _lifeless(self) -> None:
        """A model whose camera is to stand still may be still for a while, but not from the first frame to the last."""
        frames, views = self._frames, self._planned.views
        if not self._planned.lives or len(frames) < 2 or any(view != views[0] for view in views):
            return
        apart = max(difference(frames[0], frames[at]) for at in np.linspace(0, len(frames) - 1, 9).astype(int))
        if apart < self._limits.repeat_difference_max:
            self._find("warning", "nothing_moves", "The model made a still: nothing moves from first to last.",
                       value=apart, limit=self._limits.repeat_difference_max, show=[0, len(frames) - 1])  # fmt: skip

    def _swings(self, swings: list[Swing]) -> None:
        flashes = [swing for swing in swings if swing.kind == "flash"]
        cuts = [swing.frame for swing in swings if swing.kind == "cut"]
        self.measures["flash_frames"], self.measures["cuts"] = len(flashes), len(cuts)
        if flashes:
            worst = max(flashes, key=lambda swing: (swing.tile is None, abs(swing.after - swing.before)))
            message = (
                f"{_named([swing.frame for swing in flashes])} a flash; in frame {worst.frame} luminance goes "
                f"from {worst.before:.2f} to {worst.after:.2f} and back{' in a part' if worst.tile else ''}."
            )
            # In a part of the picture it may be a lamp or a fire; that a person can tell.
            severity: Severity = "warning" if worst.tile else "error"
            show = [worst.frame - 1, worst.frame, worst.last + 1]
            place = worst.tile and _place(worst.tile)
            step = abs(worst.after - worst.before)
            self._find(severity, "flash_frame", message, value=step, frame=flashes[0].frame, show=show, place=place)
        if cuts:
            message = f"{_named(cuts)} a cut: brightness changes at once and stays."
            show = [number for cut in cuts for number in (cut - 1, cut)]
            self._find("warning", "cut", message, value=len(cuts), limit=0, frame=cuts[0], show=show)

    def _flashes(self, found: FlashReport) -> None:
        self.measures["luminance_transitions"] = found.luminance_transitions
        self.measures["red_transitions"] = found.red_transitions
        for violation in found.violations:
            self._find(
                "warning",
                f"photosensitive_{violation.kind}",
                f"{violation.transitions} {violation.kind} transitions within a second, between "
                f"{violation.start:.2f} and {violation.end:.2f} s; {LIMIT} are allowed.",
                value=violation.transitions,
                limit=LIMIT,
                frame=violation.first_frame,
                show=np.linspace(violation.first_frame - 1, violation.last_frame, 5).astype(int).tolist(),
                place=violation.place,
                remedy="Let someone who knows the risk judge it before it is published.",
            )

    def _find(
        self,
        severity: Severity,
        code: str,
        message: str,
        *,
        value: float | None = None,
        limit: float | None = None,
        frame: int | None = None,
        remedy: str | None = None,
        show: Sequence[int] = (),
        place: Place | None = None,
    ) -> None:
        """Put down a finding, and the frames that show it."""
        value = None if value is None else round(value, 4)
        self.findings.append(
            Finding(code=code, message=message, severity=severity, value=value, limit=limit, frame=frame, remedy=remedy)
        )
        self._show(code, show, place)

    def _show(self, code: str, numbers: Sequence[int], place: Place | None = None) -> None:
        """Put frames onto the sheet, those that there are."""
        for number in numbers:
            if 0 <= number < len(self._frames):
                caption = f"frame {number}, {number / self._fps:.2f} s\n{code}"
                self.moments.append(Moment(self._frames[number], caption, place))


def _below(value: float, limit: float | None) -> bool:
    return limit is not None and value < limit


def _named(frames: Sequence[int]) -> str:
    """The frames as the subject of a sentence, up to its verb."""
    some = ", ".join(map(str, frames[:5])) + (f" and {len(frames) - 5} more" if len(frames) > 5 else "")
    return f"Frame {some} is" if len(frames) == 1 else f"Frames {some} are"


def _stretches(numbers: Sequence[int]) -> list[list[int]]:
    """The numbers, in order, split where one is missing."""
    stretches: list[list[int]] = []
    for number in numbers:
        if stretches and number == stretches[-1][-1] + 1:
            stretches[-1].append(number)
        else:
            stretches.append([number])
    return stretches


def _place(tile: tuple[int, int]) -> Place:
    row, column = tile
    return column / TILES, row / TILES, (column + 1) / TILES, (row + 1) / TILES
