"""What a local trial changes of a manifest before the rooms see it, and how takes of one keyframe are ranked. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import PurePosixPath
from typing import Any

from core.contract import Keyframe, VideoMeta
from core.generate.presets import Preset
from core.settings import OutputSettings, Settings

DRAFT_MARK = ".draft"
"""Ends the name of every clip of a draft, so that none is taken for the real one."""
DRAFT_STEPS_MIN = 12
"""Models of so few steps are distilled to just these, and a draft leaves them alone."""
FEWEST = 16
"""Pixels of a side, below which the contract lets nothing be."""

RANKING = (
    "pass before flag before fail",
    "fewer findings",
    "fewer flash_frames + cuts + black_frames",
    "fewer repeated_frames",
    "fewer luminance_transitions + red_transitions",
    "higher first_frame_ssim",
    "the lower seed",
)
"""How takes are compared, each rule only where those before it find no difference."""


def rank(meta: VideoMeta) -> tuple[float, ...]:
    """The key by which takes of one keyframe are sorted, the best first: ``RANKING``, in numbers."""
    measures = meta.qa.measures if meta.qa else {}

    def count(*names: str) -> float:
        return sum(_number(measures.get(name)) for name in names)

    return (
        ("pass", "flag", "fail").index(meta.outcome),
        len(meta.qa.reasons) if meta.qa else float("inf"),
        count("flash_frames", "cuts", "black_frames"),
        count("repeated_frames"),
        count("luminance_transitions", "red_transitions"),
        -count("first_frame_ssim"),
        meta.seed or 0,
    )


def _number(value: object) -> float:
    return float(value) if isinstance(value, (int, float)) else 0.0


def takes(entry: Keyframe, first: int, count: int) -> list[Keyframe]:
    """So many entries for one keyframe, of the seeds from ``first`` on; their clips are called ``stem.seed42``."""
    return [
        renamed(entry, f".seed{seed}").model_copy(
            update={"generation_params": entry.generation_params.model_copy(update={"seed": seed})}
        )
        for seed in range(first, first + count)
    ]


def renamed(entry: Keyframe, mark: str) -> Keyframe:
    """The same entry with ``mark`` after its stem; the files that travel with it keep their names on the wire."""
    path = PurePosixPath(entry.image_path)
    path = path.with_name(f"{path.stem}{mark}{path.suffix}")
    files = [file.model_copy(update={"name": path.name}) if number == 0 else file
             for number, file in enumerate(entry.files)]  # fmt: skip
    return entry.model_copy(update={"image_path": str(path), "files": files})


def without_regeneration(settings: Settings) -> Settings:
    """The same, but that a clip which fails QA is not tried with other seeds: to compare is to have each one's own."""
    rooms = settings.rooms.model_copy(update={"max_regenerations": 0})
    changed = settings.model_copy(update={"rooms": rooms})
    changed.adopt(settings.presets)
    return changed


def draft_settings(settings: Settings) -> tuple[Settings, list[str]]:
    """Half the size and half the rate; and what was changed, in words.

    Brightness may then change twice as much from one frame to the next, for that is the same change a second.
    """
    old, motion = settings.output, settings.motion
    new = OutputSettings(portrait=_half(old.portrait), landscape=_half(old.landscape), fps=max(1, old.fps // 2))
    step = min(1.0, 2 * motion.luminance_step_max)
    smaller = settings.model_copy(
        update={"output": new, "motion": motion.model_copy(update={"luminance_step_max": step})}
    )
    smaller.adopt(settings.presets)
    said = [
        f"output: {_size(old.landscape)} → {_size(new.landscape)}, {_size(old.portrait)} → {_size(new.portrait)}",
        f"output: {old.fps} → {new.fps} frames a second",
        f"motion.luminance_step_max: {motion.luminance_step_max:g} → {step:g}",
    ]
    return smaller, said


def draft_preset(preset: Preset) -> tuple[Preset, list[str]]:
    """A quarter of the canvas, half the steps; and what was changed, in words. What is distilled keeps its steps."""
    changes: dict[str, Any] = {}
    said = []
    if preset.family != "camera":
        pixels = max(256, preset.canvas.pixels // 4)
        changes["canvas"] = preset.canvas.model_copy(update={"pixels": pixels})
        said.append(f"{preset.name}: canvas {preset.canvas.pixels / 1e6:.2f} → {pixels / 1e6:.2f} megapixels")
        if (steps := _fewer_steps(preset, preset.steps)) != preset.steps:
            changes["steps"] = steps
            said.append(f"{preset.name}: {preset.steps} → {steps} steps")
    return preset.model_copy(update=changes), said


def draft_entry(entry: Keyframe, preset: Preset) -> tuple[Keyframe, list[str]]:
    """What the entry itself says of size, rate and steps, made smaller likewise; and what was changed, in words."""
    params = entry.generation_params
    changes: dict[str, int] = {"fps": max(1, params.fps // 2)}
    if params.width is not None:
        changes["width"] = _half_side(params.width)
    if params.height is not None:
        changes["height"] = _half_side(params.height)
    if params.num_inference_steps is not None and preset.parameters.get("num_inference_steps") == "honoured":
        changes["num_inference_steps"] = _fewer_steps(preset, params.num_inference_steps)
    said = [f"entries: {name} {getattr(params, name)} → {value}" for name, value in changes.items()
            if getattr(params, name) != value]  # fmt: skip
    return renamed(entry, DRAFT_MARK).model_copy(update={"generation_params": params.model_copy(update=changes)}), said


def _fewer_steps(preset: Preset, steps: int) -> int:
    if preset.schedule.sigmas or preset.schedule.timesteps or steps <= DRAFT_STEPS_MIN:
        return steps
    return max(DRAFT_STEPS_MIN, steps // 2)


def _half(size: Sequence[int]) -> tuple[int, int]:
    return _half_side(size[0]), _half_side(size[1])


def _half_side(side: int) -> int:
    """Half of it, even: 4:2:0 video has even sides."""
    return max(FEWEST, side // 4 * 2)


def _size(size: Sequence[int]) -> str:
    return f"{size[0]}×{size[1]}"
