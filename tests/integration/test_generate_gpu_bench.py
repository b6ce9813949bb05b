"""The benchmark of generation, on tiny models: it goes through to its last figure where there is no card."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
SPREADS = ("clip_seconds", "clips_per_minute", "denoise_seconds", "vae_encode_seconds", "vae_decode_seconds")


@pytest.mark.timeout(120)
def test_every_figure_is_there(tmp_path: Path) -> None:
    """Of LTX: against plain diffusers, tokens, passes, attention, and compiling, which is switched off for its time."""
    out = tmp_path / "figures.json"
    command = [sys.executable, "-m", "benchmarks.generate_gpu", "--tiny", "--only", "ltx", "--repeats", "1",
               "--out", str(out), "--folder", str(tmp_path)]  # fmt: skip
    environment = os.environ | {"TORCH_COMPILE_DISABLE": "1", "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads(out.read_text())
    assert found["failed"] == []
    assert found["tiny"]
    assert "left out" in found["text_encoders"]
    for name, figures in found["measured"].items():
        assert figures["frames"] % 8 == 1, name
        for key in SPREADS:
            _is_spread(figures[key], name)
        assert 0 < figures["vae_share"]["median"] < 1, name
        assert figures["step_seconds"], name
        for seconds in figures["step_seconds"].values():
            _is_spread(seconds, name)
        if found["card"] == "cpu":
            assert figures["peak_gib"] == "not measured"
    shipped = next(figures for name, figures in found["measured"].items() if "two passes" in name)
    assert len(shipped["step_seconds"]) == 2  # of the small pass and of the large one
    assert sum("plain diffusers" in name for name in found["measured"]) == 1
    told = [row["figure"] for row in found["rows"]]
    for words in ("like for like: seconds a step", "as shipped: seconds a clip", "as shipped: clips a minute",
                  "as shipped: share of the autoencoder", "compiled", "15 frames a second", "two passes"):  # fmt: skip
        assert any(words in figure for figure in told), words
    for row in found["rows"]:
        assert row["ratio"] == pytest.approx(row["ours"] / row["theirs"])
        assert row["figure"] in done.stdout
    assert sum("attention" in note for note in found["notes"]) + sum("attention" in figure for figure in told) == 7
    assert not [path for path in tmp_path.iterdir() if path != out]  # no weights are left behind


def _is_spread(given: dict[str, Any], name: str) -> None:
    assert len(given["values"]) == 1, name
    assert 0 < given["min"] <= given["median"] <= given["max"] < math.inf, name
