"""Runs ffmpeg: a full disk that it dies of is no fault of the clip, whatever ffmpeg was about."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterable, Sequence

from core import process
from core.errors import DiskFull, ProcessFailed
from core.work import Report


def run_ffmpeg(
    command: Sequence[str],
    report: Report,
    *,
    limit: float,
    stdin: Iterable[memoryview | bytes] | None = None,
    on_line: Callable[[str], float | None] | None = None,
) -> process.Output:
    """As ``process.run``. Raises ``DiskFull`` where that is what ffmpeg complains of as it fails."""
    try:
        return process.run(command, report, limit=limit, stdin=stdin, on_line=on_line)
    except ProcessFailed as error:
        if any(os.strerror(number) in error.stderr for number in (errno.ENOSPC, errno.EDQUOT)):
            raise DiskFull from error
        raise
