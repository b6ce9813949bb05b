"""The preset without a model: the camera path itself, rendered at the delivered rate and size."""

from __future__ import annotations

from typing import Any

from core import frames, image
from core.camera import shoot
from core.motion import frame_count
from core.rooms import BASE_FILE, ClipFolder
from core.settings import Settings
from core.work import Report


def generate(folder: ClipFolder, settings: Settings, report: Report) -> dict[str, Any]:
    """Render every view of the clip's path; returns the recorded plan. Raises ``Refused``, ``DiskFull``."""
    entry = folder.clip.entry
    pixels = image.open_image(folder.image, settings.image)
    picture = pixels.shape[1], pixels.shape[0]
    size = settings.output.asked_by(entry.generation_params, picture)
    path = entry.motion.path.fitted(picture, size)
    count = frame_count(entry.motion.duration_sec, entry.generation_params.fps)
    with frames.create(folder.path / BASE_FILE, count, size) as out:
        shoot(pixels, list(path.views(count)), out, report)
    return {
        "frames": count,
        "rate": entry.generation_params.fps,
        "width": size[0],
        "height": size[1],
        "start_view": list(path.start),
        "end_view": list(path.end),
        "easing": str(path.easing),
        "resample": "lanczos",
    }
