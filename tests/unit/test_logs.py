"""An event is one line, whatever is in it; and the audit is what the studio's own tools already read."""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Callable, Iterator
from datetime import datetime
from pathlib import Path

import pytest
import structlog
from hypothesis import given
from hypothesis import strategies as st

from core.contract import Clip
from core.logs import Logger, line, open_log
from core.tracker import TRACKER_FILE, FileTracker
from tests.unit.test_rooms import make_room, put_in

AWKWARD = {
    "newlines": "two\nlines\r\nand more",
    "quotes": 'he said "it\'s"',
    "key=value": "a=b c=d",
    "nothing": "",
    "a log line": "x\n2026-11-22T14:03:01.123456Z info    clip.delivered",
    "an escape sequence": "\x1b[31mred\x1b[0m \x9b2J",
    "lines of Unicode": "a\u2028b\u2029c\x85d",
    "right to left": "\u202egnp.txt",
    "no text": "img\udcff.png",
    "any alphabet": "Ünï 日本 🎬",
    "backslashes": "a\\nb",
}
WHEN = {"timestamp": "2026-11-22T14:03:01.123456Z", "level": "info"}


@pytest.fixture
def open_here(tmp_path: Path) -> Iterator[Callable[[], Logger]]:
    """Opens the log of a daemon called ``intake``; all is as before after the test."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield lambda: open_log("intake", tmp_path)
    for handler in root.handlers[:]:
        root.removeHandler(handler)
        if handler not in handlers:
            handler.close()
    for handler in handlers:
        root.addHandler(handler)
    root.setLevel(level)
    structlog.reset_defaults()


def _read(text: str) -> dict[str, str]:
    """What a line's ``key=value`` words say, read back."""
    words = re.findall(r'(\w+)=("(?:[^"\\]|\\.)*"|\S+)', text)
    return {key: json.loads(word) if word.startswith('"') else word for key, word in words}


@given(
    st.dictionaries(st.sampled_from(["clip", "name", "reason"]), st.text() | st.sampled_from(sorted(AWKWARD.values())))
)
def test_whatever_a_value_is_the_line_is_one_and_says_it(values: dict[str, str]) -> None:
    text = line(None, "", {**WHEN, "event": "clip.claimed", **values})
    assert text.isprintable(), "nothing that a terminal would act on"
    assert text.startswith("2026-11-22T14:03:01.123456Z info    clip.claimed")
    assert _read(text) == values


def test_plain_values_are_not_quoted() -> None:
    text = line(None, "", {**WHEN, "event": "clip.claimed", "clip": "a-1", "attempt": 2, "seconds": 1.23456})
    assert text.endswith("clip=a-1 attempt=2 seconds=1.235")


