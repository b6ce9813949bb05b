"""Local trials and the shootout: what steadiness measures, how presets are scored, what a draft changes."""

from __future__ import annotations

import datetime as dt
import functools
import importlib.util
import math
import tomllib
from html.parser import HTMLParser
from typing import Any

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from core import image, toml, trial
from core.camera import Camera
from core.contract import GenerationParams, Keyframe, Motion, QaReport, StageRecord, VideoMeta, now
from core.errors import DropreelError, Finding
from core.generate.presets import Preset, read_presets, shipped_presets
from core.motion import FULL, CameraPath, Easing, MotionType, Rect
from core.settings import Settings
from core.shootout import MEMORY_GIB, ClipFigures, clamp, cold, judge, ranked, rules
from core.shootout_report import Shown, Terms, page
from core.temporal import steadiness
from daemons.cli.scene import draw_scene
from daemons.oneshot import environment_for, need_packages, presets_text

SIZE = (320, 180)
Grey = NDArray[np.uint8]


_scene = functools.cache(draw_scene)


def pan(count: int = 6) -> list[Grey]:
    """A camera that moves over a detailed picture."""
    picture = image.decode(_scene(), "scene.png", Settings().image).pixels
    path = CameraPath(Rect(0.05, 0.05, 0.75, 0.75), Rect(0.2, 0.15, 0.9, 0.85), Easing.linear)
    camera = Camera(picture, SIZE)
    views = list(path.views(60))[20 : 20 + count]
    return [np.asarray(cv2.cvtColor(camera.render(view), cv2.COLOR_RGB2GRAY), np.uint8) for view in views]


def noisy(frames: list[Grey], sigma: float) -> list[Grey]:
    dice = np.random.default_rng(5)
    return [np.clip(frame + dice.normal(0, sigma, frame.shape), 0, 255).astype(np.uint8) for frame in frames]


# How steady a clip is.


def test_a_pan_is_steady_noise_is_not_and_what_boils_lies_between() -> None:
    frames = pan()
    smooth = steadiness(frames).ssim
    boiling = [steadiness(noisy(frames, sigma)).ssim for sigma in (2.0, 6.0, 12.0)]
    noise = steadiness(noisy([np.full(frames[0].shape, 128, np.uint8)] * 6, 60.0)).ssim
    assert smooth > 0.97
    assert noise < 0.1
    assert smooth > boiling[0] > boiling[1] > boiling[2] > noise
    assert boiling[0] > 0.85 > boiling[2]


def test_a_still_is_perfectly_steady_and_a_frame_that_is_another_is_named() -> None:
    frames = pan(1) * 5
    still = steadiness(frames)
    assert still.ssim == pytest.approx(1.0)
    assert still.worst == pytest.approx(1.0)
    assert still.pairs == 4
    frames[3] = np.ascontiguousarray(frames[3][::-1, ::-1])
    found = steadiness(frames)
    assert found.worst_frame in {3, 4}
    assert found.worst < 0.85
    assert found.ssim == pytest.approx((2 + 2 * found.worst) / 4, abs=0.05)


def test_light_that_flickers_is_not_steady_and_what_a_mover_hides_is_no_fault() -> None:
    frames = pan()
    dimmed = [0.7 if number % 2 else 1.0 for number in range(len(frames))]
    flicker = [(frame * share).astype(np.uint8) for frame, share in zip(frames, dimmed, strict=True)]
    assert steadiness(flicker).ssim < 0.95 < steadiness(frames).ssim
    over = [frame.copy() for frame in frames]
    for number, frame in enumerate(over):
        frame[60:120, 40 + 6 * number : 100 + 6 * number] = frames[0][20:80, 200:260]
    assert steadiness(over).ssim > 0.93


def test_one_frame_is_no_clip() -> None:
    with pytest.raises(ValueError, match="Two frames"):
        steadiness([np.zeros((32, 32), np.uint8)])


# The score.


