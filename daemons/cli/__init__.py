"""The command line: one file a command."""

from __future__ import annotations

import importlib
import sys

from core.errors import DropreelError
from daemons.cli.app import app

COMMANDS = {
    "demo": "demo",
    "init": "init",
    "ssh-setup": "ssh_setup",
    "up": "up",
    "run": "run",
    "status": "status",
    "tail": "tail",
    "check": "check",
    "report": "report",
    "local": "local",
    "shootout": "shootout",
    "interpolate": "interpolate",
    "qa": "qa",
    "doctor": "doctor",
    "weights": "weights",
    "pause": "pause",
    "resume": "pause",
    "retry": "retry",
    "cancel": "cancel",
    "notify": "notify",
    "prune": "prune",
    "services": "services",
    "schema": "schema",
}
"""In the order in which ``--help`` lists them, with the module that holds each."""


def load(*commands: str) -> None:
    """Import the modules of these commands, which registers them. A daemon starts twice as fast without the others."""
    for command in commands:
        importlib.import_module(f"daemons.cli.{COMMANDS[command]}")


def main() -> None:
    """Run ``dropreel``; what cannot go on says why in one line, and exits with its own status."""
    asked = sys.argv[1] if len(sys.argv) > 1 else ""
    load(*([asked] if asked in COMMANDS else COMMANDS))
    try:
        app()
    except DropreelError as error:
        sys.stderr.write(f"dropreel: {error}\n")
        sys.exit(error.exit_code)
