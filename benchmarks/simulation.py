"""A GPU server on a virtual clock: its real rooms, loop and daemons, with the seconds of the work taken from a table.

Every worker is the daemon that serves it in earnest, in ``daemons.runtime.run`` and on the runtime's own clock, in a
thread of its own; but only one thread runs at a time, and the clock goes on when all of them wait. So nothing depends
on how the system schedules them, and a day passes as fast as its clips can be renamed. What a daemon would do *to* a
clip is replaced by waiting for a card or for cores, which those who use them at once share.
"""

from __future__ import annotations

import hashlib
import heapq
import io
import itertools
import math
import random
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import structlog
from PIL import Image

from core import delivery, fsops
from core.admission import Admission
from core.contract import GenerationParams, Keyframe, Manifest, Motion, PayloadFile, QaReport
from core.gpu import card_of
from core.home import MANIFEST_FILE, STAGES, Home
from core.motion import FULL, MotionType
from core.rooms import ClipFolder
from core.settings import DaemonSettings, DiskSettings, RoomBounds, RoomSettings, RoomWorkers, Settings
from core.watch import Wake
from core.work import Report
from daemons.encode import EncodeDaemon
from daemons.generate import GenerateDaemon, InHand
from daemons.interpolate import InterpolateDaemon
from daemons.qa import QaDaemon
from daemons.runtime import Chore, Runtime, run
from daemons.stage import StageDaemon, room_of

LOOK_SECONDS = 600.0
"""A change of their folders wakes the daemons; so seldom do they look without one, and feed a watchdog."""
CLIP_SECONDS = 6.0
"""The length of clip that the table is for; another takes as much longer as it is longer."""


class Clock:
    """Virtual seconds, and the threads that live by them, of which one runs at a time."""

    def __init__(self) -> None:
        self.seconds = 0.0
        self._due: list[tuple[float, int, Sleeper]] = []
        self._serial = itertools.count()
        self._turn = threading.Semaphore(0)
        self._own = threading.local()
        self._error: BaseException | None = None

    def __call__(self) -> float:
        """As ``time.monotonic``."""
        return self.seconds

    @property
    def sleeper(self) -> Sleeper:
        """The thread that runs."""
        me: Sleeper = self._own.sleeper
        return me

    def spawn(self, do: Callable[[], object]) -> None:
        """Have a thread do something, from this moment on."""
        sleeper = Sleeper()

        def live() -> None:
            self._own.sleeper = sleeper
            sleeper.turn.acquire()
            try:
                do()
            except BaseException as error:  # noqa: BLE001 - raised again by ``run``
                self._error = error
            self._turn.release()

        threading.Thread(target=live, daemon=True).start()
        self.wake(sleeper, self.seconds)

    def wake(self, sleeper: Sleeper, due: float) -> None:
        """Let a thread go on at this moment, and not at the one that was named before."""
        sleeper.due = due
        if due < math.inf:
            heapq.heappush(self._due, (due, next(self._serial), sleeper))

    def sleep(self, seconds: float) -> None:
        """Let the running thread wait so long, or until somebody wakes it."""
        me = self.sleeper
        self.wake(me, self.seconds + seconds)
        self._turn.release()
        me.turn.acquire()

    def run(self) -> None:
        """Let time pass until nobody waits for it any more. Raises what a thread raised."""
        while self._due:
            due, _, sleeper = heapq.heappop(self._due)
            if due != sleeper.due:  # it was told another moment since
                continue
            sleeper.due = -math.inf
            self.seconds = max(self.seconds, due)
            sleeper.turn.release()
            self._turn.acquire()
            if self._error is not None:
                raise self._error


@dataclass(eq=False)
class Sleeper:
    """A thread's place on the clock."""

    turn: threading.Semaphore = field(default_factory=lambda: threading.Semaphore(0))
    due: float = -math.inf


