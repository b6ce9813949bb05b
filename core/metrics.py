"""One process's figures, and the text file that Prometheus reads them from."""

from __future__ import annotations

import contextlib
import platform
import re
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Literal

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.metrics_core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from core import fsops
from core.home import STAGES, Home
from core.settings import MetricsSettings
from core.versions import installed

Outcome = Literal["done", "flagged", "failed", "cancelled"]
"""What became of a clip at a stage; after QA one that goes on to be looked at is ``flagged``, not ``done``."""
Direction = Literal["out", "in"]
"""Towards the server, or back from it."""

OUTCOMES: dict[str, tuple[Outcome, ...]] = {
    "intake": ("done", "failed"),
    "generate": ("done", "failed", "cancelled"),
    "interpolate": ("done", "failed", "cancelled"),
    "qa": ("done", "flagged", "failed", "cancelled"),
    "encode": ("done", "flagged", "failed", "cancelled"),
    "courier": ("done", "flagged", "failed"),
}
"""What clips may come to at each stage. Each count starts at 0, so that the first of its kind is a rise."""
SECONDS_BUCKETS = (0.1, 0.3, 1, 3, 10, 30, 60, 120, 300, 600, 1200, 3600)
FORGET_SECONDS = 3600.0
"""The file of a worker that the settings no longer name goes when nobody has written it for so long."""
_FILE = re.compile(r"dropreel_(.+)\.prom")


def folder_of(settings: MetricsSettings, home: Home, state: Path) -> Path:
    """Where the processes of one half write: as the settings say, else in its ``state/``."""
    return home.root / settings.folder.expanduser() if settings.folder else state / "metrics"


def file_in(folder: Path, name: str) -> Path:
    """The file of the process of this name, such as ``generate@gpu0``."""
    return folder / f"dropreel_{name}.prom"


def forget(folder: Path, known: Iterable[str], wall: Callable[[], float] = time.time) -> list[str]:
    """Delete the files of workers that are no longer, so that nobody is alarmed by their silence for ever.

    A worker that is known but dead keeps its file, and so does one that still writes. Returns the names that went.
    """
    gone = []
    for path in folder.glob("dropreel_*.prom"):
        found = _FILE.fullmatch(path.name)
        if found and found[1] not in known:
            with contextlib.suppress(FileNotFoundError):
                if wall() - path.stat().st_mtime >= FORGET_SECONDS:
                    fsops.remove(path)
                    gone.append(found[1])
    return sorted(gone)


def gauge(name: str, text: str, *samples: tuple[dict[str, str], float | None]) -> GaugeMetricFamily:
    """A family for a collector: each sample its labels and value; one that is not known is left out."""
    family = GaugeMetricFamily(name, text)
    for labels, value in samples:
        if value is not None:
            family.add_sample(name, labels, value)
    return family


class _Registry(CollectorRegistry):
    """Marks each sample with its process: the collector of node_exporter takes no series from two files."""

    def __init__(self, name: str) -> None:
        super().__init__(support_collectors_without_names=True)
        self._name = name

    def collect(self) -> Iterator[Metric]:
        """All families that have a sample; without the ``_created`` that few readers know."""
        for family in super().collect():
            family.samples = [
                sample._replace(labels={"daemon": self._name, **sample.labels})
                for sample in family.samples
                if not sample.name.endswith("_created")
            ]
            if family.samples:
                yield family


