"""The documentation, executed: what it names is there, and what the code can say is explained in it."""

from __future__ import annotations

import ast
import json
import re
import tomllib
from collections.abc import Iterator
from fractions import Fraction
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import typer.main

from core import contract
from core.contract import Record
from core.errors import Finding
from core.generate import presets
from core.generate.presets import Table
from core.settings import Settings
from daemons.cli import COMMANDS, load
from daemons.cli.app import app
from tests.unit.test_contract import MANIFEST, SIDECAR

load(*COMMANDS)

ROOT = Path(__file__).parents[2]
REFERENCE = ROOT / "docs" / "reference"
HOT_FOLDER = ROOT / "docs" / "how-to" / "hot-folder.md"
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
SOURCES = [path for folder in ("core", "daemons") for path in sorted((ROOT / folder).rglob("*.py"))]
LEVELS = {"info": "info", "warning": "warning", "error": "error", "exception": "error"}
RECORDS = [kind for kind in vars(contract).values() if isinstance(kind, type) and issubclass(kind, (Record, Finding))]
RECORDS.remove(Record)


# What the pages hold.


def _name(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


def _read(page: Path) -> str:
    return page.read_text(encoding="utf-8")


def _fences(page: Path) -> list[tuple[str, str]]:
    """The fenced blocks: what stands behind the opening fence, and the text."""
    return re.findall(r"^```([^\n]*)\n(.*?)^```$", _read(page), re.MULTILINE | re.DOTALL)


def _prose(page: Path) -> str:
    return re.sub(r"^```.*?^```$", "", _read(page), flags=re.MULTILINE | re.DOTALL)


def _code(page: Path) -> list[str]:
    """All that is set as code: spans whole, fenced blocks line by line."""
    blocks = [line for _, block in _fences(page) for line in block.splitlines()]
    return blocks + [" ".join(span.split()) for span in re.findall(r"`([^`]+)`", _prose(page))]


def _rows(page: Path, head: str) -> list[list[str]]:
    """The rows of all tables of a page whose first column has this heading."""
    rows: list[list[str]] = []
    heading: list[str] | None = None
    for line in _read(page).splitlines():
        if not line.startswith("|"):
            heading = None
            continue
        cells = [cell.strip().replace("\\|", "|") for cell in re.split(r"(?<!\\)\|", line)[1:-1]]
        if heading is None:
            heading = cells
        elif heading[0] == head and set(cells[0]) - set("-: "):
            assert len(cells) == len(heading), f"{_name(page)}: {line}"
            rows.append(cells)
    return rows


def _words(cell: str) -> list[str]:
    return re.findall(r"`([^`]+)`", cell)


def _first_words(page: Path, head: str) -> list[str]:
    return [word for row in _rows(page, head) for word in _words(row[0])]


# What the code can say.


class Call(NamedTuple):
    """A call in the code, and the function it stands in."""

    path: Path
    node: ast.Call
    around: ast.AST

    @property
    def name(self) -> str:
        return _last_name(self.node.func)

    @property
    def logs(self) -> bool:
        """Whether it is a ``self.log.info(…)``."""
        on = self.node.func.value if isinstance(self.node.func, ast.Attribute) else None
        return self.name in LEVELS and _last_name(on) == "log"


def _last_name(node: ast.AST | None) -> str:
    match node:
        case ast.Attribute(attr=name) | ast.Name(id=name):
            return name
    return ""


@cache
def _trees() -> dict[Path, ast.Module]:
    return {path: ast.parse(_read(path)) for path in SOURCES}


@cache
def _calls() -> list[Call]:
    def walk(path: Path, node: ast.AST, around: ast.AST) -> Iterator[Call]:
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.Call):
                yield Call(path, child, around)
            inside = child if isinstance(child, ast.FunctionDef) else around
            yield from walk(path, child, inside)

    return [call for path, tree in _trees().items() for call in walk(path, tree, tree)]


def _texts(value: ast.expr | None, around: ast.AST) -> set[str]:
    """The words that an expression may be, as patterns; none where it only hands on what others have said."""
    match value:
        case ast.Constant(value=str(word)):
            return {re.escape(word)}
        case ast.IfExp():
            return _texts(value.body, around) | _texts(value.orelse, around)
        case ast.JoinedStr():
            parts = (re.escape(str(part.value)) if isinstance(part, ast.Constant) else r"\w+" for part in value.values)
            return {"".join(parts)}
        case ast.Name(id=name):
            assigned = (node for node in ast.walk(around) if isinstance(node, ast.Assign))
            meant = (node.value for node in assigned if any(ast.unparse(target) == name for target in node.targets))
            return {word for expression in meant for word in _texts(expression, around)}
    return set()


