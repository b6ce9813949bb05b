"""A file of RIFE's weights: opened without running code, its keys brought to one style, its variant told by shapes."""

from __future__ import annotations

import pickle
import warnings
from pathlib import Path
from typing import Any

import torch

from core.errors import Refused
from core.interpolate.ifnet import COLOURS, ENCODER_WIDTH, RESIDUALS, VARIANTS, IFNet, Variant

PREFIXES = ("module.", "flownet.")
"""What training in parallel and larger models put before every key."""
BLOCKS = "blocks."
"""Some files number the blocks ``blocks.0.``, others ``block0.``."""
TRAINING = ("teacher.", "caltime.", "block_tea.")
"""Parts that only training needs; the public files have them still."""
KNOWN = "RIFE 4.25, 4.26 (flownet.pkl, rife_v4.25.safetensors) or 4.6"


def load_network(path: Path) -> IFNet:
    """The network of a ``.pkl``, ``.pth`` or ``.safetensors`` file, in float32 on the processor.

    Raises ``Refused`` where the file cannot be opened as plain tensors, is of no known variant, or lacks tensors or
    has others besides, and ``OSError``.
    """
    tensors = _in_one_style(path, _read(path))
    variant = _variant_of(path, tensors)
    _check(path, tensors, variant)
    with torch.device("meta"):  # its own random weights would take longer than all else
        network = IFNet(variant)
    network.load_state_dict(_without_beta(tensors), assign=True)
    return network.eval().requires_grad_(requires_grad=False)


def shapes(variant: Variant) -> dict[str, tuple[int, ...]]:
    """Every tensor of a file of this variant, by its key."""
    found: dict[str, tuple[int, ...]] = {}

    def layer(key: str, *shape: int, outputs: int | None = None) -> None:
        found[f"{key}.weight"] = shape
        found[f"{key}.bias"] = (outputs or shape[0],)

    if variant.features:
        layer("encode.cnn0", ENCODER_WIDTH, COLOURS, 3, 3)
        layer("encode.cnn1", ENCODER_WIDTH, ENCODER_WIDTH, 3, 3)
        layer("encode.cnn2", ENCODER_WIDTH, ENCODER_WIDTH, 3, 3)
        layer("encode.cnn3", ENCODER_WIDTH, variant.features, 4, 4, outputs=variant.features)
    for number, (into, width) in enumerate(zip(variant.inputs, variant.widths, strict=True)):
        layer(f"block{number}.conv0.0.0", width // 2, into, 3, 3)
        layer(f"block{number}.conv0.1.0", width, width // 2, 3, 3)
        for place in range(RESIDUALS):
            found[f"block{number}.convblock.{place}.beta"] = (1, width, 1, 1)
            layer(f"block{number}.convblock.{place}.conv", width, width, 3, 3)
        layer(f"block{number}.lastconv.0", width, 4 * variant.outputs, 4, 4, outputs=4 * variant.outputs)
    return found


def _read(path: Path) -> dict[str, torch.Tensor]:
    """The tensors of a file, by the keys that it gives them."""
    remedy = f"Name the weights of {KNOWN}."
    if not path.stat().st_size:
        raise _unreadable(path, "is empty: a placeholder, or a download that failed", remedy)
    held: Any
    if path.suffix == ".safetensors":
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        try:
            held = load_file(path)
        except SafetensorError as error:
            raise _unreadable(path, f"is no safetensors file: {error}", "Fetch it again.") from None
    elif path.suffix in {".pkl", ".pth"}:
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", UserWarning)  # of pickles that torch did not write, which then fail
                held = torch.load(path, map_location="cpu", weights_only=True)
        except pickle.UnpicklingError as error:
            if "GLOBAL" in str(error):  # torch's word for a class or a function
                what = "holds more than tensors, and opening it could run code that it brings"
                raise _unreadable(path, what, "Take a file of plain tensors; do not open this one.") from None
            raise _unreadable(path, "is no file of torch's", "Fetch it again.") from None
        except (RuntimeError, EOFError, ValueError, KeyError) as error:
            raise _unreadable(path, f"is damaged: {str(error).splitlines()[0]}", "Fetch it again.") from None
    else:
        raise _unreadable(path, "ends in none of .pkl, .pth and .safetensors", remedy)
    if not isinstance(held, dict) or not all(isinstance(x, torch.Tensor) for x in held.values()):
        raise _unreadable(path, "does not hold tensors by name", remedy)
    return held


def _in_one_style(path: Path, held: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The tensors under the keys that ``shapes`` has, without those of training."""
    tensors: dict[str, torch.Tensor] = {}
    for key, tensor in held.items():
        name = str(key)
        while name.startswith(PREFIXES):
            name = name.split(".", 1)[1]
        if name.startswith(TRAINING):
            continue
        if name.startswith(BLOCKS):
            name = "block" + name.removeprefix(BLOCKS)
        if name in tensors:
            raise _unknown(path, f"has {name} twice, under different prefixes")
        tensors[name] = tensor
    return tensors


def _variant_of(path: Path, tensors: dict[str, torch.Tensor]) -> Variant:
    """The only variant of the same parts and shapes; a tensor more or less is no other variant yet."""
    parts = {key.split(".")[0] for key in tensors if key.startswith(("block", "encode."))}
    found = {key: tuple(tensor.shape) for key, tensor in tensors.items()}
    others: list[tuple[int, str]] = []
    for variant in VARIANTS:
        wanted = shapes(variant)
        differ = [
            f"{key} is {wanted[key]} there and {found[key]} here"
            for key in wanted
            if found.get(key, wanted[key]) != wanted[key]
        ]
        differ += [f"{part} is in one of them alone" for part in sorted(parts ^ {key.split(".")[0] for key in wanted})]
        if not differ:
            return variant
        others.append((len(differ), f"RIFE {variant.name} is nearest, but {differ[0]}"))
    nearest = min(others)[1] if parts else f"its {len(found)} tensors are called {_some(sorted(found))}"
    raise _unknown(path, f"is of no variant that is known here: {nearest}")


def _check(path: Path, tensors: dict[str, torch.Tensor], variant: Variant) -> None:
    wanted = shapes(variant)
    lacks, besides = sorted(wanted.keys() - tensors.keys()), sorted(tensors.keys() - wanted.keys())
    wrong = [f"{word} {_some(keys)}" for word, keys in (("lacks", lacks), ("has besides", besides)) if keys]
    if wrong:
        raise _unknown(path, f"looks like RIFE {variant.name}, but {' and '.join(wrong)}")


def _without_beta(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The same network in float32 with each ``beta`` multiplied into the weights and the bias of its layer."""
    plain = {key: tensor.to(torch.float32) for key, tensor in tensors.items() if not key.endswith(".beta")}
    for key, beta in tensors.items():
        if key.endswith(".beta"):
            conv = key.removesuffix("beta") + "conv"
            strength = beta.to(torch.float32).flatten()
            plain[f"{conv}.weight"] = plain[f"{conv}.weight"] * strength[:, None, None, None]
            plain[f"{conv}.bias"] = plain[f"{conv}.bias"] * strength
    return plain


def _unreadable(path: Path, what: str, remedy: str) -> Refused:
    return Refused.because("interpolator_unreadable", f"The file {what}.", file=path.name, remedy=remedy)


def _unknown(path: Path, what: str) -> Refused:
    return Refused.because("interpolator_unknown", f"The file {what}.", file=path.name,
                           remedy=f"Name the weights of {KNOWN}.")  # fmt: skip


def _some(names: list[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
