"""The command line: one file a command."""

from __future__ import annotations

import importlib
import sys

from core.errors import DropreelError
from daemons.cli.app import app

COMMANDS = (
    "demo",
    "init",
    "ssh_setup",
    "up",
    "run",
    "status",
    "tail",
    "check",
    "local",
    "shootout",
    "interpolate",
    "doctor",
    "weights",
    "pause",
    "retry",
    "cancel",
    "notify",
    "prune",
    "services",
    "schema",
)
"""In the order in which ``--help`` lists them; a module registers what it holds."""

for _name in COMMANDS:
    importlib.import_module(f"daemons.cli.{_name}")


def main() -> None:
    """Run ``dropreel``; what cannot go on says why in one line, and exits with its own status."""
    try:
        app()
    except DropreelError as error:
        sys.stderr.write(f"dropreel: {error}\n")
        sys.exit(error.exit_code)
