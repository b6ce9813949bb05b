"""The stage: a clip's base frames become the delivered frames, at their rate, their size, along their camera path."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

from core import frames, fsops, image
from core.interpolate.filmed import canvas_views, film, shows_all
from core.interpolate.methods import Chosen
from core.interpolate.plan import is_identity, plan
from core.motion import Rect, Size
from core.rooms import BASE_FILE, FRAMES_FILE, ClipFolder
from core.settings import Settings
from core.work import Report


def interpolate(folder: ClipFolder, settings: Settings, chosen: Chosen, report: Report) -> dict[str, Any]:
    """Make the delivered frames by the ``chosen`` method, then drop the base frames; returns the recorded plan.

    Frames that are the clip as they stand pass through untouched: their file is renamed. Raises ``DiskFull``, and
    what ``report`` raises.
    """
    entry = folder.clip.entry
    made = folder.clip.stages["generate"].details
    samples = plan(
        made["frames"],
        Fraction(made["rate"]),
        entry.motion.duration_sec,
        entry.generation_params.fps,
        settings.interpolate.mode,
    )
    camera, canvas = made.get("camera", "path"), (made["width"], made["height"])
    size, views = (canvas, None) if camera == "path" else _filming(folder, settings, camera, canvas, len(samples))
    method = None if is_identity(samples, made["frames"]) else chosen.method
    base, final = folder.path / BASE_FILE, folder.path / FRAMES_FILE
    if final.exists():  # a crash came before the base frames were dropped, or before the handing on
        fsops.remove(base)
    elif method is None and views is None:
        fsops.move(base, final)
    else:
        pictures = frames.open(base)
        moments = iter(pictures) if method is None else method.clip(pictures, samples)
        with frames.create(final, len(samples), size) as out:
            film(moments, views, out, report)
        fsops.remove(base)
    return (chosen.record if method is not None else {}) | {
        "method": "none" if method is None else method.name,
        "base_frames": made["frames"],
        "frames": len(samples),
        "mode": str(settings.interpolate.mode),
        "camera": camera,
        "canvas": list(canvas),
        "width": size[0],
        "height": size[1],
        "resample": "none" if views is None else "lanczos",
    }


def _filming(
    folder: ClipFolder, settings: Settings, camera: str, canvas: Size, count: int
) -> tuple[Size, list[Rect] | None]:
    """The delivered size, and what every frame shows of the canvas; None where that is all of it, pixel by pixel."""
    entry = folder.clip.entry
    height, width = image.open_image(folder.image, settings.image).shape[:2]
    size = settings.output.asked_by(entry.generation_params, (width, height))
    path = entry.motion.path.fitted((width, height), size)
    views = canvas_views(camera, path, Rect(*folder.clip.stages["generate"].details["view"]), count)
    return size, None if shows_all(views, canvas, size) else views
