"""TAEHV, a small decoder in the place of a video model's own: much faster, in bounded memory, and a little softer.

The architecture is that of https://github.com/madebyollin/taehv (``taew2_1``, ``taew2_2``, ``taehv1_5`` and others of
its key names): four widths, three doublings of the sides, and a memory of one frame in every block.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import nn

from core.errors import BadSettings
from core.generate.checks import NotFinite

PREFIX = "decoder."
GROWS = (7, 13, 19)
"""The places, in the decoder's row of stages, where frames are multiplied; the 1×1 layers there say by how many."""
PROJECTS = (8, 14, 20)
"""Those where the width changes, after each of them."""
FIRST, LAST = 1, 22
COLOURS = 3


class Bound(nn.Module):
    """Keeps latents within ±3, smoothly."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """As it says."""
        return torch.tanh(x / 3) * 3


class Remember(nn.Module):
    """A residual block that sees, beside each frame, the one before."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv = nn.Sequential(_conv(2 * width, width), nn.ReLU(), _conv(width, width), nn.ReLU(),
                                  _conv(width, width))  # fmt: skip

    def forward(self, x: torch.Tensor, before: torch.Tensor) -> torch.Tensor:
        """Both ``(T, C, H, W)``."""
        changed: torch.Tensor = self.conv(torch.cat([x, before], dim=1))
        return torch.relu(changed + x)


