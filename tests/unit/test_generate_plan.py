"""What a model would be asked: canvas, frames, parameters and terms, decided exactly before any GPU second."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from typer.testing import CliRunner

from core.contract import BatchAck, Clip, Keyframe, Manifest, Rejection, load, parse
from core.errors import Refused
from core.examine import judge_entry
from core.generate.family import family
from core.generate.plan import STRETCH_MAX, Plan, make_plan, plan_of
from core.generate.presets import PRESETS_FILE, Preset, shipped_presets
from core.generate.prompts import clip_caption
from core.generate.studio import GenerationSettings
from core.interpolate.plan import plan as samples_of
from core.motion import Rect, Size, frame_count, on_canvas
from core.safety import SIDECAR_NAMES
from core.settings import Settings
from daemons import cli
from daemons.cli.app import app
from tests.house import SIDECAR as DROPPED
from tests.house import House, picture
from tests.unit.living import at_work, settle
from tests.unit.test_contract import MANIFEST

cli.load("check")

MODELS = {name: preset for name, preset in shipped_presets().items() if preset.family != "camera"}
ANYWHERE = GenerationSettings(approximate=True, region="US")
PORTRAIT, LANDSCAPE = (576, 1024), (1024, 576)


def entry(start: Any = (0, 0, 1, 1), end: Any = None, seconds: float = 4.0, **params: Any) -> Keyframe:
    """An entry of this path."""
    motion = {"type": "zoom_in", "start_rect": start, "end_rect": end or start, "duration_sec": seconds}
    return Keyframe.model_validate({
        "image_path": "a.png", "motion": motion, "generation_params": {"model": "m", "fps": 30} | params,
    })  # fmt: skip


def preset(**changes: Any) -> Preset:
    """A preset of family ``wan``: sides of 32, frames 4k + 1."""
    return Preset.model_validate({"name": "m", "family": "wan", "weights": {"folder": "m"}} | changes)


def made(asked: Keyframe, picture: Size = (1152, 2048), output: Size = PORTRAIT, model: Preset | None = None) -> Plan:
    """The plan of an entry."""
    return make_plan(asked, picture, output, model or preset(), seed=1, prompt="", rules=ANYWHERE)


def made_or_not(asked: Keyframe, picture: Size, output: Size, model: Preset) -> Plan | None:
    """The plan, or None where there is no canvas for it, and that is the reason given."""
    try:
        return made(asked, picture, output, model)
    except Refused as error:
        if error.finding.code not in {"view_too_close", "canvas_impossible"}:
            raise
        return None


def refusal(asked: Keyframe, model: Preset, rules: GenerationSettings = ANYWHERE) -> Any:
    """The finding with which an entry is refused."""
    with pytest.raises(Refused) as error:
        make_plan(asked, (1152, 2048), PORTRAIT, model, seed=1, prompt="", rules=rules)
    assert error.value.finding.field
    assert error.value.finding.remedy
    return error.value.finding


# Canvas

sides = st.integers(300, 4000)
parts = st.floats(0.0, 1.0)


@st.composite
def rects(draw: st.DrawFn) -> Rect:
    """Any view that is not tiny."""
    width, height = draw(st.floats(0.2, 1.0)), draw(st.floats(0.2, 1.0))
    x, y = draw(parts) * (1 - width), draw(parts) * (1 - height)
    return Rect(x, y, min(1.0, x + width), min(1.0, y + height))


@settings(max_examples=150, deadline=None)
@given(rects(), rects(), st.tuples(sides, sides), st.sampled_from(sorted(MODELS)), st.booleans())
def test_any_canvas_shows_the_whole_path_sharply_enough_and_hardly_stretched(
    start: Rect, end: Rect, picture: Size, name: str, portrait: bool
) -> None:
    model, kind = MODELS[name], family(MODELS[name].family)
    output = PORTRAIT if portrait else LANDSCAPE
    asked = entry(start, end)
    plan = made_or_not(asked, picture, output, model)
    if plan is None:
        return
    width, height = plan.canvas
    assert width % kind.multiple == height % kind.multiple == 0
    assert width * height <= model.canvas.pixels_max
    assert kind.makes(plan.canvas, model)
    path = asked.motion.path.fitted(picture, output)
    for number in range(33):
        seen = path.view(number / 32)
        assert plan.view.x1 <= seen.x1 < seen.x2 <= plan.view.x2
        assert plan.view.y1 <= seen.y1 < seen.y2 <= plan.view.y2
        there = on_canvas(seen, plan.view)
        assert 0 <= there.x1 < there.x2 <= 1
        assert 0 <= there.y1 < there.y2 <= 1
        assert there.width * width >= model.canvas.resolution_min * output[0] * (1 - 1e-6)
        assert there.height * height >= model.canvas.resolution_min * output[1] * (1 - 1e-6)
    square = (width / (plan.view.width * picture[0])) / (height / (plan.view.height * picture[1]))
    assert plan.stretched == pytest.approx(square)
    assert abs(np.log(square)) <= STRETCH_MAX
    assert 0 <= plan.view.x1 < plan.view.x2 <= 1
    assert 0 <= plan.view.y1 < plan.view.y2 <= 1


@settings(max_examples=100, deadline=None)
@given(rects(), rects(), st.tuples(sides, sides))
def test_between_two_views_both_lie_alike_on_the_canvas(start: Rect, end: Rect, picture: Size) -> None:
    asked, model = entry(start, end), preset(camera="endpoints")
    path = asked.motion.path.fitted(picture, PORTRAIT)
    plan = made_or_not(asked, picture, PORTRAIT, model)
    if plan is None:
        return
    assert plan.last_view is not None
    first, last = on_canvas(path.start, plan.view), on_canvas(path.end, plan.last_view)
    assert last == pytest.approx(first, abs=1e-9)
    assert first.width * plan.canvas[0] >= 0.5 * PORTRAIT[0] * (1 - 1e-6)


@pytest.mark.parametrize(
    ("picture", "output", "name"),
    [
        ((1152, 2048), PORTRAIT, "wan2.2-i2v-a14b"),
        ((2048, 1152), LANDSCAPE, "ltx-video-2b-distilled"),
        ((1152, 2048), PORTRAIT, "ltx-2-distilled"),
        ((1152, 2048), PORTRAIT, "stable_video_diffusion_v1.1"),
        ((3000, 3000), PORTRAIT, "wan2.2-ti2v-5b"),
    ],
)
def test_where_the_outputs_shape_fits_the_canvas_is_the_output(picture: Size, output: Size, name: str) -> None:
    plan = made(entry((0.1, 0.1, 0.9, 0.9), (0.2, 0.2, 0.8, 0.8)), picture, output, MODELS[name])
    assert (plan.canvas, plan.stretched) == (output, 1.0)


def test_a_close_view_asks_for_a_larger_canvas_and_too_close_a_one_is_refused() -> None:
    small, large = {"pixels": 147456, "pixels_max": 589824}, entry((0, 0, 1, 1), (0.25, 0.25, 0.75, 0.75))
    assert made(entry(), model=preset(canvas=small)).canvas == (288, 512)
    assert made(large, model=preset(canvas=small)).canvas == (576, 1024)
    closer = entry((0, 0, 1, 1), (0.26, 0.26, 0.74, 0.74))
    finding = refusal(closer, preset(canvas=small))
    assert (finding.code, finding.field, finding.limit) == ("view_too_close", "motion", 589824)


def test_a_strip_that_no_canvas_has_the_shape_of_is_refused() -> None:
    """The whole height is seen, so the view cannot grow, and this family makes no picture that oblong."""
    asked, model = entry((0, 0, 0.1, 1), (0.9, 0, 1, 1)), MODELS["hunyuanvideo-1.5-i2v"]
    with pytest.raises(Refused) as error:
        make_plan(asked, (6000, 1000), (96, 160), model, seed=1, prompt="", rules=ANYWHERE)
    assert error.value.finding.code in {"canvas_impossible", "view_too_close"}


# Frames


@settings(max_examples=200, deadline=None)
@given(
    st.sampled_from(sorted(MODELS)), st.floats(0.1, 12).map(lambda s: round(s, 2)), st.sampled_from([24, 25, 30, 60])
)
def test_base_frames_reach_the_last_delivered_one_or_the_refusal_says_what_would(
    name: str, seconds: float, fps: int
) -> None:
    model, kind = MODELS[name], family(MODELS[name].family)
    try:
        plan = made(entry(seconds=seconds, fps=fps), model=model)
    except Refused as error:
        finding = error.finding
        assert (finding.code, finding.field) == ("clip_too_long", "motion.duration_sec")
        assert isinstance(finding.limit, float)
        allowed = int(finding.limit * 10) / 10
        assert f"{allowed:g} s or less" in (finding.remedy or "")
        assert made(entry(seconds=allowed, fps=fps), model=model).frames <= model.frames_max
        return
    assert kind.frames(plan.frames) == plan.frames <= model.frames_max
    delivered = samples_of(plan.frames, plan.rate, seconds, fps)
    assert len(delivered) == frame_count(seconds, fps)
    exact = [Fraction(number) * plan.rate / fps for number in range(len(delivered))]
    assert [sample.source + sample.t for sample in delivered] == exact, "none is held: there is a base frame for all"
    if plan.slowed == 1:
        assert plan.rate == model.rate
        assert plan.frames - 1 < (len(delivered) - 1) * model.rate / fps + kind.frame_step + 1, (
            "none is made for nothing"
        )
    else:
        assert model.long == "stretch"
        assert 1 < plan.slowed <= model.stretch_max
        assert plan.slowed == pytest.approx(float(model.rate / plan.rate))


def test_a_clip_that_is_refused_or_stretched() -> None:
    asked = entry(seconds=6.0)
    finding = refusal(asked, preset(rate=16, frames_max=81))
    assert (finding.code, finding.value, finding.limit) == ("clip_too_long", 6.0, 5.0)
    assert finding.remedy == "Make it 5 s or less, or choose another model."
    plan = made(asked, model=preset(rate=16, frames_max=83, long="stretch", stretch_max=1.2))
    assert (plan.frames, plan.rate) == (81, Fraction(80 * 30, 179))
    assert plan.slowed == pytest.approx(1.19333, abs=1e-5)
    assert refusal(asked, preset(rate=16, frames_max=81, long="stretch", stretch_max=1.1)).limit == 5.5


# Parameters and terms


def test_what_the_preset_has_nothing_for_is_refused() -> None:
    model = preset(parameters={"decode_chunk_size": "honoured"})
    finding = refusal(entry(motion_bucket_id=127), model)
    assert (finding.code, finding.field, finding.value) == (
        "parameter_refused", "generation_params.motion_bucket_id", "127",
    )  # fmt: skip
    assert "decode_chunk_size" in finding.remedy


def test_a_translated_parameter_is_recorded_and_an_honoured_one_is_used() -> None:
    translated = preset(parameters={"num_inference_steps": "translated: nothing"})
    plan = made(entry(num_inference_steps=7), model=translated)
    assert (plan.steps, plan.parameters) == (30, {"num_inference_steps": "translated: nothing"})
    plan = made(entry(num_inference_steps=7), model=preset(parameters={"num_inference_steps": "honoured"}))
    assert (plan.steps, plan.values, plan.parameters) == (
        7, {"num_inference_steps": 7}, {"num_inference_steps": "honoured"},
    )  # fmt: skip


def test_a_distilled_model_is_refused_other_steps_than_its_own() -> None:
    model = MODELS["wan2.2-i2v-a14b-4step"]
    assert made(entry(num_inference_steps=4), model=model).steps == 4
    finding = refusal(entry(num_inference_steps=25), model)
    assert (finding.field, finding.limit) == ("generation_params.num_inference_steps", 4)


@pytest.mark.parametrize(("steps", "limit"), [(1, 2), (201, 200), (1000, 200)])
def test_steps_that_no_schedule_has_are_refused(steps: int, limit: int) -> None:
    honoured = {"num_inference_steps": "honoured"}
    for model in (preset(parameters=honoured), MODELS["mochi-1"]):
        finding = refusal(entry(num_inference_steps=steps), model)
        assert (finding.code, finding.field, finding.limit) == (
            "parameter_refused", "generation_params.num_inference_steps", limit,
        )  # fmt: skip
    assert made(entry(num_inference_steps=2), model=preset(parameters=honoured)).steps == 2
    assert made(entry(num_inference_steps=1), model=preset(parameters=honoured, steps=1)).steps == 1, "its own"
    assert made(entry(num_inference_steps=steps), model=preset(parameters={"num_inference_steps": "translated: no"}))


@pytest.mark.parametrize(
    ("asked", "field", "value", "limit"),
    [
        ({"min_guidance_scale": 3.0, "max_guidance_scale": 1.0}, "min_guidance_scale", 3.0, 1.0),
        ({"min_guidance_scale": 3.5}, "min_guidance_scale", 3.5, 3.0),
        ({"max_guidance_scale": 0.5}, "max_guidance_scale", 0.5, 1.0),
    ],
)
def test_guidance_that_would_shrink_along_the_clip_is_refused(
    asked: dict[str, float], field: str, value: float, limit: float
) -> None:
    finding = refusal(entry(**asked), MODELS["stable_video_diffusion_v1.1"])
    assert (finding.code, finding.field, finding.value, finding.limit) == (
        "parameter_refused", f"generation_params.{field}", value, limit,
    )  # fmt: skip


def test_the_plans_guidance_is_what_the_last_frame_gets() -> None:
    svd = MODELS["stable_video_diffusion_v1.1"]
    for asked, model, guidance in (
        ({}, svd, 3.0),
        ({"max_guidance_scale": 2.0, "min_guidance_scale": 2.0}, svd, 2.0),
        ({}, svd.model_copy(update={"call": svd.call | {"max_guidance_scale": 4.0}}), 4.0),
        ({"max_guidance_scale": 1.0}, svd, 1.0),
    ):
        plan = made(entry(**asked), model=model)
        black = np.zeros((plan.canvas[1], plan.canvas[0], 3), np.uint8)
        called = family("svd").call(plan, model, black, None)
        assert plan.guidance == called["max_guidance_scale"] == guidance
    assert not plan.guided


def test_the_studios_model_is_given_all_that_the_studio_writes() -> None:
    svd = MODELS["stable_video_diffusion_v1.1"]
    plan = made(entry(motion_bucket_id=76, noise_aug_strength=0.02, decode_chunk_size=8, num_inference_steps=25,
                      min_guidance_scale=1.0, max_guidance_scale=3.0, camera_motion="zoom_in"), model=svd)  # fmt: skip
    assert {name for name, word in plan.parameters.items() if word == "honoured"} == set(plan.values) - {
        "camera_motion"
    }
    assert (plan.values["motion_bucket_id"], plan.steps) == (76, 25)


@pytest.mark.parametrize("region", ["XX", "de", "USA", "D", "SU"])
def test_a_region_is_a_country_that_there_is(region: str) -> None:
    with pytest.raises(ValidationError, match="ISO 3166-1"):
        GenerationSettings(region=region)


@pytest.mark.parametrize(
    ("region", "code"),
    [("", "region_unknown"), ("DE", "licence_excludes"), ("EU", "licence_excludes"), ("GB", "licence_excludes"),
     ("UK", "licence_excludes"), ("KR", "licence_excludes"), ("US", None), ("CH", None)],
)  # fmt: skip
def test_a_licence_that_excludes_where_the_server_is(region: str, code: str | None) -> None:
    model, rules = MODELS["hunyuanvideo-i2v"], GenerationSettings(region=region)
    if code is None:
        assert make_plan(entry(), (1152, 2048), PORTRAIT, model, seed=1, prompt="", rules=rules).frames == 97
    else:
        finding = refusal(entry(), model, rules)
        assert (finding.code, finding.field) == (code, "generation_params.model")
        assert "EU, UK, KR" in finding.message
    wan = make_plan(entry(), (1152, 2048), PORTRAIT, preset(), seed=1, prompt="", rules=rules)
    assert wan.frames == 97, "others are used anywhere"


def test_what_only_approximates_is_refused_unless_the_settings_allow_it() -> None:
    finding = refusal(entry(), MODELS["mochi-1"], GenerationSettings())
    assert finding.code == "model_approximate"
    assert "generation.approximate" in finding.remedy
    assert made(entry(), model=MODELS["mochi-1"]).canvas == (480, 848)


# The whole of an entry, as examine, intake and check judge it


def example(model: str, **params: Any) -> Keyframe:
    """The design's example, made by another model."""
    whole = json.loads(MANIFEST)
    (given_entry,) = whole["keyframes"]
    given_entry["generation_params"] = {"model": model, "fps": 30, "seed": 42} | params
    return parse(Manifest, json.dumps(whole).encode(), "manifest.json").keyframes[0]


