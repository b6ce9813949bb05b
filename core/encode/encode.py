"""Frames become a file that is proved before it gets its name."""

from __future__ import annotations

import errno
import os
import time
from pathlib import Path

import numpy as np
from pydantic import BaseModel, ConfigDict

from core import fsops, process
from core.encode.command import EncodeSettings, encode_command, ffmpeg_program, ffmpeg_version
from core.encode.proof import Proof, prove
from core.errors import DiskFull, Finding, ProcessFailed, Refused
from core.frames import Frames
from core.work import Report

_ENCODING = 0.9  # of the stage's time; the rest is the proof


class EncodeRecord(BaseModel):
    """How a clip was encoded: what it takes to make the same file again."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    command: list[str]
    """The ffmpeg command, with the clip's name for its path."""
    ffmpeg: str
    """Its version."""
    settings: EncodeSettings
    bytes: int
    seconds: float
    """For the encoding; the proof took ``proof_seconds``."""
    proof_seconds: float
    proof: Proof


def encode(frames: Frames, fps: int, out: Path, settings: EncodeSettings, report: Report) -> EncodeRecord:
    """Encode frames at a constant rate into ``out``, an MP4 file that is proved and fsynced when it appears.

    Raises ``Refused`` for a size that H.265 in 4:2:0 cannot have, ``DiskFull``, ``ProcessFailed``,
    ``ProofFailed``, and whatever ``report`` raises; none of them leaves a file.
    """
    count, height, width, _ = frames.shape
    if width % 2 or height % 2:
        raise Refused(_odd_size(width, height))
    program, size = ffmpeg_program(), (width, height)
    part = fsops.part_of(out.absolute())
    try:
        begun = time.monotonic()
        _run(
            encode_command(program, settings, size, fps, part),
            frames,
            settings.limit_seconds,
            lambda fraction: report(_ENCODING * fraction),
        )
        encoded = time.monotonic()
        proof = prove(
            part,
            count,
            fps,
            size,
            lambda fraction: report(_ENCODING + (1 - _ENCODING) * fraction),
            limit=settings.limit_seconds,
        )
        record = EncodeRecord(
            command=encode_command("ffmpeg", settings, size, fps, Path(out.name)),
            ffmpeg=ffmpeg_version(program),
            settings=settings,
            bytes=part.stat().st_size,
            seconds=round(encoded - begun, 3),
            proof_seconds=round(time.monotonic() - encoded, 3),
            proof=proof,
        )
        report(1.0)
        fsops.publish(part, out)
    except BaseException:
        fsops.remove(part)
        raise
    return record


def _run(command: list[str], frames: Frames, limit: float, report: Report) -> None:
    """Feed the encoder. Raises ``DiskFull`` where that is what it died of."""

    def progress(line: str) -> float | None:
        key, _, value = line.partition("=")
        return min(1.0, int(value) / len(frames)) if key == "frame" else None

    buffers = (np.ascontiguousarray(frame).data for frame in frames)  # a copy only where it must be
    try:
        process.run(command, report, limit=limit, stdin=buffers, on_line=progress)
    except ProcessFailed as error:
        if any(os.strerror(number) in error.stderr for number in (errno.ENOSPC, errno.EDQUOT)):
            raise DiskFull from error
        raise


def _odd_size(width: int, height: int) -> Finding:
    return Finding(
        code="odd_size",
        message=f"A clip of {width}×{height} cannot be encoded: 4:2:0 video has even sides.",
        field="output",
        remedy="Give an output size with even sides.",
    )
