"""Writes settings and presets as TOML, which the standard library only reads."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping


def dumps(tables: Mapping[str, object]) -> str:
    """The text of a TOML file; ``tables`` holds strings, numbers, booleans, lists, and mappings of the same.

    Raises ``TypeError`` for anything else, ``None`` among it, for which TOML has no word.
    """
    plain = [f"{_key(key)} = {_value(value)}" for key, value in tables.items() if not isinstance(value, Mapping)]
    found = ["\n".join(plain)] if plain else []
    for key, table in tables.items():
        if isinstance(table, Mapping):
            found.append("\n".join([f"[{_key(key)}]", *(f"{_key(k)} = {_value(v)}" for k, v in table.items())]))
    return "\n\n".join(found) + "\n"


def _key(key: object) -> str:
    return str(key) if re.fullmatch(r"[A-Za-z0-9_-]+", str(key)) else _value(str(key))


def _value(value: object) -> str:
    match value:
        case bool():
            return "true" if value else "false"
        case int() | float():
            return repr(value)
        case str():
            # JSON's escapes are TOML's; but TOML wants DEL escaped, too.
            return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
        case Mapping():
            return "{ " + ", ".join(f"{_key(key)} = {_value(of)}" for key, of in value.items()) + " }"
        case list() | tuple():
            return "[" + ", ".join(map(_value, value)) + "]"
    raise TypeError(f"TOML has no word for {value!r}")