def clip(name: str = "a", **changes: Any) -> ClipFigures:
    rooms = {"generate": 6.0, "interpolate": 1.0, "qa": 0.5, "encode": 2.5}
    known: dict[str, Any] = {"outcome": "pass", "reasons": (), "seconds": rooms, "peak_gib": 12.0, "flash_frames": 0,
                             "steadiness": 0.95, "first_frame": 0.96, "card": "NVIDIA X"}  # fmt: skip
    return ClipFigures(name=name, **(known | changes))


def test_the_points_are_a_hundred_by_the_studios_weights() -> None:
    assert [(rule.name, rule.points) for rule in rules()] == [
        ("speed", 40), ("temporal quality", 35), ("first frame", 15), ("memory", 10)]  # fmt: skip


@pytest.mark.parametrize("rule", rules(), ids=lambda rule: rule.name)
@given(x=st.floats(0.001, 200), y=st.floats(0.001, 200))
def test_a_formula_is_what_is_computed_within_its_bounds_and_monotone(rule: Any, x: float, y: float) -> None:
    printed = eval(rule.formula, {"clamp": clamp, "log": math.log, "x": x})  # noqa: S307 - the report's own text
    assert rule.share(x) == pytest.approx(printed, abs=1e-9)
    assert 0 <= rule.share(x) <= 1
    less, more = sorted((x, y))
    better_low = rule.name in {"speed", "memory"}
    assert rule.share(less) >= rule.share(more) if better_low else rule.share(less) <= rule.share(more)


def test_the_anchors_are_where_the_report_says() -> None:
    speed, temporal, first, memory = (rule.share for rule in rules())
    assert [speed(7.5), speed(15), speed(30)] == pytest.approx([1, 0.5, 0])
    assert [temporal(0.85), temporal(0.92), temporal(0.99)] == pytest.approx([0, 0.5, 1])
    assert [first(0.5), first(0.97)] == pytest.approx([0, 1])
    assert [memory(6), memory(12), memory(24), memory(0)] == pytest.approx([1, 0.5, 0, 1])
    assert rules(48)[3].share(24) == pytest.approx(0.5)


def test_the_figures_of_a_preset_are_means_and_medians_over_what_came_out() -> None:
    clips = [clip(str(n), seconds={"generate": seconds, "encode": 2.0}, peak_gib=seconds) for n, seconds in
             enumerate((3.0, 3.0, 12.0))]  # fmt: skip
    one = judge("x", [*clips, clip("bad", outcome="fail", seconds={"generate": 99.0}, steadiness=None)])
    figures = one.figures
    assert (figures.n, figures.of, figures.seconds, figures.peak_gib) == (3, 4, 8.0, 12.0)
    assert figures.rooms == {"generate": 6.0, "encode": 2.0}
    assert figures.clips_per_minute == pytest.approx(10.0)
    assert figures.dollars_per_clip(0.40) == pytest.approx(0.40 / 600)
    assert one.eliminated == ()
    expected = (40 * math.log(30 / 8, 4), 35 * 0.1 / 0.14, 15 * 0.46 / 0.47, 10 * math.log(24 / 12, 4))
    assert list(one.points.values()) == pytest.approx(expected)
    assert one.score == pytest.approx(sum(expected))


def test_what_warms_a_model_up_is_no_measure_of_its_speed_and_a_round_is_paid_for_by_all_its_clips() -> None:
    """Four clips a round: the first of each brings the experts, and the first round of all compiles."""
    rounds = [
        [(9.0, True), (0.2, True), (0.2, True), (0.2, True)],
        [(4.2, False), (0.2, False), (0.2, False), (0.2, False)],
    ]
    clips = [clip(str(n), seconds={"generate": seconds, "encode": 1.0}, cold=cold)
             for n, (seconds, cold) in enumerate(rounds[0] + rounds[1])]  # fmt: skip
    figures = judge("x", clips).figures
    assert (figures.timed, figures.n, figures.cold) == (4, 8, False)
    assert figures.seconds == pytest.approx(2.2)
    assert figures.rooms == pytest.approx({"generate": 1.2, "encode": 1.0})
    alone = judge("x", clips[:4])
    assert (alone.figures.timed, alone.figures.cold) == (4, True)
    assert alone.figures.seconds == pytest.approx(3.4)
    shown = [Shown("0", "0.jpg", "zoom in", {})]
    assert "2.20 <small>of 4</small>" in page([judge("x", clips)], shown, Terms(0.4))
    assert "3.40 <small>with the warm-up</small>" in page([alone], shown, Terms(0.4))
    assert judge("x", clips).to_json(0.4)["timed"] == 4


