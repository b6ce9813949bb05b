"""Frames to a proved file with the real ffmpeg: tags, colours, counts, bytes, and everything that can go wrong."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from core import frames, process
from core.encode import mp4
from core.encode.command import EncodeSettings, Preset, decode_command, encode_command, ffmpeg_program
from core.encode.encode import EncodeRecord, encode
from core.encode.proof import ProofFailed, prove
from core.errors import ProcessFailed, Refused, Stopped
from core.work import Report, unwatched
from tests.waiting import children

PROJECT = Path(process.__file__).parents[1]
QUALITY = "crf:18"  # a search has nothing to do with most of this
SETTINGS = EncodeSettings(quality=QUALITY)
FPS = 30
COUNT, WIDTH, HEIGHT = 45, 192, 108


def a_move(count: int = COUNT, width: int = WIDTH, height: int = HEIGHT) -> frames.Frames:
    """A detailed picture that slides by."""
    rng = np.random.default_rng(7)
    y, x = np.mgrid[0:height, 0 : width + 2 * count]
    waves = 128 + 60 * np.sin(x / 9 + y / 5) + 50 * np.sin(y / 11 - x / 23)
    picture = np.clip(waves[..., None] + [0, -20, 30] + rng.normal(0, 6, (*waves.shape, 3)), 0, 255).astype(np.uint8)
    return np.stack([picture[:, 2 * n : 2 * n + width] for n in range(count)])


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, EncodeRecord, list[float]]:
    """A clip, its record, and what ``report`` heard."""
    out = tmp_path_factory.mktemp("made") / "clip.mp4"
    heard: list[float] = []
    return out, encode(a_move(), FPS, out, SETTINGS, heard.append), heard


@pytest.fixture
def clip(made: tuple[Path, EncodeRecord, list[float]], tmp_path: Path) -> Path:
    """A copy to do harm to."""
    return Path(shutil.copy(made[0], tmp_path))


def decoded(path: Path, count: int, width: int, height: int) -> frames.Frames:
    """The pictures as a player that believes the file's tags shows them."""
    raw = path.with_suffix(".raw")
    command = [ffmpeg_program(), "-v", "error", "-i", str(path), "-vf", "scale=flags=accurate_rnd+full_chroma_int",
               "-f", "rawvideo", "-pix_fmt", "rgb24", "-y", str(raw)]  # fmt: skip
    process.run(command, unwatched, limit=20)
    return np.fromfile(raw, np.uint8).reshape(count, height, width, 3)


def proves(
    path: Path,
    count: int = COUNT,
    fps: int = FPS,
    size: tuple[int, int] = (WIDTH, HEIGHT),
    report: Report = unwatched,
) -> None:
    prove(path, count, fps, size, report)


# ------------------------------------------------------------------------------ what is made


def test_the_file_has_what_quicktime_needs(made: tuple[Path, EncodeRecord, list[float]]) -> None:
    movie = mp4.read(made[0])
    assert movie == mp4.Movie("hvc1", (WIDTH, HEIGHT), COUNT, Fraction(FPS), mp4.BT709, index_first=True)


def test_the_record_tells_how_to_make_it_again(made: tuple[Path, EncodeRecord, list[float]]) -> None:
    out, record, _ = made
    assert record.command == encode_command(
        "ffmpeg", SETTINGS, (WIDTH, HEIGHT), FPS, Path("clip.mp4"), quality=SETTINGS.target
    )
    assert record.settings == SETTINGS
    assert record.bytes == out.stat().st_size
    assert record.ffmpeg
    assert (record.proof.frames, record.proof.seconds) == (COUNT, COUNT / FPS)
    assert EncodeRecord.model_validate_json(record.model_dump_json()) == record


def test_the_recorded_command_makes_the_same_bytes(
    made: tuple[Path, EncodeRecord, list[float]], tmp_path: Path
) -> None:
    out, record, _ = made
    raw = tmp_path / "raw"
    a_move().tofile(raw)
    with raw.open("rb") as stdin:
        again = [ffmpeg_program(), *record.command[1:]]
        subprocess.run(again, cwd=tmp_path, stdin=stdin, stdout=subprocess.DEVNULL, check=True)
    assert (tmp_path / "clip.mp4").read_bytes() == out.read_bytes()


def test_the_bytes_do_not_depend_on_how_many_processors_there_are(tmp_path: Path) -> None:
    made = []
    for pools in ("1", "4"):
        out = tmp_path / f"{pools}.mp4"
        command = encode_command(ffmpeg_program(), SETTINGS, (WIDTH, HEIGHT), FPS, out, quality=SETTINGS.target)
        at = command.index("-x265-params") + 1
        command[at] += f":pools={pools}"
        process.run(command, unwatched, limit=20, stdin=[frame.data for frame in a_move()])
        made.append(out.read_bytes())
    assert made[0] == made[1]


def test_progress_rises_to_one(made: tuple[Path, EncodeRecord, list[float]]) -> None:
    heard = made[2]
    assert heard[0] == 0.0
    assert heard == sorted(heard)
    assert heard[-1] == 1.0


