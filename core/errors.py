"""The exceptions of Dropreel: a class's docstring is its message, its arguments are the facts."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict

Severity = Literal["error", "warning", "note"]


def _as_text(value: str) -> str:
    return value.encode(errors="backslashreplace").decode()


Text = Annotated[str, AfterValidator(_as_text)]
"""What is said of a name must be text, which the name need not be."""


class Finding(BaseModel):
    """One thing that is wrong, or worth knowing, about an input: what, where, and what to do about it."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    code: str
    """A fixed word, for grep and for programs: ``image_truncated``, ``motion_too_fast``."""
    message: Text
    """One sentence for a person, with the numbers in it."""
    severity: Severity = "error"
    file: Text | None = None
    """The file's name as the operator knows it."""
    field: str | None = None
    """The place inside the file: ``end_frame``, ``keyframes[3].motion.easing``."""
    value: float | Text | None = None
    limit: float | str | None = None
    frame: int | None = None
    """The first frame that breaks the rule, counted from 0."""
    remedy: str | None = None
    """What the operator can do, as an instruction."""

    def __str__(self) -> str:
        where = ": ".join(part for part in (self.file, self.field) if part)
        return (f"{where}: " if where else "") + self.message + (f" {self.remedy}" if self.remedy else "")


class DropreelError(Exception):
    """Dropreel cannot go on."""

    exit_code = 1

    def __init__(self, message: str | None = None) -> None:
        super().__init__(message or self.__doc__)


class Refused(DropreelError):
    """This input cannot be used as it stands."""

    def __init__(self, finding: Finding) -> None:
        super().__init__(str(finding))
        self.finding = finding

    @classmethod
    def because(cls, code: str, message: str, **facts: str | float | None) -> Refused:
        """The refusal that one finding makes; ``facts`` are its other fields."""
        return Refused(Finding.model_validate({"code": code, "message": message, **facts}))


class UnreadableClip(Refused):
    """A clip's folder is not what it should be."""

    def __init__(self, path: Path, finding: Finding) -> None:
        super().__init__(finding)
        self.path = path


class Stopped(DropreelError):
    """Asked to stop; the work in hand was given up."""


class Cancelled(DropreelError):
    """The operator cancelled this clip."""


class DiskFull(DropreelError):
    """The disk is full; make room, the work goes on by itself."""


class ProcessFailed(DropreelError):
    """A program that Dropreel started failed."""

    def __init__(self, program: str, returncode: int, stderr: str) -> None:
        super().__init__(
            f"{program} failed with exit status {returncode}: {stderr.strip()[-2000:] or 'it said nothing'}"
        )
        self.program = program
        self.returncode = returncode
        self.stderr = stderr


class OutsideZone(DropreelError):
    """A file operation outside the folders that Dropreel may write to was refused."""

    def __init__(self, path: Path) -> None:
        super().__init__(f"{self.__doc__} Path: {path}")


class MustRestart(DropreelError):
    """This process can do no more work; it has to be started again."""

    exit_code = 70


class AlreadyRunning(DropreelError):
    """Another worker of this name is running; give this one another --worker name, or stop the other."""

    exit_code = 75


class BadSettings(DropreelError):
    """The settings cannot be used."""

    exit_code = 78
