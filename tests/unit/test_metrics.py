"""The figures for Prometheus: what they count, how they are called, and how they come into their files."""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pynvml  # type: ignore[import-untyped]  # it ships no types
import pytest
import structlog
from prometheus_client.metrics_core import Metric
from prometheus_client.parser import text_string_to_metric_families

from core import fsops
from core.cards import SLOWED_BY, STALE_SECONDS, Card, CardFigures, open_nvml, published, read, visible
from core.home import MANIFEST_FILE, Home
from core.metrics import FORGET_SECONDS, Metrics, file_in, folder_of, forget
from core.rooms import FRAMES_FILE, PAUSED_FILE, ClipFolder
from core.settings import DaemonSettings, MetricsSettings
from core.work import Report
from daemons.runtime import METRICS_SECONDS, Runtime
from daemons.stage import StageDaemon
from tests.house import Clock, House, picture
from tests.unit.living import at_work

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "reference" / "metrics.md"
Families = dict[str, Metric]
Text = Callable[[str], str]


def parse(text: str) -> Families:
    return {family.name: family for family in text_string_to_metric_families(text)}


def value(families: Families, name: str, **labels: str) -> float:
    """The sum of the samples of this name that have these labels; there must be one."""
    found = [sample.value for family in families.values() for sample in family.samples
             if sample.name == name and labels.items() <= sample.labels.items()]  # fmt: skip
    assert found, f"{name}{labels} is not there"
    return sum(found)


# A journey: one clip passes, one is flagged, one fails QA, one cannot be made, one is cancelled.


