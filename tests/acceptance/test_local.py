"""``dropreel local`` and ``dropreel shootout``: the real daemons, in a home that is gone afterwards."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import psutil
import pytest

from core.contract import PayloadFile, VideoMeta, load
from tests.acceptance.test_commands import dropreel
from tests.house import SIDECAR, TINY, picture
from tests.waiting import until

BATCH = "20260101_000000"
MISSING = """
[gone]
family = "ltx"
weights = { folder = "not/there" }
vae_dtype = "bf16"
canvas = { pixels = 8192, resolution_min = 0.05 }
"""
"""A preset whose weights nobody has."""


@pytest.fixture
def home(tmp_path: Path) -> Path:
    root = tmp_path / "lender"
    root.mkdir()
    (root / "dropreel.toml").write_text(TINY)
    return root


def entry(name: str, end: tuple[float, ...] = (0.02, 0.02, 0.98, 0.98), **params: Any) -> dict[str, Any]:
    return {
        "image_path": f"__video_keyframes/{name}",
        "motion": {"type": "zoom_in", "start_rect": [0, 0, 1, 1], "end_rect": end, "duration_sec": 0.5},
        "generation_params": {"model": "camera", "fps": 10, **params},
    }


def by_hand(folder: Path, *entries: dict[str, Any]) -> Path:
    """A manifest beside its images."""
    folder.mkdir(exist_ok=True)
    for number, one in enumerate(entries):
        (folder / Path(one["image_path"]).name).write_bytes(picture(number))
    manifest = folder / "manifest.json"
    manifest.write_text(json.dumps({"project_id": "p", "batch_id": BATCH, "keyframes": entries}))
    return manifest


def contents(folder: Path) -> dict[str, str]:
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.iterdir()}


def left_behind(out: Path) -> list[str]:
    """Homes, and processes that work in them."""
    homes = [str(path) for path in out.glob(".dropreel-*")]
    return homes + [
        str(p.pid) for p in psutil.process_iter(["cmdline"]) if f"{out}/." in " ".join(p.info["cmdline"] or ())
    ]


@pytest.mark.timeout(300)
def test_local_brings_what_can_be_made_and_says_why_the_rest_cannot(tmp_path: Path, home: Path) -> None:
    (home / "presets.toml").write_text(MISSING)
    fast, gone = entry("fast.png", (0.4, 0.4, 0.6, 0.6)), entry("gone.png", model="gone")
    manifest = by_hand(tmp_path / "batch", entry("a.png", seed=42), entry("日本 #1.png"), fast, gone)
    (manifest.parent / "gone.png").write_bytes(picture(0, (256, 128)))
    before, out = contents(manifest.parent), tmp_path / "out"
    status, said, err = dropreel("local", str(manifest), "--out", str(out), "--home", str(home))
    assert (status, err) == (1, "")
    names = {path.relative_to(out).as_posix() for path in out.rglob("*") if path.is_file()}
    logs = {name for name in names if name.startswith("logs/")}
    made = {f"{stem}.{end}" for stem in ("a", "日本 #1") for end in ("mp4", "video_meta.json", "video_manifest.json")}
    failed = {f"failed/{name}.json" for name in ("fast.reason", "gone.video_meta", "gone.video_manifest")}
    assert names - logs == {*made, *failed, "local.json"}
    meta = load(VideoMeta, out / "a.video_meta.json")
    assert (meta.outcome, meta.seed, meta.frames, meta.fps, meta.width, meta.height) == ("pass", 42, 5, 10, 96, 64)
    assert hashlib.sha256((out / "a.mp4").read_bytes()).hexdigest() == meta.files[0].sha256
    assert json.loads((out / "failed/fast.reason.json").read_bytes())["code"] == "motion_too_fast"
    record = json.loads((out / "local.json").read_bytes())
    assert [one["outcome"] for one in record["entries"]] == ["pass", "pass", "refused", "fail"]
    assert record["entries"][2]["reasons"][0] in said
    assert "4 in all: 2 passed, 1 failed, 1 refused" in said
    assert load(VideoMeta, out / "failed/gone.video_meta.json").failure is not None
    assert "model_index.json" in said
    assert "dropreel retry" not in said
    assert "clip.failed" in (out / "logs/generate@gpu0.log").read_text()
    assert contents(manifest.parent) == before
    lent = sorted(path.name for path in home.iterdir())
    assert lent == ["dropreel.toml", "presets.toml"], "the home that lends is not touched"
    assert left_behind(out) == []


@pytest.mark.timeout(300)
def test_a_packaged_batch_goes_the_same_way_and_nothing_is_overwritten(tmp_path: Path, home: Path) -> None:
    folder = tmp_path / BATCH
    folder.mkdir()
    (folder / "001.png").write_bytes(picture(3))
    (folder / "001.caption").write_text("a hill")
    files = [
        PayloadFile(name=name, path=path, size=(folder / path).stat().st_size, inode=1, mtime_ns=1,
                    sha256=hashlib.sha256((folder / path).read_bytes()).hexdigest())
        for name, path in (("a.png", "001.png"), ("a.caption", "001.caption"))
    ]  # fmt: skip
    keyframe = entry("a.png") | {"files": [file.model_dump() for file in files]}
    (folder / "manifest.json").write_text(json.dumps({"project_id": "p", "batch_id": BATCH, "keyframes": [keyframe]}))
    words = ("local", str(folder), "--out", str(tmp_path / "out"), "--home", str(home))
    assert dropreel(*words)[0] == 0
    made = contents(tmp_path / "out")
    assert load(VideoMeta, tmp_path / "out/a.video_meta.json").entry.files == files
    status, _, err = dropreel(*words)
    assert status == 1
    assert "a.mp4 is there already" in err
    assert contents(tmp_path / "out") == made


@pytest.mark.timeout(300)
def test_takes_of_a_draft_are_small_are_named_after_their_seed_and_ranked(tmp_path: Path, home: Path) -> None:
    manifest, out = by_hand(tmp_path / "batch", entry("a.png", seed=42)), tmp_path / "out"
    words = ("local", str(manifest), "--out", str(out), "--home", str(home), "--draft", "--seeds", "2")
    status, said, err = dropreel(*words)
    assert (status, err) == (0, "")
    assert "draft: output: 96×64 → 48×32" in said
    assert "entries: fps 10 → 5" in said
    for seed in (42, 43):
        meta = load(VideoMeta, out / f"a.draft.seed{seed}.video_meta.json")
        assert (meta.seed, meta.width, meta.height, meta.fps, meta.frames) == (seed, 48, 32, 5, 3)
    ranking = json.loads((out / "ranking.json").read_bytes())
    assert ranking["by"][0] == "pass before flag before fail"
    assert [(take["place"], take["name"]) for take in ranking["takes"]] == [
        (1, "a.draft.seed42"),
        (2, "a.draft.seed43"),
    ]
    assert said.index("a.draft.seed42 │") < said.index("a.draft.seed43 │")
    assert json.loads((out / "local.json").read_bytes())["draft"]


@pytest.mark.timeout(300)
def test_what_cannot_begin_says_what_to_do_and_makes_nothing(tmp_path: Path, home: Path) -> None:
    out = ("--out", str(tmp_path / "out"))
    status, _, err = dropreel("local", str(tmp_path / "nothing.json"), *out)
    assert (status, "dropreel schema manifest" in err) == (1, True)
    manifest = by_hand(tmp_path / "batch", entry("a.png", model="hal"))
    status, _, err = dropreel("local", str(manifest), *out)
    assert (status, "there is no preset 'hal'. Choose one of: camera" in err) == (1, True)
    (tmp_path / "batch/a.png").unlink()
    status, _, err = dropreel("local", str(manifest), *out)
    assert (status, "a.png is not in" in err) == (1, True)
    status, _, err = dropreel("local", str(by_hand(tmp_path / "b", entry("a.png"))), "--out", str(tmp_path / "mojo1/x"))
    assert (status, "protected" in err) == (1, True)
    status, _, err = dropreel("local", str(manifest), *out, "--home", str(tmp_path / "no"))
    assert (status, "dropreel init" in err) == (78, True)
    status, _, err = dropreel("shootout", "--keyframes", str(tmp_path / "batch"), "--presets", "camera", *out)
    assert (status, "There are no images" in err) == (1, True)
    status, _, err = dropreel("shootout", "--keyframes", str(tmp_path / "b"), "--presets", "camera,hal", *out)
    assert (status, "There is no preset 'hal'" in err) == (1, True)
    assert not (tmp_path / "out").exists()
    assert not (tmp_path / "mojo1").exists()


@pytest.mark.timeout(300)
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c_clears_away_all_but_what_had_come_out(tmp_path: Path, home: Path, number: signal.Signals) -> None:
    slow = entry("a.png", width=1024, height=576, fps=120)
    slow["motion"]["duration_sec"] = 8.0
    manifest, out = by_hand(tmp_path / "batch", slow), tmp_path / "out"
    command = [sys.executable, "-m", "daemons.cli", "local", str(manifest), "--out", str(out), "--home", str(home)]
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    try:
        until(lambda: list(out.glob(".dropreel-*/gpu/rooms/generate/active/*/*/clip.json")), "a clip is being made")
        process.send_signal(number)
        said, err = process.communicate(timeout=20)
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.communicate()
    assert (process.returncode, err) == (130, "")
    assert "Stopped." in said
    assert left_behind(out) == []
    assert list(out.iterdir()) == []


@pytest.mark.timeout(300)
def test_a_model_makes_takes_on_the_processor(tmp_path: Path, home: Path) -> None:
    from tests.tiny import save_tiny, tiny_preset

    (home / "presets.toml").write_text(tiny_preset("ltx", save_tiny("ltx", tmp_path / "weights")))
    wide = TINY.replace("landscape = [96, 64]", "landscape = [128, 64]")
    (home / "dropreel.toml").write_text(
        f"{wide}[qa]\nfirst_ssim_same = 0.0\nswing_max = 1.0\n"
    )  # what it makes is noise
    manifest, out = tmp_path / "batch", tmp_path / "out"
    by_hand(manifest, entry("a.png", model="tiny-ltx", seed=7))
    (manifest / "a.png").write_bytes(picture(0, (256, 128)))
    words = ("--out", str(out), "--home", str(home), "--device", "cpu", "--seeds", "2")
    status, said, err = dropreel("local", str(manifest), *words)
    assert (status, err) == (0, ""), said
    takes = [load(VideoMeta, path) for path in sorted(out.rglob("*.video_meta.json"))]
    assert [(take.seed, take.frames, take.width, take.height) for take in takes] == [(7, 5, 128, 64), (8, 5, 128, 64)]
    for take in takes:
        made = take.stages["generate"].details
        assert (made["family"], made["card"]) == ("ltx", "cpu")
        assert 0 < made["make_seconds"] < take.stages["generate"].seconds
    videos = {path.read_bytes() for path in out.rglob("*.mp4")}
    assert len(videos) == 2, "another seed makes another clip"
    assert left_behind(out) == []


class Page(HTMLParser):
    """What a browser would ask for, and the text it would show."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.sources: list[str] = []
        self.words = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.sources += [value for name, value in attributes if name in {"src", "href"} and value]

    def handle_data(self, data: str) -> None:
        self.words += data


