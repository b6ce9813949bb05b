"""``dropreel check --fix``: new files with the nearest motion that passes; what was given is never touched."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from core import fsops
from core.contract import Manifest, MotionSidecar, load
from core.errors import BadSettings
from daemons.cli import load as load_commands
from daemons.cli.app import app
from tests.house import SIDECAR, TINY, picture
from tests.unit.test_contract import SIDECAR as EXAMPLE

load_commands("check")
FAST = {**SIDECAR, "end_frame": [0.3, 0.3, 0.7, 0.7], "duration_sec": 1.0}
"""In four times the time it would pass."""
SIZE = (288, 192)
MIND = """
[mind]
family = "ltx"
weights = { folder = "not/there" }
vae_dtype = "bf16"
canvas = { pixels = 8192, resolution_min = 0.05 }
frames_max = 33
"""
"""A preset whose clips last no longer than 1.4 s."""


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The home whose rules hold, of small clips."""
    root = tmp_path / "home"
    root.mkdir()
    (root / "dropreel.toml").write_text(TINY)
    monkeypatch.setenv("DROPREEL_HOME", str(root))
    yield root
    fsops.confine()


@pytest.fixture
def drops(tmp_path: Path) -> Path:
    """A folder with one drop that moves too fast."""
    folder = tmp_path / "drops"
    folder.mkdir()
    put(folder, "a", FAST)
    return folder


def put(folder: Path, stem: str, sidecar: dict[str, Any] | None, size: tuple[int, int] = SIZE) -> None:
    (folder / f"{stem}.png").write_bytes(picture(1, size))
    if sidecar is not None:
        (folder / f"{stem}.motion.json").write_text(json.dumps(sidecar))


def check(*words: str | Path) -> tuple[int, dict[str, list[dict[str, Any]]]]:
    """Exit status, and what was said of each."""
    done = CliRunner().invoke(app, ["check", *map(str, words), "--json"])
    fsops.confine()
    if done.exception is not None and not isinstance(done.exception, SystemExit):
        raise done.exception
    return done.exit_code, json.loads(done.stdout)


def codes(found: list[dict[str, Any]], *but: str) -> list[str]:
    return [finding["code"] for finding in found if finding["code"] not in but]


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_the_new_sidecar_passes_and_nothing_else_has_changed(drops: Path, tmp_path: Path) -> None:
    before = contents(drops)
    assert check(drops)[0] == 1
    status, said = check(drops, "--fix", tmp_path / "fixed")
    (found,) = said.values()
    assert status == 0
    assert codes(found) == ["motion_too_fast", "fixed"]
    assert (found[1]["field"], found[1]["message"][:5]) == ("duration_sec", "1.0 →")
    assert contents(drops) == before
    (new,) = (tmp_path / "fixed").iterdir()
    assert (new.name, found[1]["file"]) == ("a.motion.json", str(new))
    mended = load(MotionSidecar, new)
    old = MotionSidecar.model_validate(FAST)
    assert mended == old.model_copy(update={"duration_sec": mended.duration_sec})
    assert 3.0 < mended.duration_sec < 6.0
    (drops / "a.motion.json").write_bytes(new.read_bytes())
    assert check(drops) == (0, {str(drops / "a.png"): []})


def test_the_designs_example_needs_no_mending(tmp_path: Path) -> None:
    folder = tmp_path / "drops"
    folder.mkdir()
    put(folder, "img_001", json.loads(EXAMPLE), (192, 288))
    status, said = check(folder, "--fix", tmp_path / "fixed")
    assert (status, list(said.values())) == (0, [[]])
    assert not (tmp_path / "fixed").exists()


def test_what_only_deserves_a_warning_is_mended_where_it_can_be(tmp_path: Path) -> None:
    folder = tmp_path / "drops"
    folder.mkdir()
    put(folder, "close", {**SIDECAR, "start_frame": [0.35, 0.35, 0.65, 0.65], "end_frame": [0.44, 0.44, 0.56, 0.56],
                          "duration_sec": 8.0})  # fmt: skip
    put(folder, "small", SIDECAR, (40, 40))  # no move over it would be less enlarged
    status, said = check(folder, "--fix", tmp_path / "fixed")
    first, second = said.values()
    assert status == 0
    assert codes(first, "view_fitted")[0] == "view_upscaled"
    assert "fixed" in codes(first)
    assert codes(second, "view_fitted") == ["view_upscaled"]
    assert [path.name for path in (tmp_path / "fixed").iterdir()] == ["close.motion.json"]


