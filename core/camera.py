"""Renders what a camera sees of an image: any view, sub-pixel exact and anti-aliased, in one resample."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, wait
from itertools import groupby
from typing import NamedTuple, TypeAlias

import cv2
import numpy as np
from numpy.typing import NDArray

from core.motion import FULL, Rect, Size
from core.work import Report, unwatched

Pixels: TypeAlias = NDArray[np.uint8]
Floats: TypeAlias = NDArray[np.float32]

LOBES = 3
"""Of the Lanczos filter on either side. It widens with the scale, so what is made smaller does not shimmer."""
DETAIL_KEPT = 2.0
"""How many times the detail that a move can show is kept of a large still, along each axis."""

# A float32 holds integers of 24 bits. Pixels about zero (7 bits and a sign), weights and what is kept between the
# passes are integers, scaled by powers of two, such that no sum needs more: Lanczos weights add up to less than 1.7 in
# magnitude. So every sum is exact, and the bytes are the same in whatever order a BLAS adds.
MIDDLE = 128
ROW_BITS, KEPT_BITS, COLUMN_BITS = 14, 4, 11

BLOCK = 16
"""Rows or columns rendered by one product of matrices; more make better use of a BLAS, and more zeros."""
PRODUCT = 1 << 18
"""Multiplications in one product, so few that a BLAS does it in the thread that asks."""


class Camera:
    """A camera before one image. Threads may share it.

    Lanczos resampling along both axes, with weights worked out anew for each row and column of each view: nothing is
    rounded to a grid of places. The plain filter shows a slope up to 0.02 px of the image from where it is, which
    makes a slow pan wobble; here each set of weights is balanced about its place.
    """

    def __init__(self, image: Pixels, size: Size, views: Sequence[Rect] = ()) -> None:
        """``image`` is RGB, (H, W, 3); ``size`` is the (width, height) in pixels of what is rendered.

        Where all ``views`` that will be asked for are known, detail that none of them can show is dropped here,
        once, and not in every frame: a still of more than three times the detail that the closest view needs is made
        smaller, to ``DETAIL_KEPT`` times that, with the same filter. A 24-megapixel still that fills the view is then
        filmed four times as fast, and the frames differ by rounding (0.4 of 255, RMS). Takes 12 bytes a pixel.
        """
        self.size = size
        height, width = image.shape[:2]
        surplus = min(
            (min(view.width * width / size[0], view.height * height / size[1]) for view in views), default=0.0
        )
        if surplus > 1.5 * DETAIL_KEPT:
            shrink = DETAIL_KEPT / surplus
            image = Camera(image, (round(width * shrink), round(height * shrink))).render(FULL)
        self._planes = [plane - np.float32(MIDDLE) for plane in np.asarray(cv2.split(image), np.uint8)]

    def render(self, view: Rect) -> Pixels:
        """The pixels of ``view``, RGB, (height, width, 3); the whole image at its own size comes back as it is.

        A view of another shape than the output's is stretched: ``motion.fit`` is the caller's. Raises ``ValueError``
        where the view leaves the image or has no area.
        """
        if not (0 <= view.x1 < view.x2 <= 1 and 0 <= view.y1 < view.y2 <= 1):
            raise ValueError(f"{view} is not a view of the image")
        source_height, source_width = self._planes[0].shape
        width, height = self.size
        rows = list(_blocks(source_height, view.y1, view.y2, height, bits=ROW_BITS, scale_bits=KEPT_BITS))
        columns = list(_blocks(source_width, view.x1, view.x2, width, bits=COLUMN_BITS, scale_bits=-KEPT_BITS))
        left, right = columns[0].source.start, columns[-1].source.stop
        kept = np.empty((height, right - left), np.float32)
        turned = np.empty((width, height), np.float32)
        channels = []
        for plane in self._planes:
            for block in rows:
                _multiply(block.weights, plane[block.source, left:right], kept[block.output])
            np.rint(kept, out=kept)
            for block in columns:
                across = slice(block.source.start - left, block.source.stop - left)
                _multiply(block.weights, kept[:, across].T, turned[block.output])
            levels = cv2.add(turned, MIDDLE, dtype=cv2.CV_8U)  # type: ignore[call-overload]  # a scalar is fine
            channels.append(cv2.transpose(levels))
        return np.asarray(cv2.merge(channels), np.uint8)


class _Block(NamedTuple):
    """``output`` = ``weights`` @ ``source``, along one axis."""

    output: slice
    source: slice
    weights: Floats


def _blocks(length: int, first: float, last: float, count: int, *, bits: int, scale_bits: int) -> Iterator[_Block]:
    """What makes ``count`` samples of the part from ``first`` to ``last``, 0..1, of an axis ``length`` pixels long.

    The weights are integers of so many ``bits``, times 2^(scale_bits - bits). Beyond the image its edge goes on.
    """
    step = (last - first) * length / count
    place = first * length - 0.5 + (np.arange(count) + 0.5) * step  # in pixels from the centre of the first
    weights, pixels = _lanczos(place, max(step, 1.0), bits)
    pixels = np.clip(pixels, 0, length - 1)
    starts = pixels[::BLOCK, 0]
    stops = pixels[np.minimum(np.arange(0, count, BLOCK) + BLOCK, count) - 1, -1] + 1
    band = int((stops - starts).max())
    entry = np.arange(count)[:, None] * band + pixels - np.repeat(starts, BLOCK)[:count, None]
    summed = np.bincount(entry.ravel(), weights.ravel(), count * band).reshape(count, band)
    dense: Floats = (summed * 2.0 ** (scale_bits - bits)).astype(np.float32)
    for begin, start, stop in zip(range(0, count, BLOCK), starts, stops, strict=True):
        output = slice(begin, min(begin + BLOCK, count))
        yield _Block(output, slice(start, stop), dense[output, : stop - start])


def _lanczos(place: NDArray[np.floating], width: float, bits: int) -> tuple[NDArray[np.float64], NDArray[np.intp]]:
    """The weights, (N, taps), and the pixels they are for, that show N places; ``width`` 1 is the plain filter.

    L(x) = sinc(x) sinc(x / LOBES). The weights are integers that add up to 2^bits. Before they are rounded, the two
    next to the place are changed by as much as brings the centre of mass of all to the place.
    """
    reach = LOBES * width
    first = np.floor(place - reach).astype(np.intp) + 1
    pixels = first[:, None] + np.arange(math.ceil(2 * reach))
    offset = pixels - place[:, None]
    weights = np.sinc(offset / width) * np.sinc(offset / reach) * (np.abs(offset) < reach)
    weights /= weights.sum(axis=1, keepdims=True)
    each = np.arange(len(place))
    before = np.floor(place).astype(np.intp) - first
    imbalance = (weights * offset).sum(axis=1)
    weights[each, before] += imbalance
    weights[each, before + 1] -= imbalance
    weights = np.rint(weights * 2**bits)
    weights[each, weights.argmax(axis=1)] += 2**bits - weights.sum(axis=1)
    return weights, pixels


def _multiply(weights: Floats, source: Floats, out: Floats) -> None:
    """``out`` = ``weights`` @ ``source``, in pieces of at most ``PRODUCT`` multiplications."""
    piece = max(PRODUCT // weights.size, 1)
    for begin in range(0, source.shape[1], piece):
        np.matmul(weights, source[:, begin : begin + piece], out=out[:, begin : begin + piece])


def shoot(
    scene: Pixels,
    views: Sequence[Rect],
    out: Pixels,
    report: Report = unwatched,
    threads: int | None = None,
) -> None:
    """Render ``views[t]`` of the scene into ``out[t]``, for every t.

    ``scene`` is a still, (H, W, 3), or a frame for each view, (T, H, W, 3); ``out`` is (T, height, width, 3),
    often a memory map. A view that stays the same over a still is rendered once. ``report`` is called in the
    caller's thread at least every 100 ms; what it raises ends the work once the frames in hand are done, some
    tens of milliseconds later. ``threads`` is every core that this process may use unless given; the bytes do
    not depend on it. Raises ``ValueError`` where the lengths do not agree or a view leaves the image.
    """
    if not len(views) == len(out) == (len(scene) if scene.ndim == 4 else len(views)):
        raise ValueError(f"{len(views)} views of {scene.shape} do not fill {out.shape}")
    size = out.shape[2], out.shape[1]
    with ThreadPoolExecutor(threads or _usable_cores()) as pool:
        if scene.ndim == 4:
            runs = [range(t, t + 1) for t in range(len(views))]

            def render(t: int) -> Pixels:
                return Camera(scene[t], size).render(views[t])

        else:
            runs = _runs(views)
            camera = pool.submit(Camera, scene, size, views)

            def render(t: int) -> Pixels:
                return camera.result().render(views[t])

        def film(run: range) -> int:
            out[run.start : run.stop] = render(run.start)
            return len(run)

        try:
            waiting = {pool.submit(film, run) for run in runs}
            done = 0
            while waiting:
                finished, waiting = wait(waiting, timeout=0.05, return_when=FIRST_COMPLETED)
                done += sum(future.result() for future in finished)
                report(done / len(views))
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def _runs(views: Sequence[Rect]) -> list[range]:
    """The stretches of equal views, in order."""
    stretches = (list(stretch) for _, stretch in groupby(range(len(views)), key=views.__getitem__))
    return [range(stretch[0], stretch[-1] + 1) for stretch in stretches]


def _usable_cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