def home(**generation: Any) -> Settings:
    """Settings that allow every preset."""
    return Settings.model_validate({
        "generation": {"approximate": True, "region": "US"} | generation,
        "motion": {"speed_max": 9, "upscale_max": 9},
    })  # fmt: skip


def grey(width: int = 288, height: int = 512) -> Any:
    """A picture without luminance to speak of."""
    return np.full((height, width, 3), 128, np.uint8)


EXPECTED = {
    "wan2.2-i2v-a14b": (81, PORTRAIT, 1.19),
    "wan2.2-i2v-a14b-4step": (81, PORTRAIT, 1.19),
    "wan2.2-ti2v-5b": (121, PORTRAIT, 1.19),
    "hunyuanvideo-i2v": (129, PORTRAIT, 1.12),
    "hunyuanvideo-1.5-i2v": (121, (480, 848), 1.19),
    "hunyuanvideo-1.5-i2v-step-distilled": (121, (480, 848), 1.19),
    "ltx-video-2b-distilled": (97, PORTRAIT, 1.0),
    "ltx-2-distilled": (121, PORTRAIT, 1.19),
    "stable_video_diffusion_v1.1": (25, PORTRAIT, 1.49),
    "mochi-1": (121, (480, 848), 1.49),
}


@pytest.mark.parametrize("name", MODELS)
def test_every_model_plans_the_designs_example(name: str) -> None:
    """Six seconds from four fifths of the keyframe to two."""
    judged = judge_entry(example(name), grey(), ("img_001.caption", b"1girl, solo"), home())
    assert [finding for finding in judged.findings if finding.severity == "error"] == []
    assert judged.plan is not None
    frames, canvas, slowed = EXPECTED[name]
    assert (judged.plan.frames, judged.plan.canvas, round(judged.plan.slowed, 2)) == (frames, canvas, slowed)
    assert ("one girl" in judged.plan.prompt) == family(MODELS[name].family).has_prompt
    assert ("clip_slowed" in {finding.code for finding in judged.findings}) == (slowed > 1)


