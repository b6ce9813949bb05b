"""Scores, searches, filters and other encoders, with the real ffmpeg on small clips."""

from __future__ import annotations

import errno
import functools
import itertools
import os
import subprocess
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from core import frames, fsops, process
from core.contract import QaReport
from core.encode import mp4
from core.encode.command import EncodeSettings, decode_command, encode_command, ffmpeg_program
from core.encode.compare import first_frame, proved
from core.encode.encode import MISSED, EncodeRecord, encode
from core.encode.proof import ProofFailed, prove
from core.encode.tryout import try_settings
from core.errors import BadSettings, DiskFull, ProcessFailed
from core.qa.delivered import FILE_SHEET, judge_delivered
from core.qa.flashes import screen
from core.rooms import FRAMES_FILE, ClipFolder
from core.work import unwatched
from tests.house import SIDECAR, TINY, House, picture
from tests.integration.test_encode import HEIGHT, WIDTH, a_move, decoded

FPS, COUNT = 30, 60
H264 = EncodeSettings(codec="libx264", quality="crf:20")


def grainy(count: int = COUNT) -> frames.Frames:
    """A move whose grain is another in every frame, as of a film: that takes bits, and loses some."""
    grain = np.random.default_rng(2).normal(0, 3, (count, HEIGHT, WIDTH, 3))
    return np.clip(a_move(count) + grain, 0, 255).astype(np.uint8)


def made(
    tmp_path: Path, pictures: frames.Frames, settings: EncodeSettings, start: float | None = None
) -> tuple[Path, EncodeRecord]:
    out = tmp_path / "clip.mp4"
    return out, encode(pictures, FPS, out, settings, unwatched, start=start)


# The score, and what it is to be.


def test_the_score_is_reached_by_few_tries_and_by_one_where_the_batch_knows(tmp_path: Path) -> None:
    settings = EncodeSettings(quality="vmaf:94")
    _, cold = made(tmp_path, grainy(), settings)
    assert cold.search is not None
    assert not cold.search.warm
    assert cold.quality.probes == len(cold.search.probes) <= 3
    assert cold.search.frames == FPS  # a second
    assert cold.quality.vmaf is not None
    assert abs(cold.quality.vmaf - 94) <= 2
    assert cold.quality.met
    assert cold.findings == []
    _, warm = made(tmp_path, grainy(), settings, start=cold.quality.crf)
    assert warm.search is not None
    assert warm.search.warm
    assert warm.quality.probes == 1


def test_a_score_that_cannot_be_reached_is_written_down_and_the_clip_is_made(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (6, HEIGHT, WIDTH, 3), np.uint8)
    noise[1:] = noise[:-1] // 2 + noise[1:] // 2
    out, record = made(tmp_path, noise, EncodeSettings(quality="vmaf:99", preset="ultrafast"))
    assert out.is_file()
    assert record.quality.crf == 16.0
    assert record.quality.vmaf is not None
    assert record.quality.vmaf < 99 - MISSED
    assert record.quality.met is False
    assert [finding.code for finding in record.findings if finding.field == "encode.quality"] == ["quality_unmet"]


def test_the_score_falls_with_the_factor_and_the_low_one_below_the_mean(tmp_path: Path) -> None:
    fine, coarse = (made(tmp_path, a_move(30), EncodeSettings(quality=f"crf:{crf}"))[1].quality for crf in (16, 28))
    assert fine.vmaf
    assert coarse.vmaf
    assert coarse.vmaf_low
    assert fine.vmaf > coarse.vmaf + 2
    assert coarse.vmaf >= coarse.vmaf_low
    assert (fine.crf, fine.met, fine.probes, fine.target) == (16.0, None, 0, "crf:16")


def test_a_turned_picture_scores_alike(tmp_path: Path) -> None:
    lying = a_move(30)
    standing = np.ascontiguousarray(lying.transpose(0, 2, 1, 3))
    scores = [made(tmp_path, pictures, EncodeSettings(quality="crf:24"))[1].quality for pictures in (lying, standing)]
    assert scores[0].vmaf
    assert scores[1].vmaf
    assert abs(scores[0].vmaf - scores[1].vmaf) <= 1.0
    assert [score.scale for score in scores] == [
        "vmaf_v0.6.1, 192×108, its own pixels",
        "vmaf_v0.6.1, 108×192, its own pixels",
    ]


