"""What torch's errors mean: no memory, a card that is lost, or a failure like any other."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch

from core.errors import DropreelError, MustRestart

NO_MEMORY = ("can't allocate memory", "out of memory", "CUBLAS_STATUS_ALLOC_FAILED")
CARD_LOST = ("CUDA error", "CUDA driver error", "cuDNN error")
"""What torch says where it raises a plain RuntimeError; the first are looked for first."""


class OutOfMemory(DropreelError):
    """The card's memory does not hold this work."""


class CardLost(MustRestart):
    """The card failed, and this process can use it no more: it has to be started again."""


@contextlib.contextmanager
def meaning() -> Iterator[None]:
    """Raise a RuntimeError of torch's as what it is: ``OutOfMemory``, ``CardLost``, or itself."""
    try:
        yield
    except RuntimeError as error:
        said = str(error)
        if isinstance(error, torch.OutOfMemoryError) or any(words in said for words in NO_MEMORY):
            raise OutOfMemory(f"{OutOfMemory.__doc__} {said}") from error
        if any(words in said for words in CARD_LOST):
            raise CardLost(f"{CardLost.__doc__} {said}") from error
        raise
