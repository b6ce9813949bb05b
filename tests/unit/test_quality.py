"""What is asked for is read, and the search finds it in few tries, whatever a clip's curve is like."""

from __future__ import annotations

import math
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from pydantic import ValidationError

from core.encode.batch import KEPT, BatchQuality, Ended, Spread
from core.encode.command import EncodeSettings, encode_command
from core.encode.compare import every
from core.encode.encoders import ENCODERS
from core.encode.quality import COLD, MOST_PROBES, Probe, sample, search
from core.encode.stage import kind_of
from core.encode.target import CRF_MAX, CRF_MIN, Quality, quality_of

# What is asked for.


@pytest.mark.parametrize(
    ("text", "meant"),
    [
        ("vmaf:95", Quality("vmaf", 95)),
        ("vmaf:93.5", Quality("vmaf", 93.5)),
        ("crf:23", Quality("crf", 23)),
        ("crf:16", Quality("crf", 16)),
        ("bitrate:8M", Quality("bitrate", 8_000_000)),
        ("bitrate:2500k", Quality("bitrate", 2_500_000)),
        ("bitrate:900000", Quality("bitrate", 900_000)),
    ],
)
def test_a_quality_is_read(text: str, meant: Quality) -> None:
    assert EncodeSettings(quality=text).target == meant
    assert quality_of(str(meant)) == meant


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("crf:15", "16 to 28"),
        ("crf:28.5", "16 to 28"),
        ("crf:20k", "unit"),
        ("vmaf:100", "60 to 99"),
        ("bitrate:8", "100000"),
        ("bitrate:8G", "of the form"),
        ("ssim:0.9", "of the form"),
        ("23", "of the form"),
        ("crf:nan", "of the form"),
    ],
)
def test_any_other_quality_is_refused_in_words(text: str, words: str) -> None:
    with pytest.raises(ValidationError, match=words):
        EncodeSettings(quality=text)


def test_the_key_that_it_replaces_is_gone() -> None:
    with pytest.raises(ValidationError, match="crf"):
        EncodeSettings.model_validate({"crf": 20})


@pytest.mark.parametrize("codec", ENCODERS)
@pytest.mark.parametrize("quality", [Quality("crf", 20.5), Quality("bitrate", 4e6)])
def test_every_encoder_is_told_its_tag_and_its_amount(codec: str, quality: Quality) -> None:
    settings = EncodeSettings.model_validate({"codec": codec})
    command = encode_command("ffmpeg", settings, (64, 64), 30, Path("/out.mp4"), quality=quality)
    told = dict(pairwise(command))
    assert told["-c:v"] == codec
    assert told["-tag:v"] == ("avc1" if "264" in codec else "hvc1")
    amounts = {"crf": ("-crf", "-cq", "-q:v"), "bitrate": ("-b:v",)}[quality.kind]
    assert [told[name] for name in amounts if name in told] in [["20.5"], ["67"], ["4000000"]]
    assert ("-dec" in command) == (codec != "libx265")  # which signs its pictures itself


# The search.


def curve(vmaf_at_22: float, steepness: float, bend: float = 0.0) -> list[Probe]:
    """A clip's scores at every tenth of a factor: the defect grows exponentially, more or less."""
    factors = [CRF_MIN + step / 10 for step in range(121)]
    log = math.log(100 - vmaf_at_22)
    return [Probe(crf, 100 - math.exp(log + steepness * (crf - 22) + bend * (crf - 22) ** 2)) for crf in factors]


def tried(scores: list[Probe], target: float, start: float | None = None) -> tuple[float, float, list[Probe]]:
    """The factor that is found, what the clip scores with it, and the tries."""
    known = {round(probe.crf, 1): probe.vmaf for probe in scores}
    crf, probes = search(target, lambda factor: known[round(factor, 1)], start)
    return crf, known[round(crf, 1)], probes


@pytest.mark.parametrize("at_22", [90.0, 94.0, 96.4, 98.5])
@pytest.mark.parametrize("steepness", [0.06, 0.11, 0.16])
@pytest.mark.parametrize("bend", [-0.003, 0.0, 0.003])
def test_whatever_the_clip_the_score_is_reached_or_the_bound_is(at_22: float, steepness: float, bend: float) -> None:
    scores = curve(at_22, steepness, bend)
    crf, found, probes = tried(scores, 95.0)
    assert len(probes) <= MOST_PROBES
    assert probes[0].crf == COLD
    if scores[0].vmaf < 95 - 0.3:
        assert crf == CRF_MIN
    elif scores[-1].vmaf > 95 + 0.3:
        assert crf == CRF_MAX
    else:
        assert abs(found - 95) <= 0.5


@pytest.mark.parametrize("off", [-1.5, 0.0, 1.5])
def test_a_start_that_is_near_takes_one_try(off: float) -> None:
    scores = curve(96.0, 0.11)
    answer = 22 + math.log(5 / 4) / 0.11
    crf, found, probes = tried(scores, 95.0, answer + off)
    assert len(probes) == 1
    assert abs(crf - answer) <= 0.2
    assert abs(found - 95) <= 0.1