def test_what_no_motion_mends_says_so_and_exits_with_1(drops: Path, tmp_path: Path) -> None:
    put(drops, "line", {**FAST, "end_frame": [0.3, 0.3, 0.3, 0.7]})
    (drops / "torn.png").write_bytes(picture()[:500])
    (drops / "odd.png").write_bytes(picture(1, SIZE))
    (drops / "odd.motion.json").write_text("{")
    status, said = check(drops, "--fix", tmp_path / "fixed")
    found = {Path(name).stem: codes(findings) for name, findings in said.items()}
    assert status == 1
    assert found == {
        "a": ["motion_too_fast", "fixed"],
        "line": ["rect_without_area", "not_fixed"],
        "odd": ["json_invalid", "not_fixed"],
        "torn": ["image_truncated", "not_fixed"],
    }
    assert [path.name for path in (tmp_path / "fixed").iterdir()] == ["a.motion.json"], "what can be mended is"


def test_a_move_that_the_model_cannot_make_so_long_is_not_offered(drops: Path, tmp_path: Path, home: Path) -> None:
    (home / "presets.toml").write_text(MIND)
    (home / "dropreel.toml").write_text(TINY + '[generation]\nmodel = "mind"\n')
    status, said = check(drops, "--fix", tmp_path / "fixed")
    (found,) = said.values()
    assert status == 1
    assert codes(found) == ["motion_too_fast", "not_fixed"]
    assert "33 at most" in found[1]["message"]
    assert not (tmp_path / "fixed").exists()


def test_an_image_that_is_taken_as_static_gets_a_sidecar_of_its_own(tmp_path: Path, home: Path) -> None:
    folder = tmp_path / "drops"
    folder.mkdir()
    (home / "dropreel.toml").write_text(TINY.replace("[motion]", '[motion]\nshape_rule = "refuse"'))
    put(folder, "square", None, (144, 144))
    status, said = check(folder, "--fix", tmp_path / "fixed")
    (found,) = said.values()
    assert (status, codes(found)) == (0, ["view_shape", "fixed", "fixed"])
    assert load(MotionSidecar, tmp_path / "fixed" / "square.motion.json").motion.type == "static"


def test_nothing_is_overwritten(drops: Path, tmp_path: Path) -> None:
    fixed = tmp_path / "fixed"
    fixed.mkdir()
    (fixed / "a.motion.json").write_bytes(b"the operator's")
    status, said = check(drops, "--fix", fixed)
    (found,) = said.values()
    assert (status, codes(found)) == (1, ["motion_too_fast", "not_fixed"])
    assert found[1]["file"] == str(fixed / "a.motion.json")
    assert contents(fixed) == {"a.motion.json": b"the operator's"}
    (drops / "deep").mkdir()
    put(drops / "deep", "b", FAST)
    put(drops, "b", FAST)
    assert check(drops, "--fix", tmp_path / "other")[0] == 1, "two of one stem need two folders"
    assert {path.name for path in (tmp_path / "other").iterdir()} == {"a.motion.json", "b.motion.json"}


@pytest.mark.parametrize(
    "place",
    ["drops", "mojo7/fixed", "x/__selected", "home/mac/__video_keyframes", "home/gpu/inbox/20250704_143022",
     "elsewhere/__video_keyframes/new", "a/link"],
)  # fmt: skip
def test_a_folder_where_it_would_be_taken_for_something_else_is_refused(
    drops: Path, tmp_path: Path, home: Path, place: str
) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "link").symlink_to(drops)
    before = contents(drops)
    done = CliRunner().invoke(app, ["check", str(drops), "--fix", str(tmp_path / place)])
    assert type(done.exception).__name__ == "DropreelError"
    assert "Choose another" in str(done.exception)
    assert contents(drops) == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "drops", "home"]
    assert not (home / "mac").exists()
    assert not (home / "gpu").exists()


# Manifests


def entry(image: str, sidecar: dict[str, Any], **params: Any) -> dict[str, Any]:
    motion = {"type": sidecar["motion_type"], "start_rect": sidecar["start_frame"], "end_rect": sidecar["end_frame"],
              "duration_sec": sidecar["duration_sec"]}  # fmt: skip
    return {"image_path": image, "motion": motion, "generation_params": {"model": "camera", "fps": 10, **params}}


