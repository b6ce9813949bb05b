"""Our RIFE against a plain loop over the same network: frames a second, and the memory that it takes.

The network is RIFE 4.25 with random weights: its arithmetic does not depend on them. The plain loop is what the
published scripts do: one new frame at a time, both frames through the encoder every time, everything reckoned at full
size. Both take the same bytes to the same bytes, in the same precision. The clip is made of the design's example
move, 576×1024, from 24 to 60 frames a second.

    python -m benchmarks.interpolate [--frames N] [--repeats N]
"""

from __future__ import annotations

import argparse
import multiprocessing
import resource
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from statistics import median
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as f
from numpy.typing import NDArray

from benchmarks.encode import drawn
from benchmarks.rows import Row, table
from core.camera import shoot
from core.interpolate.ifnet import RIFE_4_25, Variant
from core.interpolate.plan import Sample, plan
from core.interpolate.rife import Rife
from core.interpolate.rife_weights import shapes
from core.motion import CameraPath, Rect

Frame = NDArray[np.uint8]
Side = Literal["ours", "theirs"]
SIZE, FPS, BASE_RATE = (576, 1024), 60, 24
MOVE = CameraPath(Rect(0.1, 0.1, 0.9, 0.9), Rect(0.3, 0.3, 0.7, 0.7))
ON_CARD = 60
"""New frames that are made on a card; there are as few as ``--frames`` on the processor."""


def random_weights(variant: Variant, seed: int = 0) -> dict[str, torch.Tensor]:
    """Weights of a variant, as a file has them, under which frames move by some pixels and stay frames."""
    random = torch.Generator().manual_seed(seed)
    found: dict[str, torch.Tensor] = {}
    for key, shape in shapes(variant).items():
        if key.endswith("beta"):
            found[key] = 0.1 + 0.4 * torch.rand(shape, generator=random)
        elif len(shape) == 1:
            found[key] = 0.1 * torch.randn(shape, generator=random)
        else:
            fan = shape[1] * shape[2] * shape[3]
            gain = 0.2 if "lastconv" in key else 0.6
            found[key] = gain * (2 / fan) ** 0.5 * torch.randn(shape, generator=random)
    return found


class Plain:
    """The network as it is written down: every tensor at full size, one pair and one time."""

    def __init__(
        self, weights: Mapping[str, torch.Tensor], scales: tuple[int, ...], device: str, dtype: torch.dtype
    ) -> None:
        self._weights = {key: tensor.to(device, dtype) for key, tensor in weights.items()}
        self._scales = scales
        self._dtype = dtype
        self._device = device

    def clip(self, base: Frame, samples: Iterable[Sample]) -> Iterator[Frame]:
        """The frames of ``samples`` from ``base``, ``(N, H, W, 3)``."""
        for source, t in samples:
            if not t:
                yield base[source]
                continue
            both = [
                torch.from_numpy(np.array(base[number])).to(self._device).permute(2, 0, 1)[None].to(self._dtype) / 255
                for number in (source, (source + 1) % len(base))
            ]
            with torch.inference_mode():
                made = self.between(both[0], both[1], float(t))[0]
            yield (made.clamp(0, 1) * 255).round().to(torch.uint8).permute(1, 2, 0).cpu().numpy()

    def between(self, a: torch.Tensor, b: torch.Tensor, t: float) -> torch.Tensor:
        """The frame at ``t`` between two, ``(1, 3, H, W)`` of 0..1."""
        height, width = a.shape[2:]
        multiple = 4 * self._scales[0]
        a, b = (f.pad(x, (0, -width % multiple, 0, -height % multiple)) for x in (a, b))
        encodes = "encode.cnn0.weight" in self._weights
        features = [self._encoded(a), self._encoded(b)] if encodes else []
        plane = torch.full_like(a[:, :1], t)
        flow, mask = torch.zeros_like(plane).repeat(1, 4, 1, 1), torch.zeros_like(plane)
        memory: list[torch.Tensor] = []
        for number, scale in enumerate(self._scales):
            sides = [a, b, *features]
            if number == 0:
                made = self._block(number, torch.cat([*sides, plane], 1), None, scale)
            else:
                sides = [
                    self.warped(x, flow[:, 2 * (place % 2) : 2 * (place % 2) + 2]) for place, x in enumerate(sides)
                ]
                made = self._block(number, torch.cat([*sides, plane, mask, *memory], 1), flow, scale)
            flow = flow + made[:, :4] * scale
            mask = made[:, 4:5] if encodes else mask + made[:, 4:5]
            memory = [made[:, 5:]] if encodes else []
        share = torch.sigmoid(mask)
        mixed = self.warped(a, flow[:, :2]) * share + self.warped(b, flow[:, 2:]) * (1 - share)
        return mixed[:, :, :height, :width]

    def warped(self, x: torch.Tensor, flow: torch.Tensor) -> torch.Tensor:
        """What ``x``, ``(1, C, H, W)``, shows where ``flow``, ``(1, 2, H, W)``, leads; in float32, or finer."""
        exact = torch.promote_types(x.dtype, torch.float32)
        height, width = x.shape[2:]
        columns = torch.linspace(-1, 1, width, device=x.device, dtype=exact).expand(height, width)
        rows = torch.linspace(-1, 1, height, device=x.device, dtype=exact)[:, None].expand(height, width)
        places = torch.stack(
            [columns + flow[0, 0].to(exact) / ((width - 1) / 2), rows + flow[0, 1].to(exact) / ((height - 1) / 2)], -1
        )
        return f.grid_sample(x.to(exact), places[None], padding_mode="border", align_corners=True).to(x.dtype)

    def _encoded(self, x: torch.Tensor) -> torch.Tensor:
        x = f.leaky_relu(self._conv("encode.cnn0", x, 2), 0.2)
        x = f.leaky_relu(self._conv("encode.cnn1", x), 0.2)
        x = f.leaky_relu(self._conv("encode.cnn2", x), 0.2)
        return self._deconv("encode.cnn3", x)

    def _block(self, number: int, x: torch.Tensor, flow: torch.Tensor | None, scale: int) -> torch.Tensor:
        name = f"block{number}"
        x = f.interpolate(x, scale_factor=1 / scale, mode="bilinear")
        if flow is not None:
            x = torch.cat([x, f.interpolate(flow, scale_factor=1 / scale, mode="bilinear") / scale], 1)
        x = f.leaky_relu(self._conv(f"{name}.conv0.0.0", x, 2), 0.2)
        x = f.leaky_relu(self._conv(f"{name}.conv0.1.0", x, 2), 0.2)
        for place in range(8):
            beta = self._weights[f"{name}.convblock.{place}.beta"]
            x = f.leaky_relu(self._conv(f"{name}.convblock.{place}.conv", x) * beta + x, 0.2)
        made = f.pixel_shuffle(self._deconv(f"{name}.lastconv.0", x), 2)
        return f.interpolate(made, scale_factor=scale, mode="bilinear")

    def _conv(self, key: str, x: torch.Tensor, stride: int = 1) -> torch.Tensor:
        return f.conv2d(x, self._weights[f"{key}.weight"], self._weights[f"{key}.bias"], stride, padding=1)

    def _deconv(self, key: str, x: torch.Tensor) -> torch.Tensor:
        weight, bias = self._weights[f"{key}.weight"], self._weights[f"{key}.bias"]
        return f.conv_transpose2d(x, weight, bias, stride=2, padding=1)


