"""Who gets to see whom through whom; that no stage imports another itself, ``test_docs.py`` holds."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

PROJECT = Path(__file__).parents[2]
STAGES = ("generate", "interpolate", "qa", "encode")
FACES = {
    "core.encode.command", "core.encode.encoders", "core.encode.mp4", "core.encode.target",
    "core.generate.plan", "core.generate.presets", "core.generate.prompts", "core.generate.studio",
    "core.generate.family",
    "core.interpolate.methods", "core.interpolate.plan",
    "core.qa.thresholds",
}  # fmt: skip
"""What the rest of ``core``, and through it another stage, sees of a stage: its settings, what may be asked of it, and
how ffmpeg is called. None of them works on a picture."""


def module(path: Path) -> str:
    return ".".join(path.relative_to(PROJECT).with_suffix("").parts).removesuffix(".__init__")


MODULES = {module(path): path for name in ("core", "daemons") for path in (PROJECT / name).rglob("*.py")}


def imported(name: str) -> Iterator[str]:
    """The modules of ours that this one imports as it is itself imported, and not later in a function."""
    for node in ast.parse(MODULES[name].read_text(encoding="utf-8")).body:
        if isinstance(node, ast.Import):
            found = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            assert not node.level, f"{name}: imports are absolute here"
            found = [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
        else:
            continue
        yield from (one for one in found if one in MODULES)


def stage_of(name: str) -> str | None:
    parts = name.split(".")
    return parts[1] if len(parts) > 2 and parts[0] == "core" and parts[1] in STAGES else None


@pytest.mark.parametrize("stage", STAGES)
def test_through_the_settings_a_stage_meets_but_the_faces_of_others(stage: str) -> None:
    """They are not wholly apart: ``core.settings`` is built of every stage's own, and most read it."""
    reached, to_do = set[str](), [f"core.{stage}.stage"]
    while to_do:
        name = to_do.pop()
        if name not in reached:
            reached.add(name)
            to_do += imported(name)
    others = {name for name in reached if stage_of(name) not in {None, stage}}
    assert "core.contract" in reached
    assert others <= FACES


IMPORTS = """
import importlib, json, sys
def left(*names):
    return [name for name in names if name in sys.modules]
for name in ("courier", "supervisor", "cli.run", "cli.status", "cli.up", "cli.pause", "cli.tail", "cli.weights"):
    importlib.import_module("daemons." + name)
pictures = left("numpy", "cv2", "PIL")
from daemons.cli import COMMANDS, load
load(*COMMANDS)
importlib.import_module("daemons.keyframes")
print(json.dumps([pictures, left("torch", "diffusers", "transformers", "accelerate", "safetensors")]))
"""


def test_the_mac_needs_no_torch_and_who_only_looks_needs_no_picture() -> None:
    """A real process: what the Mac runs, every command included. Watching costs an operator no OpenCV either."""
    done = subprocess.run([sys.executable, "-c", IMPORTS], check=True, capture_output=True, text=True, cwd=PROJECT)
    pictures, models = json.loads(done.stdout)
    assert pictures == []
    assert models == []
