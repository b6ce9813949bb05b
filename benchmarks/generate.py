"""Expert-major beside clip-major: Wan with two experts that take turns on the card, through the real generator.

A tiny Wan whose experts are large enough that a swap costs something, weights at random. Ours: N clips in one round,
of which all pass the first expert before the second is brought; theirs: the same clips one by one, by the same code.
The frames are equal bit for bit, or this fails. On a machine without a card the "card" is a copy in memory, and
pinned memory cannot be measured.

    python -m benchmarks.generate [--layers N]
"""

from __future__ import annotations

import argparse
import gc
import os
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from benchmarks.rows import Row, table
from core.contract import GenerationParams, Keyframe, Motion
from core.device import device_here
from core.generate.generator import Generator, Job, Made
from core.generate.plan import make_plan
from core.generate.presets import Memory, Preset, read_presets
from core.generate.studio import GenerationSettings
from core.generate.weights import locate
from core.motion import FULL, MotionType
from tests.tiny import MAKERS, tiny_preset

EXPERTS = ("transformer", "transformer_2")
COUNTS = (4, 8)
REPEATS = 3
"""The two sides take turns so often, and each one's quickest counts."""


def run(layers: int = 12) -> list[Row]:
    """Swaps, and the seconds of swaps and of everything, for each count of clips; then what one swap costs."""
    device = device_here()
    with tempfile.TemporaryDirectory(prefix=".bench-", dir=Path.cwd()) as name:  # /tmp may be no disk at all
        root = Path(name)
        preset = _preset(_save(root / "wan", layers))
        generator = _generator(preset, root, device)
        megabytes = _megabytes(generator)
        rows = []
        for count in COUNTS:
            jobs = _jobs(preset, count)
            generator.encode(jobs)
            _make(generator, jobs[:1])  # what is done once, is done
            clips = f"{count} clips, experts of {megabytes:.0f} MB"
            both = [
                (_measured(generator, [[job] for job in jobs]), _measured(generator, [jobs])) for _ in range(REPEATS)
            ]
            assert all(ours.frames == theirs.frames == both[0][0].frames for theirs, ours in both), "other frames"
            theirs, ours = (min(side, key=lambda took: took.seconds) for side in zip(*both, strict=True))
            rows += [
                Row(f"{clips}: swaps", ours.swaps, theirs.swaps, ours.swaps / theirs.swaps, 1 / count),
                Row(f"{clips}: s of swaps from mapped memory", ours.swapping, theirs.swapping,
                    ours.swapping / theirs.swapping),
                Row(f"{clips}: s in all", ours.seconds, theirs.seconds, ours.seconds / theirs.seconds),
            ]  # fmt: skip
        warm = _one_swap(generator)
        del generator
        gc.collect()
        cold = _cold_swap(preset, root, device)
        rows.append(Row(f"a swap of {megabytes:.0f} MB from mapped memory, s (theirs: the file is not cached)", warm,
                        cold, warm / cold))  # fmt: skip
        if device.type == "cuda":
            pinned = _one_swap(_generator(_preset(root / "wan", host="pinned"), root, device))
            rows.append(Row(f"a swap of {megabytes:.0f} MB, s: from pinned memory (theirs: mapped)", pinned, warm,
                            pinned / warm))  # fmt: skip
        else:
            print("a swap from pinned memory: needs a card", file=sys.stderr)
    return rows


class Took(NamedTuple):
    """What rounds of clips took, and what they made."""

    frames: dict[str, bytes]
    seconds: float
    swaps: int
    swapping: float


def _measured(generator: Generator, rounds: Sequence[Sequence[Job]]) -> Took:
    residency = generator.residency
    residency.clear()
    swaps, swapping, begun = residency.swaps, residency.seconds, time.perf_counter()
    frames = {name: frames for jobs in rounds for name, frames in _make(generator, jobs).items()}
    return Took(frames, time.perf_counter() - begun, residency.swaps - swaps, residency.seconds - swapping)


def _make(generator: Generator, jobs: Sequence[Job]) -> dict[str, bytes]:
    found = {}
    for job, made in generator.run(jobs):
        if not isinstance(made, Made):
            raise made
        found[job.name] = made.frames().tobytes()
    return found


def _save(folder: Path, layers: int) -> Path:
    """Two experts of ``layers`` blocks, some 17 MB each."""
    torch.manual_seed(0)
    pipe: Any = MAKERS["wan_a14b"]()
    made: Any = type(pipe.transformer)
    for name in EXPERTS:
        expert = made(
            patch_size=(1, 2, 2), num_attention_heads=8, attention_head_dim=64, in_channels=36, out_channels=16,
            text_dim=32, freq_dim=256, ffn_dim=2048, num_layers=layers, cross_attn_norm=True,
            qk_norm="rms_norm_across_heads", rope_max_seq_len=32)  # fmt: skip
        setattr(pipe, name, expert)
    pipe.save_pretrained(folder, safe_serialization=True)
    return folder


def _preset(folder: Path, **kept: Any) -> Preset:
    preset = read_presets(tiny_preset("wan_a14b", folder), "presets.toml")["tiny-wan_a14b"]
    return preset.model_copy(update={"memory": dict.fromkeys(EXPERTS, Memory(residency="turn", **kept))})


def _generator(preset: Preset, root: Path, device: torch.device) -> Generator:
    return Generator(preset, locate(preset, GenerationSettings(), root), device, root / "embeddings")


def _jobs(preset: Preset, count: int) -> list[Job]:
    motion = Motion(type=MotionType.static, start_rect=FULL, end_rect=FULL, duration_sec=0.5)
    entry = Keyframe(image_path="a.png", motion=motion, generation_params=GenerationParams(model=preset.name, fps=8))
    found = []
    for seed in range(count):
        plan = make_plan(entry, (256, 128), (256, 128), preset, seed=seed, prompt="", rules=GenerationSettings())
        picture = np.random.default_rng(seed).integers(0, 256, (plan.canvas[1], plan.canvas[0], 3), dtype=np.uint8)
        found.append(Job(str(seed), plan, picture))
    return found


def _megabytes(generator: Generator) -> float:
    residency = generator.residency
    residency.bring(EXPERTS[0])
    return residency.bytes / residency.swaps / 1e6


def _one_swap(generator: Generator) -> float:
    """Seconds a swap, both experts' files in memory."""
    residency = generator.residency
    begun, swaps = residency.seconds, residency.swaps
    for _ in range(3):
        for name in EXPERTS:
            residency.bring(name)
    return (residency.seconds - begun) / (residency.swaps - swaps)


def _cold_swap(preset: Preset, root: Path, device: torch.device) -> float:
    """Seconds a swap, where the system has let go of the files that nobody maps any more."""
    for file in root.glob("wan/transformer*/*.safetensors"):
        descriptor = os.open(file, os.O_RDONLY)
        os.fsync(descriptor)
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(descriptor)
    residency = _generator(preset, root, device).residency
    for name in EXPERTS:
        residency.bring(name)
    return residency.seconds / residency.swaps


if __name__ == "__main__":
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--layers", type=int, default=12, help="blocks of each expert, some 17 MB a block")
    print(table(run(arguments.parse_args().layers)))