def test_the_same_entry_makes_the_same_plan() -> None:
    asked, rules = example("ltx-video-2b-distilled"), home(prompt="A barn.")
    first = plan_of(42, asked, (288, 512), "", rules)
    assert plan_of(42, asked, (288, 512), "", rules) == first
    assert first == replace(plan_of(43, asked, (288, 512), "", rules), seed=42)
    assert (first.seed, first.prompt) == (42, "A barn. The camera is static.")


@pytest.mark.parametrize(
    ("changes", "caption", "code", "field"),
    [
        ({"model": "gpt"}, None, "model_unknown", "generation_params.model"),
        ({"noise_aug_strength": 0.5}, None, "parameter_refused", "generation_params.noise_aug_strength"),
        ({}, b"caf\xe9", "caption_not_text", None),
        ({}, b"x" * 70000, "file_too_large", None),
    ],
)
def test_what_is_wrong_is_a_finding_and_no_crash(
    changes: dict[str, Any], caption: bytes | None, code: str, field: str | None
) -> None:
    asked = example(**{"model": "wan2.2-ti2v-5b"} | changes)
    judged = judge_entry(asked, grey(), caption and ("a.caption", caption), home())  # type: ignore[arg-type]
    assert [(finding.code, finding.field) for finding in judged.findings] == [(code, field)]
    assert judged.plan is None


