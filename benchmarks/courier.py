"""The courier against plain ``rsync -a`` of the same trees, through the same sshd on loopback with the same keys.

    python -m benchmarks.courier [--batches N] [--results N] [--rounds N]

Out: batches of pictures, until the last manifest is in the inbox. Back: results, until each is verified, fsynced, in
its place, and acknowledged; the plain rsync only copies them. Once as fast as two cores encrypt, which hides nothing
of our own work, and once at the speed of a good line.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import shutil
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from benchmarks.rows import Row, table
from core import fsops
from core.contract import DeliveredFile, GenerationParams, Keyframe, Motion, VideoMeta
from core.delivery import META_FILE, VIDEO_FILE
from core.home import MANIFEST_FILE
from core.ssh import INBOX, OUTBOX
from daemons.courier import CourierDaemon
from tests.house import House
from tests.integration.machines import Machines

BATCH = 50
PICTURE_BYTES = 1 << 20
LINE_KIB = 25000
CLIP_BYTES = 3 << 20
"""About what 6 s at 1024×576 and crf 18 are of a photograph."""


def run(batches: int = 16, results: int = 100, rounds: int = 3) -> list[Row]:
    """Seconds for each way; the two sides take turns."""
    out: list[tuple[float, float]] = []
    back: list[tuple[float, float]] = []
    line: list[tuple[float, float]] = []
    with tempfile.TemporaryDirectory(prefix=".bench-", dir=Path.cwd()) as name:  # /tmp may be no disk at all
        machines = Machines(Path(name))
        try:
            for number in range(rounds):
                out.append(_out(machines, batches, number))
                back.append(_back(machines, results, number))
                line.append(_back(machines, results // 2, number + 5, LINE_KIB))
        finally:
            machines.close()
    size_out, size_back = batches * BATCH * PICTURE_BYTES >> 20, results * CLIP_BYTES >> 20
    return [
        _row(f"courier out, {batches * BATCH} pictures in {batches} batches, {size_out} MiB, s (rsync -a)", out),
        _row(f"courier back, {results} results, {size_back} MiB, verified, fsynced, acknowledged, s (rsync -a)", back),
        _row(f"the same, {results // 2} results over a line of 200 Mbit/s, s (rsync -a)", line),
    ]


def _row(figure: str, turns: list[tuple[float, float]]) -> Row:
    ours, theirs = (statistics.median(side) for side in zip(*turns, strict=True))
    return Row(figure, ours, theirs, statistics.median(us / them for us, them in turns), 1.25)


def _out(machines: Machines, batches: int, number: int) -> tuple[float, float]:
    mac = _house(machines)
    for batch in range(batches):
        folder = mac.home.mac.outbox / f"20261122_1{number}{batch:02d}00"
        folder.mkdir()
        for picture in range(BATCH):
            (folder / f"{picture:03d}.png").write_bytes(os.urandom(PICTURE_BYTES))
        (folder / MANIFEST_FILE).write_text("{}")
    inbox = machines.server_root / "gpu" / "inbox"
    inbox.mkdir(parents=True, exist_ok=True)
    theirs = _seconds(lambda: _plain(mac, f"{mac.home.mac.outbox}/", f"{INBOX}:./"))
    _clear(inbox)
    (inbox / "acks").mkdir()
    (machines.server_root / "gpu/outbox/acks").mkdir(parents=True, exist_ok=True)
    mac.start("courier")
    ours = _seconds(lambda: _step_until(mac, lambda: len(list(inbox.glob(f"2*/{MANIFEST_FILE}"))) == batches))
    assert len(list(inbox.glob("2*/*.png"))) == batches * BATCH
    mac.stop()
    _clear(inbox)
    _clear(mac.home.mac.outbox)
    return ours, theirs


def _back(machines: Machines, results: int, number: int, kib: int = 0) -> tuple[float, float]:
    mac = _house(machines)
    outbox, inbox = machines.server_root / "gpu/outbox", machines.server_root / "gpu/inbox"
    (outbox / "acks").mkdir(parents=True, exist_ok=True)
    (inbox / "acks").mkdir(parents=True, exist_ok=True)
    batch_id = f"20261122_{number:02d}0000"
    for result in range(results):
        _result(outbox, batch_id, result)
    copy = mac.home.mac.root / "copy"
    theirs = _seconds(lambda: _plain(mac, f"{OUTBOX}:./", f"{copy}/", f"--bwlimit={kib}"))
    _clear(copy)
    mac.settings.transport.bandwidth_kib = kib
    mac.start("courier")
    ours = _seconds(lambda: _step_until(mac, lambda: len(list((inbox / "acks").glob("2*"))) == results))
    assert len(list(mac.home.mac.results.rglob("*.mp4"))) == results
    mac.stop()
    for folder in (outbox, inbox, mac.home.mac.results, mac.home.mac.result_acks):
        _clear(folder)
    return ours, theirs


def _house(machines: Machines) -> House:
    house = House(machines.mac_root)
    fsops.confine()
    machines.ssh.write_config(house.home.mac.state)
    return house


def _result(outbox: Path, batch_id: str, number: int) -> None:
    data = os.urandom(CLIP_BYTES)
    stem = f"img_{number:03d}"
    clip_id = f"{batch_id}-{number + 1:03d}-{hashlib.sha256(data).hexdigest()[:8]}"
    folder = outbox / batch_id / clip_id
    folder.mkdir(parents=True)
    (folder / VIDEO_FILE).write_bytes(data)
    view = (0.0, 0.0, 1.0, 1.0)
    motion = Motion.model_validate({"type": "static", "start_rect": view, "end_rect": view, "duration_sec": 6.0})
    params = GenerationParams(model="camera")
    entry = Keyframe(image_path=f"__video_keyframes/{stem}.png", motion=motion, generation_params=params)
    file = DeliveredFile(path=VIDEO_FILE, size=len(data), sha256=hashlib.sha256(data).hexdigest())
    meta = VideoMeta(clip_id=clip_id, run=1, batch_id=batch_id, outcome="pass", entry=entry, seed=1, files=[file],
                     frames=180, fps=30, width=1024, height=576, plan={}, stages={}, versions={})  # fmt: skip
    (folder / META_FILE).write_bytes(meta.to_json())


def _plain(mac: House, source: str, target: str, *options: str) -> None:
    command = ["rsync", "-a", *options, "-e", "ssh -F ssh_config", source, target]
    subprocess.run(command, cwd=mac.home.mac.state, check=True)


def _step_until(mac: House, condition: Callable[[], bool]) -> None:
    (courier,) = mac.daemons
    assert isinstance(courier, CourierDaemon)
    while not condition():
        courier.step()


def _seconds(work: Callable[[], None]) -> float:
    begun = time.perf_counter()
    work()
    return time.perf_counter() - begun


def _clear(folder: Path) -> None:
    for path in folder.iterdir():
        shutil.rmtree(path) if path.is_dir() else path.unlink()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batches", type=int, default=16)
    parser.add_argument("--results", type=int, default=100)
    parser.add_argument("--rounds", type=int, default=3)
    print(table(run(**vars(parser.parse_args()))))
