"""A batch enters the server once and whole; what is wrong with one entry, or one batch, is that one's alone."""

from __future__ import annotations

import contextlib
import errno
import itertools
import json
import os
import shutil
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from core import fsops
from core.contract import BatchAck, Clip, Rejection, load
from core.errors import Refused, Stopped
from core.home import MANIFEST_FILE, REASON_FILE
from core.rooms import CLIP_FILE, PAUSED_FILE
from core.transfer import LocalTransport
from core.work import unwatched
from daemons.intake import IntakeDaemon
from tests.house import House, picture
from tests.unit.living import Killed, at_work, die_at, live, settle
from tests.unit.test_contract import MANIFEST
from tests.unit.test_hot_folder import BOMB, HEIC

BATCH = "20250704_143022"


@pytest.fixture
def house(tmp_path: Path) -> Iterator[House]:
    """A home at work whose GPU rests: here a clip's way ends in ``rooms/generate``."""
    with at_work(tmp_path / "home", gpu=False) as house:
        yield house


def manifest(batch_id: str = BATCH, *images: str, **changes: Any) -> dict[str, Any]:
    """The design's example, with these images, made by a model that is there; ``changes`` go into its first entry."""
    whole: dict[str, Any] = json.loads(MANIFEST)
    whole["batch_id"] = batch_id
    (entry,) = whole["keyframes"]
    entry["generation_params"]["model"] = "camera"
    whole["keyframes"] = [{**entry, "image_path": f"__video_keyframes/{name}"} for name in images or ["img_001.png"]]
    whole["keyframes"][0].update(changes)
    return whole


def put(house: House, content: dict[str, Any] | bytes, batch_id: str = BATCH, /, **images: bytes) -> Path:
    """Put a batch into the inbox by hand, its manifest last: ``a__png`` is ``a.png``."""
    folder = house.home.gpu.inbox / batch_id
    folder.mkdir(exist_ok=True)
    for name, data in images.items():
        (folder / name.replace("__", ".")).write_bytes(data)
    (folder / MANIFEST_FILE).write_bytes(content if isinstance(content, bytes) else json.dumps(content).encode())
    return folder


def taken(house: House) -> list[str]:
    """The images of which clips were made, by their names."""
    ready = house.home.gpu.rooms / "generate" / "ready"
    return sorted(Path(load(Clip, path / CLIP_FILE).entry.image_path).name for path in ready.iterdir())


def answer(house: House, batch_id: str = BATCH) -> BatchAck:
    """What the server answered to a batch."""
    return load(BatchAck, house.home.gpu.batch_acks / f"{batch_id}.json")


def refused(house: House) -> dict[str, Rejection]:
    """Why batches were refused, by their folder's name in ``failed/``."""
    failed = house.home.gpu.failed
    return {path.parent.name: load(Rejection, path) for path in failed.glob(f"*/{REASON_FILE}")}


def inbox(house: House) -> list[str]:
    """What waits in the inbox."""
    return sorted(path.name for path in house.home.gpu.inbox.iterdir() if path.name not in {"acks", "taken"})


# Batches written by hand


def test_the_designs_manifest_written_by_hand_makes_a_clip(house: House) -> None:
    put(house, manifest(), img_001__png=picture())
    settle(house)
    (clip,) = (load(Clip, path) for path in house.home.gpu.rooms.glob(f"generate/ready/*/{CLIP_FILE}"))
    assert clip.clip_id.startswith(f"{BATCH}-001-")
    assert (clip.seed, clip.entry.stem, clip.entry.generation_params.motion_bucket_id) == (42, "img_001", 127)
    assert [(outcome.image_path, outcome.clip_id) for outcome in answer(house).entries] == [
        ("__video_keyframes/img_001.png", clip.clip_id)
    ]
    assert inbox(house) == []
    kept = house.home.gpu.by_hand / BATCH
    assert (kept / "img_001.png").read_bytes() == picture(), "it may be the only one"


def test_it_is_taken_once_it_has_settled(house: House) -> None:
    folder = put(house, manifest(BATCH, "a.png", "b.png"), a__png=picture(1))
    live(house, 1.9)
    (folder / "b.png").write_bytes(picture(2)[:3000])
    live(house, 1.9)
    (folder / "b.png").write_bytes(picture(2))
    live(house, 1.9)
    assert inbox(house) == [BATCH]
    settle(house)
    assert taken(house) == ["a.png", "b.png"]


