"""Real daemons of two machines, an sshd between them, and all that befalls them by a schedule."""

from __future__ import annotations

import contextlib
import datetime as dt
import errno
import hashlib
import heapq
import itertools
import json
import os
import random
import shutil
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

from core.contract import BATCH_ID_FORMAT
from core.errors import Refused
from core.home import MANIFEST_FILE, STAGES, GpuHalf, MacHalf
from tests.acceptance.processes import SMALL
from tests.chaos.cast import Cast, Player, go_on, halt, send
from tests.chaos.faults import WELL
from tests.chaos.schedule import Act
from tests.house import SIDECAR, picture
from tests.integration.machines import Machines
from tests.invariants import Halves, check_claims, check_manifests, check_whole, left_on_the_way

SETTINGS = SMALL.replace("[64, 96]", "[64, 128]").replace("[96, 64]", "[128, 64]").replace(
    "[hot_folder]", "[hot_folder]\nsidecar_required = true\nbatch_max = 5"
).replace("low_water_mb = 0\nhigh_water_mb = 0", "low_water_mb = 1\nhigh_water_mb = 1") + """
[daemons]
scan_seconds = 2.0
watchdog_seconds = 30.0
[rooms]
max_attempts = 10000
workers = { generate = WORKERS, interpolate = WORKERS, qa = WORKERS, encode = WORKERS }
"""  # fmt: skip
LINK = "bandwidth_kib = 8000\n"
"""So that a large picture is in flight for a while."""
MODEL = "tiny-svd"
SIZE, LARGE = (192, 96), (1800, 900)
LARGE_EVERY = 6
LOOK_SECONDS = 0.04
TEND_SECONDS = 1.0
PATIENCE = 3.0
"""Seconds an act waits for its moment: for a file in flight, for somebody who is connected."""
PATIENCE_FOR_HOLDER = 1.0, 8.0
"""The same for a worker that holds a clip: in one room, and in any."""
BY_HAND = dt.datetime(2025, 1, 1, tzinfo=dt.UTC)
"""The first batch that somebody puts into the server's inbox, as its id says; before any clock of these machines."""


@dataclass
class Drop:
    """A keyframe that was dropped."""

    name: str
    sha256: str
    at: float
    """Wall-clock seconds."""
    by_hand: bool = False


@dataclass
class Tally:
    """What has been done to the machines."""

    kills: Counter[str] = field(default_factory=Counter)
    """By room, or by daemon; what a daemon had started as ``encode: ffmpeg``."""
    holding: Counter[str] = field(default_factory=Counter)
    """Those of them that met a worker with a clip in its hands."""
    faults: Counter[str] = field(default_factory=Counter)
    missed: Counter[str] = field(default_factory=Counter)
    """Acts that did not find what they were to befall."""
    wrong: list[str] = field(default_factory=list)
    """What was wrong in the midst of it."""