class Metrics:
    """What one process counts. Its verbs only add; ``write`` publishes."""

    def __init__(
        self,
        name: str,
        folder: Path,
        dollars_per_hour: float = 0.0,
        wall: Callable[[], float] = time.time,
    ) -> None:
        """``name`` is the daemon's, such as ``generate@gpu0``; ``dollars_per_hour`` what an hour of its GPU costs."""
        self.file = file_in(folder, name)
        self._stage = name.partition("@")[0]
        self._dollars_per_second = dollars_per_hour / 3600
        self._wall = wall
        self._registry = r = _Registry(name)
        of_stage = ["stage"]
        Gauge("dropreel_build_info", "The running version.", ["version", "python"], registry=r).labels(
            installed("dropreel"), platform.python_version()
        ).set(1)
        started = Gauge("dropreel_start_time_seconds", "When the process started, in Unix time.", registry=r)
        started.set(wall())
        self._written = Gauge(
            "dropreel_last_write_timestamp_seconds", "When this was written, in Unix time.", registry=r
        )
        self._succeeded = Gauge(
            "dropreel_last_success_timestamp_seconds", "When a clip or batch last went well, in Unix time.",
            of_stage, registry=r)  # fmt: skip
        self._clips = Counter(
            "dropreel_clips_total", "Clips that a stage is done with, by what became of them.",
            ["stage", "outcome"], registry=r)  # fmt: skip
        self._seconds = Histogram(
            "dropreel_stage_seconds", "Time that a stage worked on a clip that went well.",
            of_stage, registry=r, buckets=SECONDS_BUCKETS)  # fmt: skip
        self._attempts_failed = Counter(
            "dropreel_attempts_failed_total", "Attempts at a clip that ended in an error, or with the worker's death.",
            of_stage, registry=r)  # fmt: skip
        self._batches = Counter(
            "dropreel_batches_total", "Batches taken in or acknowledged, by what became of them.",
            ["stage", "outcome"], registry=r)  # fmt: skip
        self._moved = Counter(
            "dropreel_courier_bytes_total", "Bytes of files that were carried between the halves.",
            ["direction"], registry=r)  # fmt: skip
        self._link = Gauge("dropreel_link_up", "1 while the server can be reached.", of_stage, registry=r)
        self._gpu_seconds = Counter(
            "dropreel_gpu_seconds_total", "Time that workers of a GPU worked on clips.", of_stage, registry=r
        )
        self._gpu_dollars = Counter(
            "dropreel_gpu_cost_dollars_total", "What that time cost, by the settings' price of an hour.",
            of_stage, registry=r)  # fmt: skip
        self._start_at_zero()

    def _start_at_zero(self) -> None:
        stage = self._stage
        for outcome in OUTCOMES.get(stage, ()):
            self._clips.labels(stage, outcome)
        if stage in STAGES:
            self._attempts_failed.labels(stage)
            self._seconds.labels(stage)
        if stage == "intake":
            for outcome in ("done", "failed"):
                self._batches.labels(stage, outcome)
        if stage == "courier":
            self._batches.labels(stage, "done")
            for direction in ("out", "in"):
                self._moved.labels(direction)
        if stage == "generate":
            self._gpu_seconds.labels(stage)
            self._gpu_dollars.labels(stage)

    def add(self, collector: Collector) -> None:
        """Have more figures looked up at each ``write``."""
        self._registry.register(collector)

    def clip(self, outcome: Outcome, seconds: float | None = None) -> None:
        """This stage is done with a clip; ``seconds`` is how long it worked where it did."""
        self._clips.labels(self._stage, outcome).inc()
        if seconds is not None:
            self._seconds.labels(self._stage).observe(seconds)
        if outcome in {"done", "flagged"}:
            self._succeeded.labels(self._stage).set(self._wall())

    def attempt_failed(self) -> None:
        """An attempt at a clip ended in an error or with a worker's death, whatever becomes of the clip."""
        self._attempts_failed.labels(self._stage).inc()

    def batch(self, outcome: Literal["done", "failed"]) -> None:
        """A batch was taken in or acknowledged, or refused."""
        self._batches.labels(self._stage, outcome).inc()
        if outcome == "done":
            self._succeeded.labels(self._stage).set(self._wall())

    def moved(self, direction: Direction, size: int) -> None:
        """So many bytes of files were carried."""
        self._moved.labels(direction).inc(size)

    def link(self, *, up: bool) -> None:
        """Whether the server can be reached."""
        self._link.labels(self._stage).set(up)

    @contextlib.contextmanager
    def gpu_time(self) -> Iterator[None]:
        """Around the work that holds a GPU: its time is counted and priced, however it ends."""
        begun = time.monotonic()
        try:
            yield
        finally:
            seconds = time.monotonic() - begun
            self._gpu_seconds.labels(self._stage).inc(seconds)
            self._gpu_dollars.labels(self._stage).inc(seconds * self._dollars_per_second)

    def write(self) -> None:
        """Replace the file by what is so now. Raises ``OSError``, ``DiskFull`` and ``OutsideZone``."""
        self._written.set(self._wall())
        fsops.make_folder(self.file.parent)
        for part in self.file.parent.glob(f".{self.file.name}.*{fsops.PART}"):  # of one that was killed as it wrote
            fsops.remove(part)
        fsops.write(self.file, generate_latest(self._registry), durable=False)