def test_a_path_that_cannot_be_is_told_along_with_what_the_preset_refuses() -> None:
    asked = example("wan2.2-ti2v-5b", min_guidance_scale=1.0)
    motion = asked.motion.model_copy(update={"start_rect": Rect(0.9, 0.9, 0.1, 0.1)})
    judged = judge_entry(asked.model_copy(update={"motion": motion}), grey(), None, home())
    assert [finding.code for finding in judged.findings] == ["rect_out_of_order", "parameter_refused"]


def test_refusals_speak_of_a_sidecar_by_its_own_names() -> None:
    own = home()
    own.adopt(own.presets | {"short": MODELS["wan2.2-ti2v-5b"].model_copy(update={"long": "refuse", "name": "short"})})
    manifest = judge_entry(example("short"), grey(), None, own)
    sidecar = judge_entry(example("short"), grey(), None, own, SIDECAR_NAMES)
    assert [finding.field for finding in manifest.findings] == ["motion.duration_sec"]
    assert [finding.field for finding in sidecar.findings] == ["duration_sec"]


def test_the_camera_takes_anything_and_plans_nothing() -> None:
    judged = judge_entry(example("camera", motion_bucket_id=127, num_inference_steps=25), grey(), None, home())
    assert (judged.findings, judged.plan) == ([], None)
    assert set(judged.parameters) == {"motion_bucket_id", "num_inference_steps"}