def test_a_new_manifest_has_the_entries_that_could_be_mended_so(drops: Path, tmp_path: Path) -> None:
    far = {**SIDECAR, "end_frame": [0.99, 0.0, 1.99, 1.0], "duration_sec": 6.0, "motion_type": "pan_right"}
    line = {**FAST, "end_frame": [0.3, 0.3, 0.3, 0.7]}
    for stem in ("far", "good", "line"):
        put(drops, stem, None)
    repeats = {"camera_motion": "pan_right", "start_rect": far["start_frame"], "end_rect": far["end_frame"]}
    entries = [entry("a.png", FAST), entry("far.png", far, **repeats, seed=7), entry("line.png", line),
               entry("good.png", SIDECAR | {"duration_sec": 6.0})]  # fmt: skip
    file = drops / "manifest.json"
    file.write_text(json.dumps({"project_id": "p", "batch_id": "20250704_143022", "keyframes": entries}))
    before = contents(drops)
    status, said = check(file, "--fix", tmp_path / "fixed")
    found = [codes(findings, "parameter") for findings in said.values()]
    assert status == 1, "one is left"
    assert found[0] == []
    assert [set(of) for of in found[1:]] == [
        {"motion_too_fast", "fixed"},
        {"rect_outside_image", "fixed"},
        {"rect_without_area", "not_fixed"},
        set(),
    ]
    assert contents(drops) == before
    old, new = load(Manifest, file), load(Manifest, tmp_path / "fixed" / "manifest.json")
    assert new.keyframes[2:] == old.keyframes[2:]
    assert 3 < new.keyframes[0].motion.duration_sec < 6
    params = new.keyframes[1].generation_params
    motion = new.keyframes[1].motion
    assert (params.camera_motion, params.start_rect, params.end_rect) == (
        motion.type,
        motion.start_rect,
        motion.end_rect,
    )
    assert params.seed == 7
    fields = {finding["field"] for finding in said[f"{file} keyframes[1]"] if finding["code"] == "fixed"}
    assert {"motion.end_rect", "generation_params.end_rect"} <= fields
    (drops / "fixed.json").write_bytes((tmp_path / "fixed" / "manifest.json").read_bytes())
    _, again = check(drops / "fixed.json")
    assert [codes(findings, "parameter") for findings in again.values()][1:] == [[], [], ["rect_without_area"], []]


def test_a_home_that_is_named_must_be_there(drops: Path, tmp_path: Path) -> None:
    """Else what it would say is by other rules than the operator meant."""
    done = CliRunner().invoke(app, ["check", str(drops), "--home", str(tmp_path / "typo")])
    assert isinstance(done.exception, BadSettings)
    assert "typo" in str(done.exception)


def test_the_hot_folder_is_looked_at_as_the_daemon_does(home: Path) -> None:
    hot = home / "mac/__video_keyframes"
    rejected = hot / "rejected" / "old"
    for folder in (hot / "sent" / "20260101_000000", rejected):
        folder.mkdir(parents=True)
        put(folder, "old", FAST)
    (rejected / "reason.json").write_text("{}")
    put(hot, "new", SIDECAR)
    assert list(check(hot)[1]) == [str(hot / "new.png")]
    assert list(check(rejected)[1]) == [str(rejected / "old.png")]


def test_a_folder_of_a_manifest_is_checked_by_it(tmp_path: Path) -> None:
    folder = tmp_path / "batch"
    folder.mkdir()
    put(folder, "a", None)
    entry = {"image_path": "__video_keyframes/a.png", "generation_params": {"model": "camera"},
             "motion": {"type": "zoom_in", "start_rect": [0, 0, 1, 1], "end_rect": [0.3, 0.3, 0.7, 0.7],
                        "duration_sec": 1.0}}  # fmt: skip
    (folder / "manifest.json").write_text(
        json.dumps({"project_id": "p", "batch_id": "20260101_000000", "keyframes": [entry]})
    )
    assert check(folder) == check(folder / "manifest.json")
    assert check(folder)[0] == 1


def test_a_picture_that_is_not_decoded_says_what_to_do(tmp_path: Path) -> None:
    (tmp_path / "drop").mkdir()
    tiff = tmp_path / "drop" / "a.tif"
    tiff.write_bytes(b"II*\0")
    for path in (tiff, tiff.parent):
        status, said = check(path)
        assert (status, codes(said[str(tiff)])) == (1, ["image_not_supported"])


def test_an_empty_folder_says_so(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    done = CliRunner().invoke(app, ["check", str(tmp_path / "empty")])
    assert (done.exit_code, "nothing in this folder" in done.stderr) == (0, True)
