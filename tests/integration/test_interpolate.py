"""The interpolate stage on a clip's folder: new frames, filmed frames, untouched ones, and a crash in between."""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from PIL import Image

from benchmarks.interpolate import random_weights
from core import frames, fsops
from core.camera import Camera
from core.contract import Clip, GenerationParams, Keyframe, Motion, StageRecord, now
from core.errors import BadSettings, Stopped
from core.interpolate.flow import Flow
from core.interpolate.ifnet import RIFE_4_6
from core.interpolate.methods import MethodName, load
from core.interpolate.plan import plan
from core.interpolate.stage import interpolate
from core.motion import FULL, CameraPath, MotionType, Rect, Size, on_canvas
from core.qa.stage import inspect
from core.rooms import BASE_FILE, FRAMES_FILE, ClipFolder
from core.settings import OutputSettings, Settings
from core.work import unwatched
from tests.house import TINY, House

Make = Callable[..., ClipFolder]
SIZE = (64, 48)
FLOW = load(MethodName.flow, None)
SETTINGS = Settings(output=OutputSettings(landscape=SIZE))


@pytest.fixture
def folder(tmp_path: Path) -> Make:
    """Makes a clip whose base frames were made at a rate; it is to be delivered at 10 a second, ``SIZE`` large."""

    def make(
        rate: int | str,
        count: int,
        *,
        canvas: Size = SIZE,
        ends: tuple[Rect, Rect] = (FULL, FULL),
        **details: Any,
    ) -> ClipFolder:
        motion = Motion(type=MotionType.static, start_rect=ends[0], end_rect=ends[1], duration_sec=0.5)
        entry = Keyframe(
            image_path="hot/a.png", motion=motion, generation_params=GenerationParams(model="camera", fps=10)
        )
        details = {"frames": count, "rate": rate, "width": canvas[0], "height": canvas[1]} | details
        done = StageRecord(seconds=1, finished_at=now(), worker="gpu0", attempts=1, details=details)
        clip = Clip(clip_id="20250704_143022-001-0123abcd", batch_id="20250704_143022", entry=entry,
                    image="keyframe.png", seed=1, taken_at=now(), stages={"generate": done})  # fmt: skip
        with frames.create(tmp_path / BASE_FILE, count, canvas) as base:
            base[:] = np.random.default_rng(0).integers(0, 255, base.shape, dtype=np.uint8)
        Image.new("RGB", (160, 120)).save(tmp_path / clip.image)
        return ClipFolder(tmp_path, clip)

    return make


def test_frames_that_are_the_clip_pass_through_untouched(folder: Make) -> None:
    clip = folder(10, 5)
    before = clip.path.joinpath(BASE_FILE).stat().st_ino, clip.path.joinpath(BASE_FILE).read_bytes()
    for _ in range(2):  # and again, as after a crash before the handing on
        assert interpolate(clip, SETTINGS, FLOW, unwatched)["method"] == "none"
        final = clip.path / FRAMES_FILE
        assert (final.stat().st_ino, final.read_bytes()) == before


def test_new_frames_are_made_and_the_base_frames_dropped(folder: Make) -> None:
    clip = folder(8, 5)
    first = np.array(frames.open(clip.path / BASE_FILE)[0])
    for _ in range(2):
        record = interpolate(clip, SETTINGS, FLOW, unwatched)
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
        interpolate(clip, SETTINGS, FLOW, stop)
    assert sorted(path.name for path in clip.path.iterdir()) == [BASE_FILE, clip.clip.image]


# --- a model's frames, on its canvas --------------------------------------------------------------------------------

ZOOM = (Rect(0.1, 0.1, 0.9, 0.9), Rect(0.3, 0.3, 0.7, 0.7))
VIEW = Rect(0.05, 0.1, 0.95, 0.9)
CANVAS = (96, 64)
"""As a model has it, not of the clip's shape and stretched: the canvas shows 144 by 96 pixels of 160 by 120."""


