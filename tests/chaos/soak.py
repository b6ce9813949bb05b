"""Both halves over ssh for as long as one likes, while links are cut and daemons killed at random; then the reckoning.

``python -m tests.chaos.soak FOLDER --minutes 30 --drops 240 --cuts 24 --restarts 24``. The folder is kept.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import random
import signal
import statistics
import subprocess
import sys
import threading
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from core.contract import VideoMeta, load
from tests.acceptance.processes import SMALL, Household
from tests.house import SIDECAR, picture
from tests.integration.machines import Machines
from tests.waiting import until

SETTINGS = SMALL + "\n[daemons]\nscan_seconds = 2.0\n"
LARGE = (1800, 1200)
DOWN_SECONDS = (0.5, 15.0)
"""How long a link stays down that is cut for a while."""


@dataclass
class Reckoning:
    """What was done to the two machines, and what became of the drops."""

    drops: int = 0
    cuts: Counter[str] = field(default_factory=Counter)
    restarts: Counter[str] = field(default_factory=Counter)
    minutes: float = 0.0
    wrong: list[str] = field(default_factory=list)
    """What must not be: a drop lost, made twice, altered; something left lying about."""
    seconds: list[float] = field(default_factory=list)
    """From each drop to its result."""
    links_lost: int = 0
    daemons_started: int = 0

    def __str__(self) -> str:
        ordered = sorted(self.seconds) or [0.0]
        return (
            f"{self.drops} drops, {sum(self.cuts.values())} link cuts {dict(self.cuts)}, "
            f"{sum(self.restarts.values())} restarts {dict(self.restarts)} in {self.minutes:.1f} minutes\n"
            f"drop to result: median {statistics.median(ordered):.1f} s, "
            f"95 of 100 within {ordered[int(len(ordered) * 0.95) - 1]:.1f} s, longest {ordered[-1]:.1f} s\n"
            f"the courier lost the link {self.links_lost} times; {self.daemons_started} daemons were started\n"
            + ("\n".join(self.wrong) if self.wrong else "nothing lost, nothing twice, nothing left over")
        )


class Soak:
    """The two machines and what befalls them."""

    def __init__(self, root: Path, seed: int) -> None:
        self.dice = random.Random(seed)  # noqa: S311 - no secret
        self.machines = Machines(root, SETTINGS, look_seconds=1.0, resend_seconds=5.0)
        self.homes = {"mac": Household(self.machines.mac_root), "server": Household(self.machines.server_root)}
        self.ups: dict[str, subprocess.Popen[str]] = {}
        self.dropped: dict[str, tuple[float, str]] = {}
        self.found = Reckoning()
        self._pause = threading.Event()

    @property
    def mac(self) -> Household:
        """The operator's machine."""
        return self.homes["mac"]

    def run(self, seconds: float, drops: int, cuts: int, restarts: int) -> Reckoning:
        """Let it all happen at random moments, then have the link up and wait until all is quiet."""
        begun = time.monotonic()
        for name in self.homes:
            self.ups[name] = self.homes[name].dropreel("up")
        acts = [self.drop] * drops + [self.cut] * cuts + [self.restart] * restarts
        moments = sorted(((self.dice.uniform(0, seconds), number) for number in range(len(acts))), key=lambda m: m[0])
        for moment, number in moments:
            self._pause.wait(max(0.0, begun + moment - time.monotonic()))
            acts[number]()
        self._pause.wait(max(0.0, begun + seconds - time.monotonic()))
        self._settle(180.0)
        self.found.minutes = (time.monotonic() - begun) / 60
        self._reckon()
        return self.found

    def drop(self) -> None:
        """Drop a picture of its own, the sidecar before or after it."""
        number = len(self.dropped)
        name = f"drop{number:04d}"
        # Now and then one that takes a while on its way, so that a cut falls into the midst of it.
        image = picture(number, LARGE if number % 6 == 5 else (144, 96))
        files = [(f"{name}.png", image), (f"{name}.motion.json", json.dumps(SIDECAR).encode())]
        self.dice.shuffle(files)
        for file, data in files:
            (self.mac.home.mac.hot / file).write_bytes(data)
        self.dropped[name] = time.time(), hashlib.sha256(image).hexdigest()
        self.found.drops += 1

    def cut(self) -> None:
        """Break what is connected; now and then have nobody listen for a while."""
        sshd = self.machines.sshd
        if self.dice.random() < 0.5:
            until(lambda: sshd.sessions, "something is connected", 60.0)
            self.found.cuts["connections killed"] += 1 if sshd.cut() else 0
        else:
            self.found.cuts["sshd down for a while"] += 1
            sshd.stop()
            self._pause.wait(self.dice.uniform(*DOWN_SECONDS))
            sshd.start()

    def restart(self) -> None:
        """Kill one daemon, which its supervisor starts again; or all of a machine's, as by a reset; or stop them."""
        name = self.dice.choice(list(self.homes))
        up = self.ups[name]
        kind = self.dice.choice(["a daemon killed", "a daemon killed", "a machine reset", "a machine restarted"])
        if kind == "a daemon killed":
            daemons = until(psutil.Process(up.pid).children, "daemons run", 30.0)
            self.dice.choice(daemons).kill()
        else:
            up.send_signal(signal.SIGKILL if kind == "a machine reset" else signal.SIGTERM)
            up.wait()
            self.ups[name] = self.homes[name].dropreel("up")
        self.found.restarts[f"{name}: {kind}"] += 1

    def _metas(self) -> dict[str, list[Path]]:
        found: dict[str, list[Path]] = {}
        for path in self.mac.home.mac.results.rglob("*.video_meta.json"):
            found.setdefault(path.name.removesuffix(".video_meta.json"), []).append(path)
        return found

    def _left_over(self) -> list[str]:
        """What is still on its way."""
        mac, gpu = self.mac.home.mac, self.homes["server"].home.gpu
        places = [
            *mac.outbox.glob("2*"),
            *mac.incoming.glob("2*"),
            *mac.result_acks.glob("*.json"),
            *mac.hot.glob("*.png"),
        ]
        places += [*gpu.inbox.glob("2*"), *gpu.rooms.glob("*/ready/2*"), *gpu.rooms.glob("*/active/*/2*")]
        return [str(path) for path in [*places, *gpu.outbox.glob("2*/2*")]]

    def _settle(self, patience: float) -> None:
        deadline = time.monotonic() + patience
        while (self._left_over() or len(self._metas()) < len(self.dropped)) and time.monotonic() < deadline:
            self._pause.wait(0.5)

    def _reckon(self) -> None:
        wrong, metas = self.found.wrong, self._metas()
        wrong += [f"left over: {path}" for path in self._left_over()]
        wrong += [f"came from nowhere: {name}" for name in set(metas) - set(self.dropped)]
        sent = Counter(path.name for path in self.mac.home.mac.sent.glob("*/*.png"))
        clips = Counter(path.stem for path in self.mac.home.mac.results.rglob("*.mp4"))
        for name, (dropped_at, sha256) in self.dropped.items():
            places = metas.get(name, [])
            if [len(places), clips[name], sent[f"{name}.png"]] != [1, 1, 1]:
                wrong.append(f"{name}: {len(places)} results, {clips[name]} clips, {sent[f'{name}.png']} originals")
                continue
            meta = load(VideoMeta, places[0])
            (original,) = self.mac.home.mac.sent.glob(f"*/{name}.png")
            if hashlib.sha256(original.read_bytes()).hexdigest() != sha256:
                wrong.append(f"{name}: its original was altered")
            if (meta.outcome, meta.run) != ("pass", 1):
                wrong.append(f"{name}: {meta.outcome}, run {meta.run}: {meta.failure}")
            clip = places[0].with_name(f"{name}.mp4")
            if hashlib.sha256(clip.read_bytes()).hexdigest() != meta.files[0].sha256:
                wrong.append(f"{name}: its clip is not what the meta says")
            self.found.seconds.append(places[0].stat().st_mtime - dropped_at)
        self.found.links_lost = self._count("mac", "courier.log", "link.lost")
        self.found.daemons_started = sum(self._count(name, "up.log", "supervisor.started") for name in self.homes)

    def _count(self, name: str, log: str, event: str) -> int:
        home = self.homes[name].home
        path = (home.mac if name == "mac" else home.gpu).logs / log
        return path.read_text().count(f" {event} ")

    def close(self) -> None:
        """Stop all of it."""
        for household in self.homes.values():
            household.close()
        self.machines.close()


def main() -> int:
    """Run it from the command line; 1 where anything is wrong."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--minutes", type=float, default=30.0)
    parser.add_argument("--drops", type=int, default=240)
    parser.add_argument("--cuts", type=int, default=24)
    parser.add_argument("--restarts", type=int, default=24)
    parser.add_argument("--seed", type=int, default=int.from_bytes(os.urandom(4)))
    chosen = parser.parse_args()
    sys.stdout.write(f"seed {chosen.seed}\n")
    sys.stdout.flush()
    soak = Soak(chosen.folder, chosen.seed)
    try:
        found = soak.run(chosen.minutes * 60, chosen.drops, chosen.cuts, chosen.restarts)
    finally:
        soak.close()
    sys.stdout.write(f"{found}\n")
    return 1 if found.wrong else 0


if __name__ == "__main__":
    sys.exit(main())
