"""The camera that a model really moved, measured from its frames, against moves that are known."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import cache
from pathlib import Path

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from core.camera import shoot
from core.errors import Stopped
from core.image import open_image
from core.limits import ImageLimits
from core.motion import CameraPath, Rect, Size
from core.qa.achieved import Achieved, achieved_path

Frames = NDArray[np.uint8]

STILLS = Path(__file__).parents[3] / "shared" / "keyframes"
SIZE: Size = (512, 288)
COUNT = 9
MOVES = {
    "zoom in": CameraPath(Rect(0.1, 0.1, 0.9, 0.9), Rect(0.25, 0.2, 0.75, 0.7)),
    "zoom out": CameraPath(Rect(0.3, 0.3, 0.7, 0.7), Rect(0.1, 0.1, 0.9, 0.9)),
    "pan": CameraPath(Rect(0.02, 0.15, 0.62, 0.75), Rect(0.3, 0.15, 0.9, 0.75)),
}
WITHIN = 0.005
"""Of the picture: what the measurement may be off by."""


def drawn() -> Frames:
    """A picture with something of every size in it, for where the studio's stills are not at hand."""
    random = np.random.default_rng(5)
    picture = sum(
        np.asarray(cv2.resize(random.normal(size=(576 // s, 1024 // s, 3)), (1024, 576))) * s**0.5 * 6
        for s in (3, 6, 12, 24, 64)
    )
    found = np.ascontiguousarray((120 + np.asarray(picture)).clip(0, 255).astype(np.uint8))
    for _ in range(60):
        centre = (int(random.integers(0, 1024)), int(random.integers(0, 576)))
        colour = tuple(int(c) for c in random.integers(0, 256, 3))
        cv2.circle(found, centre, int(random.integers(4, 40)), colour, -1, cv2.LINE_AA)
    return found


@cache
def still(name: str) -> Frames:
    if name == "drawn":
        return drawn()
    if not (STILLS / name).exists():
        pytest.skip("the studio's stills are not here")
    return open_image(STILLS / name, ImageLimits())


def film(name: str, move: str, stray: Callable[[Rect, float], Rect]) -> tuple[Frames, list[Rect]]:
    """Frames of a camera that strays from the path, and the path, of a still cropped to the frames' shape."""
    keyframe = still(name)
    path = MOVES[move].fitted((keyframe.shape[1], keyframe.shape[0]), SIZE)
    views = list(path.views(COUNT))
    frames = np.empty((COUNT, SIZE[1], SIZE[0], 3), np.uint8)
    shoot(keyframe, [stray(view, number / (COUNT - 1)) for number, view in enumerate(views)], frames, threads=1)
    return frames, views


def alive(frames: Frames) -> Frames:
    """The same with a large thing that moves through the picture by itself, noise, softness, and fading light."""
    random = np.random.default_rng(1)
    thing = still("drawn")[100:300, 200:420]
    made = frames.copy()
    for number, frame in enumerate(made):
        x, y = 40 + 20 * number, 60 + 4 * number
        frame[y : y + 160, x : x + 180] = thing[:160, :180]
        faded = frame * (1 - 0.2 * number / COUNT) + random.normal(0, 5, frame.shape)
        frame[:] = cv2.GaussianBlur(faded.clip(0, 255).astype(np.uint8), (0, 0), 0.8)
    return made


def sideways(share: float) -> Callable[[Rect, float], Rect]:
    """Astray by up to this share of the view, in the middle of the time."""

    def stray(view: Rect, u: float) -> Rect:
        by = share * view.width * math.sin(math.pi * u)
        return Rect(view.x1 + by, view.y1, view.x2 + by, view.y2)

    return stray


def closer(share: float) -> Callable[[Rect, float], Rect]:
    """Every edge too close by this share of the view, more and more."""

    def stray(view: Rect, u: float) -> Rect:
        across, down = share * u * view.width, share * u * view.height
        return Rect(view.x1 + across, view.y1 + down, view.x2 - across, view.y2 - down)

    return stray


@pytest.mark.parametrize(
    ("name", "move"),
    [("drawn", "zoom out"), ("girl.png", "zoom in"), ("snowy_road.png", "pan"), ("turbo_1.jpg", "zoom out")],
)
def test_the_error_of_a_known_stray_is_found(name: str, move: str) -> None:
    frames, views = film(name, move, sideways(0.07))
    found = achieved_path(alive(frames), still(name), views)
    assert len(found.errors) == found.sampled == COUNT
    for number, error in found.errors.items():
        assert error == pytest.approx(0.07 * math.sin(math.pi * number / (COUNT - 1)), abs=WITHIN)
    assert found.frame == 4


@pytest.mark.parametrize(
    ("name", "move"),
    [("drawn", "pan"), ("robot.png", "zoom in"), ("dolphins.png", "pan"), ("campfire.png", "zoom out")],
)
def test_a_camera_on_its_path_is_found_on_it(name: str, move: str) -> None:
    frames, views = film(name, move, sideways(0))
    found = achieved_path(alive(frames), still(name), views)
    assert len(found.errors) > COUNT / 2
    assert found.error == pytest.approx(0, abs=WITHIN)


def test_a_camera_that_comes_too_close_is_found_out() -> None:
    frames, views = film("drawn", "zoom out", closer(0.06))
    found = achieved_path(alive(frames), still("drawn"), views)
    assert found.error == pytest.approx(0.06 / (1 - 0.12), abs=WITHIN)  # on screen, which shows less
    assert found.frame == COUNT - 1


def test_a_turned_camera_counts_by_its_corners() -> None:
    frames, views = film("drawn", "pan", sideways(0))
    turn = cv2.getRotationMatrix2D((SIZE[0] / 2 - 0.5, SIZE[1] / 2 - 0.5), 4, 1)
    turned = np.stack([np.asarray(cv2.warpAffine(frame, turn, SIZE), np.uint8) for frame in frames])
    found = achieved_path(turned, still("drawn"), views)
    assert found.error == pytest.approx(math.sin(math.radians(4)) * SIZE[0] / 2 / SIZE[1], abs=WITHIN)


def test_what_cannot_be_found_is_left_out_and_not_guessed() -> None:
    frames, views = film("drawn", "pan", sideways(0))
    frames[3:] = 128
    found = achieved_path(frames, still("drawn"), views)
    assert sorted(found.errors) == [0, 1, 2]
    frames, views = film("drawn", "pan", sideways(0))
    noise = np.random.default_rng(0).integers(0, 256, frames.shape, dtype=np.uint8)
    for other in (noise, 255 - frames[:, ::-1]):
        found = achieved_path(other[:3], still("drawn"), views[:3])
        assert found == Achieved({}, 3)
        assert found.error is None
        assert found.frame is None


def test_a_corner_full_of_detail_does_not_speak_for_the_picture() -> None:
    frames, views = film("drawn", "pan", sideways(0))
    frames[:, 70:] = 90
    frames[:, :, 90:] = 90
    assert achieved_path(frames, still("drawn"), views).errors == {}


def test_it_reports_on_its_way_and_lets_a_stop_through() -> None:
    frames, views = film("drawn", "pan", sideways(0))
    frames, views = frames[:3], views[:3]
    told: list[float] = []
    achieved_path(frames, still("drawn"), views, told.append)
    assert told == sorted(told)
    assert len(told) == 7
    assert told[-1] == 1.0

    def stop(fraction: float) -> None:
        if fraction > 0.2:
            raise Stopped

    with pytest.raises(Stopped):
        achieved_path(frames, still("drawn"), views, stop)
