"""A batch through the rooms, by the real daemons one after another, in a home that lasts as long as the batch."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

from pydantic import ValidationError

from core import cards, fsops, process, receipt, toml
from core.admission import Admission
from core.contract import BatchAck, EntryOutcome, Keyframe, Manifest, Rejection, VideoMeta, load
from core.delivery import VIDEO_FILE
from core.disk import LOW
from core.errors import BadSettings, DiskFull, DropreelError, OutsideZone, ProcessFailed, Refused
from core.generate.presets import PRESETS_FILE, Preset, shipped_presets
from core.home import MANIFEST_FILE, SETTINGS_FILE, STAGES, Home
from core.overview import ServerStatus, results_in, server_status
from core.rooms import CLIP_FILE, Room
from core.settings import NotifySettings, Settings, TransportSettings
from core.settings_errors import PREFIX

Device = Literal["auto", "cuda", "mps", "cpu"]
MAX_ATTEMPTS = 2
"""So often a clip is tried at one stage: somebody is waiting, and what fails twice will fail five times."""
LOOK_SECONDS = 0.2
"""How often the rooms are looked at for whoever watches."""
LOGS = "logs"
"""Where in ``out`` the daemons' logs are left when something failed."""
RETRY = "dropreel retry"
MODEL_PACKAGES = ("torch", "diffusers", "transformers", "accelerate", "safetensors")
"""What every preset but ``camera`` needs, and the extra ``gpu`` brings."""
_FOLDERS = {"pass": ".", "flag": "flagged", "fail": "failed"}


@dataclass(frozen=True)
class Order:
    """One manifest entry, and where the files lie that travel with it."""

    entry: Keyframe
    files: Mapping[str, Path]
    """By the name that each has beside the manifest."""


class Outcome(NamedTuple):
    """What became of one order."""

    entry: Keyframe
    meta: VideoMeta | None
    """None where the rooms never saw it;"""
    refused: list[str]
    """then this is why, a sentence each."""
    place: Path
    """Where its meta lies, or the reason; clip and evidence lie beside it."""

    @property
    def verdict(self) -> str:
        """``pass``, ``flag``, ``fail`` or ``refused``."""
        return self.meta.outcome if self.meta else "refused"

    @property
    def came_out(self) -> bool:
        """Whether there is a clip."""
        return self.verdict in {"pass", "flag"}

    @property
    def reasons(self) -> list[str]:
        """Why it failed or is flagged, a sentence each."""
        if self.meta is None:
            return self.refused
        found = [str(finding) for finding in self.meta.qa.reasons] if self.meta.qa else []
        failure = self.meta.failure
        if failure is not None and not any(failure.message in reason for reason in found):
            # What would be retried is gone with its home.
            remedy = "" if RETRY in (failure.remedy or "") else failure.remedy or ""
            more = f" {remedy}" if remedy not in failure.message else ""
            found.insert(0, f"{failure.stage}: {failure.message}{more}")
        return found


@dataclass(frozen=True)
class Oneshot:
    """How batches are made on this machine, and where to."""

    settings: Settings
    """As of the home that lends them; what would reach beyond the batch (the link, alerts, metrics) is left out."""
    base: Path
    """What ``generation.weights`` is relative to."""
    out: Path
    """Results go here, as ``results/<batch_id>/`` has them on the Mac."""
    environment: Mapping[str, str]
    """Of the daemons, beside this process's own; see ``environment_for``."""
    generation: Mapping[str, object]
    """Keys of ``[generation]`` that this run sets."""
    watch: Callable[[ServerStatus], None]
    """Told a few times a second how the rooms stand. What it raises ends the batch."""
    done: Callable[[Outcome], None]
    """Told of every outcome once it lies in ``out``; of a clip that is made again for its failing QA, of each."""

    def run(self, orders: Sequence[Order], project_id: str, batch_id: str) -> list[Outcome]:
        """Make a batch; the outcomes in the order of the orders. However it ends, no process and no home is left.

        Raises ``DropreelError`` where the rooms come to a halt: settings, a full disk, a daemon that dies at its start.
        """
        fsops.make_folder(self.out)
        with (
            tempfile.TemporaryDirectory(prefix=".dropreel-", dir=self.out, ignore_cleanup_errors=True) as folder,
            _environment(self.environment),
        ):
            batch = _Batch(self, Home(Path(os.path.realpath(folder))), batch_id)
            batch.prepare(orders, project_id)
            try:
                outcomes = batch.make(orders)
            except DropreelError:
                batch.keep_logs()
                raise
            if any(outcome.verdict == "fail" for outcome in outcomes):
                batch.keep_logs()
            return outcomes


