"""The encoders that the settings can name: what each is told, and what its files are tagged."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Literal, NamedTuple

from core.encode.target import CRF_MAX, CRF_MIN, Quality

Codec = Literal["libx265", "libx264", "hevc_nvenc", "h264_nvenc", "hevc_videotoolbox", "h264_videotoolbox"]
Options = Mapping[str, Any]
"""ffmpeg's options by name."""

_X265 = (
    "log-level=error",
    "info=0",  # no list of this machine's abilities in the stream
    "hash=1",  # every picture carries its MD5, which the proof compares
    "open-gop=0",
    "frame-threads=3",  # by itself x265 makes one picture at a time on two cores; the number changes no bit
)
_VIDEOTOOLBOX_BEST, _VIDEOTOOLBOX_STEP = 76.0, 2.0


class Encoder(NamedTuple):
    """One of ffmpeg's encoders."""

    options: Callable[[str, Quality], Options]
    """For a preset and a ``crf`` or ``bitrate``."""
    tag: str
    """The sample entry by which players know the format; QuickTime plays no hev1."""
    hardware: bool
    """Whether it is there depends on the machine, and only a try tells."""
    signs: bool
    """Whether it writes each picture's MD5 into the stream, against which a strict decoder checks what it decodes."""


def _bits(quality: Quality) -> Options:
    """A mean rate, which no second exceeds by half: some limit is what who counts bits counts on."""
    rate = round(quality.value)
    return {"b:v": rate, "maxrate": rate * 3 // 2, "bufsize": rate * 2}


def _x265(preset: str, quality: Quality) -> Options:
    amount = {"crf": quality.value} if quality.kind == "crf" else _bits(quality)
    return {"preset": preset, **amount, "x265-params": ":".join(_X265)}


def _x264(preset: str, quality: Quality) -> Options:
    amount = {"crf": quality.value} if quality.kind == "crf" else _bits(quality)
    return {"preset": preset, **amount, "threads": 3}  # the number changes the bits, so it is no machine's choice


def _nvenc(_preset: str, quality: Quality) -> Options:
    """NVENC's ``cq`` stands in for ``crf``: the same range and direction, another scale; ``vmaf:`` levels them."""
    amount = {"cq": quality.value, "b:v": 0} if quality.kind == "crf" else _bits(quality)
    return {"preset": "p7", "tune": "hq", "rc": "vbr", **amount, "multipass": "fullres", "spatial-aq": 1,
            "temporal-aq": 1, "rc-lookahead": 32, "bf": 3, "b_ref_mode": "middle"}  # fmt: skip


def _videotoolbox(_preset: str, quality: Quality) -> Options:
    """VideoToolbox counts its quality upward, 1 to 100. 16 to 28 are put onto 76 to 52: a convention, no equality."""
    if quality.kind == "bitrate":
        return {"b:v": round(quality.value)}
    within = min(max(quality.value, CRF_MIN), CRF_MAX)
    return {"q:v": round(_VIDEOTOOLBOX_BEST - _VIDEOTOOLBOX_STEP * (within - CRF_MIN))}


ENCODERS: Mapping[Codec, Encoder] = {
    "libx265": Encoder(_x265, "hvc1", hardware=False, signs=True),
    "libx264": Encoder(_x264, "avc1", hardware=False, signs=False),
    "hevc_nvenc": Encoder(_nvenc, "hvc1", hardware=True, signs=False),
    "h264_nvenc": Encoder(_nvenc, "avc1", hardware=True, signs=False),
    "hevc_videotoolbox": Encoder(_videotoolbox, "hvc1", hardware=True, signs=False),
    "h264_videotoolbox": Encoder(_videotoolbox, "avc1", hardware=True, signs=False),
}
