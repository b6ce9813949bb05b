"""``dropreel interpolate`` on real small videos: odd rates, turned pictures, sound, cuts, and what it refuses."""

from __future__ import annotations

import signal
import subprocess
import sys
from fractions import Fraction
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from core.encode import mp4
from core.encode.command import ffmpeg_program
from core.errors import DropreelError
from core.footage import KEPT, Pictures, look
from core.interpolate.methods import MethodName
from core.interpolate.plan import plan
from core.process import run
from core.work import unwatched
from daemons.cli.interpolate import _check, samples_of
from tests.acceptance.test_commands import dropreel
from tests.waiting import children, until

SCENE = "testsrc2=s=128x96:r=24"


def film(path: Path, *words: str, scene: str = SCENE, seconds: float = 1, filters: str = "null") -> Path:
    """A video that ffmpeg draws."""
    source = ["-f", "lavfi", "-t", str(seconds), "-i", scene]
    rest = ["-vf", filters, "-fps_mode", "passthrough", "-c:v", "libx264", "-qp", "0", "-pix_fmt", "yuv420p"]
    command = [ffmpeg_program(), "-v", "error", "-y", *source, *words, *rest, str(path)]
    run(command, unwatched, limit=60)
    return path


def decoded(path: Path) -> NDArray[np.uint8]:
    """All pictures of a file, ``(T, H, W, 3)`` RGB."""
    with_video = look(path)
    with Pictures(path, with_video.size, len(with_video.times)) as pictures:
        return np.stack([pictures[number] for number in range(len(pictures))])


def psnr(a: NDArray[np.uint8], b: NDArray[np.uint8]) -> float:
    return float(cv2.PSNR(a, b))


def test_a_video_comes_out_at_another_rate_exactly(tmp_path: Path) -> None:
    source, target = film(tmp_path / "in.mp4", "-f", "lavfi", "-t", "1", "-i", "sine"), tmp_path / "out.mp4"
    status, out, err = dropreel("interpolate", str(source), str(target), "--fps", "60")
    assert (status, err) == (0, "")
    movie = mp4.read(target)
    assert (movie.codec, movie.size, movie.frames, movie.rate) == ("hvc1", (128, 96), 60, Fraction(60))
    assert "60 frames at 60, 46 of them made by flow from 24" in out  # every fifth of the 24 falls on one, and the end
    assert "sound was left out" in out
    given, made = decoded(source), decoded(target)
    assert all(psnr(made[5 * n], given[2 * n]) > 26 for n in range(12))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in.mp4", "out.mp4"]


def test_a_varying_rate_becomes_an_even_one(tmp_path: Path) -> None:
    """A dot that moves evenly, filmed at uneven times, moves evenly afterwards."""
    scene = "color=black:s=160x96:r=24"
    dot = "geq=lum='16+200*exp(-((X-20-100*T)^2+(Y-48)^2)/60)':cb=128:cr=128,select='not(eq(mod(n,5),3)+eq(n,6))'"
    source, target = film(tmp_path / "in.mp4", scene=scene, filters=dot), tmp_path / "out.mp4"
    assert len({b - a for a, b in zip(look(source).times, look(source).times[1:], strict=False)}) > 1
    assert dropreel("interpolate", str(source), str(target), "--fps", "48")[0] == 0
    frames = decoded(target).astype(float)[..., 1]
    light = frames - frames.min()
    places = (light * np.arange(160)).sum((1, 2)) / light.sum((1, 2))
    expected = 20 + 100 * np.arange(len(frames)) / 48
    assert len(frames) == 46  # the last picture was left out
    assert np.abs(places[:43] - expected[:43]).max() < 1.5  # after which the last picture is held


def test_a_turned_video_is_turned_upright_and_an_odd_line_cut_off(tmp_path: Path) -> None:
    plain = film(tmp_path / "plain.mp4", seconds=0.25)
    turned = tmp_path / "turned.mp4"
    run([ffmpeg_program(), "-v", "error", "-display_rotation", "90", "-i", str(plain), "-c", "copy", str(turned)],
        unwatched, limit=60)  # fmt: skip
    assert (look(plain).size, look(turned).size) == ((128, 96), (96, 128))
    assert psnr(decoded(turned)[3], np.ascontiguousarray(np.rot90(decoded(plain)[3]))) > 25
    odd = tmp_path / "odd.mkv"
    run([ffmpeg_program(), "-v", "error", "-f", "lavfi", "-t", "0.2", "-i", "testsrc2=s=65x49", "-c:v", "ffv1",
         "-pix_fmt", "bgr0", str(odd)], unwatched, limit=60)  # fmt: skip
    target = tmp_path / "out.mp4"
    assert dropreel("interpolate", str(odd), str(target), "--fps", "50")[0] == 0
    assert (mp4.read(target).size, mp4.read(target).frames) == ((64, 48), 10)


def test_a_cut_stays_a_cut(tmp_path: Path) -> None:
    joined = _two_shots(tmp_path)
    target = tmp_path / "out.mp4"
    assert dropreel("interpolate", str(joined), str(target), "--fps", "96")[0] == 0
    given, made = decoded(joined), decoded(target)
    for frame in made[20:29]:  # between pictures 5 and 6
        assert max(psnr(frame, given[5]), psnr(frame, given[6])) > 26


