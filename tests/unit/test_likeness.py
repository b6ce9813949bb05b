"""A filmed still is held against its keyframe: light and tint are those of the first frame, whatever it is like."""

from __future__ import annotations

import cv2
import numpy as np

from core.camera import shoot
from core.motion import CameraPath, Rect
from core.qa.inspector import Seen
from core.qa.likeness import Likeness
from core.qa.planned import Planned
from core.qa.thresholds import QaThresholds

SIZE = (432, 768)


def test_a_channel_near_black_does_not_drift_because_the_frames_were_reduced() -> None:
    grain = np.random.default_rng(0).integers(0, 256, (324, 180, 1), dtype=np.uint8).repeat(3, axis=2)
    picture = np.asarray(cv2.resize(grain, (720, 1296), interpolation=cv2.INTER_CUBIC), np.uint8)
    picture[..., 0] = cv2.subtract(picture[..., 0], np.full((1296, 720), 200, np.uint8))  # four codes, in the mean
    views = list(CameraPath(Rect(0.0, 0.1, 0.8, 0.9), Rect(0.1, 0.1, 0.9, 0.9)).views(11))
    frames = np.empty((len(views), SIZE[1], SIZE[0], 3), np.uint8)
    shoot(picture, views, frames)
    planned = Planned.of(picture, views, SIZE)

    def said() -> tuple[list[str], float]:
        likeness = Likeness(QaThresholds(), planned, picture)
        for number, frame in enumerate(frames):
            likeness.add(Seen.of(number, frame))
        found = likeness.finish()
        return [each.finding.code for each in found.found], float(found.measures["colour_drift"] or 0)

    codes, drift = said()
    assert (codes, drift < 0.002) == ([], True)  # against the keyframe's own reduction it was 0.025
    frames[5:, ..., 0] = cv2.add(frames[5:, ..., 0], np.ones_like(frames[5:, ..., 0]))
    assert said()[0] == ["brightness_drift", "colour_drift"]