def made_at(name: str, generated: int, coded: int, together: int | None) -> VideoMeta:
    """The meta of a clip, by the seconds at which two rooms were done with it."""
    begun = now()
    details = {} if together is None else {"together": together}
    stages = {
        stage: StageRecord(seconds=1.0, finished_at=begun + dt.timedelta(seconds=at), worker="gpu0", attempts=1,
                           details=details if stage == "generate" else {})
        for stage, at in (("generate", generated), ("encode", coded))
    }  # fmt: skip
    return meta().model_copy(update={"clip_id": name, "stages": stages})


def test_the_first_round_after_each_load_is_cold() -> None:
    """Rooms take turns: after each visit to another room the model is loaded again."""
    times = {"a": (1, 20), "b": (2, 21), "c": (3, 22), "d": (4, 23), "e": (31, 40), "f": (32, 41), "g": (33, 42)}
    metas = [made_at(name, *when, together=2) for name, when in times.items()]
    assert cold(metas) == cold(metas[::-1]) == {"a", "b", "e", "f"}
    assert cold([made_at(name, *when, together=1) for name, when in times.items()]) == {"a", "e"}
    assert cold([made_at(name, *when, together=None) for name, when in times.items()]) == set(), "there is no model"
    assert cold([]) == set()


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"seconds": {"generate": 30.1}}, "30.1 s a clip: over 30 s"),
        ({"peak_gib": 24.3}, "24.3 GiB of the card: over 24"),
        ({"flash_frames": 1}, "1 flash frame: none is allowed"),
        ({"steadiness": 0.849}, "temporal SSIM 0.849: below 0.85"),
    ],
)
def test_each_rule_eliminates_by_itself_and_the_eliminated_are_scored(changes: dict[str, Any], why: str) -> None:
    one = judge("x", [clip(**changes)])
    assert one.eliminated == (why,)
    assert one.score > 0
    best, worst = ranked([one, judge("slow", [clip(seconds={"generate": 29.0}, steadiness=0.86)])])
    assert (best.preset, worst.preset) == ("slow", "x")


def test_the_limits_themselves_are_allowed_and_what_was_not_measured_judges_nobody() -> None:
    at = clip(seconds={"generate": 30.0}, peak_gib=MEMORY_GIB, steadiness=0.85)
    assert judge("x", [at]).eliminated == ()
    one = judge("x", [clip(peak_gib=None)])
    assert (one.eliminated, one.points["memory"], one.out_of) == ((), None, 90)
    assert one.score == pytest.approx(100 * sum(p for p in one.points.values() if p is not None) / 90)
    none = judge("x", [clip(outcome="fail", steadiness=None, first_frame=None, peak_gib=None, flash_frames=2)])
    assert none.eliminated == ("none of its 1 clips came out", "2 flash frames: none is allowed")
    assert (none.score, none.figures.clips_per_minute) == (0.0, None)


def meta(outcome: str = "pass", seed: int = 1, details: dict[str, Any] | None = None, **measures: float) -> VideoMeta:
    still = Motion(type=MotionType.static, start_rect=FULL, end_rect=FULL, duration_sec=4)
    params = GenerationParams(model="camera", seed=seed)
    entry = Keyframe(image_path="a.png", motion=still, generation_params=params)
    reasons = [Finding(code="x", message="y")] * (outcome != "pass")
    made = StageRecord(seconds=9.0, finished_at=now(), worker="gpu0", attempts=1, details=details or {})
    qa = QaReport(verdict=outcome, reasons=reasons, measures=dict(measures), screened="s")
    return VideoMeta(clip_id="20260101_000000-001-00000000", run=1, batch_id="20260101_000000", outcome=outcome,
                     entry=entry, seed=seed, stages={"generate": made, "encode": made}, qa=qa)  # fmt: skip


