"""The graphics cards: each one computes for the worker that it is given to, holds its presets, and is seen by it."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from core import cards, gpu, metrics, process
from core.doctor.alive import posts
from core.doctor.result import Check, Patient, Result, fail, ok, skipped, warn
from core.errors import ProcessFailed
from core.generate.memory import ERROR, GB, Forecast, host_memory, misfit, predict, room_on, usual
from core.generate.presets import Preset
from core.generate.weights import look, used
from core.gpu import CARD_STAGES
from core.settings import Settings
from core.work import unwatched

_TEST = "from core.gpu import self_test; print(self_test())"
_TEST_SECONDS = 120.0  # torch takes its time to load
_REMEDY = ("Do what it says: until then the service of this worker does not start. Where no preset needs a card, "
           "`dropreel up` does without.")  # fmt: skip


def computing(patient: Patient) -> Iterator[Result]:
    """The test that a service makes before it says that it is ready, for the card that each worker is given."""
    if not patient.settings.gpu:
        return
    needing = [preset.name for preset in used(patient.settings, patient.home.root) if preset.weights is not None]
    if not gpu.CARD_DRIVER.exists():
        if needing:
            yield fail("cards", f"no NVIDIA driver is loaded, and {', '.join(needing)} cannot do without a card",
                       "Install the driver until `nvidia-smi` lists the cards.")  # fmt: skip
        else:
            yield skipped("cards", "no NVIDIA driver is loaded, and no preset of this home needs a card: camera moves "
                          "are made on the processor")  # fmt: skip
        return
    for card, workers in _given(patient.settings).items():
        try:
            said = process.run(_test(card), unwatched, limit=_TEST_SECONDS).stdout.strip()
        except ProcessFailed as error:
            last = error.stderr.strip().rpartition("\n")[2].rpartition("BadSettings: ")[2]
            yield (fail if needing else warn)(f"card {card}", f"{', '.join(workers)}: {last or error}", _REMEDY)
        else:
            yield ok(f"card {card}", f"{', '.join(workers)}: {said}")
    yield from _driver()
    yield from _services(patient)


def fitting(patient: Patient) -> Iterator[Result]:
    """Whether the presets that this home uses fit on the cards of its workers, and all workers in the host's memory."""
    if patient.settings.gpu:
        yield from judge(patient, used(patient.settings, patient.home.root))


CHECKS = (Check("gpu", "cards", computing, seconds=300.0), Check("gpu", "fit", fitting))


class Room(NamedTuple):
    """A card, and how much of it can be had."""

    name: str
    bytes: float
    sharers: int
    """How many workers of ``generate`` it is given to."""


def judge(patient: Patient, presets: Iterable[Preset], card_gib: float | None = None) -> Iterator[Result]:
    """Whether each of these fits; on a card of ``card_gib`` where that is given, whatever cards are here."""
    settings = patient.settings
    rooms = [Room(f"a card of {card_gib:g} GiB", card_gib * 2**30, 1)] if card_gib else _rooms(patient)
    workers = len(settings.rooms.workers.generate)
    available, total = host_memory() if card_gib is None else (None, None)
    host = total if _at_work(patient) else available
    for preset in presets:
        if preset.weights is None:
            continue
        try:
            found = look(preset, settings.generation, patient.home.root)
            forecast, modest = predict(preset, found), predict(preset, found, usual(preset))
        except (OSError, ValueError) as error:
            yield fail(preset.name, f"its weights cannot be read: {error}",
                       f"`dropreel weights {preset.name} --hash` tells which file is damaged.")  # fmt: skip
            continue
        yield from _on_cards(forecast, modest, rooms)
        yield _on_host(forecast, workers, host)


def _on_cards(forecast: Forecast, modest: Forecast, rooms: list[Room]) -> Iterator[Result]:
    """Of a preset's largest clip, and of one of its usual canvas."""
    name = f"{forecast.preset}: card"
    needs = (f"{forecast.card / GB:.1f} GB for its largest clip, while {forecast.card_worst}: "
             f"{_told(forecast.card_phases)}; {modest.card / GB:.1f} GB on its usual canvas")  # fmt: skip
    if forecast.unknown:
        yield warn(name, f"the size of {', '.join(forecast.unknown)} is not known before the files are here; without: "
                   f"{needs}", f"`dropreel weights {forecast.preset} --fetch`, then ask again.")  # fmt: skip
    if not rooms:
        yield skipped(name, f"{needs}. There is no card here to hold that against: --card-gib names a size")
    for card in rooms:
        each = card.bytes / card.sharers
        seen = f"{needs}; {room_on(each) / GB:.1f} GB are to be had of {card.name}"
        if card.sharers > 1:
            seen += f" for each of {card.sharers} workers"
        if problem := misfit(modest, each, card.name):
            yield fail(name, seen, problem.remedy or "")
        elif misfit(forecast, each, card.name):
            yield warn(name, seen, "The largest canvas does not fit: lower canvas.pixels_max or frames_max in a copy "
                       "of the preset, and what needs more is refused before it fails.")  # fmt: skip
        elif forecast.card > room_on(each) * (1 - ERROR):
            yield warn(name, seen, f"It fits by less than the prediction may be off, {ERROR:.0%}: make a clip, and see "
                       "the peak that its video_meta.json records.")  # fmt: skip
        else:
            yield ok(name, seen)


