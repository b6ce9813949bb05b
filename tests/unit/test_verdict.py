"""Planted faults are found and named; clean camera moves over drawn stills pass without a word."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from pydantic import ValidationError

from core import frames as clip_frames
from core.camera import Camera, shoot
from core.contract import QaReport
from core.errors import Finding, Stopped
from core.motion import FULL, CameraPath, Easing, Rect, on_canvas
from core.qa.planned import Planned
from core.qa.thresholds import QaThresholds
from core.qa.verdict import SHEET, judge

Frames = NDArray[np.uint8]

SIZE = (160, 288)
FPS = 30
FRAMES = 40
PATHS = {
    "zoom in": CameraPath(Rect(0.05, 0.05, 0.95, 0.95), Rect(0.15, 0.2, 0.85, 0.9)),
    "zoom out": CameraPath(Rect(0.2, 0.2, 0.8, 0.8), Rect(0.08, 0.08, 0.92, 0.92)),
    "pan": CameraPath(Rect(0.0, 0.1, 0.7, 0.8), Rect(0.18, 0.1, 0.88, 0.8), Easing.linear),  # 0.19 widths a second
    "still": CameraPath(Rect(0.1, 0.1, 0.9, 0.9), Rect(0.1, 0.1, 0.9, 0.9)),
}
LIMITS = QaThresholds()


def still(seed: int) -> NDArray[np.uint8]:
    """A drawn picture: a graded sky, textured ground, things with hard edges, a red one among them."""
    random = np.random.default_rng(seed)
    width, height = 360, 648
    grade = np.linspace(random.uniform(60, 220), random.uniform(20, 120), height)[:, None, None]
    grain = sum(
        np.asarray(cv2.resize(random.normal(size=(height // s, width // s)), (width, height))) * s**0.5
        for s in (2, 4, 8, 16, 40)
    )
    picture = grade * random.uniform(0.6, 1, 3) + 8 * np.asarray(grain)[..., None]
    drawn = np.ascontiguousarray(picture.clip(0, 255).astype(np.uint8))
    for number in range(25):
        centre = (int(random.integers(0, width)), int(random.integers(0, height)))
        colour = (210, 20, 20) if number == 20 else tuple(int(c) for c in random.integers(0, 256, 3))
        cv2.circle(drawn, centre, int(random.integers(5, 40)), colour, -1, cv2.LINE_AA)
    return drawn


def filmed(path: str, seed: int = 1) -> tuple[Frames, Planned]:
    picture = still(seed)
    views = list(PATHS[path].views(FRAMES))
    frames = np.empty((FRAMES, SIZE[1], SIZE[0], 3), np.uint8)
    shoot(picture, views, frames)
    return frames, Planned.of(picture, views, SIZE)


@pytest.fixture(scope="module")
def clean() -> tuple[Frames, Planned]:
    """A zoom; tests that change its frames take a copy."""
    frames, planned = filmed("zoom in")
    frames.flags.writeable = False
    return frames, planned


def codes(report: QaReport) -> list[str]:
    return [finding.code for finding in report.reasons]


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("seed", [1, 2, 3])
def test_a_clean_camera_move_passes_without_a_word(path: str, seed: int) -> None:
    frames, planned = filmed(path, seed)
    report = judge(frames, FPS, planned, LIMITS)
    assert report.verdict == "pass"
    assert report.reasons == []
    assert report.measures["first_frame_ssim"] == pytest.approx(1)
    assert report.measures["frames"] == FRAMES
    assert report.screened == "screened against trace24; not a certification"
    assert report.evidence == []


# --- planted faults -------------------------------------------------------------------------------------------------


def shorter(frames: Frames) -> Frames:
    return frames[:-1]


def longer(frames: Frames) -> Frames:
    return np.concatenate([frames, frames[-1:]])


def black(frames: Frames) -> Frames:
    frames[20] = 0
    return frames


def black_end(frames: Frames) -> Frames:
    frames[-5:] = 2
    return frames


def frozen(frames: Frames) -> Frames:
    frames[18:24] = frames[17]
    return frames


def half_rate(frames: Frames) -> Frames:
    frames[15:27:2] = frames[14:26:2]
    return frames


def flash(frames: Frames) -> Frames:
    frames[20] = 255 - (255 - frames[20]) // 4
    return frames


def local_flash(frames: Frames) -> Frames:
    frames[20, 72:144, 40:80] = 255
    return frames


def cut(frames: Frames) -> Frames:
    frames[20:] = frames[20:] // 3
    return frames


def other_picture(frames: Frames) -> Frames:
    return filmed("zoom in", seed=9)[0]


def blurred(frames: Frames) -> Frames:
    frames[0] = cv2.GaussianBlur(frames[0], (0, 0), 1.5)
    return frames


def tinted(frames: Frames) -> Frames:
    frames[0, ..., 2] = frames[0, ..., 2] // 2
    return frames


def strobe(frames: Frames) -> Frames:
    frames[10:24:2, 100:220] = 255
    return frames


def red_strobe(frames: Frames) -> Frames:
    frames[10:24] //= 4
    frames[10:24:2, 100:220] = (90, 0, 0)
    return frames


@pytest.mark.parametrize(
    ("fault", "verdict", "expected"),
    [
        (shorter, "fail", ("frame_count", None)),
        (longer, "fail", ("frame_count", None)),
        (black, "fail", ("black_frames", 20)),
        (black_end, "fail", ("black_frames", FRAMES - 5)),
        (frozen, "fail", ("frozen_frames", 18)),
        (half_rate, "flag", ("repeated_frames", 15)),
        (flash, "fail", ("flash_frame", 20)),
        (local_flash, "flag", ("flash_frame", 20)),
        (cut, "flag", ("cut", 20)),
        (other_picture, "fail", ("first_frame_other", 0)),
        (blurred, "flag", ("first_frame_differs", 0)),
        (tinted, "flag", ("first_frame_differs", 0)),
        (strobe, "flag", ("photosensitive_luminance", 10)),
        (red_strobe, "flag", ("photosensitive_red", 10)),
    ],
)
def test_a_planted_fault_is_found_and_named(
    fault: Callable[[Frames], Frames],
    verdict: str,
    expected: tuple[str, int | None],
    clean: tuple[Frames, Planned],
    tmp_path: Path,
) -> None:
    frames, planned = clean
    code, frame = expected
    report = judge(fault(frames.copy()), FPS, planned, LIMITS, evidence=tmp_path)
    assert code in codes(report)
    found = next(finding for finding in report.reasons if finding.code == code)
    assert found.frame == frame
    if code != "photosensitive_luminance":  # a strobe is made of flashes, which fail by themselves
        assert report.verdict == verdict
    shown = code != "frame_count"
    assert report.evidence == ([SHEET] if shown else [])
    assert (tmp_path / SHEET).exists() is shown


def test_soft_flashing_is_flagged_for_a_human_and_does_not_fail(clean: tuple[Frames, Planned]) -> None:
    frames = 255 - (255 - clean[0]) // 2
    dim = np.array([0 < number % 4 < 3 for number in range(FRAMES)])
    frames[dim] = (frames[dim] * 0.82).astype(np.uint8)  # a third less light
    report = judge(frames, FPS, Planned(FRAMES), LIMITS)
    assert "photosensitive_luminance" in codes(report)
    assert report.verdict == "flag"
    assert report.measures["luminance_transitions"] == 15
    assert report.reasons[-1].remedy


def test_a_dark_keyframe_may_be_dark() -> None:
    picture = still(1) // 20
    views = list(PATHS["pan"].views(10))
    frames = np.empty((10, SIZE[1], SIZE[0], 3), np.uint8)
    shoot(picture, views, frames)
    assert judge(frames, FPS, Planned.of(picture, views, SIZE), LIMITS).verdict == "pass"


def test_a_move_into_the_dark_is_not_black() -> None:
    picture = np.zeros((288, 480, 3), np.uint8)
    picture[:, :160] = still(1)[:288, :160]
    path = CameraPath(Rect(0, 0, 1 / 3, 1), Rect(2 / 3, 0, 1, 1), Easing.linear)
    views = list(path.views(300))
    frames = np.empty((300, 72, 40, 3), np.uint8)
    shoot(picture, views, frames)
    planned = Planned.of(picture, views, (40, 72))
    assert codes(judge(frames, FPS, planned, LIMITS)) == []


def test_a_slow_move_may_repeat_frames(clean: tuple[Frames, Planned]) -> None:
    picture = still(1)
    path = CameraPath(Rect(0.1, 0.1, 0.9, 0.9), Rect(0.11, 0.1, 0.91, 0.9), Easing.linear)  # 0.05 px a frame
    views = list(path.views(FRAMES))
    frames = np.empty((FRAMES, SIZE[1], SIZE[0], 3), np.uint8)
    shoot(picture, views, frames)
    frames[11] = frames[10]
    assert judge(frames, FPS, Planned.of(picture, views, SIZE), LIMITS).verdict == "pass"


def test_what_is_not_planned_is_not_judged(clean: tuple[Frames, Planned]) -> None:
    frames = clean[0].copy()
    frames[18:24] = frames[17]
    report = judge(frames, FPS, Planned(FRAMES), LIMITS)
    assert codes(report) == ["jump", "frozen_frames"]  # what moves before and after says so
    assert report.verdict == "flag"
    assert "first_frame_ssim" not in report.measures


# --- a model's clip -------------------------------------------------------------------------------------------------

CANVAS = (128, 224)
"""Less than the clip's size: the model's picture is softer than the keyframe."""


def made(camera: str = "virtual", error: float | None = 0.4, flag: float | None = 0.8) -> dict[str, Any]:
    """What ``generate`` records of a clip."""
    return {"camera": camera, "view": list(FULL), "width": CANVAS[0], "height": CANVAS[1],
            "first_frame": {"ssim": 0.9, "error": error, "flag": flag}, "path_flag": 0.05}  # fmt: skip


def perfect(path: str, record: dict[str, Any], count: int = FRAMES) -> tuple[Frames, Planned]:
    """What a model that changes nothing makes of a still, filmed from its canvas, and its plan."""
    picture = still(1)
    views = list(PATHS[path].views(count))
    canvas = Camera(picture, CANVAS).render(FULL)
    frames = np.empty((count, SIZE[1], SIZE[0], 3), np.uint8)
    shoot(canvas, [on_canvas(view, FULL) for view in views], frames)
    return frames, Planned.of_model(picture, views, SIZE, record)


def rippled(frames: Frames) -> Frames:
    """A picture that moves a little by itself, as a model's does."""
    number = np.arange(len(frames))[:, None, None, None]
    row = np.arange(SIZE[1])[None, :, None, None]
    return np.asarray((frames + 6 * np.sin(number / 3 + row / 9)).clip(0, 255), np.uint8)


