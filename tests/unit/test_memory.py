"""The forecast of memory: its arithmetic, and how near it is to what really happens."""

# mypy: disable-error-code="no-untyped-call, attr-defined"

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import AutoencoderKLTemporalDecoder, AutoencoderKLWan, DiffusionPipeline, LTXVideoTransformer3DModel

from core.contract import Keyframe
from core.errors import Refused
from core.generate import memory
from core.generate.family import family
from core.generate.memory import (
    GB,
    Clip,
    Forecast,
    Part,
    forecast,
    measure,
    misfit,
    planned,
    predict,
    refuse_if_too_large,
    usual,
)
from core.generate.models import Models
from core.generate.plan import Plan, make_plan
from core.generate.presets import Preset, read_presets, shipped_presets
from core.generate.studio import GenerationSettings
from core.generate.weights import locate, look
from core.settings import Settings
from tests.tiny import saved, tiny_preset
from tests.unit.test_weights import INDEX, pipeline, put, tensors

RULES = GenerationSettings()
CARD = 24 * 2**30
WAN = memory._WAN
CLIP = Clip(576 * 1024, 65)
PARTS = {
    "transformer": Part(14_000_000_000, 28_000_000_000, 70_000_000, 350_000_000, 200_000_000),
    "transformer_2": Part(14_000_000_000, 28_000_000_000, 70_000_000, 350_000_000, 200_000_000),
    "vae": Part(127_000_000, 508_000_000),
    "text_encoder": Part(5_700_000_000, 11_400_000_000),
}
TURNS = '{ storage = "as_is", residency = "turn", host = "mapped" }'


def preset(more: str = "", name: str = "mine") -> Preset:
    return read_presets(f'[{name}]\nfamily = "wan"\nweights = {{ folder = "x" }}\n{more}\n', "presets.toml")[name]


def of(more: str, clip: Clip = CLIP) -> Forecast:
    return forecast(preset(more), family("wan"), WAN, PARTS, clip)


def test_all_on_the_card_at_once() -> None:
    found = of('text_encoder = "card"')
    denoising = found.card_phases["denoising"]
    assert denoising["transformer"] == denoising["transformer_2"] == 28e9
    assert denoising["vae"] == 508e6  # in float32
    assert denoising["text_encoder"] == 11.4e9
    assert denoising["activations"] == 17 * 36 * 64 * WAN.token_bytes
    assert found.card_worst == "decoding"
    assert found.card == pytest.approx(
        28e9 * 2 + 508e6 + 11.4e9 + memory.CONTEXT_BYTES + 2 * WAN.decode.at(CLIP.pixels, CLIP.frames)
    )


def test_what_takes_turns_is_never_there_together() -> None:
    found = of(f"memory = {{ transformer = {TURNS}, transformer_2 = {TURNS}, vae = {TURNS} }}")
    assert "vae" not in found.card_phases["denoising"]
    assert set(found.card_phases["denoising"]) == {"CUDA", "transformer", "activations"}
    assert set(found.card_phases["decoding"]) == {"CUDA", "vae", "activations"}
    assert set(found.card_phases["encoding prompts"]) == {"CUDA", "text_encoder"}
    # On the host: used as they lie in their files, there is one copy for all workers.
    assert found.shared == {"transformer": 28e9, "transformer_2": 28e9, "vae": 508e6}
    assert found.host(4) - found.host(1) == pytest.approx(3 * (memory.WORKER_BYTES + 11.4e9))


@pytest.mark.parametrize(
    ("kept", "private", "shared"),
    [
        ('storage = "as_is", residency = "turn", host = "mapped"', 0, 28e9),
        ('storage = "as_is", residency = "turn", host = "pinned"', 28e9, 28e9),
        ('storage = "fp8", residency = "turn", host = "mapped"', 14e9 * memory.QUANTISED_BYTES, 0),
        ('storage = "as_is", residency = "blocks"', 0, 28e9),
        ('storage = "fp8", residency = "card"', 0, 0),
    ],
)
def test_the_hosts_share(kept: str, private: float, shared: float) -> None:
    found = of(f"memory = {{ transformer = {{ {kept} }} }}")
    assert found.host_phases["working"].get("transformer", 0) == private
    assert found.shared.get("transformer", 0) == shared