def test_no_torch_is_needed_to_plan() -> None:
    """The Mac has none."""
    code = ("import sys; from core.generate.family import family; from core.settings import Settings; "
            "import core.examine, core.admission; "
            "[family(p.family) for p in Settings().presets.values() if p.family != 'camera']; "
            "sys.exit(bool({'torch', 'diffusers', 'transformers'} & set(sys.modules)))")  # fmt: skip
    assert subprocess.run([sys.executable, "-c", code], check=False, cwd=Path(__file__).parents[2]).returncode == 0


# In a home at work

SHORT = """
[short]
family = "wan"
weights = { folder = "short" }
rate = 24
frames_max = 25
"""


@contextlib.contextmanager
def home_with(tmp_path: Path, model: str) -> Iterator[House]:
    """A home that has one more preset, of one second; ``keyframes`` writes ``model``."""
    root = tmp_path / "home"
    root.mkdir()
    (root / PRESETS_FILE).write_text(SHORT)
    with at_work(root, gpu=False, more=f'[generation]\nmodel = "{model}"\n') as house:
        yield house


def by_hand(house: House, *entries: dict[str, Any], **files: bytes) -> None:
    """Put a batch into the inbox."""
    folder = house.home.gpu.inbox / "20250704_143022"
    folder.mkdir()
    for name, data in files.items():
        (folder / name.replace("__", ".")).write_bytes(data)
    whole = {"project_id": "p", "batch_id": folder.name, "keyframes": list(entries)}
    (folder / "manifest.json").write_text(json.dumps(whole))


