"""``dropreel qa`` on real small videos: what it says, how it ends, and what it makes of odd and broken files."""

from __future__ import annotations

import json
import shutil
from fractions import Fraction
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from core.encode.command import ffmpeg_program
from core.errors import DropreelError
from core.footage import RING, Footage, rate_of
from core.process import run
from core.work import unwatched
from daemons.cli.qa import _check
from tests.acceptance.test_commands import dropreel
from tests.acceptance.test_interpolate_command import film
from tests.waiting import children

FLASHING = "color=gray:s=160x96:r=30,drawbox=c=white:t=fill:enable='gte(t,0.4)*lt(mod(n,4),2)'"


def made(path: Path, *words: str) -> Path:
    """A file that ffmpeg writes."""
    run([ffmpeg_program(), "-v", "error", "-y", *words, str(path)], unwatched, limit=60)
    return path


def test_flashes_are_shown_beside_the_keyframe(tmp_path: Path) -> None:
    bad = film(tmp_path / "bad.mp4", scene=FLASHING, seconds=1.4)
    good = film(tmp_path / "good.mp4", scene="color=gray:s=160x96:r=30", seconds=0.5)
    keyframe, out = tmp_path / "grey.png", tmp_path / "out"
    Image.new("RGB", (400, 200), (128, 128, 128)).save(keyframe)
    out.mkdir()
    before = {path: path.read_bytes() for path in (bad, good)}
    words = "--keyframe", str(keyframe), "--out", str(out)
    status, text, err = dropreel("qa", str(bad), str(good), *words, "--json")
    assert (status, err) == (1, "")
    said = json.loads(text)
    assert list(said) == [str(bad), str(good)]
    assert said[str(good)]["verdict"] == "pass"
    assert (said[str(good)]["reasons"], said[str(good)]["sheet"]) == ([], None)
    flagged = said[str(bad)]
    codes = {reason["code"]: reason for reason in flagged["reasons"]}
    assert codes["photosensitive_luminance"]["value"] == 15
    assert flagged["verdict"] == "fail"  # the flashes are frames of a flash too
    assert flagged["measures"]["first_frame_ssim"] > 0.95
    assert flagged["video"] == {"width": 160, "height": 96, "fps": 30.0, "seconds": 1.4}
    assert "not a certification" in flagged["screened"]
    with Image.open(flagged["sheet"]) as sheet:
        assert (sheet.format, sheet.width) == ("PNG", 900)
    assert [path.name for path in out.iterdir()] == ["bad.qa.png"]
    assert {path: path.read_bytes() for path in before} == before
    shutil.copyfile(good, bad)
    assert dropreel("qa", str(bad), "--out", str(out))[0] == 0
    assert list(out.iterdir()) == [], "what an earlier version had against it is no more"


def test_it_speaks_to_a_person_and_goes_on_after_a_file_that_is_none(tmp_path: Path) -> None:
    text = tmp_path / "text.mp4"
    text.write_text("no video")
    cut = film(tmp_path / "cut.mp4", scene="color=white:s=64x64:r=25,drawbox=c=gray:t=fill:enable='gte(n,4)'")
    before = children()
    status, out, err = dropreel("qa", str(text), str(cut), "--standard", "wcag")
    assert (status, err) == (1, "")
    assert "text.mp4: cannot be judged" in out
    assert "cut.mp4: flagged, for a person to look at" in out
    assert "64×64, 25 frames at 25 a second" in out
    assert "screened against wcag; not a certification: 1 luminance and 0 red transitions" in out
    assert "cut: Frame 4 is a cut" in out
    assert children() == before
    protected = tmp_path / "mojo1"
    protected.mkdir()
    for files, folder, remedy in (
        ([cut], tmp_path / "none", "Make it first"),
        ([cut], protected, "protected"),
        ([cut, tmp_path / "other" / "cut.mkv"], tmp_path, "one name"),
    ):
        with pytest.raises(DropreelError, match=remedy):
            _check(files, folder)
    assert list(protected.iterdir()) == []


