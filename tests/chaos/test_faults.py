"""What the conductor has fail inside a daemon does fail there, and only while it should."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

from tests.chaos.faults import REPOSITORY, Faults

PROGRAM = """
import datetime as dt, errno, json, sys
from pathlib import Path
from tests.chaos.faults import Faults
from core import disk, fsops
from core.contract import now
from core.errors import DiskFull

def tried(do, *arguments):
    try:
        do(*arguments)
    except DiskFull:
        return "disk full"
    except OSError as error:
        return errno.errorcode[error.errno]
    return "well"

root = Path(sys.argv[1])
faults = Faults(root)

def all_of_it():
    off = (now() - dt.datetime.now(dt.UTC)).total_seconds()
    return [tried(lambda: list((root / "shut").iterdir())),
            tried((root / "shut" / "file").read_bytes), tried((root / "there").write_bytes, b"1"),
            tried((root / "new").write_bytes, b"1"), tried((root / "new").unlink, True),
            tried(fsops.write, root / "there", b"2"), round(off, -1)]

told = {"nothing": all_of_it()}
for name, value in {"shut": [str(root / "shut")], "full": True, "broken": 1.0, "clock": -4000.0}.items():
    faults.tell(**{name: value})
    told[name] = all_of_it()
    faults.end(name)
told["again"] = all_of_it()
told["rests"] = disk.FULL_SECONDS
print(json.dumps(told))
"""


def test_each_fault_is_felt_while_it_lasts_and_by_nothing_else(tmp_path: Path) -> None:
    (tmp_path / "shut").mkdir()
    (tmp_path / "shut" / "file").touch()
    (tmp_path / "there").touch()
    ended = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(tmp_path)],
        env=os.environ | Faults(tmp_path).environment,
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr
    told = json.loads(ended.stdout)
    well = "well"
    assert told == {
        "nothing": [well] * 6 + [0],
        "shut": ["EACCES", "EACCES", *[well] * 4, 0],
        "full": [well, well, well, "ENOSPC", well, "disk full", 0],
        "broken": [*[well] * 5, "EIO", 0],
        "clock": [*[well] * 6, -4000],
        "again": [well] * 6 + [0],
        "rests": 2.0,
    }
