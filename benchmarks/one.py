"""One benchmark, in a process of its own: it finds a fresh one, and if it hangs or dies it takes nobody with it.

    python -m benchmarks.one NAME FILE

leaves in the file, as JSON, the ``rows``, or why it ``cannot`` run here.
"""

from __future__ import annotations

import importlib
import json
import os
import shutil
import sys
from pathlib import Path

from benchmarks.rows import CannotRun

PROGRAMS = {"courier": ("rsync", "rrsync", "sshd", "ssh-keygen")}
"""What a benchmark runs that is no part of Python."""
OURS = ("benchmarks", "config", "core", "daemons", "tests")
"""A module of these that is missing is a fault."""


def main(name: str, file: Path) -> None:
    """Run it; see above."""
    path = os.pathsep.join((os.environ.get("PATH", ""), "/usr/sbin", "/sbin"))
    missing = [program for program in PROGRAMS.get(name, ()) if shutil.which(program, path=path) is None]
    said: dict[str, object] = {"cannot": f"not installed: {', '.join(missing)}"}
    if not missing:
        try:
            said = {"rows": importlib.import_module(f"benchmarks.{name}").run()}
        except ModuleNotFoundError as error:
            if error.name is None or error.name.partition(".")[0] in OURS:
                raise
            said = {"cannot": f"not installed: {error.name}"}
        except CannotRun as error:
            said = {"cannot": str(error)}
    file.write_text(json.dumps(said), encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
