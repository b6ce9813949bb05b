"""From files to a model that runs: single files, LoRAs, small decoders, caches, last frames, and what is refused."""

from __future__ import annotations

import json
import re
import shutil
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from core import frames, fsops
from core.errors import BadSettings, Refused
from core.generate.family import family
from core.generate.generator import Generator, Job, Made
from core.generate.loading import DTYPES, load_model
from core.generate.models import Models
from core.generate.plan import Plan
from core.generate.presets import Preset, Source
from core.generate.stage import prepare, rehearsal
from core.motion import Rect
from core.rooms import BASE_FILE, ClipFolder
from core.settings import load_settings
from tests import tiny
from tests.integration.test_generate_daemon import details, fed, house_with, made_by, model_of
from tests.integration.test_generator import CPU, bits, generator_of, jobs_of, located, preset_of, run
from tests.unit.test_taehv import public

pytestmark = pytest.mark.timeout(120)
WAN = [
    (r"condition_embedder\.time_embedder\.linear_1", "time_embedding.0"),
    (r"condition_embedder\.time_embedder\.linear_2", "time_embedding.2"),
    (r"condition_embedder\.text_embedder\.linear_1", "text_embedding.0"),
    (r"condition_embedder\.text_embedder\.linear_2", "text_embedding.2"),
    (r"condition_embedder\.time_proj", "time_projection.1"),
    (r"attn1\.", "self_attn."),
    (r"attn2\.", "cross_attn."),
    (r"to_out\.0", "o"),
    (r"to_([qkv])", r"\1"),
    (r"^scale_shift_table", "head.modulation"),
    (r"scale_shift_table", "modulation"),
    (r"^proj_out", "head.head"),
    (r"ffn\.net\.0\.proj", "ffn.0"),
    (r"ffn\.net\.2", "ffn.2"),
    (r"norm2", "norm3"),
]
"""From diffusers' names to those of Wan's makers."""
LTX = [
    (r"^proj_in", "patchify_proj"),
    (r"^time_embed", "adaln_single"),
    (r"norm_([qk])", r"\1_norm"),
    (r"^", "model.diffusion_model."),
]
LTX_VAE = [
    (r"up_blocks\.3\.upsamplers\.0", "up_blocks.8"),
    (r"up_blocks\.3", "up_blocks.9"),
    (r"up_blocks\.2\.upsamplers\.0", "up_blocks.5"),
    (r"up_blocks\.2", "up_blocks.6"),
    (r"up_blocks\.1\.", "up_blocks.3."),
    (r"up_blocks\.0\.", "up_blocks.1."),
    (r"decoder\.mid_block", "decoder.up_blocks.0"),
    (r"encoder\.mid_block", "encoder.down_blocks.9"),
    (r"down_blocks\.3\.", "down_blocks.8."),  # before the others, whose new names would be theirs
    (r"down_blocks\.2\.", "down_blocks.6."),
    (r"down_blocks\.1\.", "down_blocks.3."),
    (r"down_blocks\.0\.downsamplers\.0", "down_blocks.1"),
    (r"resnets", "res_blocks"),
    (r"latents_mean", "per_channel_statistics.mean-of-means"),
    (r"latents_std", "per_channel_statistics.std-of-means"),
    (r"^", "vae."),
]


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Prompts' embeddings, for the whole module."""
    return tmp_path_factory.mktemp("embeddings")


def loaded(preset: Preset) -> Any:
    return load_model(preset, family(preset.family), located(preset), CPU)


def in_its_makers_layout(kind: tiny.Kind, names: dict[str, list[tuple[str, str]]], file: Path) -> Path:
    """Components of a tiny pipeline as the one file that their makers would have made of them."""
    found = {}
    for component, rules in names.items():
        (part,) = (tiny.saved(kind) / component).glob("*.safetensors")
        for name, tensor in load_file(part).items():
            theirs = name
            for pattern, makers in rules:
                theirs = re.sub(pattern, makers, theirs)
            found[theirs] = tensor
    save_file(found, file)
    return file


