"""Whatever step fails, a reader sees the old file or the new one; and nothing outside the zones is touched."""

from __future__ import annotations

import errno
import hashlib
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from core import fsops
from core.errors import AlreadyRunning, DiskFull, OutsideZone


@pytest.fixture(autouse=True)
def _fresh() -> Iterator[None]:
    fsops.confine()
    yield
    fsops.confine()
    fsops.seam = None


def _steps(action: Callable[[], object]) -> list[str]:
    """The steps that an action takes."""
    steps: list[str] = []
    fsops.seam = lambda name, _: steps.append(name)
    action()
    fsops.seam = None
    return steps


def _fail_at(number: int, error: Exception) -> None:
    """Have the n-th step from now raise."""
    left = iter(range(number, -1, -1))

    def seam(name: str, paths: tuple[Path, ...]) -> None:
        if next(left, None) == 0:
            raise error

    fsops.seam = seam


def _names(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


# Atomic writes


@pytest.mark.parametrize("old", [b"old", None], ids=["replaces", "is new"])
@pytest.mark.parametrize("how", ["write", "copy"])
def test_a_file_appears_whole_or_not_at_all(tmp_path: Path, how: str, old: bytes | None) -> None:
    source, final = tmp_path / "source", tmp_path / "folder" / "final"
    final.parent.mkdir()
    source.write_bytes(b"new")

    def act() -> None:
        if how == "write":
            fsops.write(final, b"new")
        else:
            fsops.copy(source, final)

    steps = _steps(act)
    assert steps[:3] == ["write", "fsync", "rename"], "its content is on the disk before its name is"
    assert "fsync_folder" in steps or how == "copy"
    for number in range(len(steps)):
        final.unlink(missing_ok=True)
        if old is not None:
            final.write_bytes(old)
        _fail_at(number, OSError(errno.EIO, "broken"))
        with pytest.raises(OSError, match="broken"):
            act()
        left = final.read_bytes() if final.exists() else None
        assert left == (old if number <= 2 else b"new")
        assert _names(final.parent) == (["final"] if left is not None else []), "no unfinished file is left"


def test_a_copy_says_what_it_wrote(tmp_path: Path) -> None:
    data = os.urandom(3 << 20)
    (tmp_path / "a").write_bytes(data)
    assert fsops.copy(tmp_path / "a", tmp_path / "b") == hashlib.sha256(data).hexdigest()
    assert (tmp_path / "b").read_bytes() == data
    assert fsops.hash_file(tmp_path / "b") == hashlib.sha256(data).hexdigest()


def test_a_write_that_need_not_be_durable_is_whole_all_the_same(tmp_path: Path) -> None:
    steps = _steps(lambda: fsops.write(tmp_path / "final", b"new", durable=False))
    assert steps == ["write", "fsync", "rename"]


def test_two_writes_never_share_an_unfinished_name(tmp_path: Path) -> None:
    names = {fsops.part_of(tmp_path / "final") for _ in range(100)}
    assert len(names) == 100
    assert all(name.parent == tmp_path and name.name.startswith(".") for name in names)


# Reading what a stranger left


def _link(path: Path) -> None:
    path.with_name("target").write_bytes(b"secret")
    path.symlink_to("target")


STRANGE: dict[str, tuple[Callable[[Path], object], int]] = {
    "a link": (_link, errno.ELOOP),
    "a dangling link": (lambda path: path.symlink_to("nowhere"), errno.ELOOP),
    "a FIFO": (os.mkfifo, errno.EINVAL),
    "a folder": (Path.mkdir, errno.EINVAL),
    "too large": (lambda path: path.write_bytes(b"x" * 101), errno.EFBIG),
    "missing": (lambda path: None, errno.ENOENT),
}


@pytest.mark.parametrize(("make", "code"), STRANGE.values(), ids=STRANGE)
def test_only_plain_files_of_bounded_size_are_read(tmp_path: Path, make: Callable[[Path], object], code: int) -> None:
    strange = tmp_path / "strange"
    make(strange)
    for act in (
        lambda: fsops.read(strange, 100),
        lambda: fsops.copy(strange, tmp_path / "copy", max_bytes=100),
    ):
        with pytest.raises(OSError) as raised:  # noqa: PT011 - its number says which, below
            act()
        assert raised.value.errno == code
    assert not (tmp_path / "copy").exists()
    assert not list(tmp_path.glob(".*")), "no unfinished file is left"


def test_a_file_of_exactly_the_limit_is_read(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"x" * 100)
    assert fsops.read(tmp_path / "a", 100) == b"x" * 100


# Moving and deleting


@pytest.mark.parametrize("there", ["file", "folder", "dangling link"])
@pytest.mark.parametrize("what", ["file", "folder"])
def test_a_move_replaces_nothing(tmp_path: Path, what: str, there: str) -> None:
    source, target = tmp_path / "source", tmp_path / "target"
    makers: dict[str, Callable[[Path], object]] = {
        "file": lambda path: path.write_bytes(b"mine"),
        "folder": lambda path: (path / "inside").mkdir(parents=True),
        "dangling link": lambda path: path.symlink_to("nowhere"),
    }
    makers[what](source)
    makers[there](target)
    before = _names(tmp_path)
    with pytest.raises(FileExistsError):
        fsops.move(source, target)
    assert _names(tmp_path) == before


def test_a_name_is_found_that_is_free(tmp_path: Path) -> None:
    wanted = tmp_path / "clip.unreadable"
    found = []
    for make in (Path.touch, Path.mkdir, lambda path: path.symlink_to("nowhere"), Path.touch):
        found.append(fsops.free_name(wanted).name)
        make(tmp_path / found[-1])
    assert found == ["clip.unreadable", *(f"clip.unreadable.{number}" for number in (2, 3, 4))]


def test_a_move_is_durable_at_its_destination_first(tmp_path: Path) -> None:
    for name in ("here", "there"):
        (tmp_path / name).mkdir()
    (tmp_path / "here" / "a").touch()
    steps: list[tuple[str, Path]] = []
    fsops.seam = lambda name, paths: steps.append((name, paths[-1]))
    fsops.move(tmp_path / "here" / "a", tmp_path / "there" / "a")
    assert steps == [
        ("fsync", tmp_path / "here" / "a"),
        ("rename", tmp_path / "there" / "a"),
        ("fsync_folder", tmp_path / "there"),
        ("fsync_folder", tmp_path / "here"),
    ]


def test_of_two_who_claim_one_folder_the_second_goes_on(tmp_path: Path) -> None:
    (tmp_path / "clip").mkdir()
    assert fsops.claim(tmp_path / "clip", tmp_path / "mine")
    assert not fsops.claim(tmp_path / "clip", tmp_path / "theirs")
    assert _names(tmp_path) == ["mine"]


def test_what_is_gone_need_not_be_deleted(tmp_path: Path) -> None:
    fsops.remove(tmp_path / "gone")
    fsops.remove(tmp_path / "gone" / "too")
    fsops.remove_folder(tmp_path / "gone")
    (tmp_path / "full" / "of").mkdir(parents=True)
    fsops.remove_folder(tmp_path / "full")
    assert _names(tmp_path) == ["full", "full/of"]


def test_a_folder_is_out_of_sight_before_it_is_taken_apart(tmp_path: Path) -> None:
    clip, trash = tmp_path / "clip", tmp_path / "trash"
    (clip / "deep").mkdir(parents=True)
    (clip / "deep" / "file").touch()
    steps = _steps(lambda: fsops.discard(clip, trash))
    assert steps.index("rename") < steps.index("rmtree")
    assert _names(tmp_path) == ["trash"]
    fsops.discard(clip, trash)  # again, after a crash
    assert _names(tmp_path) == ["trash"]


def test_emptying_the_trash_spares_what_its_links_point_to(tmp_path: Path) -> None:
    (tmp_path / "precious" / "file").mkdir(parents=True)
    (tmp_path / "trash").mkdir()
    (tmp_path / "trash" / "link").symlink_to(tmp_path / "precious")
    fsops.empty(tmp_path / "trash")
    assert _names(tmp_path) == ["precious", "precious/file", "trash"]


def test_a_sweep_takes_our_own_unfinished_files_and_no_others(tmp_path: Path) -> None:
    ours = [fsops.part_of(tmp_path / "deep" / name) for name in ("a.png", "two\nlines.mp4", "é")]
    others = ["a.png", "a.part", ".a.png.part", ".a.1-2.partial", "a.1-2.part", ".1-2.part", ".a.x-2.part", ".hidden"]
    theirs = [tmp_path / "deep" / name for name in others]
    (tmp_path / "deep").mkdir()
    for path in ours + theirs:
        path.touch()
    fsops.sweep(tmp_path)
    assert set((tmp_path / "deep").iterdir()) == set(theirs)


def test_missing_parents_are_made_durably_and_what_is_there_is_left(tmp_path: Path) -> None:
    steps: list[tuple[str, Path]] = []
    fsops.seam = lambda name, paths: steps.append((name, paths[-1]))
    for _ in range(2):
        fsops.make_folder(tmp_path / "a" / "b")
    assert steps == [
        ("mkdir", tmp_path / "a"),
        ("fsync_folder", tmp_path),
        ("mkdir", tmp_path / "a" / "b"),
        ("fsync_folder", tmp_path / "a"),
    ]


# Zones


def _acts(inside: Path, outside: Path) -> dict[str, Callable[[], object]]:
    """Every way to change something at ``outside``, where a file and a folder lie."""
    file, folder = outside / "file", outside / "folder"
    return {
        "write": lambda: fsops.write(outside / "new", b""),
        "replace": lambda: fsops.write(file, b""),
        "append": lambda: fsops.append(file, "line"),
        "copy": lambda: fsops.copy(inside / "file", outside / "new"),
        "move out": lambda: fsops.move(inside / "file", outside / "new"),
        "move in": lambda: fsops.move(file, inside / "new"),
        "move a folder in": lambda: fsops.move(folder, inside / "new"),
        "claim": lambda: fsops.claim(folder, inside / "new"),
        "make": lambda: fsops.make_folder(outside / "deep" / "new"),
        "remove": lambda: fsops.remove(file),
        "remove folder": lambda: fsops.remove_folder(folder),
        "discard": lambda: fsops.discard(folder, inside / "trash"),
        "use as trash": lambda: fsops.discard(inside / "folder", outside / "trash"),
        "empty": lambda: fsops.empty(outside),
        "sweep": lambda: fsops.sweep(outside),
    }


def _furnish(*folders: Path) -> None:
    for place in folders:
        (place / "folder").mkdir(parents=True)
        (place / "file").write_bytes(b"original")
        fsops.part_of(place / "left").touch()


OUTSIDE = {
    "beside the zone": lambda zone: zone.parent / "zone2",
    "above the zone": lambda zone: zone.parent,
    "through a link": lambda zone: zone / "way-out",
    "by climbing": lambda zone: zone / ".." / "zone2",
    "mojo": lambda zone: zone / "mojo",
    "mojo-7": lambda zone: zone / "deep" / "mojo-7",
    "__crop": lambda zone: zone / "__crop",
    "below __cropped": lambda zone: zone / "__cropped" / "deep",
    "__selected": lambda zone: zone / "__selected",
    "a link to __selected": lambda zone: zone / "innocent",
}


@pytest.mark.parametrize("where", OUTSIDE.values(), ids=OUTSIDE)
@pytest.mark.parametrize("act", _acts(Path(), Path()))
def test_nothing_is_touched_outside_the_zones(tmp_path: Path, act: str, where: Callable[[Path], Path]) -> None:
    zone = tmp_path / "zone"
    (tmp_path / "zone2").mkdir()
    (zone / "__selected").mkdir(parents=True)
    (zone / "way-out").symlink_to(tmp_path / "zone2")
    (zone / "innocent").symlink_to("__selected")
    outside = where(zone)
    _furnish(zone, outside)
    fsops.confine(zone)
    before = _names(tmp_path)
    with pytest.raises(OutsideZone):
        _acts(zone, outside)[act]()
    assert [name for name in _names(tmp_path) if name not in before] in ([], ["zone/trash"])
    assert set(before) <= set(_names(tmp_path))
    assert (outside / "file").read_bytes() == b"original"


@pytest.mark.parametrize("act", _acts(Path(), Path()))
def test_all_of_it_is_allowed_inside(tmp_path: Path, act: str) -> None:
    zone, other = tmp_path / "zone", tmp_path / "other zone"
    _furnish(zone, other)
    fsops.confine(zone, other)
    before = _names(tmp_path)
    _acts(zone, other)[act]()
    assert _names(tmp_path) != before or (other / "file").read_bytes() != b"original"


def test_a_zone_inside_a_protected_folder_is_none(tmp_path: Path) -> None:
    home = tmp_path / "mojo1" / "home"
    home.mkdir(parents=True)
    fsops.confine(home)
    with pytest.raises(OutsideZone):
        fsops.write(home / "a", b"")


@pytest.mark.parametrize(
    "act",
    [
        lambda zone: fsops.move(zone / "mojo", zone / "new"),
        lambda zone: fsops.discard(zone / "mojo", zone / "trash"),
        lambda zone: fsops.remove_folder(zone / "mojo"),
        lambda zone: fsops.make_folder(zone / "__crop"),
    ],
    ids=["move", "discard", "remove", "make"],
)
def test_a_protected_folder_stays_where_it_is(tmp_path: Path, act: Callable[[Path], object]) -> None:
    (tmp_path / "mojo").mkdir()
    fsops.confine(tmp_path)
    with pytest.raises(OutsideZone):
        act(tmp_path)
    assert set(_names(tmp_path)) - {"trash"} == {"mojo"}


def test_a_file_may_be_called_like_a_protected_folder(tmp_path: Path) -> None:
    (tmp_path / "sent").mkdir()
    fsops.confine(tmp_path)
    fsops.write(tmp_path / "mojo_001.png", b"a keyframe")
    fsops.move(tmp_path / "mojo_001.png", tmp_path / "sent" / "mojo_001.png")
    fsops.remove(tmp_path / "sent" / "mojo_001.png")


# A disk that fails


@pytest.mark.parametrize("act", _acts(Path(), Path()))
@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EROFS, errno.EACCES])
def test_a_full_disk_has_a_name_and_other_faults_keep_theirs(tmp_path: Path, act: str, code: int) -> None:
    _furnish(tmp_path / "a", tmp_path / "b")
    count = len(_steps(_acts(tmp_path / "a", tmp_path / "b")[act]))
    for number in range(count):
        place = tmp_path / str(number)
        _furnish(place / "a", place / "b")
        _fail_at(number, OSError(code, "broken"))
        expected = DiskFull if code in {errno.ENOSPC, errno.EDQUOT} else OSError
        with pytest.raises(expected) as raised:
            _acts(place / "a", place / "b")[act]()
        assert not isinstance(raised.value, OSError) or raised.value.errno == code
        fsops.seam = None


