"""All files that share a stem travel together: which of a folder's names belong to which picture."""

from __future__ import annotations

import re
import unicodedata
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass

IMAGE_EXTENSIONS = (".png", ".jpg", ".jpeg", ".webp", ".heic", ".heif")
REFUSED_EXTENSIONS = (".tif", ".tiff", ".bmp", ".gif", ".avif", ".jxl")
"""Pictures that are not decoded. One with no better one beside it is examined, and refused, instead of lying there."""
SIDECAR_SUFFIX = ".motion.json"

# A name that ends in one of these says exactly which stem it belongs to: `a.b.motion.json` is the sidecar of
# `a.b` and waits for it, even while only `a.png` is there. Any other companion goes to the longest such stem.
_STATING = (*IMAGE_EXTENSIONS, SIDECAR_SUFFIX, ".video_manifest.json", ".video_meta.json")

_HALF_COPIED = re.compile(
    r"(~|\.(part|partial|filepart|tmp|temp|crdownload|opdownload|download|sb-[0-9a-f]{8}-\w{6}))\Z",
    re.IGNORECASE,
)
_HOUSEKEEPING = frozenset(
    {
        *("thumbs.db", "ehthumbs.db", "desktop.ini", "$recycle.bin", "system volume information"),  # Windows
        *("icon\r", "__macosx"),  # macOS
        *("@eadir", "#recycle", "lost+found"),  # network drives
    }
)


@dataclass(frozen=True)
class Group:
    """The files of one stem, by the names they have on disk, each kind in order."""

    stem: str
    """In Unicode NFC, whichever form the disk uses."""
    images: tuple[str, ...] = ()
    """None: companions still waiting for their picture. More than one: the caller decides."""
    sidecars: tuple[str, ...] = ()
    """More than one only where names differ in case or Unicode form alone: the caller decides."""
    others: tuple[str, ...] = ()

    @property
    def sidecar(self) -> str | None:
        """The motion sidecar, the first of them if there are twins."""
        return self.sidecars[0] if self.sidecars else None

    @property
    def files(self) -> tuple[str, ...]:
        """Everything that travels: pictures, sidecars, the rest."""
        return self.images + self.sidecars + self.others


def ignored(name: str) -> bool:
    """Whether a file or folder name is none of ours: hidden, half-copied, or an operating system's own."""
    return name.startswith(".") or name.casefold() in _HOUSEKEEPING or bool(_HALF_COPIED.search(name))


def housekeeping(name: str) -> bool:
    """Whether a file manager made this for itself, so that nobody misses it when its folder goes."""
    return name.startswith("._") or name.casefold() in _HOUSEKEEPING | {".ds_store", ".localized"}


def is_image(name: str) -> bool:
    """Whether the name ends like that of a picture which may be decoded, in upper or lower case."""
    return _ends(name, *IMAGE_EXTENSIONS)


def images_of(names: Iterable[str]) -> tuple[str, ...]:
    """Which of one stem's files are its picture: those that may be decoded, else those that cannot be."""
    given = tuple(names)
    decoded = tuple(name for name in given if is_image(name))
    return decoded or tuple(name for name in given if _ends(name, *REFUSED_EXTENSIONS))


def group(names: Iterable[str]) -> dict[str, Group]:
    """Sort a folder's file names into one group a stem, leaving out what is ignored.

    Returns the groups by stem, in order. Every name that is not ignored is in exactly one of them.
    """
    kept = sorted({name for name in names if not ignored(name)})
    stated = {name: _without(name, suffix) for name in kept for suffix in _STATING if _ends(name, suffix)}
    stems = frozenset(stated.values())
    members: dict[str, list[str]] = defaultdict(list)
    for name in kept:
        members[stated.get(name) or _nearest(name, stems)].append(name)
    return {stem: _sort(stem, members[stem]) for stem in sorted(members)}


def _sort(stem: str, names: list[str]) -> Group:
    images = images_of(names)
    sidecars = tuple(name for name in names if _ends(name, SIDECAR_SUFFIX))
    others = tuple(name for name in names if name not in images + sidecars)
    return Group(stem, images, sidecars, others)


def _ends(name: str, *suffixes: str) -> bool:
    return any(name[-len(suffix) :].lower() == suffix for suffix in suffixes)


def _without(name: str, suffix: str) -> str:
    return unicodedata.normalize("NFC", name[: -len(suffix)])


def _nearest(name: str, stems: frozenset[str]) -> str:
    """The longest stem that the name continues after a dot; without one, the name less its last ending."""
    prefix = whole = unicodedata.normalize("NFC", name)
    while prefix:
        if prefix in stems:
            return prefix
        prefix = prefix.rpartition(".")[0]
    return whole.rpartition(".")[0] or whole
