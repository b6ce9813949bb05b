"""What it takes to run Dropreel at boot: this installation, the files of a service manager, and what it is told."""

from __future__ import annotations

import importlib.resources
import os
import pwd
import sys
from abc import ABC, abstractmethod
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple

from tenacity import Retrying, retry_if_exception_type, stop_after_delay, wait_fixed

from core import fsops, process
from core.errors import BadSettings, DropreelError, ProcessFailed
from core.gpu import CARD_DRIVER
from core.home import STAGES, Home
from core.metrics import folder_of
from core.settings import Role, Settings
from core.work import unwatched

Scope = Literal["user", "system"]
COMMAND_SECONDS = 120.0
STOP_GRACE_SECONDS = 5.0
"""A daemon that was told to stop has so much longer than ``stop_seconds`` before its manager kills it."""


@dataclass(frozen=True)
class Installation:
    """Whose daemons are to run, by which Python, and on what."""

    settings: Settings
    home: Home
    role: Role
    python: Path = Path(sys.executable)
    cards: bool = CARD_DRIVER.exists()
    """Whether this machine has cards to compute on."""

    def __post_init__(self) -> None:
        has = self.settings.role
        if has not in {self.role, "both"}:
            raise BadSettings(f"The role of {self.home.root} is {has}; there is nothing of {self.role} in it to run.")
        strange = [str(path) for path in (self.python, *self.writable) if not str(path).isprintable()]
        if strange:
            raise BadSettings(
                f"No service file can hold this path: {strange[0]!a}. Give it a name that can be printed."
            )

    @property
    def writable(self) -> list[Path]:
        """The folders that the daemons write to; those inside another are left out."""
        home = self.home
        metrics = os.path.normpath(folder_of(self.settings.metrics, home, home.gpu.state))  # systemd takes no ..
        others = [home.mac.hot, Path(metrics)]
        return [home.root, *(path for path in others if not path.is_relative_to(home.root))]

    @property
    def user(self) -> str:
        """Whose the home is; the daemons run as that user."""
        number = self.home.root.stat().st_uid
        try:
            return pwd.getpwuid(number).pw_name
        except KeyError:
            return str(number)

    @property
    def stop_seconds(self) -> float:
        """How long a manager waits for a daemon that it has told to stop."""
        return self.settings.daemons.stop_seconds + STOP_GRACE_SECONDS

    @property
    def workers(self) -> list[tuple[str, str]]:
        """Each worker of the server's rooms, as its stage and its name."""
        if self.role == "mac":
            return []
        return [(stage, worker) for stage in STAGES for worker in self.settings.rooms.workers.of(stage)]


class Command(NamedTuple):
    """What a manager is told, as an argument list."""

    argv: tuple[str, ...]
    may_fail: bool = False
    """It fails where there is nothing to do, as stopping what does not run."""
    patience: float = 0.0
    """Seconds for which it is tried again: it fails while what was stopped before is still on its way out."""


class State(NamedTuple):
    """How one service is, in its manager's words, and what it says of itself."""

    name: str
    state: str
    says: str


class Manager(ABC):
    """A service manager, and what of an installation it is to run."""

    folder: Path
    """Where it looks for files."""

    @property
    @abstractmethod
    def answers(self) -> bool:
        """Whether it runs here and takes commands."""

    @property
    @abstractmethod
    def stop(self) -> list[Command]:
        """Stops what is installed, and waits until it has stopped."""

    @property
    @abstractmethod
    def start(self) -> list[Command]:
        """Takes in what has been written, starts it, and starts it at boot from now on."""

    @property
    @abstractmethod
    def leave(self) -> list[Command]:
        """Stops what is installed, and starts it at boot no more."""

    @property
    @abstractmethod
    def forget(self) -> list[Command]:
        """Lets go of files that were deleted."""

    @abstractmethod
    def files(self) -> dict[Path, bytes]:
        """All files, whole, by their path."""

    @abstractmethod
    def installed(self) -> list[Path]:
        """Those of our files that lie there, of this installation or of another."""

    @abstractmethod
    def states(self) -> list[State]:
        """How the services are; only where the manager ``answers``."""

    def install(self) -> list[Command]:
        """Write the files and start the services; returns the commands that are left to a person.

        Services that were installed before are stopped first, and what is not among these any more goes. Raises
        ``DropreelError`` where the files may not be written, ``ProcessFailed`` where the manager refuses.
        """
        files = self.files()
        before = self.installed()
        self._check_rights()
        if self.answers and before:
            carry_out(self.stop)
        self._remove(path for path in before if path not in files)
        for path, data in files.items():
            fsops.make_folder(path.parent)
            fsops.write(path, data)
        if not self.answers:
            return self.start
        carry_out(self.start)
        return []

    def uninstall(self) -> list[Command]:
        """Stop the services and delete their files; returns the commands that are left to a person."""
        before = self.installed()
        self._check_rights()
        if self.answers and before:
            carry_out(self.leave)
        self._remove(before)
        if not self.answers:
            return [*self.leave, *self.forget]
        carry_out(self.forget)
        return []

    def _remove(self, paths: Iterable[Path]) -> None:
        for path in paths:
            fsops.remove(path)
            if path.parent != self.folder:  # a person's own file in there stays, and its folder with it
                fsops.remove_folder(path.parent)

    def _check_rights(self) -> None:
        """Before anything is stopped."""
        there = next(path for path in (self.folder, *self.folder.parents) if path.is_dir())
        if not os.access(there, os.W_OK):
            raise DropreelError(f"{there} may not be written to. Run this with sudo, or choose --scope user.")


def carry_out(commands: Iterable[Command]) -> None:
    """Run these commands, one after the other. Raises ``ProcessFailed`` for one that fails and may not."""
    for command in commands:
        again = Retrying(retry=retry_if_exception_type(ProcessFailed), stop=stop_after_delay(command.patience),
                         wait=wait_fixed(1.0), reraise=True)  # fmt: skip
        try:
            again(process.run, command.argv, unwatched, limit=COMMAND_SECONDS)
        except ProcessFailed:
            if not command.may_fail:
                raise


def template(folder: Literal["systemd", "launchd"], name: str) -> str:
    """A file of ``systemd/`` or ``launchd/`` as it is shipped."""
    return importlib.resources.files(folder).joinpath(name).read_text(encoding="utf-8")