def test_what_cannot_be_looked_at_as_it_is_shown_does_not_pass(tmp_path: Path) -> None:
    grey = "-f", "lavfi", "-t", "0.2", "-i", "color=gray:s=64x64:r=2000"
    slow = "fps=25,format=yuv420p10le,setparams="
    whole = made(tmp_path / "whole.mkv", *grey, "-vf", "fps=25", "-c:v", "ffv1")
    fast = made(tmp_path / "fast.mp4", *grey, "-c:v", "libx264")
    hdr = [
        made(tmp_path / f"{name}.mov", *grey, "-vf", f"{slow}{words}", "-c:v", "prores_ks")
        for name, words in (
            ("pq", "color_trc=smpte2084:color_primaries=bt2020:colorspace=bt2020nc"),
            ("wide", "color_trc=bt2020-10:color_primaries=bt2020:colorspace=bt2020nc"),
        )
    ]
    fields = made(tmp_path / "fields.mp4", *grey, "-vf", "fps=50,tinterlace=interleave_top,setfield=tff", "-c:v",
                  "libx264", "-flags", "+ilme+ildct")  # fmt: skip
    status, text, err = dropreel("qa", *map(str, (fast, whole, *hdr, fields)), "--json")
    assert (status, err) == (1, "")
    said = json.loads(text)
    assert said[str(fast)]["verdict"] is None
    assert "2000 pictures a second, and flashes are defined up to 1000" in said[str(fast)]["error"]
    assert said[str(whole)]["verdict"] == "pass"
    for path, code in (*((path, "hdr") for path in hdr), (fields, "interlaced")):
        assert [(r["code"], r["severity"]) for r in said[str(path)]["reasons"]] == [(code, "warning")], path
        assert said[str(path)]["verdict"] == "flag"


def test_a_varying_rate_is_brought_to_an_even_one_in_which_nothing_is_lost(tmp_path: Path) -> None:
    grey = "color=black:s=64x64:r=30,geq=lum='16+8*N':cb=128:cr=128"
    every = film(tmp_path / "every.mp4", scene=grey, seconds=0.8)
    some = film(tmp_path / "some.mp4", scene=grey, seconds=0.8, filters="select='not(between(n,5,9)+between(n,14,16))'")
    with Footage(every) as even, Footage(some) as varying:
        assert (float(even.fps), even.varies, float(varying.fps), varying.varies) == (30, False, 30, True)
        shown = [frame[32, 32, 0] for frame in even]
        held = [frame[32, 32, 0] for frame in varying]
    assert len(shown) == len(held) == 24
    lost = {*range(5, 10), *range(14, 17)}
    assert [held[n] for n in range(24) if n not in lost] == [shown[n] for n in range(24) if n not in lost]
    assert [held[n] for n in sorted(lost)] == [shown[4]] * 5 + [shown[13]] * 3


@pytest.mark.parametrize(
    ("steps", "fps", "varies"),
    [
        ([Fraction(1, 30)] * 40, Fraction(30), False),
        ([Fraction(1001, 30000)] * 40, Fraction(30000, 1001), False),
        ([Fraction(33, 1000), Fraction(33, 1000), Fraction(34, 1000)] * 9, Fraction(30), False),
        ([Fraction(1, 60), Fraction(1, 20)] * 9, Fraction(60), True),
        ([Fraction(1, 400), Fraction(1, 10)] * 9, Fraction(120), True),
        ([Fraction(1, 25)], Fraction(25), False),
        ([Fraction(10)] * 4, Fraction(1, 10), False),
        ([Fraction(1, 90000)], Fraction(120), False),
    ],
)
def test_the_rate_of_a_file_is_that_of_its_pictures(steps: list[Fraction], fps: Fraction, varies: bool) -> None:
    times = [sum(steps[:number], Fraction(0)) for number in range(len(steps))]
    assert rate_of(times, sum(steps, Fraction(0))) == (fps, varies)


