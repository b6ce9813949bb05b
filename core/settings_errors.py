"""What is wrong with a home's settings: where the value came from, in our own words, and what to do."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails
from pydantic_settings import EnvSettingsSource

from core.errors import BadSettings

PREFIX = "DROPREEL_"
"""How every variable of ours begins."""
HOME_VARIABLE = f"{PREFIX}HOME"
"""Names the home; all others are settings."""


class Variables(EnvSettingsSource):
    """The environment; a variable that does not hold the JSON that it should is named."""

    def decode_complex_value(self, field_name: str, field: FieldInfo, value: Any) -> Any:
        """Raises ``BadSettings``."""
        try:
            return super().decode_complex_value(field_name, field, value)
        except ValueError:
            name = next(name for name in _set() if os.environ[name] == value)
            raise BadSettings(f"{name} is not JSON, as a list in a variable must be: '[\"json://…\"]', '[576, 1024]'. "
                              "Correct or unset it.") from None  # fmt: skip


def check_names(settings: type[BaseModel]) -> None:
    """Raise ``BadSettings`` for a variable of no section, which no section would ever miss."""
    for name in _set():
        key = name.upper().removeprefix(PREFIX)
        if key.partition("__")[0].lower() not in settings.model_fields and name.upper() != HOME_VARIABLE:
            near = get_close_matches(key, ("__".join(known).upper() for known in _keys(settings)), n=1)
            raise BadSettings(f"{name} is no setting. " + (f"Did you mean {PREFIX}{near[0]}?" if near else "Unset it."))


def not_toml(error: ValueError, file: Path) -> str:
    """What to say of a file that cannot be parsed."""
    remedy = "Mend the syntax."
    if twice := re.search(r"twice \(at line (\d+)", str(error)):
        lines = [line.strip() for line in file.read_text(encoding="utf-8").splitlines()]
        header = lines[int(twice[1]) - 1].partition("]")[0] + "]"
        first = next(number for number, line in enumerate(lines, 1) if line.startswith(header))
        remedy = f"{header} is there already, in line {first}: add the keys to that one."
    return f"{file} is not TOML: {error}. {remedy}"


def explain(error: ErrorDetails, settings: type[BaseModel], file: Path) -> str:
    """What to say of a value that cannot be used; the variables that it came from are named, or else the file."""
    key = tuple(map(str, error["loc"]))
    variable = PREFIX + "".join(f"{part}__" for part in key).upper()
    begins = {name: f"{name.upper()}__" for name in _set()}
    blamed = [name for name, begin in begins.items() if begin.startswith(variable) or variable.startswith(begin)]
    match error["type"]:
        case "extra_forbidden":
            known = [other[-1] for other in _keys(settings) if other[:-1] == key[:-1]]
            near = get_close_matches(key[-1], known, n=1)
            says, remedy = (
                "there is no such key",
                f"Did you mean `{near[0]}`?" if near else f"Keys: {', '.join(known)}.",
            )
        case "value_error":  # one of our own rules, mostly about several keys of a section
            says, remedy = str(error["ctx"]["error"]), "Add what is missing, or correct it."
        case _ if blamed:
            says, remedy = error["msg"], "Correct or unset it."
        case _:
            says = error["msg"]
            remedy = "The commented defaults are in `dropreel init`'s file; correct or remove this key."
    return f"{' and '.join(blamed) or file}: {'.'.join(key)}: {says}. {remedy}"


def _set() -> list[str]:
    """The variables of ours that are set; small letters do, too."""
    return [name for name in os.environ if name.upper().startswith(PREFIX)]


def _keys(section: type[BaseModel]) -> Iterator[tuple[str, ...]]:
    """Every key that a section and those within it know, as a path."""
    for name, field in section.model_fields.items():
        yield (name,)
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            yield from ((name, *key) for key in _keys(field.annotation))
