"""The benchmark page: what it shows was measured, and what the README quotes stands there."""

from __future__ import annotations

import ast
import json
import math
import re
from pathlib import Path

import pytest

import benchmarks.__main__ as bench
from benchmarks import one, page
from benchmarks.__main__ import BENCHMARKS, LIMITS, last_words, measure
from benchmarks.page import BEGIN, END, HEADLINES, PAGE, README, ROOT, Measured
from benchmarks.rows import Row

SOME = {
    "handoff": Measured([Row("hand-off, ms", 6.2, 8.0, 0.775, 1.0), Row("other", 1, 2, 0.5)], "", False, 12.0,
                        "2026-11-22", "abc1234", "a processor"),
    "courier": Measured([], "not installed: rsync", False, 0.1, "2026-11-22", "abc1234", "a processor"),
}  # fmt: skip


def test_every_benchmark_is_run_and_shown() -> None:
    def runs(path: Path) -> bool:
        body = ast.parse(path.read_text(encoding="utf-8")).body
        return any(isinstance(node, ast.FunctionDef) and node.name == "run" for node in body)

    assert {path.stem for path in (ROOT / "benchmarks").glob("*.py") if runs(path)} <= set(BENCHMARKS)
    assert {name for name, _ in HEADLINES} <= set(BENCHMARKS)
    assert len(set(BENCHMARKS)) == len(BENCHMARKS)
    assert set(LIMITS) <= set(BENCHMARKS)
    assert all(len(page.about(name)) > 80 for name in BENCHMARKS)


def test_a_ratio_to_nothing_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("FIGURES", "PAGE", "README"):
        monkeypatch.setattr(page, name, tmp_path / name)
    page.README.write_text(f"{BEGIN}\n{END}\n", encoding="utf-8")
    found = Measured([Row("found, %", 90.0, 0.0, math.inf)], "", False, 12.0, "2026-11-22", "abc1234", "a processor")
    page.write({"faults": found})
    assert page.read() == {"faults": found}


def test_page_and_readme_are_what_was_measured() -> None:
    figures = page.read()
    assert set(figures) <= set(BENCHMARKS)
    assert all(one.seconds > 0 for one in figures.values()), "what took no time was written by hand"
    assert all(bool(one.rows) != bool(one.missing) for one in figures.values())
    assert PAGE.read_text(encoding="utf-8") == page.render(figures)
    readme = README.read_text(encoding="utf-8")
    assert BEGIN in readme.partition(END)[0]
    assert readme == page.quoting(readme, figures)


def test_every_figure_of_the_readme_leads_to_its_section() -> None:
    between = README.read_text(encoding="utf-8").partition(BEGIN)[2].partition(END)[0]
    rows = [line for line in between.splitlines()[2:] if line]
    headings = re.findall(r"^## (.+)$", PAGE.read_text(encoding="utf-8"), re.MULTILINE)
    assert rows
    for row in rows:
        (anchor,) = re.findall(r"\]\(docs/benchmarks\.md#(\w+)\)", row)
        assert anchor in headings
    for name, begins in HEADLINES:
        found = page.read().get(name)
        if found is not None and not found.missing:
            assert any(row.figure.startswith(begins) for row in found.rows), f"{name} has no figure '{begins}…'"


def test_a_section_says_what_was_measured_or_why_not() -> None:
    text = page.render(SOME)
    assert "| hand-off, ms | 6.2 | 8 | 0.775 | 1 |" in text
    assert "Cannot run here: not installed: rsync" in text
    assert "2026-11-22, commit abc1234; a processor; took 12 s." in text
    assert text.index("## handoff") < text.index("## courier")
    assert page.quoted(SOME).splitlines()[2:] == [
        "| [hand-off, ms](docs/benchmarks.md#handoff) | 6.2 | 8 | 0.775 | 1 |"
    ]


def test_a_benchmark_that_fails_or_hangs_says_so() -> None:
    failed = measure("rows", 60.0, "abc1234", "a processor")
    assert failed.failed
    assert "has no attribute 'run'" in failed.missing
    slow = measure("handoff", 0.0, "abc1234", "a processor")
    assert slow.failed
    assert slow.missing == "it took longer than 0 s"


def test_one_that_is_not_begun_keeps_its_figures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
                                                 capsys: pytest.CaptureFixture[str]) -> None:  # fmt: skip
    monkeypatch.setattr(page, "FIGURES", tmp_path / "figures.json")
    monkeypatch.setattr(page, "PAGE", tmp_path / "benchmarks.md")
    monkeypatch.setattr(page, "README", tmp_path / "README.md")
    page.README.write_text(BEGIN + END)
    page.write(SOME)
    before = page.PAGE.read_text()
    monkeypatch.setattr(bench, "LIMIT_OF_ALL", 0.0)
    monkeypatch.setattr("sys.argv", ["benchmarks", "handoff"])
    assert bench.main() == 1
    assert "handoff: not begun" in capsys.readouterr().out
    assert page.PAGE.read_text() == before


def test_one_that_lacks_a_program_or_a_library_is_no_failure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    one.main("courier", tmp_path / "out.json")
    assert json.loads((tmp_path / "out.json").read_bytes())["cannot"].startswith("not installed: rsync")


def test_errors_name_no_places() -> None:
    said = 'Traceback\n  File "/home/x/y.py", line 3\nFileNotFoundError: [Errno 2] No such file: /home/x/z.png\n\n'
    assert last_words(said) == "FileNotFoundError: [Errno 2] No such file: …"
