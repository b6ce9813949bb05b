"""The interpolate stage on a clip's folder: new frames, frames that pass through, and a crash in between."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from core import frames
from core.contract import Clip, GenerationParams, Keyframe, Motion, StageRecord, now
from core.errors import Stopped
from core.interpolate.stage import interpolate
from core.motion import FULL, MotionType
from core.rooms import BASE_FILE, FRAMES_FILE, ClipFolder
from core.settings import Settings
from core.work import unwatched

Make = Callable[[int, int], ClipFolder]


@pytest.fixture
def folder(tmp_path: Path) -> Make:
    """Makes a clip whose base frames were made at a rate; it is to be delivered at 10 a second."""

    def make(rate: int, count: int) -> ClipFolder:
        motion = Motion(type=MotionType.static, start_rect=FULL, end_rect=FULL, duration_sec=0.5)
        entry = Keyframe(
            image_path="hot/a.png", motion=motion, generation_params=GenerationParams(model="camera", fps=10)
        )
        details = {"frames": count, "rate": rate}
        done = StageRecord(seconds=1, finished_at=now(), worker="gpu0", attempts=1, details=details)
        clip = Clip(clip_id="20250704_143022-001-0123abcd", batch_id="20250704_143022", entry=entry,
                    image="keyframe.png", seed=1, taken_at=now(), stages={"generate": done})  # fmt: skip
        with frames.create(tmp_path / BASE_FILE, count, (64, 48)) as base:
            base[:] = np.random.default_rng(0).integers(0, 255, base.shape, dtype=np.uint8)
        return ClipFolder(tmp_path, clip)

    return make


def test_frames_that_are_the_clip_pass_through_untouched(folder: Make) -> None:
    clip = folder(10, 5)
    before = clip.path.joinpath(BASE_FILE).stat().st_ino, clip.path.joinpath(BASE_FILE).read_bytes()
    for _ in range(2):  # and again, as after a crash before the handing on
        assert interpolate(clip, Settings(), unwatched)["method"] == "none"
        final = clip.path / FRAMES_FILE
        assert (final.stat().st_ino, final.read_bytes()) == before


def test_new_frames_are_made_and_the_base_frames_dropped(folder: Make) -> None:
    clip = folder(8, 5)
    first = np.array(frames.open(clip.path / BASE_FILE)[0])
    for _ in range(2):
        record = interpolate(clip, Settings(), unwatched)
        assert (record["method"], record["frames"]) == ("flow", 5)
        made = frames.open(clip.path / FRAMES_FILE)
        assert made.shape == (5, 48, 64, 3)
        assert np.array_equal(made[0], first)
        assert not (clip.path / BASE_FILE).exists()


def test_work_that_is_stopped_leaves_the_base_frames_and_nothing_else(folder: Make) -> None:
    clip = folder(8, 5)

    def stop(fraction: float) -> None:
        raise Stopped

    with pytest.raises(Stopped):
        interpolate(clip, Settings(), stop)
    assert [path.name for path in clip.path.iterdir()] == [BASE_FILE]