class _Batch:
    """One batch, in a home of its own."""

    def __init__(self, plan: Oneshot, home: Home, batch_id: str) -> None:
        self._plan = plan
        self._home = home
        self._batch_id = batch_id
        self._looked = 0.0
        self._found: dict[str, Outcome] = {}
        """By stem; of a clip that was made again, the last."""
        self._admission = Admission(home.gpu, plan.settings, Room(home.gpu.rooms / "generate"))

    def prepare(self, orders: Sequence[Order], project_id: str) -> None:
        """Write the settings, and put the batch into the inbox; the manifest last."""
        fsops.write(self._home.root / SETTINGS_FILE, toml.dumps(self._settings()).encode())
        fsops.write(self._home.root / PRESETS_FILE, presets_text(self._plan.settings.presets).encode())
        gpu, mac = self._home.gpu, self._home.mac
        self._home.prepare(gpu)
        for folder in (mac.results, mac.result_acks):
            fsops.make_folder(folder)
        batch = gpu.inbox / self._batch_id
        fsops.make_folder(batch)
        for name, path in {name: path for order in orders for name, path in order.files.items()}.items():
            fsops.copy(Path(os.path.realpath(path)), batch / name)
        entries = [order.entry for order in orders]
        try:
            manifest = Manifest(project_id=project_id, batch_id=self._batch_id, keyframes=entries)
        except ValidationError as error:  # two clips would have one name
            raise DropreelError(f"{error.errors(include_url=False)[0]['msg']}. Rename one of them.") from None
        fsops.write(batch / MANIFEST_FILE, manifest.to_json())

    def _settings(self) -> dict[str, Any]:
        """The settings of the home that lends them, as tables."""
        settings = self._plan.settings
        weights = (self._plan.base / settings.generation.weights.expanduser()).absolute()
        lent = settings.model_copy(
            update={
                "role": "gpu",
                "hot_folder": settings.hot_folder.model_copy(update={"folder": None, "settle_seconds": 0.0}),
                # Nothing is on its way any more: what is not beside the manifest now never will be.
                "transport": TransportSettings(rsync=settings.transport.rsync, resend_seconds=0.001),
                "notify": NotifySettings(),
                "metrics": settings.metrics.model_copy(update={"folder": None}),
                "rooms": settings.rooms.model_copy(update={"max_attempts": MAX_ATTEMPTS}),
            }
        )
        tables = lent.model_dump(mode="json", exclude_none=True)
        tables["generation"] |= {"weights": str(weights), **self._plan.generation}
        return tables

    def make(self, orders: Sequence[Order]) -> list[Outcome]:
        """Have intake take the batch in, then each room do what waits in it, until nothing is left."""
        self._run("intake")
        self._refusals(orders)
        self.settle()
        return [self._found[order.entry.stem] for order in orders]

    def settle(self) -> None:
        """Have each room do what waits in it, and intake try again what failed QA, until nothing is left."""
        while self._admission.regenerable() or any(self._waits(stage) for stage in STAGES):
            before = self._standing()
            for stage in STAGES:
                if self._waits(stage):
                    self._run(stage)
                self._collect()
            if self._admission.regenerable():  # the failure is told of by now, and the next seed's outcome follows it
                self._run("intake")
            if self._standing() == before:
                raise DropreelError(f"The rooms have come to a halt.{self._last_words()}")

    def keep_logs(self) -> None:
        """Let the logs outlast the home: they hold what failed, with its traceback."""
        fsops.move(self._home.gpu.logs, fsops.free_name(self._plan.out / LOGS))

    def _refusals(self, orders: Sequence[Order]) -> None:
        """Note which entries intake refused. Raises ``DropreelError`` where it did not take the batch."""
        file = self._home.gpu.batch_acks / f"{self._batch_id}.json"
        if not file.exists():
            raise DropreelError(f"The batch was not taken in.{self._last_words()}")
        ack = load(BatchAck, file)
        if ack.refused is not None:
            raise Refused(ack.refused)
        for order, outcome in zip(orders, ack.entries, strict=True):
            if outcome.clip_id is None:
                self._refuse(order.entry, outcome)

    def _refuse(self, entry: Keyframe, outcome: EntryOutcome) -> None:
        place = self._plan.out / "failed" / f"{entry.stem}.reason.json"
        fsops.make_folder(place.parent)
        fsops.write(place, Rejection.of(outcome.findings, [Path(entry.image_path).name]).to_json())
        self._note(Outcome(entry, None, [str(finding) for finding in outcome.findings], place))

    def _run(self, daemon: str) -> None:
        """Run one daemon until it has nothing to do. One that dies over its work is started again by the next round."""
        before = self._standing()
        argv = [sys.executable, "-m", "daemons.cli", "run", daemon, "--once", "--home", str(self._home.root)]
        try:
            process.run(argv, self._tick, limit=float("inf"))
        except ProcessFailed as error:
            said = (error.stderr.strip().splitlines() or [str(error)])[-1].removeprefix("dropreel: ")
            if error.returncode == BadSettings.exit_code:
                raise BadSettings(said) from error
            if self._standing() == before:  # not over a clip, which would have an attempt more
                raise DropreelError(f"{daemon} does not start: {said}") from error

    def _tick(self, _fraction: float) -> None:
        if time.monotonic() - self._looked < LOOK_SECONDS:
            return
        self._looked = time.monotonic()
        settings = self._plan.settings
        low = _free(self._home.root) < settings.disk.low_water_mb << 20
        status = server_status(self._home, settings, None, disk_is_low=low)
        self._plan.watch(status)
        if low:
            raise DiskFull(f"The {LOW}: less than {settings.disk.low_water_mb} MiB are free in {self._plan.out}. Make "
                           "room, or choose another --out.")  # fmt: skip

    def _collect(self) -> None:
        """Take what came out to where it was asked for."""
        gpu = self._home.gpu
        for clip_id in results_in(gpu):
            meta, place = receipt.place(gpu.outbox / self._batch_id / clip_id, self._home.mac)
            if place is not None:
                self._note(Outcome(meta.entry, meta, [], self._deliver(meta, place)))

    def _deliver(self, meta: VideoMeta, place: Path) -> Path:
        """Move a result's files into ``out``, its meta last. They replace those of an earlier run that ended alike."""
        target = self._plan.out / _FOLDERS[meta.outcome]
        fsops.make_folder(target)
        for name in names_of(meta):
            if (place.parent / name).exists():
                fsops.publish(place.parent / name, target / name)
        return target / place.name

    def _note(self, outcome: Outcome) -> None:
        self._found[outcome.entry.stem] = outcome
        self._plan.done(outcome)

    def _waits(self, stage: str) -> bool:
        return any(self._clips(stage))

    def _clips(self, stage: str) -> Iterator[Path]:
        room = self._home.gpu.rooms / stage
        yield from room.glob("ready/[!.]*")
        yield from room.glob("active/*/[!.]*")

    def _standing(self) -> list[tuple[str, int]]:
        """Where each clip is, and since when: that changes with every claim and every step of a clip."""
        clips = [clip for stage in STAGES for clip in self._clips(stage)]
        return sorted((str(clip), (clip / CLIP_FILE).stat().st_mtime_ns) for clip in clips)

    def _last_words(self) -> str:
        """The last warning or error of any log."""
        lines = [line for log in self._home.gpu.logs.glob("*.log")
                 for line in log.read_text(encoding="utf-8", errors="replace").splitlines()
                 if " error " in line[:40] or " warning " in line[:40]]  # fmt: skip
        return f" The logs end with: {max(lines)}" if lines else ""


