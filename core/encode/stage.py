"""The stage: a clip's frames become its video file."""

from __future__ import annotations

from core import frames
from core.delivery import VIDEO_FILE
from core.encode.encode import EncodeRecord, encode
from core.rooms import FRAMES_FILE, ClipFolder
from core.settings import Settings
from core.work import Report


def make_video(folder: ClipFolder, settings: Settings, report: Report) -> EncodeRecord:
    """Encode and prove the frames at the delivered rate; raises as ``encode`` does."""
    pictures = frames.open(folder.path / FRAMES_FILE)
    fps = folder.clip.entry.generation_params.fps
    return encode(pictures, fps, folder.path / VIDEO_FILE, settings.encode, report)
