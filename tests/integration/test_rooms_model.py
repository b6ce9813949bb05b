"""Whatever happens in whatever order, and whoever dies at which step: each clip is in its one place, and arrives once.

A state machine over both halves: the real daemons of the hot folder, the courier and the inbox, and one a room whose
work is nothing. ``MODEL_TIMES=50`` plays fifty times as many games as the suite does, others each time.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from pathlib import Path
from typing import Any, ClassVar

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test

from core import delivery, fsops
from core.admission import Admission
from core.contract import Clip, QaReport, VideoMeta, load
from core.errors import DiskFull, DropreelError, Refused
from core.home import STAGES
from core.rooms import CANCEL_FILE, CLIP_FILE, PAUSED_FILE, ClipFolder
from core.work import Report
from daemons.runtime import AGAIN, Daemon
from daemons.stage import StageDaemon, room_of
from tests.house import TINY, House, picture
from tests.invariants import PUBLISHED, check_always, check_once
from tests.unit.living import LOOK_SECONDS, Killed, die_at

TIMES = int(os.environ.get("MODEL_TIMES", "1"))
REAL = ("keyframes", "courier", "intake")
CLIPS = 4
PICKS = st.integers(0, 1000)
PICTURES = {f"clip_{number}.png": picture(number, (48, 32)) for number in range(CLIPS)}
SETTINGS = TINY + "[rooms]\nmax_attempts = 1000\nbounds = { interpolate = 1, qa = 1, encode = 2 }\n"


class Light(StageDaemon):
    """A worker of a room whose work is one small file; it goes wrong when it is told to."""

    stage = ""
    done = "clip.worked_on"
    trouble: ClassVar[dict[str, str]] = {}
    """What goes wrong with the next work, by room."""

    def __init__(self, house: House, stage: str) -> None:
        self.stage = stage  # type: ignore[misc]  # one class for the four rooms
        super().__init__(house.home, house.settings, "cpu0", house._runtime(f"{stage}@cpu0"))

    def work(self, folder: ClipFolder, report: Report) -> dict[str, Any]:
        """Make what the stage makes, or what was asked for."""
        report(0.0)
        fsops.write(folder.path / f"{self.stage}.bin", self.stage.encode() * 100)
        match self.trouble.pop(self.stage, None):
            case "refused":
                raise Refused.because("refused", "It cannot be made.")
            case "fails":
                raise RuntimeError("a fault")
            case "disk full":
                raise DiskFull
            case "stopped":
                self.runtime.stopping = True
                report(0.5)
        if self.stage == "qa":
            folder.clip.qa = QaReport(verdict="pass", screened="nothing")
        if self.stage == "encode":
            fsops.write(folder.path / delivery.VIDEO_FILE, folder.clip.clip_id.encode())
        return {"proof": {}}

    def publish(self, folder: ClipFolder) -> None:
        """On to the next room, or out."""
        if self.next is None:
            delivery.deliver(folder, self.home)
            self.log.info(PUBLISHED, clip=folder.clip.clip_id)
        else:
            super().publish(folder)


class Rooms(RuleBasedStateMachine):
    """The home, what was dropped into it, and what may have failed."""

    def __init__(self) -> None:
        super().__init__()
        self.root = Path(tempfile.mkdtemp(prefix="dropreel-model-"))
        self.house = House(self.root / "home", SETTINGS)
        self.home = self.house.home
        self.daemons: dict[str, Daemon] = {}
        self.dropped: dict[str, bytes] = {}
        self.may_fail: set[str] = set()
        self.delivered: set[str] = set()
        for name in (*REAL, *STAGES):
            self._start(name)
        self.drop()
        self.drop()
        self._live(20, REAL)

    def _start(self, name: str) -> None:
        """As a new process, which knows nothing but what lies in the folders."""
        if name in REAL:
            self.house.start(name)
            (self.daemons[name],) = self.house.daemons
        else:
            self.daemons[name] = Light(self.house, name)

    def _end(self, name: str) -> None:
        """What the kernel does when a process is gone: its locks are free."""
        daemon = self.daemons.pop(name)
        daemon.close()
        daemon.runtime.wake.close()

    def _step(self, name: str) -> float:
        """A step as ``runtime.run`` takes it: trouble is waited out, a stop ends the process."""
        try:
            delay = self.daemons[name].step()
        except (DropreelError, OSError):
            delay = LOOK_SECONDS
        if self.daemons[name].runtime.stopping:
            self._end(name)
            self._start(name)
        return delay

    def _clips(self) -> dict[Path, Clip]:
        found = {}
        for room in STAGES:
            for path in [*self.home.gpu.rooms.glob(f"{room}/ready/*"), *self.home.gpu.rooms.glob(f"{room}/active/*/*")]:
                with contextlib.suppress(OSError, Refused):
                    found[path] = load(Clip, path / CLIP_FILE)
        return found

    # What people do

    @precondition(lambda self: len(self.dropped) < CLIPS)
    @rule()
    def drop(self) -> None:
        """Drop the next picture."""
        name = f"clip_{len(self.dropped)}.png"
        self.dropped[name] = PICTURES[name]
        self.house.drop(name.removesuffix(".png"), PICTURES[name])

    @rule(number=st.integers(0, 3 * CLIPS))
    def cancel(self, number: int) -> None:
        """Cancel a clip, now and then, where it is in a room for the first time."""
        for path, clip in self._clips().items():
            if clip.entry.stem == f"clip_{number}" and clip.run == 1:
                (path / CANCEL_FILE).touch()
                self.may_fail.add(clip.entry.stem)

    @rule()
    def retry(self) -> None:
        """Make the failed clips again."""
        admission = Admission(
            self.home.gpu, self.house.settings, room_of(self.home.gpu, "generate", self.house.settings)
        )
        for failed in admission.failed():
            admission.retry(failed)

    @rule(room=st.sampled_from(STAGES))
    def pause_or_resume(self, room: str) -> None:
        """Hold a room, or let it go on."""
        mark = self.home.gpu.rooms / room / PAUSED_FILE
        if mark.exists():
            mark.unlink()
        else:
            mark.touch()

    # What passes

    def _busy(self, pick: int) -> str:
        """One of the daemons that may have something to do, those of rooms with clips before all."""
        rooms = sorted({path.relative_to(self.home.gpu.rooms).parts[0] for path in self._clips()})
        names = [*rooms, *rooms, *REAL]
        return names[pick % len(names)]

    @rule(pick=PICKS, steps=st.integers(1, 3))
    def work(self, pick: int, steps: int) -> None:
        """Let one daemon do some of its work."""
        name = self._busy(pick)
        for _ in range(steps):
            self._step(name)

    @rule(seconds=st.sampled_from((3.0, 20.0, 200.0)))
    def carry(self, seconds: float) -> None:
        """Let drops settle, and the halves tell each other what there is."""
        self._live(seconds, REAL)

    def _live(self, seconds: float, names: tuple[str, ...]) -> None:
        end = self.house.clock.seconds + seconds
        while True:
            delays = [self._step(name) for name in names]
            if AGAIN not in delays:
                if self.house.clock.seconds >= end:
                    return
                self.house.clock.seconds = min(end, self.house.clock.seconds + max(0.05, min(LOOK_SECONDS, *delays)))

    # What goes wrong

    @precondition(lambda self: self._clips())
    @rule(pick=PICKS, trouble=st.sampled_from(("fails", "stopped", "disk full", "fails", "refused")))
    def go_wrong(self, pick: int, trouble: str) -> None:
        """The next clip of a room goes wrong; for good only in its first run."""
        clips = self._clips()
        rooms = sorted({path.relative_to(self.home.gpu.rooms).parts[0] for path in clips})
        room = rooms[pick % len(rooms)]
        here = [clip for path, clip in clips.items() if path.is_relative_to(self.home.gpu.rooms / room)]
        if trouble == "refused":
            if any(clip.run > 1 for clip in here):
                return
            self.may_fail |= {clip.entry.stem for clip in here}
        Light.trouble[room] = trouble
        self._step(room)
        Light.trouble.clear()

    @rule(pick=PICKS, at=st.integers(0, 12))
    def die(self, pick: int, at: int) -> None:
        """Kill a daemon at the n-th file-system step from now, if its next steps come so far; start it again."""
        name = self._busy(pick)
        fsops.seam = die_at(at)
        try:
            for _ in range(2):
                self._step(name)
        except Killed:
            fsops.seam = None
            self._end(name)
            self._start(name)
        finally:
            fsops.seam = None

    # What always holds

    @invariant()
    def all_is_where_it_must_be(self) -> None:
        """The design's invariants; and what has arrived stays."""
        check_always(self.home, self.dropped)
        arrived = {load(VideoMeta, path).entry.stem for path in self.home.mac.results.glob("*/*.video_meta.json")}
        assert arrived >= self.delivered
        self.delivered = arrived

    def teardown(self) -> None:
        """With nothing in the way all clips come to their end."""
        try:
            for room in STAGES:
                (self.home.gpu.rooms / room / PAUSED_FILE).unlink(missing_ok=True)
            for _ in range(3):  # an answer that was lost is asked for again after resend_seconds
                self._live(100, (*REAL, *STAGES))
            check_always(self.home, self.dropped)
            metas = [load(VideoMeta, path) for path in self.home.mac.results.rglob("*.video_meta.json")]
            well = [meta.entry.stem for meta in metas if meta.outcome == "pass"]
            ill = {meta.entry.stem for meta in metas if meta.outcome == "fail"}
            assert len(well) == len(set(well)), "a drop has one result"
            check_once(self.house.events)
            assert set(well) | ill == {name.removesuffix(".png") for name in self.dropped}
            assert ill <= self.may_fail, "and fails only where it was made to"
            gpu = self.home.gpu
            assert not self._clips()
            assert not [path for path in gpu.rooms.rglob("*") if path.is_file()]
            assert not list(gpu.outbox.glob("2*/*"))
            assert not list(self.home.mac.outbox.iterdir())
            failed = {load(Clip, path / CLIP_FILE).entry.stem for path in gpu.failed.iterdir()}
            assert failed == ill - set(well)
        finally:
            for name in list(self.daemons):
                self._end(name)
            shutil.rmtree(self.root)


@pytest.mark.timeout(60 if TIMES == 1 else 36_000)
def test_each_clip_is_in_its_place_whatever_happens(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fsops, "_flush", lambda fd: None)  # a kill is no power cut: those are test_crash_points'
    run_state_machine_as_test(
        Rooms,
        settings=settings(
            max_examples=12 * TIMES,
            stateful_step_count=40,
            derandomize=TIMES == 1,
            deadline=None,
            suppress_health_check=list(HealthCheck),
        ),
    )


def test_a_game_in_which_a_clip_is_made_twice_is_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    """A worker lets a copy of a clip lie where it took it: no folder tells of it, once both are through."""
    monkeypatch.setattr(fsops, "_flush", lambda fd: None)
    game = Rooms()
    ready, saved = game.home.gpu.rooms / "encode" / "ready", game.root / "saved"
    while not (waiting := list(ready.iterdir())):
        game._live(1, (*REAL, "generate", "interpolate", "qa"))
    shutil.copytree(waiting[0], saved)
    game._live(100, (*REAL, *STAGES))
    saved.rename(waiting[0])
    game.all_is_where_it_must_be()
    with pytest.raises(AssertionError, match=f"clip.delivered {waiting[0].name}: 2 times"):
        game.teardown()
