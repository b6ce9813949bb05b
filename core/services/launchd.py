"""Dropreel under launchd: its agents for this installation, and what launchctl is told and asked."""

from __future__ import annotations

import math
import os
import plistlib
import re
from pathlib import Path
from typing import Any

from core import process
from core.errors import DropreelError, ProcessFailed
from core.services.plan import COMMAND_SECONDS, Command, Installation, Manager, Scope, State, template
from core.work import unwatched

LABELS = ("dropreel.up", "dropreel.prune")
"""What runs all daemons, and what deletes what is old; a file is called as its label."""

_STATE = re.compile(r"^\tstate = (.+)$", re.MULTILINE)
_LAST_EXIT = re.compile(r"^\tlast exit code = (.+)$", re.MULTILINE)
_PLACE = re.compile(r"@([A-Z]+)@")


class Launchd(Manager):
    """The launchd of a user who is logged in at the screen.

    One agent runs ``dropreel up``, and that runs the daemons: it has the watchdog, the growing pause before a restart
    and the end for settings that cannot be used, which launchd all lacks.
    """

    def __init__(self, what: Installation, scope: Scope, folder: Path | None = None) -> None:
        if scope == "system":
            raise DropreelError("On a Mac there is --scope user only: a system service may not open the folders of the "
                                "person who drops into them.")  # fmt: skip
        self._what = what
        self._domain = f"gui/{os.getuid()}"
        self.folder = folder or Path.home() / "Library/LaunchAgents"

    @property
    def answers(self) -> bool:
        """Whether the user is logged in at the screen; over ssh alone there is no such domain."""
        try:
            process.run(["launchctl", "print", self._domain], unwatched, limit=COMMAND_SECONDS)
        except (process.ProgramMissing, ProcessFailed):
            return False
        return True

    def files(self) -> dict[Path, bytes]:
        """The agents, as property lists."""
        return {self.folder / f"{label}.plist": plistlib.dumps(self._agent(label)) for label in LABELS}

    def installed(self) -> list[Path]:
        """Those agents that lie there."""
        return [path for label in LABELS if (path := self.folder / f"{label}.plist").exists()]

    @property
    def stop(self) -> list[Command]:
        """Takes the agents out, which stops them."""
        return [Command(("launchctl", "bootout", f"{self._domain}/{label}"), may_fail=True) for label in LABELS]

    @property
    def start(self) -> list[Command]:
        """Puts the agents in, which a person may have disabled."""
        return [command for label in LABELS for command in (
            Command(("launchctl", "enable", f"{self._domain}/{label}")),
            Command(("launchctl", "bootstrap", self._domain, str(self.folder / f"{label}.plist")), patience=30.0),
        )]  # fmt: skip

    @property
    def leave(self) -> list[Command]:
        """An agent without a file is not started at the next login."""
        return self.stop

    @property
    def forget(self) -> list[Command]:
        """Nothing: what was taken out is forgotten."""
        return []

    def states(self) -> list[State]:
        """Each agent's state; how the daemons are is known to ``dropreel status``, launchd has no word for it."""
        return [self._state(label) for label in LABELS]

    def _state(self, label: str) -> State:
        try:
            said = process.run(["launchctl", "print", f"{self._domain}/{label}"], unwatched, limit=COMMAND_SECONDS)
        except ProcessFailed:
            return State(label, "not loaded", "")
        state, status = _STATE.search(said.stdout), _LAST_EXIT.search(said.stdout)
        return State(label, state[1] if state else "?", f"last exit code {status[1]}" if status else "")

    def _agent(self, label: str) -> dict[str, Any]:
        what = self._what
        logs = what.home.gpu.logs if what.role == "gpu" else what.home.mac.logs
        places = {"PYTHON": str(what.python), "HOME": str(what.home.root), "ROLE": what.role, "LOGS": str(logs)}
        agent: dict[str, Any] = plistlib.loads(template("launchd", f"{label}.plist").encode())
        if "ExitTimeOut" in agent:
            agent["ExitTimeOut"] = math.ceil(what.stop_seconds)
        filled: dict[str, Any] = _filled(agent, places)
        return filled


def _filled(value: Any, places: dict[str, str]) -> Any:
    match value:
        case str():
            return _PLACE.sub(lambda place: places[place[1]], value)
        case list():
            return [_filled(each, places) for each in value]
        case dict():
            return {key: _filled(each, places) for key, each in value.items()}
    return value
