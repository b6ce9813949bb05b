"""What is to fail inside the daemons of one machine: written for ``tests.chaos.inside.sitecustomize`` to read."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

INSIDE = Path(__file__).parent / "inside"
REPOSITORY = Path(__file__).parents[2]
WELL: dict[str, Any] = {"full": False, "shut": [], "broken": 0.0, "clock": 0.0}
"""Nothing fails; the names are those of ``Faults`` there."""


@dataclass
class Faults:
    """The faults of the daemons whose home lies in ``root``; a change is felt at their next step."""

    root: Path
    now: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.end(*WELL)

    @property
    def file(self) -> Path:
        """Beside the home's folders."""
        return self.root / "chaos.faults"

    @property
    def environment(self) -> dict[str, str]:
        """What a daemon needs to suffer from them."""
        path = os.pathsep.join([str(INSIDE), str(REPOSITORY)])
        return {"PYTHONPATH": path, "CHAOS_FAULTS": str(self.file), "OMP_NUM_THREADS": "1"}

    def tell(self, **faults: Any) -> None:
        """Have these fail from now on; a reader sees the old or the new, whole."""
        self.now |= faults
        part = self.file.with_name("chaos.faults.new")
        part.write_text(json.dumps(self.now))
        part.replace(self.file)

    def end(self, *names: str) -> None:
        """Have these fail no more."""
        self.tell(**{name: WELL[name] for name in names})
