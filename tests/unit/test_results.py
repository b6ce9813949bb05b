"""A result comes back once, verified, or with the reason why not; the server lets go of it on the Mac's word alone."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import itertools
import json
import os
import unicodedata
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from core import delivery, fsops, receipt
from core.contract import Clip, Keyframe, QaReport, ResultAck, Verdict, VideoMeta, load
from core.errors import Cancelled, Finding, Refused
from core.home import STAGES, MacHalf
from core.rooms import CANCEL_FILE, CLIP_FILE, PAUSED_FILE, ClipFolder, Room, Worker
from core.rsync import LinkLost, LinkRefused
from core.tracker import TRACKER_FILE
from core.transfer import LocalTransport, Result, waiting
from core.work import Report, unwatched
from daemons.generate import GenerateDaemon
from tests.house import House, picture
from tests.unit.living import Killed, at_work, die_at, live, settle
from tests.unit.test_logs import STUDIO_KEYS, VIDEO_KEYS
from tests.unit.test_rooms import BATCH, put_in

GENERATE = 3
"""Where its daemon is among those of a house."""


@pytest.fixture
def house(tmp_path: Path) -> Iterator[House]:
    """A home at work."""
    with at_work(tmp_path / "home") as house:
        yield house


def deliver(house: House, number: int = 1, verdict: Verdict = "pass", stem: str = "") -> Clip:
    """Have a finished clip, and evidence where there is something to show, enter the server's outbox."""
    room = Room(house.home.gpu.rooms / "encode")
    folder = ClipFolder.open(room.ready / put_in(room, number))
    if stem:
        folder.clip.entry = folder.clip.entry.model_copy(update={"image_path": f"{stem}.png"})
    (folder.path / "keyframe.png").write_bytes(picture())
    (folder.path / delivery.VIDEO_FILE).write_bytes(f"clip {number}".encode() * 1000)
    evidence = [] if verdict == "pass" else ["flash.png"]
    for name in evidence:
        (folder.path / name).write_bytes(picture(number))
    folder.clip.qa = QaReport(verdict=verdict, screened="a test", evidence=evidence)
    delivery.deliver(folder, house.home.gpu)
    return folder.clip


def outbox(house: House) -> list[str]:
    """The results that wait on the server."""
    return sorted(path.name for path in house.home.gpu.outbox.glob("????????_??????/*"))


def results(house: House, batch_id: str = BATCH) -> list[str]:
    """The files that came back of a batch."""
    folder = house.home.mac.results / batch_id
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def files_of(stem: str, *more: str) -> list[str]:
    """What a result consists of."""
    return sorted(f"{stem}.{ending}" for ending in ("mp4", "video_manifest.json", "video_meta.json", *more))


# The whole way

NAMES = ["img_001", 'it\'s "new"\nЖук 日本 🎬 ', unicodedata.normalize("NFD", "Ängström")]


def test_a_result_says_what_was_made_of_what_and_how(house: House) -> None:
    for number, name in enumerate(NAMES):
        house.drop(name, picture(number))
    settle(house)
    metas = house.metas()
    assert sorted(metas) == sorted(unicodedata.normalize("NFC", name) for name in NAMES)
    for name, meta in metas.items():
        folder = house.home.mac.results / meta.batch_id
        video = (folder / f"{name}.mp4").read_bytes()
        assert (meta.files[0].size, meta.files[0].sha256) == (len(video), hashlib.sha256(video).hexdigest())
        assert load(Keyframe, folder / f"{name}.video_manifest.json") == meta.entry
        assert (meta.outcome, meta.failure, meta.run) == ("pass", None, 1)
        assert (meta.frames, meta.fps, meta.width, meta.height) == (5, 10, 96, 64)
        assert tuple(meta.stages) == tuple(meta.plan) == STAGES
        assert all(record.seconds >= 0 and record.attempts == 1 for record in meta.stages.values())
        assert meta.seed == meta.entry.generation_params.seed
        assert meta.qa is not None
        assert {"python", "numpy"} <= meta.versions.keys()
        assert json.loads((folder / f"{name}.video_meta.json").read_bytes())["schema_version"] == 1
    assert outbox(house) == []
    for left in (house.home.mac.result_acks, house.home.mac.incoming, house.home.gpu.result_acks):
        assert not list(left.iterdir())