def test_what_is_converted_is_each_workers_own_already_while_loading() -> None:
    parts = PARTS | {"transformer": PARTS["transformer"]._replace(file_bytes=56_000_000_000)}  # float32 on the disk
    found = forecast(preset(f"memory = {{ transformer = {TURNS} }}"), family("wan"), WAN, parts, CLIP)
    assert found.host_phases["loading"]["transformer"] == 28e9
    assert found.host_phases["working"]["transformer"] == 28e9
    assert "transformer" not in found.shared


def test_what_is_narrowed_is_wide_one_component_at_a_time() -> None:
    wide = {name: PARTS[name]._replace(file_bytes=56_000_000_000) for name in ("transformer", "transformer_2")}
    narrow = TURNS.replace("as_is", "fp8")
    found = forecast(preset(f"memory = {{ transformer = {narrow}, transformer_2 = {narrow} }}"), family("wan"), WAN,
                     PARTS | wide, CLIP)  # fmt: skip
    each = 14e9 * memory.QUANTISED_BYTES
    assert sum(found.host_phases["loading"].values()) == pytest.approx(memory.WORKER_BYTES + each + 28e9)


def test_blocks_and_layers() -> None:
    found = of('memory = { transformer = { residency = "blocks" }, transformer_2 = { storage = "fp8" } }')
    phase = found.card_phases["denoising"]
    assert phase["transformer (2 blocks)"] == 2 * (2 * 350_000_000 + 200_000_000)
    assert phase["transformer_2"] == pytest.approx(14e9 * memory.QUANTISED_BYTES)
    assert phase["a layer as it runs"] == 2 * 70_000_000


def test_tiles_a_tiny_decoder_and_the_processor() -> None:
    whole, tiled = of(""), of("vae_tiling = true")
    assert tiled.card_phases["decoding"]["activations"] < whole.card_phases["decoding"]["activations"] / 4
    assert of('tiny_decoder = { folder = "y", file = "t.safetensors" }').card_phases["decoding"]["activations"] == (
        memory.TINY_DECODE_PIXEL_BYTES * CLIP.pixels
    )
    assert "encoding prompts" not in of('text_encoder = "cpu"').card_phases


def test_more_pixels_and_frames_never_take_less() -> None:
    sizes = [of("", Clip(pixels, frames)).card for pixels in (10_000, 500_000, 900_000) for frames in (5, 41, 81)]
    assert sizes[0] == min(sizes)
    assert sizes[-1] == max(sizes)


def test_what_cannot_fit_is_refused_before_it_is_loaded(tmp_path: Path) -> None:
    large = of('text_encoder = "card"')
    finding = misfit(large, CARD, "a card of 24 GiB")
    assert finding is not None
    assert finding.code == "preset_too_large"
    assert f"{large.card / GB:.1f} GB" in finding.message
    assert misfit(large, 100 * GB, "a larger one") is None
    mine = preset('memory = { transformer = { residency = "card" } }')
    folder = put(tmp_path / "weights" / "x", pipeline())
    found = look(mine, RULES, tmp_path)
    refuse_if_too_large(mine, found, 2 * predict(mine, found).card)
    with pytest.raises(Refused) as refused:
        refuse_if_too_large(mine, found, 1 * GB)
    assert refused.value.finding.value == "mine"
    (folder / "vae" / "diffusion_pytorch_model.safetensors").write_bytes(b"no safetensors, and long enough")
    with pytest.raises(ValueError, match="is no safetensors"):
        predict(mine, found)


SVD = shipped_presets()["stable_video_diffusion_v1.1"]


def svd_plan(**asked: Any) -> Plan:
    moved = {"type": "zoom_in", "start_rect": (0, 0, 1, 1), "end_rect": (0.1, 0.1, 0.9, 0.9), "duration_sec": 4}
    entry = Keyframe.model_validate({"image_path": "a.png", "motion": moved,
                                     "generation_params": {"model": SVD.name} | asked})  # fmt: skip
    return make_plan(entry, (1024, 576), (1024, 576), SVD, seed=1, prompt="", rules=RULES)