def kept(module: torch.nn.Module) -> dict[str, tuple[torch.dtype, bytes]]:
    """Every tensor, also what is in no file, such as tables of angles."""
    tensors = {**dict(module.named_parameters()), **dict(module.named_buffers())}
    return {name: (tensor.dtype, tensor.detach().view(torch.uint8).numpy().tobytes())
            for name, tensor in tensors.items()}  # fmt: skip


@pytest.mark.parametrize(
    ("kind", "names"),
    [("wan_a14b", {"transformer": WAN}), ("ltx", {"transformer": LTX, "vae": LTX_VAE})],
)
@pytest.mark.parametrize("dtype", ["bf16", "fp16", "fp32"])
def test_a_makers_own_file_is_loaded_as_the_same_tensors(
    kind: tiny.Kind, names: dict[str, list[tuple[str, str]]], dtype: str, tmp_path: Path
) -> None:
    file = in_its_makers_layout(kind, names, tmp_path / "whole.safetensors")
    plain = preset_of(kind).model_copy(update={"dtype": dtype, "vae_dtype": dtype})
    elsewhere = {name: Source(folder=tmp_path, file=file.name, config=name) for name in names}
    theirs, ours = loaded(plain), loaded(plain.model_copy(update={"components": elsewhere}))
    for name in names:
        assert kept(getattr(ours, name)) == kept(getattr(theirs, name))
    types = {dtype for dtype, _ in kept(ours.transformer).values()}
    assert types == {DTYPES[dtype]} | ({torch.float32} if kind == "wan_a14b" else set())


def test_a_file_that_lacks_tensors_is_refused(tmp_path: Path) -> None:
    save_file({"head.head.weight": torch.zeros(64, 24)}, tmp_path / "other.safetensors")
    wrong = Source(folder=tmp_path, file="other.safetensors", config="transformer")
    with pytest.raises(BadSettings, match=r"other\.safetensors lacks tensors of 'transformer'"):
        loaded(preset_of("wan_a14b").model_copy(update={"components": {"transformer": wrong}}))


LORA = """
[[tiny-KIND.loras]]
source = { folder = 'FOLDER', file = 'lora.safetensors' }
component = 'COMPONENT'
weight = 0.5
"""
UNUSABLE = {
    "component": ("memory = { unet = { residency = 'turn' } }", "'unet' is none.*: transformer, transformer_2, vae"),
    "encoder": ("memory = { text_encoder = { residency = 'turn' } }", "'text_encoder' is none"),
    "lora": (
        "loras = [{ source = { folder = '.', files = ['*.json'] }, component = 'unet' }]",
        "'unet' is none",
    ),
    "scheduler": ("schedule = { scheduler = 'EulerScheduler' }", "no scheduler 'EulerScheduler'"),
    "no scheduler": ("schedule = { scheduler = 'WanPipeline' }", "no scheduler 'WanPipeline'"),
    "attention": ("attention = 'quick'", 'attention = "quick" cannot be used'),
    "attention elsewhere": ("attention = 'sage'", 'attention = "sage" cannot be used.*install'),
    "card": ("memory = { transformer = { storage = 'fp8_matmul' } }", "capability 8.9 or more; this is cpu"),
}


@pytest.mark.parametrize(("more", "says"), UNUSABLE.values(), ids=UNUSABLE)
def test_what_these_weights_or_this_machine_do_not_have_is_refused_before_any_is_read(
    more: str, says: str, tmp_path: Path
) -> None:
    """Attempts at a clip are for what may go well another time."""
    folder = shutil.copytree(tiny.saved("wan_a14b"), tmp_path / "weights" / "wan")
    for file in folder.rglob("*.safetensors"):
        file.write_bytes(b"not to be read")
    (tmp_path / "presets.toml").write_text(tiny.tiny_preset("wan_a14b", folder, more.replace("'.'", f"'{folder}'")))
    (tmp_path / "dropreel.toml").write_text('[generation]\nmodel = "tiny-wan_a14b"\n')
    settings, home = load_settings(tmp_path)
    with pytest.raises(Refused, match=says) as refused:
        Models(home.root, tmp_path, settings).get(settings.presets["tiny-wan_a14b"])
    assert refused.value.finding.code == "preset_unusable"


