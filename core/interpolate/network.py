"""What networks that make frames share: pictures to tensors and back."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from core.errors import DropreelError

Frame = NDArray[np.uint8]


class NotFinite(DropreelError):
    """The interpolator made numbers that are none; its weights are damaged, or too large for half precision."""


def as_tensor(frame: Frame, multiple: int, device: torch.device) -> torch.Tensor:
    """A frame, ``(H, W, 3)``, on the device: ``(1, 3, H', W')`` of 0..1 in float32, padded below and to the right."""
    return padded(torch.from_numpy(np.array(frame)).to(device).permute(2, 0, 1)[None] / 255, multiple)


def as_frames(made: torch.Tensor, height: int, width: int) -> NDArray[np.uint8]:
    """``(B, 3, H', W')`` to ``(B, height, width, 3)``, rounded. Raises ``NotFinite``."""
    cut = made[:, :, :height, :width]
    if not bool(torch.isfinite(cut).all()):
        raise NotFinite
    codes = (cut.float().clamp(0, 1) * 255).round().to(torch.uint8).permute(0, 2, 3, 1).contiguous()
    pixels: NDArray[np.uint8] = codes.cpu().numpy()
    return pixels


def padded(x: torch.Tensor, multiple: int) -> torch.Tensor:
    """``(B, C, H, W)`` with zeros below and to the right, as the networks were published to be used."""
    height, width = x.shape[2:]
    return torch.nn.functional.pad(x, (0, -width % multiple, 0, -height % multiple))