def test_a_virtual_camera_films_every_delivered_frame_along_the_path(folder: Make) -> None:
    clip = folder("5", 3, canvas=CANVAS, ends=ZOOM, camera="virtual", view=list(VIEW))
    base = np.array(frames.open(clip.path / BASE_FILE))
    samples = plan(3, Fraction(5), 0.5, 10)
    told: list[float] = []
    for _ in range(2):  # and again, as after a crash before the handing on
        record = interpolate(clip, SETTINGS, FLOW, told.append)
        assert record == {"method": "flow", "base_frames": 3, "frames": 5, "mode": "time-true", "camera": "virtual",
                          "canvas": [96, 64], "width": 64, "height": 48, "resample": "lanczos"}  # fmt: skip
        assert not (clip.path / BASE_FILE).exists()
    made = frames.open(clip.path / FRAMES_FILE)
    assert made.shape == (5, 48, 64, 3)
    moments = list(Flow().clip(base, samples))
    for number, seen in enumerate(CameraPath(*ZOOM).views(5)):
        expected = Camera(moments[number], SIZE).render(on_canvas(seen, VIEW))
        assert np.array_equal(made[number], expected)
    assert told[-1] == 1.0


def test_a_models_own_move_gets_one_crop(folder: Make) -> None:
    clip = folder(10, 5, canvas=CANVAS, ends=ZOOM, camera="endpoints", view=list(VIEW))
    base = np.array(frames.open(clip.path / BASE_FILE))
    assert interpolate(clip, SETTINGS, FLOW, unwatched)["method"] == "none"
    crop = on_canvas(ZOOM[0], VIEW)
    made = frames.open(clip.path / FRAMES_FILE)
    assert all(np.array_equal(frame, Camera(seen, SIZE).render(crop)) for frame, seen in zip(made, base, strict=True))


@pytest.mark.parametrize("camera", ["virtual", "endpoints"])
def test_a_canvas_that_is_the_clip_passes_through_to_the_bit(folder: Make, camera: str) -> None:
    clip = folder(10, 5, ends=(ZOOM[0], ZOOM[0]), camera=camera, view=list(ZOOM[0]))
    before = clip.path.joinpath(BASE_FILE).stat().st_ino
    for _ in range(2):
        assert interpolate(clip, SETTINGS, FLOW, unwatched)["resample"] == "none"
        assert clip.path.joinpath(FRAMES_FILE).stat().st_ino == before


def test_frames_kept_whole_at_a_new_rate_are_not_resampled(folder: Make) -> None:
    clip = folder(5, 3, ends=(ZOOM[0], ZOOM[0]), camera="virtual", view=list(ZOOM[0]))
    base = np.array(frames.open(clip.path / BASE_FILE))
    assert interpolate(clip, SETTINGS, FLOW, unwatched)["resample"] == "none"
    assert np.array_equal(frames.open(clip.path / FRAMES_FILE)[::2], base)


def test_filming_that_is_stopped_leaves_the_base_frames_and_is_done_again(folder: Make) -> None:
    clip = folder(5, 3, canvas=CANVAS, ends=ZOOM, camera="virtual", view=list(VIEW))

    def stop(fraction: float) -> None:
        if fraction > 0.3:
            raise Stopped

    with pytest.raises(Stopped):
        interpolate(clip, SETTINGS, FLOW, stop)
    assert sorted(path.name for path in clip.path.iterdir()) == [BASE_FILE, clip.clip.image]
    interpolate(clip, SETTINGS, FLOW, unwatched)
    assert sorted(path.name for path in clip.path.iterdir()) == [FRAMES_FILE, clip.clip.image]


