"""The ffmpeg command lines: how a clip is encoded, and how it is decoded with nothing forgiven."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from core import process
from core.encode.encoders import ENCODERS, Codec
from core.encode.target import Quality, quality_of
from core.work import unwatched

Preset = Literal["ultrafast", "superfast", "veryfast", "faster", "fast", "medium", "slow", "slower", "veryslow"]

_QUIET = ("-nostdin", "-hide_banner", "-loglevel", "error", "-xerror")
_PROGRESS = ("-progress", "pipe:1", "-stats_period", "0.1")
_SCALE = "bicubic+accurate_rnd+full_chroma_int+full_chroma_inp"  # the default truncates chroma
# What the encoder has made is decoded beside it, before it is written: there the file's own pictures are compared.
_LOOPBACK = ("-dec", "0:0", "-filter_complex", "[dec:0]null[decoded]", "-map", "[decoded]",
             "-fps_mode", "passthrough", "-f", "framemd5", "pipe:1")  # fmt: skip
VMAF_MODEL = "vmaf_v0.6.1"


def _readable(text: str) -> str:
    quality_of(text)
    return text


class EncodeSettings(BaseModel):
    """How clips are encoded; ``docs/explanation/encoding.md`` has the figures behind the defaults."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    codec: Codec = "libx265"
    """H.265 made on the processor; H.264, or an encoder in hardware, where it is named and works."""
    preset: Preset = "veryfast"
    """How hard x265 and x264 try; the others have no such choice here."""
    quality: Annotated[str, AfterValidator(_readable)] = "vmaf:95"
    """``vmaf:95`` a score to reach, ``crf:23`` a constant rate factor (16 to 28), ``bitrate:8M`` bits a second."""
    first_ssim_min: float = Field(default=0.9, ge=0, le=1)
    """SSIM of frame 0 decoded and frame 0 encoded; less is written down as a finding."""
    first_ssim_same: float = Field(default=0.5, ge=0, le=1)
    """The same; less is another picture, and no clip is delivered."""
    deshake: bool = False
    """Whether ffmpeg's ``deshake`` steadies the frames before they are encoded."""
    lut: Path | None = None
    """A ``.cube`` file, in the home or absolute, through which all colours go before they are encoded."""
    keyframe_seconds: float = Field(default=2.0, gt=0, le=10)
    """At most so long between the pictures that stand alone, where players and editors can jump to."""
    limit_seconds: float = Field(default=600.0, gt=0)
    """An encoding, or its proof, that takes longer than this hangs and is given up."""

    @property
    def target(self) -> Quality:
        """``quality``, read."""
        return quality_of(self.quality)

    @property
    def filters(self) -> tuple[str, ...]:
        """The keys by which pictures are changed after QA has seen them."""
        return tuple(key for key, on in (("lut", self.lut is not None), ("deshake", self.deshake)) if on)

    def within(self, home: Path) -> Self:
        """These settings with the place of the LUT, if there is one, made absolute."""
        return self.model_copy(update={"lut": home / self.lut.expanduser()}) if self.lut else self


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


@functools.cache
def has_vmaf(program: str) -> bool:
    """Whether this ffmpeg can compare by VMAF: builds differ."""
    said = process.run([program, "-hide_banner", "-h", "filter=libvmaf"], unwatched, limit=30.0).stdout
    return "Filter libvmaf" in said


def encode_command(
    program: str, settings: EncodeSettings, size: tuple[int, int], fps: int, out: Path, *, quality: Quality
) -> list[str]:
    """Raw RGB frames of ``size``, (width, height), on stdin; an MP4 file at ``out``; ``quality`` is no ``vmaf``.

    On stdout comes ffmpeg's progress, or, of an encoder that does not sign its pictures, the ``framemd5`` of each as
    it is decoded beside the encoder.

    Here and below the path should be absolute: no such name is an option or a protocol to ffmpeg.
    """
    import ffmpeg

    encoder = ENCODERS[settings.codec]
    # The encoder learns from the frames what their colours mean, and the MP4 writer from the encoder: only so
    # do the stream and the container's colr atom both say BT.709.
    frames = _prepared(_raw_frames(size, fps), settings).filter(
        "setparams", color_primaries="bt709", color_trc="bt709", colorspace="bt709", range="tv"
    )
    options = {
        "format": "mp4",
        "c:v": settings.codec,
        **encoder.options(settings.preset, quality),
        "g": max(1, round(settings.keyframe_seconds * fps)),
        "tag:v": encoder.tag,
        "movflags": "+faststart",
        "flags:v": "+bitexact",  # no dates and no versions: the same frames make the same bytes
        "fflags": "+bitexact",
    }
    clip = frames.output(str(out), **options)
    told = _PROGRESS if encoder.signs else ()
    beside = () if encoder.signs else _LOOPBACK
    return [*_strings(ffmpeg.compile(clip, cmd=[program, *_QUIET, *told], overwrite_output=True)), *beside]