class Conductor:
    """The two machines and what befalls them."""

    def __init__(self, root: Path, workers: int, say: Callable[[str], None]) -> None:
        """With so many workers in each room; ``say`` is told of every act as it happens."""
        names = json.dumps([f"cpu{number}" for number in range(workers)])
        self.machines = Machines(root, SETTINGS.replace("WORKERS", names), look_seconds=2.0, resend_seconds=5.0)
        with (self.machines.mac_root / "dropreel.toml").open("a") as settings:
            settings.write(LINK)
        self.mac = Cast(self.machines.mac_root)
        self.server = Cast(self.machines.server_root)
        self.casts = [self.mac, self.server]
        self.drops: list[Drop] = []
        self.garbage: list[str] = []
        """Names of images that are none: each must end with a reason."""
        self.stray: list[str] = []
        """Names of what is no drop at all, and stays where it was put."""
        self.flipped: set[Path] = set()
        self.tally = Tally()
        self._say = say
        self._undo: list[tuple[float, int, Callable[[], None]]] = []
        self._number = itertools.count()
        self._pause = threading.Event()
        self._begun = time.monotonic()

    @property
    def halves(self) -> Halves:
        """The Mac's half of the one home, the server's of the other."""
        return Halves(self.mac_half, self.gpu_half)

    @property
    def mac_half(self) -> MacHalf:
        """The operator's machine."""
        return self.mac.house.home.mac

    @property
    def gpu_half(self) -> GpuHalf:
        """The server."""
        return self.server.house.home.gpu

    @property
    def seconds(self) -> float:
        """Since the beginning."""
        return time.monotonic() - self._begun

    def teach(self, presets: str) -> None:
        """Give the server a tiny model."""
        (self.machines.server_root / "presets.toml").write_text(presets)

    def run(self, acts: Iterable[Act], seconds: float) -> None:
        """Start all daemons, let everything happen at its moment, or until Ctrl-C; then end what is still wrong."""
        for cast in self.casts:
            cast.start()
        self._begun = time.monotonic()
        with contextlib.suppress(KeyboardInterrupt):  # enough of it: what was done is accounted for all the same
            for act in acts:
                self._wait_until(act.moment)
                dice = random.Random(act.seed)  # noqa: S311 - no secret
                told = getattr(self, "_" + act.kind.replace(" ", "_"))(dice)
                self._say(f"{act.kind}: {told}")
            self._wait_until(seconds)
        while self._undo:
            heapq.heappop(self._undo)[2]()
        for cast in self.casts:
            cast.faults.end(*WELL)

    def settle(self, patience: float) -> bool:
        """Wait until nothing is on the way any more and all has come back; whether that was so in time."""
        deadline = time.monotonic() + patience
        while time.monotonic() < deadline:
            self._tend()
            with contextlib.suppress(FileNotFoundError):
                if not left_on_the_way(self.halves) and not self.unanswered():
                    return True
            self._pause.wait(0.5)
        return False

    def unanswered(self) -> list[str]:
        """The keyframes of which nothing has come back yet."""
        found = {path.name.removesuffix(".video_meta.json") for path in self._metas()}
        refused = {path.name for path in self.mac_half.rejected.glob("*/*")}
        names = [drop.name for drop in self.drops if not {drop.name, f"{drop.name} new name"} & found]
        return names + [name for name in self.garbage if name not in refused]

    def close(self) -> None:
        """Leave nothing alive."""
        for cast in self.casts:
            cast.close()
        self.machines.close()

    def _metas(self) -> list[Path]:
        return list(self.mac_half.results.rglob("*.video_meta.json"))

    def _wait_until(self, moment: float) -> None:
        """Wait for a moment, undoing meanwhile what was to last only so long."""
        while (now := self.seconds) < moment or (self._undo and self._undo[0][0] <= now):
            if self._undo and self._undo[0][0] <= now:
                heapq.heappop(self._undo)[2]()
            else:
                self._tend()
                due = min(moment, now + TEND_SECONDS, self._undo[0][0] if self._undo else moment)
                self._pause.wait(max(0.0, due - now))

    def _tend(self) -> None:
        """A supervisor may end by itself: where it may not take its lock at its start, say."""
        for cast in self.casts:
            if cast.tend():
                self.tally.faults["up started again"] += 1

    def _later(self, seconds: float, undo: Callable[[], None]) -> None:
        heapq.heappush(self._undo, (self.seconds + seconds, next(self._number), undo))

    # What the operator does.

    def _drop(self, dice: random.Random) -> str:
        """Drop a picture of its own, the sidecar before or after it; now and then a large one, or in a folder."""
        number = len(self.drops)
        name = f"drop{number:04d}"
        image = picture(number, LARGE if number % LARGE_EVERY == LARGE_EVERY - 1 else SIZE)
        files = [(f"{name}.png", image), (f"{name}.motion.json", json.dumps(SIDECAR).encode())]
        dice.shuffle(files)
        folder = self._hot(f"day {number}") if dice.random() < 0.1 else self._hot()
        for file, data in files:
            (folder / file).write_bytes(data)
        self.drops.append(Drop(name, hashlib.sha256(image).hexdigest(), time.time()))
        return name

    def _hot(self, below: str = ".") -> Path:
        """The hot folder, made if somebody has just taken it away; or a folder in it."""
        folder = self.mac_half.hot / below
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    def _drop_for_a_model(self, dice: random.Random) -> str:
        """Put a batch into the server's inbox by hand, for the model; the manifest last."""
        number = len(self.drops)
        name = f"hand{number:04d}"
        image = picture(number, SIZE)
        batch = self.gpu_half.inbox / f"{BY_HAND + dt.timedelta(seconds=number):{BATCH_ID_FORMAT}}"
        motion = {"type": "zoom_in", "start_rect": SIDECAR["start_frame"], "end_rect": SIDECAR["end_frame"],
                  "duration_sec": SIDECAR["duration_sec"]}  # fmt: skip
        params = {"model": MODEL, "fps": 10, "seed": dice.randrange(1 << 31), "width": 128, "height": 64}
        entry = {"image_path": f"__video_keyframes/{name}.png", "motion": motion, "generation_params": params}
        manifest = {"project_id": "chaos", "batch_id": batch.name, "keyframes": [entry]}
        batch.mkdir(parents=True, exist_ok=True)
        (batch / f"{name}.png").write_bytes(image)
        (batch / MANIFEST_FILE).write_text(json.dumps(manifest))
        self.drops.append(Drop(name, hashlib.sha256(image).hexdigest(), time.time(), by_hand=True))
        return name

    def _garbage(self, dice: random.Random) -> str:
        """Drop what is no keyframe: noise, half a picture, a sidecar that is none, a link, or nothing of ours."""
        number = next(self._number)
        kind = dice.choice(["noise", "half", "sidecar", "link", "notes", "lone"])
        name = f"{kind}{number:04d}"
        hot = self._hot()
        sidecar = hot / f"{name}.motion.json"
        image = hot / f"{name}.png"
        if kind in {"notes", "lone"}:
            stray = hot / f"{name}.txt" if kind == "notes" else sidecar
            stray.write_bytes(dice.randbytes(500))
            self.stray.append(stray.name)
            return stray.name
        sidecar.write_bytes(dice.randbytes(100) if kind == "sidecar" else json.dumps(SIDECAR).encode())
        whole = picture(100_000 + number, SIZE)
        if kind == "link":
            image.symlink_to("/etc/passwd")
        else:
            image.write_bytes({"noise": dice.randbytes(3000), "half": whole[:-700]}.get(kind, whole))
        self.garbage.append(image.name)
        return image.name

    def _rename(self, dice: random.Random) -> str:
        """Give a drop another name while it lies in the hot folder, the picture first."""
        hot = self.mac_half.hot
        here = [path for path in hot.glob("drop*.png") if "new name" not in path.name] if hot.is_dir() else []
        if not here:
            return self._missed("rename")
        image = dice.choice(here)
        sidecar = image.with_name(f"{image.stem}.motion.json")
        stem = f"{image.stem} new name"

        def follow() -> None:
            """The sidecar; if the daemon was quicker, and has put it away, another."""
            new = self._hot() / f"{stem}.motion.json"
            try:
                sidecar.rename(new)
            except FileNotFoundError:
                new.write_text(json.dumps(SIDECAR))

        try:
            image.rename(image.with_name(f"{stem}.png"))
        except FileNotFoundError:  # the daemon has put it away this moment
            return self._missed("rename")
        self._later(dice.choice([0.0, 0.0, 0.3]), follow)
        self.tally.faults["renamed under the scanner"] += 1
        return stem

    def _missed(self, kind: str) -> str:
        self.tally.missed[kind] += 1
        return "found nothing"

    # Kills.

    def _kill_a_holder(self, dice: random.Random) -> str:
        """Kill a worker that holds a clip: stopped first, looked at, then killed. In one room, or at last in any."""
        room = dice.choice(STAGES)
        begun = time.monotonic()
        one_room, any_room = PATIENCE_FOR_HOLDER
        while (waited := time.monotonic() - begun) < any_room:
            for player in sorted(self.server.holders()):
                if (player.name != room and waited < one_room) or not halt(player.pid):
                    continue
                if self.server.clips_of(player):
                    return self._kill(self.server, player)
                send(player.pid, signal.SIGCONT)
            self._wait_until(self.seconds + LOOK_SECONDS)
        return self._missed("kill a holder")

    def _kill_a_daemon(self, dice: random.Random) -> str:
        """Kill any daemon, whatever it does."""
        players = [(cast, player) for cast in self.casts for player in sorted(cast.players(), key=lambda p: p[1:])]
        if not players:
            return self._missed("kill a daemon")
        cast, player = dice.choice(players)
        halt(player.pid)
        return self._kill(cast, player)

    def _kill(self, cast: Cast, player: Player) -> str:
        clips = cast.clips_of(player)
        if not send(player.pid, signal.SIGKILL):
            return self._missed("kill a daemon")
        self.tally.kills[player.name] += 1
        if clips:
            self.tally.holding[player.name] += 1
        return f"{player.name} {' '.join(clips)}".strip()

    def _kill_a_child(self, dice: random.Random) -> str:
        """Kill what a daemon has started, as soon as there is any."""
        deadline = time.monotonic() + PATIENCE
        casts = dice.sample(self.casts, 2)
        while time.monotonic() < deadline:
            for player, process in (found for cast in casts for found in cast.offspring()):
                with contextlib.suppress(psutil.Error):
                    name = process.name()
                    process.kill()
                    name = "ffmpeg" if name.startswith("ffmpeg") else name
                    self.tally.kills[f"{player.name}: {name}"] += 1
                    return f"{name} of {player.name}"
            self._wait_until(self.seconds + LOOK_SECONDS)
        return self._kill_a_daemon(dice)

    def _reset_machine(self, dice: random.Random) -> str:
        """Kill all of a machine at once, as a reset does, and start it again."""
        cast = dice.choice(self.casts)
        cast.end(signal.SIGKILL)
        self.tally.kills["up"] += 1
        cast.start()
        return cast.house.home.root.name

    def _restart_machine(self, dice: random.Random) -> str:
        """Have a machine's daemons leave in order, and start it again."""
        cast = dice.choice(self.casts)
        go_on(cast.everyone())
        if cast.end(signal.SIGTERM) is None:
            self.tally.wrong.append(f"{cast.house.home.root.name}: its supervisor did not leave when told")
            cast.end(signal.SIGKILL)
        self.tally.faults["machine restarted"] += 1
        cast.start()
        return cast.house.home.root.name

    # Other faults.

    def _stop(self, dice: random.Random) -> str:
        """Stop a daemon, or what it has started, for a while; the longest are for the watchdog."""
        pids = [pid for cast in self.casts for pid in sorted(cast.everyone())[1:]]
        if not pids:
            return self._missed("stop")
        return self._hold_still([dice.choice(pids)], dice.choice([0.3, 1.0, 3.0, 35.0]), "process stopped for a while")

    def _freeze_machine(self, dice: random.Random) -> str:
        """Stop all of a machine, as its going to sleep does."""
        return self._hold_still(dice.choice(self.casts).everyone(), dice.uniform(0.5, 5.0), "machine frozen")

    def _hold_still(self, pids: list[int], seconds: float, what: str) -> str:
        for pid in pids:
            send(pid, signal.SIGSTOP)
        self._later(seconds, lambda: go_on(pids))
        self.tally.faults[what] += 1
        return f"{len(pids)} for {seconds:.1f} s"

    def _fill_disk(self, dice: random.Random) -> str:
        """Let a machine's disk be full."""
        return self._suffer(dice.choice(self.casts), dice.uniform(0.5, 5.0), "disk full", full=True)

    def _shut_folder(self, dice: random.Random) -> str:
        """Take away the right to a folder."""
        mac, gpu = self.mac_half, self.gpu_half
        rooms = [gpu.rooms / room / part for room in ("generate", "qa", "encode") for part in ("ready", "active")]
        places = [(self.mac, path) for path in (mac.hot, mac.sent, mac.outbox, mac.results, mac.incoming, mac.state)]
        places += [(self.server, path) for path in (*rooms, gpu.inbox, gpu.outbox, gpu.batch_acks, gpu.state)]
        cast, folder = dice.choice(places)
        told = self._suffer(cast, dice.uniform(0.3, 3.0), "permission taken", shut=[str(folder)])
        return f"{folder.name} {told}"

    def _break_disk(self, dice: random.Random) -> str:
        """Let fsync and rename fail with EIO, one in so many."""
        cast = dice.choice(self.casts)
        return self._suffer(cast, dice.uniform(0.5, 4.0), "EIO in fsync and rename", broken=dice.choice([0.05, 0.3, 1]))

    def _set_clock(self, dice: random.Random) -> str:
        """Set a machine's clock forward or back, by seconds or by days."""
        wrong = dice.choice([-1, 1]) * dice.choice([2.0, 90.0, 4000.0, 200_000.0])
        return self._suffer(dice.choice(self.casts), dice.uniform(1.0, 8.0), "clock set", clock=wrong)

    def _suffer(self, cast: Cast, seconds: float, what: str, **faults: Any) -> str:
        cast.faults.tell(**faults)
        self._later(seconds, lambda: cast.faults.end(*faults))
        self.tally.faults[what] += 1
        return f"{cast.house.home.root.name} for {seconds:.1f} s: {faults}"

    def _cut_link(self, dice: random.Random) -> str:
        """Break what is connected."""
        deadline = time.monotonic() + PATIENCE
        while time.monotonic() < deadline:
            if self.machines.sshd.cut():
                self.tally.faults["link cut"] += 1
                return "cut"
            self._wait_until(self.seconds + LOOK_SECONDS)
        return self._missed("cut link")

    def _close_sshd(self, dice: random.Random) -> str:
        """Have nobody listen for a while."""
        sshd = self.machines.sshd
        sshd.stop()
        seconds = dice.uniform(0.5, 5.0)

        def listen() -> None:
            sshd.stop()  # two may have closed it
            sshd.start()

        self._later(seconds, listen)
        self.tally.faults["sshd down for a while"] += 1
        return f"for {seconds:.1f} s"

    def _corrupt(self, dice: random.Random) -> str:
        """Flip a bit of a file that is on its way, and leave its size and time as they were."""
        deadline = time.monotonic() + PATIENCE
        while time.monotonic() < deadline:
            found = self._in_flight()
            if found:
                path = dice.choice(found)
                with contextlib.suppress(FileNotFoundError):
                    self.flipped.add(path)
                    if _flip(path, dice):
                        self.tally.faults["bit flipped in flight"] += 1
                        return "/".join(path.parts[-3:])
            self._wait_until(self.seconds + LOOK_SECONDS)
        return self._missed("corrupt")

    def _in_flight(self) -> list[Path]:
        """Files of batches in the inbox; and of the result that is being fetched, which the courier has yet to check.

        No manifest: that its bytes are those that were sent is for ssh to see to, and nothing else tells.
        """
        try:
            there = [path for path in self.gpu_half.inbox.glob("2*/*") if MANIFEST_FILE not in path.name]
            if any(process.name() == "rsync" for player, process in self.mac.offspring() if player.name == "courier"):
                (*_, newest) = [None, *sorted(self.mac_half.incoming.glob("2*/2*"), key=lambda path: f"{path}/")]
                there += newest.iterdir() if newest is not None else []
        except (OSError, psutil.Error):
            return []
        return sorted(path for path in there if not path.parent.name.startswith("20250101"))

    def _remake_folder(self, dice: random.Random) -> str:
        """Take a watched folder away, and put another with its content in its place a moment later."""
        mac, gpu = self.mac_half, self.gpu_half
        rooms = [gpu.rooms / room / "ready" for room in ("generate", "interpolate", "qa", "encode")]
        folder = dice.choice([mac.hot, mac.hot, mac.outbox, mac.acks, gpu.inbox, *rooms])
        cast = self.mac if folder.is_relative_to(mac.root) else self.server
        away = cast.house.home.root / f"away {next(self._number)}"
        try:
            folder.rename(away)
        except FileNotFoundError:  # it is away already
            return self._missed("remake folder")
        seconds = dice.choice([0.0, 0.2, 1.5])
        self._later(seconds, lambda: _pour(away, folder))
        self.tally.faults["watched folder remade"] += 1
        return f"{folder.name}, away for {seconds} s"

    def _look(self, dice: random.Random) -> str:
        """Stop everything for a moment, and see whether what must hold always, holds."""
        if any("away" in path.name for cast in self.casts for path in cast.house.home.root.iterdir()):
            return self._missed("look")
        sessions = self.machines.sshd.sessions
        pids = [pid for cast in self.casts for pid in cast.everyone()] + [session.pid for session in sessions]
        was = {pid for pid in pids if psutil.pid_exists(pid) and psutil.Process(pid).status() == psutil.STATUS_STOPPED}
        for pid in pids:
            halt(pid)
        try:
            check_whole(self.halves, but_for=self.flipped)
            check_claims(self.halves)
            check_manifests(self.halves, but_for=self.flipped)
        except (AssertionError, Refused, OSError, ValueError) as error:
            self.tally.wrong.append(f"at {self.seconds:.1f} s: {type(error).__name__}: {error}")
        finally:
            go_on(pid for pid in pids if pid not in was)
        self.tally.faults["all frozen and looked at"] += 1
        return "all is as it should be" if not self.tally.wrong else self.tally.wrong[-1]


