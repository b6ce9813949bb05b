"""A clip's frames between stages: a ``.npy`` file mapped into memory, ``uint8`` RGB, ``(T, H, W, 3)``.

Writing into a mapped file that the disk cannot hold, like reading one past its end, is a signal that kills the
process. So the disk's blocks are taken before a file is mapped, and a file shorter than it claims is refused.
"""

from __future__ import annotations

import contextlib
import errno
import math
import os
import re
import struct
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray

from core import fsops
from core.errors import DiskFull, DropreelError

Frames = NDArray[np.uint8]
"""``(T, H, W, 3)``, RGB."""


# What numpy writes for such frames and nothing else: it would also take, and evaluate, a great deal more.
_HEADER = re.compile(
    rb"(?P<magic>\x93NUMPY\x01\x00(?P<length>..))"
    rb"{'descr': '\|u1', 'fortran_order': False, 'shape': "
    rb"\((?P<frames>[1-9]\d{0,8}), (?P<height>[1-9]\d{0,5}), (?P<width>[1-9]\d{0,5}), 3\), } *\n",
    re.DOTALL,
)
_MAX_HEADER_BYTES = 256


class UnreadableFrames(DropreelError):
    """This file does not hold the frames of a clip, or not all of them."""

    def __init__(self, path: Path, what: str) -> None:
        super().__init__(f"{self.__doc__} {path.name}: {what}")


@contextlib.contextmanager
def create(path: Path, count: int, size: tuple[int, int]) -> Iterator[Frames]:
    """Frames to fill, of ``size`` (width, height); they are in ``path``, fsynced, when the block has ended.

    A block that raises leaves nothing behind. Raises ``DiskFull`` before the first frame.
    """
    shape = (count, size[1], size[0], 3)
    part = fsops.part_of(path)
    try:
        offset = _prepare(part, shape)
        frames = np.memmap(part, np.uint8, "r+", offset, shape)
        yield frames
        frames.flags.writeable = False  # what has its name is whole and stays as it is
        frames.flush()
        fsops.publish(part, path)
    except BaseException:
        fsops.remove(part)
        raise


def open(path: Path) -> Frames:  # noqa: A001 - to be read as frames.open
    """The frames of a file, read-only, none of them read yet. Raises ``UnreadableFrames``."""
    with path.open("rb") as file:
        header = _HEADER.match(file.read(_MAX_HEADER_BYTES))
        if header is None or header.end("magic") + int.from_bytes(header["length"], "little") != header.end():
            raise UnreadableFrames(path, "It does not begin as uint8 frames (T, H, W, 3) do.")
        size = os.fstat(file.fileno()).st_size
    shape = (int(header["frames"]), int(header["height"]), int(header["width"]), 3)
    if size != header.end() + math.prod(shape):
        raise UnreadableFrames(path, f"It has {size} bytes; its frames end at {header.end() + math.prod(shape)}.")
    return np.memmap(path, np.uint8, "r", header.end(), shape)


def _prepare(part: Path, shape: tuple[int, ...]) -> int:
    """Make the file, with room on the disk for all of it; returns where the frames begin. Raises ``DiskFull``."""
    try:
        with part.open("xb") as file:
            npy.write_array_header_1_0(file, {"descr": "|u1", "fortran_order": False, "shape": shape})
            file.flush()
            offset = file.tell()
            _reserve(file, offset + math.prod(shape))
    except OSError as error:
        if error.errno in {errno.ENOSPC, errno.EDQUOT}:
            room = math.prod(shape) >> 20
            raise DiskFull(f"{DiskFull.__doc__} There is no room for {room} MiB of frames.") from error
        raise
    return offset


def _reserve(file: BinaryIO, size: int) -> None:
    try:
        _preallocate(file.fileno(), size)
    except OSError as error:
        if error.errno not in {errno.EOPNOTSUPP, errno.ENOTSUP, errno.EINVAL}:
            raise
        zeros = memoryview(bytes(1 << 20))  # a file system that can promise nothing is made to keep it
        missing = range(file.seek(0, os.SEEK_END), size, len(zeros))
        file.writelines(zeros[: size - start] for start in missing)


if sys.platform == "darwin":
    import fcntl

    _F_PREALLOCATE, _F_ALLOCATEALL, _F_PEOFPOSMODE = 42, 4, 3  # sys/fcntl.h; Python names none of them

    def _preallocate(fd: int, size: int) -> None:
        beyond = size - os.fstat(fd).st_size
        fstore = struct.pack("=Iiqqq", _F_ALLOCATEALL, _F_PEOFPOSMODE, 0, beyond, 0)
        fcntl.fcntl(fd, _F_PREALLOCATE, fstore)
        os.ftruncate(fd, size)

else:

    def _preallocate(fd: int, size: int) -> None:
        os.posix_fallocate(fd, 0, size)