def test_a_start_that_misleads_costs_a_try_and_no_more() -> None:
    _, found, probes = tried(curve(96.0, 0.14), 95.0, 16.0)
    assert len(probes) <= MOST_PROBES
    assert abs(found - 95) <= 0.3


@pytest.mark.parametrize(("always", "bound"), [(100.0, CRF_MAX), (0.0, CRF_MIN)])
def test_a_clip_that_no_factor_changes_ends_at_the_bound(always: float, bound: float) -> None:
    crf, probes = search(95.0, lambda _: always)
    assert crf == bound
    assert len(probes) <= 2


@pytest.mark.parametrize(("count", "fps"), [(180, 30), (31, 30), (30, 30), (7, 30), (240, 60), (20, 7), (3, 1)])
def test_a_second_at_most_is_tried(count: int, fps: int) -> None:
    frames = np.arange(count, dtype=np.uint8)[:, None, None, None].repeat(3, axis=3)
    numbers = sample(frames, fps)[:, 0, 0, 0].tolist()
    assert len(numbers) == min(count, 2 * (fps // 2)) if fps > 1 else 2
    assert numbers == sorted(set(numbers))


def test_the_tries_lie_in_the_first_and_the_second_half() -> None:
    frames = np.arange(180, dtype=np.uint8)[:, None, None, None].repeat(3, axis=3)
    assert sample(frames, 30)[:, 0, 0, 0].tolist() == [*range(38, 53), *range(128, 143)]


@pytest.mark.parametrize("count", [1, 23, 24, 71, 72, 167, 168, 180, 5000, 500_000])
def test_pictures_are_compared_often_enough_and_never_in_the_encoders_own_rhythm(count: int) -> None:
    step = every(count)
    assert step == 1 or (count // step >= 24 and step % 5 and step % 2)
    assert count // step <= 400


# The memory of a batch.


def ended(clip: str, crf: float | None, vmaf: float | None, like: str = "portrait") -> Ended:
    return Ended(clip=clip, like=like, crf=crf, vmaf=vmaf)


def test_a_batch_remembers_what_clips_of_a_kind_ended_with(tmp_path: Path) -> None:
    batch = BatchQuality(tmp_path / "quality", "20261122_150839")
    assert batch.last_crf("portrait") is None
    assert batch.spread() is None
    batch.add(ended("a", 21.0, 95.5))
    batch.add(ended("b", 19.0, 94.0, "landscape"))
    batch.add(ended("c", 22.5, 96.0))
    batch.add(ended("d", None, None))
    again = BatchQuality(tmp_path / "quality", "20261122_150839")
    assert again.last_crf("portrait") == 22.5
    assert again.last_crf("landscape") == 19.0
    assert again.spread() == Spread(clips=3, lowest=94.0, highest=96.0)
    assert BatchQuality(tmp_path / "quality", "20261122_150840").last_crf("portrait") is None


def test_clips_of_another_lut_are_no_clips_of_a_kind_whatever_its_name(tmp_path: Path) -> None:
    pictures = np.zeros((1, 96, 64, 3), np.uint8)
    lut, other = tmp_path / "grade.cube", tmp_path / "moved.cube"
    settings = EncodeSettings(lut=lut)
    lut.write_text("one")
    one = kind_of(pictures, settings)
    other.write_text("one")
    assert kind_of(pictures, EncodeSettings(lut=other)) == one
    lut.write_text("another")
    assert kind_of(pictures, settings) != one
    assert kind_of(pictures, EncodeSettings()) != one


def test_a_clip_that_was_made_again_counts_once(tmp_path: Path) -> None:
    batch = BatchQuality(tmp_path, "20261122_150839")
    batch.add(ended("a", 21.0, 80.0))
    batch.add(ended("a", 20.0, 95.0))
    assert batch.spread() == Spread(clips=1, lowest=95.0, highest=95.0)


def test_what_a_power_cut_left_is_passed_over(tmp_path: Path) -> None:
    batch = BatchQuality(tmp_path, "20261122_150839")
    batch.add(ended("a", 21.0, 95.0))
    with (tmp_path / "20261122_150839.jsonl").open("ab") as file:
        file.write(b'\0\0\xff{"clip": "b", "li\n')
    batch.add(ended("c", 23.0, 97.0))
    assert batch.last_crf("portrait") == 23.0
    assert batch.spread() == Spread(clips=2, lowest=95.0, highest=97.0)


def test_old_batches_are_forgotten(tmp_path: Path) -> None:
    for number in range(KEPT + 5):
        BatchQuality(tmp_path, f"20261122_15{number:04d}").add(ended("a", 20.0, 95.0))
    names = sorted(path.stem for path in tmp_path.iterdir())
    assert len(names) == KEPT
    assert names[-1] == f"20261122_15{KEPT + 4:04d}"