def test_the_score_is_against_these_frames_and_no_others(tmp_path: Path) -> None:
    settings = EncodeSettings(quality="crf:18")
    out, record = made(tmp_path, a_move(30), settings)
    _, own = proved(out, a_move(30), FPS, settings, unwatched, md5s=None)
    _, others = proved(out, a_move(31)[1:], FPS, settings, unwatched, md5s=None)
    assert own is not None
    assert others is not None
    assert own.mean == record.quality.vmaf
    assert others.mean < own.mean - 20


def test_bits_a_second(tmp_path: Path) -> None:
    out, record = made(tmp_path, grainy(), EncodeSettings(quality="bitrate:600k"))
    assert 8 * out.stat().st_size / record.proof.seconds == pytest.approx(600_000, rel=0.3)
    assert record.quality.crf is None
    assert record.quality.vmaf is not None


def wrapped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *cases: str) -> None:
    """From now on, an ffmpeg that does something else, or before, where its arguments hold certain words."""
    wrapper = tmp_path / "bin" / "ffmpeg"
    wrapper.parent.mkdir()
    wrapper.write_text(
        "\n".join(["#!/bin/sh", 'case "$*" in', *cases, "esac", f"exec '{ffmpeg_program()}' \"$@\"", ""])
    )
    wrapper.chmod(0o755)
    monkeypatch.setenv("IMAGEIO_FFMPEG_EXE", str(wrapper))


