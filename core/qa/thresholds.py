"""The settings of QA: what a clip may show, each limit with its unit and where it came from."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

Standard = Literal["trace24", "broadcast", "wcag"]


@dataclass(frozen=True)
class FirstLimits:
    """How close the first frame must be to what was planned; None: it is not held against that."""

    error: float | None
    """SSIM; less is another picture, and fails."""
    flag: float | None
    """SSIM; less is flagged."""
    psnr: float | None = None
    """dB; less is flagged."""


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
    """Frames within which a swing comes back if it is a flash and not a cut: 100 ms at 30 fps, and of more frames a
    second as many more."""
    repeat_difference_max: float = Field(default=0.25, gt=0)
    """Codes of 255. Two frames whose mean absolute difference is smaller are one frame shown twice: a quarter of a
    code is what rounding makes of nothing."""
    repeat_frames: int = Field(default=3, ge=1)
    """How many frames that repeat the one before make a fault."""
    repeat_motion_min: float = Field(default=0.5, gt=0)
    """Pixels a frame. A camera slower than that may show one frame twice."""
    flicker_max: float = Field(default=0.002, gt=0)
    """Share of the luminance by which that of the whole picture may go up and down, where the camera films a still:
    clean moves stay below 0.0012 (measured, as below: at full speed, 1024x576 and 576x1024)."""
    flicker_living_max: float = Field(default=0.012, gt=0)
    """The same, where the picture lives or nothing is known: models' clips stay below 0.009 (measured)."""
    flicker_part_max: float = Field(default=0.02, gt=0)
    """As ``flicker_max``, of one of sixteen tiles: below 0.007 (measured)."""
    flicker_part_living_max: float = Field(default=0.12, gt=0)
    """As ``flicker_living_max``, of one of sixteen tiles: below 0.09, where a cat's paws cross them (measured)."""
    jump_max: float = Field(default=0.0004, gt=0)
    """Longer sides of the picture that it may move in one frame beside the plan, where the camera films a still: 0.4
    pixels of 1024. Clean moves stay below 0.00025 (measured)."""
    jump_times_max: float = Field(default=1.9, gt=1)
    """Times further than in the frames before and after, where the picture lives or nothing is known: models' clips
    stay below 1.7 (measured)."""
    warp_max: float = Field(default=0.00028, gt=0)
    """Longer sides by which parts may shake, where the camera films a still: 0.29 pixels of 1024. Clean moves stay
    below 0.00023 (measured)."""
    warp_living_max: float = Field(default=0.001, gt=0)
    """The same, where the picture lives or nothing is known: below 0.0007 (measured)."""
    boil_max: float = Field(default=0.3, gt=0)
    """Share of the detail that may be new in every frame, where the camera films a still: resampling leaves up to 0.234
    of a clean move at 1024x576 (measured)."""
    boil_living_max: float = Field(default=0.5, gt=0)
    """The same, where the picture lives or nothing is known: below 0.39, of a cat in a hurry (measured)."""
    sharpness_min: float = Field(default=0.95, gt=0, le=1)
    """Share of the keyframe's detail, the variance of the Laplacian, that must be left where the camera films a still:
    clean moves keep 0.967 (measured)."""
    stray_max: float = Field(default=0.0009, gt=0)
    """Longer sides by which a part may be from where the keyframe has it, likewise: 0.9 pixels of 1024. Clean moves
    stay at 0.0007 or below (measured)."""
    brightness_drift_max: float = Field(default=0.008, gt=0)
    """Share of the code by which the frames may become brighter or darker than their views of the keyframe, where the
    camera films a still: clean moves stay below 0.0017 (measured)."""
    brightness_drift_living_max: float = Field(default=0.16, gt=0)
    """Share of the code by which the same things may become brighter or darker, followed from frame to frame, where the
    picture lives or nothing is known: a zoom of six seconds over a dark drawing comes to 0.113 (measured)."""
    colour_drift_max: float = Field(default=0.006, gt=0)
    """The same, of one channel against the mean of the three: below 0.0022 (measured)."""
    colour_drift_living_max: float = Field(default=0.08, gt=0)
    """As ``brightness_drift_living_max``, of one channel against the mean of the three: the same zoom comes to 0.058
    (measured)."""
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