def decode_command(program: str, path: Path, *, md5: bool = False) -> list[str]:
    """Decode every picture of an MP4 file; a line for each on stdout, in ffmpeg's ``framecrc`` format or ``framemd5``.

    The first error of any kind ends it with a status that is not 0, and so does a picture whose MD5 is not
    the one that the encoder wrote beside it. Without those MD5s most damage passes for a picture.
    """
    import ffmpeg

    return _strings(ffmpeg.compile(_told(_clip(path)["v:0"], md5=md5), cmd=[program, *_QUIET]))


def compare_command(
    program: str,
    settings: EncodeSettings,
    path: Path,
    size: tuple[int, int],
    fps: int,
    *,
    every: int,
    threads: int,
    md5: bool = False,
) -> list[str]:
    """``decode_command``, and VMAF of ``every``-th picture against the raw RGB frames on stdin, in one pass.

    The frames go through the same filters as before the encoder, so that what these do is no error. Both sides are
    compared pixel by pixel at the size of the clip. The scores come on stderr, as CSV with a heading, a line a picture:
    the disk may be full.
    """
    import ffmpeg

    pictures = _clip(path)["v:0"].filter_multi_output("split", 2)
    frames = _prepared(_raw_frames(size, fps), settings)
    scores = ffmpeg.filter(
        [pictures[1], frames],
        "libvmaf",
        model=f"version={VMAF_MODEL}",
        n_subsample=every,
        n_threads=threads,
        log_fmt="csv",
        log_path="/dev/stderr",
    )
    both = ffmpeg.merge_outputs(_told(pictures[0], md5=md5), ffmpeg.output(scores, "pipe:2", format="null"))
    return _strings(ffmpeg.compile(both, cmd=[program, *_QUIET]))


def first_command(program: str, path: Path, out: Path) -> list[str]:
    """The first picture of an MP4 file, as a player that believes its tags shows it, into ``out`` as raw RGB."""
    import ffmpeg

    picture = _clip(path)["v:0"].filter("scale", flags=_SCALE).filter("format", "rgb24")
    command = picture.output(str(out), format="rawvideo", vframes=1)
    return _strings(ffmpeg.compile(command, cmd=[program, *_QUIET], overwrite_output=True))


def coloured_command(program: str, settings: EncodeSettings, size: tuple[int, int], out: Path) -> list[str]:
    """One raw RGB frame on stdin, through the LUT of the settings, into ``out``."""
    import ffmpeg

    picture = _coloured(_raw_frames(size, 1), settings).filter("format", "rgb24")
    command = picture.output(str(out), format="rawvideo")
    return _strings(ffmpeg.compile(command, cmd=[program, *_QUIET], overwrite_output=True))


def _raw_frames(size: tuple[int, int], fps: int) -> Any:
    import ffmpeg

    return ffmpeg.input("pipe:0", format="rawvideo", pixel_format="rgb24", video_size=size, framerate=fps)


def _coloured(frames: Any, settings: EncodeSettings) -> Any:
    return frames.filter("lut3d", file=str(settings.lut), interp="tetrahedral") if settings.lut else frames


def _prepared(frames: Any, settings: EncodeSettings) -> Any:
    """Frames as the encoder gets them. Colours change in RGB, where a LUT is meant; ``deshake`` knows only YUV."""
    frames = (
        _coloured(frames, settings)
        .filter("scale", out_color_matrix="bt709", out_range="tv", flags=_SCALE)
        .filter("format", "yuv420p")
    )
    return frames.filter("deshake") if settings.deshake else frames


def _clip(path: Path) -> Any:
    import ffmpeg

    return ffmpeg.input(str(path), format="mp4", protocol_whitelist="file", err_detect="crccheck+explode")


def _told(pictures: Any, *, md5: bool) -> Any:
    import ffmpeg

    return ffmpeg.output(pictures, "pipe:1", format="framemd5" if md5 else "framecrc", fps_mode="passthrough")


def _strings(argv: list[Any]) -> list[str]:
    return [str(argument) for argument in argv]
