"""Damaged and invented files: each reader of ours takes them or refuses them, and does nothing else.

Pictures, frames and the index of a clip are treated so beside their other tests: ``test_image``, ``test_frames``,
``test_mp4``. ``FUZZ_TIMES=100`` tries a hundred times as much as the suite does, other things each time.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from core import toml
from core.contract import (
    SCHEMAS,
    BatchAck,
    Clip,
    EntryOutcome,
    Failure,
    Manifest,
    Record,
    Rejection,
    ResultAck,
    VideoMeta,
    load,
    now,
    parse,
)
from core.errors import BadSettings, Finding, Refused
from core.generate.presets import PRESETS_FILE, read_presets, shipped_presets
from core.home import MANIFEST_FILE, SETTINGS_FILE
from core.overview import RoomStatus, ServerStatus, WorkerStatus
from core.receipt import place
from core.settings import default_file, load_settings
from daemons.cli import load as load_commands
from daemons.cli.app import app
from tests.house import TINY, House, picture
from tests.unit.living import at_work, live
from tests.unit.test_admission import BATCH, answer, inbox, manifest, put
from tests.unit.test_contract import MANIFEST
from tests.unit.test_contract import SIDECAR as DESIGNS_SIDECAR
from tests.unit.test_results import deliver

TIMES = int(os.environ.get("FUZZ_TIMES", "1"))


def fuzz(examples: int) -> settings:
    """So many examples: the same ones each time in the suite, ``FUZZ_TIMES`` times as many and others without."""
    return settings(
        max_examples=examples * TIMES, derandomize=TIMES == 1, deadline=None, suppress_health_check=list(HealthCheck)
    )


# What is damaged, and how

_entry = parse(Manifest, MANIFEST.encode(), MANIFEST_FILE).keyframes[0]
_failure = Failure(stage="qa", code="x", message="It is bad.", failed_at=now())
_finding = Finding(code="x", message="It is bad.", value=1.5, limit=2.0, frame=3)
_clip_id = f"{BATCH}-001-0123abcd"
VALID: list[tuple[type[Record], bytes]] = [
    (SCHEMAS["motion_sidecar"], DESIGNS_SIDECAR.encode()),
    (Manifest, MANIFEST.encode()),
    (Clip, Clip(clip_id=_clip_id, batch_id=BATCH, entry=_entry, image="keyframe.png", seed=1, taken_at=now(),
                failure=_failure).to_json()),
    (VideoMeta, VideoMeta(clip_id=_clip_id, run=1, batch_id=BATCH, outcome="fail", entry=_entry, seed=1,
                          failure=_failure, plan={"a": {"b": [1, None, "c"]}}).to_json()),
    (BatchAck, BatchAck(batch_id=BATCH, manifest_sha256="0" * 64, refused=_finding, entries=[
        EntryOutcome(image_path="a.png", clip_id=_clip_id), EntryOutcome(image_path="b.png", findings=[_finding])],
    ).to_json()),
    (ResultAck, ResultAck(clip_id=_clip_id, run=1, meta_sha256="0" * 64, sha256s={"clip.mp4": "0" * 64}).to_json()),
    (Rejection, Rejection.of([_finding], ["a.png"]).to_json()),
    (ServerStatus, ServerStatus(written_at=now(), version="1", inbox=0, outbox=0, failed=0, disk_free_bytes=1, rooms=[
        RoomStatus(room="qa", paused=False, ready=1, active=1, workers=[WorkerStatus(worker="cpu0", alive=True)]),
    ]).to_json()),
]  # fmt: skip

ODD = (
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8)
    | st.sampled_from([10**30, -1, 0, 1e308, "", "../..", "/etc/passwd", "\x1b[2J", "\ud800", "9" * 400, "NaN",
                       "0001-01-01T00:00:00", "9999-12-31T23:59:59+00:00", [], {}, [[]], {"": {}}])
)  # fmt: skip


@st.composite
def damaged(draw: st.DrawFn, valid: bytes) -> bytes:
    """The bytes of a file with a few of them changed, cut out, doubled or put in."""
    content = bytearray(valid)
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, len(content)))
        span = slice(at, at + draw(st.integers(0, 12)))
        match draw(st.sampled_from(("set", "cut", "end", "double", "insert"))):
            case "set":
                content[at : at + 1] = draw(st.binary(min_size=1, max_size=1))
            case "cut":
                del content[span]
            case "end":
                del content[at:]
            case "double":
                content[span] = content[span] * draw(st.integers(2, 50))
            case "insert":
                content[at:at] = draw(st.binary(max_size=8) | st.sampled_from([b"\0", b"[" * 300, b'"', b"\\ud800"]))
    return bytes(content)


@st.composite
def altered(draw: st.DrawFn, valid: bytes) -> bytes:
    """The JSON of a file with a few of its values, or keys, others."""
    whole = json.loads(valid)
    for _ in range(draw(st.integers(1, 3))):
        at: Any = whole
        while isinstance(at, (dict, list)) and at:
            key = draw(st.sampled_from(list(at) if isinstance(at, dict) else range(len(at))))
            if not isinstance(at[key], (dict, list)) or not at[key] or draw(st.booleans()):
                match draw(st.sampled_from(("value", "value", "value", "gone", "more"))):
                    case "value":
                        at[key] = draw(ODD)
                    case "gone":
                        del at[key]
                    case "more" if isinstance(at, dict):
                        at[draw(st.text(max_size=8))] = draw(ODD)
                    case "more" if isinstance(at, list):
                        at.extend(at[:])
                break
            at = at[key]
    return json.dumps(whole).encode()


def broken(valid: bytes) -> st.SearchStrategy[bytes]:
    """Either."""
    return damaged(valid) | altered(valid)


# The readers

WITHOUT_A_SEED = VideoMeta, json.dumps({**json.loads(dict(VALID)[VideoMeta]), "seed": None}).encode()
RECORDS = st.sampled_from(VALID).flatmap(lambda pair: st.tuples(st.just(pair[0]), broken(pair[1])))


@fuzz(300)
@given(RECORDS)
@example(WITHOUT_A_SEED)
def test_a_record_is_read_as_it_stands_or_refused(pair: tuple[type[Record], bytes]) -> None:
    model, content = pair
    refused = None
    try:
        record = parse(model, content, "a file")
    except Refused as error:
        refused = error.finding
    if refused is None:
        assert parse(model, record.to_json(), "a file") == record
    else:
        assert refused.remedy
        assert len(str(refused)) < 2000


SETTINGS = TINY.encode()
OWN_PRESET = toml.dumps({"mine": {**next(iter(tomllib.loads(default_file(PRESETS_FILE)).values()))}}).encode()


@fuzz(60)
@given(damaged(SETTINGS), damaged(OWN_PRESET))
def test_settings_are_taken_or_refused_with_the_file(
    tmp_path_factory: pytest.TempPathFactory, content: bytes, own: bytes
) -> None:
    home = tmp_path_factory.getbasetemp() / "fuzzed home"
    home.mkdir(exist_ok=True)
    (home / SETTINGS_FILE).write_bytes(content)
    (home / PRESETS_FILE).write_bytes(own)
    with contextlib.suppress(BadSettings):
        load_settings(home)
    with contextlib.suppress(BadSettings):
        assert read_presets(own.decode(errors="replace"), PRESETS_FILE).keys() != shipped_presets().keys()


# The daemons and the command that read what strangers write


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    """A home at work whose GPU rests, for all that follow."""
    root = tmp_path_factory.mktemp("fuzzed")
    (root / "outside").mkdir()
    (root / "outside" / "secret").write_text("nobody's business")
    with at_work(root / "home", gpu=False) as house:
        yield house


def empty(*folders: Path) -> None:
    """Take away what an example before this one has left, failed or not; but for the home's own folders."""
    ours = {"sent", "rejected", "acks"}
    for path in (path for folder in folders for path in folder.iterdir() if path.name not in ours):
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink()


