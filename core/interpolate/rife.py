"""RIFE: new frames from a small network that was trained to find them, many at once, in memory bounded by the batch."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from fractions import Fraction
from itertools import groupby
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from core.interpolate.flow import is_cut
from core.interpolate.ifnet import IFNet
from core.interpolate.network import Frame, NotFinite, as_frames, as_tensor, padded
from core.interpolate.plan import Sample
from core.interpolate.rife_weights import load_network
from core.torch_errors import OutOfMemory, meaning

Picture = NDArray[np.float32]
"""``(H, W, 3)``, RGB of 0..1."""

CARD_BATCH = 8
"""New frames that are made at once on a card; fewer once that was too much for it."""
HALF = Fraction(1, 2)


class Rife:
    """Interpolation by one of RIFE's networks."""

    name = "rife"

    def __init__(self, network: IFNet, device: str | torch.device = "cpu", batch: int | None = None) -> None:
        """On a card in half precision, ``batch`` new frames at once; elsewhere in float32, by default one by one."""
        self.device = torch.device(device)
        on_card = self.device.type == "cuda"
        self.batch = batch or (CARD_BATCH if on_card else 1)
        self.variant = network.variant
        placed = network.to(self.device, torch.float16 if on_card else torch.float32)
        self._network = placed.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # as torch's docs

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
            picture: Picture = made.clamp(0, 1).permute(1, 2, 0).contiguous().cpu().numpy()
        return picture

    def clip(self, base: Sequence[Frame] | Frame, samples: Iterable[Sample]) -> Iterator[Frame]:
        """The frames of ``samples``, one after the other, from ``base``, N frames ``(H, W, 3)``.

        ``t`` 0 is the base frame itself; of two shots, the nearer frame. The frame after the last is the first.
        Holds ``batch`` new frames and the base frames that they lie between; each base frame goes through the encoder
        once, whatever the number of samples. Raises ``NotFinite``, ``OutOfMemory`` and ``CardLost``.
        """
        described: dict[int, torch.Tensor] = {}
        held: list[int | Sample] = []
        waiting = 0
        for moment in _moments(base, samples):
            held.append(moment)
            waiting += isinstance(moment, Sample)
            if waiting >= self.batch:
                yield from self._delivered(base, held, described)
                held, waiting = [], 0
        yield from self._delivered(base, held, described)

    def _delivered(
        self, base: Sequence[Frame] | Frame, held: list[int | Sample], described: dict[int, torch.Tensor]
    ) -> Iterator[Frame]:
        """The frames of ``held``; those that are to be made are made first, all together if the card allows it."""
        asked = [moment for moment in held if isinstance(moment, Sample)]
        made: list[Frame] = []
        while len(made) < len(asked):
            some = self._tried(base, asked[len(made) : len(made) + self.batch], described)
            if some is None:  # the failure is forgotten by now, and with it what it held of the card
                self.batch //= 2
                described.clear()
                if self.device.type == "cuda":
                    torch.cuda.empty_cache()
            else:
                made += some
        new = iter(made)
        for moment in held:
            yield next(new) if isinstance(moment, Sample) else base[moment]

    def _tried(
        self, base: Sequence[Frame] | Frame, asked: list[Sample], described: dict[int, torch.Tensor]
    ) -> list[Frame] | None:
        """The frames of ``asked`` in one go; None where the memory does not hold so many, but may hold fewer."""
        try:
            with meaning(), torch.inference_mode():
                return self._together(base, asked, described)
        except OutOfMemory:
            if self.batch == 1:
                raise
            return None

    def _together(
        self, base: Sequence[Frame] | Frame, asked: list[Sample], described: dict[int, torch.Tensor]
    ) -> list[Frame]:
        """The same. ``described`` keeps the base frames that these lie between, as the network wants them."""
        height, width = base[0].shape[:2]
        pairs = [(sample.source, (sample.source + 1) % len(base)) for sample in asked]
        needed = {number for pair in pairs for number in pair}
        for number in described.keys() - needed:
            del described[number]
        if fresh := sorted(needed - described.keys()):
            frames = torch.cat([as_tensor(base[number], self.variant.multiple, self.device) for number in fresh])
            described.update(zip(fresh, self._network.described(frames).split(1), strict=True))
        first, second = (torch.cat([described[pair[side]] for pair in pairs]) for side in (0, 1))
        made = self._made(first, second, [float(sample.t) for sample in asked])
        return list(as_frames(made, height, width))

    def _made(self, a: torch.Tensor, b: torch.Tensor, times: list[float]) -> torch.Tensor:
        """What the network makes, ``(B, 3, H, W)``. Raises ``NotFinite``: an infinite flow ends at a frame's edge, and
        would look like a picture."""
        made, flow = self._network(a, b, torch.tensor(times, device=self.device))
        if not bool(torch.isfinite(flow).all()):
            raise NotFinite
        return made  # type: ignore[no-any-return]  # a module's call is untyped


def _moments(base: Sequence[Frame] | Frame, samples: Iterable[Sample]) -> Iterator[int | Sample]:
    """What each sample is: a base frame, by its number, or one that is to be made."""
    for source, group in groupby(samples, key=lambda sample: sample.source):
        here, after = list(group), (source + 1) % len(base)
        cut = any(sample.t for sample in here) and is_cut(base[source], base[after])
        for sample in here:
            if sample.t and not cut:
                yield sample
            else:
                yield source if sample.t < HALF else after
