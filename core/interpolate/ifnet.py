"""IFNet, the network of RIFE 4: where each of two frames is seen at a time between them, from coarse to fine.

Z. Huang et al., "Real-Time Intermediate Flow Estimation for Video Frame Interpolation" (ECCV 2022), in the forms of
https://github.com/hzwer/Practical-RIFE. Every block sees both frames at a fraction of their size, brought together by
the flow found so far, and adds to that flow. Nothing is reckoned at full size that only a fraction is read of.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as f
from torch import nn

COLOURS = 3
FLOW = 4
"""Channels: x and y, in pixels, to where a pixel is seen in the first frame, then in the second."""
RESIDUALS = 8
"""In each block."""
ENCODER_WIDTH = 16


@dataclass(frozen=True)
class Variant:
    """One published form of the network."""

    name: str
    widths: tuple[int, ...]
    """Of each block, the coarsest first."""
    scales: tuple[int, ...]
    """By what each block divides the width and the height. The last is 1."""
    features: int
    """That an encoder finds in each frame beside its colours; 0 is no encoder."""
    memory: int
    """Channels that a block hands on to the next, beside flow and mask."""
    outputs: int
    """Of a block: the flow, the mask, the memory; and one that no one reads, in the older forms."""
    mask_adds: bool
    """Whether the masks of all blocks are added up, or the last one's is taken."""

    @property
    def multiple(self) -> int:
        """Both sides of a picture must be multiples of this: the coarsest block halves its own pixels twice."""
        return 4 * max(self.scales)

    @property
    def inputs(self) -> tuple[int, ...]:
        """Channels that each block reads: both frames and the time; from the second on, mask, memory and flow."""
        first = 2 * (COLOURS + self.features) + 1
        return (first, *[first + 1 + self.memory + FLOW] * (len(self.widths) - 1))


RIFE_4_25 = Variant("4.25", (192, 128, 96, 64, 32), (16, 8, 4, 2, 1), features=4, memory=8, outputs=13, mask_adds=False)
"""4.26 as well: the two differ in their weights alone."""
RIFE_4_6 = Variant("4.6", (192, 128, 96, 64), (8, 4, 2, 1), features=0, memory=0, outputs=6, mask_adds=True)
VARIANTS = (RIFE_4_25, RIFE_4_6)