@pytest.fixture(autouse=True)
def unconfined(request: pytest.FixtureRequest) -> Iterator[None]:
    """What surrounds the home stays as it is."""
    yield
    if "house" in request.fixturenames:
        root = request.getfixturevalue("house").home.root.parent
        assert sorted(path.name for path in root.rglob("*") if "home" not in path.parts) == ["outside", "secret"]


@fuzz(25)
@given(broken(DESIGNS_SIDECAR.replace("6.0", "0.5").encode()), damaged(picture()) | st.just(picture()))
def test_a_drop_is_taken_or_rejected(house: House, sidecar: bytes, image: bytes) -> None:
    empty(house.home.mac.hot, house.home.mac.rejected, house.home.mac.sent, house.home.mac.taken)
    house.drop("drop", image, sidecar)
    load_commands("check")
    said = CliRunner().invoke(app, ["check", str(house.home.mac.hot / "drop.png"), "--home", str(house.home.root)])
    assert said.exit_code in {0, 1}
    assert isinstance(said.exception, SystemExit | None), said.exception
    assert live(house, 50) == 0
    assert not house.said("drop.crashed")
    assert [path.name for path in house.home.mac.hot.iterdir() if path.is_file()] == []


@fuzz(25)
@given(broken(json.dumps(manifest(BATCH, "a.png", "b.png")).encode()))
def test_a_manifest_is_answered_or_set_aside(house: House, content: bytes) -> None:
    gpu = house.home.gpu
    empty(gpu.inbox, gpu.failed, gpu.result_acks, gpu.batch_acks, gpu.rooms / "generate" / "ready")
    put(house, content, a__png=picture(1), b__png=picture(2))
    assert live(house, 60) == 0
    assert inbox(house) == []
    for outcome in answer(house).entries if (gpu.batch_acks / f"{BATCH}.json").exists() else ():
        assert outcome.clip_id or outcome.findings
        assert "unexpected" not in {finding.code for finding in outcome.findings}


@fuzz(25)
@given(st.data())
def test_a_result_is_placed_or_refused(house: House, data: st.DataObject) -> None:
    mac = house.home.mac
    empty(mac.results, mac.incoming, mac.result_acks, *house.home.gpu.outbox.glob("2*"))
    clip = deliver(house)
    package = house.home.gpu.outbox / BATCH / clip.clip_id
    content = data.draw(broken((package / "video_meta.json").read_bytes()))
    incoming = mac.incoming / BATCH / clip.clip_id
    shutil.move(package, incoming)
    (incoming / "video_meta.json").write_bytes(content)
    meta = None
    with contextlib.suppress(Refused):
        meta, _ = place(incoming, mac)
    metas = [load(VideoMeta, path) for path in mac.results.rglob("*.video_meta.json")]
    assert metas == ([] if meta is None else [meta])
