"""Puts the delivered frames onto the disk, each as it is or as a camera films it, while the next one is made."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from typing import Any

import numpy as np
from numpy.typing import NDArray

from core.camera import Camera
from core.motion import FULL, CameraPath, Rect, Size, on_canvas
from core.work import Report

Frame = NDArray[np.uint8]

THREADS = 4
"""That film, at most: more would hold more frames, and wait for the one that makes them."""


def canvas_views(means: str, path: CameraPath, view: Rect, frames: int) -> list[Rect]:
    """What each delivered frame shows of a canvas that shows ``view`` of the keyframe.

    ``means`` says who moves the camera. ``virtual``: nobody before, so the frames are filmed along ``path``;
    ``endpoints``: the model, so all get the one crop that makes the first frame the path's first view.
    """
    match means:
        case "virtual":
            return [on_canvas(seen, view) for seen in path.views(frames)]
        case "endpoints":
            return [on_canvas(path.start, view)] * frames
    raise ValueError(f"'{means}' is no way to move a camera over a canvas")


def shows_all(views: Sequence[Rect], canvas: Size, size: Size) -> bool:
    """Whether every frame is the whole canvas, pixel by pixel, so that there is nothing to film."""
    return canvas == size and all(view == FULL for view in views)


def film(frames: Iterator[Frame], views: Sequence[Rect] | None, out: Frame, report: Report) -> None:
    """Fill ``out``, ``(F, height, width, 3)``, from as many ``frames``, ``(H, W, 3)``; each is filmed in one resample.

    Without ``views`` they are taken as they are. The next frame is made in one thread while those before it are
    filmed in the others; ``THREADS`` and two are in memory at most. ``report`` is called in the caller's
    thread at least every 100 ms; what it raises ends the work once the frames in hand are done.
    """
    size = out.shape[2], out.shape[1]
    threads = min(THREADS, os.cpu_count() or 1)

    def put(number: int, frame: Frame) -> None:
        out[number] = frame if views is None else Camera(frame, size).render(views[number])

    with ThreadPoolExecutor(threads + 1) as pool:
        try:
            made = done = 0
            making: Future[Frame] | None = None
            waiting: set[Future[Any]] = set()
            while done < len(out):
                if making is None and made < len(out) and len(waiting) <= threads:
                    making = pool.submit(next, frames)
                    waiting.add(making)
                finished, waiting = wait(waiting, timeout=0.05, return_when=FIRST_COMPLETED)
                for future in finished - {making}:
                    future.result()
                    done += 1
                if making is not None and making in finished:
                    waiting.add(pool.submit(put, made, making.result()))
                    made, making = made + 1, None
                report(done / len(out))
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