def line(name: str, model: str, seconds: float = 1.0, **params: Any) -> dict[str, Any]:
    """An entry of a manifest."""
    return {
        "image_path": name, "generation_params": {"model": model, "fps": 10} | params,
        "motion": {"type": "static", "start_rect": [0, 0, 1, 1], "end_rect": [0, 0, 1, 1], "duration_sec": seconds},
    }  # fmt: skip


def test_intake_refuses_what_the_preset_cannot_make_and_takes_the_rest(tmp_path: Path) -> None:
    with home_with(tmp_path, "camera") as house:
        by_hand(house, line("a.png", "short"), line("b.png", "short", 2.0), line("c.png", "short", motion_bucket_id=3),
                line("d.png", "hunyuanvideo-i2v"), line("e.png", "mochi-1"), line("f.png", "short"),
                a__png=picture(1), b__png=picture(2), c__png=picture(3), d__png=picture(4), e__png=picture(5),
                f__png=picture(6), a__caption=b"A barn.\n", f__caption=b"\xff\xfe")  # fmt: skip
        settle(house)
        ack = load(BatchAck, house.home.gpu.batch_acks / "20250704_143022.json")
        said = {outcome.image_path: [(f.code, f.field) for f in outcome.findings] for outcome in ack.entries}
        assert said == {
            "a.png": [],
            "b.png": [("clip_too_long", "keyframes[1].motion.duration_sec")],
            "c.png": [("parameter_refused", "keyframes[2].generation_params.motion_bucket_id")],
            "d.png": [("region_unknown", "keyframes[3].generation_params.model")],
            "e.png": [("model_approximate", "keyframes[4].generation_params.model")],
            "f.png": [("caption_not_text", "keyframes[5]")],
        }
        assert all(finding.remedy for outcome in ack.entries for finding in outcome.findings)
        (clip,) = (house.home.gpu.rooms / "generate" / "ready").iterdir()
        assert clip_caption(clip) == "A barn.", "a caption beside a manifest written by hand goes with its picture"