def test_the_whole_way_is_in_the_audit(house: House) -> None:
    house.drop("a")
    house.drop("bad", b"no picture")
    settle(house)
    live(house, 40)
    entries = [
        json.loads(line)
        for half in (house.home.mac, house.home.gpu)
        for line in (half.logs / TRACKER_FILE).read_text(encoding="utf-8").splitlines()
    ]
    operations = {entry["operation"] for entry in entries}
    assert {"package", "push", "archive", "reject", "receive", "intake", "release"} <= operations
    assert {"generate", "interpolate", "validate", "transcode"} <= operations
    for entry in entries:
        assert list(entry) == STUDIO_KEYS + (VIDEO_KEYS if entry["type"] == "video_operation" else [])
        assert entry["file_count"] == len(entry["files"])


# Placing


@pytest.mark.parametrize(
    ("verdict", "place", "more"),
    [("pass", "", []), ("flag", "flagged/", ["flash.png"]), ("fail", "failed/", ["flash.png"])],
)
def test_a_result_goes_where_its_verdict_says_evidence_and_all(
    house: House, verdict: Verdict, place: str, more: list[str]
) -> None:
    deliver(house, 1, verdict)
    deliver(house, 2)
    settle(house)
    assert results(house) == sorted([*(place + name for name in files_of("img_1", *more)), *files_of("img_2")])
    assert outbox(house) == []


@pytest.mark.parametrize("part", ["clip", "evidence"])
def test_a_damaged_result_is_fetched_again(house: House, part: str) -> None:
    name = {"clip": delivery.VIDEO_FILE, "evidence": "flash.png"}[part]

    class Clumsy(LocalTransport):
        left = 2

        def fetch(self, results: Sequence[Result], arrived: Callable[[Result], None]) -> None:
            def damaged(result: Result) -> None:
                if self.left:
                    self.left -= 1
                    file = self._mac.incoming.joinpath(*result) / name
                    data = bytearray(file.read_bytes())
                    data[-1] ^= 1
                    file.write_bytes(data)
                arrived(result)

            super().fetch(results, damaged)

    house.daemons[1].transport = Clumsy(house.home.mac, house.home.gpu, unwatched)  # type: ignore[attr-defined]  # the second is the courier
    deliver(house, 1, "flag")
    live(house, 4)
    assert results(house) == []
    assert outbox(house), "it is not let go"
    live(house, 200)
    assert len(house.said("clip.damaged")) == 2
    assert results(house) == [f"flagged/{file}" for file in files_of("img_1", "flash.png")]
    assert outbox(house) == []


def _without(name: str) -> Callable[[Path], object]:
    return lambda result: (result / name).unlink()


def _linked(result: Path) -> None:
    (result / delivery.VIDEO_FILE).rename(result.parents[2] / "elsewhere")
    (result / delivery.VIDEO_FILE).symlink_to(result.parents[2] / "elsewhere")


def _of_another(result: Path) -> None:
    meta = result / delivery.META_FILE
    meta.write_bytes(meta.read_bytes().replace(b"-001-", b"-009-"))
    (result / delivery.SEAL_FILE).write_text(fsops.hash_file(meta))


SPOILT: dict[str, Callable[[Path], object]] = {
    "no clip": _without(delivery.VIDEO_FILE),
    "no meta": _without(delivery.META_FILE),
    "a meta that is no JSON": lambda result: (result / delivery.META_FILE).write_bytes(b"{"),
    "a shorter clip": lambda result: os.truncate(result / delivery.VIDEO_FILE, 100),
    "another clip's meta": _of_another,
    "a link": _linked,
}


@pytest.mark.parametrize("spoil", SPOILT.values(), ids=SPOILT)
def test_a_result_that_cannot_be_had_holds_up_no_other(house: House, spoil: Callable[[Path], object]) -> None:
    clip = deliver(house, 1)
    deliver(house, 2)
    spoil(house.home.gpu.outbox / BATCH / clip.clip_id)
    live(house, 60)
    assert results(house) == files_of("img_2")
    assert outbox(house) == [clip.clip_id], "it is kept for a person to look at"
    assert house.said("clip.damaged") or house.said("clip.not_fetched")


