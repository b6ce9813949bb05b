"""The nearest motion that passes, for a drop and for an entry of a manifest. Writes nothing."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from core import image
from core.contract import Keyframe, MotionSidecar, Record, load
from core.drops import Drop
from core.examine import examine, judge_entry, refuse_errors, unmoved
from core.safety import Scene, nearest
from core.settings import Settings


def mend_drop(drop: Drop, hot: Path, settings: Settings) -> tuple[MotionSidecar, MotionSidecar]:
    """The sidecar of a drop, or what it is taken as without one; and one with which it would be taken.

    The second is the first where nothing but its motion could be better. Raises ``Refused`` with what is wrong and no
    motion would mend, and ``OSError``.
    """
    pixels = image.open_image(drop.folder / drop.group.images[0], settings.image)
    old = load(MotionSidecar, drop.folder / drop.group.sidecar) if drop.group.sidecar else unmoved(settings)
    output = settings.output.size_for((pixels.shape[1], pixels.shape[0]))
    scene = Scene(pixels, output, settings.output.fps, settings.motion)
    new = old.moved(nearest(old.motion, scene) or old.motion)
    examine(drop, hot, settings, new)
    return old, new


def mend_entry(
    entry: Keyframe, pixels: NDArray[np.uint8], caption: tuple[str, bytes] | None, settings: Settings
) -> Keyframe:
    """An entry that would be taken; the same one where nothing but its motion could be better.

    What its parameters repeat of the motion follows. ``pixels`` and ``caption`` are as ``judge_entry`` has them.
    Raises ``Refused`` with what is wrong and no motion would mend.
    """
    params, old = entry.generation_params, entry.motion
    output = settings.output.asked_by(params, (pixels.shape[1], pixels.shape[0]))
    new = nearest(old, Scene(pixels, output, params.fps, settings.motion)) or old
    repeated = {"camera_motion": (old.type, new.type), "start_rect": (old.start_rect, new.start_rect),
                "end_rect": (old.end_rect, new.end_rect)}  # fmt: skip
    follows = {name: now for name, (before, now) in repeated.items() if getattr(params, name) == before}
    changes = {"motion": new, "generation_params": params.model_copy(update=follows)}
    mended = entry.model_copy(update=changes)
    refuse_errors(judge_entry(mended, pixels, caption, settings).findings)
    return mended


def changed(old: Record, new: Record) -> Iterator[tuple[str, Any, Any]]:
    """The fields in which two records of a kind differ, as ``motion.duration_sec``, each with its old and new value."""
    after = dict(_leaves(new.model_dump(mode="json")))
    for name, value in _leaves(old.model_dump(mode="json")):
        if value != after[name]:
            yield name, value, after[name]


def _leaves(tree: dict[str, Any], place: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in tree.items():
        if isinstance(value, dict):
            yield from _leaves(value, f"{place}{name}.")
        else:
            yield f"{place}{name}", value