def run(frames: int = 8, repeats: int = 3) -> list[Row]:
    """On the processor and, where there is one, on a CUDA card: both sides interleaved, medians of ``repeats``."""
    rows = _against("cpu", frames, repeats)
    if torch.cuda.is_available():
        rows += _against("cuda", max(frames, ON_CARD), repeats)
    return rows


def _against(device: str, frames: int, repeats: int) -> list[Row]:
    # before anything large is done here: a process begins with the peak of the one that starts it
    peak = [_peak_mib(side, device, frames) for side in ("ours", "theirs")]
    base, samples = _clip(frames)
    new = sum(bool(sample.t) for sample in samples)
    sides = {side: _side(side, device) for side in ("ours", "theirs")}
    made = {side: np.stack(list(work(base, samples))).astype(float) for side, work in sides.items()}
    apart = float(np.abs(made["ours"] - made["theirs"]).mean())
    assert apart < (0.01 if device == "cpu" else 0.5), f"the two sides make other frames: {apart} codes apart"
    seconds: dict[str, list[float]] = {side: [] for side in sides}
    for turn in range(repeats):
        for side in (("ours", "theirs"), ("theirs", "ours"))[turn % 2]:
            began = time.perf_counter()
            for _ in sides[side](base, samples):
                pass
            seconds[side].append(time.perf_counter() - began)
    ours, theirs = (new / median(seconds[side]) for side in ("ours", "theirs"))
    name = f"RIFE 4.25, {SIZE[0]}x{SIZE[1]}, {_named(device)}"
    return [
        Row(f"new frames a second, {name}", ours, theirs, ours / theirs),
        Row(f"peak memory, MiB, {name}", peak[0], peak[1], peak[0] / peak[1]),
    ]


def _clip(new: int) -> tuple[Frame, list[Sample]]:
    """Base frames of a move, and the plan of a clip with at least so many new frames."""
    samples: list[Sample] = []
    count = 1
    while sum(bool(sample.t) for sample in samples) < new:
        count += 1
        samples = plan(count, BASE_RATE, (count - 1) / BASE_RATE, FPS)
    pixels = np.asarray(drawn())
    base = np.zeros((count, SIZE[1], SIZE[0], 3), np.uint8)
    path = MOVE.fitted((pixels.shape[1], pixels.shape[0]), SIZE)
    shoot(pixels, list(path.views(max(count, 2 * BASE_RATE)))[:count], base)
    return base, samples


def _side(side: Side | str, device: str) -> Callable[[Frame, Iterable[Sample]], Iterator[Frame]]:
    weights = random_weights(RIFE_4_25)
    if side == "theirs":
        return Plain(weights, RIFE_4_25.scales, device, torch.float32 if device == "cpu" else torch.float16).clip
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "flownet.pkl")
        torch.save({f"module.{key}": tensor for key, tensor in weights.items()}, path)
        return Rife.load(path, device).clip


def _peak_mib(side: str, device: str, frames: int) -> float:
    """What one side needs at once beside its clip: allocated on the card, or resident in a process of its own."""
    with multiprocessing.get_context("spawn").Pool(1) as process:
        return process.apply(_own_peak_mib, (side, device, frames))


def _own_peak_mib(side: str, device: str, frames: int) -> float:
    base, samples = _clip(frames)
    work = _side(side, device)
    unit = 1 if sys.platform == "darwin" else 1 << 10
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
    for _ in work(base, samples):
        pass
    if device == "cpu":
        return (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit - before) / 2**20
    return torch.cuda.max_memory_allocated() / 2**20


def _named(device: str) -> str:
    return f"{torch.get_num_threads()} threads" if device == "cpu" else torch.cuda.get_device_name()


def main() -> None:
    """Print the rows."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--frames", type=int, default=8)
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    print(table(run(options.frames, options.repeats)))


if __name__ == "__main__":
    main()
