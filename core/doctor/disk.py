"""The disk: whether the daemons will begin anything, and whether the rooms fit on it."""

from __future__ import annotations

import math
import os
import shutil
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

from core.doctor.result import Check, Patient, Result, fail, ok, standing, warn
from core.home import STAGES
from core.settings import Settings

_INODES_A_NIGHT = 100_000  # a clip has some twenty files from drop to result, on each half
_INODES_NONE = 1_000
_ROOM = "Make room: `dropreel prune`, or delete what else lies on this disk."


def space(patient: Patient) -> Iterator[Result]:
    """Free space against the two marks of the daemons."""
    low, high = patient.settings.disk.low_water_mb << 20, patient.settings.disk.high_water_mb << 20
    for name, folder in _disks(patient).items():
        usage = shutil.disk_usage(folder)
        seen = f"{_gb(usage.free)} of {_gb(usage.total)} free"
        if usage.free < low:
            yield fail(name, f"{seen}: below the low-water mark, {_gb(low)}; nothing new is begun", _ROOM)
        elif usage.free < high:
            yield warn(name, f"{seen}: below the high-water mark, {_gb(high)}; who has stopped does not go on", _ROOM)
        else:
            yield ok(name, f"{seen}; nothing new is begun below {_gb(low)}")


def rooms(patient: Patient) -> Iterator[Result]:
    """Whether all the frames that the rooms' bounds allow fit above the low-water mark."""
    if not patient.settings.gpu:
        return
    clips, clip_bytes = clips_with_frames(patient.settings), frames_bytes(patient.settings)
    spare = shutil.disk_usage(standing(patient.home.gpu.root)).free - (patient.settings.disk.low_water_mb << 20)
    seen = (f"full to their bounds they hold the frames of {clips} clips, {_gb(clips * clip_bytes)} at "
            f"{patient.settings.motion.duration_max:g} s each")  # fmt: skip
    if clips * clip_bytes > spare:
        yield warn("rooms", f"{seen}; {_gb(max(0, spare))} are free for them",
                   f"{_ROOM} Or lower rooms.bounds: where the rooms fill the disk, all of them stop.")  # fmt: skip
    else:
        yield ok("rooms", f"{seen}; {_gb(spare)} are free for them")


def inodes(patient: Patient) -> Iterator[Result]:
    """A disk with room for bytes may have none for files."""
    for name, folder in _disks(patient).items():
        disk = os.statvfs(folder)
        if disk.f_files == 0:  # this file system has as many as it likes
            continue
        seen = f"{disk.f_favail:,} files can still be made"
        if disk.f_favail < _INODES_NONE:
            yield fail(f"{name}: inodes", seen, "Delete small files on this disk: its inodes are used up.")
        elif disk.f_favail < _INODES_A_NIGHT:
            yield warn(f"{name}: inodes", seen, "Delete small files on this disk: its inodes run out.")
        else:
            yield ok(f"{name}: inodes", seen)


CHECKS = (Check("disk", "space", space), Check("disk", "rooms", rooms), Check("disk", "inodes", inodes))


def frames_bytes(settings: Settings) -> int:
    """The frames of one clip of the longest duration and the larger output: 318,504,960 for 6 s of 1024×576 at 30."""
    output = settings.output
    width, height = max(output.landscape, output.portrait, key=math.prod)
    return math.ceil(settings.motion.duration_max * output.fps) * width * height * 3


def clips_with_frames(settings: Settings) -> int:
    """How many clips can have frames at once: those that wait, and those in hand; one being interpolated has two."""
    bounds, workers = settings.rooms.bounds, settings.rooms.workers
    waiting = sum(bound for stage in STAGES if (bound := bounds.of(stage)) is not None)
    return waiting + sum(len(workers.of(stage)) for stage in STAGES) + len(workers.interpolate)


def _disks(patient: Patient) -> dict[str, Path]:
    """A folder on each disk, by the halves that lie on it."""
    names: dict[int, list[str]] = defaultdict(list)
    folders: dict[int, Path] = {}
    for name, half in patient.halves.items():
        folder = standing(half.root)
        device = folder.stat().st_dev
        names[device].append(name)
        folders[device] = folder
    return {" and ".join(names[device]): folder for device, folder in folders.items()}


def _gb(count: int) -> str:
    return f"{count / 1e9:,.1f} GB"