def _fields(call: Call) -> set[str]:
    return {keyword.arg for keyword in call.node.keywords if keyword.arg}


def _fields_at_times(call: Call) -> set[str]:
    """Those of ``**({…} if … else {})``."""
    spread = (keyword.value for keyword in call.node.keywords if not keyword.arg)
    maps = (node for part in spread for node in ast.walk(part) if isinstance(node, ast.Dict))
    return {str(key.value) for node in maps for key in node.keys if isinstance(key, ast.Constant)}


class Event(NamedTuple):
    """What the code does with one event name."""

    levels: set[str]
    fields: set[str]
    at_times: set[str]
    """More fields."""


def _events() -> dict[str, Event]:
    done: set[str] = set()
    for tree in _trees().values():
        for node in ast.walk(tree):
            if isinstance(node, ast.AnnAssign) and ast.unparse(node.target) == "done" and node.value:
                done |= _texts(node.value, tree)
    found: dict[str, Event] = {}
    for call in filter(lambda call: call.logs, _calls()):
        said = call.node.args[0]
        patterns = done if ast.unparse(said) == "self.done" else _texts(said, call.around)
        assert patterns, f"{_name(call.path)}:{call.node.lineno}: an event whose name cannot be looked up"
        for pattern in patterns:
            event = found.setdefault(pattern.replace("\\", ""), Event(set(), set(), set()))
            event.levels.add(LEVELS[call.name])
            event.fields.update(_fields(call))
            event.at_times.update(_fields_at_times(call))
    return found


def _code_patterns() -> set[str]:
    """Every reason code that the code can give: what goes into a parameter or a field called ``code``."""
    place: dict[str, int] = {}
    for tree in _trees().values():
        for node in ast.walk(tree):
            if isinstance(node, ast.FunctionDef):
                names = [argument.arg for argument in node.args.args if argument.arg not in {"self", "cls"}]
                if "code" in names:
                    place[node.name] = names.index("code")
    found: set[str] = set()
    for call in _calls():
        if call.logs:
            continue
        given = [keyword.value for keyword in call.node.keywords if keyword.arg == "code"]
        if call.name in place:
            given += call.node.args[place[call.name] : place[call.name] + 1]
        for value in given:
            found |= _texts(value, call.around)
    return found


def _settings() -> dict[str, dict[str, Any]]:
    """The defaults, by table; what stands above all tables is in ``""``."""
    tables: dict[str, dict[str, Any]] = {"": {}}
    for name, value in Settings.model_construct().model_dump(mode="json").items():
        if isinstance(value, dict):
            tables[name] = value
        else:
            tables[""][name] = value
    return tables


# The tests.


@pytest.mark.parametrize("page", PAGES, ids=_name)
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", _prose(page)):
        if re.match(r"[a-z]+:", target):
            continue
        path, _, anchor = target.partition("#")
        there = (page.parent / path).resolve() if path else page
        assert there.exists(), f"{target} is not there"
        if anchor:
            headings = re.findall(r"^#+ (.+)$", _prose(there), re.MULTILINE)
            slugs = {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}
            assert anchor in slugs, f"{target}: there is no such heading"


@pytest.mark.parametrize("page", PAGES, ids=_name)
def test_paths_in_the_project_exist(page: Path) -> None:
    folders = "core|daemons|config|tests|docs|benchmarks"
    named = [code for code in _code(page) if re.fullmatch(rf"({folders})/[\w./-]*", code)]
    assert [path for path in named if not (ROOT / path).exists()] == []


@pytest.mark.parametrize("page", PAGES, ids=_name)
def test_commands_and_their_options_exist(page: Path) -> None:
    commands = _commands()
    for code in _code(page):
        for name, rest in re.findall(r"(?<![\w./-])(?:\.venv/bin/)?dropreel +([a-z]+(?:-[a-z]+)*)([^|;&#]*)", code):
            assert name in commands, f"dropreel {name}"
            known = {option for parameter in commands[name].params
                     for option in (*parameter.opts, *parameter.secondary_opts)} | {"--help"}  # fmt: skip
            assert set(re.findall(r"(?<!\S)--?[a-z][a-z-]*", rest)) <= known, code
        for target in re.findall(r"(?<!\S)make ([a-z]+)", code):
            assert re.search(rf"^{target}:", _read(ROOT / "Makefile"), re.MULTILINE), f"make {target}"


