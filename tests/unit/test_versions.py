"""What made a clip's bits is told from what is installed, and from what the driver says of itself."""

from __future__ import annotations

import platform
from importlib.metadata import version
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from core import versions
from daemons import cli
from daemons.cli.app import app


@pytest.mark.parametrize(
    ("said", "driver"),
    [
        (
            "NVRM version: NVIDIA UNIX x86_64 Kernel Module  535.104.05  Sat Aug 19 01:15:15 UTC 2023\nGCC 12.3",
            "535.104.05",
        ),
        ("NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  560.35  Release Build  (x@y)\n", "560.35"),
        ("nothing of the kind", None),
        (None, None),
    ],
)
def test_libraries_and_driver(
    said: str | None, driver: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "version"
    if said is not None:
        file.write_text(said)
    monkeypatch.setattr(versions, "CARD_DRIVER", file)
    told = versions.versions()
    assert told.get("nvidia-driver") == driver
    assert (told["python"], told["torch"]) == (platform.python_version(), torch.__version__)
    assert {"dropreel", "numpy", "pillow", "diffusers", "transformers", "peft"} <= told.keys()


def test_the_command_line_says_its_version() -> None:
    cli.load("pause")  # an application has commands
    said = CliRunner().invoke(app, ["--version"])
    assert (said.exit_code, said.stdout) == (0, f"dropreel {version('dropreel')}\n")
