# mypy: disable-error-code="no-untyped-call"
"""The small decoder, against a second, naive implementation and in the place of a real pipeline's own."""

from __future__ import annotations

import copy
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as f
from diffusers import DiffusionPipeline
from PIL import Image
from safetensors.torch import load_file, save_file

from core.errors import BadSettings
from core.generate.checks import NotFinite
from core.generate.taehv import TinyDecoder, load_decoder, put_into
from tests import tiny

KINDS = {
    "taew2_1": (16, (False, True, True), 1),
    "taew2_2": (48, (False, True, True), 2),
    "taehv1_5": (32, (False, True, True), 2),
    "taeltx_2": (128, (True, True, True), 4),
}
"""Channels, which stages double the frames, and the patch, of the public files."""
WIDTHS = (16, 8, 8, 4)


def public(kind: str, folder: Path, **changed: torch.Tensor | None) -> Path:
    """A file with the key names of the public ones, narrow, with random weights."""
    channels, doubles, patch = KINDS[kind]
    shapes: dict[str, tuple[int, ...]] = {"decoder.1.weight": (WIDTHS[0], channels, 3, 3), "decoder.1.bias": WIDTHS[:1]}
    for stage, (wide, narrow) in enumerate(pairwise(WIDTHS)):
        for place in range(3 + 6 * stage, 6 + 6 * stage):
            for layer, into in ((0, 2 * wide), (2, wide), (4, wide)):
                shapes[f"decoder.{place}.conv.{layer}.weight"] = (wide, into, 3, 3)
                shapes[f"decoder.{place}.conv.{layer}.bias"] = (wide,)
        shapes[f"decoder.{7 + 6 * stage}.conv.weight"] = (wide * (1 + doubles[stage]), wide, 1, 1)
        shapes[f"decoder.{8 + 6 * stage}.weight"] = (narrow, wide, 3, 3)
    shapes |= {"decoder.22.weight": (3 * patch**2, WIDTHS[3], 3, 3), "decoder.22.bias": (3 * patch**2,)}
    shapes["encoder.0.weight"] = (8, 3, 3, 3)  # the public files have both halves
    random = torch.Generator().manual_seed(0)
    tensors: dict[str, torch.Tensor | None] = {
        name: torch.randn(shape, generator=random) * (0.5 if len(shape) == 1 else (2 / (shape[1] * 9)) ** 0.5)
        for name, shape in shapes.items()
    }
    tensors["decoder.22.weight"] = 0.05 * torch.randn(shapes["decoder.22.weight"], generator=random)
    tensors["decoder.22.bias"] = torch.full((3 * patch**2,), 0.5)
    file = folder / f"{kind}.safetensors"
    save_file({name: tensor for name, tensor in (tensors | changed).items() if tensor is not None}, file)
    return file


def naive(weights: dict[str, torch.Tensor], latents: torch.Tensor, doubles: tuple[bool, ...], patch: int) -> Any:
    """``(T, C, H, W)`` to frames, the whole clip at once, frame by frame from the equations."""

    def conv(x: torch.Tensor, name: str, padding: int = 1) -> torch.Tensor:
        return f.conv2d(x, weights[f"decoder.{name}.weight"], weights.get(f"decoder.{name}.bias"), padding=padding)

    frames = [torch.relu(conv(3 * torch.tanh(x[None] / 3), "1")) for x in latents]
    for stage, double in enumerate(doubles):
        for place in range(3 + 6 * stage, 6 + 6 * stage):
            past = [torch.zeros_like(frames[0]), *frames[:-1]]
            after = []
            for here, before in zip(frames, past, strict=True):
                x = torch.relu(conv(torch.cat([here, before], 1), f"{place}.conv.0"))
                x = conv(torch.relu(conv(x, f"{place}.conv.2")), f"{place}.conv.4")
                after.append(torch.relu(x + here))
            frames = after
        frames = [x.repeat_interleave(2, 2).repeat_interleave(2, 3) for x in frames]
        frames = [half for x in frames for half in conv(x, f"{7 + 6 * stage}.conv", 0).chunk(1 + double, 1)]
        frames = [conv(x, f"{8 + 6 * stage}") for x in frames]
    frames = [f.pixel_shuffle(conv(torch.relu(x), "22"), patch).clamp(0, 1) for x in frames]
    return torch.cat(frames)[2 ** sum(doubles) - 1 :]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("together", [1, 2, 9])
