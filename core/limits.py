"""The settings of what a drop may be: how large its image, how fast its camera."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import BaseModel, ConfigDict, Field, PositiveInt, model_validator


class ImageLimits(BaseModel):
    """How large an image may be, and what lies behind its transparent parts."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    max_pixels: PositiveInt = 40_000_000
    max_side: PositiveInt = 16_384
    min_side: PositiveInt = 64
    max_bytes: PositiveInt = 64 << 20
    background: str = Field(default="#000000", pattern=r"^#[0-9a-fA-F]{6}$")
    """sRGB. Black is what video editors and players show where there is no picture."""


class MotionLimits(BaseModel):
    """What a camera move may do."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    speed_max: float = Field(default=0.20, gt=0)
    """Extents of the picture a second: how fast any visible point may move on screen, along either axis."""
    luminance_step_max: float = Field(default=0.30, gt=0)
    """Share of the darker one: how much mean relative luminance may change from a frame to the next."""
    luminance_swing_max: float = Field(default=0.30, gt=0)
    """Share of the darkest: how much it may change within any second; more is a warning."""
    shape_rule: Literal["fit", "refuse"] = "fit"
    """A view that is not of the output's shape: take the largest one inside it that is, or refuse it."""
    shape_tolerance: float = Field(default=0.001, ge=0, lt=1)
    """Share of the output's width to height ratio: how far off a view still is of its shape."""
    duration_min: float = Field(default=4.0, gt=0)
    """Seconds."""
    duration_max: float = Field(default=8.0, gt=0)
    """Seconds."""
    upscale_max: float = Field(default=2.0, gt=0)
    """Output pixels made of one pixel of the image, along an axis; more is a warning."""

    @model_validator(mode="after")
    def _durations_in_order(self) -> Self:
        if self.duration_min > self.duration_max:
            raise ValueError("duration_min must not be above duration_max")
        return self