def test_a_models_first_frame_is_what_its_canvas_can_hold() -> None:
    frames, planned = perfect("zoom in", made())
    assert judge(rippled(frames), FPS, planned, LIMITS).reasons == []
    assert judge(frames, FPS, planned, LIMITS).measures["first_frame_ssim"] == pytest.approx(1, abs=1e-4)
    sharp = Planned.of(still(1), planned.views, SIZE)
    assert float(judge(frames, FPS, sharp, LIMITS).measures["first_frame_ssim"] or 0) < 0.99


@pytest.mark.parametrize(
    ("error", "flag", "verdict", "found"),
    [
        (0.4, 0.8, "fail", ["first_frame_other"]),
        (None, 0.8, "flag", ["first_frame_differs"]),
        (None, None, "pass", []),
    ],
)
def test_a_models_first_frame_is_held_against_its_presets_own_limits(
    error: float | None, flag: float | None, verdict: str, found: list[str]
) -> None:
    frames, planned = perfect("still", made("virtual", error, flag))
    frames[0] = np.random.default_rng(0).integers(0, 256, frames[0].shape)
    frames[0] = (frames[0] * (0.95 * frames[1].mean() / frames[0].mean())).clip(0, 255)
    report = judge(rippled(frames), FPS, planned, LIMITS)
    assert (report.verdict, codes(report)) == (verdict, found)
    assert ("first_frame" in report.measures) == (verdict == "pass")
    assert ("first_frame_ssim" in report.measures) == (verdict != "pass")