def test_a_manifest_that_is_still_being_written_is_waited_for(house: House) -> None:
    whole = json.dumps(manifest()).encode()
    put(house, whole[:200], img_001__png=picture())
    live(house, 20)
    assert not refused(house)
    put(house, whole)
    settle(house)
    assert taken(house) == ["img_001.png"]


# Entries, each alone


def _file(name: str, data: bytes) -> Callable[[Path], object]:
    return lambda folder: (folder / name).write_bytes(data)


def _link_out(folder: Path) -> None:
    secret = folder.parents[2] / "secret.png"
    secret.write_bytes(picture(3))
    (folder / "bad.png").symlink_to(secret)


def _params(**changes: Any) -> dict[str, Any]:
    return {"generation_params": {"model": "camera", **changes}}


def _motion(**changes: Any) -> dict[str, Any]:
    return {"motion": {**json.loads(MANIFEST)["keyframes"][0]["motion"], **changes}}


GOOD = _file("bad.png", picture(3))
BAD_ENTRIES: dict[str, tuple[Callable[[Path], object], dict[str, Any], str | None, str]] = {
    "no image": (lambda folder: None, {}, "file_missing", ""),
    "a link out of the folder": (_link_out, {}, "file_not_plain", ""),
    "a dangling link": (lambda folder: (folder / "bad.png").symlink_to("nowhere"), {}, "file_not_plain", ""),
    "a FIFO": (lambda folder: os.mkfifo(folder / "bad.png"), {}, "file_not_plain", ""),
    "a folder": (lambda folder: (folder / "bad.png").mkdir(), {}, "file_not_plain", ""),
    "a bomb": (_file("bad.png", BOMB), {}, "image_too_large", ""),
    "truncated": (_file("bad.png", picture(3)[:3000]), {}, "image_truncated", ""),
    "no picture": (_file("bad.png", b"text"), {}, "image_not_supported", ""),
    "too many bytes": (_file("bad.png", bytes((64 << 20) + 1)), {}, "file_not_plain", ""),
    "HEIC": (_file("bad.png", HEIC), {}, "image_heic", ""),
    "an unknown model": (GOOD, _params(model="gpt"), "model_unknown", ".generation_params.model"),
    "outside the image": (GOOD, _motion(end_rect=[0.5, 0.5, 1.5, 1.5]), None, ".motion.end_rect"),
    "out of order": (GOOD, _motion(start_rect=[0.9, 0.9, 0.1, 0.1]), "rect_out_of_order", ".motion.start_rect"),
    "too fast": (GOOD, _motion(end_rect=[0.45, 0.45, 0.55, 0.55]), None, ""),
    "too long": (GOOD, _motion(duration_sec=100), None, ".motion.duration_sec"),
    "a name too long": (_file("b" * 240 + ".png", picture(3)), {"image_path": "b" * 240 + ".png"}, "name_too_long", ""),
}


@pytest.mark.parametrize(("prepare", "changes", "code", "field"), BAD_ENTRIES.values(), ids=BAD_ENTRIES)
def test_a_bad_entry_refuses_itself_only(
    house: House,
    monkeypatch: pytest.MonkeyPatch,
    prepare: Callable[[Path], object],
    changes: dict[str, Any],
    code: str | None,
    field: str,
) -> None:
    monkeypatch.setitem(sys.modules, "pillow_heif", None)  # the optional extra is not there
    folder = house.home.gpu.inbox / BATCH
    folder.mkdir()
    prepare(folder)
    put(house, manifest(BATCH, "bad.png", "good.png", **changes), good__png=picture(4))
    settle(house)
    bad, good = answer(house).entries
    assert bad.clip_id is None
    (finding, *_) = [finding for finding in bad.findings if finding.severity == "error"]
    assert code is None or finding.code == code
    assert (finding.field or "").startswith(f"keyframes[0]{field}")
    assert finding.message
    assert finding.remedy
    assert good.clip_id is not None
    assert taken(house) == ["good.png"]
    assert inbox(house) == []
    reason = load(Rejection, house.home.gpu.by_hand / BATCH / REASON_FILE)
    assert reason.code == finding.code


