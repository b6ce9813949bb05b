# mypy: disable-error-code="no-untyped-call"
"""Every family, tiny and with random weights, by the loader that takes the real ones."""

from __future__ import annotations

import copy
from collections import Counter
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import DiffusionPipeline
from diffusers.pipelines.hunyuan_video1_5.image_processor import HunyuanVideo15ImageProcessor, generate_crop_size_list
from diffusers.pipelines.ltx.modeling_latent_upsampler import LTXLatentUpsamplerModel
from numpy.typing import NDArray

from core.contract import GenerationParams, Keyframe, Motion
from core.errors import Refused
from core.generate import hunyuan15, mochi
from core.generate.family import Embeddings, Family, as_picture, family
from core.generate.loading import load_encoders, load_model
from core.generate.plan import Plan, make_plan
from core.generate.presets import Preset, Schedule, Source, Upsampler, read_presets
from core.generate.studio import GenerationSettings
from core.generate.weights import locate
from core.motion import MotionType, Rect
from tests import tiny

Pixels = NDArray[np.uint8]
# diffusers' Mochi computes its rotary table under a float32 autocast, which torch has for cards only.
pytestmark = pytest.mark.filterwarnings("ignore:In CPU autocast, but the target dtype is not supported:UserWarning")
CPU = torch.device("cpu")
PROMPTED = [kind for kind in tiny.KINDS if kind != "svd"]
FULL = Rect(0.0, 0.0, 1.0, 1.0)


@dataclass
class Loaded:
    """A tiny model as a worker has it."""

    preset: Preset
    family: Family
    pipe: Any
    encoders: Any

    def plan(self, seconds: float = 1.5, **asked: Any) -> Plan:
        """Of a still camera over the whole of a keyframe of 2:1."""
        params = GenerationParams(model=self.preset.name, fps=8, **asked)
        motion = Motion(type=MotionType.static, start_rect=FULL, end_rect=FULL, duration_sec=seconds)
        entry = Keyframe(image_path="a.png", motion=motion, generation_params=params)
        return make_plan(entry, (256, 128), (256, 128), self.preset, seed=7, prompt='A "red" fox.',
                         rules=GenerationSettings())  # fmt: skip

    def embed(self, plan: Plan, picture: Pixels) -> Embeddings:
        with torch.no_grad():
            return self.family.embed(self.encoders, plan, picture, CPU)

    def make(self, plan: Plan, embeddings: Embeddings, *, seed: int = 7) -> torch.Tensor:
        arguments = self.family.call(plan, self.preset, picture_of(plan), None) | embeddings
        arguments |= {"generator": torch.Generator().manual_seed(seed), "output_type": "pt"}
        pipe = copy.copy(self.pipe)  # as every clip has its own
        with torch.no_grad():
            return self.family.decode(pipe, self.family.run(pipe, arguments, self.preset))


@cache
def loaded(kind: tiny.Kind) -> Loaded:
    preset = read_presets(tiny.tiny_preset(kind), "presets.toml")[f"tiny-{kind}"]
    made = family(preset.family)
    located = locate(preset, GenerationSettings(), Path("/nowhere"))
    encoders = load_encoders(preset, made, located, CPU) if made.has_prompt else None
    return Loaded(preset, made, load_model(preset, made, located, CPU), encoders)


