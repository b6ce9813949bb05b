"""FileTracker: the append-only audit of every file operation, in the studio's own log format."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from core import fsops
from core.contract import Clip, now

TRACKER_FILE = "file_operations.log"
ROTATE_BYTES = 20 << 20
"""An audit that has grown so large is renamed, and a new one begun."""


class FileTracker:
    """Appends one JSON object a line to ``logs/file_operations.log``; what it says is never read back by us."""

    def __init__(self, logs: Path, script: str) -> None:
        self._file = logs / TRACKER_FILE
        self._script = script
        self._session = f"{script}-{now():%Y%m%d_%H%M%S}"

    def track(
        self,
        operation: str,
        source: Path,
        target: Path | None,
        files: Sequence[str],
        *,
        batch_id: str | None = None,
        notes: str = "",
    ) -> None:
        """Record that files were moved, copied or deleted; ``source`` and ``target`` are folders."""
        self._append("file_operation", operation, source, target, files, batch_id=batch_id, notes=notes)

    def track_video_operation(
        self,
        operation: Literal["generate", "interpolate", "validate", "transcode"],
        clip: Clip,
        keyframe_path: Path,
        *,
        frame_count: int | None,
        video_output: Path | None = None,
        validation_results: Mapping[str, Any] | None = None,
        notes: str = "",
    ) -> None:
        """Record that a stage made or judged a clip."""
        target = video_output.parent if video_output else None
        files = [keyframe_path.name] + ([video_output.name] if video_output else [])
        motion = clip.entry.motion
        self._append(
            "video_operation",
            operation,
            keyframe_path.parent,
            target,
            files,
            batch_id=clip.batch_id,
            notes=notes,
            keyframe_path=str(keyframe_path),
            video_output=str(video_output) if video_output else None,
            motion_params=motion.model_dump(mode="json"),
            validation_results=dict(validation_results or {}),
            duration_sec=motion.duration_sec,
            frame_count=frame_count,
        )

    def _append(
        self,
        kind: str,
        operation: str,
        source: Path,
        target: Path | None,
        files: Sequence[str],
        *,
        batch_id: str | None,
        notes: str,
        **more: Any,  # whatever the operation has to say of itself, as JSON
    ) -> None:
        entry = {
            "type": kind,
            "script": self._script,
            "session_id": self._session,
            "batch_id": batch_id,
            "timestamp": now().isoformat(),
            "operation": operation,
            "source_dir": str(source),
            "dest_dir": str(target) if target else None,
            "file_count": len(files),
            "files": list(files),
            "notes": notes,
            **more,
        }
        self._rotate()
        fsops.append(self._file, json.dumps(entry, ensure_ascii=False))

    def _rotate(self) -> None:
        """Name a full audit by the moment. One who is about to append to it does so under that name: no line is lost.

        The lock is for those who find it full at the same time: the second would rename what the first has begun.
        """
        if not self._is_full() or (lock := fsops.lock(self._file.parent)) is None:
            return
        try:
            if self._is_full():
                fsops.move(self._file, fsops.free_name(self._file.with_name(f"{TRACKER_FILE}.{now():%Y%m%d_%H%M%S}")))
        finally:
            os.close(lock)

    def _is_full(self) -> bool:
        try:
            return self._file.stat().st_size >= ROTATE_BYTES
        except FileNotFoundError:  # there is none yet, or it was renamed this moment
            return False
