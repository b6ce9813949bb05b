"""Presets are data: every shipped table is whole, and a wrong one says which file, table and key, and what to do."""

from __future__ import annotations

import json
from fractions import Fraction
from pathlib import Path

import pytest
from pydantic import ValidationError

from core.errors import BadSettings
from core.generate.family import family
from core.generate.memory import largest, misfit, predict
from core.generate.presets import PARAMETERS, PRESETS_FILE, Preset, presets_of, read_presets, shipped_presets
from core.generate.studio import GenerationSettings
from core.generate.weights import look
from core.motion import MotionType
from core.settings import load_settings

OWN = """
[mine]
family = "wan"
weights = { folder = "mine" }
"""
SHIPPED = shipped_presets()
MODELS = {name: preset for name, preset in SHIPPED.items() if preset.family != "camera"}


def test_all_that_the_studio_compares_are_shipped() -> None:
    assert set(SHIPPED) == {
        "camera",
        "wan2.2-i2v-a14b",
        "wan2.2-i2v-a14b-4step",
        "wan2.2-ti2v-5b",
        "hunyuanvideo-i2v",
        "hunyuanvideo-1.5-i2v",
        "hunyuanvideo-1.5-i2v-step-distilled",
        "ltx-video-2b-distilled",
        "ltx-2-distilled",
        "stable_video_diffusion_v1.1",
        "mochi-1",
    }


@pytest.mark.parametrize("preset", MODELS.values(), ids=MODELS)
def test_a_shipped_model_is_whole(preset: Preset) -> None:
    kind = family(preset.family)
    assert preset.weights
    assert preset.weights.hub
    assert preset.licence
    assert preset.licence.url.startswith("https://")
    assert set(preset.call) <= kind.call_keys
    assert set(preset.memory) <= {*kind.denoisers, "vae"}, "these are what is loaded for every clip"
    assert preset.camera != "endpoints" or kind.takes_last
    assert (preset.frames_max - 1) % kind.frame_step == 0, "the last frames would never be made"
    if preset.long == "stretch":
        natural = (preset.frames_max - 1) / preset.rate
        assert natural * Fraction(str(preset.stretch_max)) >= Fraction(239, 30), "8 s at 30 a second"
    for source in (preset.weights, *preset.components.values()):
        assert source.file is None or source.config


@pytest.mark.parametrize("preset", SHIPPED.values(), ids=SHIPPED)
@pytest.mark.parametrize("motion", MotionType)
def test_what_keyframes_writes_is_what_the_preset_takes(preset: Preset, motion: MotionType) -> None:
    written = GenerationSettings().params(motion, 0.6, preset.studio).model_dump(exclude_none=True)
    assert set(written) - {"model", "fps"} == set(preset.studio)
    assert "num_inference_steps" not in preset.studio or not preset.fixed_steps