def _commands() -> dict[str, Any]:
    """Typer's commands by name, each with its ``params``."""
    group: Any = typer.main.get_command(app)
    return dict(group.commands)


def test_the_readme_lists_every_command() -> None:
    listed = [word.split()[1] for word in _first_words(ROOT / "README.md", "command")]
    assert sorted(listed) == sorted(_commands())


def test_every_event_is_explained_and_every_explained_event_is_said() -> None:
    said = _events()
    elsewhere = {"library.said"}  # made by the log itself, of what libraries say
    assert all(f'"{event}"' in _read(ROOT / "core" / "logs.py") for event in elsewhere)
    assert set(_first_words(REFERENCE / "events.md", "event")) == set(said) | elsewhere


def test_events_have_the_levels_and_fields_that_are_explained() -> None:
    said = _events()
    bound = {field for call in _calls() if call.name == "bind" for field in _fields(call)}
    for row in _rows(REFERENCE / "events.md", "event"):
        level, fields = row[1], set(_words(row[4]))
        for name in _words(row[0]):
            if name in said:
                assert set(level.split(", ")) == said[name].levels, name
                assert said[name].fields <= fields, name
                assert fields <= said[name].fields | said[name].at_times | bound, name


def test_every_tracked_operation_is_explained() -> None:
    tracked = {word for call in _calls() if call.name in {"track", "track_video_operation"}
               for word in _texts(call.node.args[0], call.around)}  # fmt: skip
    assert set(_first_words(REFERENCE / "events.md", "operation")) == tracked


def test_every_reason_code_is_explained_and_every_explained_code_is_given() -> None:
    explained = _first_words(HOT_FOLDER, "code")
    patterns = _code_patterns()
    assert len(patterns) > 50, "the code has been lost sight of"
    assert len(explained) == len(set(explained)), "a code is explained twice"
    assert [code for code in explained if not any(re.fullmatch(pattern, code) for pattern in patterns)] == []
    assert [pattern for pattern in patterns if not any(re.fullmatch(pattern, code) for code in explained)] == []


def test_the_examples_of_the_contract_parse() -> None:
    examples = [(kind.split(), text) for kind, text in _fences(REFERENCE / "contract.md") if kind.startswith("json")]
    assert {kind[1] for kind, _ in examples} >= {
        "MotionSidecar",
        "Manifest",
        "BatchAck",
        "ResultAck",
        "Rejection",
    }
    for (_, name), text in examples:
        read = contract.parse(getattr(contract, name), text.encode(), f"the example of {name}")
        given = json.loads(text)
        assert set(given) <= set(json.loads(read.to_json())), f"{name} keeps what the example holds"


def test_the_designs_own_examples_are_shown_to_the_letter() -> None:
    texts = [text for _, text in _fences(REFERENCE / "contract.md")]
    assert SIDECAR in texts
    assert MANIFEST in texts


@pytest.mark.parametrize("record", RECORDS, ids=lambda record: str(record.__name__))
def test_every_field_of_the_contract_is_explained(record: type[Record] | type[Finding]) -> None:
    rows = _rows(REFERENCE / "contract.md", f"`{record.__name__}`")
    must = {name: default == "" for (name,), default in ((_words(row[0]), row[1]) for row in rows)}
    assert must == {name: field.is_required() for name, field in record.model_fields.items()}


def test_the_settings_file_shows_every_key_with_its_default() -> None:
    text = _read(ROOT / "config" / "dropreel.toml")
    shown = tomllib.loads(re.sub(r"^# (?=[a-z_]+ = )", "", text, flags=re.MULTILINE))
    keys = {table: values for table, values in shown.items() if isinstance(values, dict)}
    keys[""] = {key: value for key, value in shown.items() if not isinstance(value, dict)}
    defaults = _settings()
    assert {table: sorted(values) for table, values in keys.items()} == {
        table: sorted(values) for table, values in defaults.items()
    }
    for table, values in defaults.items():
        for key, default in values.items():
            if default is not None:  # TOML has no word for nothing: an example stands there
                assert keys[table][key] == default, f"[{table}] {key}"
    Settings.model_validate(shown)


