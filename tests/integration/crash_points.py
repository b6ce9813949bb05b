"""Dies at every file-system step of a clip's journey, each time twice: as a kill and as a power cut.

``python -m tests.integration.crash_points FOLDER`` walks one good and one bad drop from the hot folder to the
acknowledged result. Before each step it forks: the child copies the home as it is, makes of the copy what a kill, or
a power cut, would leave, checks what must hold at any moment, starts all daemons afresh, lets them come to rest, and
checks where everything ended. Prints one JSON line: how many steps, and what failed.

A process of its own, because forking wants a parent with one thread.
"""

from __future__ import annotations

import collections
import gc
import json
import os
import shutil
import sys
import traceback
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import cv2

from core import fsops
from daemons import keyframes
from tests.house import SIDECAR, House, picture
from tests.invariants import PLACED, PUBLISHED, check_always, check_at_rest, check_once
from tests.power import Journal


class InLine(ThreadPoolExecutor):
    """Does the work when it is handed in: a fork in the midst of another thread's work may wait for ever."""

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        """As every executor's."""
        future: Future[Any] = Future()
        try:
            future.set_result(fn(*args, **kwargs))
        except Exception as error:  # noqa: BLE001 - whoever asks for the result gets it
            future.set_exception(error)
        return future


Remains = frozenset[tuple[str, bool, tuple[int, int, int] | None]]
AT_ONCE = 2
GOOD, BAD = "good", "bad"


def main(folder: Path) -> None:
    """Walk the journey; see above."""
    cv2.setNumThreads(1)
    gc.freeze()  # what a collection in a child would touch, it would have to copy
    vars(keyframes)["ThreadPoolExecutor"] = InLine
    root = folder / "home"
    house = House(root)
    house.start()
    dropped = {f"{GOOD}.png": picture(1), f"{BAD}.png": picture(2)}
    outside = {**SIDECAR, "end_frame": [0.5, 0.5, 1.5, 1.5]}
    house.drop(GOOD, dropped[f"{GOOD}.png"])
    house.drop(BAD, dropped[f"{BAD}.png"], outside)
    journal = Journal(root, folder / "shadow")
    running: dict[int, tuple[int, str, Path]] = {}
    failures: list[dict[str, object]] = []
    kinds: collections.Counter[str] = collections.Counter()
    known: set[Remains] = set()

    def reap() -> None:
        pid, status = os.wait()
        step, mode, place = running.pop(pid)
        report = place / "failed.txt"
        if status != 0:
            told = report.read_text() if report.exists() else f"wait status {status}"
            failures.append({"step": step, "mode": mode, "at": str(journal.steps[step].name), "why": told})
        else:
            shutil.rmtree(place)

    def die_here(name: str, paths: tuple[Path, ...]) -> None:
        journal.note(name, paths)
        kinds[name] += 1
        step = len(journal.steps) - 1
        for mode in ("kill", "power cut"):
            if mode == "kill" and remains(root) in known:
                continue
            place = folder / f"{step}-{mode.split()[0]}"
            # Hard links: a crash leaves the same files, inodes and all, and nothing here writes into one in place.
            shutil.copytree(root, place / "home", copy_function=os.link)
            if mode == "power cut":
                journal.cut(place / "home")
            left = remains(place / "home")
            if left in known:
                shutil.rmtree(place)
                continue
            known.add(left)
            while len(running) >= AT_ONCE:
                reap()
            pid = os.fork()
            if pid == 0:
                _afterlife(place, dropped, house.events, mode)
            running[pid] = (step, mode, place)

    fsops.seam = die_here
    house.rest()
    fsops.seam = None
    while running:
        reap()
    check_at_rest(house.home, dropped, {GOOD}, {BAD})
    check_once(house.events)
    print(json.dumps({"steps": len(journal.steps), "kinds": kinds, "remains": len(known), "failures": failures}))  # noqa: T201 - its result


def remains(home: Path) -> Remains:
    """What a death left: every path, and of each file which one it is and how far it is written.

    An empty file is like another. The logs are left out: no daemon reads them.
    """
    found = []
    for path in home.rglob("*"):
        info = path.stat()
        which = (info.st_ino, info.st_size, info.st_mtime_ns) if path.is_file() and info.st_size else None
        if path.parent.name != "logs":
            found.append((str(path.relative_to(home)), path.is_dir(), which))
    return frozenset(found)


def _afterlife(place: Path, dropped: dict[str, bytes], said: list[dict[str, Any]], mode: str) -> None:
    """In the child: the restart, the checks; never returns. ``said`` are the events before the death."""
    status = 1
    try:
        fsops.seam = None
        house = House(place / "home")
        check_always(house.home, dropped)
        house.start()
        house.rest()
        check_at_rest(house.home, dropped, {GOOD}, {BAD})
        # A power cut may take the acknowledgement of a result, which is then fetched again: the same bytes.
        check_once([*said, *house.events], *([PUBLISHED, PLACED] if mode == "kill" else [PUBLISHED]))
        status = 0
    except BaseException:  # noqa: BLE001 - whatever it is, the parent hears of it
        (place / "failed.txt").write_text(traceback.format_exc())
    finally:
        os._exit(status)


if __name__ == "__main__":
    main(Path(sys.argv[1]).resolve())