class IFNet(nn.Module):
    """The network. Its parameters are named as in the public files, but that ``beta`` is part of the weights."""

    def __init__(self, variant: Variant) -> None:
        super().__init__()
        self.variant = variant
        if variant.features:
            self.encode = Encoder(variant.features)
        for number, (into, width) in enumerate(zip(variant.inputs, variant.widths, strict=True)):
            self.add_module(f"block{number}", Block(into, width, variant.outputs))

    def described(self, frames: torch.Tensor) -> torch.Tensor:
        """Frames, ``(B, 3, H, W)`` of 0..1, with their features, ``(B, 3 + features, H, W)``, in float32 or finer.

        This is all that ``forward`` wants of a frame, whatever the other frame and the time. ``H`` and ``W`` are
        multiples of ``variant.multiple``.
        """
        if not self.variant.features:
            return _exact(frames)
        features: torch.Tensor = self.encode(frames.to(self._dtype, memory_format=torch.channels_last))
        return torch.cat([_exact(frames), _exact(features)], dim=1)

    def forward(self, a: torch.Tensor, b: torch.Tensor, t: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """The frames at ``t``, ``(B,)`` in 0..1, between ``described`` frames: ``(B, 3, H, W)``, and their flow.

        The flow is ``(B, 4, H, W)``, in pixels. Blocks work in the parameters' precision; flow, warps and the final
        mix in float32 at least: in half precision a place in a wide frame is known to half a pixel only.
        """
        variant = self.variant
        sums = FLOW + variant.mask_adds
        summed = a.new_zeros((len(a), sums, *a.shape[2:]))
        handed: list[torch.Tensor] = []
        for number, scale in enumerate(variant.scales):
            if number == 0:
                sides, told = (_shrunk(a, scale), _shrunk(b, scale)), []
            else:
                sides = _warped(a, b, summed[:, :FLOW], scale)
                small, finer = _shrunk(summed, scale), variant.scales[number - 1] // scale
                told = [small[:, FLOW:], *(_grown(part, finer) for part in handed), small[:, :FLOW] / scale]
            x = self._together(sides, t, told)
            del sides, told  # at full size they are the most that is held
            made = self.get_submodule(f"block{number}")(x)
            found = _grown(_exact(made[:, :sums]), scale)
            found[:, :FLOW] *= scale
            summed += found
            handed = [] if variant.mask_adds else [made[:, FLOW : FLOW + 1 + variant.memory]]
        flow = summed[:, :FLOW]
        mask = torch.sigmoid(_exact(handed[0][:, :1]) if handed else summed[:, FLOW:])
        from_a, from_b = _warped(a[:, :COLOURS], b[:, :COLOURS], flow, 1)
        return from_b + (from_a - from_b) * mask, flow

    def _together(
        self, sides: tuple[torch.Tensor, torch.Tensor], t: torch.Tensor, told: list[torch.Tensor]
    ) -> torch.Tensor:
        """What a block reads, ``(B, inputs, h, w)``, in its precision, a pixel's channels side by side in memory."""
        times = t.reshape(-1, 1, 1, 1).expand(-1, 1, *sides[0].shape[2:])
        parts = [*(x[:, :COLOURS] for x in sides), *(x[:, COLOURS:] for x in sides), times, *told]
        shape = (len(t), sum(part.shape[1] for part in parts), *sides[0].shape[2:])
        x = torch.empty(shape, dtype=self._dtype, device=t.device, memory_format=torch.channels_last)
        return torch.cat(parts, dim=1, out=x)

    @property
    def _dtype(self) -> torch.dtype:
        return next(self.parameters()).dtype


class Encoder(nn.Module):
    """Features of one frame, of its size."""

    def __init__(self, features: int) -> None:
        super().__init__()
        self.cnn0 = nn.Conv2d(COLOURS, ENCODER_WIDTH, 3, stride=2, padding=1)
        self.cnn1 = nn.Conv2d(ENCODER_WIDTH, ENCODER_WIDTH, 3, padding=1)
        self.cnn2 = nn.Conv2d(ENCODER_WIDTH, ENCODER_WIDTH, 3, padding=1)
        self.cnn3 = nn.ConvTranspose2d(ENCODER_WIDTH, features, 4, stride=2, padding=1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """``(B, 3, H, W)`` to ``(B, features, H, W)``."""
        for layer in (self.cnn0, self.cnn1, self.cnn2):
            x = _leaky(layer(x))
        made: torch.Tensor = self.cnn3(x)
        return made


class Block(nn.Module):
    """One look at both frames, at one scale."""

    def __init__(self, into: int, width: int, outputs: int) -> None:
        super().__init__()
        self.conv0 = nn.Sequential(_halving(into, width // 2), _halving(width // 2, width))
        self.convblock = nn.Sequential(*[Residual(width) for _ in range(RESIDUALS)])
        self.lastconv = nn.Sequential(
            nn.ConvTranspose2d(width, 4 * outputs, 4, stride=2, padding=1), nn.PixelShuffle(2)
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """``(B, into, h, w)`` to ``(B, outputs, h, w)``; both sides are multiples of 4."""
        made: torch.Tensor = self.lastconv(self.convblock(self.conv0(x)))
        return made


class Residual(nn.Module):
    """A layer that changes what it is given. The files' ``beta``, its strength, is multiplied into its weights."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(width, width, 3, padding=1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """``(B, width, h, w)``, twice."""
        changed: torch.Tensor = self.conv(x)
        return _leaky(changed.add_(x))


def _halving(into: int, out: int) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(into, out, 3, stride=2, padding=1), nn.LeakyReLU(0.2, inplace=True))


def _leaky(x: torch.Tensor) -> torch.Tensor:
    return f.leaky_relu_(x, 0.2)


def _exact(x: torch.Tensor) -> torch.Tensor:
    """In float32, or in float64 where it is that."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


def _grown(x: torch.Tensor, scale: int) -> torch.Tensor:
    return x if scale == 1 else f.interpolate(x, scale_factor=scale, mode="bilinear")


def _shrunk(x: torch.Tensor, scale: int) -> torch.Tensor:
    return x if scale == 1 else f.interpolate(x, scale_factor=1 / scale, mode="bilinear")


def _inner(x: torch.Tensor, scale: int, *dims: int) -> torch.Tensor:
    """Of every ``scale`` pixels along ``dims`` the two in the middle, whose mean is all that ``_shrunk`` takes."""
    if scale > 2:
        for dim in dims:
            squares = x.reshape(*x.shape[:dim], -1, scale, *x.shape[dim + 1 :])
            x = squares.narrow(dim + 1, scale // 2 - 1, 2).flatten(dim, dim + 1)
    return x


def _warped(a: torch.Tensor, b: torch.Tensor, flow: torch.Tensor, scale: int) -> tuple[torch.Tensor, torch.Tensor]:
    """What both frames show where ``flow``, ``(B, 4, H, W)``, leads, ``_shrunk``: ``(B, C, H / scale, W / scale)``.

    Beyond its edge a frame goes on as at the edge.
    """
    height, width = a.shape[2:]
    x = _inner(torch.linspace(-1, 1, width, dtype=flow.dtype, device=flow.device), scale, 0)
    y = _inner(torch.linspace(-1, 1, height, dtype=flow.dtype, device=flow.device), scale, 0)[:, None]
    flow = _inner(flow, scale, 2, 3)
    made = []
    for frame, first in ((a, 0), (b, 2)):
        places = [x + flow[:, first] / ((width - 1) / 2), y + flow[:, first + 1] / ((height - 1) / 2)]
        seen = f.grid_sample(frame, torch.stack(places, dim=-1), padding_mode="border", align_corners=True)
        made.append(f.avg_pool2d(seen, 2) if scale > 1 else seen)
    return made[0], made[1]