@pytest.fixture(scope="module")
def texts(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """What each daemon published after that journey, by its name."""
    with at_work(tmp_path_factory.mktemp("journey") / "home") as house:
        for room in ("generate", "qa"):
            (house.home.gpu.rooms / room / PAUSED_FILE).touch()
        for number, stem in enumerate(("passes", "flagged", "fails", "lost", "cancelled")):
            house.drop(stem, picture(number))
        house.drop("rejected", b"no picture")
        house.rest()
        clips = {_stem(path): path for path in (house.home.gpu.rooms / "generate" / "ready").iterdir()}
        for path in clips["lost"].glob("keyframe*"):
            path.unlink()
        (clips["cancelled"] / "CANCEL").touch()
        (house.home.gpu.rooms / "generate" / PAUSED_FILE).unlink()
        house.rest()
        waiting = {_stem(path): path for path in (house.home.gpu.rooms / "qa" / "ready").iterdir()}
        _damage(waiting["flagged"], 0, lambda frame: frame + np.random.default_rng(1).integers(-16, 17, frame.shape))
        _damage(waiting["fails"], 2, np.zeros_like)
        (house.home.gpu.rooms / "qa" / PAUSED_FILE).unlink()
        _take_seconds(house, "encode", 1.5)
        house.rest()
        assert {name: meta.outcome for name, meta in house.metas().items()} == {
            "passes": "pass", "flagged/flagged": "flag", "failed/fails": "fail", "failed/lost": "fail",
            "failed/cancelled": "fail"}  # fmt: skip
        for _ in range(2):  # intake looks at the rooms after it has written its figures
            house.clock.seconds += METRICS_SECONDS
            for daemon in house.daemons:
                daemon.runtime.alive()
        return {daemon.runtime.name: daemon.runtime.metrics.file.read_text() for daemon in house.daemons}


def _take_seconds(house: House, stage: str, seconds: float) -> None:
    """Have the clock of the house go on while this stage works on a clip."""
    (daemon,) = (each for each in house.daemons if isinstance(each, StageDaemon) and each.stage == stage)
    work = daemon.work

    def timed(folder: ClipFolder, report: Report) -> dict[str, Any]:
        house.clock.seconds += seconds
        return work(folder, report)

    daemon.work = timed  # type: ignore[method-assign]  # the real work, on a clock that stands still by itself


def _stem(folder: Path) -> str:
    found = re.search(r'"image_path": "[^"]*?([^"/]+)\.png"', (folder / "clip.json").read_text())
    assert found
    return found[1]


def _damage(folder: Path, number: int, how: Callable[[Any], Any]) -> None:
    frames = np.lib.format.open_memmap(folder / FRAMES_FILE, mode="r+")
    frames[number] = np.clip(how(frames[number].astype(np.int16)), 0, 255)
    frames.flush()


def test_each_stage_counts_what_became_of_its_clips(texts: dict[str, str]) -> None:
    told = {name: parse(text) for name, text in texts.items()}
    expected = {
        "intake": {"done": 5, "failed": 0},
        "generate": {"done": 3, "failed": 1, "cancelled": 1},
        "interpolate": {"done": 3, "failed": 0, "cancelled": 0},
        "qa": {"done": 1, "flagged": 1, "failed": 1, "cancelled": 0},
        "encode": {"done": 1, "flagged": 1, "failed": 0, "cancelled": 0},
        "courier": {"done": 1, "flagged": 1, "failed": 3},
    }
    for stage, outcomes in expected.items():
        samples = [sample for sample in told[stage]["dropreel_clips"].samples if sample.labels["stage"] == stage]
        assert {sample.labels["outcome"]: sample.value for sample in samples} == outcomes, stage
    assert value(told["intake"], "dropreel_batches_total", outcome="done") == 1
    assert value(told["courier"], "dropreel_batches_total", outcome="done") == 1


def test_the_courier_counts_what_it_carries(texts: dict[str, str]) -> None:
    told = parse(texts["courier"])
    assert value(told, "dropreel_courier_bytes_total", direction="out") > sum(len(picture(n)) for n in range(5))
    assert value(told, "dropreel_courier_bytes_total", direction="in") > 2000
    assert value(told, "dropreel_link_up") == 1
    assert value(told, "dropreel_disk_free_bytes", half="mac") > 1e6


def test_a_stage_times_the_clips_that_went_well_and_counts_every_failed_attempt(texts: dict[str, str]) -> None:
    told = {name: parse(text) for name, text in texts.items()}
    timed = {stage: value(told[stage], "dropreel_stage_seconds_count")
             for stage in ("generate", "interpolate", "qa", "encode")}  # fmt: skip
    assert timed == {"generate": 3, "interpolate": 3, "qa": 2, "encode": 2}
    assert value(told["encode"], "dropreel_stage_seconds_sum") == 2 * 1.5
    assert value(told["generate"], "dropreel_attempts_failed_total") == 5  # max_attempts, on the one that was lost
    assert value(told["qa"], "dropreel_attempts_failed_total") == 0
    succeeded = value(told["encode"], "dropreel_last_success_timestamp_seconds")
    started = value(told["encode"], "dropreel_start_time_seconds")
    assert started <= succeeded <= value(told["encode"], "dropreel_last_write_timestamp_seconds")


def test_only_the_daemons_concerned_tell_of_rooms_and_cards(texts: dict[str, str]) -> None:
    told = {name: parse(text) for name, text in texts.items()}
    assert {name for name, families in told.items() if "dropreel_room_clips" in families} == {"intake"}
    assert {name for name, families in told.items() if "dropreel_gpu_seconds" in families} == {"generate"}
    rooms = [(s.labels["room"], s.labels["place"], s.value) for s in told["intake"]["dropreel_room_clips"].samples]
    assert len(rooms) == 8
    assert not any(count for *_, count in rooms)
    assert value(told["intake"], "dropreel_failed_clips") == 3
    assert value(told["intake"], "dropreel_worker_up", room="qa", worker="cpu0") == 1
    assert value(told["intake"], "dropreel_disk_free_bytes", half="gpu") > 1e6


def test_a_batch_that_comes_again_is_not_counted_again(tmp_path: Path) -> None:
    with at_work(tmp_path / "home") as house:
        inbox = house.home.gpu.inbox
        house.drop("one")
        house.drop("two", picture(2))
        until_sent(house)
        (batch,) = house.home.mac.outbox.iterdir()
        manifest = json.loads((batch / MANIFEST_FILE).read_bytes())
        manifest["keyframes"][1]["generation_params"]["model"] = "unknown"  # an entry that the server refuses
        (batch / MANIFEST_FILE).write_text(json.dumps(manifest))
        shutil.copytree(batch, tmp_path / "copy")
        house.rest()
        for _ in range(2):
            shutil.copytree(tmp_path / "copy", inbox / batch.name)
            house.rest()
        house.clock.seconds += METRICS_SECONDS
        _daemon(house, "intake").alive()
        told = parse(_daemon(house, "intake").metrics.file.read_text())
        assert value(told, "dropreel_batches_total", outcome="done") == 1
        assert value(told, "dropreel_clips_total", outcome="done") == 1
        assert value(told, "dropreel_clips_total", outcome="failed") == 1
        assert list(inbox.glob("20*")) == []


def until_sent(house: House) -> None:
    """Let the hot folder's daemon alone work until its batch lies in the outbox."""
    keyframes = house.daemons[0]
    while not any(house.home.mac.outbox.iterdir()):
        house.clock.seconds += min(keyframes.step(), 1.0)


def test_a_batch_that_is_refused_counts_as_failed(tmp_path: Path) -> None:
    with at_work(tmp_path / "home") as house:
        batch = house.home.gpu.inbox / "20251122_150832"
        batch.mkdir()
        (batch / MANIFEST_FILE).write_text("{}")
        house.rest()
        house.clock.seconds += METRICS_SECONDS
        _daemon(house, "intake").alive()
        told = parse(_daemon(house, "intake").metrics.file.read_text())
        assert value(told, "dropreel_batches_total", outcome="failed") == 1
        assert value(told, "dropreel_batches_total", outcome="done") == 0


def test_a_worker_that_died_over_a_clip_is_a_failed_attempt(tmp_path: Path) -> None:
    with at_work(tmp_path / "home") as house:
        pause = house.home.gpu.rooms / "generate" / PAUSED_FILE
        pause.touch()
        house.drop("one")
        house.rest()
        (clip,) = (house.home.gpu.rooms / "generate" / "ready").iterdir()
        dead = house.home.gpu.rooms / "generate" / "active" / "gpu9"
        dead.mkdir()
        clip.rename(dead / clip.name)
        pause.unlink()
        house.rest()
        house.clock.seconds += METRICS_SECONDS
        _daemon(house, "generate").alive()
        told = parse(_daemon(house, "generate").metrics.file.read_text())
        assert value(told, "dropreel_attempts_failed_total") == 1
        assert value(told, "dropreel_clips_total", outcome="done") == 1


# Names, by the conventions of Prometheus, as `promtool check metrics` knows them and a little stricter.

BASE_UNITS = {"seconds", "bytes", "celsius", "ratio", "watts", "dollars"}
NOT_BASE = {"minutes", "hours", "days", "milliseconds", "ms", "kb", "mb", "gb", "kilobytes", "megabytes", "bits",
            "percent", "kelvin", "fahrenheit", "milliwatts", "cents"}  # fmt: skip
COUNTS_OF = {"clips", "batches", "info", "paused", "held", "up", "throttled", "attempts_failed"}


def offences(family: Metric) -> list[str]:
    """What a family's name, type, help or labels do that the conventions forbid."""
    name, kind = family.name, family.type
    words = name.split("_")
    found = []
    if not re.fullmatch(r"dropreel(_[a-z]+)+", name):
        found.append("not snake case under our prefix")
    if not re.fullmatch(r"[A-Z0-9].*\.", family.documentation):
        found.append("no help that is a sentence")
    if NOT_BASE & set(words):
        found.append("not a base unit")
    if {"counter", "gauge", "histogram", "metric", "total", "count", "sum"} & set(words):
        found.append("its type, or a suffix of another type, is in its name")
    if words[-1] not in BASE_UNITS and not any(name.endswith(f"_{what}") for what in COUNTS_OF):
        found.append("ends neither in a base unit nor in what is counted")
    for sample in family.samples:
        suffix = sample.name.removeprefix(name)
        if suffix not in {"counter": {"_total"}, "gauge": {""}, "histogram": {"_bucket", "_sum", "_count"}}[kind]:
            found.append(f"{kind} with a sample {sample.name}")
        found += [f"label {label}" for label in sample.labels if not re.fullmatch("[a-z]+", label)]
        if "le" in sample.labels and kind != "histogram":
            found.append("label le outside a histogram")
    return found


def everything(texts: dict[str, str], folder: Path) -> dict[str, str]:
    """Those files, and one of a worker that has cards and of a courier that carried."""
    texts = dict(texts)
    for name in ("generate@gpu0", "courier@there"):
        metrics = Metrics(name, folder)
        metrics.add(CardFigures(lambda: read(Recorded(H100, OLD))))
        metrics.moved("out", 5)
        metrics.clip("done", 1.0)
        metrics.write()
        texts[name] = metrics.file.read_text()
    return texts


def test_every_family_keeps_the_conventions(texts: dict[str, str], tmp_path: Path) -> None:
    for text in everything(texts, tmp_path).values():
        families = list(text_string_to_metric_families(text))
        assert len({family.name for family in families}) == len(families) >= 3
        for family in families:
            assert offences(family) == [], family.name
            whole = family.name + ("_total" if family.type == "counter" else "")
            assert f"# HELP {whole} {family.documentation}\n# TYPE {whole} {family.type}\n" in text
    assert text.endswith("\n")


@pytest.mark.parametrize(
    "line",
    [
        "# HELP dropreel_x_ms Time.\n# TYPE dropreel_x_ms gauge\ndropreel_x_ms 1",
        "# HELP dropreel_x_bytes lower\n# TYPE dropreel_x_bytes gauge\ndropreel_x_bytes 1",
        "# HELP dropreel_gauge_bytes Bytes.\n# TYPE dropreel_gauge_bytes gauge\ndropreel_gauge_bytes 1",
        "# HELP dropreel_clips Clips.\n# TYPE dropreel_clips gauge\ndropreel_clips{aB=\"1\"} 1",
        "# HELP other_bytes Bytes.\n# TYPE other_bytes gauge\nother_bytes 1",
        "# HELP dropreel_size Something.\n# TYPE dropreel_size gauge\ndropreel_size 1",
    ],
)  # fmt: skip
def test_the_check_of_the_conventions_finds_what_is_wrong(line: str) -> None:
    (family,) = text_string_to_metric_families(line + "\n")
    assert offences(family)


def test_the_files_of_one_folder_can_be_read_together(texts: dict[str, str], tmp_path: Path) -> None:
    """The textfile collector refuses a series that two files have, and a help text that differs."""
    helps: dict[str, set[tuple[str, str]]] = {}
    series: list[tuple[str, frozenset[tuple[str, str]]]] = []
    for text in everything(texts, tmp_path).values():
        for family in text_string_to_metric_families(text):
            helps.setdefault(family.name, set()).add((family.documentation, family.type))
            series += [(sample.name, frozenset(sample.labels.items())) for sample in family.samples]
    assert {name: told for name, told in helps.items() if len(told) > 1} == {}
    assert len(series) == len(set(series)) > 100


def test_the_page_explains_every_family_and_no_other(texts: dict[str, str], tmp_path: Path) -> None:
    told = {family.name + ("_total" if family.type == "counter" else "")
            for text in everything(texts, tmp_path).values()
            for family in text_string_to_metric_families(text)}  # fmt: skip
    page = PAGE.read_text(encoding="utf-8")
    assert set(re.findall(r"^\| `(dropreel_\w+)` \|", page, re.MULTILINE)) == told
    named = set(re.findall(r"\bdropreel_[a-z_]+\b", page))
    assert {re.sub(r"_(bucket|count|sum)$", "", name) for name in named} <= told


# Counting.


def test_gpu_time_is_counted_and_priced_however_the_work_ends(tmp_path: Path) -> None:
    metrics = Metrics("generate@gpu0", tmp_path, dollars_per_hour=3600.0)
    with metrics.gpu_time():
        pass
    with pytest.raises(ZeroDivisionError), metrics.gpu_time():
        _ = 1 / 0
    metrics.write()
    told = parse(metrics.file.read_text())
    seconds = value(told, "dropreel_gpu_seconds_total")
    assert seconds > 0
    assert value(told, "dropreel_gpu_cost_dollars_total") == pytest.approx(seconds)


def test_every_count_that_may_rise_is_there_from_the_start(tmp_path: Path) -> None:
    """A series that begins with its first event never shows a rise."""
    for name in ("intake", "generate@gpu0", "qa@cpu0", "courier"):
        metrics = Metrics(name, tmp_path)
        metrics.write()
        before = set(_series(metrics))
        metrics.clip("done", 1.0)
        metrics.clip("failed")
        if name == "intake":
            metrics.batch("failed")
        if "@" in name:
            metrics.attempt_failed()
        else:
            metrics.batch("done")
        if name == "courier":
            metrics.moved("in", 1)
            metrics.moved("out", 1)
        metrics.write()
        new = {series.split("{")[0] for series in set(_series(metrics)) - before}
        assert new <= {"dropreel_last_success_timestamp_seconds"} | ({"dropreel_stage_seconds_bucket",
            "dropreel_stage_seconds_count", "dropreel_stage_seconds_sum"} if "@" not in name else set())  # fmt: skip


def _series(metrics: Metrics) -> list[str]:
    return [line.rpartition(" ")[0] for line in metrics.file.read_text().splitlines() if not line.startswith("#")]


# Writing.


class Lived(SimpleNamespace):
    """A runtime on a clock of its own, and what it said."""

    runtime: Runtime
    clock: Clock
    said: list[dict[str, Any]]


@pytest.fixture
def lived(tmp_path: Path) -> Iterator[Lived]:
    fsops.confine(tmp_path)
    clock = Clock()
    said: list[dict[str, Any]] = []

    def note(_logger: object, method: str, event: Any) -> Any:
        said.append({"level": method, **event})
        raise structlog.DropEvent

    log = structlog.wrap_logger(structlog.PrintLogger(), processors=[note], wrapper_class=structlog.BoundLogger)
    metrics = Metrics("qa@cpu0", tmp_path / "metrics", wall=clock)
    runtime = Runtime("qa@cpu0", tmp_path, DaemonSettings(), log, clock, metrics=metrics)
    yield Lived(runtime=runtime, clock=clock, said=said)
    fsops.confine()


def written_at(lived: Lived) -> float:
    return value(parse(lived.runtime.metrics.file.read_text()), "dropreel_last_write_timestamp_seconds")


def test_a_process_writes_every_so_often_while_it_lives_and_once_when_it_leaves(lived: Lived) -> None:
    begun = lived.clock.seconds
    lived.runtime.alive()
    assert not lived.runtime.metrics.file.exists()
    lived.clock.seconds += METRICS_SECONDS
    assert lived.runtime.next_chore_in == 0
    lived.runtime.breathe()  # the work between its steps, too
    assert written_at(lived) == begun + METRICS_SECONDS
    lived.clock.seconds += METRICS_SECONDS - 1
    assert lived.runtime.next_chore_in == 1
    lived.runtime.alive()
    assert written_at(lived) == begun + METRICS_SECONDS
    lived.runtime.close()
    assert written_at(lived) == begun + 2 * METRICS_SECONDS - 1
    told = parse(lived.runtime.metrics.file.read_text())
    assert value(told, "dropreel_start_time_seconds") == begun


def test_figures_that_cannot_be_written_are_said_once_and_stop_nothing(lived: Lived) -> None:
    folder = lived.runtime.metrics.file.parent
    folder.write_text("in the way")
    for _ in range(3):
        lived.clock.seconds += METRICS_SECONDS
        lived.runtime.alive()
    (said,) = lived.said
    assert (said["event"], said["level"], said["chore"]) == ("chore.failed", "warning", "metrics")
    folder.unlink()
    lived.clock.seconds += METRICS_SECONDS
    lived.runtime.alive()
    assert written_at(lived) == lived.clock.seconds
    assert len(lived.said) == 1


def test_what_one_that_was_killed_left_half_written_goes(tmp_path: Path) -> None:
    metrics = Metrics("qa@cpu0", tmp_path)
    mine, other = fsops.part_of(metrics.file), fsops.part_of(file_in(tmp_path, "qa@cpu1"))
    for part in (mine, other):
        part.write_text("# HELP")
    metrics.write()
    assert sorted(tmp_path.iterdir()) == sorted([metrics.file, other]), "another may be writing this moment"


def test_a_folder_elsewhere_is_used_and_a_relative_one_lies_in_the_home(tmp_path: Path) -> None:
    home = Home(tmp_path)
    assert folder_of(MetricsSettings(), home, home.gpu.state) == tmp_path / "gpu/state/metrics"
    assert folder_of(MetricsSettings(folder=Path("/srv/node")), home, home.gpu.state) == Path("/srv/node")
    assert folder_of(MetricsSettings(folder=Path("figures")), home, home.mac.state) == tmp_path / "figures"


def test_only_what_former_workers_left_behind_is_deleted(tmp_path: Path) -> None:
    for name in ("generate@gpu0", "generate@gpu1", "generate@gpu2"):
        Metrics(name, tmp_path).write()
    others = [tmp_path / "smartmon.prom", tmp_path / "dropreel_generate@gpu1.prom.old"]
    for other in others:
        other.touch()
    latest = max(path.stat().st_mtime for path in tmp_path.iterdir())
    soon, later = latest + FORGET_SECONDS - 60, latest + FORGET_SECONDS
    assert forget(tmp_path, {"generate@gpu0"}, lambda: soon) == []
    assert forget(tmp_path, {"generate@gpu0"}, lambda: later) == ["generate@gpu1", "generate@gpu2"]
    assert sorted(tmp_path.iterdir()) == sorted([*others, file_in(tmp_path, "generate@gpu0")])


def test_intake_forgets_the_workers_that_the_settings_no_longer_name(tmp_path: Path) -> None:
    with at_work(tmp_path / "home") as house:
        folder = house.home.gpu.state / "metrics"
        for name in ("qa@cpu0", "qa@cpu7"):
            Metrics(name, folder).write()
            os.utime(file_in(folder, name), (1e9, 1e9))
        house.clock.seconds += FORGET_SECONDS
        _daemon(house, "intake").alive()
        assert not file_in(folder, "qa@cpu7").exists()
        assert file_in(folder, "qa@cpu0").exists()


def _daemon(house: House, name: str) -> Runtime:
    return next(daemon.runtime for daemon in house.daemons if daemon.runtime.name == name)


# Cards: what NVML answers, recorded.


class Recorded:
    """NVIDIA's library with the answers of cards that are not here; a missing one is refused as the library does."""

    NVMLError = pynvml.NVMLError
    NVML_TEMPERATURE_GPU = pynvml.NVML_TEMPERATURE_GPU

    def __init__(self, *cards: dict[str, Any]) -> None:
        self._cards = cards

    def nvmlDeviceGetCount(self) -> int:  # noqa: N802 - the library's name
        return len(self._cards)

    def nvmlDeviceGetHandleByIndex(self, index: int) -> dict[str, Any]:  # noqa: N802 - the library's name
        if "lost" in self._cards[index]:
            raise pynvml.NVMLError(pynvml.NVML_ERROR_GPU_IS_LOST)
        return self._cards[index]

    def __getattr__(self, question: str) -> Callable[..., Any]:
        def answer(handle: dict[str, Any], *_: object) -> Any:
            if question not in handle:
                raise pynvml.NVMLError(pynvml.NVML_ERROR_NOT_SUPPORTED)
            return handle[question]

        assert hasattr(pynvml, question), f"{question} is no question of NVML's"
        return answer


H100 = {
    "nvmlDeviceGetUUID": "GPU-8932f937-d72c-4106-c12f-20bd9faed9f6",
    "nvmlDeviceGetName": "NVIDIA H100 80GB HBM3",
    "nvmlDeviceGetUtilizationRates": SimpleNamespace(gpu=97, memory=41),
    "nvmlDeviceGetMemoryInfo": SimpleNamespace(total=85520809984, free=20000000000, used=65520809984),
    "nvmlDeviceGetTemperature": 71,
    "nvmlDeviceGetPowerUsage": 648213,
    "nvmlDeviceGetCurrentClocksEventReasons": pynvml.nvmlClocksEventReasonSwPowerCap
    | pynvml.nvmlClocksThrottleReasonHwThermalSlowdown
    | pynvml.nvmlClocksEventReasonApplicationsClocksSetting,
}
OLD = {"nvmlDeviceGetUUID": "GPU-11111111-0000-0000-0000-000000000000", "nvmlDeviceGetTemperature": 40,
       "nvmlDeviceGetUtilizationRates": SimpleNamespace(gpu=0, memory=0),
       "nvmlDeviceGetCurrentClocksEventReasons": pynvml.nvmlClocksEventReasonGpuIdle}  # fmt: skip
LOST: dict[str, Any] = {"lost": True}


def test_what_the_cards_answer_is_put_into_base_units() -> None:
    big, old = read(Recorded(LOST, H100, OLD))
    assert big == Card(
        uuid="GPU-8932f937-d72c-4106-c12f-20bd9faed9f6",
        name="NVIDIA H100 80GB HBM3",
        utilization=0.97,
        memory_used_bytes=65520809984,
        memory_bytes=85520809984,
        temperature_celsius=71,
        power_watts=648.213,
        slowed_by=["heat", "power_cap"],
    )
    assert (old.name, old.utilization, old.power_watts, old.memory_bytes) == ("unknown", 0.0, None, None)
    assert old.slowed_by == []  # an idle card is not slowed by anything


def test_the_reasons_are_those_of_the_library() -> None:
    named = {name: bit for name, bit in vars(pynvml).items()
             if re.match("nvmlClocks(Event|Throttle)Reason", name) and isinstance(bit, int)}  # fmt: skip
    assert SLOWED_BY[named["nvmlClocksEventReasonSwPowerCap"]] == "power_cap"
    assert SLOWED_BY[named["nvmlClocksThrottleReasonHwSlowdown"]] == "hardware"
    assert {SLOWED_BY[named[f"nvmlClocksThrottleReason{kind}ThermalSlowdown"]] for kind in ("Hw", "Sw")} == {"heat"}
    assert SLOWED_BY[named["nvmlClocksThrottleReasonHwPowerBrakeSlowdown"]] == "power_brake"


def test_no_driver_no_cards() -> None:
    nvml = open_nvml()
    if nvml is not None:
        assert read(nvml)
    assert read(Recorded()) == []


@pytest.mark.parametrize(
    ("given", "seen"),
    [
        (None, "ab"),
        ("", ""),
        ("0", "a"),
        ("1", "b"),
        ("1,0", "ba"),
        ("GPU-bbb", "b"),
        ("0,7,1", "a"),
        ("-1", ""),
    ],
)
def test_a_process_tells_of_the_cards_that_it_sees(given: str | None, seen: str) -> None:
    cards = [Card(uuid=f"GPU-{letter * 8}", name=letter) for letter in "ab"]
    environment = {} if given is None else {"CUDA_VISIBLE_DEVICES": given}
    assert "".join(card.name for card in visible(cards, environment)) == seen


def test_cards_come_back_from_what_their_workers_publish(tmp_path: Path) -> None:
    clock = Clock()
    for number, recorded in enumerate((Recorded(OLD), Recorded(H100), Recorded(H100))):
        metrics = Metrics(f"generate@gpu{number}", tmp_path, wall=clock)
        metrics.add(CardFigures(lambda nvml=recorded: read(nvml)))  # type: ignore[misc]  # mypy: a lambda's default
        metrics.write()
    assert published(tmp_path, clock) == [*read(Recorded(OLD)), *read(Recorded(H100))]
    clock.seconds += STALE_SECONDS  # their workers are dead, and what they said is no longer so
    assert published(tmp_path, clock) == []


@pytest.mark.parametrize("text", ["", "dropreel_gpu_info{", "dropreel_gpu_info 1\n", "\x00", "a b c d\n"])
def test_a_file_that_is_not_ours_tells_of_no_cards(tmp_path: Path, text: str) -> None:
    (tmp_path / "dropreel_generate@gpu0.prom").write_text(text)
    assert published(tmp_path) == []