class Shared:
    """A card, or the cores of a processor: work that needs more than there is takes as much longer."""

    def __init__(self, clock: Clock, size: float = 1.0) -> None:
        self.clock = clock
        self.size = size
        self.busy: dict[str, float] = {}
        """Seconds of the whole of it, by what they were spent on."""
        self._at = 0.0
        self._jobs: dict[Sleeper, list[float]] = {}
        self._kinds: dict[Sleeper, str] = {}
        self._idle: list[tuple[float, float]] = []

    def work(self, kind: str, seconds: float, size: float = 1.0) -> None:
        """Use so much of it, for so many seconds if it is not wanted by others; waits until that is done."""
        me = self.clock.sleeper
        self._pass_time()
        self._jobs[me], self._kinds[me] = [seconds, size], kind
        self._tell()
        while self._jobs[me][0] > 1e-9:
            self.clock.sleep(self._jobs[me][0] / self._rate)
            self._pass_time()
        del self._jobs[me], self._kinds[me]
        self._tell()

    def idle(self, begin: float, end: float) -> float:
        """Seconds between two moments in which nobody used it."""
        self._pass_time()
        return sum(max(0.0, min(end, until) - max(begin, since)) for since, until in self._idle)

    @property
    def _rate(self) -> float:
        return min(1.0, self.size / max(1e-9, sum(size for _, size in self._jobs.values())))

    def _pass_time(self) -> None:
        now, rate = self.clock.seconds, self._rate
        elapsed, since, self._at = now - self._at, self._at, now
        if elapsed and not self._jobs:
            self._idle.append((since, now))
        for sleeper, job in self._jobs.items():
            job[0] -= elapsed * rate
            kind = self._kinds[sleeper]
            self.busy[kind] = self.busy.get(kind, 0.0) + elapsed * rate * job[1] / self.size

    def _tell(self) -> None:
        for sleeper, (left, _) in self._jobs.items():
            if sleeper is not self.clock.sleeper:
                self.clock.wake(sleeper, self.clock.seconds + left / self._rate)


class Model(NamedTuple):
    """What a preset's clip takes of a card, in seconds."""

    work: float
    load: float
    swap: float = 0.0
    """Of an expert, where two take turns: each round has two."""


class Times(NamedTuple):
    """Seconds that the work on a clip of ``CLIP_SECONDS`` takes when nothing else wants the card or the cores."""

    models: dict[str, Model]
    check: float
    """Checking and writing base frames, on one core, beside the next clip's work."""
    network: float
    """The frames between, on a card; 0 where they are made on the processor."""
    flow: float
    """The same on ``width`` cores; 0 where they are made on a card."""
    film: float
    qa: float
    encode: float
    width: float
    """Cores that the last four use."""
    handoff: float
    """Rename, fsync and all: on nothing's account, but waited for."""
    look: float
    """Seeing one clip that waits for base frames, each time that one is claimed."""


class Wanted(NamedTuple):
    """A clip that will be dropped."""

    model: str
    seconds: float
    toil: float = 1.0
    """By how much encoding it takes longer than another."""


class Batch(NamedTuple):
    """Clips that come together."""

    at: float
    clips: Sequence[Wanted]


@dataclass(frozen=True)
class Server:
    """What is bought and what is set."""

    cards: int
    times: Times
    cores: float = 16.0
    bounds: RoomBounds = field(default_factory=RoomBounds)
    generators: Sequence[str] = ()
    """The workers that generate, named as in the settings; without any, one a card."""
    interpolators: Sequence[str] = ()
    """Those that interpolate; without any, one a card."""
    encoders: int = 0
    """How many encode; 0 is one a card. There is one of QA for every four cards."""
    in_turn: bool = False
    """Whether clips are taken as they came, whatever model is loaded."""

    @property
    def each(self) -> list[str]:
        """The names of the cards."""
        return [f"gpu{card}" for card in range(self.cards)]

    @property
    def settings(self) -> Settings:
        """As a home's file would have them."""
        names = {"generate": list(self.generators or self.each), "interpolate": list(self.interpolators or self.each)}
        names["encode"] = [f"cpu{number}" for number in range(self.encoders or self.cards)]
        names["qa"] = [f"cpu{number}" for number in range(math.ceil(self.cards / 4))]
        return Settings.model_construct(
            rooms=RoomSettings(bounds=self.bounds, workers=RoomWorkers(**names)),
            disk=DiskSettings(low_water_mb=0, high_water_mb=0),
            daemons=DaemonSettings(poll=True, poll_seconds=LOOK_SECONDS, watchdog_seconds=3 * LOOK_SECONDS),
        )


