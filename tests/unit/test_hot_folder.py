"""Whatever is dropped, and whatever happens to it: a clip of it, or a reason; and nothing else waits for it."""

from __future__ import annotations

import errno
import json
import os
import shutil
import struct
import sys
import unicodedata
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from core import fsops
from core.batches import Batches
from core.contract import BatchAck, Clip, Keyframe, Manifest, Rejection, load
from core.errors import Finding
from core.home import MANIFEST_FILE, REASON_FILE
from core.motion import MotionType
from core.rooms import CANCEL_FILE, CLIP_FILE, PAUSED_FILE
from tests.house import SIDECAR, House, picture
from tests.invariants import check_always
from tests.unit.living import at_work, live, settle

SIDECAR_BYTES = json.dumps(SIDECAR).encode()
linux = pytest.mark.skipif(sys.platform == "darwin", reason="the Mac's file systems refuse or fold such names")


@pytest.fixture
def house(tmp_path: Path) -> Iterator[House]:
    """A home at work whose GPU rests: here a drop's way ends in ``rooms/generate``."""
    with at_work(tmp_path / "home", gpu=False) as house:
        yield house


def put(folder: Path, **files: bytes | None) -> None:
    """Write files into a folder, made if it is missing: ``a__png`` is ``a.png``."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, data in files.items():
        if data is not None:
            (folder / name.replace("__", ".")).write_bytes(data)


def taken(house: House) -> list[Keyframe]:
    """The entries that the server made clips of, the oldest first."""
    ready = house.home.gpu.rooms / "generate" / "ready"
    return [load(Clip, path / CLIP_FILE).entry for path in sorted(ready.iterdir())]


def names_taken(house: House) -> list[str]:
    """The images of these, by their path in the hot folder."""
    return [entry.image_path.removeprefix("__video_keyframes/") for entry in taken(house)]


def sent(house: House) -> list[str]:
    """What lies in ``sent/``, whatever the batch."""
    return sorted(path.name for path in house.home.mac.sent.glob("*/*"))


def reasons(house: House) -> dict[str, Rejection]:
    """Why what lies in ``rejected/`` does, by its folder."""
    rejected = house.home.mac.rejected
    return {path.parent.name: load(Rejection, path) for path in rejected.glob(f"*/{REASON_FILE}")}


def left(house: House) -> list[str]:
    """What lies in the hot folder beside ``sent`` and ``rejected``."""
    hot = house.home.mac.hot
    below = (path.relative_to(hot) for path in hot.rglob("*"))
    return sorted(str(path) for path in below if path.parts[0] not in {"sent", "rejected"})


def pack(house: House) -> Path:
    """Let the drops become a batch in the outbox, and nobody carry it yet."""
    for _ in range(100):
        house.daemons[0].step()
        house.clock.seconds += 0.5
        for batch in house.home.mac.outbox.iterdir():
            return batch
    raise AssertionError("no batch")


# When a drop is taken


def test_a_drop_is_taken_when_it_has_settled(house: House) -> None:
    house.drop("a")
    live(house, 1.9)
    assert not house.said("drop.settled")
    live(house, 0.2)
    assert house.said("drop.settled")
    assert not house.said("batch.sent"), "another may follow"
    live(house, 3.0)
    assert names_taken(house) == ["a.png"]
    assert sent(house) == ["a.motion.json", "a.png"]
    assert left(house) == []


def _replace(hot: Path) -> None:
    put(hot, new=picture(1))
    (hot / "new").replace(hot / "a.png")


CHANGES: dict[str, Callable[[Path], object]] = {
    "the image is replaced": _replace,
    "the image is touched": lambda hot: os.utime(hot / "a.png", ns=(1, 1)),
    "the sidecar changes": lambda hot: put(hot, a__motion__json=SIDECAR_BYTES + b" "),
    "a companion comes": lambda hot: put(hot, a__yaml=b"k: v"),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_a_change_in_the_group_begins_the_wait_again(house: House, change: Callable[[Path], object]) -> None:
    house.drop("a")
    live(house, 1.9)
    change(house.home.mac.hot)
    live(house, 1.9)
    assert not house.said("drop.settled")
    settle(house)
    assert names_taken(house) == ["a.png"]


@pytest.mark.parametrize("order", [("a.png", "a.motion.json"), ("a.motion.json", "a.png")], ids=["image", "sidecar"])
def test_which_of_the_two_comes_first_does_not_matter(house: House, order: tuple[str, str]) -> None:
    data = {"a.png": picture(), "a.motion.json": SIDECAR_BYTES}
    for name in order:
        (house.home.mac.hot / name).write_bytes(data[name])
        live(house, 8)
    settle(house)
    assert [entry.motion.type for entry in taken(house)] == [MotionType.zoom_in]
    assert sent(house) == ["a.motion.json", "a.png"]


def test_without_a_sidecar_a_drop_is_static_after_the_grace(house: House) -> None:
    house.drop("a", sidecar=None)
    live(house, 9.9)
    assert not house.said("drop.settled")
    settle(house)
    (entry,) = taken(house)
    assert (entry.motion.type, entry.motion.duration_sec) == (MotionType.static, 4.0)
    assert entry.generation_params.motion_bucket_id == 0


def test_where_a_sidecar_is_required_a_drop_waits_for_it(house: House) -> None:
    house.settings.hot_folder.sidecar_required = True
    house.drop("a", sidecar=None)
    live(house, 1000)
    assert left(house) == ["a.png"]
    assert not reasons(house)
    put(house.home.mac.hot, a__motion__json=SIDECAR_BYTES)
    settle(house)
    assert names_taken(house) == ["a.png"]


HALVES = {
    "image": (picture()[:5000], SIDECAR_BYTES, "image_truncated"),
    "image of nothing": (b"", SIDECAR_BYTES, "image_empty"),
    "image of zeros": (bytes(5000), SIDECAR_BYTES, "image_empty"),
    "sidecar": (picture(), SIDECAR_BYTES[:50], "json_invalid"),
    "sidecar of nothing": (picture(), b"", "json_invalid"),
}


@pytest.mark.parametrize(("image", "sidecar", "code"), HALVES.values(), ids=HALVES)
def test_a_half_copied_file_is_waited_for(house: House, image: bytes, sidecar: bytes, code: str) -> None:
    house.drop("a", image, sidecar)
    live(house, 29)
    assert not reasons(house)
    house.drop("a")
    settle(house)
    assert names_taken(house) == ["a.png"]


@pytest.mark.parametrize(("image", "sidecar", "code"), HALVES.values(), ids=HALVES)
def test_a_half_copied_file_that_never_grows_is_set_aside(
    house: House, image: bytes, sidecar: bytes, code: str
) -> None:
    house.drop("a", image, sidecar)
    live(house, 31)
    assert {name: reason.code for name, reason in reasons(house).items()} == {"a": code}
    assert left(house) == []


def test_a_drop_that_vanishes_is_forgotten(house: House) -> None:
    house.drop("a")
    house.drop("b", picture(1))
    live(house, 2.5)
    assert len(house.said("drop.settled")) == 2
    for path in house.home.mac.hot.glob("a.*"):
        path.unlink()
    settle(house)
    assert names_taken(house) == ["b.png"]
    assert not reasons(house)


def test_a_batch_is_closed_when_it_is_full(house: House) -> None:
    house.settings.hot_folder.batch_max = 2
    for number in range(5):
        house.drop(f"img_{number}", picture(number))
    settle(house)
    assert [said["clips"] for said in house.said("batch.sent")] == [2, 2, 1]
    assert names_taken(house) == [f"img_{number}.png" for number in range(5)]
    assert len(list(house.home.mac.sent.iterdir())) == 3


def test_a_batch_waits_for_what_settles_soon_after(house: House) -> None:
    for number in range(4):
        house.drop(f"img_{number}", picture(number))
        live(house, 2.5)
    settle(house)
    assert len(house.said("batch.sent")) == 1
    assert len(taken(house)) == 4


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("a.png", "deep/a.png"),
        ("x/a.png", "y/a.jpg"),
        pytest.param("a.png", "A.png", marks=linux),
        (unicodedata.normalize("NFC", "x/é.png"), unicodedata.normalize("NFD", "y/é.png")),
    ],
)
def test_a_second_of_one_stem_waits_for_the_next_batch(house: House, one: str, other: str) -> None:
    for number, name in enumerate((one, other)):
        put(house.home.mac.hot / Path(name).parent)
        path = house.home.mac.hot / name
        path.write_bytes(picture(number))
        path.with_suffix(".motion.json").write_bytes(SIDECAR_BYTES)
    settle(house)
    assert sorted(names_taken(house)) == sorted((one, other))
    assert len({path.parent for path in house.home.mac.sent.glob("*/*.*")}) == 2
    assert left(house) == []


STRANGE_IDS = ["99991231_235959", "20260230_999999", "00000000_000000", "٢٠٢٥٠٧٠٤_١٤٣٠٢٢", "not a batch"]


def test_a_batch_id_is_new_and_later_whatever_lies_about(house: House) -> None:
    for strange in STRANGE_IDS:
        (house.home.mac.results / strange).mkdir()
        (house.home.mac.sent / strange).mkdir()
    batches = Batches(house.home.mac, "p")
    made = [batches.next_id()]
    for folder in (house.home.mac.sent, house.home.mac.results, house.home.mac.outbox):
        (folder / made[-1]).mkdir()
        made.append(batches.next_id())
    (house.home.mac.taken / f"{made[-1]}.json").touch()
    made.append(batches.next_id())
    assert made == sorted(set(made))
    assert made[0].startswith("20")


# What is dropped

NAMES = {
    "quotes": 'it\'s "the" `one`',
    "newlines": "two\nlines\r",
    "spaces": "  a  b  ",
    "emoji": "🎬👩‍🎨",
    "alphabets": "Жук 日本語 عربي",
    "right to left": "\u202egnp",
    "options": "-rf",
    "globs": "*[a-z]?{b}",
    "dots": "a.b..c.",
    "percent": "100%s%n",
    "of the studio's own": "mojo_001",
    "like our files": "manifest",
    "long": "ä" * 100,
    "composed": unicodedata.normalize("NFC", "Ängström"),
    "decomposed": unicodedata.normalize("NFD", "Ängström"),
    "shell": "$(touch x);&|<>",
}


@pytest.mark.parametrize("stem", NAMES.values(), ids=NAMES)
def test_a_name_may_be_anything(house: House, stem: str) -> None:
    house.drop(stem)
    settle(house)
    assert names_taken(house) == [f"{stem}.png"]
    assert sent(house) == sorted([f"{stem}.png", f"{stem}.motion.json"])
    assert left(house) == []
    (entry,) = taken(house)
    assert all(file.path.isascii() for file in entry.files), "on the wire it is plain"


@pytest.mark.parametrize("stem", NAMES.values(), ids=NAMES)
def test_a_rejection_has_the_name_whatever_it_is(house: House, stem: str) -> None:
    house.drop(stem, b"no picture")
    settle(house)
    ((place, reason),) = reasons(house).items()
    assert unicodedata.normalize("NFC", stem) in place
    assert sorted(reason.files) == sorted([f"{stem}.png", f"{stem}.motion.json"])
    assert (house.home.mac.rejected / place / f"{stem}.png").exists()
    assert left(house) == []


IGNORED = [".hidden.png", "._a.png", ".DS_Store", "b.png~", "b.png.part", "b.png.crdownload", "b.png.filepart",
           ".b.png.Xy12Zz", "Thumbs.db", ".Spotlight-V100/b.png", "__MACOSX/._b.png", "@eaDir/b.png"]  # fmt: skip


@pytest.mark.parametrize("name", IGNORED)
def test_what_is_no_drop_is_neither_taken_nor_touched(house: House, name: str) -> None:
    path = house.home.mac.hot / name
    put(path.parent)
    path.write_bytes(picture(7))
    before = path.stat()
    house.drop("a")
    settle(house)
    assert names_taken(house) == ["a.png"]
    assert path.read_bytes() == picture(7)
    assert (path.stat().st_ino, path.stat().st_mtime_ns) == (before.st_ino, before.st_mtime_ns)
    assert not reasons(house)


def test_companions_travel_along_untouched(house: House) -> None:
    data = {"a.png": picture(), "a.motion.json": SIDECAR_BYTES, "a.yaml": b"k: v", "a.caption": b"a caption",
            "a.notes.txt": b"\xff\0", "a.CUSTOM": b""}  # fmt: skip
    for number, (name, content) in enumerate(data.items()):
        path = house.home.mac.hot / name
        path.write_bytes(content)
        os.utime(path, ns=(number, 1_500_000_000_123_456_789 + number))
    before = {name: (house.home.mac.hot / name).stat() for name in data}
    settle(house)
    assert sent(house) == sorted(data)
    for path in house.home.mac.sent.glob("*/*"):
        after = path.stat()
        assert path.read_bytes() == data[path.name]
        assert (after.st_ino, after.st_mtime_ns) == (before[path.name].st_ino, before[path.name].st_mtime_ns)
    (entry,) = taken(house)
    assert [file.name for file in entry.files] == ["a.png", "a.motion.json", "a.caption"], "the rest stays here"


def test_a_folder_is_taken_like_loose_files_and_leaves_no_shell(house: House) -> None:
    hot = house.home.mac.hot
    put(hot / "shoot" / "day 1", a__png=picture(1), a__motion__json=SIDECAR_BYTES, a__yaml=b"k: v")
    put(hot / "shoot" / "day 2", b__png=picture(2), b__motion__json=SIDECAR_BYTES)
    put(hot / "shoot" / "day 2", bad__png=b"no picture", bad__motion__json=SIDECAR_BYTES)
    for folder in ("shoot", "shoot/day 1"):
        put(hot / folder, __DS_Store=b"finder")
    settle(house)
    assert sorted(names_taken(house)) == ["shoot/day 1/a.png", "shoot/day 2/b.png"]
    assert list(reasons(house)) == ["bad"]
    assert left(house) == []


COMING = ["b.png.crdownload", "b.png.filepart", "b.png.part", ".b.png.Xy12Zz", "~b.png.tmp", ".b.png.1-2.part",
          ".mine", "README.txt", "b.motion.json", "day 2/"]  # fmt: skip


@pytest.mark.parametrize("coming", COMING)
def test_a_folder_in_which_there_is_still_something_stays(house: House, coming: str) -> None:
    shoot = house.home.mac.hot / "shoot"
    put(shoot, a__png=picture(), a__motion__json=SIDECAR_BYTES)
    if coming.endswith("/"):
        (shoot / coming).mkdir()
    else:
        (shoot / coming).write_bytes(b"some of it")
    settle(house)
    assert names_taken(house) == ["shoot/a.png"]
    assert left(house) == ["shoot", f"shoot/{coming.rstrip('/')}"]


def test_a_folder_is_looked_into_so_deep_and_links_are_not_followed(house: House) -> None:
    hot = house.home.mac.hot
    outside = hot.parent / "outside"
    put(outside, a__png=picture())
    (hot / "link").symlink_to(outside)
    deep = hot.joinpath(*"123456789")
    put(deep, b__png=picture(1))
    house.drop("c", picture(2))
    settle(house)
    assert names_taken(house) == ["c.png"]
    assert (outside / "a.png").exists()
    assert (deep / "b.png").exists()


# What is refused


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


BOMB = (
    b"\x89PNG\r\n\x1a\n"
    + _chunk(b"IHDR", struct.pack(">IIBBBBB", 20_000, 20_000, 8, 2, 0, 0, 0))
    + _chunk(b"IDAT", zlib.compress(bytes(1000)))
    + _chunk(b"IEND", b"")
)
"""Says that it has 400 megapixels."""
HEIC = struct.pack(">I", 24) + b"ftypheic" + bytes(4) + b"mif1heic" + bytes(200)


def _sidecar(**changes: Any) -> bytes:
    return json.dumps({**SIDECAR, **changes}).encode()


def _drop(image: bytes = picture(), sidecar: bytes = SIDECAR_BYTES, **more: bytes) -> Callable[[Path], object]:
    return lambda hot: put(hot, a__png=image, a__motion__json=sidecar, **more)


def _odd_names(*names: bytes) -> Callable[[Path], object]:
    def drop(hot: Path) -> None:
        for name in names:
            path = Path(os.fsdecode(os.fsencode(hot) + b"/" + name))
            put(path.parent)
            path.write_bytes(SIDECAR_BYTES if name.endswith(b".json") else picture())

    return drop


def _linked(name: str) -> Callable[[Path], object]:
    def drop(hot: Path) -> None:
        _drop()(hot)
        (hot / name).rename(hot.parent / "elsewhere")
        (hot / name).symlink_to("../elsewhere")

    return drop


def _fifo(hot: Path) -> None:
    put(hot, a__motion__json=SIDECAR_BYTES)
    os.mkfifo(hot / "a.png")


BAD = {
    "no picture": (_drop(b"some text"), "image_not_supported", None),
    "a TIFF": (lambda hot: put(hot, a__tif=b"II*\0", a__motion__json=SIDECAR_BYTES), "image_not_supported", None),
    "a bomb": (_drop(BOMB), "image_too_large", None),
    "too many bytes": (_drop(bytes((64 << 20) + 1)), "file_too_large", None),
    "too small": (_drop(picture(size=(31, 60))), "image_too_small", None),
    "HEIC": (lambda hot: put(hot, a__heic=HEIC, a__motion__json=SIDECAR_BYTES), "image_heic", None),
    "two images": (_drop(a__jpg=picture(1)), "stem_twice", None),
    "another version": (_drop(sidecar=_sidecar(schema_version=2)), "version_unknown", "schema_version"),
    "an unknown field": (_drop(sidecar=_sidecar(speed=1)), "field_unknown", "speed"),
    "a missing field": (_drop(sidecar=b'{"motion_type": "static"}'), "field_missing", "keyframe"),
    "NaN": (_drop(sidecar=_sidecar(motion_intensity=float("nan"))), "field_invalid", "motion_intensity"),
    "outside the image": (_drop(sidecar=_sidecar(end_frame=[0.5, 0.5, 1.5, 1.5])), None, "end_frame"),
    "out of order": (_drop(sidecar=_sidecar(start_frame=[0.9, 0.1, 0.1, 0.9])), "rect_out_of_order", "start_frame"),
    "too short": (_drop(sidecar=_sidecar(duration_sec=0.1)), None, "duration_sec"),
    "too long": (_drop(sidecar=_sidecar(duration_sec=60)), None, "duration_sec"),
    "too fast": (_drop(sidecar=_sidecar(end_frame=[0.4, 0.4, 0.6, 0.6])), None, None),
    "a sidecar too large": (_drop(sidecar=b" " * (9 << 20)), "file_too_large", None),
    "a caption too large": (_drop(a__caption=b"a" * (65 << 10)), "file_too_large", None),
    "an image that is a link": (_linked("a.png"), "file_is_link", None),
    "a sidecar that is a link": (_linked("a.motion.json"), "file_is_link", None),
    "a FIFO": (_fifo, "file_is_link", None),
    "a backslash": (_odd_names(b"a\\b.png"), "name_not_allowed", None),
    "a backslash in a folder": (_odd_names(b"x\\y/a.png"), "name_not_allowed", None),
    "a name too long": (_odd_names(b"x" * 201 + b".png"), "name_too_long", None),
}
UNTEXT = {
    "a name that is no text": _odd_names(b"a\xff.png"),
    "two of them": _odd_names(b"a\xff.png", b"a\xff.jpg"),
    "a long one": _odd_names(b"\xff" * 220 + b".png"),
    "a caption's name that is no text": _odd_names(b"a.png", b"a.\xff.caption"),
    "a companion's name that is no text": _odd_names(b"a.png", b"a.\xff.yaml"),
    "a folder's name that is no text": _odd_names(b"\xff/a.png"),
}


@pytest.mark.parametrize(("drop", "code", "field"), BAD.values(), ids=BAD)
def test_a_bad_drop_is_set_aside_with_its_reason_and_holds_up_no_other(
    house: House,
    monkeypatch: pytest.MonkeyPatch,
    drop: Callable[[Path], object],
    code: str | None,
    field: str | None,
) -> None:
    monkeypatch.setitem(sys.modules, "pillow_heif", None)  # the optional extra is not there
    drop(house.home.mac.hot)
    house.drop("good", picture(9))
    settle(house)
    (reason,) = reasons(house).values()
    assert code is None or reason.code == code
    assert reason.field == field or field is None
    assert reason.message
    assert reason.remedy, "says what to do"
    assert left(house) == [], "the whole group went"
    assert names_taken(house) == ["good.png"]
    ((place, _),) = reasons(house).items()
    moved = {path.name for path in (house.home.mac.rejected / place).iterdir()} - {REASON_FILE}
    assert moved == {Path(name).name for name in reason.files}


@linux
@pytest.mark.parametrize("drop", UNTEXT.values(), ids=UNTEXT)
def test_a_name_that_is_no_text_is_set_aside(house: House, drop: Callable[[Path], object]) -> None:
    drop(house.home.mac.hot)
    house.drop("good", picture(9))
    settle(house)
    (reason,) = reasons(house).values()
    assert reason.code == "name_not_text"
    assert left(house) == []
    assert names_taken(house) == ["good.png"]


def test_heic_is_refused_with_the_way_out(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    put(house.home.mac.hot, a__HEIC=HEIC)
    settle(house)
    (reason,) = reasons(house).values()
    assert reason.remedy is not None
    assert "sips" in reason.remedy
    assert "dropreel[heic]" in reason.remedy


def test_fixed_and_dropped_again_it_is_taken(house: House) -> None:
    house.drop("a", sidecar=_sidecar(speed=1))
    settle(house)
    for path in (house.home.mac.rejected / "a").glob("a.*"):
        path.rename(house.home.mac.hot / path.name)
    put(house.home.mac.hot, a__motion__json=SIDECAR_BYTES)
    settle(house)
    assert names_taken(house) == ["a.png"]


def test_refused_again_it_lies_beside_the_first(house: House) -> None:
    for number in range(3):
        house.drop("a", f"no picture {number}".encode())
        settle(house)
    assert sorted(reasons(house)) == ["a", "a (2)", "a (3)"]
    contents = {path.read_bytes() for path in house.home.mac.rejected.glob("*/a.png")}
    assert contents == {b"no picture 0", b"no picture 1", b"no picture 2"}


def test_a_restart_does_not_take_a_new_sidecar_for_the_rest_of_an_old_rejection(house: House) -> None:
    house.drop("a", sidecar=_sidecar(speed=1))
    settle(house)
    for path in (house.home.mac.rejected / "a").glob("a.*"):
        path.unlink()  # the operator took them out, to mend them
    put(house.home.mac.hot, a__motion__json=SIDECAR_BYTES)
    house.stop()
    house.start()
    put(house.home.mac.hot, a__png=picture())
    settle(house)
    assert [entry.motion.type for entry in taken(house)] == [MotionType.zoom_in]


# What was dropped before


def _again(house: House, stem: str = "a") -> None:
    house.drop(stem)
    settle(house)


def _drop_and_fail(house: House) -> str:
    """Have the clip of ``a`` fail, and the GPU go on; its id."""
    generate = house.home.gpu.rooms / "generate"
    _again(house)
    (clip,) = (generate / "ready").iterdir()
    (clip / CANCEL_FILE).touch()
    (generate / PAUSED_FILE).unlink()
    settle(house)
    return clip.name


@pytest.mark.parametrize("stem", ["a", "another"])
@pytest.mark.parametrize("when", ["in the outbox", "sent", "after a restart"])
def test_the_same_clip_is_not_made_twice_and_says_so(house: House, when: str, stem: str) -> None:
    house.drop("a")
    if when == "in the outbox":
        batch = pack(house).name
        (house.home.mac.hot / "a.png").rename(house.home.mac.hot.parent / "away.png")  # a new file, the same bytes
    else:
        settle(house)
        (batch,) = (path.name for path in house.home.mac.sent.iterdir())
    if when == "after a restart":
        house.stop()
        house.start()
    _again(house, stem)
    assert names_taken(house) == ["a.png"]
    (reason,) = reasons(house).values()
    assert reason.code == "made_before"
    assert batch in reason.message
    assert batch in (reason.remedy or "")


def test_the_same_clip_twice_at_once_is_made_once(house: House) -> None:
    for stem in ("a", "a copy"):
        house.drop(stem)
    settle(house)
    assert names_taken(house) == ["a.png"]
    assert {name: reason.code for name, reason in reasons(house).items()} == {"a copy": "made_before"}


def test_what_changed_while_it_waited_is_no_twin_of_what_it_was(house: House) -> None:
    house.drop("a")
    while not house.said("drop.settled"):
        house.daemons[0].step()
        house.clock.seconds += 0.5
    put(house.home.mac.hot, a__motion__json=_sidecar(duration_sec=0.6))
    house.drop("a copy")
    settle(house)
    assert sorted(names_taken(house)) == ["a copy.png", "a.png"]
    assert not reasons(house)


@pytest.mark.parametrize(
    "change",
    [{"a__motion__json": _sidecar(duration_sec=0.6)}, {"a__caption": b"other words"}, {"a__png": picture(1)}],
    ids=["motion", "caption", "picture"],
)
def test_a_clip_that_differs_is_another(house: House, change: dict[str, bytes]) -> None:
    house.drop("a")
    settle(house)
    put(house.home.mac.hot, **{"a__png": picture(), "a__motion__json": SIDECAR_BYTES, **change})
    settle(house)
    assert len(taken(house)) == 2
    assert not reasons(house)


def test_after_a_failure_the_same_clip_may_be_dropped_again(house: House) -> None:
    _drop_and_fail(house)
    assert list(house.metas()) == ["failed/a"]
    (house.home.gpu.rooms / "generate" / PAUSED_FILE).touch()
    _again(house)
    assert names_taken(house) == ["a.png"]
    assert not reasons(house)


def test_after_a_retry_that_went_well_it_is_not_made_again(house: House) -> None:
    clip = _drop_and_fail(house)
    admission = house.daemons[2].admission  # type: ignore[attr-defined]  # the third is intake
    admission.retry(house.home.gpu.failed / clip)
    settle(house)
    assert "a" in house.metas()
    _again(house)
    assert [reason.code for reason in reasons(house).values()] == ["made_before"]


def test_what_failed_once_and_then_went_well_is_not_made_a_third_time(house: House) -> None:
    _drop_and_fail(house)
    for _ in range(2):
        house.stop()
        house.start()
        _again(house)
    assert sorted(house.metas()) == ["a", "failed/a"]
    assert [reason.code for reason in reasons(house).values()] == ["made_before"]


def test_what_the_server_refused_may_be_dropped_again(house: House) -> None:
    admission = house.daemons[2].admission  # type: ignore[attr-defined]  # the third is intake
    known = admission._settings
    admission._settings = known.model_copy()
    admission._settings._presets = {}
    house.drop("a")
    put(house.home.mac.hot, a__yaml=b"k: v")
    settle(house)
    ((place, reason),) = reasons(house).items()
    assert (reason.code, reason.field) == ("model_unknown", "keyframes[0].generation_params.model")
    assert sorted(path.name for path in (house.home.mac.rejected / place).iterdir()) == [
        "a.motion.json", "a.png", "a.yaml", REASON_FILE]  # fmt: skip
    admission._settings = known
    for path in (house.home.mac.rejected / place).glob("a.*"):
        path.rename(house.home.mac.hot / path.name)
    settle(house)
    assert names_taken(house) == ["a.png"]
    assert len(reasons(house)) == 1


def test_a_batch_that_the_server_will_not_have_comes_back_with_its_reason(house: House) -> None:
    house.drop("a")
    house.drop("mojo", picture(1))
    batch = pack(house)
    ack = BatchAck(
        batch_id=batch.name,
        manifest_sha256=fsops.hash_file(batch / MANIFEST_FILE),
        entries=[],
        refused=Finding(code="version_unknown", message="It is too new.", remedy="Update the server."),
    )
    fsops.write(house.home.gpu.batch_acks / f"{batch.name}.json", ack.to_json())
    live(house, 5)
    assert [reason.code for reason in reasons(house).values()] == ["version_unknown"] * 2
    assert left(house) == []
    assert not list(house.home.mac.outbox.iterdir())


@pytest.mark.parametrize("answer", [b"no JSON", b"{}"], ids=["garbage", "incomplete"])
def test_an_answer_that_cannot_be_read_is_asked_for_again(house: House, answer: bytes) -> None:
    house.drop("a")
    batch = pack(house)
    (house.home.mac.acks / f"{batch.name}.json").write_bytes(answer)
    settle(house)
    assert names_taken(house) == ["a.png"]
    assert sent(house) == ["a.motion.json", "a.png"]


# What happens to a drop while it is on its way


def _edit_unseen(hot: Path) -> None:
    before = (hot / "a.png").stat()
    with (hot / "a.png").open("r+b") as file:
        file.write(_resized(picture(1), before.st_size))
    os.utime(hot / "a.png", ns=(before.st_atime_ns, before.st_mtime_ns))
    assert (hot / "a.png").stat().st_size == before.st_size


def _resized(png: bytes, size: int) -> bytes:
    """The same picture in a file of another size: what follows the last chunk of a PNG is ignored."""
    return png.ljust(size, b"\0")


def _new_sidecar(hot: Path) -> None:
    put(hot, a__motion__json=_sidecar(duration_sec=0.6))


IN_FLIGHT = {
    "replaced": (_replace, 2),
    "edited behind its times": (_edit_unseen, 2),
    "another sidecar": (_new_sidecar, 2),
    "gone": (lambda hot: [path.unlink() for path in hot.glob("a.*")], 1),
    "the image gone": (lambda hot: (hot / "a.png").unlink(), 1),
    "a companion comes": (lambda hot: put(hot, a__later=b"x"), 1),
}


@pytest.mark.parametrize(("change", "clips"), IN_FLIGHT.values(), ids=IN_FLIGHT)
def test_what_was_sent_is_kept_and_what_changed_meanwhile_is_a_new_drop(
    house: House, change: Callable[[Path], object], clips: int
) -> None:
    original = _resized(picture(), 40_000)
    house.drop("a", original)
    put(house.home.mac.hot, a__yaml=b"k: v")
    first = pack(house).name
    change(house.home.mac.hot)
    here = {path.name: path.read_bytes() for path in house.home.mac.hot.glob("a.*")}
    settle(house)
    assert len(taken(house)) == clips
    assert (house.home.mac.sent / first / "a.png").read_bytes() == original
    assert (house.home.mac.sent / first / "a.motion.json").read_bytes() == SIDECAR_BYTES
    assert left(house) == [] or clips == 1
    assert not reasons(house)
    if clips == 2:
        (second,) = (path for path in house.home.mac.sent.iterdir() if path.name != first)
        assert {path.name: path.read_bytes() for path in second.iterdir()} == here, "companions and all"


def test_what_is_touched_on_its_way_is_made_once(house: House) -> None:
    house.drop("a")
    pack(house)
    os.utime(house.home.mac.hot / "a.png")
    settle(house)
    assert names_taken(house) == ["a.png"]
    assert "a.png" in sent(house)
    assert [reason.code for reason in reasons(house).values()] == ["made_before"]


def test_a_drop_that_changes_while_it_is_packed_waits_for_the_next_batch(house: House) -> None:
    house.drop("a")
    house.drop("b", picture(1))
    hot = house.home.mac.hot

    def seam(name: str, paths: tuple[Path, ...]) -> None:
        if name == "write" and paths[0].name.startswith(".002.png"):
            fsops.seam = None
            put(hot, b__png=picture(2))

    fsops.seam = seam
    settle(house)
    assert names_taken(house) == ["a.png", "b.png"]
    assert len(house.said("batch.sent")) == 2
    check_always(house.home, {"a.png": picture(), "b.png": picture(2)})


# When the world fails


def _refuse(where: str, error: OSError, *steps: str) -> None:
    """Have these steps (all, if none is named) fail wherever a path has this in it."""

    def seam(name: str, paths: tuple[Path, ...]) -> None:
        if (name in steps or not steps) and any(where in str(path) for path in paths):
            raise error

    fsops.seam = seam


LOCKED = PermissionError(errno.EACCES, "Permission denied")
FULL = OSError(errno.ENOSPC, "No space left on device")


@pytest.mark.parametrize("bad", [True, False], ids=["a bad drop", "a good drop"])
def test_a_folder_that_cannot_be_written_holds_up_no_other(house: House, bad: bool) -> None:
    hot = house.home.mac.hot
    put(hot / "locked", a__png=b"no picture" if bad else picture(), a__motion__json=SIDECAR_BYTES)
    _refuse("/locked/", LOCKED, "rename")
    live(house, 20)
    assert left(house) == ["locked", "locked/a.motion.json", "locked/a.png"], "it stays where it is"
    house.drop("b", picture(1))
    live(house, 60)
    assert "b.png" in names_taken(house)
    assert sent(house)[-1] == "b.png"
    assert house.said("drop.trouble") or house.said("batch.trouble"), "and is told of"
    fsops.seam = None
    live(house, 60)
    assert left(house) == []
    assert [reason.code for reason in reasons(house).values()] == (["image_not_supported"] if bad else [])
    assert len(taken(house)) == (1 if bad else 2)


def test_a_protected_folder_is_left_alone_and_holds_up_no_other(house: House) -> None:
    put(house.home.mac.hot / "mojo_shoot", a__png=picture(), a__motion__json=SIDECAR_BYTES)
    house.drop("b", picture(1))
    live(house, 60)
    assert names_taken(house) == ["b.png"]
    assert left(house) == ["mojo_shoot", "mojo_shoot/a.motion.json", "mojo_shoot/a.png"]
    assert house.said("drop.trouble")


def test_a_file_that_cannot_be_read_holds_up_no_other(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    read = fsops.read

    def broken(source: Path, max_bytes: int) -> bytes:
        if source.name == "a.png":
            raise OSError(errno.EIO, "Input/output error")
        return read(source, max_bytes)

    monkeypatch.setattr(fsops, "read", broken)
    house.drop("a")
    house.drop("b", picture(1))
    live(house, 60)
    assert names_taken(house) == ["b.png"]
    assert len(house.said("drop.trouble")) == 2, "tried again now and then"
    monkeypatch.undo()
    settle(house)
    assert sorted(names_taken(house)) == ["a.png", "b.png"]


def test_a_folder_that_cannot_be_read_holds_up_no_other(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    look = os.scandir

    def forbidden(path: Path | str | int) -> Any:
        if isinstance(path, Path) and path.name == "locked":
            raise LOCKED
        return look(path)

    monkeypatch.setattr(os, "scandir", forbidden)
    put(house.home.mac.hot / "locked", a__png=picture())
    house.drop("b", picture(1))
    settle(house)
    assert names_taken(house) == ["b.png"]


def test_a_file_that_cannot_be_packed_holds_up_no_other(house: House) -> None:
    house.drop("a")
    house.drop("b", picture(1))
    _refuse("/.002.png", OSError(errno.EIO, "Input/output error"), "write")
    settle(house)
    assert sorted(names_taken(house)) == ["a.png", "b.png"]


@pytest.mark.parametrize(
    "where",
    ["mac", "gpu", "mac/state/building", "mac/state/acks", "mac/state/taken", "sent", "rejected",
     "gpu/inbox", "gpu/rooms/intake", "gpu/outbox/acks"],
)  # fmt: skip
def test_after_a_full_disk_all_are_taken_once(house: House, where: str) -> None:
    dropped = {"a.png": picture(1), "b.png": picture(2), "bad.png": b"no picture"}
    for name, data in dropped.items():
        house.drop(Path(name).stem, data)
    _refuse(f"/{where}", FULL, "write", "mkdir", "append")
    assert live(house, 100) or house.said("disk.full"), "the disk got in the way"
    assert len(taken(house)) < 2 or where in {"mac", "mac/state/acks", "mac/state/taken", "sent", "rejected"}
    check_always(house.home, dropped)
    fsops.seam = None
    settle(house)
    live(house, 100)
    assert sorted(names_taken(house)) == ["a.png", "b.png"]
    assert list(reasons(house)) == ["bad"]
    assert left(house) == []
    check_always(house.home, dropped)
    unfinished = [path for path in house.home.root.rglob("*") if path.name.endswith(fsops.PART)]
    assert not [*unfinished, *house.home.mac.building.iterdir()]


@pytest.mark.parametrize("in_flight", [True, False])
def test_the_hot_folder_may_be_deleted_and_made_again(house: House, in_flight: bool) -> None:
    hot = house.home.mac.hot
    house.drop("a")
    if in_flight:
        pack(house)
    else:
        settle(house)
    shutil.rmtree(hot)
    live(house, 30)
    assert house.said("source.unavailable")
    assert len(taken(house)) == 1, "what was sent is made"
    hot.mkdir()
    house.drop("b", picture(1))
    settle(house)
    assert house.said("source.back")
    assert names_taken(house) == ["a.png", "b.png"]
    assert sent(house)[-1] == "b.png"
    assert left(house) == []


def test_a_batch_that_the_disk_has_broken_is_made_again(house: House) -> None:
    house.drop("a")
    batch = pack(house)
    (batch / MANIFEST_FILE).write_bytes((batch / MANIFEST_FILE).read_bytes()[:200])
    house.stop()
    house.start()
    settle(house)
    assert names_taken(house) == ["a.png"]
    assert sent(house) == ["a.motion.json", "a.png"]


def test_an_id_that_the_server_knows_already_is_given_up_for_another(house: House) -> None:
    house.drop("a")
    batch = pack(house)
    manifest = load(Manifest, batch / MANIFEST_FILE)
    there = house.home.gpu.inbox / batch.name
    there.mkdir()
    (there / "other.png").write_bytes(picture(1))
    entry = manifest.keyframes[0].model_copy(update={"image_path": "other.png", "files": []})
    (there / MANIFEST_FILE).write_bytes(manifest.model_copy(update={"keyframes": [entry]}).to_json())
    intake = house.daemons[2]
    for _ in range(2):
        intake.step()
        house.clock.seconds += 3
    live(house, 200)
    assert sorted(names_taken(house)) == ["a.png", "other.png"]
    assert sent(house) == ["a.motion.json", "a.png"]