def _on_host(forecast: Forecast, workers: int, available: int | None) -> Result:
    name = f"{forecast.preset}: host"
    own, needs = forecast.host_each * workers, forecast.host(workers)
    many = f"{workers} workers" if workers > 1 else "1 worker"
    seen = (f"{needs / GB:.1f} GB for {many}, {forecast.host_each / GB:.1f} each while {forecast.host_worst}: "
            f"{_told(forecast.host_phases)}")  # fmt: skip
    if forecast.shared:
        seen += f"; and the pages of files, once for all: {_sizes(forecast.shared)}"
    if available is None:
        return skipped(name, f"{seen}. Not compared: how much the host of that card has is not known here")
    seen += f"; {available / GB:.1f} GB are to be had"
    if own > available:
        return fail(name, seen, "Fewer workers (rooms.workers.generate), a leaner preset, or more memory: else the "
                    "kernel kills one.")  # fmt: skip
    if needs > available * (1 - ERROR):
        return warn(name, seen, "What is mapped will be read from the disk again and again: fewer workers, or more "
                    "memory.")  # fmt: skip
    return ok(name, seen)


def _told(phases: dict[str, dict[str, float]]) -> str:
    """The worst phase thing by thing, and what the others come to."""
    order = sorted(phases, key=lambda phase: -sum(phases[phase].values()))
    others = {phase: sum(phases[phase].values()) for phase in order[1:]}
    return _sizes(phases[order[0]]) + (f" ({_sizes(others)})" if others else "")


def _sizes(things: dict[str, float]) -> str:
    return ", ".join(f"{name} {size / GB:.1f}" for name, size in sorted(things.items(), key=lambda item: -item[1]))


def _at_work(patient: Patient) -> bool:
    """Whether workers of this home hold memory now that they would use for this very work."""
    return any(post.held for post in posts(patient) if post.name.startswith("generate@"))


def _rooms(patient: Patient) -> list[Room]:
    """The cards that workers of ``generate`` are given, with what can be had of each."""
    nvml = cards.open_nvml()
    seen = cards.read(nvml) if nvml is not None else []
    busy = _at_work(patient)
    rooms = []
    for name, workers in _given(patient.settings).items():
        found = cards.visible(seen, {"CUDA_VISIBLE_DEVICES": name})
        makers = [worker for worker in workers if worker.startswith("generate@")]
        if makers and found and (size := found[0].memory_bytes) is not None:
            free = size if busy else size - (found[0].memory_used_bytes or 0)
            allowed = patient.settings.generation.memory_gib  # of each worker
            most = free if allowed is None else min(free, allowed * 2**30 * len(makers))
            rooms.append(Room(f"card {name}, {found[0].name}", most, len(makers)))
    return rooms


def _given(settings: Settings) -> dict[str, list[str]]:
    """The cards that workers are given by their names, each with those workers."""
    found: dict[str, list[str]] = {}
    for stage in CARD_STAGES:
        for worker in settings.rooms.workers.of(stage):
            if (card := gpu.card_of(worker)) is not None:
                found.setdefault(card, []).append(f"{stage}@{worker}")
    return found


def _test(card: str) -> list[str]:
    """The self-test in a process that sees this card alone, as a worker's service does."""
    return ["env", "CUDA_DEVICE_ORDER=PCI_BUS_ID", f"CUDA_VISIBLE_DEVICES={card}", sys.executable, "-P", "-c", _TEST]


def _driver() -> Iterator[Result]:
    """What slows a card down now."""
    nvml = cards.open_nvml()
    for card in cards.read(nvml) if nvml is not None else []:
        if card.slowed_by:
            yield warn("cards", f"{card.name} ({card.uuid}) is slowed by {', '.join(card.slowed_by)}",
                       "Look at its cooling and its power supply.")  # fmt: skip


def _services(patient: Patient) -> Iterator[Result]:
    """A service's sandbox may hide what a shell sees; the workers publish what they see."""
    living = [post.name for post in posts(patient) if post.name.startswith("generate@") and post.held]
    published = cards.published(
        metrics.folder_of(patient.settings.metrics, patient.home, patient.home.gpu.state),
    )
    if not living:
        yield skipped("workers", "no worker of generate runs that could say which cards it sees")
    elif published:
        yield ok("workers", f"{', '.join(living)} see {', '.join(card.name for card in published)}")
    else:
        yield warn("workers", f"{', '.join(living)}: running, and no card seen",
                   "If they are services, the sandbox hides it: `dropreel services install` writes one that does "
                   "not.")  # fmt: skip