@dataclass
class Day:
    """What came of it; moments are seconds since the first batch might have come."""

    server: Server
    arrived: dict[str, float] = field(default_factory=dict)
    delivered: dict[str, float] = field(default_factory=dict)
    depths: dict[str, list[tuple[float, int]]] = field(default_factory=lambda: {stage: [(0.0, 0)] for stage in STAGES})
    """How many clips wait in each room, each time that it changes."""
    cards: list[Shared] = field(default_factory=list)
    cores: Shared | None = None
    failures: list[str] = field(default_factory=list)

    @property
    def makespan(self) -> float:
        """From the first clip in to the last one out."""
        return max(self.delivered.values()) - min(self.arrived.values())

    @property
    def latencies(self) -> list[float]:
        """Seconds from a clip's batch in the inbox to its result in the outbox, the quickest first."""
        return sorted(at - self.arrived[clip] for clip, at in self.delivered.items())

    def latency(self, share: float) -> float:
        """So many of the clips were out after so long."""
        return self.latencies[min(len(self.delivered) - 1, int(share * len(self.delivered)))]

    def busy(self, kind: str | None = None) -> float:
        """Share of all cards' time that was spent on one kind of work, or on any."""
        spent = sum(sum(card.busy.values()) if kind is None else card.busy.get(kind, 0.0) for card in self.cards)
        return spent / (len(self.cards) * self.makespan)

    @property
    def per_minute(self) -> float:
        """Clips a minute."""
        return 60 * len(self.delivered) / self.makespan

    @property
    def full(self) -> tuple[float, float]:
        """The time in which the queue was full: from the first base frames to where no clip waits for any."""
        waits = self.depths["generate"]
        return min(at for at, depth in self.depths["interpolate"] if depth), next(
            at for at, depth in reversed(waits) if depth
        )

    @property
    def waiting(self) -> float:
        """Share of that time in which a card did nothing, the mean of those that generate."""
        begin, end = self.full
        cards = [self.cards[number_of(name)] for name in self.server.generators or self.server.each]
        return sum(card.idle(begin, end) for card in cards) / (len(cards) * (end - begin))


class _ClockWake(Wake):
    """A wake whose waiting is on the virtual clock."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._set = False
        self._waits: Sleeper | None = None

    def set(self) -> None:
        """Wake the loop."""
        self._set = True
        if self._waits is not None:
            self._clock.wake(self._waits, self._clock.seconds)

    def wait(self, seconds: float, also: Sequence[int] = ()) -> bool:  # noqa: ARG002 - there is nothing else here
        """Wait until set, or for so long; True where it was the first."""
        if not self._set:
            self._waits = self._clock.sleeper
            self._clock.sleep(seconds)
            self._waits = None
        found, self._set = self._set, False
        return found

    def close(self) -> None:
        """Nothing to give back."""


class _Life(Runtime):
    """A daemon's life on the virtual clock; its chores are nobody's."""

    def __init__(self, name: str, home: Home, settings: Settings, clock: Clock) -> None:
        super().__init__(name, home.gpu.state, settings.daemons, _silent(), clock)
        self.wake.close()
        self.wake = _ClockWake(clock)

    def every(self, seconds: float, name: str, do: Callable[[], None]) -> Chore:  # noqa: ARG002 - never
        """Do it never."""
        return super().every(math.inf, name, do)


class _Worker(StageDaemon):
    """What the workers of all rooms have in common here: where they are, and what a hand-off costs."""

    house: House

    def publish(self, folder: ClipFolder) -> None:
        """Hand on, in the time that it takes."""
        self.house.clock.sleep(self.house.server.times.handoff)
        super().publish(folder)


class _Loaded:
    """A worker's models: which of them is loaded."""

    def __init__(self, first: str) -> None:
        self.loaded = first

    def refuse_what_does_not_fit(self, _plan: object) -> None:
        """All fit."""


@dataclass(frozen=True)
class _Job:
    """What stands for a prepared clip."""

    plan: object = None
    report: object = None


class _Generate(_Worker, GenerateDaemon):
    """The real order, rounds, companions and charges; the generator's seconds."""

    def __init__(self, house: House, worker: str, runtime: Runtime) -> None:
        self.house = house
        super().__init__(house.home, house.settings, worker, runtime)
        self._models: Any = _Loaded(house.first)
        self._card = house.card(worker)

    def _warm_up(self) -> None:
        """The day begins with a model in every card."""

    def order(self, waiting: list[Any]) -> list[Any]:
        """The daemon's, or none; seen in the time that it takes."""
        self.house.clock.sleep(self.house.server.times.look * len(waiting))
        return waiting if self.house.server.in_turn else super().order(waiting)

    def _prepared(self, name: str) -> Any:  # noqa: ARG002 - all are alike
        return _Job()

    def _round(self, hands: dict[str, InHand]) -> None:
        """One clip after the other; of two experts the first for all, then the second for each."""
        name = next(iter(hands.values())).folder.clip.entry.generation_params.model
        model = self.house.server.times.models[name]
        if self._models.loaded != name:
            self._card.work("load", model.load)
            self._models.loaded = name
        passes = 2 if model.swap else 1
        for number in range(passes):
            if model.swap:
                self._card.work("swap", model.swap)
            for hand in list(hands.values()):
                self._charge(hand.folder)
                self._card.work("generate", model.work / passes * _scale(hand.folder))
                if number == passes - 1:
                    del hands[hand.folder.clip.clip_id]
                    hand.kept = Future()
                    self._writing.append(hand)
                    self.house.clock.spawn(partial(self._keep, hand))
                    self._hand_on_written()

    def _keep(self, hand: InHand) -> None:
        """Check and write a clip, while the card makes the next."""
        self.house.cores.work("check", self.house.server.times.check * _scale(hand.folder))
        assert hand.kept is not None
        hand.kept.set_result({"frames": 0})
        self.runtime.wake.set()

    def _hand_on_written(self, *, wait: bool = False) -> None:
        while wait and not all(hand.kept is None or hand.kept.done() for hand in self._writing):
            self.runtime.wake.wait(math.inf)
        super()._hand_on_written(wait=wait)