@pytest.mark.timeout(300)
def test_the_shootout_compares_presets_over_the_same_keyframes(tmp_path: Path, home: Path) -> None:
    (home / "presets.toml").write_text('[other]\nfamily = "camera"\ncamera = "path"\n')
    keyframes, out = tmp_path / "keyframes", tmp_path / "out"
    keyframes.mkdir()
    (keyframes / "a <b> & #1.png").write_bytes(picture(1))
    (keyframes / "pan.png").write_bytes(picture(2))
    (keyframes / "pan.motion.json").write_text(json.dumps({**SIDECAR, "duration_sec": 0.4}))
    before = contents(keyframes)
    words = ("--keyframes", str(keyframes), "--presets", "camera, other", "--out", str(out), "--home", str(home))
    status, said, err = dropreel("shootout", *words, "--seconds", "0.5", "--dollars-per-hour", "3.6")
    assert (status, err) == (0, "")
    assert contents(keyframes) == before
    report = json.loads((out / "report.json").read_bytes())
    assert sum(rule["points"] for rule in report["rules"]) == 100
    assert {one["preset"] for one in report["presets"]} == {"camera", "other"}
    for one in report["presets"]:
        assert (one["n"], one["of"], one["card"], one["peak_gib"], one["out_of"]) == (2, 2, "CPU", None, 90)
        assert one["eliminated"] == []
        assert one["steadiness"] > 0.9
        assert one["first_frame"] > 0.97
        assert one["dollars_per_clip"] == pytest.approx(0.06 / one["clips_per_minute"], rel=0.01)
        assert one["score"] == pytest.approx(sum(v for v in one["points"].values() if v is not None) / 0.9, abs=0.01)
    frames = {
        stem: load(VideoMeta, out / f"clips/other/{stem}.video_meta.json").frames for stem in ("a <b> & #1", "pan")
    }
    assert frames == {"a <b> & #1": 5, "pan": 4}
    page = Page((out / "report.html").read_text())
    assert len(page.sources) == 6
    assert all((out / unquote(source)).is_file() for source in page.sources)
    assert all(source.startswith("./") for source in page.sources), "the page needs no network"
    assert "a <b> & #1" in page.words
    assert all(rule["formula"] in page.words for rule in report["rules"])
    assert "not measured" in page.words
    assert left_behind(out / "clips/camera") == []
    assert "report.html" in said
