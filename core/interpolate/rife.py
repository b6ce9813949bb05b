"""RIFE: new frames from a small network that was trained to find them, many at once, in memory bounded by the batch."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from core.interpolate.flow import is_cut
from core.interpolate.ifnet import IFNet
from core.interpolate.network import Frame, NotFinite, OutOfMemory, as_frames, as_tensor, meaning, padded
from core.interpolate.plan import Sample
from core.interpolate.rife_weights import load_network

Picture = NDArray[np.float32]
"""``(H, W, 3)``, RGB of 0..1."""

CARD_BATCH = 8
"""New frames that are made at once on a card; fewer once that was too much for it."""


class Rife:
    """Interpolation by one of RIFE's networks."""

    name = "rife"

    def __init__(self, network: IFNet, device: str | torch.device = "cpu", batch: int | None = None) -> None:
        """On a card in half precision, ``batch`` new frames at once; elsewhere in float32, by default one by one."""
        self.device = torch.device(device)
        on_card = self.device.type == "cuda"
        self.batch = batch or (CARD_BATCH if on_card else 1)
        self.variant = network.variant
        self._network = network.to(self.device, torch.float16 if on_card else None, memory_format=torch.channels_last)

    @classmethod
    def load(cls, path: str | Path, device: str | torch.device = "cpu", batch: int | None = None) -> Rife:
        """From a file of public weights: ``.pkl``, ``.pth`` or ``.safetensors``. Raises what ``load_network`` does."""
        return cls(load_network(Path(path)), device, batch)

    def between(self, a: Picture, b: Picture, t: float) -> Picture:
        """The picture at ``t``, in 0..1, between two of one size; 0 is ``a`` and 1 is ``b``, bit for bit.

        Raises ``ValueError``, ``NotFinite``, ``OutOfMemory`` and ``CardLost``.
        """
        if a.shape != b.shape or a.ndim != 3 or a.shape[2] != 3:
            raise ValueError(f"two pictures of one size, (H, W, 3), are wanted, not {a.shape} and {b.shape}")
        if not 0 <= t <= 1:
            raise ValueError(f"t is from 0 to 1, not {t}")
        if t in {0, 1}:
            return (b if t else a).copy()
        height, width = a.shape[:2]
        with meaning(), torch.inference_mode():
            both = torch.from_numpy(np.stack([a, b]).astype(np.float32, copy=False)).to(self.device)
            described = self._network.described(padded(both.permute(0, 3, 1, 2), self.variant.multiple))
            made = self._made(described[:1], described[1:], [t])[0, :, :height, :width]
            if not bool(torch.isfinite(made).all()):
                raise NotFinite
            picture: Picture = made.clamp(0, 1).permute(1, 2, 0).cpu().numpy()
        return picture

    def clip(self, base: Sequence[Frame] | Frame, samples: Iterable[Sample]) -> Iterator[Frame]:
        """The frames of ``samples``, one after the other, from ``base``, N frames ``(H, W, 3)``.

        ``t`` 0 is the base frame itself; of two shots, the nearer frame. The frame after the last is the first.
        Holds ``batch`` new frames and the base frames that they lie between; each base frame goes through the encoder
        once, whatever the number of samples. Raises ``NotFinite``, ``OutOfMemory`` and ``CardLost``.
        """
        moments = self._moments(base, samples)
        described: dict[int, torch.Tensor] = {}
        while held := list(islice(moments, self.batch)):
            new = [moment for moment in held if moment.is_new]
            while True:
                try:
                    ...
                except OutOfMemory:
                    ...
