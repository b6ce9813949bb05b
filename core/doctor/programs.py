"""Programs: what runs here, and that its ffmpeg really makes and plays the clips that are ordered."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import sys
from collections.abc import Iterator

import numpy as np

from core import fsops
from core.doctor.result import Check, Patient, Result, fail, ok, standing
from core.encode.command import ffmpeg_program
from core.encode.encode import encode
from core.errors import DropreelError
from core.process import ProgramMissing
from core.work import unwatched

ENCODE_SECONDS = 60.0
_REMEDY = (
    "Install Dropreel again, which brings an ffmpeg of its own; unset IMAGEIO_FFMPEG_EXE, or let it name an ffmpeg "
    "with libx265."
)


def versions(_patient: Patient) -> Iterator[Result]:
    """What to write into a report."""
    yield ok("dropreel", importlib.metadata.version("dropreel"))
    yield ok("python", f"{platform.python_version()}, {os.path.realpath(sys.executable)}, {platform.platform()}")


def ffmpeg(patient: Patient) -> Iterator[Result]:
    """One frame becomes a file by the configured encoder, and is decoded and proved, exactly as a clip is.

    That an ffmpeg lists an encoder says nothing: it also lists those whose hardware is not there.
    """
    settings = patient.settings
    if not settings.gpu:
        return
    try:
        program = ffmpeg_program()
    except ProgramMissing as error:
        yield fail("ffmpeg", str(error), _REMEDY)
        return
    width, height = settings.output.landscape
    frame = np.random.default_rng(0).integers(0, 256, (1, height, width, 3), np.uint8)
    out = standing(patient.home.gpu.state) / f".doctor-{os.getpid()}.mp4"
    limited = settings.encode.within(patient.home.root).model_copy(
        update={"limit_seconds": min(ENCODE_SECONDS, settings.encode.limit_seconds)}
    )
    try:
        made = encode(frame, settings.output.fps, out, limited, unwatched)
    except (OSError, DropreelError) as error:
        yield fail("ffmpeg", f"{program} makes no clip: {error}", _REMEDY)
    else:
        seconds = made.seconds + made.proof_seconds
        yield ok("ffmpeg", f"{made.ffmpeg}, {settings.encode.codec}: a frame of {width}×{height} encoded, decoded and "
                 f"proved in {seconds:.1f} s")  # fmt: skip
    finally:
        fsops.remove(out)


CHECKS = (
    Check("programs", "versions", versions),
    Check("programs", "ffmpeg", ffmpeg, seconds=3 * ENCODE_SECONDS),
)