def test_the_clip_in_hand_is_reckoned_with_and_not_the_usual_one(tmp_path: Path) -> None:
    found = look(SVD, RULES, tmp_path)
    usually, whole = svd_plan(), svd_plan(decode_chunk_size=25)
    assert planned(whole) == Clip(usually.canvas[0] * usually.canvas[1], 25, 25)
    assert planned(usually).decoded_at_once is None, "the preset's eight"
    pixels = usually.canvas[0] * usually.canvas[1]
    decoding = [predict(SVD, found, planned(plan)).card_phases["decoding"]["activations"] for plan in (usually, whole)]
    assert decoding == [pixels * (8 * 2_048 + 25 * 6), pixels * (25 * 2_048 + 25 * 6)]
    assert (
        predict(SVD, found, planned(svd_plan(decode_chunk_size=1000))).card == predict(SVD, found, planned(whole)).card
    )
    refuse_if_too_large(SVD, found, CARD, clip=planned(usually))
    with pytest.raises(Refused, match=r"25 frames of 0\.59 megapixels while decoding") as refused:
        refuse_if_too_large(SVD, found, CARD, clip=planned(whole))
    assert refused.value.finding.remedy is not None
    assert refused.value.finding.remedy.startswith("Ask for a decode_chunk_size below 25. ")
    translated = replace(whole, parameters={"decode_chunk_size": "translated: nothing"})
    assert planned(translated).decoded_at_once is None