class Grow(nn.Module):
    """Makes ``times`` frames of each."""

    def __init__(self, width: int, times: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(width, width * times, 1, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """``(T, C, H, W)`` to ``(times * T, C, H, W)``."""
        found: torch.Tensor = self.conv(x)
        return found.reshape(-1, *x.shape[1:])


class TinyDecoder(nn.Module):
    """Latents to frames, a latent frame at a time."""

    def __init__(self, channels: int, widths: tuple[int, int, int, int], times: tuple[int, int, int], patch: int):
        """``times`` are what each of the three stages makes of a frame; ``patch`` is the side of an output pixel's
        square of pixels."""
        super().__init__()
        self.channels, self.patch = channels, patch
        self.time_factor = times[0] * times[1] * times[2]
        """How many frames are made of a latent one, but the first, of which only the last is kept."""
        self.space_factor = 8 * patch
        stages: list[nn.Module] = [Bound(), _conv(channels, widths[0]), nn.ReLU()]
        for wide, narrow, more in zip(widths, widths[1:], times, strict=False):
            stages += [Remember(wide), Remember(wide), Remember(wide), nn.Upsample(scale_factor=2), Grow(wide, more),
                       nn.Conv2d(wide, narrow, 3, padding=1, bias=False)]  # fmt: skip
        stages += [nn.ReLU(), _conv(widths[-1], COLOURS * patch * patch)]
        self.decoder = nn.Sequential(*stages)  # the files' keys are decoder.<place>.…

    def decode(self, latents: torch.Tensor, together: int = 1) -> torch.Tensor:
        """``(B, C, T, H, W)``, as the diffusion model makes them, each channel about 0 with a deviation of 1, to
        frames of 0..1, ``(B, 3, time_factor * (T - 1) + 1, H * space_factor, W * space_factor)``.

        ``together`` latent frames are decoded at once; memory grows with it, the result does not depend on it.
        """
        return torch.stack(
            [torch.cat(list(self.frames(sample.transpose(0, 1), together))).transpose(0, 1) for sample in latents]
        )

    def frames(self, latents: torch.Tensor, together: int = 1) -> Iterator[torch.Tensor]:
        """The same of one clip, ``(T, C, H, W)``, in pieces of ``(n, 3, H, W)``, each as it is ready."""
        memory: dict[int, torch.Tensor] = {}
        for number, x in enumerate(torch.split(latents, together)):
            for place, stage in enumerate(self.decoder):
                if isinstance(stage, Remember):
                    before = torch.cat([memory.get(place, torch.zeros_like(x[:1])), x[:-1]])
                    memory[place] = x[-1:].clone()  # not a view, which would keep all of x
                    x = stage(x, before)  # noqa: PLW2901 - what goes through the stages
                else:
                    x = stage(x)  # noqa: PLW2901
            made = nn.functional.pixel_shuffle(x, self.patch).clamp(0, 1)
            yield made if number else made[self.time_factor - 1 :]


def load_decoder(path: Path, dtype: torch.dtype) -> TinyDecoder:
    """The decoder of a ``.safetensors`` file; all sizes are told by its tensors, and its encoder is left.

    Raises ``BadSettings`` where tensors are missing, too many, or of other shapes, and ``OSError``.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        tensors = load_file(path)
    except SafetensorError as error:
        raise BadSettings(f"tiny_decoder: {path} is no safetensors file: {error}. Fetch it again.") from None
    ours = {name: tensor for name, tensor in tensors.items() if name.startswith(PREFIX)}
    lacks = [name for place in (FIRST, *PROJECTS, LAST) if (name := f"{PREFIX}{place}.weight") not in ours]
    lacks += [name for place in GROWS if (name := f"{PREFIX}{place}.conv.weight") not in ours]
    if not lacks:
        decoder = _decoder_for(ours)
        wanted = decoder.state_dict()
        lacks = sorted(set(wanted) - set(ours))
        extra = sorted(set(ours) - set(wanted))
        other = [name for name in wanted if name in ours and wanted[name].shape != ours[name].shape]
        if not lacks and not extra and not other:
            decoder.load_state_dict(ours)
            return decoder.to(dtype).eval().requires_grad_(requires_grad=False)
    else:
        extra, other = [], []
    wrong = [f"{word} {_some(names)}" for word, names in (("it lacks", lacks), ("it has besides", extra),
                                                         ("of another shape are", other)) if names]  # fmt: skip
    raise BadSettings(f"tiny_decoder: {path} is no decoder of TAEHV's: {'; '.join(wrong)}. Name a file such as "
                      "taew2_1.safetensors.")  # fmt: skip


def put_into(pipe: Any, decoder: TinyDecoder) -> None:
    """Have a diffusers pipeline, otherwise unchanged, decode by ``decoder``; its own decoder's weights are let go.

    Raises ``BadSettings`` where the two do not speak of the same latents.
    """
    from diffusers.models.autoencoders.vae import DecoderOutput

    vae = pipe.vae
    theirs = _factors(vae)
    if theirs != (decoder.channels, decoder.time_factor, decoder.space_factor):
        raise BadSettings(
            f"tiny_decoder: it decodes {decoder.channels} channels, {decoder.time_factor} frames and "
            f"{decoder.space_factor}² pixels a latent; this model makes {theirs[0]} channels, {theirs[1]} frames and "
            f"{theirs[2]}² pixels. Choose the file that is made for it."
        )
    scale = float(getattr(vae.config, "scaling_factor", None) or 1.0)
    mean, std = (_statistic(vae, name, decoder.channels) for name in ("latents_mean", "latents_std"))

    def decode(z: torch.Tensor, *_rest: Any, return_dict: bool = True, **_more: Any) -> Any:
        """As the model's own: latents as that takes them to pixels of -1..1, ``(B, 3, T, H, W)``.

        Raises ``NotFinite``: of latents that are infinite ``Bound`` makes such as any others.
        """
        if not bool(torch.isfinite(z).all()):
            raise NotFinite
        at, weights = z.device, next(decoder.parameters())
        latents = (z.float() - mean.to(at)) * scale / std.to(at)
        video = decoder.decode(latents.to(weights.dtype)).to(z.dtype) * 2 - 1
        return DecoderOutput(sample=video) if return_dict else (video,)

    vae.decoder = nn.Identity()
    vae.tiny_decoder = decoder  # moves with the rest
    vae.decode = decode


def _decoder_for(tensors: dict[str, torch.Tensor]) -> TinyDecoder:
    """A decoder of the sizes that a file's tensors have."""
    first, last = tensors[f"{PREFIX}{FIRST}.weight"], tensors[f"{PREFIX}{LAST}.weight"]
    narrower = [tensors[f"{PREFIX}{place}.weight"].shape[0] for place in PROJECTS]
    grown = [tensors[f"{PREFIX}{place}.conv.weight"].shape for place in GROWS]
    return TinyDecoder(
        channels=first.shape[1],
        widths=(first.shape[0], narrower[0], narrower[1], narrower[2]),
        times=(grown[0][0] // grown[0][1], grown[1][0] // grown[1][1], grown[2][0] // grown[2][1]),
        patch=max(1, round((last.shape[0] / COLOURS) ** 0.5)),
    )


def _factors(vae: Any) -> tuple[int, int, int]:
    """A model's own decoder: channels of its latents, frames a latent, and pixels a latent each way."""
    config = vae.config
    return (
        getattr(config, "z_dim", None) or config.latent_channels,
        getattr(config, "scale_factor_temporal", None) or vae.temporal_compression_ratio,
        getattr(config, "scale_factor_spatial", None) or vae.spatial_compression_ratio,
    )


def _statistic(vae: Any, name: str, channels: int) -> torch.Tensor:
    """The mean or the deviation that this model's latents are brought to 0 and 1 by, ``(1, C, 1, 1, 1)``."""
    given = getattr(vae.config, name, None)
    if given is None:
        given = getattr(vae, name, None)
    if given is None:
        given = torch.full((channels,), 0.0 if name == "latents_mean" else 1.0)
    return torch.as_tensor(given, dtype=torch.float32).reshape(1, -1, 1, 1, 1).cpu()


def _conv(into: int, out: int) -> nn.Conv2d:
    return nn.Conv2d(into, out, 3, padding=1)


def _some(names: list[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