def lora_for(component: torch.nn.Module, folder: Path, prefix: str = "transformer") -> str:
    """Write a LoRA of every query of a component; the line of a preset that names it."""
    random = torch.Generator().manual_seed(0)
    tensors = {}
    for name, layer in component.named_modules():
        if name.endswith("to_q"):
            tensors[f"{prefix}.{name}.lora_A.weight"] = torch.randn((2, layer.in_features), generator=random)
            tensors[f"{prefix}.{name}.lora_B.weight"] = torch.randn((layer.out_features, 2), generator=random)
    save_file(tensors, folder / "lora.safetensors")
    return LORA.replace("FOLDER", str(folder))


@pytest.mark.parametrize(
    ("kind", "component"), [("wan_a14b", "transformer"), ("wan_a14b", "transformer_2"), ("ltx", "transformer")]
)
def test_a_lora_is_fused_into_its_component_and_no_other(
    kind: tiny.Kind, component: str, tmp_path: Path, cache: Path
) -> None:
    plain = generator_of(kind, cache)
    line = lora_for(getattr(plain._pipe, component), tmp_path).replace("COMPONENT", component).replace("KIND", kind)
    changed = generator_of(kind, cache, line)
    for name in plain._kind.denoisers:
        before, after = (getattr(each._pipe, name, None) for each in (plain, changed))
        if before is None or after is None:
            continue
        weights, tensors = after.state_dict(), load_file(tmp_path / "lora.safetensors")
        assert list(weights) == list(before.state_dict()), "nothing of the LoRA's own is left"
        for key, tensor in before.state_dict().items():
            layer = f"transformer.{key.removesuffix('.weight')}"
            if name == component and f"{layer}.lora_A.weight" in tensors:
                added = 0.5 * tensors[f"{layer}.lora_B.weight"] @ tensors[f"{layer}.lora_A.weight"]
                assert torch.allclose(weights[key], tensor + added, atol=1e-5)
            else:
                assert torch.equal(weights[key], tensor)
    jobs = jobs_of(plain.preset, 2)
    with_it = bits(run(changed, jobs))
    assert len(with_it) == 2
    assert all(with_it[name] != frames for name, frames in bits(run(plain, jobs)).items())
    assert bits(run(changed, jobs)) == with_it


@pytest.mark.parametrize(("kind", "decoder"), [("wan_a14b", "taew2_1"), ("wan_5b", "taew2_2")])
def test_a_tiny_decoder_makes_the_clips_of_a_round(kind: tiny.Kind, decoder: str, tmp_path: Path, cache: Path) -> None:
    public(decoder, tmp_path)
    line = f"tiny_decoder = {{ folder = '{tmp_path}', file = '{decoder}.safetensors' }}\n"
    plain, quick = generator_of(kind, cache), generator_of(kind, cache, line)
    jobs = jobs_of(plain.preset, 2)
    together = run(quick, jobs)
    assert all(isinstance(made, Made) and "tiny_decoder" in made.record["weights"] for made in together.values())
    assert bits(together) == bits(run(quick, jobs[:1])) | bits(run(quick, jobs[1:]))
    assert not set(bits(together).values()) & set(bits(run(plain, jobs)).values())


# diffusers' Mochi computes its rotary table under a float32 autocast, which torch has for cards only.
@pytest.mark.filterwarnings("ignore:In CPU autocast, but the target dtype is not supported:UserWarning")
@pytest.mark.parametrize("kind", ["wan_a14b", "wan_5b", "ltx", "mochi"])
def test_a_step_cache_skips_blocks_and_begins_afresh_with_every_clip(kind: tiny.Kind, cache: Path) -> None:
    ran: list[str] = []
    whole = generator_of(kind, cache, steps=3)
    cached = generator_of(kind, cache, "cache = { threshold = 1e9 }\n", steps=3)
    for generator in (whole, cached):
        for name in generator._kind.denoisers:
            if (denoiser := getattr(generator._pipe, name, None)) is not None:
                blocks = getattr(denoiser, "blocks", None) or denoiser.transformer_blocks
                blocks[-1].attn1.register_forward_pre_hook(lambda *_: ran.append("last block"))
    jobs = jobs_of(whole.preset, 2)
    first = bits(run(whole, jobs))
    every = len(ran)
    made = bits(run(cached, jobs))
    assert 0 < len(ran) - every < every
    assert set(made) == set(first) == {"clip0", "clip1"}
    assert made != first
    assert bits(run(cached, jobs[::-1])) == made