def _two_shots(folder: Path) -> Path:
    path = folder / "in.mp4"
    shots = ["-f", "lavfi", "-t", "0.25", "-i", SCENE, "-f", "lavfi", "-t", "0.25", "-i", "mandelbrot=s=128x96:r=24"]
    graph = "[0:v]setsar=1,format=yuv420p[a];[1:v]setsar=1,negate,format=yuv420p[b];[a][b]concat"
    run([ffmpeg_program(), "-v", "error", *shots, "-filter_complex", graph, "-c:v", "libx264", "-qp", "0", str(path)],
        unwatched, limit=60)  # fmt: skip
    return path


def test_what_is_there_is_replaced_by_force_only(tmp_path: Path) -> None:
    source, target = film(tmp_path / "in.mp4", seconds=0.25), tmp_path / "out.mp4"
    target.write_bytes(b"mine")
    status, _, err = dropreel("interpolate", str(source), str(target))
    assert status == 1
    assert "--force" in err
    assert target.read_bytes() == b"mine"
    assert dropreel("interpolate", str(source), str(target), "--force", "--fps", "30")[0] == 0
    assert mp4.read(target).frames == 8  # 6 pictures of 24 a second are 7.5 of 30: rounded half up


def test_nonsense_is_refused_with_a_remedy(tmp_path: Path) -> None:
    text = tmp_path / "text.mp4"
    text.write_text("no video")
    sound = tmp_path / "sound.mp4"
    run([ffmpeg_program(), "-v", "error", "-f", "lavfi", "-t", "0.2", "-i", "sine", str(sound)], unwatched, limit=60)
    out = tmp_path / "out.mp4"
    flow, rife = MethodName.flow, MethodName.rife
    for source, target, method, weights, said in (
        (tmp_path / "none.mp4", out, flow, None, "Name the video"),
        (text, tmp_path / "out.avi", flow, None, "ends in .mp4"),
        (text, tmp_path / "none" / "out.mp4", flow, None, "Make it first"),
        (text, tmp_path / "mojo1", flow, None, "ends in .mp4"),
        (text, text, flow, None, "another name"),
        (text, out, rife, None, "--weights"),
        (text, out, rife, tmp_path / "none.pkl", "none.pkl is no file"),
        (text, out, flow, text, "leave --weights out"),
    ):
        with pytest.raises(DropreelError, match=said):
            _check(source, target, method, weights, force=True)
    for source in (text, sound):
        with pytest.raises(DropreelError, match="Name a video that plays"):
            look(source)
    status, _, err = dropreel("interpolate", str(text), str(out))
    assert (status, err.count("\n")) == (1, 1)
    assert dropreel("interpolate", str(text), str(out), "--fps", "0")[0] == 2
    assert sorted(path.name for path in tmp_path.iterdir()) == ["sound.mp4", "text.mp4"]


def test_what_is_stopped_leaves_nothing(tmp_path: Path) -> None:
    source = film(tmp_path / "in.mp4", scene="testsrc2=s=640x480:r=24", seconds=6)
    before = children()
    command = [sys.executable, "-m", "daemons.cli", "interpolate", str(source), str(tmp_path / "out.mp4")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parents[2]) as made:
        until(lambda: any(path.name.endswith(".part") for path in tmp_path.iterdir()), "the encoding")
        made.send_signal(signal.SIGTERM)
        assert made.wait(20) == 130
    assert [path.name for path in tmp_path.iterdir()] == ["in.mp4"]
    assert children() == before


def test_only_the_last_pictures_are_kept(tmp_path: Path) -> None:
    source = film(tmp_path / "in.mp4", seconds=3)
    video = look(source)
    with Pictures(source, video.size, len(video.times)) as pictures:
        first = pictures[0]
        for number in range(len(pictures)):
            assert pictures[number].shape == (96, 128, 3)
            assert len(pictures._kept) <= KEPT + 2
        assert pictures[0] is first


@settings(deadline=None, max_examples=50)
@given(st.integers(1, 40), st.fractions(8, 60, max_denominator=1001), st.sampled_from([12, 24, 25, 30, 50, 60]))
def test_even_times_are_planned_as_clips_are(count: int, rate: Fraction, fps: int) -> None:
    times = [number / rate for number in range(count)]
    samples = samples_of(times, count / rate, fps)
    assert samples == plan(count, rate, float(count / rate + 1), fps)[: len(samples)]
    assert len(samples) == max(1, int(count / rate * fps + Fraction(1, 2)))


@settings(deadline=None, max_examples=50)
@given(st.lists(st.fractions(Fraction(1, 90), 2, max_denominator=90), min_size=1, max_size=12), st.integers(1, 60))
def test_every_sample_is_where_its_time_is(steps: list[Fraction], fps: int) -> None:
    times = [sum(steps[:number], Fraction(0)) for number in range(len(steps))]
    for number, (source, t) in enumerate(samples_of(times, sum(steps, Fraction(0)), fps)):
        assert 0 <= t < 1
        shown = times[source] + (t * (times[source + 1] - times[source]) if t else 0)
        assert shown == min(Fraction(number, fps), times[-1])


def test_a_single_picture_is_held(tmp_path: Path) -> None:
    source, target = film(tmp_path / "in.mp4", seconds=0.04), tmp_path / "out.mp4"
    assert dropreel("interpolate", str(source), str(target))[0] == 0
    assert mp4.read(target).frames == 3  # a 24th of a second is 2.5 frames of 60