@pytest.mark.parametrize("name", ["photo.картинка", "photo.png (copy)", "photo", "photo.PNG", "mojo.png", "日本.png"])
def test_an_image_may_be_called_anything(house: House, name: str) -> None:
    put(house, manifest(BATCH, name), **{name.replace(".", "__"): picture()})
    settle(house)
    (folder,) = (house.home.gpu.rooms / "generate" / "ready").iterdir()
    assert taken(house) == [name]
    clip = load(Clip, folder / CLIP_FILE)
    assert (folder / clip.image).read_bytes() == picture()


def test_many_entries_do_not_keep_the_watchdog_waiting(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    images = [f"img_{number:03d}.png" for number in range(30)]
    intake = house.daemons[2]
    heard = 0

    def alive(status: str | None = None) -> None:
        nonlocal heard
        heard += 1

    monkeypatch.setattr(intake.runtime, "alive", alive)
    put(house, manifest(BATCH, *images), **{name.replace(".", "__"): picture() for name in images})
    settle(house)
    assert len(taken(house)) == 30
    assert heard >= 30


def test_a_stop_does_not_wait_for_the_last_entry(house: House) -> None:
    images = [f"img_{number:03d}.png" for number in range(10)]
    put(house, manifest(BATCH, *images), **{name.replace(".", "__"): picture() for name in images})
    intake = house.daemons[2]
    intake.step()
    house.clock.seconds += 10

    def seam(name: str, paths: tuple[Path, ...]) -> None:
        intake.runtime.stopping = True

    fsops.seam = seam
    with pytest.raises(Stopped):
        intake.step()
    fsops.seam = None
    assert not taken(house)
    house.stop()
    house.start()
    settle(house)
    assert taken(house) == images


# Whole batches


def _second_stem(content: dict[str, Any]) -> dict[str, Any]:
    content["keyframes"].append({**content["keyframes"][0], "image_path": "other/img_001.jpg"})
    return content


def _link_manifest(folder: Path) -> None:
    (folder / MANIFEST_FILE).rename(folder.parents[2] / "elsewhere.json")
    (folder / MANIFEST_FILE).symlink_to(folder.parents[2] / "elsewhere.json")


def _instead(make: Callable[[Path], object]) -> Callable[[Path], object]:
    def replace(folder: Path) -> None:
        (folder / MANIFEST_FILE).unlink()
        make(folder / MANIFEST_FILE)

    return replace


def _nothing(folder: Path) -> None:
    pass


TEXT = json.dumps(manifest())
BAD_BATCHES: dict[str, tuple[dict[str, Any] | bytes, Callable[[Path], object], str, str | None]] = {
    "no JSON": (b"{", _nothing, "json_invalid", None),
    "empty": (b"", _nothing, "json_invalid", None),
    "no text": (b"\xff\xfe", _nothing, "json_invalid", None),
    "another version": ({**manifest(), "schema_version": 2}, _nothing, "version_unknown", "schema_version"),
    "an unknown field": ({**manifest(), "author": "me"}, _nothing, "field_unknown", "author"),
    "no entries": ({**manifest(), "keyframes": []}, _nothing, "field_invalid", "keyframes"),
    "NaN": (TEXT.replace("0.02", "NaN").encode(), _nothing, "field_invalid",
            "keyframes[0].generation_params.noise_aug_strength"),
    "an absolute path": (manifest(image_path="/etc/img.png"), _nothing, "field_invalid", "keyframes[0].image_path"),
    "a path that climbs": (manifest(image_path="../img.png"), _nothing, "field_invalid", "keyframes[0].image_path"),
    "two of one stem": (_second_stem(manifest()), _nothing, "field_invalid", None),
    "another folder's id": (manifest("20250704_143023"), _nothing, "batch_misplaced", "batch_id"),
    "too large": (b" " * (9 << 20), _nothing, "file_not_plain", None),
    "a link": (manifest(), _link_manifest, "file_not_plain", None),
    "a FIFO": (manifest(), _instead(os.mkfifo), "file_not_plain", None),
    "a folder for a manifest": (manifest(), _instead(Path.mkdir), "file_not_plain", None),
}  # fmt: skip


@pytest.mark.parametrize(("content", "twist", "code", "field"), BAD_BATCHES.values(), ids=BAD_BATCHES)
def test_a_bad_batch_is_set_aside_with_its_reason_and_holds_up_no_other(
    house: House, content: dict[str, Any] | bytes, twist: Callable[[Path], object], code: str, field: str | None
) -> None:
    for _ in range(2):  # and once more, as wrong as before
        twist(put(house, content, img_001__png=picture()))
        put(house, manifest("20250704_143024", "good.png"), "20250704_143024", good__png=picture(1))
        settle(house)
        ((place, reason),) = refused(house).items()
        assert place.startswith(BATCH)
        assert (reason.code, reason.field) == (code, field)
        assert reason.message
        assert reason.remedy
        assert (house.home.gpu.failed / place / "img_001.png").read_bytes() == picture(), "nothing is thrown away"
        assert taken(house) == ["good.png"]
        assert inbox(house) == []


@pytest.mark.parametrize("name", ["99999999_999999", "20250230_000000"])
def test_a_batch_of_an_id_that_is_no_moment_is_set_aside(house: House, name: str) -> None:
    put(house, manifest(name), name, img_001__png=picture())
    put(house, manifest("20250704_143024", "good.png"), "20250704_143024", good__png=picture(1))
    settle(house)
    assert [(reason.code, reason.field) for reason in refused(house).values()] == [("field_invalid", "batch_id")]
    assert taken(house) == ["good.png"]


@pytest.mark.parametrize("stray", [".20250704_143022", "20250704", "notes.txt", "20250704_143022/", "link"])
def test_what_is_no_batch_is_left_alone(house: House, stray: str) -> None:
    path = house.home.gpu.inbox / (BATCH if stray == "link" else stray)
    if stray == "link":
        outside = house.home.root / "outside"
        put(house, manifest(), img_001__png=picture()).rename(outside)
        path.symlink_to(outside)
    elif stray.endswith("/"):
        path.mkdir()  # its manifest has still to come
    else:
        path.write_bytes(b"?")
    settle(house)
    assert inbox(house) == [path.name]
    assert not taken(house)
    assert not refused(house)
    if stray == "link":
        assert (house.home.root / "outside" / "img_001.png").exists()


def test_a_batch_that_was_refused_may_come_again_mended(house: House) -> None:
    put(house, {**manifest(), "author": "me"}, img_001__png=picture())
    settle(house)
    assert answer(house).refused is not None
    put(house, manifest(), img_001__png=picture())
    settle(house)
    assert taken(house) == ["img_001.png"]
    assert answer(house).refused is None


def test_the_same_batch_again_is_answered_again_and_makes_no_second_clip(house: House) -> None:
    for _ in range(3):
        put(house, manifest(), img_001__png=picture())
        settle(house)
        first = answer(house)
    assert answer(house) == first
    assert taken(house) == ["img_001.png"]
    assert inbox(house) == []
    assert not refused(house)


def test_what_is_left_of_a_second_sending_goes_and_what_was_put_there_by_hand_stays(house: House) -> None:
    house.drop("a")
    live(house, 30)
    (batch,) = house.home.mac.sent.iterdir()
    sent, by_hand = house.home.gpu.inbox / batch.name, house.home.gpu.inbox / BATCH
    for folder, names in ((sent, ["001.png", ".002.png.a1B2c3", ".manifest.json.a1B2c3"]), (by_hand, ["001.png"])):
        folder.mkdir()
        for name in names:
            (folder / name).write_bytes(picture())
    live(house, 60)
    assert inbox(house) == sorted([BATCH, batch.name]), "the rest may still come"
    live(house, 400)
    assert inbox(house) == [BATCH], "of a batch that was never taken everything is kept"
    sent.mkdir()
    (sent / "holiday.png").write_bytes(picture())
    live(house, 400)
    assert inbox(house) == sorted([BATCH, batch.name])


def test_another_batch_of_a_known_id_is_refused(house: House) -> None:
    put(house, manifest(), img_001__png=picture())
    settle(house)
    first = answer(house)
    put(house, manifest(BATCH, "other.png"), other__png=picture(1))
    settle(house)
    assert [reason.code for reason in refused(house).values()] == ["batch_id_taken"]
    assert answer(house) == first, "the first keeps its answer"
    assert taken(house) == ["img_001.png"]


def test_other_pictures_under_the_same_manifest_are_refused_and_kept(house: House) -> None:
    for number in (1, 2):
        put(house, manifest(), img_001__png=picture(number))
        settle(house)
    assert [reason.code for reason in refused(house).values()] == ["batch_id_taken"]
    kept = sorted(path.read_bytes() for path in house.home.gpu.root.rglob("img_001.png"))
    assert kept == sorted([picture(1), picture(2)]), "nothing that was put there by hand is thrown away"
    assert len(taken(house)) == 1


def test_a_paused_intake_takes_nothing(house: House) -> None:
    paused = house.home.gpu.rooms / "intake" / PAUSED_FILE
    paused.touch()
    put(house, manifest(), img_001__png=picture())
    live(house, 100)
    assert inbox(house) == [BATCH]
    paused.unlink()
    settle(house)
    assert taken(house) == ["img_001.png"]


@pytest.mark.parametrize("name", ["mkdir", "write", "rename"])
def test_a_batch_that_the_disk_will_not_take_holds_up_no_other(house: House, name: str) -> None:
    def seam(step: str, paths: tuple[Path, ...]) -> None:
        if step == name and BATCH in str(paths[-1]):
            raise OSError(errno.EIO, "Input/output error")

    put(house, manifest(), img_001__png=picture())
    put(house, manifest("20250704_143024", "good.png"), "20250704_143024", good__png=picture(1))
    fsops.seam = seam
    live(house, 60)
    assert taken(house) == ["good.png"]
    fsops.seam = None
    settle(house)
    live(house, 60)
    assert taken(house) == ["good.png", "img_001.png"]


# What the Mac sends


class Clumsy(LocalTransport):
    """A way to the server on which one file is damaged, so often."""

    def __init__(self, house: House, times: int) -> None:
        super().__init__(house.home.mac, house.home.gpu, unwatched)
        self._inbox = house.home.gpu.inbox
        self.left = times

    def push(self, batches: Sequence[Path]) -> None:
        super().push(batches)
        there = self._inbox / batches[0].name / "001.png"
        if self.left:
            self.left -= 1
            data = bytearray(there.read_bytes())
            data[len(data) // 2] ^= 1
            there.write_bytes(data)


def _send(house: House, times: int) -> Clumsy:
    way = house.daemons[1].transport = Clumsy(house, times)  # type: ignore[attr-defined]  # the second is the courier
    house.drop("a", picture(1))
    house.drop("b", picture(2))
    return way


@pytest.mark.parametrize("times", [1, 2])
def test_a_file_that_arrives_damaged_is_sent_again(house: House, times: int) -> None:
    way = _send(house, times)
    live(house, 400)
    assert taken(house) == ["a.png", "b.png"]
    assert not way.left
    assert not list(house.home.mac.rejected.iterdir())
    assert len(house.said("batch.incomplete")) == 1, "and somebody hears of it"


def test_a_file_that_always_arrives_damaged_is_refused_and_the_others_go_on(house: House) -> None:
    _send(house, 1000)
    live(house, 400)
    assert taken(house) == ["b.png"]
    (reason,) = (load(Rejection, path) for path in house.home.mac.rejected.glob(f"*/{REASON_FILE}"))
    assert (reason.code, reason.field) == ("hash_mismatch", "keyframes[0].files")
    assert len(list(house.home.mac.rejected.glob("*/a.png"))) == 1
    assert len(list(house.home.mac.sent.glob("*/b.png"))) == 1
    assert inbox(house) == []


def _with_files(sha256: str) -> dict[str, Any]:
    file = {"name": "img_001.png", "path": "001.png", "size": 1, "sha256": sha256, "inode": 1, "mtime_ns": 1}
    return manifest(files=[file])


@pytest.mark.parametrize(
    ("images", "code"), [({"001__png": picture()}, "hash_mismatch"), ({}, "file_missing")], ids=["wrong", "missing"]
)
def test_what_nobody_sends_again_is_refused_in_the_end(house: House, images: dict[str, bytes], code: str) -> None:
    put(house, _with_files("0" * 64), **images)
    live(house, 100)
    assert inbox(house) == [BATCH], "it may still come"
    live(house, 300)
    (entry,) = answer(house).entries
    assert [finding.code for finding in entry.findings] == [code]
    assert inbox(house) == []


def test_files_of_one_ending_are_refused(house: House) -> None:
    content = _with_files("0" * 64)
    (first,) = content["keyframes"][0]["files"]
    content["keyframes"][0]["files"].append({**first, "name": "img_002.png", "path": "002.png"})
    put(house, content)
    settle(house)
    assert [finding.code for finding in answer(house).entries[0].findings] == ["files_alike"]


# After a crash


def test_what_was_committed_is_finished_after_a_restart(house: House) -> None:
    put(house, manifest(BATCH, "a.png", "b.png"), a__png=picture(1), b__png=picture(2))
    intake = house.daemons[2]
    assert isinstance(intake, IntakeDaemon)
    intake.step()
    house.clock.seconds += 5
    stages: list[str] = []

    def seam(name: str, paths: tuple[Path, ...]) -> None:
        if name == "rename" and paths[-1].parent.parent.name == "generate":
            stages.append(name)
            if len(stages) == 2:
                raise KeyboardInterrupt

    fsops.seam = seam
    with pytest.raises(KeyboardInterrupt):
        intake.step()
    fsops.seam = None
    assert len(taken(house)) == 1
    house.stop()
    house.start()
    settle(house)
    assert taken(house) == ["a.png", "b.png"]
    assert not list(house.home.gpu.rooms.glob("intake/ready/*"))


def test_half_of_a_batch_from_before_a_crash_is_built_anew(house: House) -> None:
    put(house, manifest(), img_001__png=picture())
    left = house.home.gpu.rooms / "intake" / "tmp" / BATCH / "20250704_143022-001-00000000"
    left.mkdir(parents=True)
    settle(house)
    assert taken(house) == ["img_001.png"]
    assert not list(house.home.gpu.rooms.glob("intake/tmp/*"))


def _fail_by_hand(house: House, name: str = "photo") -> Path:
    """A clip that was given up."""
    put(house, manifest(BATCH, name), **{name.replace(".", "__"): picture()})
    settle(house)
    (folder,) = (house.home.gpu.rooms / "generate" / "ready").iterdir()
    return Path(shutil.move(folder, house.home.gpu.failed))


def _retry(house: House, failed: Path) -> Path:
    intake = house.daemons[2]
    assert isinstance(intake, IntakeDaemon)
    return intake.admission.retry(failed).path


def test_a_retry_makes_the_clip_again_whatever_its_image_is_called(house: House) -> None:
    failed = _fail_by_hand(house)
    (failed / "failure.json").write_bytes(b"{}")
    (failed / "result").mkdir()
    again = _retry(house, failed)
    clip = load(Clip, again / CLIP_FILE)
    assert (again.name, clip.clip_id, clip.run, clip.failure) == (f"{failed.name}-r2", f"{failed.name}-r2", 2, None)
    assert {path.name for path in again.iterdir()} == {CLIP_FILE, clip.image}
    assert (again / clip.image).read_bytes() == picture()
    assert not failed.exists()


def test_of_two_who_retry_a_clip_one_is_served(house: House) -> None:
    failed = _fail_by_hand(house)
    _retry(house, failed)
    with pytest.raises((Refused, OSError)):
        _retry(house, failed)
    assert len(taken(house)) == 1


def test_a_retry_that_is_cut_off_is_finished_after_a_restart(tmp_path: Path) -> None:
    for step in itertools.count():
        with at_work(tmp_path / str(step), gpu=False) as house:
            failed = _fail_by_hand(house)
            fsops.seam = die_at(step)
            with contextlib.suppress(Killed):
                _retry(house, failed)
                fsops.seam = None
            finished = fsops.seam is None
            fsops.seam = None
            house.stop()
            house.start()
            settle(house)
            ready = [path.name for path in (house.home.gpu.rooms / "generate" / "ready").iterdir()]
            assert ready == ([] if failed.exists() else [f"{failed.name}-r2"]), f"after step {step}"
            assert failed.exists() == (step == 0), "the first step is the one that counts"
            assert not list((house.home.gpu.rooms / "generate" / "tmp").iterdir())
        if finished:
            assert step > 3
            return
