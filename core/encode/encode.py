"""Frames become a file that is proved, and compared with them, before it gets its name."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

from pydantic import BaseModel, ConfigDict

from core import fsops
from core.encode.command import EncodeSettings, encode_command, ffmpeg_program, ffmpeg_version
from core.encode.compare import FirstFrame, Scores, fed, first_frame, proved, scale_of, unmeasured
from core.encode.encoders import ENCODERS
from core.encode.proof import Decoded, Proof, ProofFailed, prove
from core.encode.quality import COLD, MOST_PROBES, Search, sample, search, try_out
from core.encode.run import run_ffmpeg
from core.encode.target import CRF_MIN, Quality
from core.errors import Finding, Refused
from core.frames import Frames
from core.work import Report

_SEARCHED, _ENCODED, _PROVED = 0.2, 0.8, 0.98  # of the stage's time, when these are done
MISSED = 1.0
"""VMAF points below its target at which a clip has missed it: less nobody sees."""


class QualityScore(BaseModel):
    """How good the file is, by which measure, and how that was asked for."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    target: str
    """``[encode] quality``."""
    crf: float | None
    """The constant rate factor it was made with; None of a bitrate."""
    vmaf: float | None
    """The mean over the pictures, 0..100; None where it was not measured."""
    vmaf_low: float | None
    """Their 5th percentile."""
    met: bool | None
    """Whether a VMAF that was asked for is reached; None where none was asked for, or none measured."""
    probes: int
    """How many tries the search made."""
    scale: str
    """What the scores stand on, or why there are none."""


class EncodeRecord(BaseModel):
    """How a clip was encoded: what it takes to make the same file again, and how good it is."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    command: list[str]
    """The ffmpeg command, with the clip's name for its path."""
    ffmpeg: str
    """Its version."""
    settings: EncodeSettings
    lut_sha256: str | None
    bytes: int
    seconds: float
    """For the encoding; the search took its own, the proof and the comparisons ``proof_seconds``."""
    proof_seconds: float
    proof: Proof
    quality: QualityScore
    search: Search | None
    first_frame: FirstFrame | None
    """Frame 0 after and before; None where nothing was compared."""
    findings: list[Finding]
    """What is worth knowing and no reason to keep the clip back: the verdict is QA's."""


def encode(
    frames: Frames,
    fps: int,
    out: Path,
    settings: EncodeSettings,
    report: Report,
    *,
    start: float | None = None,
    compare: bool = True,
) -> EncodeRecord:
    """Encode frames at a constant rate into ``out``, an MP4 file that is proved and fsynced when it appears.

    ``start`` is where the search for a VMAF begins: the factor that a clip like this one ended with. Without
    ``compare`` the frames are read once, in order, and nothing is searched or compared: for frames that are made as
    they are read.

    Raises ``Refused`` for a size that 4:2:0 video cannot have, ``DiskFull``, ``ProcessFailed``, ``ProofFailed``, and
    whatever ``report`` raises; none of them leaves a file.
    """
    count, height, width, _ = frames.shape
    if width % 2 or height % 2:
        raise Refused(_odd_size(width, height))
    program, size = ffmpeg_program(), (width, height)
    reason = unmeasured(program, size) if compare else "not measured: the frames were read only once"
    part = fsops.part_of(out.absolute())
    try:
        found = None
        if settings.target.kind == "vmaf" and reason is None:
            found = _search(frames, fps, settings, start, _share(report, 0.0, _SEARCHED), beside=out)
        quality = _settled(settings, found, start)
        begun = time.monotonic()
        command = encode_command(program, settings, size, fps, part, quality=quality)
        md5s = _run(command, frames, settings, _share(report, _SEARCHED if found else 0.0, _ENCODED))
        encoded = time.monotonic()
        scores, first = None, None
        watch = _share(report, _ENCODED, _PROVED)
        if compare:
            proof, scores = proved(part, frames, fps, settings, watch, md5s=md5s)
            first = _first(part, frames, settings, lambda _: report(_PROVED))
        else:
            tag = ENCODERS[settings.codec].tag
            proof = prove(part, count, fps, size, watch, tag=tag, md5s=md5s, limit=settings.limit_seconds)
        scored = _scored(settings, quality, scores, found, reason or scale_of(size))
        record = EncodeRecord(
            command=encode_command("ffmpeg", settings, size, fps, Path(out.name), quality=quality),
            ffmpeg=ffmpeg_version(program),
            settings=settings,
            lut_sha256=fsops.hash_file(settings.lut) if settings.lut else None,
            bytes=part.stat().st_size,
            seconds=round(encoded - begun, 3),
            proof_seconds=round(time.monotonic() - encoded, 3),
            proof=proof,
            quality=scored,
            search=found,
            first_frame=first,
            findings=list(_findings(scored, first, settings)),
        )
        report(1.0)
        fsops.publish(part, out)
    except BaseException:
        fsops.remove(part)
        raise
    return record