@pytest.mark.parametrize("kind", ["wan_a14b", "ltx"])
def test_endpoints_are_given_both_views_and_recorded(kind: tiny.Kind, tmp_path: Path) -> None:
    house = fed(tmp_path / "home", "a", kind=kind, more="camera = 'endpoints'\npath_flag = 0.07\n")
    seen: list[dict[str, Any]] = []
    pipe = model_of(house)
    call = type(pipe).__call__

    def watched(self: Any, *args: Any, **given: Any) -> Any:
        seen.append(given)
        return call(self, *args, **given)

    type(pipe).__call__ = watched
    house.rest()
    (told,) = details(house).values()
    path = made_by(house)["a"]
    job = prepare(ClipFolder.open(path), house.settings)
    assert job.last is not None
    assert told["camera"] == "endpoints"
    assert (told["view"], told["last_view"]) == (list(job.plan.view), list(job.plan.last_view or ()))
    assert told["view"] != told["last_view"]
    assert told["path_flag"] == 0.07
    (given,) = seen
    pictures = (
        [given["image"], given["last_image"]]
        if kind == "wan_a14b"
        else [condition.image for condition in given["conditions"]]
    )
    assert [np.asarray(picture).tobytes() for picture in pictures] == [job.picture.tobytes(), job.last.tobytes()]
    assert len(frames.open(path / BASE_FILE)) == told["frames"]


@pytest.mark.parametrize(
    "more", ["schedule = { shift = 9.0 }\n", "memory = { transformer = { storage = 'fp8' } }\n", "vae_tiling = true\n"]
)
def test_what_is_recorded_makes_the_same_bits_again_with_nothing_else_but_the_still(more: str, tmp_path: Path) -> None:
    house = fed(tmp_path / "home", "a", more=more)
    house.rest()
    path = made_by(house)["a"]
    made, told = frames.open(path / BASE_FILE), json.loads(json.dumps(details(house)["a"]))
    job = prepare(ClipFolder.open(path), house.settings)
    preset = Preset.model_validate(told["preset"])
    assert preset == house.settings.presets["tiny-wan_a14b"]
    assert {"python", "torch", "diffusers", "transformers", "numpy"} <= told["versions"].keys()
    view, rate = Rect(*told["plan"]["view"]), Fraction(told["plan"]["rate"])
    plan = Plan(**told["plan"] | {"view": view, "rate": rate, "canvas": tuple(told["plan"]["canvas"])})
    fsops.confine()
    generator = Generator(preset, located(preset), CPU, tmp_path / "elsewhere")
    assert generator._located.origins() == told["weights"]
    (again,) = run(generator, [Job("again", plan, job.picture)]).values()
    assert isinstance(again, Made)
    assert np.array_equal(again.frames(), made)
    other = preset_of("wan_a14b")
    (unlike,) = run(generator_of("wan_a14b", tmp_path / "other"), [Job("again", plan, job.picture)]).values()
    assert other != preset
    assert isinstance(unlike, Made)
    assert more.startswith("vae") or not np.array_equal(unlike.frames(), made)


def test_a_rehearsal_is_a_clip_like_others(tmp_path: Path) -> None:
    house = house_with(tmp_path / "home", "wan_a14b")
    models = Models(house.home.root, house.home.gpu.state, house.settings)
    preset = house.settings.presets["tiny-wan_a14b"]
    assert not models.gain_from_rehearsal(preset), "on a processor nothing is compiled"
    told: list[float] = []
    (made,) = run(models.get(preset), [rehearsal(preset, house.settings, told.append)]).values()
    assert isinstance(made, Made)
    assert made.frames().shape[1:] == (32, 64, 3)
    assert told[-1] > 0.85
    assert models.gain_from_rehearsal(preset.model_copy(update={"compile": True}))