def test_a_drop_that_the_preset_cannot_make_never_leaves_the_mac(tmp_path: Path) -> None:
    with home_with(tmp_path, "short") as house:
        house.drop("long", sidecar={**DROPPED, "duration_sec": 1.3})
        house.drop("good", image=picture(7), sidecar={**DROPPED, "duration_sec": 1.0})
        (house.home.mac.hot / "good.caption").write_text("1girl, solo")
        settle(house)
        (reason,) = (load(Rejection, path) for path in house.home.mac.rejected.glob("*/reason.json"))
        assert (reason.code, reason.field) == ("clip_too_long", "duration_sec")
        assert reason.remedy == "Make it 1 s or less, or choose another model."
        (clip,) = (house.home.gpu.rooms / "generate" / "ready").iterdir()
        assert clip_caption(clip) == "1girl, solo"
        taken = load(Clip, clip / "clip.json")
        settings = house.settings
        plan = plan_of(taken.seed, taken.entry, (144, 96), clip_caption(clip), settings)
        assert (plan.frames, plan.rate, plan.seed) == (25, Fraction(24), taken.seed)
        assert plan.prompt == "The picture shows one girl and solo. The camera is static."


def test_check_tells_what_a_preset_makes_of_an_entry(tmp_path: Path) -> None:
    (tmp_path / "dropreel.toml").touch()
    (tmp_path / "manifest.json").write_text(MANIFEST)
    (tmp_path / "img_001.png").write_bytes(picture(1, (1152, 2048)))
    ended = CliRunner().invoke(app, ["check", str(tmp_path / "manifest.json"), "--home", str(tmp_path), "--json"])
    findings = json.loads(ended.output)[f"{tmp_path / 'manifest.json'} keyframes[0]"]
    (plan,) = [found for found in findings if found["code"] == "plan"]
    assert plan["message"].startswith(
        "25 frames of 576×1024, 4.02235 a second, 1.49 times slower than they are meant; 25 "
    )
    parameters = {found["field"]: found["message"] for found in findings if found["code"] == "parameter"}
    assert parameters == {
        "generation_params.motion_bucket_id": "127 is honoured.",
        "generation_params.noise_aug_strength": "0.02 is honoured.",
    }
