"""What the clips of a batch ended with: where the next one's search begins, and how far their scores lie apart.

One small file a batch, a line a clip. It is derived: losing it costs a try or two, never a clip.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from core import fsops

KEPT = 64
"""Batches remembered; the oldest are forgotten."""


class Ended(BaseModel):
    """What one clip ended with."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    clip: str
    like: str
    """What clips must share for the one's factor to tell of the other's: size, encoder, target, filters."""
    crf: float | None
    vmaf: float | None


class Spread(BaseModel):
    """How far the scores of a batch lie apart, up to now."""

    model_config = ConfigDict(frozen=True)

    clips: int
    lowest: float
    highest: float


class BatchQuality:
    """The memory of one batch."""

    def __init__(self, folder: Path, batch_id: str) -> None:
        self._path = folder / f"{batch_id}.jsonl"

    def last_crf(self, like: str) -> float | None:
        """The factor that the last such clip ended with."""
        return next((ended.crf for ended in reversed([*self._read()]) if ended.like == like and ended.crf), None)

    def spread(self) -> Spread | None:
        """The scores' spread; None where there are none. A clip that was made again counts once."""
        scores = {ended.clip: ended.vmaf for ended in self._read() if ended.vmaf is not None}
        if not scores:
            return None
        return Spread(clips=len(scores), lowest=min(scores.values()), highest=max(scores.values()))

    def add(self, ended: Ended) -> None:
        """Remember one more. Two workers may do so at once."""
        if not self._path.exists():
            fsops.make_folder(self._path.parent)
            self._forget()
        fsops.append(self._path, ended.model_dump_json())

    def _read(self) -> Iterator[Ended]:
        try:
            lines = self._path.read_bytes().splitlines()
        except FileNotFoundError:
            return
        for line in lines:
            try:
                yield Ended.model_validate_json(line)
            except ValidationError:  # a power cut may leave half a line
                continue

    def _forget(self) -> None:
        """Batches are named by the time at which they were made, so the first names are the oldest."""
        for path in sorted(self._path.parent.glob("*.jsonl"))[: -KEPT + 1]:
            fsops.remove(path)
