"""The studio's settings for generation, and its mapping from a motion to a model's parameters."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Literal, Self

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from core.contract import GenerationParams
from core.generate.presets import PARAMETERS, Parameter
from core.motion import MotionType

BUCKET_BASE = {
    MotionType.static: 10,
    MotionType.zoom_in: 127,
    MotionType.zoom_out: 127,
    MotionType.pan_left: 100,
    MotionType.pan_right: 100,
}
COUNTRIES = """
AD AE AF AG AI AL AM AO AQ AR AS AT AU AW AX AZ BA BB BD BE BF BG BH BI BJ BL BM BN BO BQ BR BS BT BV BW BY BZ
CA CC CD CF CG CH CI CK CL CM CN CO CR CU CV CW CX CY CZ DE DJ DK DM DO DZ EC EE EG EH ER ES ET FI FJ FK FM FO FR
GA GB GD GE GF GG GH GI GL GM GN GP GQ GR GS GT GU GW GY HK HM HN HR HT HU ID IE IL IM IN IO IQ IR IS IT JE JM JO JP
KE KG KH KI KM KN KP KR KW KY KZ LA LB LC LI LK LR LS LT LU LV LY MA MC MD ME MF MG MH MK ML MM MN MO MP MQ MR MS MT
MU MV MW MX MY MZ NA NC NE NF NG NI NL NO NP NR NU NZ OM PA PE PF PG PH PK PL PM PN PR PS PT PW PY QA RE RO RS RU RW
SA SB SC SD SE SG SH SI SJ SK SL SM SN SO SR SS ST SV SX SY SZ TC TD TF TG TH TJ TK TL TM TN TO TR TT TV TW TZ
UA UG UM US UY UZ VA VC VE VG VI VN VU WF WS YE YT ZA ZM ZW
"""
"""ISO 3166-1 alpha-2."""
EUROPEAN_UNION = "AT BE BG CY CZ DE DK EE ES FI FR GR HR HU IE IT LT LU LV MT NL PL PT RO SE SI SK"


class GenerationSettings(BaseModel):
    """Which model, and what ``keyframes`` writes into ``generation_params`` for it."""

    model_config = ConfigDict(extra="forbid")

    model: str = "camera"
    """A preset: of ``config/presets.toml``, or of ``presets.toml`` in the home."""
    weights: Path = Path("weights")
    """Where weights lie that are not in the hub's cache: a folder in the home, or absolute."""
    prompt: str = ""
    """What is said to the model of a keyframe that has no ``.caption``."""
    approximate: bool = False
    """Whether presets may be used that only imitate what a manifest asks for."""
    region: str = ""
    """Where the server works: a country's two letters, or ``EU``. Presets whose licence excludes it are refused, and
    so are, where nothing is said, those whose licence excludes any."""
    device: Literal["auto", "cuda", "mps", "cpu"] = "auto"
    """What models run on; ``auto`` is a CUDA card, else Apple's, else the processor."""
    memory_gib: float | None = Field(default=None, gt=0)
    """How much of the card a worker may use; all of it without."""
    bucket_base: dict[MotionType, int] = BUCKET_BASE
    """``motion_bucket_id`` is this times the motion's intensity, rounded down; a motion left out keeps its default."""
    noise_aug_strength: float = 0.02
    decode_chunk_size: int = 8
    num_inference_steps: int = 25
    min_guidance_scale: float = 1.0
    max_guidance_scale: float = 3.0

    @field_validator("bucket_base")
    @classmethod
    def _keep_defaults(cls, given: dict[MotionType, int]) -> dict[MotionType, int]:
        return BUCKET_BASE | given

    @field_validator("region")
    @classmethod
    def _is_a_region(cls, given: str) -> str:
        if given and given not in {
            *COUNTRIES.split(),
            "EU",
            "UK",
        }:  # a slip would get round licences
            raise ValueError(f"{given!r} is no country: two capital letters after ISO 3166-1, such as DE or US, or EU")
        return given

    @model_validator(mode="after")
    def _can_be_written(self) -> Self:
        for motion in MotionType:  # what a manifest could not hold is told now, not at every drop
            self.params(motion, 1.0, PARAMETERS)
        return self

    @property
    def regions(self) -> frozenset[str]:
        """The names that a licence may have for where the server works."""
        wider = "EU" if self.region in EUROPEAN_UNION.split() else {"GB": "UK"}.get(self.region, self.region)
        return frozenset({self.region, wider} - {""})

    def params(self, motion: MotionType, intensity: float, asked: Iterable[Parameter]) -> GenerationParams:
        """The studio's mapping from a motion to a model's parameters, those ``asked`` for; the rest is the caller's."""
        mapped = {
            "motion_bucket_id": int(self.bucket_base[motion] * intensity),
            "noise_aug_strength": self.noise_aug_strength,
            "decode_chunk_size": self.decode_chunk_size,
            "num_inference_steps": self.num_inference_steps,
            "min_guidance_scale": self.min_guidance_scale,
            "max_guidance_scale": self.max_guidance_scale,
            "camera_motion": motion,
        }
        return GenerationParams.model_validate({"model": self.model} | {name: mapped[name] for name in asked})