def _share(report: Report, begin: float, end: float) -> Report:
    """The report of a part of the work."""
    return lambda fraction: report(begin + (end - begin) * fraction)


def _search(
    frames: Frames, fps: int, settings: EncodeSettings, start: float | None, report: Report, *, beside: Path
) -> Search:
    begun, tried = time.monotonic(), sample(frames, fps)
    done = 0

    def probe(crf: float) -> float:
        nonlocal done
        part = _share(report, done / MOST_PROBES, (done + 1) / MOST_PROBES)
        vmaf = try_out(crf, tried, fps, settings, part, beside=beside)
        done += 1
        return vmaf

    crf, probes = search(settings.target.value, probe, start)
    seconds = round(time.monotonic() - begun, 3)
    return Search(crf=crf, probes=probes, warm=start is not None, frames=len(tried), seconds=seconds)


def _settled(settings: EncodeSettings, found: Search | None, start: float | None) -> Quality:
    """What the encoder is told: a VMAF that nobody could search for becomes the factor where searches begin."""
    if settings.target.kind != "vmaf":
        return settings.target
    return Quality("crf", found.crf if found else start or COLD)


def _scored(
    settings: EncodeSettings, quality: Quality, scores: Scores | None, found: Search | None, scale: str
) -> QualityScore:
    target = settings.target
    return QualityScore(
        target=settings.quality,
        crf=quality.value if quality.kind == "crf" else None,
        vmaf=scores.mean if scores else None,
        vmaf_low=scores.low if scores else None,
        met=scores.mean >= target.value - MISSED if scores and target.kind == "vmaf" else None,
        probes=len(found.probes) if found else 0,
        scale=scale,
    )


def _run(command: list[str], frames: Frames, settings: EncodeSettings, report: Report) -> list[str] | None:
    """Feed the encoder; returns the MD5 of each picture where it does not sign them itself."""
    signs, decoded = ENCODERS[settings.codec].signs, Decoded(len(frames))

    def progress(line: str) -> float | None:
        key, _, value = line.partition("=")
        return min(1.0, int(value) / len(frames)) if key == "frame" else None

    on_line = progress if signs else decoded
    run_ffmpeg(command, report, limit=settings.limit_seconds, stdin=fed(frames), on_line=on_line)
    return None if signs else decoded.sums


def _first(part: Path, frames: Frames, settings: EncodeSettings, report: Report) -> FirstFrame:
    """Compare the first picture. Raises ``ProofFailed`` where it is another one."""
    first = first_frame(part, frames[0], settings, report)
    if first.ssim < settings.first_ssim_same:
        raise ProofFailed([f"the first picture is not the first frame: SSIM {first.ssim:.3f}"])
    return first


def _findings(scored: QualityScore, first: FirstFrame | None, settings: EncodeSettings) -> Iterator[Finding]:
    target = settings.target.value
    if scored.met is False:
        why = f"The factor may not go below {CRF_MIN:g}." if scored.crf == CRF_MIN else ""
        yield Finding(
            code="quality_unmet",
            message=f"VMAF is {scored.vmaf}, and {target:g} was asked for. "
            + (why or "The tries on a second of the clip promised more than the whole of it has."),
            severity="note",
            field="encode.quality",
            value=scored.vmaf,
            limit=target,
        )
    elif settings.target.kind == "vmaf" and scored.vmaf is None:
        yield Finding(
            code="quality_unmeasured",
            message=f"Whether VMAF reaches {target:g} is not known, {scored.scale}. The factor is {scored.crf:g}.",
            severity="note",
            field="encode.quality",
            remedy="Name an ffmpeg with libvmaf in IMAGEIO_FFMPEG_EXE, or ask for a crf.",
        )
    if first is not None and first.ssim < settings.first_ssim_min:
        yield Finding(
            code="first_frame_encoded",
            message=f"The first picture of the file is not quite the first frame (SSIM {first.ssim:.3f}, PSNR "
            f"{first.psnr:.1f} dB).",
            severity="note",
            field="encode.first_ssim_min",
            value=first.ssim,
            limit=settings.first_ssim_min,
            frame=0,
        )


def _odd_size(width: int, height: int) -> Finding:
    return Finding(
        code="odd_size",
        message=f"A clip of {width}×{height} cannot be encoded: 4:2:0 video has even sides.",
        field="output",
        remedy="Give an output size with even sides.",
    )
