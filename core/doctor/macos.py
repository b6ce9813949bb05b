"""macOS: folders that it keeps agents out of, whatever the shell may do there."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

from core.doctor.alive import full_disk_access, posts
from core.doctor.result import Check, Patient, Result, fail, ok, warn

_GUARDED = ("Desktop", "Documents", "Downloads", "Library/Mobile Documents", "Library/CloudStorage")


def guarded(path: Path, user: Path) -> Path | None:
    """The place that macOS guards (TCC) and that a path lies in; ``user`` is the user's own folder."""
    places = [user / name for name in _GUARDED]
    if path.is_relative_to("/Volumes") and len(path.parts) > 2:
        places.append(Path(*path.parts[:3]))
    return next((place for place in places if path.is_relative_to(place)), None)


def access(patient: Patient) -> Iterator[Result]:
    """Whether agents are let in: by where the folders lie, and by what the running agent says of them."""
    user = Path.home().resolve()
    folders = [patient.home.root, *([patient.home.mac.hot] if patient.settings.mac else [])]
    places = {folder: place for folder in folders if (place := guarded(folder.resolve(), user))}
    shell = "this shell's own access says nothing about the agent's"
    if not places:
        yield ok("guarded", f"by its place no folder is one that macOS guards; {shell}")
    for folder, place in places.items():
        seen = f"{folder} is in {place}, which macOS guards"
        remedy = f"Move it elsewhere, such as {user / 'dropreel'}; or {full_disk_access()}"
        keeper = next((post for post in posts(patient) if post.name == "keyframes"), None)
        if keeper is not None and keeper.held:
            yield warn("guarded", f"{seen}; a keyframes daemon runs: what it cannot reach it complains of above. "
                       "Whether it was started by launchd, or by a shell, is not known", remedy)  # fmt: skip
        else:
            yield fail("guarded", f"{seen}; {shell}", remedy)


CHECKS = (Check("macos", "guarded", access),) if sys.platform == "darwin" else ()
