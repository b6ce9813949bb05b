"""The stage: a clip's keyframe becomes base frames, by the family of the preset that its entry names."""

from __future__ import annotations

import time
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import numpy as np

from core import frames, image
from core.camera import Camera
from core.contract import GenerationParams, Keyframe, Motion
from core.generate import camera, checks
from core.generate.plan import Plan, plan_of, preset_of
from core.generate.presets import Preset
from core.generate.prompts import clip_caption
from core.motion import FULL, MotionType, Rect, Size
from core.rooms import BASE_FILE, ClipFolder
from core.settings import Settings
from core.work import Report

if TYPE_CHECKING:
    from core.generate.generator import Job, Made


def film(folder: ClipFolder, settings: Settings, report: Report) -> dict[str, Any]:
    """Make the base frames of a preset that has no model; returns the recorded plan.

    Raises ``Refused`` where the preset is gone, ``DiskFull``, and what ``report`` raises.
    """
    return _head(folder, settings) | camera.generate(folder, settings, report)


def prepare(folder: ClipFolder, settings: Settings) -> Job:
    """Decide and render all that a model is given for a clip. Raises ``Refused``."""
    from core.generate.generator import Job

    pixels = image.open_image(folder.image, settings.image)
    size = pixels.shape[1], pixels.shape[0]
    plan = plan_of(folder.clip.seed, folder.clip.entry, size, clip_caption(folder.path), settings)

    def shot(view: Rect, canvas: Size = plan.canvas) -> Any:
        return Camera(pixels, canvas, [view]).render(view)

    last = shot(plan.last_view) if plan.last_view is not None else None
    return Job(folder.clip.clip_id, plan, shot(plan.view), last)


def rehearsal(preset: Preset, settings: Settings, report: Report) -> Job:
    """A clip of nothing, as most clips of a preset are: making it compiles, and takes memory, before one waits for it.

    Raises ``Refused`` where the preset cannot make what the settings ask for.
    """
    from core.generate.generator import Job

    still = Motion(type=MotionType.static, start_rect=FULL, end_rect=FULL,
                   duration_sec=settings.hot_folder.static_seconds)  # fmt: skip
    params = GenerationParams(model=preset.name, fps=settings.output.fps)
    entry = Keyframe(image_path="rehearsal.png", motion=still, generation_params=params)
    plan = plan_of(0, entry, settings.output.landscape, "", settings)
    return Job("rehearsal", plan, np.full((plan.canvas[1], plan.canvas[0], 3), 128, np.uint8), report=report)


def keep(folder: ClipFolder, job: Job, made: Made, settings: Settings) -> dict[str, Any]:
    """Check a model's frames and write them as the clip's base frames; returns the recorded plan.

    Raises ``checks.BadFrames`` for frames that are no attempt at the clip, and ``DiskFull``.
    """
    preset = settings.presets[job.plan.preset]
    pictures, begun = made.frames(), time.perf_counter()
    checked = checks.inspect(pictures, job.picture, preset, job.plan.frames)
    drift: dict[str, Any] = dict(checked.drift)
    with frames.create(folder.path / BASE_FILE, len(pictures), job.plan.canvas) as out:
        if checked.gains is None:
            out[:] = pictures
        else:
            drift["corrected"] = checks.correct(pictures, checked.gains, out)._asdict()
    found = {
        "first_frame": checked.first_frame,
        "drift": drift,
        "flags": [finding.model_dump(mode="json", exclude_none=True) for finding in checked.flags],
        "keep_seconds": round(time.perf_counter() - begun, 3),
    }
    return _head(folder, settings) | _what_is_shown(job.plan, preset) | found | made.record


def _head(folder: ClipFolder, settings: Settings) -> dict[str, Any]:
    """What made it: the preset as it was, whatever its table says by the time that one asks."""
    preset = preset_of(folder.clip.entry, settings)
    return {"model": preset.name, "family": preset.family, "seed": folder.clip.seed,
            "preset": preset.model_dump(mode="json")}  # fmt: skip


def _what_is_shown(plan: Plan, preset: Preset) -> dict[str, Any]:
    """What the other stages must know of the base frames, and the plan as it was."""
    return {
        "frames": plan.frames,
        "rate": str(plan.rate),
        "slowed": round(plan.slowed, 4),
        "width": plan.canvas[0],
        "height": plan.canvas[1],
        "camera": preset.camera,
        "view": list(plan.view),
        "parameters": plan.parameters,
        "plan": asdict(plan) | {"rate": str(plan.rate)},
    } | ({"last_view": list(plan.last_view), "path_flag": preset.path_flag} if plan.last_view else {})