def _flip(path: Path, dice: random.Random) -> bool:
    """Change one bit of a file behind its own times; False for one that is empty."""
    info = path.stat()
    if info.st_size == 0:
        return False
    place = dice.randrange(info.st_size)
    with path.open("r+b") as file:
        file.seek(place)
        byte = file.read(1)[0]
        file.seek(place)
        file.write(bytes([byte ^ (1 << dice.randrange(8))]))
    os.utime(path, ns=(info.st_atime_ns, info.st_mtime_ns))
    return True


def _pour(source: Path, target: Path) -> None:
    """Put a folder's content into another, which may be there meanwhile, and take the first away."""
    if not target.exists():
        # As a whole, so that what relies on its folders finds all of them, in a folder that is another.
        made = source.with_name(f"{source.name} made")
        made.mkdir()
        for path in source.iterdir():
            path.rename(made / path.name)
        with contextlib.suppress(OSError):  # somebody has made one this moment
            made.rename(target)
            source.rmdir()
            return
        _merge(made, target)
    _merge(source, target)


def _merge(source: Path, target: Path) -> None:
    for path in list(source.iterdir()):
        other = target / path.name
        try:
            path.rename(other)
        except OSError as error:
            if error.errno not in {errno.ENOTEMPTY, errno.EEXIST}:
                raise
            _merge(path, other)
    shutil.rmtree(source)