def test_a_models_picture_has_its_own_light_but_is_not_black() -> None:
    frames, planned = perfect("pan", made())
    fading = (rippled(frames) * np.linspace(1, 0.9, FRAMES)[:, None, None, None]).astype(np.uint8)
    assert judge(fading, FPS, planned, LIMITS).verdict == "pass"
    assert "black_frames" in codes(judge(black_end(rippled(frames)), FPS, planned, LIMITS))


def test_a_model_may_be_still_where_its_camera_is_but_not_all_the_time() -> None:
    frames, planned = perfect("still", made())
    report = judge(frames, FPS, planned, LIMITS)
    assert (report.verdict, codes(report)) == ("flag", ["nothing_moves"])
    moving = rippled(frames)
    moving[24:] = moving[24]
    assert judge(moving, FPS, planned, LIMITS).verdict == "pass"
    moving = rippled(frames)
    moving[12:30] = moving[12]
    assert codes(judge(moving, FPS, planned, LIMITS)) == ["frozen_frames"]


@pytest.mark.parametrize(("camera", "severity"), [("virtual", "error"), ("endpoints", "warning")])
def test_frames_that_freeze_while_the_camera_moves_are_found(camera: str, severity: str) -> None:
    frames, planned = perfect("pan", made(camera))
    (found,) = (reason for reason in judge(frozen(frames), FPS, planned, LIMITS).reasons if "fr" in reason.code)
    assert (found.code, found.severity, found.frame) == ("frozen_frames", severity, 18)


