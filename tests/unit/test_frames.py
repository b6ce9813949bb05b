"""Frames on the disk: whole or not there, and never a signal."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from core import frames, fsops
from core.errors import DiskFull, Stopped

SHM = Path("/dev/shm")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "frames.npy"


def noise(count: int, height: int, width: int) -> np.ndarray:
    return np.random.default_rng(count).integers(0, 256, (count, height, width, 3), np.uint8)


def test_what_is_written_is_read(path: Path) -> None:
    picture = noise(5, 18, 32)
    with frames.create(path, 5, (32, 18)) as out:
        assert (out.shape, out.dtype) == (picture.shape, picture.dtype)
        out[:] = picture
    read = frames.open(path)
    np.testing.assert_array_equal(read, picture)
    np.testing.assert_array_equal(np.load(path), picture)  # anyone's numpy reads it


def test_frames_that_are_read_cannot_be_changed(path: Path) -> None:
    with frames.create(path, 1, (2, 2)):
        pass
    with pytest.raises(ValueError, match="read-only"):
        frames.open(path)[0] = 1


def test_frames_that_have_been_published_stay_as_they_are(path: Path) -> None:
    with frames.create(path, 1, (2, 2)) as out:
        out[:] = 7
    with pytest.raises(ValueError, match="read-only"):
        out[:] = 8


def test_nothing_is_there_under_the_final_name_before_the_end(path: Path) -> None:
    with frames.create(path, 2, (4, 4)) as out:
        out[:] = 7
        assert [file.suffix for file in path.parent.iterdir()] == [fsops.PART]
    assert list(path.parent.iterdir()) == [path]


def test_what_was_there_before_is_replaced_at_the_end_only(path: Path) -> None:
    for value in (1, 2):
        with frames.create(path, 1, (4, 4)) as out:
            out[:] = value
            assert value == 1 or (frames.open(path) == 1).all()
    assert (frames.open(path) == 2).all()


def test_a_block_that_raises_leaves_nothing(path: Path) -> None:
    def stopped_half_way(out: frames.Frames) -> None:
        out[0] = 7
        raise Stopped

    with pytest.raises(Stopped), frames.create(path, 2, (4, 4)) as out:
        stopped_half_way(out)
    assert list(path.parent.iterdir()) == []


def test_the_disk_holds_room_for_all_frames_before_the_first(path: Path) -> None:
    size = 64 * 64 * 64 * 3
    with frames.create(path, 64, (64, 64)):
        [part] = path.parent.iterdir()
        assert part.stat().st_size > size
        assert part.stat().st_blocks * 512 >= size


@pytest.mark.skipif(
    not SHM.is_dir(), reason="needs a memory file system, whose size can be asked for without filling it"
)
def test_a_full_disk_is_an_error_before_the_first_frame() -> None:
    folder = SHM / f"dropreel-test-{os.getpid()}"
    folder.mkdir()
    try:
        too_many = shutil.disk_usage(folder).total // (1000 * 1000 * 3) + 1
        with (
            pytest.raises(DiskFull, match="MiB of frames"),
            frames.create(folder / "frames.npy", too_many, (1000, 1000)),
        ):
            pytest.fail("the block ran")
        assert list(folder.iterdir()) == []
    finally:
        shutil.rmtree(folder)


def test_a_file_system_that_promises_nothing_is_filled_instead(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(fd: int, size: int) -> None:
        raise OSError(errno.EOPNOTSUPP, os.strerror(errno.EOPNOTSUPP))

    monkeypatch.setattr(frames, "_preallocate", refuse)
    with frames.create(path, 9, (640, 360)) as out:
        [part] = path.parent.iterdir()
        assert part.stat().st_blocks * 512 >= out.nbytes
        assert not out.any()
        out[:] = 3
    assert (frames.open(path) == 3).all()


def saved(path: Path, array: np.ndarray) -> Path:
    np.save(path, array)
    return path


@pytest.mark.parametrize(
    "array",
    [
        np.zeros((2, 4, 4, 3), np.uint16),
        np.zeros((2, 4, 4, 3), np.int8),
        np.zeros((2, 4, 4, 4), np.uint8),
        np.zeros((4, 4, 3), np.uint8),
        np.zeros((0, 4, 4, 3), np.uint8),
        np.asfortranarray(np.zeros((2, 4, 4, 3), np.uint8)),
        np.array([{"an": "object"}]),
    ],
    ids=lambda array: f"{array.dtype}{array.shape}",
)
def test_arrays_that_are_no_frames_are_refused(path: Path, array: np.ndarray) -> None:
    with pytest.raises(frames.UnreadableFrames, match=r"frames.npy: It does not begin"):
        frames.open(saved(path, array))


@pytest.mark.parametrize("change", [-1, 1, -96], ids=lambda change: f"{change:+d} bytes")
def test_a_file_of_another_length_is_refused(path: Path, change: int) -> None:
    os.truncate(saved(path, noise(2, 4, 4)), 128 + 96 + change)
    with pytest.raises(frames.UnreadableFrames, match="its frames end at 224"):
        frames.open(path)


@given(
    st.binary(max_size=200) | st.binary(max_size=90).map(lambda tail: b"\x93NUMPY\x01\x00v\x00{'descr': '|u1', " + tail)
)
def test_no_header_is_believed_too_much(tmp_path_factory: pytest.TempPathFactory, content: bytes) -> None:
    path = tmp_path_factory.getbasetemp() / "any.npy"
    path.write_bytes(content)
    with pytest.raises(frames.UnreadableFrames):
        frames.open(path)


@given(st.data())
def test_a_damaged_header_is_refused_or_says_the_same(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    path = saved(tmp_path_factory.getbasetemp() / "damaged.npy", noise(2, 4, 4))
    content = bytearray(path.read_bytes())
    content[data.draw(st.integers(0, 127))] = data.draw(st.integers(0, 255))
    path.write_bytes(content)
    with contextlib.suppress(frames.UnreadableFrames):
        assert frames.open(path).nbytes == 96
