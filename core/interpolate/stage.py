"""The stage: a clip's base frames become frames at the delivered rate."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

from core import frames, fsops
from core.interpolate.flow import Flow
from core.interpolate.plan import is_identity, plan
from core.interpolate.retime import retime
from core.rooms import BASE_FILE, FRAMES_FILE, ClipFolder
from core.settings import Settings
from core.work import Report


def interpolate(folder: ClipFolder, settings: Settings, report: Report) -> dict[str, Any]:
    """Make the delivered frames, then drop the base frames; returns the recorded plan.

    Frames that are the clip as they stand pass through untouched: their file is renamed.
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
    base, final = folder.path / BASE_FILE, folder.path / FRAMES_FILE
    record = {"base_frames": made["frames"], "frames": len(samples), "mode": str(settings.interpolate.mode)}
    if is_identity(samples, made["frames"]):
        if not final.exists():  # else a crash came between the renaming and the handing on
            fsops.move(base, final)
        return {"method": "none", **record}
    method = Flow()
    if not final.exists():  # else a crash came before the base frames were dropped
        pictures = frames.open(base)
        with frames.create(final, len(samples), (pictures.shape[2], pictures.shape[1])) as out:
            retime(pictures, samples, method, out, report)
    fsops.remove(base)
    return {"method": method.name, **record}