def test_a_crash_before_any_step_of_filming_costs_nothing(folder: Make) -> None:
    """Killed before each step on the disk in turn; the next attempt ends as if nothing had been."""
    clip = folder(5, 3, canvas=CANVAS, ends=ZOOM, camera="virtual", view=list(VIEW))
    base = clip.path.joinpath(BASE_FILE).read_bytes()
    steps = 0

    class Killed(BaseException):
        pass

    def kill_at(last: int) -> None:
        def seam(name: str, paths: tuple[Path, ...]) -> None:
            nonlocal steps
            steps += 1
            if steps > last:
                raise Killed

        fsops.seam = seam

    for last in range(10):
        steps = 0
        kill_at(last)
        try:
            interpolate(clip, SETTINGS, FLOW, unwatched)
        except Killed:
            fsops.seam = None
            whole = clip.path / FRAMES_FILE
            assert whole.exists() or clip.path.joinpath(BASE_FILE).exists()
            fsops.sweep(clip.path)
            interpolate(clip, SETTINGS, FLOW, unwatched)
            found = whole.read_bytes()
            assert not clip.path.joinpath(BASE_FILE).exists()
            whole.unlink()
            clip.path.joinpath(BASE_FILE).write_bytes(base)
        else:
            break
    fsops.seam = None
    assert last >= 3
    assert clip.path.joinpath(FRAMES_FILE).read_bytes() == found


@pytest.mark.parametrize("camera", ["virtual", "endpoints"])
def test_qa_judges_a_models_clip_by_what_generate_recorded(folder: Make, camera: str) -> None:
    """A model that changes next to nothing, from its canvas to the verdict."""
    record = {"first_frame": {"error": 0.4, "flag": 0.8}, "path_flag": 0.05, "camera": camera, "view": list(VIEW)}
    clip = folder(5, 3, canvas=(192, 128), ends=(ZOOM[0], ZOOM[0]), **record)
    coarse = np.random.default_rng(2).integers(40, 216, (30, 40, 3), dtype=np.uint8)
    keyframe = np.asarray(cv2.resize(coarse, (320, 240)), np.uint8)
    Image.fromarray(keyframe).save(clip.image)
    canvas = Camera(keyframe, (192, 128)).render(VIEW)
    clip.path.joinpath(BASE_FILE).unlink()
    with frames.create(clip.path / BASE_FILE, 3, (192, 128)) as base:
        base[:] = canvas + np.arange(3, dtype=np.uint8)[:, None, None, None]
    larger = Settings(output=OutputSettings(landscape=(160, 120)))
    interpolate(clip, larger, FLOW, unwatched)
    found = inspect(clip, larger, unwatched)
    assert float(found.measures["first_frame_ssim"] or 0) > 0.99
    assert ("path_error" in found.measures) == (camera == "endpoints")
    assert found.verdict == "pass"
    flag = {"code": "light_drift", "message": "Red light wanders.", "severity": "warning"}
    clip.clip.stages["generate"].details["flags"] = [flag]
    again = inspect(clip, larger, unwatched)
    assert (again.verdict, again.reasons[0].code) == ("flag", "light_drift")


def test_the_daemon_holds_the_network_whose_weights_are_there(tmp_path: Path) -> None:
    torch.set_num_threads(1)
    weights = tmp_path / "home" / "weights"
    weights.mkdir(parents=True)
    torch.save(random_weights(RIFE_4_6), weights / "flownet.pkl")
    house = House(tmp_path / "home")
    house.start()
    (ready,) = house.said("interpolator.ready")
    assert (ready["method"], ready["variant"], ready["device"]) == ("rife", "4.6", "cpu")
    house.stop()


def test_a_method_that_cannot_be_had_keeps_its_worker_from_starting(tmp_path: Path) -> None:
    house = House(tmp_path / "home", TINY + '[interpolate]\nmethod = "rife"\n')
    with pytest.raises(BadSettings, match=r"flownet\.pkl.*method flow"):
        house.start("interpolate")


def test_models_frames_between_are_made_by_the_chosen_network_and_recorded(folder: Make, tmp_path: Path) -> None:
    clip = folder("5", 3, canvas=CANVAS, ends=ZOOM, camera="virtual", view=list(VIEW))
    torch.set_num_threads(1)
    torch.save(random_weights(RIFE_4_6), tmp_path / "flownet.pkl")
    chosen = load(MethodName.rife, tmp_path / "flownet.pkl", "cpu")
    record = interpolate(clip, SETTINGS, chosen, unwatched)
    assert record["method"] == "rife"
    assert record["variant"] == "4.6"
    assert record["weights"].startswith("flownet.pkl#")
    assert len(frames.open(clip.path / FRAMES_FILE)) == record["frames"]