def names_of(meta: VideoMeta) -> list[str]:
    """The files of a result as they lie in ``results/``, the meta last."""
    stem = meta.entry.stem
    made = [f"{stem}.mp4" if file.path == VIDEO_FILE else f"{stem}.{file.path}" for file in meta.files]
    return [*made, f"{stem}.video_manifest.json", f"{stem}.video_meta.json"]


def presets_text(presets: Mapping[str, Preset]) -> str:
    """A presets file with all tables that are not as shipped: read again, they are the same."""
    own = {name: preset for name, preset in presets.items() if preset != shipped_presets().get(name)}
    return toml.dumps({name: _table(preset.model_dump(mode="json", exclude_unset=True, exclude={"name"}))
                       for name, preset in own.items()})  # fmt: skip


def _table(value: Any) -> Any:
    """With the word of a presets file for a limit that is not looked at."""
    if isinstance(value, dict):
        return {key: _table(of) for key, of in value.items()}
    if isinstance(value, list):
        return [_table(of) for of in value]
    return "off" if value is None else value


def need_packages(presets: Sequence[Preset]) -> None:
    """Raise ``DropreelError`` where one of these runs a model and what it runs on is not installed."""
    models = [preset.name for preset in presets if preset.family != "camera"]
    missing = [name for name in MODEL_PACKAGES if importlib.util.find_spec(name) is None]
    if models and missing:
        raise DropreelError(f"'{models[0]}' runs a model, and {', '.join(missing)} is not installed here. Install the "
                            "extra: pip install 'dropreel[gpu]'. The preset 'camera' needs none of it.")  # fmt: skip