@pytest.mark.parametrize(
    "colour", [(200, 40, 60), (12, 200, 90), (30, 60, 220), (255, 255, 255), (0, 0, 0), (128,) * 3]
)
def test_colours_come_back_within_two_steps(tmp_path: Path, colour: tuple[int, int, int]) -> None:
    out = tmp_path / "clip.mp4"
    encode(np.full((3, 64, 64, 3), colour, np.uint8), FPS, out, SETTINGS, unwatched)
    assert np.abs(decoded(out, 3, 64, 64).astype(int) - colour).max() <= 2


def test_frames_come_back_in_their_order_and_place(
    made: tuple[Path, EncodeRecord, list[float]], tmp_path: Path
) -> None:
    error = decoded(Path(shutil.copy(made[0], tmp_path)), COUNT, WIDTH, HEIGHT).astype(float) - a_move()
    psnr = 10 * np.log10(255**2 / (error**2).mean(axis=(1, 2, 3)))
    assert psnr.min() > 30  # the next frame, two pixels off, has 18


@pytest.mark.parametrize(("width", "height"), [(16, 16), (66, 34), (34, 130)])
@pytest.mark.parametrize("fps", [24, 60])
def test_any_even_size_and_whole_rate(tmp_path: Path, width: int, height: int, fps: int) -> None:
    record = encode(a_move(4, width, height), fps, tmp_path / "clip.mp4", SETTINGS, unwatched)
    assert (record.proof.width, record.proof.height, record.proof.fps) == (width, height, fps)


def test_frames_need_not_lie_together_in_memory(made: tuple[Path, EncodeRecord, list[float]], tmp_path: Path) -> None:
    wide = np.repeat(a_move(), 2, axis=2)[:, :, ::2]
    assert not wide[0].flags.c_contiguous
    encode(wide, FPS, tmp_path / "clip.mp4", SETTINGS, unwatched)
    assert (tmp_path / "clip.mp4").read_bytes() == made[0].read_bytes()


def test_mapped_frames_and_names_of_any_kind(tmp_path: Path) -> None:
    folder = tmp_path / "-y 'a\nb' %d:日本"
    folder.mkdir()
    with frames.create(folder / "frames.npy", 3, (64, 64)) as out:
        out[:] = 90
    encode(frames.open(folder / "frames.npy"), FPS, folder / "-i:%d.mp4", SETTINGS, unwatched)
    assert sorted(path.name for path in folder.iterdir()) == ["-i:%d.mp4", "frames.npy"]


# ------------------------------------------------------------------------------ what is refused


@pytest.mark.parametrize("size", [(65, 64), (64, 65)])
def test_odd_sides_are_refused(tmp_path: Path, size: tuple[int, int]) -> None:
    with pytest.raises(Refused, match=f"{size[0]}×{size[1]}") as caught:
        encode(np.zeros((2, size[1], size[0], 3), np.uint8), FPS, tmp_path / "clip.mp4", SETTINGS, unwatched)
    assert caught.value.finding.code == "odd_size"
    assert list(tmp_path.iterdir()) == []


def test_an_encoder_that_is_not_there_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("IMAGEIO_FFMPEG_EXE", "/nowhere/ffmpeg")
    with pytest.raises(process.ProgramMissing, match="/nowhere/ffmpeg"):
        encode(a_move(2), FPS, tmp_path / "clip.mp4", SETTINGS, unwatched)
    assert list(tmp_path.iterdir()) == []


def test_an_encoder_that_fails_leaves_nothing_but_its_words(tmp_path: Path) -> None:
    with pytest.raises(ProcessFailed, match="too small"):
        encode(np.zeros((2, 8, 8, 3), np.uint8), FPS, tmp_path / "clip.mp4", SETTINGS, unwatched)
    assert list(tmp_path.iterdir()) == []


def test_an_encoder_that_hangs_is_killed(tmp_path: Path) -> None:
    hasty = EncodeSettings(quality=QUALITY, preset="veryslow", limit_seconds=0.1)
    with pytest.raises(process.TimedOut):
        encode(a_move(), FPS, tmp_path / "clip.mp4", hasty, unwatched)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("preset", "stop_at"),
    [
        pytest.param("veryfast", lambda fraction: True, id="at once"),
        pytest.param("veryslow", lambda fraction: 0 < fraction < 0.8, id="while encoding"),
        pytest.param("veryfast", lambda fraction: 0.8 <= fraction < 1, id="while proving"),
        pytest.param("veryfast", lambda fraction: fraction == 1, id="at the end"),
    ],
)
def test_stopping_leaves_no_file_and_no_child(tmp_path: Path, preset: Preset, stop_at: Callable[[float], bool]) -> None:
    def report(fraction: float) -> None:
        if stop_at(fraction):
            raise Stopped

    family = children()
    with pytest.raises(Stopped):
        encode(a_move(), FPS, tmp_path / "clip.mp4", EncodeSettings(quality=QUALITY, preset=preset), report)
    assert list(tmp_path.iterdir()) == []
    assert children() == family