def test_what_a_plan_needs_is_asked_only_of_a_card(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    missing = Settings(generation=GenerationSettings(device="cpu"))
    Models(tmp_path, tmp_path, missing).refuse_what_does_not_fit(svd_plan())  # not even for its weights
    here = put(tmp_path / "weights" / "x", pipeline())
    mine = preset()
    settings = Settings(generation=GenerationSettings(device="cpu", weights=here.parent))
    settings.adopt(shipped_presets() | {"mine": mine})
    plan = replace(svd_plan(), preset="mine")
    models = Models(tmp_path, tmp_path, settings)
    monkeypatch.setattr("core.device.device_here", lambda _wanted: torch.device("cuda"))
    needed = predict(mine, locate(mine, settings.generation, tmp_path).found, planned(plan)).card
    monkeypatch.setattr("core.device.card_memory", lambda _device, _gib: needed * 1.1)
    models.refuse_what_does_not_fit(plan)
    with pytest.raises(Refused, match="megapixels"):
        models.refuse_what_does_not_fit(replace(plan, canvas=(2048, 1152)))


def test_headers_are_counted(tmp_path: Path) -> None:
    path = put(tmp_path, {"a.safetensors": tensors(head=(3,), blocks__0__w=(5, 2), blocks__1__w=(4, 2), vae__w=(9,))})
    both = measure([path / "a.safetensors"])
    assert both == Part(parameters=21, file_bytes=84, largest=10, block=10, rest=3)
    assert measure([path / "a.safetensors"], "vae") == Part(9, 36, 9, 0, 9)


def test_a_preset_whose_files_are_not_here(tmp_path: Path) -> None:
    unknown = predict(preset(), look(preset(), RULES, tmp_path))
    assert not unknown.measured
    put(tmp_path / "weights" / "x", {"model_index.json": str(INDEX).replace("'", '"').replace("None", "null").encode()})
    assert set(predict(preset(), look(preset(), RULES, tmp_path)).unknown) == {"transformer", "vae", "text_encoder"}
    known = shipped_presets()["wan2.2-ti2v-5b"]
    found = predict(known, look(known, RULES, tmp_path))
    assert (found.unknown, found.measured) == ((), False)
    assert found.card_phases["denoising"]["transformer"] == pytest.approx(10e9, rel=0.01)


@pytest.mark.parametrize("name", [name for name, each in shipped_presets().items() if each.weights is not None])
def test_every_shipped_preset_fits_24_gib_on_its_usual_canvas(name: str, tmp_path: Path) -> None:
    shipped = shipped_presets()[name]
    refuse_if_too_large(shipped, look(shipped, RULES, tmp_path), CARD, clip=usual(shipped))


# Against what really happens


@pytest.mark.parametrize("kind", ["wan_a14b", "ltx", "hunyuan"])
def test_the_parameters_of_real_pipelines_are_counted_exactly(kind: Any) -> None:
    mine = read_presets(tiny_preset(kind), "presets.toml")[f"tiny-{kind}"]
    located = locate(mine, RULES, Path("/nowhere"))
    pipe = DiffusionPipeline.from_pretrained(saved(kind), local_files_only=True)
    for name, module in pipe.components.items():
        if isinstance(module, torch.nn.Module):
            real = sum(parameter.numel() for parameter in module.parameters())
            buffers = sum(buffer.numel() for buffer in module.buffers())
            files = [path for path in located.files_of(name) if path.suffix == ".safetensors"]
            assert 0 <= measure(files, name).parameters - real <= buffers, name


@contextmanager
def live() -> Iterator[Callable[[], int]]:
    """Adds up the sizes of all tensors that live at once, and tells the most there were."""
    from torch._subclasses.fake_tensor import FakeTensorMode
    from torch.utils._python_dispatch import TorchDispatchMode
    from torch.utils._pytree import tree_leaves

    class Count(TorchDispatchMode):
        def __init__(self) -> None:
            super().__init__()
            self.now: int = 0
            self.most: int = 0
            self.seen: weakref.WeakKeyDictionary[Any, int] = weakref.WeakKeyDictionary()

        def gone(self, size: int) -> None:
            self.now -= size

        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            made = func(*args, **(kwargs or {}))
            for tensor in tree_leaves(made):
                if isinstance(tensor, torch.Tensor) and (storage := tensor.untyped_storage()) not in self.seen:
                    self.seen[storage] = size = storage.nbytes()
                    self.now += size
                    weakref.finalize(storage, self.gone, size)
            self.most = max(self.most, self.now)
            return made

    with FakeTensorMode(), torch.no_grad(), Count() as count:
        yield lambda: count.most


def test_the_figures_of_a_full_size_denoiser(monkeypatch: pytest.MonkeyPatch) -> None:
    def attention(query: Any, key: Any, value: Any, *_: Any, **__: Any) -> Any:  # as a fused kernel: no square matrix
        return torch.empty_like(query)

    monkeypatch.setattr(torch.nn.functional, "scaled_dot_product_attention", attention)
    tokens = 13 * 18 * 32
    with live() as most:
        torch.set_default_dtype(torch.bfloat16)
        try:
            model = LTXVideoTransformer3DModel(num_layers=1).eval()
            own = sum(parameter.nbytes for parameter in model.parameters())
            time, words = torch.zeros(1, dtype=torch.long), torch.ones(1, 128, dtype=torch.long)
            model(torch.empty(1, tokens, 128), torch.empty(1, 128, 4096), time, words, num_frames=13, height=18,
                  width=32, return_dict=False)  # fmt: skip
        finally:
            torch.set_default_dtype(torch.float32)
        assert (most() - own) / tokens == pytest.approx(memory._LTX.token_bytes, rel=0.05)


def test_the_figures_of_a_full_size_decoder() -> None:
    with live() as most:
        vae = AutoencoderKLWan().eval()
        own = sum(parameter.nbytes for parameter in vae.parameters())
        vae.decode(torch.empty(1, 16, 3, 72, 128), return_dict=False)
        reckoned = 2 * WAN.decode.at(576 * 1024, 9)  # in float32
        assert most() - own == pytest.approx(reckoned, rel=0.05)


@pytest.mark.parametrize("at_once", [1, 8])
def test_the_figures_of_a_decoder_that_takes_so_many_frames_at_once(at_once: int) -> None:
    with live() as most:
        vae = AutoencoderKLTemporalDecoder(
            down_block_types=("DownEncoderBlock2D",) * 4, block_out_channels=(128, 256, 512, 512), layers_per_block=2
        ).eval()
        own = sum(parameter.nbytes for parameter in vae.parameters())
        vae.decode(torch.empty(at_once, 4, 40, 64), num_frames=at_once, return_dict=False)
        reckoned = 2 * memory._SVD.decode.at(320 * 512, 0, at_once)  # in float32
        assert most() - own == pytest.approx(reckoned, rel=0.05)
