"""The ffmpeg command lines: how a clip is encoded, and how it is decoded with nothing forgiven."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from core import process
from core.work import unwatched

Preset = Literal["ultrafast", "superfast", "veryfast", "faster", "fast", "medium", "slow", "slower", "veryslow"]

_QUIET = ("-nostdin", "-hide_banner", "-loglevel", "error", "-xerror")
_PROGRESS = ("-progress", "pipe:1", "-stats_period", "0.1")
_SCALE = "bicubic+accurate_rnd+full_chroma_int+full_chroma_inp"  # the default truncates chroma
_X265 = (
    "log-level=error",
    "info=0",  # no list of this machine's abilities in the stream
    "hash=1",  # every picture carries its MD5, which the proof compares
    "open-gop=0",
    "frame-threads=3",  # by itself x265 makes one picture at a time on two cores; the number changes no bit
)


class EncodeSettings(BaseModel):
    """How clips are encoded.

    The defaults weigh quality against the processor time of a server that makes eight clips a minute. A 6 s
    clip of 576×1024 at 30 fps costs 6 to 7 core-seconds with ``veryfast`` at 18 and comes out at VMAF 95 to
    97. ``medium`` at 20 comes out the same for half as much time again; ``superfast`` at 18 saves a quarter
    of it and loses more than 1 dB.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    codec: Literal["libx265"] = "libx265"
    """H.265, made on the processor."""
    preset: Preset = "veryfast"
    """How hard x265 tries."""
    crf: int = Field(default=18, ge=16, le=28)
    """x265's constant rate factor: lower is better and larger; six more about halve the file."""
    keyframe_seconds: float = Field(default=2.0, gt=0, le=10)
    """At most so long between the pictures that stand alone, where players and editors can jump to."""
    limit_seconds: float = Field(default=600.0, gt=0)
    """An encoding, or its proof, that takes longer than this hangs and is given up."""


def ffmpeg_program() -> str:
    """The ffmpeg that comes with us, or the one ``IMAGEIO_FFMPEG_EXE`` names. Raises ``ProgramMissing``."""
    import imageio_ffmpeg

    try:
        return str(imageio_ffmpeg.get_ffmpeg_exe())
    except RuntimeError as error:
        raise process.ProgramMissing("ffmpeg") from error


@functools.cache
def ffmpeg_version(program: str) -> str:
    """What ``ffmpeg -version`` calls itself."""
    said = process.run([program, "-version"], unwatched, limit=30.0).stdout
    return said.removeprefix("ffmpeg version ").partition(" ")[0]


def encode_command(program: str, settings: EncodeSettings, size: tuple[int, int], fps: int, out: Path) -> list[str]:
    """Raw RGB frames of ``size``, (width, height), on stdin; an MP4 file at ``out``; progress on stdout.

    Here and below the path should be absolute: no such name is an option or a protocol to ffmpeg.
    """
    import ffmpeg

    frames = ffmpeg.input("pipe:0", format="rawvideo", pixel_format="rgb24", video_size=size, framerate=fps)
    # The encoder learns from the frames what their colours mean, and the MP4 writer from the encoder: only so
    # do the stream and the container's colr atom both say BT.709.
    frames = (
        frames.filter("scale", out_color_matrix="bt709", out_range="tv", flags=_SCALE)
        .filter("format", "yuv420p")
        .filter("setparams", color_primaries="bt709", color_trc="bt709", colorspace="bt709", range="tv")
    )
    options = {
        "format": "mp4",
        "c:v": settings.codec,
        "preset": settings.preset,
        "crf": settings.crf,
        "g": max(1, round(settings.keyframe_seconds * fps)),
        "x265-params": ":".join(_X265),
        "tag:v": "hvc1",  # QuickTime plays no hev1
        "movflags": "+faststart",
        "flags:v": "+bitexact",  # no dates and no versions: the same frames make the same bytes
        "fflags": "+bitexact",
    }
    clip = frames.output(str(out), **options)
    return _strings(ffmpeg.compile(clip, cmd=[program, *_QUIET, *_PROGRESS], overwrite_output=True))


def decode_command(program: str, path: Path) -> list[str]:
    """Decode every picture of an MP4 file; a line for each on stdout, in ffmpeg's ``framecrc`` format.

    The first error of any kind ends it with a status that is not 0, and so does a picture whose MD5 is not
    the one that the encoder wrote beside it. Without those MD5s most damage passes for a picture.
    """
    import ffmpeg

    clip = ffmpeg.input(str(path), format="mp4", protocol_whitelist="file", err_detect="crccheck+explode")
    pictures = ffmpeg.output(clip["v:0"], "pipe:1", format="framecrc", fps_mode="passthrough")
    return _strings(ffmpeg.compile(pictures, cmd=[program, *_QUIET]))


def _strings(argv: list[Any]) -> list[str]:
    return [str(argument) for argument in argv]
