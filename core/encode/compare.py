"""How near an encoded file comes to the frames it was made of: VMAF of its pictures, and its first picture."""

from __future__ import annotations

import contextlib
import csv
import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np
from pydantic import BaseModel, ConfigDict

from core import fidelity, fsops
from core.encode.command import (
    VMAF_MODEL,
    EncodeSettings,
    coloured_command,
    compare_command,
    ffmpeg_program,
    first_command,
    has_vmaf,
)
from core.encode.encoders import ENCODERS
from core.encode.proof import Decoding, Proof, ProofFailed, prove
from core.encode.run import run_ffmpeg
from core.frames import Frames
from core.light import Frame
from core.work import Report

SMALLEST = 32
"""Pixels. VMAF looks at four scales, and libvmaf dies of pictures that are too small for them."""
_EVERY = 7, 3
_ENOUGH = 24
_MOST = 400
"""Pictures whose scores fit into what ``core.process`` keeps of what a program says: 150 of 65,536 bytes each."""
_MOST_THREADS = 4
_LOW = 5.0


class Scores(BaseModel):
    """VMAF of some of a clip's pictures, 0..100."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    mean: float
    low: float
    """Their 5th percentile: a twentieth of them is worse."""
    pictures: int
    """How many were looked at."""


class FirstFrame(BaseModel):
    """How like the first picture of the file is to the first frame before it was encoded."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    ssim: float
    psnr: float
    """dB, of all three channels."""


def unmeasured(program: str, size: tuple[int, int]) -> str | None:
    """Why VMAF cannot be had for clips of a size, (width, height); None where it can."""
    if min(size) < SMALLEST:
        return f"not measured: VMAF needs pictures of {SMALLEST} pixels each way"
    if not has_vmaf(program):
        return "not measured: this ffmpeg has no libvmaf"
    return None


def scale_of(size: tuple[int, int]) -> str:
    """The scale on which the scores of clips of a size stand."""
    return f"{VMAF_MODEL}, {size[0]}×{size[1]}, its own pixels"


def every(count: int) -> int:
    """Every how many pictures one is compared, of ``count``; neighbours hardly differ.

    Never five: encoders make their pictures in groups of one good and four cheap ones, and every fifth would always
    meet the same kind (measured: a point too high).
    """
    step = next((step for step in _EVERY if count // step >= _ENOUGH), 1)
    while count // step > _MOST:
        step *= _EVERY[0]
    return step


def proved(
    path: Path, frames: Frames, fps: int, settings: EncodeSettings, report: Report, *, md5s: Sequence[str] | None
) -> tuple[Proof, Scores | None]:
    """Prove a clip, and score it against its frames while it is decoded. Raises as ``prove``.

    No scores where ``unmeasured`` has a reason. ``md5s`` are those of the pictures as the encoder made them.
    """
    program, (count, height, width, _) = ffmpeg_program(), frames.shape
    size, tag = (width, height), ENCODERS[settings.codec].tag
    if unmeasured(program, size):
        return prove(path, count, fps, size, report, tag=tag, md5s=md5s, limit=settings.limit_seconds), None
    said: list[str] = []
    command = _command(path, frames, fps, settings, md5=md5s is not None)
    proof = prove(
        path,
        count,
        fps,
        size,
        report,
        tag=tag,
        md5s=md5s,
        decoding=Decoding(command, fed(frames), said.append),
        limit=settings.limit_seconds,
    )
    return proof, _scores(said[0])


def score(path: Path, frames: Frames, fps: int, settings: EncodeSettings, report: Report) -> Scores:
    """The scores of a clip that nobody will deliver."""
    command = _command(path, frames, fps, settings, md5=False)
    return _scores(run_ffmpeg(command, report, limit=settings.limit_seconds, stdin=fed(frames)).stderr)


@contextlib.contextmanager
def scratch(beside: Path) -> Iterator[Path]:
    """A name for a file that is gone afterwards; one that a dead process leaves is swept with the clip's others."""
    path = fsops.part_of(beside.absolute())
    try:
        yield path
    finally:
        fsops.remove(path)


def first_frame(path: Path, before: Frame, settings: EncodeSettings, report: Report) -> FirstFrame:
    """Compare a clip's first picture with the frame, ``(H, W, 3)`` uint8, that it was made of.

    A LUT is meant to change it, so it is compared with what the LUT makes of the frame; ``deshake`` leaves the first
    frame alone.
    """
    program, limit = ffmpeg_program(), settings.limit_seconds
    height, width, _ = before.shape
    with scratch(path) as after, scratch(path) as coloured:
        run_ffmpeg(first_command(program, path.absolute(), after), report, limit=limit)
        if settings.lut:
            command = coloured_command(program, settings, (width, height), coloured)
            run_ffmpeg(command, report, limit=limit, stdin=fed([before]))
            before = np.fromfile(coloured, np.uint8).reshape(before.shape)
        found = fidelity.fidelity(np.fromfile(after, np.uint8).reshape(before.shape), before)
    return FirstFrame(ssim=round(found.ssim, 4), psnr=round(found.psnr, 2))


def fed(frames: Iterable[Frame]) -> Iterator[memoryview]:
    """Frames as ``process.run`` takes them; a copy only where it must be."""
    return (np.ascontiguousarray(frame).data for frame in frames)


def _command(path: Path, frames: Frames, fps: int, settings: EncodeSettings, *, md5: bool) -> list[str]:
    count, height, width, _ = frames.shape
    threads = min(_MOST_THREADS, os.cpu_count() or 1)
    return compare_command(ffmpeg_program(), settings, path.absolute(), (width, height), fps,
                           every=every(count), threads=threads, md5=md5)  # fmt: skip


def _scores(said: str) -> Scores:
    lines = said[said.find("Frame,") :].splitlines() if "Frame," in said else []
    scores = np.array([float(picture["vmaf"]) for picture in csv.DictReader(lines)])
    if not scores.size:
        raise ProofFailed([f"VMAF has no scores: {said.strip()[-1000:] or 'ffmpeg said nothing'}"])
    return Scores(
        mean=round(float(scores.mean()), 2), low=round(float(np.percentile(scores, _LOW)), 2), pictures=len(scores)
    )