def test_the_settings_page_has_every_key_with_its_default() -> None:
    page = REFERENCE / "settings.md"
    for table, values in _settings().items():
        rows = _rows(page, f"`[{table}]`" if table else "above all tables")
        assert sorted(word for row in rows for word in _words(row[0])) == sorted(values), f"[{table}]"
        for row in rows:
            (key,), default = _words(row[0]), values[_words(row[0])[0]]
            if default is not None:
                assert tomllib.loads(f"it = {_words(row[1])[0]}")["it"] == default, f"[{table}] {key}"


@pytest.mark.parametrize("page", PAGES, ids=_name)
def test_environment_variables_are_read(page: Path) -> None:
    tables = _settings()
    known = {f"DROPREEL_{key}".upper() for key in tables[""]} | {"DROPREEL_HOME"}
    known |= {f"DROPREEL_{table}__{key}".upper() for table, values in tables.items() if table for key in values}
    named = {name for code in _code(page) for name in re.findall(r"DROPREEL_[A-Z_]+[A-Z]", code)}
    assert named <= known


PRESET_TABLES: dict[str, type[Table]] = {
    "a preset": presets.Preset,
    "a source": presets.Source,
    "`canvas`": presets.Canvas,
    "`schedule`": presets.Schedule,
    "`memory`, of a component": presets.Memory,
    "`cache`": presets.StepCache,
    "a LoRA": presets.Lora,
    "`upsampler`": presets.Upsampler,
    "`first_frame`": presets.FirstFrame,
    "`drift`": presets.Drift,
    "`prompt`": presets.Prompt,
    "`licence`": presets.Licence,
}


def test_every_preset_is_explained_with_its_licence() -> None:
    rows = {_words(row[0])[0]: row for row in _rows(REFERENCE / "presets.md", "preset")}
    assert list(rows) == list(Settings().presets)
    for name, preset in Settings().presets.items():
        terms = rows[name][2]
        said = [word for word in ("EU", "UK", "South Korea") if word in terms]
        assert said == (["EU", "UK", "South Korea"] if preset.licence and preset.licence.excludes else []), name
        assert ("dollars" in terms) == ("dollars" in (preset.licence.note if preset.licence else "")), name


def test_every_table_of_presets_is_explained() -> None:
    made = {kind for kind in vars(presets).values() if isinstance(kind, type) and issubclass(kind, Table)}
    assert made - {Table} == set(PRESET_TABLES.values())


@pytest.mark.parametrize(("head", "kind"), PRESET_TABLES.items(), ids=lambda it: it if isinstance(it, str) else "")
def test_every_key_of_a_preset_is_explained_with_its_default(head: str, kind: type[Table]) -> None:
    rows = {_words(row[0])[0]: row for row in _rows(REFERENCE / "presets.md", head)}
    assert set(rows) == set(kind.model_fields) - {"name"} | ({"name"} if kind is presets.Licence else set())
    for key, row in rows.items():
        default = kind.model_fields[key].default
        shown = tomllib.loads(f"it = {_words(row[1])[0]}")["it"] if row[1] else None
        if isinstance(default, (Table, Fraction)):
            assert shown in {None, *([int(default)] if isinstance(default, Fraction) else [])}, key
        elif kind.model_fields[key].is_required() or default is None:
            assert shown is None, key
        else:
            assert shown == (list(default) if isinstance(default, tuple) else default), key


def test_the_map_names_every_module() -> None:
    page = ROOT / "docs" / "explanation" / "architecture.md"
    for folder in ("core", "daemons"):
        modules = [path.name for path in (ROOT / folder).glob("*.py") if path.name != "__init__.py"]
        packages = [f"{path.parent.name}/" for path in (ROOT / folder).glob("*/__init__.py")]
        assert sorted(_first_words(page, f"`{folder}/`")) == sorted(modules + packages)


def test_the_dependency_rule_holds() -> None:
    stages = {"generate", "interpolate", "qa", "encode"}
    for path, tree in _trees().items():
        imported = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
        imported |= {f"{node.module}" for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
        imported |= {f"{node.module}.{alias.name}" for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)
                     for alias in node.names}  # fmt: skip
        if path.is_relative_to(ROOT / "core"):
            assert [name for name in imported if name.split(".")[0] == "daemons"] == [], _name(path)
            own = path.parent.name
            others = tuple(f"core.{stage}" for stage in stages - {own}) if own in stages else ()
            assert [name for name in imported if others and name.startswith(others)] == [], _name(path)
        if "subprocess" in imported:
            assert _name(path) in {"core/process.py", "daemons/supervisor.py"}