def test_a_real_full_disk_is_noticed_and_leaves_nothing(tmp_path: Path) -> None:
    if not Path("/dev/full").exists():
        pytest.skip("this system has no /dev/full")
    with pytest.raises(DiskFull):
        fsops.append(Path("/dev/full"), "a line")


# Locks


def test_a_lock_is_held_once(tmp_path: Path) -> None:
    held = fsops.hold(tmp_path / "locks" / "courier")
    assert fsops.lock(tmp_path / "locks" / "courier") is None
    with pytest.raises(AlreadyRunning):
        fsops.hold(tmp_path / "locks" / "courier")
    os.close(held)
    os.close(fsops.hold(tmp_path / "locks" / "courier"))


def test_one_who_only_looks_whether_we_are_dead_does_not_turn_us_away(tmp_path: Path) -> None:
    looking = fsops.hold(tmp_path / "hands")
    done = threading.Timer(0.05, os.close, [looking])
    done.start()
    os.close(fsops.hold(tmp_path / "hands"))
    done.join()


HOLDER = """
import subprocess, sys
from pathlib import Path
from core import fsops
fsops.hold(Path(sys.argv[1]))
child = subprocess.Popen([sys.executable, "-c", "print('up', flush=True); input()"], stdin=sys.stdin, close_fds=False)
child.wait()
"""


def test_a_lock_outlives_its_holder_in_its_children(tmp_path: Path) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(tmp_path / "hands")], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as holder:
        assert holder.stdin is not None
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"up\n"
        assert fsops.lock(tmp_path / "hands") is None
        holder.kill()
        holder.wait()
        assert fsops.lock(tmp_path / "hands") is None, "its child lives, and may still write"
        holder.stdin.close()  # now the child ends: its end closes the pipe
        assert holder.stdout.read() == b""
        lock = fsops.lock(tmp_path / "hands")
        assert lock is not None
        os.close(lock)


WRITER = """
import sys
from pathlib import Path
from core import fsops
for number in range(200):
    fsops.append(Path(sys.argv[1]), sys.argv[2] * (number * 37 % 3000 + 1))
"""


def test_lines_of_several_processes_never_mix(tmp_path: Path) -> None:
    log = tmp_path / "log"
    writers = [subprocess.Popen([sys.executable, "-c", WRITER, str(log), mark]) for mark in "ab"]
    assert [writer.wait() for writer in writers] == [0, 0]
    lines = log.read_text().splitlines()
    assert len(lines) == 400
    assert all(len(set(line)) == 1 for line in lines)
