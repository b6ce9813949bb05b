"""Prompt embeddings on disk: text that was encoded once is never encoded again, and needs no encoder."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from pathlib import Path
from typing import TYPE_CHECKING

from core import fsops
from core.versions import installed

if TYPE_CHECKING:
    from core.generate.family import Embeddings

LIBRARIES = ("diffusers", "transformers")
"""Those that turn a prompt into its embeddings."""
KEPT = 512
"""Embeddings that are kept, the last used first; one of 512 tokens has some 4 MB."""


class EmbeddingCache:
    """A folder with one safetensors file for all that one prompt is to one encoder."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        fsops.make_folder(folder)

    def get(self, key: str) -> Embeddings | None:
        """What was kept under this key; None where nothing was, or nothing that can be read."""
        from safetensors import SafetensorError
        from safetensors.torch import load

        path = self._path(key)
        try:
            found: Embeddings = load(path.read_bytes())
        except (FileNotFoundError, SafetensorError):
            return None
        with contextlib.suppress(FileNotFoundError):  # another worker's, which lets the least used go
            os.utime(path)
        return found

    def put(self, key: str, embeddings: Embeddings) -> None:
        """Keep embeddings; the least used go. Losing them costs time, so nothing waits for the disk."""
        from safetensors.torch import save

        fsops.write(
            self._path(key), save({name: t.cpu().contiguous() for name, t in embeddings.items()}), durable=False
        )
        used: dict[Path, int] = {}
        for path in self._folder.glob("*.safetensors"):
            with contextlib.suppress(FileNotFoundError):
                used[path] = path.stat().st_mtime_ns
        for path in sorted(used, key=used.__getitem__, reverse=True)[KEPT:]:
            fsops.remove(path)

    def _path(self, key: str) -> Path:
        return self._folder / f"{key}.safetensors"


def embedding_key(encoder: str, dtype: str, place: str, prompt_key: tuple[str, ...]) -> str:
    """The name under which embeddings are kept: of all that they depend on.

    ``encoder`` tells one encoder's files from another's, ``place`` the card, or processor, that encodes. The libraries'
    versions stand for what is in neither: the templates that prompts are put into, and the encoders' arithmetic.
    """
    libraries = [installed(name) for name in LIBRARIES]
    return hashlib.sha256(json.dumps([encoder, dtype, place, libraries, prompt_key]).encode()).hexdigest()