def without_vmaf(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """From now on, an ffmpeg that was built without libvmaf, like some there are."""
    wrapped(
        tmp_path, monkeypatch,
        """*filter=libvmaf*) echo "Unknown filter 'libvmaf'."; exit 0;;""",
        "*libvmaf=*) exit 1;;",
    )  # fmt: skip


def test_without_libvmaf_the_record_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    without_vmaf(tmp_path, monkeypatch)
    _, record = made(tmp_path, a_move(6), EncodeSettings())
    score = record.quality
    assert (score.vmaf, score.vmaf_low, score.met, score.probes, score.crf) == (None, None, None, 0, 22.0)
    assert score.scale == "not measured: this ffmpeg has no libvmaf"
    assert [finding.code for finding in record.findings] == ["quality_unmeasured"]
    assert record.first_frame is not None


def test_pictures_too_small_for_vmaf_are_made_all_the_same(tmp_path: Path) -> None:
    _, record = made(tmp_path, a_move(4, 16, 16), EncodeSettings())
    assert record.quality.vmaf is None
    assert "32 pixels" in record.quality.scale


# A full disk.

FULL = 'echo "Error writing trailer: No space left on device" >&2; exit 228;;'


@pytest.mark.parametrize("compare", [False, True])
def test_a_full_disk_in_the_proof_is_no_broken_clip(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, compare: bool
) -> None:
    wrapped(tmp_path, monkeypatch, f"*framecrc*) {FULL}")
    out = tmp_path / "out" / "clip.mp4"
    out.parent.mkdir()
    with pytest.raises(DiskFull):
        encode(a_move(3), FPS, out, EncodeSettings(quality="crf:28"), unwatched, compare=compare)
    assert list(out.parent.iterdir()) == []


def test_proof_and_scores_write_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nor can what is not written be cut short."""
    wrapped(tmp_path, monkeypatch, "*libvmaf=*) ulimit -f 0;;")
    _, record = made(tmp_path, a_move(6), EncodeSettings(quality="crf:18"))
    assert record.quality.vmaf is not None
    assert record.quality.vmaf > 80


# The first frame.


def test_the_first_frame_after_is_the_first_frame_before(tmp_path: Path) -> None:
    out, record = made(tmp_path, a_move(6), EncodeSettings(quality="crf:18"))
    assert record.first_frame is not None
    assert record.first_frame.ssim > 0.97
    assert record.first_frame.psnr > 30
    later = first_frame(out, a_move(6)[5], EncodeSettings(), unwatched)
    assert later.ssim < 0.6


def test_a_first_frame_that_lost_something_is_a_finding(tmp_path: Path) -> None:
    out, record = made(tmp_path, a_move(3), EncodeSettings(quality="crf:28", first_ssim_min=0.995))
    assert out.is_file()
    [finding] = record.findings
    assert finding.code == "first_frame_encoded"
    assert finding.limit == 0.995
    assert record.first_frame is not None
    assert finding.value == record.first_frame.ssim


def test_a_first_frame_that_is_another_is_no_clip(tmp_path: Path) -> None:
    with pytest.raises(ProofFailed, match="first frame"):
        made(tmp_path, a_move(3), EncodeSettings(quality="crf:28", first_ssim_same=0.999))
    assert list(tmp_path.iterdir()) == []


# H.264, and hardware.


def test_h264_is_proved_picture_by_picture(tmp_path: Path) -> None:
    out, record = made(tmp_path, a_move(20), H264)
    assert mp4.read(out).codec == record.proof.codec == "avc1"
    again = tmp_path / "again"
    again.mkdir()
    assert made(again, a_move(20), H264)[0].read_bytes() == out.read_bytes()
    assert record.quality.vmaf is not None
    assert record.quality.vmaf > 90


def test_h264_pictures_that_are_not_what_the_encoder_made_are_found(tmp_path: Path) -> None:
    """Flip bits, one at a time: what H.264 decodes without a word of complaint is found all the same."""
    out, pictures = tmp_path / "clip.mp4", a_move(20)
    command = encode_command(ffmpeg_program(), H264, (WIDTH, HEIGHT), FPS, out, quality=H264.target)
    lines: list[str] = []
    process.run(command, unwatched, limit=20, stdin=[frame.data for frame in pictures], on_line=lines.append)
    md5s = [line.split(",")[5].strip() for line in lines if not line.startswith("#")]

    def proves() -> None:
        prove(out, 20, FPS, (WIDTH, HEIGHT), unwatched, tag="avc1", md5s=md5s)

    proves()
    content = out.read_bytes()
    before = seen(out)
    rng, start, silent = np.random.default_rng(5), content.index(b"mdat") + 4, 0
    for place in rng.integers(start, len(content), 12):
        damaged = bytearray(content)
        damaged[place] ^= 1 << int(rng.integers(8))
        out.write_bytes(damaged)
        try:
            proves()
        except ProofFailed as failed:
            silent += any("what the encoder made" in fact for fact in failed.wrong)
        else:
            assert seen(out) == before  # what is not found must not be seen
    assert silent >= 1  # which a decoder's own checks would have let through


def seen(path: Path) -> str:
    return process.run(decode_command(ffmpeg_program(), path, md5=True), unwatched, limit=20).stdout


@pytest.mark.parametrize("codec", ["hevc_nvenc", "h264_videotoolbox"])
def test_hardware_works_or_is_refused_by_name_with_a_remedy(tmp_path: Path, codec: str) -> None:
    settings = EncodeSettings.model_validate({"codec": codec, "quality": "crf:20"})
    try:
        try_settings(settings)
    except BadSettings as error:
        words = str(error)
        assert f"[encode] codec: {codec}" in words, words
        assert 'codec = "libx265"' in words, words
    else:
        _, record = made(tmp_path, a_move(20), settings)
        assert record.quality.vmaf is not None
        assert record.quality.vmaf > 80


def test_what_works_is_not_refused() -> None:
    try_settings(EncodeSettings())
    try_settings(H264)


@pytest.mark.parametrize(
    ("case", "error"),
    [("*libx264*) kill -9 $$;;", ProcessFailed), (f"*libx264*) {FULL}", DiskFull)],
    ids=["killed", "full disk"],
)
def test_what_says_nothing_of_the_settings_is_not_held_against_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, case: str, error: type[Exception]
) -> None:
    """Bad settings end a daemon for good."""
    wrapped(tmp_path, monkeypatch, case, case.replace("libx264", "lut3d"))
    with pytest.raises(error):
        try_settings(H264)
    with pytest.raises(error):
        try_settings(EncodeSettings(lut=a_lut(tmp_path / "grade.cube")))


def test_no_room_for_a_try_is_a_full_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "mkdir", full)
    with pytest.raises(DiskFull):
        try_settings(H264)


# A LUT.


def black() -> frames.Frames:
    """A keyframe."""
    return np.zeros((64, 64, 3), np.uint8)


def a_lut(path: Path, *, size: int = 5) -> Path:
    """Red and blue change places, and green is dimmed: nobody could take that for an error of the encoder."""
    steps = [step / (size - 1) for step in range(size)]
    rows = [f"{blue:.6f} {0.8 * green:.6f} {red:.6f}" for blue, green, red in itertools.product(steps, repeat=3)]
    path.write_text("\n".join([f"LUT_3D_SIZE {size}", *rows, ""]))
    return path


def test_colours_go_through_a_lut_and_are_compared_behind_it(tmp_path: Path) -> None:
    lut = a_lut(tmp_path / "it's [a], b=c; \\d:日.cube")
    settings = EncodeSettings(quality="crf:18", lut=Path(lut.name)).within(tmp_path)
    try_settings(settings)
    pictures = np.full((3, 64, 64, 3), (200, 100, 40), np.uint8)
    pictures[:, 16:48, 16:48] = (30, 60, 180)
    out, record = made(tmp_path, pictures, settings)
    shown = decoded(out, 3, 64, 64).astype(int)
    assert np.abs(shown[:, 4:12, 4:12] - (40, 80, 200)).max() <= 3
    assert np.abs(shown[:, 24:40, 24:40] - (180, 48, 30)).max() <= 3
    assert record.first_frame is not None
    assert record.first_frame.ssim > 0.98
    assert record.quality.vmaf is not None
    assert record.quality.vmaf > 90
    assert record.lut_sha256 is not None
    assert len(record.lut_sha256) == 64
    passed = judge_delivered(
        QaReport(verdict="pass", screened=""),
        out,
        FPS,
        black,
        filters=["lut"],
        standard="trace24",
        report=unwatched,
    )
    assert (passed.verdict, passed.reasons) == ("pass", [])
    assert passed.measures == {"file_luminance_transitions": 0, "file_red_transitions": 0}
    assert passed.screened == "screened against trace24, and the file again after lut; not a certification"


@pytest.mark.parametrize("content", [None, "", "no table\n", "LUT_3D_SIZE 3\n0 0 0\n1 1 1\n"])
def test_a_lut_that_is_none_is_named(tmp_path: Path, content: str | None) -> None:
    if content is not None:
        (tmp_path / "grade.cube").write_text(content)
    with pytest.raises(BadSettings, match=r"\[encode\] lut: .*grade\.cube"):
        try_settings(EncodeSettings(lut=tmp_path / "grade.cube"))


def a_contrast(path: Path) -> Path:
    """Three times the distance from the middle grey."""
    steps = [min(1.0, max(0.0, 0.5 + 3 * (step / 32 - 0.5))) for step in range(33)]
    rows = [f"{red:.6f} {green:.6f} {blue:.6f}" for blue, green, red in itertools.product(steps, repeat=3)]
    path.write_text("\n".join(["LUT_3D_SIZE 33", *rows, ""]))
    return path


def test_a_clip_that_only_flashes_behind_the_lut_is_flagged(tmp_path: Path) -> None:
    """Two greys that QA lets pass, as the file shows them; the file is what is delivered."""
    changes = ("fps = 10", "fps = 30"), ("[encode]", '[encode]\nlut = "grade.cube"')
    settings = functools.reduce(lambda text, change: text.replace(*change), changes, TINY)
    house = House(tmp_path / "home", settings)
    a_contrast(house.home.root / "grade.cube")
    house.start("keyframes", "courier", "intake", "generate", "interpolate", "qa")
    house.drop("clip", picture(), SIDECAR | {"duration_sec": 1.2})
    house.rest()
    house.stop()
    [waiting] = (house.home.gpu.rooms / "encode" / "ready").iterdir()
    assert ClipFolder.open(waiting).clip.qa is not None
    greys = np.array([118, 138], np.uint8).repeat(3)
    pictures = frames.open(waiting / FRAMES_FILE)
    shape = pictures.shape
    with frames.create(waiting / "greys", shape[0], (shape[2], shape[1])) as out:
        for number in range(shape[0]):
            out[number] = greys[number % 6]
    fsops.remove(waiting / FRAMES_FILE)
    fsops.move(waiting / "greys", waiting / FRAMES_FILE)
    assert screen(frames.open(waiting / FRAMES_FILE), 30).passed
    house.start("encode", "courier")
    house.rest()
    house.stop()
    [meta] = house.metas().values()
    assert meta.outcome == "flag"
    assert meta.qa is not None
    [reason] = meta.qa.reasons
    assert (reason.code, reason.severity, reason.field) == ("photosensitive_luminance", "warning", "encode.lut")
    assert reason.value == meta.qa.measures["file_luminance_transitions"] == 10
    assert meta.qa.screened == "screened against trace24, and the file again after lut; not a certification"
    assert [event["code"] for event in house.said("encode.finding")] == ["photosensitive_luminance"]
    [clip] = house.home.mac.results.rglob("*.mp4")
    assert meta.qa.evidence == [FILE_SHEET]
    with Image.open(clip.with_name(f"{clip.stem}.{FILE_SHEET}")) as sheet:
        assert sheet.format == "PNG"
        assert min(sheet.size) > 200
    again = judge_delivered(meta.qa, clip, 30, black, filters=["lut"], standard="trace24", report=unwatched)
    assert again == meta.qa  # said once, however often it is looked at


# Steadying.


def a_shake(count: int = 24) -> frames.Frames:
    """A detailed picture seen through a camera in unsteady hands: four pixels this way and that."""
    wide = a_move(1, WIDTH + 16, HEIGHT + 16)[0]
    hands = np.random.default_rng(1).integers(0, 9, (count, 2))
    return np.stack([wide[y : y + HEIGHT, x : x + WIDTH] for y, x in hands])


def test_deshake_steadies_and_the_score_is_of_the_steadied_frames(tmp_path: Path) -> None:
    shaken = a_shake()

    def unrest(pictures: frames.Frames) -> float:
        inner = pictures[:, 20:-20, 20:-20].astype(float)
        return float(np.abs(np.diff(inner, axis=0)).mean())

    out, record = made(tmp_path, shaken, EncodeSettings(quality="crf:18", deshake=True))
    assert unrest(decoded(out, len(shaken), WIDTH, HEIGHT)) < 0.7 * unrest(shaken)
    assert record.quality.vmaf is not None
    assert record.quality.vmaf > 90
    assert record.first_frame is not None
    assert record.first_frame.ssim > 0.97


def test_the_recorded_command_of_h264_makes_the_same_bytes(tmp_path: Path) -> None:
    out, record = made(tmp_path, a_move(6), H264)
    before, raw = out.read_bytes(), tmp_path / "raw"
    a_move(6).tofile(raw)
    with raw.open("rb") as stdin:
        again = [ffmpeg_program(), *record.command[1:]]
        subprocess.run(again, cwd=tmp_path, stdin=stdin, stdout=subprocess.DEVNULL, check=True)
    assert out.read_bytes() == before


# The daemon.


def test_the_daemon_remembers_a_batch_and_tells_its_spread(tmp_path: Path) -> None:
    house = House(tmp_path, TINY.replace("crf:18", "vmaf:90"))
    house.start()
    house.drop("first", picture(1))
    house.drop("second", picture(2))
    house.rest()
    told = house.said("batch.quality")
    quality = [meta.plan["encode"]["quality"] for meta in house.metas().values()]
    house.stop()
    assert [event["clips"] for event in told] == [1, 2]
    scores = sorted(score["vmaf"] for score in quality)
    assert [told[1]["lowest"], told[1]["highest"]] == scores
    assert {event["vmaf"] for event in told} == set(scores)
    assert set(quality[0]) == {"target", "crf", "vmaf", "vmaf_low", "met", "probes", "scale"}
    searches = [meta.plan["encode"]["search"] for meta in house.metas().values()]
    assert sorted(search["warm"] for search in searches) == [False, True]
    [memory] = (house.home.gpu.state / "quality").iterdir()
    assert memory.stem == told[0]["batch"]
