"""Brings the weights of a preset from their hub: the only module that asks a network for them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from core import fsops
from core.errors import DropreelError
from core.generate.layout import INDEX_FILE, Need, patterns

_UNSAFE = ["*.bin", "*.pt", "*.pth", "*.pkl", "*.ckpt", "*.py", "*.msgpack", "*.h5", "*.onnx", "*.gguf"]
"""What is never fetched, whatever a preset's patterns say: it runs code when it is opened, or nothing here reads it."""


def fetch(need: Need, weights: Path) -> None:
    """Bring what is missing of a need from its hub: into the folder that was begun by hand, else into the hub's cache.

    Shows its progress on stderr. Raises ``DropreelError`` with what the hub, or the way to it, said.
    """
    source = need.source
    if source.hub is None:
        folder = weights / (source.folder or "")
        raise DropreelError(f"{need.name} is a folder of yours, {folder}: nobody can fetch it. Put its files there.")
    try:
        import huggingface_hub as hub
    except ImportError as error:
        raise DropreelError(f"Fetching needs huggingface_hub, which cannot be imported ({error}). Install the extra: "
                            "pip install 'dropreel[gpu]'.") from error  # fmt: skip
    by_hand = weights / source.hub
    into = by_hand if by_hand.is_dir() else None
    if into is not None:
        fsops.guard(into / INDEX_FILE)
    given: dict[str, Any] = {"revision": source.revision, "local_dir": into}
    try:
        folder = by_hand
        if need.is_pipeline and not source.files:
            folder = Path(hub.snapshot_download(source.hub, allow_patterns=[INDEX_FILE], **given))
        hub.snapshot_download(source.hub, allow_patterns=patterns(need, folder), ignore_patterns=_UNSAFE, **given)
    except Exception as error:  # the client lets through whatever the network raises
        said = str(error).strip().partition("\n")[0]
        raise DropreelError(f"{source.hub} could not be fetched: {type(error).__name__}: {said}") from error