FULL_DISK = """
import sys
from pathlib import Path
import numpy as np
from core.encode.command import EncodeSettings
from core.encode.encode import encode
from core.errors import DiskFull
from core.work import unwatched
from tests.waiting import children

folder = Path(sys.argv[1])
noise = np.random.default_rng(0).integers(0, 256, (20, 128, 128, 3), np.uint8)
try:
    encode(noise, 30, folder / "clip.mp4", EncodeSettings(quality="crf:18"), unwatched)
except DiskFull:
    print("full", list(folder.iterdir()))
"""


def test_a_full_disk_is_told_apart(tmp_path: Path) -> None:
    """On a disk of 64 KiB, mounted in a name space of its own."""
    unshare = shutil.which("unshare")
    mount = f"mount -t tmpfs -o size=64k tmpfs '{tmp_path}'"
    if unshare is None or subprocess.run([unshare, "-rm", "sh", "-c", mount], check=False).returncode != 0:
        pytest.skip("this system gives no one a name space to mount in")
    argv = [unshare, "-rm", "sh", "-c", f'{mount} && exec "$@"', "sh"]
    argv += [sys.executable, "-c", FULL_DISK, str(tmp_path)]
    done = subprocess.run(argv, cwd=PROJECT, capture_output=True, text=True, check=True)
    assert done.stdout == "full []\n"


# ------------------------------------------------------------------------------ what the proof finds


def test_a_good_clip_is_proved(clip: Path) -> None:
    proves(clip)


@pytest.mark.parametrize(
    ("other", "words"),
    [
        ({"count": COUNT + 1}, f"frame count: {COUNT} instead of {COUNT + 1}"),
        ({"count": COUNT - 1}, f"frame count: {COUNT} instead of {COUNT - 1}"),
        ({"fps": 25}, "frame rate: 30 instead of 25"),
        ({"size": (HEIGHT, WIDTH)}, r"size: \(192, 108\) instead of \(108, 192\)"),
    ],
)
def test_a_clip_that_is_another_is_refused(clip: Path, other: dict[str, Any], words: str) -> None:
    with pytest.raises(ProofFailed, match=words):
        proves(clip, **other)


@pytest.mark.parametrize("share", [0.0, 0.5, 0.99])
def test_a_truncated_clip_is_refused(clip: Path, share: float) -> None:
    content = clip.read_bytes()
    clip.write_bytes(content[: int(len(content) * share)])
    with pytest.raises(ProofFailed, match="MP4"):
        proves(clip)


def test_a_clip_that_lost_its_last_pictures_is_refused(clip: Path) -> None:
    """The boxes are whole; the pictures in them are not."""
    content = bytearray(clip.read_bytes())
    lost = len(content) // 4
    content[-lost:] = bytes(lost)
    clip.write_bytes(content)
    with pytest.raises(ProofFailed, match="cannot be decoded"):
        proves(clip)


def test_a_single_flipped_bit_anywhere_in_the_pictures_is_found(clip: Path) -> None:
    content = clip.read_bytes()
    start = content.index(b"mdat") + 4
    rng = np.random.default_rng(3)
    before = pictures_of(clip)
    missed = []
    for place in rng.integers(start, len(content), 16):
        damaged = bytearray(content)
        damaged[place] ^= 1 << int(rng.integers(8))
        clip.write_bytes(damaged)
        try:
            proves(clip)
        except ProofFailed:
            continue
        assert pictures_of(clip) == before  # what is not found must not be seen
        missed.append(place)
    assert len(missed) <= 3


def pictures_of(path: Path) -> str:
    return process.run(decode_command(ffmpeg_program(), path), unwatched, limit=20).stdout


REPLACED = {
    "hev1": ("codec tag", lambda command: replaced(command, "hvc1", "hev1")),
    "index at the end": ("index before the pictures", lambda command: replaced(command, "+faststart", "+write_colr")),
    "no colours": (
        "colour",
        lambda command: [part.partition(";[s1]setparams")[0].replace("[s1]", "[s2]") for part in command],
    ),
}


def replaced(command: list[str], old: str, new: str) -> list[str]:
    assert old in command
    return [new if part == old else part for part in command]


@pytest.mark.parametrize(("words", "change"), REPLACED.values(), ids=REPLACED)
def test_a_clip_made_otherwise_is_refused(tmp_path: Path, words: str, change: Callable[[list[str]], list[str]]) -> None:
    out = tmp_path / "clip.mp4"
    command = change(encode_command(ffmpeg_program(), SETTINGS, (WIDTH, HEIGHT), FPS, out, quality=SETTINGS.target))
    process.run(command, unwatched, limit=20, stdin=[frame.data for frame in a_move()])
    with pytest.raises(ProofFailed) as caught:
        proves(out)
    assert [fact.partition(":")[0] for fact in caught.value.wrong] == [words]


def test_every_fault_is_named_at_once(clip: Path) -> None:
    with pytest.raises(ProofFailed) as caught:
        proves(clip, fps=24, count=7)
    assert len(caught.value.wrong) >= 3


def test_the_proof_can_be_stopped(clip: Path) -> None:
    def stop(_: float) -> None:
        raise Stopped

    with pytest.raises(Stopped):
        proves(clip, report=stop)