def test_odd_files_are_looked_at_as_they_are_shown(tmp_path: Path) -> None:
    plain = film(tmp_path / "plain.mp4", seconds=0.2)
    turned = made(tmp_path / "turned.mp4", "-display_rotation", "90", "-i", str(plain), "-c", "copy")
    wide = film(tmp_path / "wide.mp4", seconds=0.2, filters="setsar=2")
    odd = made(tmp_path / "odd.mkv", "-i", str(plain), "-vf", "scale=65:49,format=bgr0", "-c:v", "ffv1")
    deep = made(tmp_path / "deep.mp4", "-f", "lavfi", "-t", "0.2", "-i", "color=0x808080:s=64x64:r=25", "-vf",
                "format=yuv420p10le,setparams=color_trc=smpte2084:color_primaries=bt2020:colorspace=bt2020nc",
                "-c:v", "libx265", "-x265-params", "log-level=error")  # fmt: skip
    sizes = {}
    for path in (plain, turned, wide, odd, deep):
        with Footage(path) as footage:
            frames = [frame.copy() for frame in footage]
            sizes[path.stem] = footage.size
            assert footage.hdr is (path is deep)
            assert [frame.shape for frame in frames] == [(footage.size[1], footage.size[0], 3)] * 5
            assert cv2.norm(footage[3], frames[3]) == 0
    assert sizes == {"plain": (128, 96), "turned": (96, 128), "wide": (256, 96), "odd": (65, 49), "deep": (64, 64)}
    assert np.abs(frames[2].astype(int) - 128).max() <= 2


def test_a_frame_lasts_until_five_more_were_taken(tmp_path: Path) -> None:
    with Footage(film(tmp_path / "in.mp4", seconds=1)) as footage:
        lent, kept = [], []
        for frame in footage:
            lent.append(frame)
            kept.append(frame.copy())
            assert all(np.array_equal(a, b) for a, b in zip(lent[1 - RING :], kept[1 - RING :], strict=True))
        assert len({id(frame) for frame in lent}) == RING


def test_what_is_no_video_says_so_in_a_word(tmp_path: Path) -> None:
    whole = film(tmp_path / "whole.mp4", "-f", "lavfi", "-t", "1", "-i", "sine", seconds=1)
    made(tmp_path / "fast.mp4", "-i", str(whole), "-c", "copy", "-movflags", "faststart")
    (tmp_path / "cut.mp4").write_bytes((tmp_path / "fast.mp4").read_bytes()[:-4000])
    Image.new("RGB", (64, 64)).save(tmp_path / "still.png")
    made(tmp_path / "sound.mp4", "-f", "lavfi", "-t", "0.2", "-i", "sine")
    film(tmp_path / "tiny.mp4", seconds=0.1, filters="scale=8:8")
    (tmp_path / "empty.mp4").touch()
    made(tmp_path / "whole.mkv", "-i", str(whole), "-c", "copy")
    for name in ("whole.mp4", "whole.mkv"):
        content = (tmp_path / name).read_bytes()
        (tmp_path / name.replace("whole", "half")).write_bytes(content[: len(content) * 2 // 3])
    for name, said in (
        ("still.png", "it is a still image"),
        ("sound.mp4", "it holds no moving pictures"),
        ("tiny.mp4", "less than 16 pixels"),
        ("empty.mp4", "its end is missing"),
        ("none.mp4", "No such file"),
        ("cut.mp4", "."),
        ("half.mp4", "its end is missing"),
        ("half.mkv", "its end is missing"),
    ):
        with pytest.raises(DropreelError, match=f"{name} cannot be read as a video: .*{said}"), \
                Footage(tmp_path / name) as footage:  # fmt: skip
            for _ in footage:
                pass
    one = film(tmp_path / "one.mp4", seconds=0.04)
    with Footage(one) as footage:
        assert (len(list(footage)), float(footage.fps)) == (1, 24)
    with Footage(whole) as footage:  # left before its end
        next(iter(footage))