def test_a_bit_of_a_meta_that_flips_on_the_mac_is_seen_and_the_result_fetched_again(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is left is still JSON: only the server can tell what its meta was."""
    place, sound = receipt.place, b""

    def flipped(incoming: Path, mac: MacHalf) -> tuple[VideoMeta, Path | None]:
        nonlocal sound
        meta = incoming / delivery.META_FILE
        if not sound:
            sound = meta.read_bytes()
            meta.write_bytes(sound.replace(b"img_1", b"img\x7f1"))
        return place(incoming, mac)

    monkeypatch.setattr(receipt, "place", flipped)
    deliver(house, 1)
    live(house, 200)
    settle(house)
    assert results(house) == files_of("img_1")
    assert outbox(house) == []
    assert [len(house.said(event)) for event in ("clip.damaged", "clip.received", "ack.mismatch")] == [1, 1, 0]
    (meta,) = house.home.mac.results.rglob("*.video_meta.json")
    assert meta.read_bytes() == sound


@pytest.mark.parametrize("seal", [None, b"", b"0" * 64, b"0" * 65])
def test_the_seal_of_a_meta_may_be_missing_but_not_another(house: House, seal: bytes | None) -> None:
    clip = deliver(house, 1)
    path = house.home.gpu.outbox / BATCH / clip.clip_id / delivery.SEAL_FILE
    if seal is None:
        path.unlink()
    else:
        path.write_bytes(seal)
    live(house, 60)
    assert outbox(house) == ([] if seal is None else [clip.clip_id])


def test_a_folder_in_a_result_stays_where_it_is_and_the_result_comes(house: House) -> None:
    clip = deliver(house, 1)
    stray = house.home.gpu.outbox / BATCH / clip.clip_id / "stray"
    stray.mkdir()
    (stray / "file").write_bytes(b"no part of it")
    live(house, 60)
    assert results(house) == files_of("img_1")
    assert not list(house.home.mac.root.rglob("stray"))
    assert outbox(house) == []


def test_a_result_that_cannot_be_put_in_its_place_holds_up_no_other(house: House) -> None:
    clip = deliver(house, 1)
    deliver(house, 2)

    def seam(name: str, paths: tuple[Path, ...]) -> None:
        if "img_1" in str(paths[-1]):
            raise PermissionError(errno.EACCES, "Permission denied")

    fsops.seam = seam
    live(house, 30)
    assert results(house) == files_of("img_2")
    assert outbox(house) == [clip.clip_id]
    fsops.seam = None
    live(house, 30)
    assert results(house) == sorted(files_of("img_1") + files_of("img_2"))


@pytest.mark.parametrize("where", ["/incoming/", "/results/", "/result_acks/", "/inbox/acks/", "/mac/logs/"])
def test_after_a_full_disk_a_result_is_there_once(house: House, where: str) -> None:
    def seam(name: str, paths: tuple[Path, ...]) -> None:
        if name in {"write", "mkdir", "append"} and where in str(paths[-1]):
            raise OSError(errno.ENOSPC, "No space left on device")

    fsops.seam = seam
    deliver(house, 1)
    assert live(house, 60) or house.said("disk.full"), "the disk got in the way"
    fsops.seam = None
    live(house, 100)
    settle(house)
    assert results(house) == files_of("img_1")
    assert outbox(house) == []
    assert not list(house.home.mac.result_acks.iterdir())


@pytest.mark.parametrize("trouble", [LinkLost("broken pipe"), LinkRefused("rrsync error")], ids=["lost", "refused"])
def test_what_cannot_be_sent_keeps_no_result_from_coming(house: House, trouble: Exception) -> None:
    class OneWay(LocalTransport):
        def push(self, batches: Sequence[Path]) -> None:
            raise trouble

    house.daemons[1].transport = OneWay(house.home.mac, house.home.gpu, unwatched)  # type: ignore[attr-defined]  # the second is the courier
    house.drop("goes_nowhere")
    while not list(house.home.mac.outbox.glob("2*")):
        house.daemons[0].step()
        house.clock.seconds += 1
    deliver(house, 1)
    house.daemons[1].runtime.once = True
    with pytest.raises(type(trouble)):
        house.daemons[1].step()
    assert results(house) == files_of("img_1")


# Letting go


def test_a_result_is_fetched_once_and_acknowledged_until_the_server_lets_go(house: House) -> None:
    intake = house.daemons.pop(2)
    clip = deliver(house, 1)
    live(house, 200)
    assert len(house.said("clip.received")) == 1
    assert outbox(house) == [clip.clip_id]
    (ack,) = house.home.gpu.result_acks.glob("*.json")
    ack.unlink()  # lost on its way
    live(house, 100)
    assert ack.exists(), "so it is told again"
    house.daemons.insert(2, intake)
    live(house, 100)
    assert outbox(house) == []
    assert len(house.said("clip.received")) == 1
    assert not list(house.home.mac.result_acks.iterdir()), "nobody waits for it any more"


def _ack(house: House, clip: Clip, **changes: Any) -> ResultAck:
    result = house.home.gpu.outbox / BATCH / clip.clip_id
    meta = load(VideoMeta, result / delivery.META_FILE)
    sha256s = {file.path: file.sha256 for file in meta.files}
    ack = ResultAck(
        clip_id=clip.clip_id, run=1, meta_sha256=fsops.hash_file(result / delivery.META_FILE), sha256s=sha256s
    )
    return ack.model_copy(update=changes)


@pytest.mark.parametrize(
    ("changes", "lets_go"),
    [
        ({}, True),
        ({"run": 2}, False),
        ({"meta_sha256": "0" * 64}, False),
        ({"sha256s": {}}, False),
        ({"sha256s": {delivery.VIDEO_FILE: "0" * 64}}, False),
    ],
    ids=str,
)
def test_a_result_is_released_for_its_own_bytes_alone(house: House, changes: dict[str, Any], lets_go: bool) -> None:
    clip = deliver(house, 1)
    ack = _ack(house, clip, **changes)
    assert delivery.release(ack, house.home.gpu) is lets_go
    assert outbox(house) == ([] if lets_go else [clip.clip_id])
    if lets_go:
        assert delivery.release(ack, house.home.gpu), "once more is no fault"
        assert not list(house.home.gpu.released.iterdir())


def test_a_result_whose_meta_cannot_be_read_is_not_released(house: House) -> None:
    clip = deliver(house, 1)
    ack = _ack(house, clip)
    (house.home.gpu.outbox / BATCH / clip.clip_id / delivery.META_FILE).write_bytes(b"{")
    assert not delivery.release(ack, house.home.gpu)
    assert outbox(house) == [clip.clip_id]


STRAY_ACKS: dict[str, Callable[[Path], object]] = {
    "no JSON": lambda path: path.write_bytes(b"{"),
    "no text": lambda path: path.write_bytes(b"\xff"),
    "another file's": lambda path: path.write_bytes(b'{"schema_version": 1}'),
    "for what never was": lambda path: path.write_bytes(
        ResultAck(clip_id=f"{BATCH}-099-00000000", run=1, meta_sha256="0" * 64, sha256s={}).to_json()
    ),
    "a folder": Path.mkdir,
    "a FIFO": os.mkfifo,
    "a dangling link": lambda path: path.symlink_to("nowhere"),
    "a link": lambda path: path.symlink_to("/dev/zero"),
}


@pytest.mark.parametrize("make", STRAY_ACKS.values(), ids=STRAY_ACKS)
def test_a_stray_acknowledgement_holds_up_no_other(house: House, make: Callable[[Path], object]) -> None:
    make(house.home.gpu.result_acks / "20000101_000000-001-00000000.json")
    deliver(house, 1)
    settle(house)
    assert results(house) == files_of("img_1")
    assert outbox(house) == []


def test_a_link_in_place_of_the_acknowledgements_leads_nowhere(house: House) -> None:
    precious = house.home.gpu.batch_acks / "20250101_000000.json"
    precious.write_text("the memory of a batch")
    acks = house.home.gpu.result_acks
    acks.rmdir()
    acks.symlink_to("../outbox/acks")
    deliver(house, 1)
    live(house, 200)
    assert precious.read_text() == "the memory of a batch"
    assert results(house) == files_of("img_1")
    assert outbox(house) == [], "and acknowledgements are taken again"
    assert [said["file"] for said in house.said("ack.unreadable")] == ["acks"]


def test_the_listing_goes_on_while_batches_are_cleared_away(house: House) -> None:
    deliver(house, 1)
    (house.home.gpu.outbox / "20250704_143023").mkdir()
    listing = waiting(house.home.gpu.outbox)
    assert next(listing)[0] == BATCH
    (house.home.gpu.outbox / "20250704_143023").rmdir()
    assert not list(listing)


# Failing


def _clip_in_generate(house: House) -> Path:
    """A dropped keyframe's clip, while nobody works on it."""
    (house.home.gpu.rooms / "generate" / PAUSED_FILE).touch()
    house.drop("a")
    settle(house)
    (folder,) = (house.home.gpu.rooms / "generate" / "ready").iterdir()
    return folder


def _go_on(house: House) -> None:
    (house.home.gpu.rooms / "generate" / PAUSED_FILE).unlink()
    settle(house)


def _spoil(house: House, error: Exception) -> None:
    """Have ``generate`` raise for the clip of ``a``, until it is started again."""
    daemon = house.daemons[GENERATE]
    assert isinstance(daemon, GenerateDaemon)
    work = daemon.work

    def spoilt(folder: ClipFolder, report: Report) -> dict[str, Any]:
        if folder.clip.entry.stem == "a":
            raise error
        return work(folder, report)

    daemon.work = spoilt  # type: ignore[method-assign]  # a flaw that the next start does not have


ERRORS: dict[str, tuple[Exception, str, int]] = {
    "refused": (Refused(Finding(code="too_odd", message="Too odd.", remedy="Be even.")), "too_odd", 1),
    "cancelled": (Cancelled(), "cancelled", 1),
    "fails each time": (RuntimeError("two\nlines"), "gave_up", 5),
    "out of memory": (MemoryError(), "gave_up", 5),
    "a system error": (OSError(errno.EIO, "Input/output error"), "gave_up", 5),
}


@pytest.mark.parametrize(("error", "code", "attempts"), ERRORS.values(), ids=ERRORS)
def test_a_clip_that_fails_comes_back_with_its_reason_and_holds_up_no_other(
    house: House, error: Exception, code: str, attempts: int
) -> None:
    _spoil(house, error)
    house.drop("a")
    house.drop("b", picture(1))
    settle(house)
    metas = house.metas()
    assert sorted(metas) == ["b", "failed/a"]
    failure = metas["failed/a"].failure
    assert failure is not None
    assert (failure.stage, failure.code, failure.attempts) == ("generate", code, attempts)
    assert failure.message
    assert failure.remedy
    (folder,) = house.home.gpu.failed.iterdir()
    assert json.loads((folder / delivery.FAILURE_FILE).read_bytes())["code"] == code
    assert (folder / "keyframe.png").exists(), "for a person, and a retry"
    assert len([said for said in house.said("clip.failed") if said["daemon"] == "courier"]) == 1
    assert outbox(house) == []


def test_a_cancelled_clip_comes_back_as_such_and_a_retry_makes_it(house: House) -> None:
    clip = _clip_in_generate(house)
    (clip / CANCEL_FILE).touch()
    _go_on(house)
    assert list(house.metas()) == ["failed/a"]
    assert not list(house.home.mac.results.glob("*/failed/a.mp4"))
    house.daemons[2].admission.retry(house.home.gpu.failed / clip.name)  # type: ignore[attr-defined]  # it is intake's
    settle(house)
    meta = house.metas()["a"]
    assert (meta.clip_id, meta.run, meta.outcome) == (f"{clip.name}-r2", 2, "pass")
    assert not list(house.home.gpu.failed.iterdir())


def test_a_clip_that_kills_its_workers_is_given_up_in_the_end(house: House) -> None:
    folder = _clip_in_generate(house)
    room = Room(house.home.gpu.rooms / "generate")
    for attempt in range(1, 6):
        worker = Worker(room, "victim")
        claimed = worker.claim()
        assert claimed is not None
        assert claimed.clip.attempts == {"generate": attempt}
        worker.close()  # it is dead
        house.daemons[GENERATE].step()
    _go_on(house)
    failure = house.metas()["failed/a"].failure
    assert failure is not None
    assert (failure.code, failure.attempts) == ("worker_died", 5)
    assert (house.home.gpu.failed / folder.name).is_dir()


@pytest.mark.timeout(120)  # it dies at some forty steps, and lives on
def test_a_failure_is_told_once_wherever_it_is_interrupted(tmp_path: Path) -> None:
    for step in itertools.count():
        with at_work(tmp_path / str(step)) as house:
            folder = ClipFolder.open(_clip_in_generate(house))
            folder.clip.attempts = {"generate": 4}  # so that the next is the last
            folder.save()
            _spoil(house, RuntimeError("a flaw"))
            (house.home.gpu.rooms / "generate" / PAUSED_FILE).unlink()
            fsops.seam = die_at(step)
            with contextlib.suppress(Killed):
                house.daemons[GENERATE].step()
                fsops.seam = None
            finished = fsops.seam is None
            fsops.seam = None
            left = [load(Clip, path) for path in house.home.gpu.rooms.glob(f"**/{folder.path.name}/{CLIP_FILE}")]
            given_up = all(clip.failure or clip.attempts["generate"] == 5 for clip in left)
            house.stop()
            house.start()
            settle(house)
            assert list(house.metas()) == (["failed/a"] if given_up else ["a"]), f"after step {step}"
            assert len(list(house.home.gpu.failed.iterdir())) == given_up
            assert len(house.said("clip.received")) == 1
            assert outbox(house) == []
            assert not [path for path in house.home.gpu.root.rglob("*") if path.name.endswith(fsops.PART)]
        if finished:
            assert step > 20
            return


# A full disk is nobody's fault


def _full(*where: str) -> Callable[[str, tuple[Path, ...]], None]:
    def seam(name: str, paths: tuple[Path, ...]) -> None:
        if name in {"write", "mkdir", "fsync"} and all(part in str(paths[-1]) for part in where):
            raise OSError(errno.ENOSPC, "No space left on device")

    return seam


def test_a_full_disk_is_no_attempt_and_is_tried_again_now_and_then(house: House) -> None:
    folder = _clip_in_generate(house)
    (house.home.gpu.rooms / "generate" / PAUSED_FILE).unlink()
    fsops.seam = _full(".npy")
    live(house, 100)
    assert load(Clip, folder / CLIP_FILE).attempts == {"generate": 0}
    assert 2 <= len(house.said("disk.full")) <= 5
    fsops.seam = None
    live(house, 60)
    assert house.metas()["a"].outcome == "pass"


def test_a_disk_too_full_to_give_a_clip_back_has_made_no_attempt_either(house: House) -> None:
    folder = _clip_in_generate(house)
    (house.home.gpu.rooms / "generate" / PAUSED_FILE).unlink()
    full = False

    def seam(name: str, paths: tuple[Path, ...]) -> None:
        nonlocal full
        full |= ".npy" in str(paths[-1])
        if full and name in {"write", "fsync"} and folder.name in str(paths[-1]):
            raise OSError(errno.ENOSPC, "No space left on device")

    fsops.seam = seam
    live(house, 100)
    (clip,) = (house.home.gpu.rooms / "generate" / "active").glob(f"*/{folder.name}")
    assert load(Clip, clip / CLIP_FILE).attempts == {"generate": 1}
    fsops.seam = None
    live(house, 60)
    assert house.metas()["a"].stages["generate"].attempts == 1
    assert not house.said("clip.recovered")


def test_a_clip_that_the_disk_has_no_room_for_holds_up_no_other(house: House) -> None:
    folder = _clip_in_generate(house)
    house.drop("b", picture(1))
    live(house, 20)
    (house.home.gpu.rooms / "generate" / PAUSED_FILE).unlink()
    fsops.seam = _full(folder.name, ".npy")
    live(house, 100)
    assert list(house.metas()) == ["b"]


def test_a_failure_on_a_full_disk_is_told_when_there_is_room(house: House) -> None:
    _clip_in_generate(house)
    error, code, _ = ERRORS["refused"]
    _spoil(house, error)
    (house.home.gpu.rooms / "generate" / PAUSED_FILE).unlink()
    fsops.seam = _full("/result/")
    live(house, 300)
    assert not house.metas()
    fsops.seam = None
    live(house, 100)
    failure = house.metas()["failed/a"].failure
    assert failure is not None
    assert (failure.code, failure.attempts) == (code, 1)


def test_a_meta_is_complete_where_a_name_says_little(house: House) -> None:
    """A stem as long as may be: its result's names still fit."""
    stem = "ä" * 100
    deliver(house, 1, "flag", stem)
    settle(house)
    assert results(house) == [f"flagged/{name}" for name in files_of(stem, "flash.png")]
