"""Settings that cannot be used: the place, in the operator's terms, and what to do."""

from __future__ import annotations

from pathlib import Path

import pytest

from core.errors import BadSettings
from core.settings import default_file, load_settings


def refusal(root: Path, text: str = 'role = "both"\n') -> str:
    """What is said of a home with these settings."""
    (root / "dropreel.toml").write_text(text)
    with pytest.raises(BadSettings) as refused:
        load_settings(root)
    said = str(refused.value)
    assert "\n" not in said
    return said


@pytest.mark.parametrize(
    ("name", "value", "hint"),
    [
        ("DROPREEL_NOTIFY__URLS", "json://host", """'["json://…"]'"""),
        ("DROPREEL_OUTPUT__FPS", "999", "less than or equal to 120"),
        ("DROPREEL_ROLE", "server", "'mac', 'gpu' or 'both'"),
        ("DROPREEL_TRANSPORT__KIND", "rsync", "needs the server's host"),
        ("DROPREEL_TRANSPORT__HOSTS", "a", "Did you mean `host`?"),
        ("DROPREEL_NOTIFY_URLS", "[]", "Did you mean DROPREEL_NOTIFY__URLS?"),
        ("DROPREEL_COLOUR", "red", "Unset it."),
    ],
)
def test_a_variable_is_blamed_by_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, value: str, hint: str
) -> None:
    monkeypatch.setenv(name, value)
    said = refusal(tmp_path)
    assert said.startswith(name)
    assert hint in said
    assert "dropreel.toml" not in said


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('[transport]\nhosst = "a"', ("transport.hosst", "Did you mean `host`?")),
        ('[metrics]\ncolour = "a"', ("metrics.colour", "Keys: folder, gpu_dollars_per_hour.")),
        ("[hot_foldr]\na = 1", ("hot_foldr", "Did you mean `hot_folder`?")),
        ('[transport]\nkind = "rsync"', ("transport: ", "needs the server's host", "Add what is missing")),
        ("[output]\nfps = 0", ("output.fps", "correct or remove this key")),
        ("[output]\nfps =", ("is not TOML", "Mend the syntax")),
    ],
)
def test_the_file_is_blamed_for_what_stands_in_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, words: tuple[str, ...]
) -> None:
    monkeypatch.setenv("DROPREEL_QA__STANDARD", "wcag")  # which is nothing to complain of
    said = refusal(tmp_path, text)
    assert said.startswith(str(tmp_path / "dropreel.toml"))
    for word in words:
        assert word in said


def test_a_section_that_is_there_already_is_shown(tmp_path: Path) -> None:
    text = default_file("dropreel.toml")
    line = text.splitlines().index("[transport]") + 1
    said = refusal(tmp_path, f'{text}\n[transport]\nhost = "a"\n')
    assert f"[transport] is there already, in line {line}: add the keys to that one." in said


def test_the_environment_wins_over_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "dropreel.toml").write_text('role = "mac"\n[output]\nfps = 24\nportrait = [64, 96]\n')
    monkeypatch.setenv("dropreel_output__fps", "25")
    monkeypatch.setenv("DROPREEL_NOTIFY__URLS", '["json://host"]')
    settings, home = load_settings(tmp_path)
    assert (settings.role, settings.output.fps, settings.output.portrait) == ("mac", 25, (64, 96))
    assert settings.notify.urls == ["json://host"]
    assert home.root == tmp_path.resolve()


def test_a_missing_home_is_named_in_full(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(BadSettings, match=f'in "{tmp_path}"'):
        load_settings(Path())