def test_a_models_load_is_not_its_clips() -> None:
    details = {"make_seconds": 4.0, "memory": {"peak_gib": 7.5}, "card": "NVIDIA X"}
    found = ClipFigures.of("a", "pass", [], meta(details=details, first_frame_ssim=0.9, flash_frames=2), 0.9)
    assert found.seconds == {"generate": 4.0, "encode": 9.0}
    assert (found.peak_gib, found.card, found.first_frame, found.flash_frames) == (7.5, "NVIDIA X", 0.9, 2)
    more = {"encode_seconds": 1.5, "keep_seconds": 0.25}
    whole = ClipFigures.of("a", "pass", [], meta(details=details | more), 0.9, cold=True)
    assert (whole.seconds["generate"], whole.cold, found.cold) == (5.75, True, False), "prompts and checks are work too"
    bare = ClipFigures.of("a", "pass", [], meta(), None)
    assert (bare.seconds["generate"], bare.peak_gib, bare.card, bare.first_frame) == (9.0, None, "CPU", None)
    refused = ClipFigures.of("a", "refused", ["why"], None, None)
    assert (refused.seconds, refused.came_out) == ({}, False)


# The page.


class Seen(HTMLParser):
    """All tags with their attributes, and all text."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.words = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attributes)))

    def handle_data(self, data: str) -> None:
        self.words += data


def test_the_page_has_every_clip_every_formula_and_no_markup_of_strangers() -> None:
    name, preset = '<script>alert("1")</script> & #?%.', "wan<2>"
    bad = clip(name, outcome="fail", reasons=("<b>no</b>",), steadiness=None)
    contestants = ranked([judge(preset, [clip(name)]), judge("other", [bad])])
    shown = Shown(name, f"keyframes/{name}.jpg", "zoom in", {preset: f"clips/{preset}/{name}.mp4"})
    text = page(contestants, [shown], Terms(0.4))
    seen = Seen(text)
    videos = [attributes["src"] for tag, attributes in seen.tags if tag == "video"]
    assert videos == ["./clips/wan%3C2%3E/%3Cscript%3Ealert%28%221%22%29%3C/script%3E%20%26%20%23%3F%25..mp4"]
    assert [tag for tag, _ in seen.tags].count("script") == 1, "ours"
    assert not [tag for tag, _ in seen.tags if tag == "b" and "no" in tag]
    for words in (name, preset, "<b>no</b>", "none of its 1 clips came out", "NVIDIA X", "40", "not measured"):
        assert words in seen.words
    for rule in rules():
        assert rule.formula in seen.words
        assert rule.why in seen.words
    assert "http" not in text, "the page needs no network"


# What a trial changes.


def test_takes_are_ranked_by_verdict_then_findings_then_measures() -> None:
    metas = [
        meta("fail", 1),
        meta("flag", 2, first_frame_ssim=0.99),
        meta("pass", 3, first_frame_ssim=0.9),
        meta("pass", 4, first_frame_ssim=0.95, repeated_frames=1),
        meta("pass", 5, first_frame_ssim=0.8, cuts=1),
        meta("pass", 6, first_frame_ssim=0.96),
    ]
    assert [one.seed for one in sorted(metas, key=trial.rank)] == [6, 3, 4, 5, 2, 1]
    assert len(trial.rank(metas[0])) == len(trial.RANKING)


MODEL = """
[slow]
family = "wan"
weights = { folder = "w" }
steps = 40
rate = "24000/1001"
first_frame = { error = "off", flag = 0.7 }
parameters = { num_inference_steps = "honoured" }
[few]
family = "ltx"
vae_dtype = "bf16"
weights = { hub = "a/b", files = ["*.safetensors"] }
steps = 3
schedule = { sigmas = [1.0, 0.7, 0.4] }
call = { decode_timestep = 0.05 }
licence = { name = "A \\"quoted\\" one", url = "https://example.org" }
"""


def test_presets_are_the_same_when_they_are_read_again() -> None:
    presets = shipped_presets() | read_presets(MODEL, "own")
    text = presets_text(presets)
    assert set(tomllib.loads(text)) == {"slow", "few"}
    assert shipped_presets() | read_presets(text, "again") == presets
    assert presets["slow"].first_frame.error is None
    drafts = {name: trial.draft_preset(preset)[0] for name, preset in presets.items() if preset.family != "camera"}
    assert read_presets(presets_text(drafts), "again") == drafts


@settings(max_examples=40, deadline=None)
@given(st.dictionaries(st.text(), st.recursive(
    st.text() | st.booleans() | st.integers(-(2**63), 2**63 - 1) | st.floats(allow_nan=False, allow_infinity=False),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner), max_leaves=8)))  # fmt: skip
def test_toml_is_read_as_it_was_written(tables: dict[str, Any]) -> None:
    assert tomllib.loads(toml.dumps(tables)) == tables


def test_toml_has_no_word_for_nothing() -> None:
    with pytest.raises(TypeError, match="no word"):
        toml.dumps({"a": {"b": None}})


def test_a_draft_is_half_the_size_half_the_rate_and_fewer_steps_where_that_works() -> None:
    slow, few = read_presets(MODEL, "own").values()
    half, said = trial.draft_settings(Settings())
    assert (half.output.landscape, half.output.portrait, half.output.fps) == ((512, 288), (288, 512), 15)
    assert half.motion.luminance_step_max == pytest.approx(0.6)
    assert len(said) == 3
    smaller, changed = trial.draft_preset(slow)
    assert (smaller.steps, smaller.canvas.pixels) == (20, slow.canvas.pixels // 4)
    assert changed == ["slow: canvas 0.59 → 0.15 megapixels", "slow: 40 → 20 steps"]
    assert trial.draft_preset(few)[0].steps == 3, "what is distilled works with no other steps"
    assert trial.draft_preset(shipped_presets()["camera"]) == (shipped_presets()["camera"], [])
    params = GenerationParams(model="slow", fps=30, width=1024, height=578, num_inference_steps=30)
    entry = meta().entry.model_copy(update={"image_path": "in/a.b.png", "generation_params": params})
    made, _ = trial.draft_entry(entry, slow)
    new = made.generation_params
    assert (made.stem, new.fps, new.width, new.height, new.num_inference_steps) == ("a.b.draft", 15, 512, 288, 15)
    assert [take.stem for take in trial.takes(made, 7, 2)] == ["a.b.draft.seed7", "a.b.draft.seed8"]
    assert [take.generation_params.seed for take in trial.takes(made, 7, 2)] == [7, 8]


def test_a_model_needs_its_packages_and_the_camera_none(monkeypatch: pytest.MonkeyPatch) -> None:
    model, camera = read_presets(MODEL, "own")["slow"], shipped_presets()["camera"]
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "torch" else name)
    need_packages([camera])
    with pytest.raises(DropreelError, match=r"'slow' runs a model, and torch is not installed .*dropreel\[gpu\]"):
        need_packages([camera, model])


def test_a_device_that_is_not_here_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    camera: list[Preset] = [shipped_presets()["camera"]]
    monkeypatch.setattr("core.cards.open_nvml", lambda: None)
    assert environment_for("auto", camera) == environment_for("cpu", camera) == {"CUDA_VISIBLE_DEVICES": ""}
    with pytest.raises(DropreelError, match="nvidia-smi"):
        environment_for("cuda", camera)
    monkeypatch.setattr("sys.platform", "linux")
    with pytest.raises(DropreelError, match="no Mac"):
        environment_for("mps", camera)