def picture_of(plan: Plan, seed: int = 1) -> Pixels:
    """A picture with large and small things in it, ``(H, W, 3)``."""
    width, height = plan.canvas
    coarse = np.random.default_rng(seed).integers(0, 256, (height // 16, width // 16, 3), dtype=np.uint8)
    return coarse.repeat(16, axis=0).repeat(16, axis=1)


def whole(kind: tiny.Kind) -> Any:
    """diffusers' own pipeline, encoders and all."""
    pipe = DiffusionPipeline.from_pretrained(tiny.saved(kind), local_files_only=True)
    pipe.set_progress_bar_config(disable=True)
    return pipe


@pytest.mark.parametrize("kind", tiny.KINDS)
def test_what_is_planned_is_made_and_made_again(kind: tiny.Kind) -> None:
    model = loaded(kind)
    plan = model.plan()
    runs: Counter[str] = Counter()
    for name in model.family.denoisers:
        if (module := getattr(model.pipe, name)) is not None:
            module.register_forward_pre_hook(lambda *_, name=name: runs.update([name]))
    embeddings = model.embed(plan, picture_of(plan)) if model.family.has_prompt else {}
    first = model.make(plan, embeddings)
    assert all(getattr(model.pipe, name) is None for name in model.family.encoders)
    assert all(tensor.device == CPU for tensor in embeddings.values())
    assert tuple(first.shape) == (plan.frames, 3, plan.canvas[1], plan.canvas[0])
    assert torch.isfinite(first).all()
    assert first.min() >= 0
    assert first.max() <= 1
    assert first.std() > 0.01
    assert runs.total() == model.family.forwards(plan, model.preset)
    assert torch.equal(model.make(plan, embeddings), first)
    assert not torch.equal(model.make(plan, embeddings, seed=8), first)


@pytest.mark.parametrize("kind", ["hunyuan", "hunyuan15", "ltx2", "wan_a14b"])
def test_exact_levels_are_what_the_model_is_run_at(kind: tiny.Kind) -> None:
    """Some pipelines ask for levels of their own, and refuse a scheduler that takes none."""
    preset = loaded(kind).preset.model_copy(update={"schedule": Schedule(sigmas=(1.0, 0.5), shift=3.0)})
    located = locate(preset, GenerationSettings(), Path("/nowhere"))
    model = Loaded(preset, loaded(kind).family, load_model(preset, loaded(kind).family, located, CPU), None)
    model.encoders = loaded(kind).encoders
    plan = model.plan()
    model.make(plan, model.embed(plan, picture_of(plan)))
    assert model.pipe.scheduler.timesteps.tolist() == [1000, 750]  # 3 · 0.5 / (1 + 2 · 0.5), in thousandths


@pytest.mark.parametrize("kind", PROMPTED)
def test_a_prompt_is_all_that_its_key_says(kind: tiny.Kind) -> None:
    model = loaded(kind)
    plan = model.plan()
    picture, other = picture_of(plan), picture_of(plan, seed=2)
    embeddings, again = model.embed(plan, picture), model.embed(plan, other)
    assert (model.family.prompt_key(plan, picture) == model.family.prompt_key(plan, other)) == all(
        torch.equal(embeddings[name], again[name]) for name in embeddings
    )
    assert (kind == "hunyuan") == (model.family.prompt_key(plan, picture) != model.family.prompt_key(plan, other))


@pytest.mark.parametrize("kind", PROMPTED)
def test_who_is_guided_by_nothing_is_not_taken_for_unguided(kind: tiny.Kind) -> None:
    model = loaded(kind)
    picture = picture_of(model.plan())
    plans = [replace(model.plan(), negative="", guidance=guidance) for guidance in (1.0, 3.0)]
    shapes = [{name: tensor.shape for name, tensor in model.embed(plan, picture).items()} for plan in plans]
    keys = [model.family.prompt_key(plan, picture) for plan in plans]
    assert (keys[0] == keys[1]) == (shapes[0] == shapes[1]) == (kind == "hunyuan")  # where it costs no second half


def test_hunyuan_is_given_what_its_pipeline_would_have_encoded() -> None:
    model = loaded("hunyuan")
    plan = model.plan()
    picture = picture_of(plan)
    made = model.make(plan, model.embed(plan, picture))
    given = {"image": as_picture(picture), "prompt": plan.prompt, "max_sequence_length": plan.max_tokens}
    size = {"width": plan.canvas[0], "height": plan.canvas[1], "num_frames": plan.frames + 4}
    theirs = whole("hunyuan")(**given, **size, num_inference_steps=plan.steps, guidance_scale=plan.guidance,
                              generator=torch.Generator().manual_seed(7), output_type="pt").frames[0]  # fmt: skip
    assert torch.equal(made, theirs)


@pytest.mark.parametrize("target", [tiny.HY15_TARGET, 640, 960])
def test_every_size_of_the_table_is_what_the_pipeline_makes_of_it(target: int) -> None:
    sizes = hunyuan15.sizes_of(target)
    assert sizes == {(wide, high) for high, wide in generate_crop_size_list(target, 16)}
    processor = HunyuanVideo15ImageProcessor(vae_scale_factor=16)
    for width, height in sizes:
        picture = hunyuan15._fitting(np.zeros((height, width, 3), dtype=np.uint8))
        assert processor.calculate_default_height_width(*picture.shape[:2], target) == (height, width)
    exactly = sum(processor.calculate_default_height_width(h, w, target) != (h, w) for w, h in sizes)
    assert exactly > 0  # why a picture is made a pixel longer


def test_the_pixel_that_is_too_much_is_cut_off_and_nothing_resampled() -> None:
    processor = HunyuanVideo15ImageProcessor(vae_scale_factor=16, do_resize=False)
    for width, height in ((480, 848), (848, 480), (640, 640)):
        picture = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
        seen = processor.resize(as_picture(hunyuan15._fitting(picture)), height, width, resize_mode="crop")
        assert np.array_equal(np.asarray(seen), picture)


def test_hunyuan15_weights_for_other_sizes_are_refused() -> None:
    model = loaded("hunyuan15")
    plan = model.plan()
    wrong = model.preset.model_copy(update={"call": {"target_size": 640}})
    with pytest.raises(Refused, match=r"target_size is 640.*for 96"):
        model.family.run(model.pipe, model.family.call(plan, wrong, picture_of(plan), None), wrong)


def test_svd_is_told_the_studios_parameters() -> None:
    model = loaded("svd")
    asked = {"motion_bucket_id": 33, "noise_aug_strength": 0.25, "decode_chunk_size": 2}
    plan = model.plan(**asked, min_guidance_scale=1.5, max_guidance_scale=2.0)
    told: list[torch.Tensor] = []
    hook = model.pipe.unet.register_forward_pre_hook(
        lambda _module, _args, kwargs: told.append(kwargs["added_time_ids"]), with_kwargs=True
    )
    made = model.make(plan, {})
    hook.remove()
    assert told[0].tolist() == [[5, 33, 0.25]] * 2  # one rate less than it is called, as it was trained
    arguments = model.family.call(plan, model.preset, picture_of(plan), None)
    assert (arguments["min_guidance_scale"], arguments["max_guidance_scale"]) == (1.5, 2.0)
    assert arguments["decode_chunk_size"] == 2
    assert not torch.equal(model.make(model.plan(**asked | {"motion_bucket_id": 34}), {}), made)


def _in_two_passes(folder: Path, *timesteps: float) -> Loaded:
    preset = loaded("ltx").preset.model_copy(update={
        "guidance": 1.0, "schedule": Schedule(timesteps=(1000, 500)), "call": {"image_cond_noise_scale": 0.0},
        "upsampler": Upsampler(source=Source(folder=folder), timesteps=timesteps),
    })  # fmt: skip
    located = locate(preset, GenerationSettings(), Path("/nowhere"))
    return Loaded(preset, loaded("ltx").family, load_model(preset, family("ltx"), located, CPU), loaded("ltx").encoders)


def test_ltx_in_two_passes_runs_every_step_that_changes_anything_and_no_other(tmp_path: Path) -> None:
    torch.manual_seed(0)
    LTXLatentUpsamplerModel(in_channels=8, mid_channels=32, num_blocks_per_stage=1).save_pretrained(tmp_path)
    made, runs = [], []
    for timesteps in ((1000, 909, 725, 421), (1000, 909, 725, 421, 0)):  # with and without a step at 0
        model = _in_two_passes(tmp_path, *timesteps)
        plan = model.plan()
        sizes: list[int] = []

        def count(_module: Any, _args: Any, given: dict[str, Any], sizes: list[int] = sizes) -> None:
            sizes.append(given["hidden_states"].shape[1])

        model.pipe.transformer.register_forward_pre_hook(count, with_kwargs=True)
        made.append(model.make(plan, model.embed(plan, picture_of(plan))))
        assert len(sizes) == model.family.forwards(plan, model.preset)
        assert sizes[plan.steps] > 2 * sizes[0], "the first pass is at half the size"
        runs.append(len(sizes))
    assert runs == [5, 6]
    assert torch.equal(*made)
    assert tuple(made[0].shape) == (plan.frames, 3, plan.canvas[1], plan.canvas[0])


def test_ltx2_makes_the_pipelines_own_frames_and_no_sound() -> None:
    model = loaded("ltx2")
    plan = model.plan()
    picture = picture_of(plan)

    def never(*_: Any, **__: Any) -> None:
        raise AssertionError("the sound was decoded")

    model.pipe.audio_vae.decode = never
    assert model.pipe.vocoder is None
    made = model.make(plan, model.embed(plan, picture))
    arguments = model.family.call(plan, model.preset, picture, None)
    theirs = whole("ltx2")(**arguments, prompt=plan.prompt, negative_prompt=plan.negative,
                           max_sequence_length=plan.max_tokens, generator=torch.Generator().manual_seed(7),
                           output_type="pt").frames[0]  # fmt: skip
    assert torch.equal(made, theirs)


def test_mochi_begins_with_the_decoders_own_picture_of_the_keyframe() -> None:
    model = loaded("mochi")
    plan = model.plan()
    picture = picture_of(plan)
    embeddings = model.embed(plan, picture)
    made, other = model.make(plan, embeddings), model.make(plan, embeddings, seed=8)
    with torch.no_grad():
        shot = mochi.latents_of(model.pipe, as_picture(picture), *plan.canvas)
        alone = model.family.decode(model.pipe, type("Output", (), {"frames": shot}))
    assert torch.allclose(made[0], alone[0], atol=1e-5)
    assert torch.allclose(other[0], alone[0], atol=1e-5)
    assert (made[6] - other[6]).abs().mean() > 0.01


def test_mochis_latents_of_a_still_clip_are_the_same_all_along() -> None:
    model = loaded("mochi")
    plan = model.plan()
    image = as_picture(picture_of(plan))
    pixels = model.pipe.video_processor.preprocess(image, height=plan.canvas[1], width=plan.canvas[0])
    with torch.no_grad():
        clip = model.pipe.vae.encode(pixels.unsqueeze(2).repeat(1, 1, 13, 1, 1)).latent_dist.mode()
        one = model.pipe.vae.encode(pixels.unsqueeze(2)).latent_dist.mode()
    assert clip.shape[2] == 3
    assert torch.allclose(clip, one.expand_as(clip), atol=1e-5)


def test_mochi_begins_at_its_strength() -> None:
    levels = mochi._levels(64, 0.9)
    assert levels[0] <= 0.9 < mochi._levels(64, 1.0)[64 - len(levels) - 1]
    assert mochi._levels(64, 1.0)[0] == 1
    assert len(mochi._levels(64, 1.0)) == 64
    assert len(mochi._levels(2, 0.01)) == 1
