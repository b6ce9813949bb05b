"""On what kind of file system a folder lies."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from core import process
from core.work import unwatched

NETWORK = frozenset(
    {
        *("nfs", "nfs4", "cifs", "smb3", "smbfs", "afpfs", "webdav", "ceph", "lustre", "afs", "ncpfs", "beegfs"),
        *("9p", "virtiofs", "vboxsf", "prl_fs", "vmhgfs", "fuse.vmhgfs-fuse"),  # a folder of the host, in a guest
        *("fuse.sshfs", "fuse.rclone", "fuse.glusterfs", "fuse.s3fs", "fuse.davfs", "osxfuse", "macfuse"),
        *("fuse.grpcfuse", "fakeowner", "fuse.osxfs"),  # Docker on a Mac
    }
)
"""Kinds whose changes made elsewhere cause no event here."""


class Mount(NamedTuple):
    """A file system and where it begins."""

    point: Path
    kind: str

    @property
    def network(self) -> bool:
        """Whether what others change on it stays unheard."""
        return self.kind in NETWORK


def mount_of(folder: Path) -> Mount:
    """The file system that a folder, or what it will be made in, lies on."""
    if sys.platform == "linux":
        mounts = read_mountinfo(Path("/proc/self/mountinfo").read_text(encoding="utf-8", errors="surrogateescape"))
    else:
        mounts = read_mount(process.run(["/sbin/mount"], unwatched, limit=10.0).stdout)
    real = Path(os.path.realpath(folder))
    found = Mount(Path("/"), "unknown")
    for mount in mounts:  # the last of those that are nearest: one may be mounted over another
        if real.is_relative_to(mount.point) and len(mount.point.parts) >= len(found.point.parts):
            found = mount
    return found


def read_mountinfo(text: str) -> Iterator[Mount]:
    """The lines of Linux's ``/proc/self/mountinfo``."""
    for line in text.splitlines():
        place, _, system = line.partition(" - ")
        point = re.sub(r"\\([0-7]{3})", lambda octal: chr(int(octal[1], 8)), place.split()[4])
        yield Mount(Path(point), system.split()[0])


def read_mount(text: str) -> Iterator[Mount]:
    """What macOS's ``mount`` says: ``//user@host/share on /Volumes/My Share (smbfs, nodev, nosuid)``."""
    for line in text.splitlines():
        match = re.fullmatch(r".*? on (/.*) \(([\w.]+)[^()]*\)", line)
        if match:
            yield Mount(Path(match[1]), match[2])
