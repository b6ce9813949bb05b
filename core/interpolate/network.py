"""What networks that make frames share: pictures to tensors and back, and what a card that fails means."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import numpy as np
import torch
from numpy.typing import NDArray

from core.errors import DropreelError, MustRestart

Frame = NDArray[np.uint8]
NO_MEMORY = ("can't allocate memory", "out of memory", "CUBLAS_STATUS_ALLOC_FAILED")
CARD_LOST = ("CUDA error", "CUDA driver error", "cuDNN error")
"""What torch says where it raises a plain RuntimeError; the first are looked for first."""


class NotFinite(DropreelError):
    """The interpolator made numbers that are none; its weights are damaged, or too large for half precision."""


class OutOfMemory(DropreelError):
    """The card's memory does not hold one frame of this size beside what else is on it."""


class CardLost(MustRestart):
    """The card failed, and this process can use it no more: it has to be started again."""


def as_tensor(frame: Frame, multiple: int, device: torch.device) -> torch.Tensor:
    """A frame, ``(H, W, 3)``, on the device: ``(1, 3, H', W')`` of 0..1 in float32, padded below and to the right."""
    return padded(torch.from_numpy(np.ascontiguousarray(frame)).to(device).permute(2, 0, 1)[None] / 255, multiple)


def as_frames(made: torch.Tensor, height: int, width: int) -> NDArray[np.uint8]:
    """``(B, 3, H', W')`` to ``(B, height, width, 3)``, rounded. Raises ``NotFinite``."""
    cut = made[:, :, :height, :width]
    if not bool(torch.isfinite(cut).all()):
        raise NotFinite
    pixels: NDArray[np.uint8] = (
        (cut.float().clamp(0, 1) * 255).round().to(torch.uint8).permute(0, 2, 3, 1).cpu().numpy()
    )
    return pixels


def padded(x: torch.Tensor, multiple: int) -> torch.Tensor:
    """``(B, C, H, W)`` with zeros below and to the right, as the networks were published to be used."""
    height, width = x.shape[2:]
    return torch.nn.functional.pad(x, (0, -width % multiple, 0, -height % multiple))


@contextlib.contextmanager
def meaning() -> Iterator[None]:
    """Raise a RuntimeError of torch's as what it is: no memory, a card that is lost, or a failure like any other."""
    try:
        yield
    except RuntimeError as error:
        said = str(error)
        if isinstance(error, torch.OutOfMemoryError) or any(words in said for words in NO_MEMORY):
            raise OutOfMemory from error
        if any(words in said for words in CARD_LOST):
            raise CardLost(f"{CardLost.__doc__} {said}") from error
        raise
