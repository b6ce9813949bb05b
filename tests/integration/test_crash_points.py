"""No drop is lost and none is made twice, wherever the journey of a clip is cut off."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.timeout(400)
def test_dying_at_any_step_changes_nothing(tmp_path: Path) -> None:
    walked = subprocess.run(
        [sys.executable, "-m", "tests.integration.crash_points", str(tmp_path)],
        capture_output=True,
        text=True,
        env=os.environ | {"OPENBLAS_NUM_THREADS": "1"},  # threads in the parent and forks do not go together
        check=False,
    )
    assert walked.returncode == 0, walked.stderr
    told = json.loads(walked.stdout)
    failures = [f"step {f['step']} ({f['at']}), {f['mode']}:\n{f['why']}" for f in told["failures"]]
    assert not failures, "\n".join([f"{len(failures)} of {2 * told['steps']} deaths:", *failures[:3]])
    assert set(told["kinds"]) >= {"write", "fsync", "fsync_folder", "rename", "mkdir", "unlink"}
    assert told["steps"] > 200, "the seam has lost sight of steps"
    assert told["remains"] > 150, "deaths that leave different files are taken for one"