class _Interpolate(_Worker, InterpolateDaemon):
    """A network on a card, or ``flow`` on the processor; then the camera's path."""

    def __init__(self, house: House, worker: str, runtime: Runtime) -> None:
        self.house = house
        super().__init__(house.home, house.settings, worker, runtime)
        self._name = worker

    def work(self, folder: ClipFolder, report: Report) -> dict[str, Any]:  # noqa: ARG002 - nobody cancels here
        """Wait so long."""
        times, scale = self.house.server.times, _scale(folder)
        if times.network:
            self.house.card(self._name).work("interpolate", times.network * scale)
        self.house.cores.work("interpolate", (times.flow + times.film) * scale, times.width)
        return {}


class _Qa(_Worker, QaDaemon):
    """Everything passes."""

    def __init__(self, house: House, worker: str, runtime: Runtime) -> None:
        self.house = house
        super().__init__(house.home, house.settings, worker, runtime)

    def work(self, folder: ClipFolder, report: Report) -> dict[str, Any]:  # noqa: ARG002 - nobody cancels here
        """Wait so long."""
        times = self.house.server.times
        self.house.cores.work("qa", times.qa * _scale(folder), times.width)
        folder.clip.qa = QaReport(verdict="pass", screened="nothing")
        return {}


class _Encode(_Worker, EncodeDaemon):
    """A file of nothing, delivered by the real delivery."""

    def __init__(self, house: House, worker: str, runtime: Runtime) -> None:
        self.house = house
        super().__init__(house.home, house.settings, worker, runtime)

    def work(self, folder: ClipFolder, report: Report) -> dict[str, Any]:  # noqa: ARG002 - nobody cancels here
        """Wait so long."""
        times, toil = self.house.server.times, self.house.toil[folder.clip.clip_id]
        self.house.cores.work("encode", times.encode * toil * _scale(folder), times.width)
        fsops.write(folder.path / delivery.VIDEO_FILE, b"no video")
        return {"proof": {}}


_MAKERS: dict[str, Callable[[House, str, Runtime], _Worker]] = {
    "generate": _Generate,
    "interpolate": _Interpolate,
    "qa": _Qa,
    "encode": _Encode,
}


class House:
    """A server's half of a home, its workers, and the day that they have."""

    def __init__(self, root: Path, server: Server, batches: Sequence[Batch]) -> None:
        self.server = server
        self.settings = server.settings
        self.home = Home(root)
        self.clock = Clock()
        self.cores = Shared(self.clock, server.cores)
        self.cards = [Shared(self.clock) for _ in range(server.cards)]
        self.first = batches[0].clips[0].model
        self.toil: dict[str, float] = {}
        self.day = Day(server, cards=self.cards, cores=self.cores)
        self._batches = batches
        self._count = sum(len(batch.clips) for batch in batches)
        self._lives: list[tuple[frozenset[Path], Runtime]] = []
        self._rooms = {self.home.gpu.rooms / stage / "ready": stage for stage in STAGES}

    def card(self, worker: str) -> Shared:
        """The card that a worker's name means."""
        return self.cards[number_of(worker)]

    def live(self) -> Day:
        """Let all batches come, and all clips of them be made."""
        fsops.confine(self.home.root)
        self.home.prepare(self.home.gpu)
        for stage in STAGES:
            for name in self.settings.rooms.workers.of(stage):
                life = _Life(f"{stage}@{name}", self.home, self.settings, self.clock)
                worker = _MAKERS[stage](self, name, life)
                self._lives.append((frozenset(hint.folder for hint in worker.hints), life))
                self.clock.spawn(lambda worker=worker: run(worker))  # type: ignore[misc]
        self.clock.spawn(self._drop)
        with _watched(self._moved):
            self.clock.run()
        self.day.failures = [path.name for path in self.home.gpu.failed.iterdir()]
        return self.day

    def _drop(self) -> None:
        """Put the batches into the inbox at their time, and let the real admission take them in."""
        admission = Admission(self.home.gpu, self.settings, room_of(self.home.gpu, "generate", self.settings))
        for number, batch in enumerate(self._batches):
            self.clock.sleep(max(0.0, batch.at - self.clock.seconds))
            arrival = admission.open(_packed(self.home, number, batch.clips))
            ack = admission.admit(arrival)
            for outcome, wanted in zip(ack.entries, batch.clips, strict=True):
                assert outcome.clip_id, outcome.findings
                self.day.arrived[outcome.clip_id] = self.clock.seconds
                self.toil[outcome.clip_id] = wanted.toil
            for _ in admission.finish():
                self.clock.sleep(self.server.times.handoff)

    def _moved(self, source: Path, target: Path) -> None:
        """Note what a rename changes, and wake whom it concerns, as events of the file system do."""
        if not source.exists():  # another was quicker
            return
        for place, change in ((source.parent, -1), (target.parent, 1)):
            if stage := self._rooms.get(place):
                depths = self.day.depths[stage]
                depths.append((self.clock.seconds, depths[-1][1] + change))
            for folders, life in self._lives:
                if place in folders:
                    life.wake.set()
        if target.parent.parent == self.home.gpu.outbox and target.parent.name != "acks":
            self.day.delivered[target.name] = self.clock.seconds
            if len(self.day.delivered) == self._count:
                for _, life in self._lives:
                    life.stop()