def test_a_clip_piece_by_piece_is_the_clip_at_once(kind: str, together: int, tmp_path: Path) -> None:
    torch.set_num_threads(1)
    channels, doubles, patch = KINDS[kind]
    file = public(kind, tmp_path)
    decoder = load_decoder(file, torch.float64)
    weights = {name: tensor.double() for name, tensor in load_file(file).items()}
    latents = torch.randn((2, channels, 5, 3, 4), generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    made = decoder.decode(latents, together)
    times = 2 ** sum(doubles)
    assert tuple(made.shape) == (2, 3, times * 4 + 1, 3 * 8 * patch, 4 * 8 * patch)
    for sample, frames in zip(latents, made, strict=True):
        expected = naive(weights, sample.transpose(0, 1), doubles, patch)
        assert torch.allclose(frames.transpose(0, 1), expected, atol=1e-9)
    assert 0 <= made.min() < made.mean() < made.max() <= 1
    assert 0.02 < made.std() < 0.45  # neither grey nor all black and white


def test_what_is_held_does_not_grow_with_the_clip() -> None:
    decoder = TinyDecoder(16, WIDTHS, (1, 2, 2), 1)
    pieces = decoder.frames(torch.zeros(40, 16, 2, 2))
    counts = [len(piece) for piece in pieces]
    assert counts == [1] + [4] * 39


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"decoder.1.weight": None}, "lacks decoder.1.weight"),
        ({"decoder.4.conv.2.bias": None}, "lacks decoder.4.conv.2.bias"),
        ({"decoder.3.skip.weight": torch.zeros(1)}, "has besides decoder.3.skip.weight"),
        ({"decoder.9.conv.0.weight": torch.zeros(2, 2, 3, 3)}, "another shape are decoder.9.conv.0.weight"),
    ],
)
def test_another_file_is_refused_with_what_is_wrong(
    changed: dict[str, torch.Tensor | None], said: str, tmp_path: Path
) -> None:
    with pytest.raises(BadSettings, match=said):
        load_decoder(public("taew2_1", tmp_path, **changed), torch.float32)


def test_a_file_that_is_no_safetensors_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "taew2_1.safetensors"
    file.write_bytes(b"PK\x03\x04 a pickle")
    with pytest.raises(BadSettings, match="no safetensors file"):
        load_decoder(file, torch.float32)


def test_a_decoder_for_another_models_latents_is_refused(tmp_path: Path) -> None:
    pipe = DiffusionPipeline.from_pretrained(tiny.saved("wan_5b"), local_files_only=True)
    with pytest.raises(BadSettings, match=r"decodes 16 channels.*makes 48 channels"):
        put_into(pipe, load_decoder(public("taew2_1", tmp_path), torch.float32))


@pytest.mark.parametrize(("kind", "file"), [("wan_a14b", "taew2_1"), ("wan_5b", "taew2_2")])
def test_an_unchanged_pipeline_decodes_through_it_what_the_model_made(
    kind: tiny.Kind, file: str, tmp_path: Path
) -> None:
    pipe = DiffusionPipeline.from_pretrained(tiny.saved(kind), local_files_only=True)
    pipe.set_progress_bar_config(disable=True)
    decoder = load_decoder(public(file, tmp_path), torch.float32)
    call = {"image": Image.new("RGB", (64, 32), (200, 90, 30)), "prompt": "a fox", "width": 64, "height": 32,
            "num_frames": 9, "num_inference_steps": 2, "guidance_scale": 1.0}  # fmt: skip

    def make(output: str) -> torch.Tensor:
        found: torch.Tensor = pipe(**call, generator=torch.Generator().manual_seed(3), output_type=output).frames[0]
        return found

    latents = make("latent").clone()
    put_into(pipe, copy.deepcopy(decoder))
    frames = make("pt")
    assert tuple(frames.shape) == (9, 3, 32, 64)
    assert torch.allclose(frames, decoder.decode(latents[None])[0].transpose(0, 1), atol=1e-4)
    assert frames.std() > 0.05
    for number in (float("inf"), -float("inf"), float("nan")):
        wrong = latents[None].clone()
        wrong[0, 0, 1, 0, 0] = number
        assert torch.isfinite(decoder.decode(wrong)).all() == (number == number)  # noqa: PLR0124 - of what is none
        with pytest.raises(NotFinite):
            pipe.vae.decode(wrong)
    assert not list(pipe.vae.decoder.parameters())
    assert next(pipe.vae.to(torch.float64).tiny_decoder.parameters()).dtype == torch.float64  # it goes where that goes