def environment_for(device: Device, presets: Sequence[Preset]) -> dict[str, str]:
    """Which card the daemons are shown: the first that this process sees, or none.

    Raises ``DropreelError`` for a device that is not here.
    """
    models = any(preset.family != "camera" for preset in presets)
    nvml = cards.open_nvml() if device in {"auto", "cuda"} else None
    seen = cards.visible(cards.read(nvml), os.environ) if nvml is not None else []
    if device == "cuda" and not seen:
        raise DropreelError("There is no NVIDIA card here, or its driver does not answer: `nvidia-smi -L` lists them, "
                            "and CUDA_VISIBLE_DEVICES may hide them. `--device auto` takes what there is.")  # fmt: skip
    if device == "mps" and sys.platform != "darwin":
        raise DropreelError("mps is Apple's, and this is no Mac. `--device auto` takes what there is.")
    return {"CUDA_VISIBLE_DEVICES": seen[0].uuid if seen and models else ""}


def generation_for(device: Device) -> dict[str, object]:
    """The keys of ``[generation]`` that a device asks for. A card is hidden from the daemons; Apple's cannot be.

    Their model is what an entry gets that names none: each does, and the camera is in every home.
    """
    named: dict[str, object] = {"device": device} if device == "cpu" and sys.platform == "darwin" else {}
    return {"model": "camera"} | named


def prepare_out(out: Path, stems: Sequence[str]) -> None:
    """Make the folder for the results, and write nowhere else from now on.

    Raises ``DropreelError`` where results of these names are there already: they are not overwritten.
    """
    try:
        fsops.guard(out.absolute() / "any")
    except OutsideZone:
        raise DropreelError(f"Folders called mojo…, __crop, __cropped and __selected are the studio's, and protected: "
                            f"{out} cannot be in one. Choose another --out.") from None  # fmt: skip
    endings = ("mp4", "video_meta.json", "reason.json")
    there = [path for folder in (out, out / "flagged", out / "failed") for stem in stems for ending in endings
             if (path := folder / f"{stem}.{ending}").exists()]  # fmt: skip
    if there:
        raise DropreelError(f"{there[0]} is there already, and is not overwritten. Choose another --out, or move "
                            "away what an earlier run left.")  # fmt: skip
    fsops.make_folder(out.absolute())
    fsops.confine(out.absolute())


@contextlib.contextmanager
def _environment(more: Mapping[str, str]) -> Iterator[None]:
    """This process's environment for its children: without variables of ours, which the settings hold already."""
    before = dict(os.environ)
    for name in before:
        if name.upper().startswith(PREFIX):
            del os.environ[name]
    os.environ.update(more)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


def _free(folder: Path) -> int:
    stat = os.statvfs(folder)
    return stat.f_bavail * stat.f_frsize
