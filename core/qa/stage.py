"""The stage: a clip's frames are judged against what its manifest entry asked for."""

from __future__ import annotations

from core import frames, image
from core.contract import QaReport
from core.errors import Finding
from core.motion import frame_count
from core.qa.planned import Planned
from core.qa.verdict import judge
from core.rooms import FRAMES_FILE, ClipFolder
from core.settings import Settings
from core.work import Report


def inspect(folder: ClipFolder, settings: Settings, report: Report) -> QaReport:
    """Judge the frames; pictures of what is wrong lie in the clip's folder afterwards. Raises what ``report`` does."""
    entry = folder.clip.entry
    made = folder.clip.stages["generate"].details
    pictures = frames.open(folder.path / FRAMES_FILE)
    size = pictures.shape[2], pictures.shape[1]
    keyframe = image.open_image(folder.image, settings.image)
    path = entry.motion.path.fitted((keyframe.shape[1], keyframe.shape[0]), size)
    fps = entry.generation_params.fps
    views = list(path.views(frame_count(entry.motion.duration_sec, fps)))
    if made.get("camera", "path") == "path":
        planned = Planned.of(keyframe, views, size)
    else:
        planned = Planned.of_model(keyframe, views, size, made)
    flags = [Finding.model_validate(flag) for flag in made.get("flags", [])]
    return judge(pictures, fps, planned, settings.qa, flags=flags, evidence=folder.path, report=report)
