"""A room hands each clip out once, in order, counts what it must, and never loses one."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from core import fsops
from core.contract import Clip, GenerationParams, Keyframe, Motion, load, now
from core.errors import AlreadyRunning, UnreadableClip
from core.home import REASON_FILE
from core.motion import FULL, MotionType
from core.rooms import CANCEL_FILE, CLIP_FILE, PAUSED_FILE, ClipFolder, Room, Worker
from tests.house import picture
from tests.unit.living import at_work, settle

BATCH = "20250704_143022"


def make_room(root: Path, bound: int | None = None) -> Room:
    """An empty room."""
    for part in ("tmp", "ready", "active"):
        (root / part).mkdir(parents=True)
    return Room(root, bound)


def put_in(room: Room, number: int = 1, *, attempts: int = 0, priority: int = 0, image: str = "keyframe.png") -> str:
    """Have a clip enter a room; its id."""
    motion = Motion(type=MotionType.static, start_rect=FULL, end_rect=FULL, duration_sec=4.0)
    entry = Keyframe(
        image_path=f"img_{number}.png",
        motion=motion,
        generation_params=GenerationParams(model="camera"),
        priority=priority,
    )
    clip = Clip(clip_id=f"{BATCH}-{number:03d}-00000000", batch_id=BATCH, entry=entry, image=image, seed=1,
                taken_at=now(), attempts={room.name: attempts} if attempts else {})  # fmt: skip
    folder = room.tmp / clip.clip_id
    folder.mkdir()
    (folder / CLIP_FILE).write_bytes(clip.to_json())
    room.enter(folder)
    return clip.clip_id


@pytest.fixture
def room(tmp_path: Path) -> Room:
    return make_room(tmp_path / "generate")


@pytest.fixture
def worker(room: Room) -> Iterator[Worker]:
    worker = Worker(room, "gpu0")
    yield worker
    worker.close()


def _claim(worker: Worker) -> ClipFolder:
    folder = worker.claim()
    assert folder is not None
    return folder


@settings(max_examples=20, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 2), st.integers(-2, 2)), min_size=1, max_size=8), st.randoms())
def test_clips_are_claimed_by_attempts_then_priority_then_age(clips: list[tuple[int, int]], shuffle: object) -> None:
    with tempfile.TemporaryDirectory() as place:
        room = make_room(Path(place) / "generate")
        order = list(enumerate(clips, 1))
        shuffle.shuffle(order)  # type: ignore[attr-defined]  # a random.Random, which hypothesis wraps
        for number, (attempts, priority) in order:
            put_in(room, number, attempts=attempts, priority=priority)
        worker = Worker(room, "gpu0")
        claimed = [_claim(worker).clip.entry.image_path for _ in clips]
        assert worker.claim() is None
        worker.close()
    expected = sorted((attempts, -priority, number) for number, (attempts, priority) in enumerate(clips, 1))
    assert claimed == [f"img_{number}.png" for _, _, number in expected]


def test_the_order_follows_what_a_clip_says_now(room: Room, worker: Worker) -> None:
    first, second = put_in(room, 1), put_in(room, 2)
    assert [clip.clip_id for clip in room.waiting()] == [first, second]
    folder = ClipFolder.open(room.ready / first)
    folder.clip.attempts[room.name] = 1
    folder.save()
    assert [clip.clip_id for clip in room.waiting()] == [second, first]


def test_a_clip_is_read_again_only_where_its_file_is_another(
    room: Room, worker: Worker, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = [put_in(room, number) for number in (1, 2, 3)]
    (room.ready / f"{BATCH}-009-00000000").touch()
    (room.ready / ".DS_Store").touch()
    read: list[str] = []

    def reading(kind: type[Clip], path: Path) -> Clip:
        read.append(path.parent.name)
        return load(kind, path)

    monkeypatch.setattr("core.rooms.load", reading)
    looking = Room(room.root)
    assert [clip.clip_id for clip in looking.waiting()] == names
    assert [clip.clip_id for clip in looking.waiting()] == names
    assert sorted(read) == names
    worker.give_back(_claim(worker), count_attempt=True)
    read.clear()
    assert [clip.clip_id for clip in looking.waiting()] == [*names[1:], names[0]]
    assert read == names[:1]


def test_a_claim_counts_the_attempt_and_clears_away_what_the_last_one_left(room: Room, worker: Worker) -> None:
    name = put_in(room, attempts=1)
    fsops.part_of(room.ready / name / "base.npy").touch()
    folder = _claim(worker)
    assert folder.path == room.active / "gpu0" / name
    assert load(Clip, folder.path / CLIP_FILE).attempts == {"generate": 2}
    assert [path.name for path in folder.path.iterdir()] == [CLIP_FILE]
    assert not room.ids


@pytest.mark.parametrize("count_attempt", [True, False])
def test_a_clip_that_is_given_back_waits_again(room: Room, worker: Worker, count_attempt: bool) -> None:
    name = put_in(room, attempts=1)
    folder = _claim(worker)
    fsops.part_of(folder.path / "base.npy").touch()
    worker.give_back(folder, count_attempt=count_attempt)
    assert room.ids == [name]
    assert load(Clip, room.ready / name / CLIP_FILE).attempts == {"generate": 2 if count_attempt else 1}
    assert [path.name for path in (room.ready / name).iterdir()] == [CLIP_FILE]
    assert not list(worker.hands.iterdir())


def test_a_clip_that_is_handed_on_takes_everything_along_but_its_attempts(tmp_path: Path, worker: Worker) -> None:
    following = make_room(tmp_path / "interpolate")
    name = put_in(worker.room, attempts=3)
    folder = _claim(worker)
    folder.clip.attempts["interpolate"] = 1
    (folder.path / CANCEL_FILE).touch()
    worker.publish(folder, following)
    assert following.ids == [name]
    assert not worker.room.ids
    handed = ClipFolder.open(following.ready / name)
    assert handed.clip.attempts == {"interpolate": 1}
    assert handed.cancelled


def test_a_room_is_full_at_its_bound(tmp_path: Path) -> None:
    room = make_room(tmp_path / "qa", bound=2)
    for other in (".DS_Store", "notes.txt", ".hidden", f"{BATCH}-001"):
        (room.ready / other).touch()
    seen = [(put_in(room, number), room.full)[1] for number in (1, 2, 3)]
    assert seen == [False, True, True]
    assert len(room.ids) == 3, "what is no clip is not seen"
    assert not make_room(tmp_path / "free").full


def test_a_room_is_paused_by_a_file(room: Room) -> None:
    assert not room.paused
    (room.root / PAUSED_FILE).touch()
    assert room.paused


def _as_a_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


def _as_a_link(path: Path) -> None:
    path.unlink()
    path.symlink_to("nowhere")


BROKEN: dict[str, Callable[[Path], object]] = {
    "missing": Path.unlink,
    "empty": lambda path: path.write_bytes(b""),
    "truncated": lambda path: path.write_bytes(path.read_bytes()[:100]),
    "of another version": lambda path: path.write_bytes(path.read_bytes().replace(b'version": 1', b'version": 2')),
    "a folder": _as_a_folder,
    "a link": _as_a_link,
    "no number": lambda path: path.write_bytes(path.read_bytes().replace(b'seed": 1', b'seed": NaN')),
}


@pytest.mark.parametrize("break_it", BROKEN.values(), ids=BROKEN)
def test_a_clip_that_cannot_be_read_says_so_and_holds_up_no_other(
    tmp_path: Path, break_it: Callable[[Path], object]
) -> None:
    with at_work(tmp_path / "home", gpu=False) as house:
        room, following = (Room(house.home.gpu.rooms / stage) for stage in ("generate", "interpolate"))
        (following.root / PAUSED_FILE).touch()
        for copy in (1, 2):  # the same one again, from a backup perhaps
            name = put_in(room)
            break_it(room.ready / name / CLIP_FILE)
            worker = Worker(room, "gpu9")
            with pytest.raises(UnreadableClip) as raised:
                worker.claim()
            assert raised.value.path == worker.hands / name
            worker.close()
            house.rest()
            assert len(list(house.home.gpu.failed.glob(f"*/{REASON_FILE}"))) == copy
        house.drop("good")
        (room.root / PAUSED_FILE).unlink()
        settle(house)
        assert len(following.ids) == 1


def test_a_second_worker_of_one_name_is_turned_away(room: Room, worker: Worker) -> None:
    with pytest.raises(AlreadyRunning):
        Worker(room, worker.name)
    Worker(room, "gpu1").close()


def test_only_the_dead_leave_orphans(room: Room, worker: Worker) -> None:
    dead, living = Worker(room, "dead"), Worker(room, "living")
    mine, of_the_dead, of_the_living = put_in(room, 1), put_in(room, 2), put_in(room, 3)
    for one in (worker, dead, living):
        assert one.claim()
    dead.close()
    (dead.hands / ".DS_Store").touch()
    assert [path.name for path in worker.orphans()] == [mine, of_the_dead]
    assert [path.name for path in living.orphans()] == [of_the_living, of_the_dead]
    living.close()


def test_while_one_helps_the_dead_another_does_not(room: Room, worker: Worker) -> None:
    dead, other = Worker(room, "dead"), Worker(room, "other")
    put_in(room)
    dead.claim()
    dead.close()
    helping = worker.orphans()
    assert next(helping).parent == dead.hands
    assert not list(other.orphans())
    assert not list(helping)
    assert len(list(other.orphans())) == 1
    other.close()


def test_a_full_room_holds_back_the_one_in_front(tmp_path: Path) -> None:
    with at_work(tmp_path / "home", more="[rooms]\nbounds = { interpolate = 1 }") as house:
        rooms = [Room(house.home.gpu.rooms / stage) for stage in ("generate", "interpolate", "qa")]
        for room in rooms[1:]:
            (room.root / PAUSED_FILE).touch()
        for number in range(3):
            house.drop(f"img{number}", picture(number))
        settle(house)
        assert [len(room.ids) for room in rooms] == [2, 1, 0]
        held = {said["room"]: said["reason"] for said in house.said("room.held")}
        assert held == {"generate": "interpolate is full", "interpolate": "paused", "qa": "paused"}
        (rooms[1].root / PAUSED_FILE).unlink()
        settle(house)
        assert [len(room.ids) for room in rooms] == [0, 0, 3]


def test_with_little_disk_left_nothing_is_begun(tmp_path: Path) -> None:
    with at_work(tmp_path / "home") as house:
        put_in(Room(house.home.gpu.rooms / "generate"))
        paused = [house.home.gpu.rooms / room / PAUSED_FILE for room in ("intake", "generate")]
        for flag in paused:
            flag.touch()
        house.drop("later")
        settle(house)
        house.settings.disk.low_water_mb = house.settings.disk.high_water_mb = 1 << 40
        for flag in paused:
            flag.unlink()
        settle(house)
        assert len(Room(house.home.gpu.rooms / "generate").ids) == 1
        assert len(list(house.home.gpu.inbox.glob("*_*"))) == 1, "it waits in the inbox"
        assert "disk is low" in [said["reason"] for said in house.said("room.held")]