@pytest.mark.parametrize("preset", MODELS.values(), ids=MODELS)
def test_a_shipped_models_largest_clip_is_predicted_to_fit_24_gb(
    preset: Preset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    found = look(preset, GenerationSettings(), tmp_path)
    forecast = predict(preset, found, largest(preset))
    assert forecast.unknown == ()
    assert misfit(forecast, 24 << 30, "the card") is None


def test_the_studios_model_honours_the_studios_parameters() -> None:
    svd = SHIPPED["stable_video_diffusion_v1.1"]
    assert set(svd.studio) == set(PARAMETERS)
    assert svd.honoured == set(PARAMETERS) - {"camera_motion"}
    written = GenerationSettings().params(MotionType.zoom_in, 0.6, svd.studio)
    assert (written.motion_bucket_id, written.num_inference_steps, written.decode_chunk_size) == (76, 25, 8)


def test_the_throughput_preset_makes_few_tokens() -> None:
    ltx = SHIPPED["ltx-video-2b-distilled"]
    frames = family("ltx").frames(4 * 15 + 1)
    assert ((frames - 1) // 8 + 1) * (ltx.canvas.pixels // 32**2) == 5184
    assert Fraction(30) / ltx.rate == 2


def test_the_hunyuan_licence_excludes_three_regions() -> None:
    excluding = {name for name, preset in MODELS.items() if preset.licence and preset.licence.excludes}
    assert excluding == {name for name in MODELS if name.startswith("hunyuan")}
    assert {MODELS[name].licence.excludes for name in excluding} == {("EU", "UK", "KR")}  # type: ignore[union-attr]


def test_a_homes_own_table_joins_the_shipped_ones_or_stands_in_for_one(tmp_path: Path) -> None:
    (tmp_path / PRESETS_FILE).write_text(
        OWN + '["mochi-1"]\nfamily = "mochi"\nweights = { folder = "/weights/mochi" }\n'
    )
    found = presets_of(tmp_path)
    assert set(found) == set(SHIPPED) | {"mine"}
    assert found["mine"].weights is not None
    assert found["mine"].weights.folder == Path("mine")
    assert found["mochi-1"].approximate == ""
    assert SHIPPED["mochi-1"].approximate, "those of the project stay as they are"


def test_the_settings_of_a_home_know_its_presets(tmp_path: Path) -> None:
    (tmp_path / "dropreel.toml").write_text('[generation]\nmodel = "mine"\n')
    with pytest.raises(BadSettings, match=r"generation\.model: there is no preset 'mine'.*presets\.toml"):
        load_settings(tmp_path)
    (tmp_path / PRESETS_FILE).write_text(OWN)
    settings, _ = load_settings(tmp_path)
    assert settings.presets["mine"].family == "wan"


WRONG = {
    "a key that is none": ("frames_maximum = 3", "mine.frames_maximum", "no such key"),
    "a key of a table that is none": ("canvas = { pixel = 3 }", "mine.canvas.pixel", "no such key"),
    "a name inside": ('name = "yours"', "mine.name", "no such key"),
    "an unknown family": ('family = "sora"', "mine.family", "hunyuan15"),
    "a rate that is none": ('rate = "fast"', "mine.rate", "whole number"),
    "a rate of nothing": ("rate = 0", "mine.rate", "above 0"),
    "a fraction of nothing": ('rate = "24/0"', "mine.rate", "whole number"),
    "a parameter left unsaid": ('parameters = { motion_bucket_id = "no" }', "mine.parameters", '"translated: to what"'),
    "an unknown parameter": ('parameters = { bucket = "honoured" }', "mine.parameters.bucket", "motion_bucket_id"),
    "studio beyond parameters": ('studio = ["camera_motion"]', "mine", "camera_motion"),
    "one level too few": ("steps = 4\nschedule = { sigmas = [1.0, 0.5] }", "mine", "2 for 4 steps"),
    "an attention that fetches code": ('attention = "sage_hub"', "mine", "code that is fetched"),
    "a cache that takes turns": ("together = 2\ncache = {}", "mine", "exclude each other"),
    "a file without its config": ('components = { vae = { folder = "v", file = "v.safetensors" } }', "mine", "config"),
    "a pickle": ('components = { vae = { folder = "v", file = "v.pt" } }', "mine.components.vae", "run code"),
    "two places": ('components = { vae = { folder = "v", hub = "a/b" } }', "mine.components.vae", "either hub"),
    "no hub id": ('components = { vae = { hub = "https://a/b" } }', "mine.components.vae.hub", "got https://a/b"),
    "two mechanisms": ('memory = { vae = { storage = "fp8", residency = "blocks" } }', "mine.memory.vae", "mechanism"),
    "an unknown place": ('prompt = { template = "{captions}" }', "mine.prompt.template", "{captions}"),
    "a canvas out of order": ("canvas = { pixels = 1000000 }", "mine.canvas", "above pixels_max"),
    "the camera's own means": ('camera = "path"', "mine", "camera"),
    "an argument of another family": ("call = { decode_timestep = 0.05 }", "mine", "call.decode_timestep"),
    "no last frame": ('family = "svd"\ncamera = "endpoints"', "mine", "no last frame"),
    "no two passes": ('upsampler = { source = { folder = "u" }, timesteps = [1] }', "mine", "upsampler"),
    "no number": ("guidance = nan", "mine.guidance", "finite"),
}  # fmt: skip


@pytest.mark.parametrize(("line", "key", "says"), WRONG.values(), ids=WRONG)
def test_a_wrong_key_is_named_with_file_and_remedy(line: str, key: str, says: str) -> None:
    changed = line.partition(" = ")[0]
    table = "\n".join(kept for kept in OWN.splitlines() if not kept.startswith(f"{changed} ="))
    with pytest.raises(BadSettings) as error:
        read_presets(f"{table}\n{line}\n", "/home/presets.toml")
    said = str(error.value)
    assert said.startswith(f"/home/presets.toml: {key}: ")
    assert says in said
    assert said.endswith(".")


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("[mine\n", "is not TOML"),
        ('"wan 2" = 3\n', "'wan 2' is no preset"),
        ('["a b"]\nfamily = "wan"\n', "'a b' is no preset"),
        (OWN.replace("[mine]", "[wan2.2-mine]"), "wan2.2-mine: there is no such key; a preset's name that holds a '.'"),
        ("[mine]\n", "mine.family: it is missing"),
    ],
)
def test_a_wrong_file_is_named(text: str, says: str) -> None:
    with pytest.raises(BadSettings) as error:
        read_presets(text, "p.toml")
    assert str(error.value).startswith("p.toml")
    assert says in str(error.value)


def test_a_file_that_is_no_text_is_named(tmp_path: Path) -> None:
    (tmp_path / PRESETS_FILE).write_bytes(b"# caf\xe9\n" + OWN.encode())
    with pytest.raises(BadSettings, match=r"presets\.toml is not UTF-8.*Save it"):
        presets_of(tmp_path)


def test_without_a_file_of_its_own_a_home_has_the_shipped_presets(tmp_path: Path) -> None:
    assert presets_of(tmp_path) == SHIPPED


@pytest.mark.parametrize("name", MODELS)
def test_a_step_cache_is_for_the_families_that_can_skip_blocks(name: str) -> None:
    table = MODELS[name].model_dump(mode="json") | {"together": 1, "cache": {"threshold": 0.1}}
    if MODELS[name].family in {"wan", "ltx", "mochi"}:
        assert Preset.model_validate(table).cache is not None
    else:
        with pytest.raises(ValidationError, match=r"cache: the family .* runs every step whole"):
            Preset.model_validate(table)


@pytest.mark.parametrize("preset", SHIPPED.values(), ids=SHIPPED)
def test_a_preset_can_be_read_from_what_is_recorded_of_it(preset: Preset) -> None:
    assert Preset.model_validate(json.loads(json.dumps(preset.model_dump(mode="json"), allow_nan=False))) == preset


def test_rates_are_exact() -> None:
    (preset,) = read_presets(OWN + 'rate = "24000/1001"\n', "p").values()
    assert preset.rate == Fraction(24000, 1001)