@pytest.mark.parametrize("value", AWKWARD.values(), ids=AWKWARD)
def test_an_event_is_one_line_in_the_file_and_one_json_on_stdout(
    tmp_path: Path, open_here: Callable[[], Logger], capsys: pytest.CaptureFixture[str], value: str
) -> None:
    log = open_here().bind(room="qa")
    log.warning("drop.rejected", name=value)
    log.info("drop.settled")
    first, second = (tmp_path / "intake.log").read_text(encoding="utf-8").split("\n")[:2]
    assert re.match(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d+Z warning drop\.rejected +room=qa name=", first)
    assert _read(first) == {"room": "qa", "name": value}
    assert "drop.settled" in second
    out, err = capsys.readouterr()
    said = [json.loads(text) for text in out.split("\n") if text]
    assert [(event["event"], event["level"]) for event in said] == [
        ("drop.rejected", "warning"),
        ("drop.settled", "info"),
    ]
    assert said[0]["name"] == value
    assert {"timestamp", "room", "daemon"} <= said[0].keys()
    assert not err


def test_an_event_about_another_daemon_names_that_one(
    open_here: Callable[[], Logger], capsys: pytest.CaptureFixture[str]
) -> None:
    log = open_here()
    log.info("supervisor.started", daemon="qa@cpu0")
    log.info("daemon.stopped")
    said = [json.loads(text) for text in capsys.readouterr().out.splitlines()]
    assert [event["daemon"] for event in said] == ["qa@cpu0", "intake"]


def test_a_traceback_cannot_be_taken_for_events(
    tmp_path: Path, open_here: Callable[[], Logger], capsys: pytest.CaptureFixture[str]
) -> None:
    log = open_here()
    try:
        raise ValueError(AWKWARD["a log line"])
    except ValueError:
        log.exception("clip.attempt_failed", clip="a")
    lines = (tmp_path / "intake.log").read_text(encoding="utf-8").splitlines()
    assert "clip.attempt_failed" in lines[0]
    assert len(lines) > 2
    assert not any(re.match(r"\d{4}-", text) for text in lines[1:])
    (event,) = [json.loads(text) for text in capsys.readouterr().out.splitlines()]
    assert "ValueError" in event["exception"]


def test_what_a_library_logs_is_an_event_too(
    tmp_path: Path, open_here: Callable[[], Logger], capsys: pytest.CaptureFixture[str]
) -> None:
    open_here()
    logging.getLogger("PIL.Image").warning("a %s\nline", "second")
    (text,) = (tmp_path / "intake.log").read_text(encoding="utf-8").splitlines()
    assert "library.said" in text
    assert _read(text) == {"library": "PIL.Image", "said": "a second\nline"}
    assert json.loads(capsys.readouterr().out)["said"] == "a second\nline"


def test_opened_again_it_is_not_written_twice(
    tmp_path: Path, open_here: Callable[[], Logger], capsys: pytest.CaptureFixture[str]
) -> None:
    open_here()
    open_here().info("daemon.started")
    assert len((tmp_path / "intake.log").read_text(encoding="utf-8").splitlines()) == 1
    assert len(capsys.readouterr().out.splitlines()) == 1


# The audit

STUDIO_KEYS = ["type", "script", "session_id", "batch_id", "timestamp", "operation", "source_dir", "dest_dir",
               "file_count", "files", "notes"]  # fmt: skip
VIDEO_KEYS = ["keyframe_path", "video_output", "motion_params", "validation_results", "duration_sec", "frame_count"]


@pytest.mark.parametrize("name", AWKWARD.values(), ids=AWKWARD)
def test_the_audit_has_exactly_the_studios_keys(tmp_path: Path, name: str) -> None:
    tracker = FileTracker(tmp_path, "keyframes")
    tracker.track("reject", tmp_path / "a", tmp_path / name, [name, "b.yaml"], batch_id="20250704_143022", notes=name)
    tracker.track("release", tmp_path, None, [])
    first, second = map(json.loads, (tmp_path / TRACKER_FILE).read_bytes().split(b"\n")[:2])
    assert list(first) == list(second) == STUDIO_KEYS
    assert (first["type"], first["script"], first["operation"]) == ("file_operation", "keyframes", "reject")
    assert (first["files"], first["file_count"], first["notes"]) == ([name, "b.yaml"], 2, name)
    assert (first["source_dir"], first["dest_dir"]) == (str(tmp_path / "a"), str(tmp_path / name))
    assert (second["dest_dir"], second["batch_id"], second["file_count"]) == (None, None, 0)
    assert first["session_id"] == second["session_id"]
    assert datetime.fromisoformat(first["timestamp"]).utcoffset() is not None


def test_the_audit_of_a_clip_says_what_was_made(tmp_path: Path) -> None:
    room = make_room(tmp_path / "generate")
    folder = room.ready / put_in(room)
    clip = Clip.model_validate_json((folder / "clip.json").read_bytes())
    FileTracker(tmp_path, "encode").track_video_operation(
        "transcode", clip, folder / "keyframe.png", frame_count=120, video_output=folder / "clip.mp4"
    )
    entry = json.loads((tmp_path / TRACKER_FILE).read_bytes())
    assert list(entry) == STUDIO_KEYS + VIDEO_KEYS
    assert (entry["type"], entry["operation"], entry["files"]) == (
        "video_operation",
        "transcode",
        ["keyframe.png", "clip.mp4"],
    )
    assert (entry["batch_id"], entry["duration_sec"], entry["frame_count"]) == (clip.batch_id, 4.0, 120)
    assert entry["motion_params"]["type"] == "static"