def test_what_generate_flagged_stays_flagged(tmp_path: Path) -> None:
    frames, planned = perfect("pan", made())
    flag = Finding(code="light_drift", message="Blue light wanders.", severity="warning", value=0.3, limit=0.15)
    report = judge(rippled(frames), FPS, planned, LIMITS, flags=[flag], evidence=tmp_path)
    assert (report.verdict, report.reasons, report.evidence) == ("flag", [flag], [SHEET])
    failed = judge(black(frames), FPS, planned, LIMITS, flags=[flag])
    assert failed.verdict == "fail"
    assert flag in failed.reasons
    unreadable = judge(frames.astype(np.float32), FPS, planned, LIMITS, flags=[flag])
    assert codes(unreadable) == ["light_drift", "frame_format"]


def test_a_models_own_move_is_measured_and_flagged_where_it_goes_astray() -> None:
    frames, planned = perfect("pan", made("endpoints"), 9)
    report = judge(rippled(frames), FPS, planned, LIMITS)
    assert report.reasons == []
    assert float(report.measures["path_error"] or 0) < 0.01
    assert report.measures["path_measured"] == "9 of 9 frames"
    slow = frames[np.minimum(np.arange(9), 4)]  # half the way, and no further
    report = judge(rippled(slow), FPS, planned, LIMITS)
    found = report.reasons[0]
    assert (report.verdict, found.code, found.frame) == ("flag", "path_missed", 8)
    assert found.limit == 0.05
    assert found.value == report.measures["path_error"] == pytest.approx(0.18 / 0.7 * 0.5, abs=0.02)


def test_a_camera_that_cannot_be_found_is_said_and_not_guessed() -> None:
    frames, planned = perfect("pan", made("endpoints", error=None, flag=None), 9)
    blank = np.full_like(frames, 90)
    report = judge(rippled(blank), FPS, planned, LIMITS)
    assert (report.verdict, codes(report)) == ("flag", ["path_unmeasured"])
    assert (report.measures["path_error"], report.measures["path_measured"]) == (None, "0 of 9 frames")


# --- what cannot be looked at ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("frames", "code"),
    [
        (np.full((3, 288, 160, 3), np.nan, np.float32), "not_finite"),
        (np.full((3, 288, 160, 3), 0.5, np.float32), "frame_format"),
        (np.zeros((3, 280, 160, 3), np.uint8), "frame_format"),
        (np.zeros((3, 288, 160), np.uint8), "frame_format"),
        (np.zeros((0, 288, 160, 3), np.uint8), "frame_count"),
    ],
)
def test_frames_that_are_none_fail(frames: Frames, code: str, clean: tuple[Frames, Planned]) -> None:
    report = judge(frames, FPS, clean[1], LIMITS)
    assert report.verdict == "fail"
    assert codes(report) == [code]


# --- the work itself ------------------------------------------------------------------------------------------------


def test_it_reports_after_every_frame_and_lets_a_stop_through(clean: tuple[Frames, Planned], tmp_path: Path) -> None:
    frames, planned = clean
    done: list[float] = []
    judge(frames, FPS, planned, LIMITS, report=done.append)
    assert done == pytest.approx([(n + 1) / FRAMES for n in range(FRAMES)])

    def stop(fraction: float) -> None:
        if fraction > 0.5:
            raise Stopped

    with pytest.raises(Stopped):
        judge(black(frames.copy()), FPS, planned, LIMITS, evidence=tmp_path, report=stop)
    assert list(tmp_path.iterdir()) == []


def test_frames_may_lie_in_a_file(clean: tuple[Frames, Planned], tmp_path: Path) -> None:
    frames, planned = clean
    with clip_frames.create(tmp_path / "frames.npy", FRAMES, SIZE) as out:
        out[:] = frames
    assert judge(clip_frames.open(tmp_path / "frames.npy"), FPS, planned, LIMITS).verdict == "pass"


def test_the_sheet_is_a_picture_of_the_moments(clean: tuple[Frames, Planned], tmp_path: Path) -> None:
    frames, planned = clean
    report = judge(black(strobe(frames.copy())), FPS, planned, LIMITS, evidence=tmp_path)
    assert report.evidence == [SHEET]
    with Image.open(io.BytesIO((tmp_path / SHEET).read_bytes())) as sheet:
        assert sheet.format == "PNG"
        pixels = np.asarray(sheet.convert("RGB"))
    assert max(pixels.shape[:2]) < 3000
    assert (pixels == (255, 80, 40)).all(axis=2).sum() > 500  # what flashed is marked


def test_the_report_goes_into_a_file_and_back(clean: tuple[Frames, Planned]) -> None:
    frames, planned = clean
    report = judge(strobe(frames.copy()), FPS, planned, LIMITS)
    assert QaReport.model_validate_json(report.to_json()) == report


def test_thresholds_are_strict() -> None:
    assert QaThresholds(standard="wcag").standard == "wcag"
    with pytest.raises(ValidationError):
        QaThresholds.model_validate({"blackness": 1})
    with pytest.raises(ValidationError):
        QaThresholds(swing_max=0)
