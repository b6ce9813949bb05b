"""Tries out what the settings of ``[encode]`` name: that a machine lists an encoder says little."""

from __future__ import annotations

import contextlib
import errno
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from core.encode.command import EncodeSettings, coloured_command, encode_command, ffmpeg_program
from core.encode.compare import fed
from core.encode.encoders import ENCODERS
from core.encode.quality import COLD
from core.encode.run import run_ffmpeg
from core.encode.target import Quality
from core.errors import BadSettings, DiskFull, ProcessFailed
from core.light import Frame
from core.work import Report, unwatched

_SIZE, _COUNT, _FPS = (256, 256), 8, 30  # no encoder in hardware takes much smaller pictures
_LIMIT_SECONDS = 30.0
_WORDS = 300


def try_settings(settings: EncodeSettings, report: Report = unwatched) -> None:
    """Send a frame through the LUT, and encode a few where the encoder may not be there.

    From the main thread, as ``process.run``. Raises ``BadSettings`` that names the key and the remedy. What says
    nothing of the settings is ``DiskFull``, or ``ProcessFailed`` where ffmpeg was killed or took too long.
    """
    if settings.lut:
        _try_lut(settings, settings.lut, report)
    if settings.codec != "libx265":
        _try_codec(settings.model_copy(update={"lut": None}), report)


def _try_lut(settings: EncodeSettings, lut: Path, report: Report) -> None:
    if not lut.is_file():
        raise BadSettings(f"[encode] lut: there is no file {lut}. Put it there, or remove the key.")
    with _scratch() as folder:
        command = coloured_command(ffmpeg_program(), settings, _SIZE, folder / "frame")
        try:
            run_ffmpeg(command, report, limit=_LIMIT_SECONDS, stdin=fed([_frame()]))
        except ProcessFailed as error:
            if error.returncode < 0:
                raise  # a daemon whose settings are bad is not started again
            raise BadSettings(
                f"[encode] lut: {lut} is no .cube file that ffmpeg can use: {_first_words(error)}. "
                "Export it again as a 3D LUT, or remove the key."
            ) from error


def _try_codec(settings: EncodeSettings, report: Report) -> None:
    with _scratch() as folder:
        clip = folder / "clip.mp4"
        command = encode_command(ffmpeg_program(), settings, _SIZE, _FPS, clip, quality=Quality("crf", COLD))
        try:
            run_ffmpeg(command, report, limit=_LIMIT_SECONDS, stdin=fed([_frame()] * _COUNT))
        except ProcessFailed as error:
            if error.returncode < 0:
                raise  # as above
            where = "hardware and its driver" if ENCODERS[settings.codec].hardware else "ffmpeg"
            raise BadSettings(
                f"[encode] codec: {settings.codec} does not work with this machine's {where}: {_first_words(error)}. "
                'Set codec = "libx265", or "libx264" for H.264.'
            ) from error


@contextlib.contextmanager
def _scratch() -> Iterator[Path]:
    """A folder that is gone afterwards."""
    try:
        folder = tempfile.TemporaryDirectory(prefix="dropreel-")
    except OSError as error:
        if error.errno in {errno.ENOSPC, errno.EDQUOT}:
            raise DiskFull from error
        raise
    with folder as name:
        yield Path(name)


def _frame() -> Frame:
    return np.zeros((_SIZE[1], _SIZE[0], 3), np.uint8)


def _first_words(error: ProcessFailed) -> str:
    """The first thing ffmpeg complained of: what follows are its consequences."""
    said = error.stderr.strip().splitlines()
    return said[0][:_WORDS].rstrip(".") if said else str(error)