def number_of(worker: str) -> int:
    """The number of the card that a worker's name means."""
    return int(card_of(worker) or "0")


def at_once(wanted: Sequence[Wanted], size: int = 50) -> list[Batch]:
    """Everything at the beginning, in batches of so many."""
    return [Batch(0.0, wanted[start : start + size]) for start in range(0, len(wanted), size)]


def through_the_day(wanted: Sequence[Wanted], hours: float, size: int, seed: int = 0) -> list[Batch]:
    """Batches of so many, at any time of a working day."""
    dice = random.Random(seed)  # noqa: S311 - no secret
    count = math.ceil(len(wanted) / size)
    times = sorted(dice.uniform(0.0, 3600 * hours) for _ in range(count))
    return [Batch(at, wanted[number * size : (number + 1) * size]) for number, at in enumerate(times)]


def pass_day(root: Path, server: Server, batches: Sequence[Batch]) -> Day:
    """A day on a server, in an empty folder."""
    return House(root, server, batches).live()


def _scale(folder: ClipFolder) -> float:
    return folder.clip.entry.motion.duration_sec / CLIP_SECONDS


def _packed(home: Home, number: int, clips: Sequence[Wanted]) -> Path:
    """A batch in the inbox, as the courier leaves it."""
    picture = io.BytesIO()
    Image.new("RGB", (128, 72), (90, 120, 150)).save(picture, "PNG")
    data = picture.getvalue()
    batch_id = f"20261122_{number // 3600:02d}{number // 60 % 60:02d}{number % 60:02d}"
    entries = []
    folder = home.gpu.inbox / batch_id
    folder.mkdir(parents=True)
    for place, clip in enumerate(clips, 1):
        motion = Motion(type=MotionType.static, start_rect=FULL, end_rect=FULL, duration_sec=clip.seconds)
        name = f"{place:03d}.png"
        (folder / name).write_bytes(data)
        file = PayloadFile(name=f"k{place}.png", path=name, size=len(data), sha256=hashlib.sha256(data).hexdigest(),
                          inode=place, mtime_ns=0)  # fmt: skip
        entries.append(Keyframe(image_path=f"__video_keyframes/k{place}.png", motion=motion, files=[file],
                                generation_params=GenerationParams(model=clip.model)))  # fmt: skip
    manifest = Manifest(project_id="day", batch_id=batch_id, keyframes=entries)
    (folder / MANIFEST_FILE).write_bytes(manifest.to_json())
    return folder


def _silent() -> Any:
    def drop(_logger: object, _method: str, _event: Any) -> Any:
        raise structlog.DropEvent

    return structlog.wrap_logger(structlog.PrintLogger(), processors=[drop], wrapper_class=structlog.BoundLogger)


@contextmanager
def _watched(moved: Callable[[Path, Path], None]) -> Iterator[None]:
    """Hear of every rename; one that is about to be made is made by who runs, before anybody else runs."""

    def hear(name: str, paths: tuple[Path, ...]) -> None:
        if name == "rename":
            moved(*paths)

    before, fsops.seam = fsops.seam, hear
    try:
        yield
    finally:
        fsops.seam = before
