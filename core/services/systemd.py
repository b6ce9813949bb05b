"""Dropreel under systemd: its unit files for this installation, and what systemctl is told and asked."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path

from core import process
from core.errors import BadSettings, ProcessFailed
from core.gpu import CARD_STAGES, card_of
from core.home import STAGES
from core.process import ProgramMissing
from core.services.plan import COMMAND_SECONDS, Command, Installation, Manager, Scope, State, template
from core.work import unwatched

TARGET = "dropreel.target"
PRUNE = ("dropreel-prune.service", "dropreel-prune.timer")
MAC = ("dropreel-keyframes.service", "dropreel-courier.service")
INTAKE = "dropreel-intake.service"
PRIVATE = (Path("/tmp"), Path("/var/tmp"))  # noqa: S108 - where nothing is made
"""``PrivateTmp=`` gives the services others in their place."""

SHARED = "dropreel-.service.d"
"""systemd reads what lies in here into every unit whose name begins with ``dropreel-``."""
SHARED_IN_ALL = ("service.conf", "calls.conf")
SHARED_IN_SYSTEM = ("sandbox.conf",)
BACKOFF_SINCE = 254
"""The version that knows the keys of ``backoff.conf``; older ones complain of them."""

_OURS = re.compile(r"\d\d-dropreel-\w+\.conf")
_PLACE = re.compile(r"@([A-Z]+)@")


class Systemd(Manager):
    """The system's systemd, or a user's own.

    A user's own has not the rights that most of a sandbox needs, and refuses to start what asks for it; so
    ``sandbox.conf`` and ``cards.conf`` are for the system's.
    """

    def __init__(
        self, what: Installation, scope: Scope, folder: Path | None = None, version: int | None = None
    ) -> None:
        if set("\"'\\") & set(str(what.python)):
            raise BadSettings(f"systemd starts no program that has a quote or a backslash in its path: {what.python}. "
                              "Install Dropreel in another folder.")  # fmt: skip
        self._what = what
        self._scope = scope
        self.folder = folder or folder_of(scope)
        self._version = version

    @cached_property
    def version(self) -> int:
        """Of the systemd that is installed; 0 where there is none."""
        if self._version is not None:
            return self._version
        try:
            said = process.run(["systemctl", "--version"], unwatched, limit=COMMAND_SECONDS).stdout
        except (ProgramMissing, ProcessFailed):
            return 0
        found = re.match(r"systemd (\d+)", said)
        return int(found[1]) if found else 0

    def install(self) -> list[Command]:
        """As every manager's; raises ``BadSettings`` for a home that its services would not see."""
        hidden = [str(path) for path in self._what.writable if any(map(path.resolve().is_relative_to, PRIVATE))]
        if hidden and self._scope == "system":
            raise BadSettings(f"The services have a /tmp of their own, so they would not see {hidden[0]}, and the "
                              "system tidies there. Make the home elsewhere, such as /srv/dropreel.")  # fmt: skip
        return super().install()

    @property
    def answers(self) -> bool:
        """Whether this machine was booted by systemd, and the user has one running."""
        if self._scope == "system":
            return Path("/run/systemd/system").is_dir()
        runtime = os.environ.get("XDG_RUNTIME_DIR", f"/run/user/{os.getuid()}")
        return Path(runtime, "systemd/private").exists()

    @property
    def units(self) -> list[str]:
        """What the target starts."""
        mac = list(MAC) if self._what.role != "gpu" else []
        gpu = [INTAKE] if self._what.role != "mac" else []
        rooms = [f"dropreel-{stage}@{worker}.service" for stage, worker in self._what.workers]
        return [*mac, *gpu, *rooms, PRUNE[1]]

    def files(self) -> dict[Path, bytes]:
        """The units of this role, and beside them what is read into all, into those with cards, and into one."""
        made = {name: name for name in (TARGET, *PRUNE, *(re.sub("@.*[.]", "@.", unit) for unit in self.units))}
        # What stands in a file of a higher number wins.
        shared = [*SHARED_IN_ALL, *(SHARED_IN_SYSTEM if self._scope == "system" else ())]
        made |= {f"{SHARED}/10-dropreel-{name}": name for name in shared}
        made |= {f"{SHARED}/20-dropreel-backoff.conf": "backoff.conf"} if self.version >= BACKOFF_SINCE else {}
        if self._scope == "system":
            stages = {stage for stage, _ in self._what.workers if stage in CARD_STAGES}
            made |= {f"dropreel-{stage}@.service.d/20-dropreel-cards.conf": "cards.conf" for stage in stages}
        texts = {name: self._filled(source) for name, source in made.items()}
        if self._what.cards:
            for stage, worker in self._what.workers:
                if stage in CARD_STAGES and (card := card_of(worker)):
                    name = f"dropreel-{stage}@{worker}.service.d/20-dropreel-gpu.conf"
                    texts[name] = self._filled("gpu.conf", GPU=card)
        return {self.folder / name: text.encode() for name, text in sorted(texts.items())}

    def installed(self) -> list[Path]:
        """Our units and drop-ins; a person's own drop-ins have other names."""
        shipped = (TARGET, *PRUNE, *MAC, INTAKE, *(f"dropreel-{stage}@.service" for stage in STAGES))
        units = [path for name in shipped if (path := self.folder / name).is_file()]
        return units + [path for path in self.folder.glob("dropreel-*.d/*.conf") if _OURS.fullmatch(path.name)]

    @property
    def stop(self) -> list[Command]:
        """Stops all, workers that are no longer in the settings too."""
        return [self._command("stop", TARGET, "dropreel-*", may_fail=True)]

    @property
    def start(self) -> list[Command]:
        """Does not wait until the daemons are ready: models take minutes to load."""
        return [self._command("daemon-reload"), self._command("enable", "--now", "--no-block", TARGET)]

    @property
    def leave(self) -> list[Command]:
        """Stops all, and takes the target out of what is started at boot."""
        return [*self.stop, self._command("disable", TARGET, may_fail=True)]

    @property
    def forget(self) -> list[Command]:
        """Failures are kept until they are reset, those of units that are gone too."""
        return [self._command("daemon-reload"), self._command("reset-failed", "dropreel-*", may_fail=True)]

    def states(self) -> list[State]:
        """Each unit's state, and its ``STATUS=``."""
        asked = ["show", "--property=Id,ActiveState,SubState,Result,StatusText", TARGET, *self.units]
        said = process.run(self._command(*asked).argv, unwatched, limit=COMMAND_SECONDS).stdout
        units = (dict(line.partition("=")[::2] for line in block.splitlines()) for block in said.strip().split("\n\n"))
        return [_state(unit) for unit in units]

    def _command(self, *words: str, may_fail: bool = False) -> Command:
        scope = ("--user",) if self._scope == "user" else ()
        return Command(("systemctl", *scope, *words), may_fail)

    def _filled(self, name: str, **more: str) -> str:
        what = self._what
        places = {
            "PYTHON": escaped(str(what.python)),
            "HOME": escaped(str(what.home.root)),
            "USER": escaped(what.user),
            # A share that is not mounted does not keep a daemon from starting: that is the leading dash.
            "WRITABLE": " ".join(f'"-{escaped(str(path))}"' for path in what.writable),
            "WATCHDOG": f"{math.ceil(what.settings.daemons.watchdog_seconds)}s",
            "STOP": f"{math.ceil(what.stop_seconds)}s",
            "UNITS": " ".join(self.units),
            "BOOT": "multi-user.target" if self._scope == "system" else "default.target",
            **more,
        }
        return _PLACE.sub(lambda place: places[place[1]], template("systemd", name))


def folder_of(scope: Scope) -> Path:
    """Where an administrator's units lie, or a user's own."""
    if scope == "system":
        return Path("/etc/systemd/system")
    return Path(os.environ.get("XDG_CONFIG_HOME", Path.home() / ".config"), "systemd/user")


def escaped(text: str) -> str:
    r"""As it stands between double quotes in a unit file: ``%`` begins a specifier there, ``\`` an escape."""
    return text.replace("\\", "\\\\").replace('"', '\\"').replace("%", "%%")


def _state(unit: Mapping[str, str]) -> State:
    state = f"{unit['ActiveState']} ({unit['SubState']})"
    trouble = unit.get("Result", "success")
    return State(unit["Id"], state if trouble == "success" else f"{state}: {trouble}", unit.get("StatusText", ""))
