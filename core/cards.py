"""What the graphics cards say of themselves: load, memory, heat, power, and what slows them down."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from prometheus_client.metrics_core import Metric
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.registry import Collector
from prometheus_client.samples import Sample
from pydantic import Field

from core.contract import Record
from core.metrics import file_in, gauge

STALE_SECONDS = 60.0
"""What a worker wrote longer ago says nothing about now."""

SLOWED_BY = {
    0x004: "power_cap",
    0x008: "hardware",
    0x020: "heat",
    0x040: "heat",
    0x080: "power_brake",
    0x200: "board_limit",
    0x400: "reliability",
}
"""NVML's clock event reasons that mean a slower card than it could be; idling and a chosen clock are none."""


class Card(Record):
    """One card at one moment; None where it does not say."""

    uuid: str
    name: str
    utilization: float | None = Field(default=None, ge=0, le=1)
    """Share of the last moments in which something ran on it."""
    memory_used_bytes: int | None = None
    memory_bytes: int | None = None
    temperature_celsius: float | None = None
    power_watts: float | None = None
    slowed_by: list[str] = Field(default_factory=list)
    """Of the values of ``SLOWED_BY``."""


def open_nvml() -> Any | None:
    """NVIDIA's management library, ready to be asked; None where it or a driver is missing."""
    try:
        import pynvml  # type: ignore[import-untyped]  # it ships no types
    except ImportError:
        return None
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError:
        return None
    return pynvml


def read(nvml: Any) -> list[Card]:
    """All cards of this machine, in the order of their slots; one that has dropped off the bus is not seen."""

    def ask(question: str, *of: Any) -> Any | None:
        with contextlib.suppress(nvml.NVMLError):  # not every card answers every question
            return getattr(nvml, question)(*of)
        return None

    cards = []
    for index in range(ask("nvmlDeviceGetCount") or 0):
        handle = ask("nvmlDeviceGetHandleByIndex", index)
        uuid = handle and ask("nvmlDeviceGetUUID", handle)
        if uuid is None:
            continue
        rates = ask("nvmlDeviceGetUtilizationRates", handle)
        memory = ask("nvmlDeviceGetMemoryInfo", handle)
        milliwatts = ask("nvmlDeviceGetPowerUsage", handle)
        reasons = ask("nvmlDeviceGetCurrentClocksEventReasons", handle) or 0
        cards.append(
            Card(
                uuid=uuid,
                name=ask("nvmlDeviceGetName", handle) or "unknown",
                utilization=rates and rates.gpu / 100,
                memory_used_bytes=memory and memory.used,
                memory_bytes=memory and memory.total,
                temperature_celsius=ask("nvmlDeviceGetTemperature", handle, nvml.NVML_TEMPERATURE_GPU),
                power_watts=None if milliwatts is None else milliwatts / 1000,
                slowed_by=sorted({word for bit, word in SLOWED_BY.items() if reasons & bit}),
            )
        )
    return cards


def visible(cards: list[Card], environment: Mapping[str, str]) -> list[Card]:
    """Those that CUDA shows this process: ``CUDA_VISIBLE_DEVICES`` as numbers by slot, or beginnings of UUIDs."""
    wanted = environment.get("CUDA_VISIBLE_DEVICES")
    if wanted is None:
        return cards
    seen = []
    for word in (word.strip() for word in wanted.split(",")):
        found = [card for i, card in enumerate(cards) if word == str(i) or (word and card.uuid.startswith(word))]
        if not found:  # CUDA, too, sees nothing from the first one on that is not there
            break
        seen += found
    return seen


class CardFigures(Collector):
    """The cards of this process, for its metrics."""

    def __init__(self, look: Callable[[], list[Card]]) -> None:
        self._look = look

    def collect(self) -> Iterator[Metric]:
        """One family a figure, one sample a card."""
        cards = [({"uuid": card.uuid}, card) for card in self._look()]
        name = "dropreel_gpu"
        yield gauge(f"{name}_info", "A graphics card.", *(({**of, "name": card.name}, 1) for of, card in cards))
        yield gauge(f"{name}_utilization_ratio", "Share of the time in which something ran on the card.",
                    *((of, card.utilization) for of, card in cards))  # fmt: skip
        yield gauge(f"{name}_memory_used_bytes", "Memory of the card in use.",
                    *((of, card.memory_used_bytes) for of, card in cards))  # fmt: skip
        yield gauge(f"{name}_memory_size_bytes", "Memory that the card has.",
                    *((of, card.memory_bytes) for of, card in cards))  # fmt: skip
        yield gauge(f"{name}_temperature_celsius", "How hot the card is.",
                    *((of, card.temperature_celsius) for of, card in cards))  # fmt: skip
        yield gauge(f"{name}_power_watts", "Power that the card draws.",
                    *((of, card.power_watts) for of, card in cards))  # fmt: skip
        slowed = (({**of, "reason": reason}, float(reason in card.slowed_by))
                  for of, card in cards for reason in sorted(set(SLOWED_BY.values())))  # fmt: skip
        yield gauge(f"{name}_throttled", "1 while the card is slower than it could be, for this reason.", *slowed)


def published(folder: Path, wall: Callable[[], float] = time.time) -> list[Card]:
    """The cards as the living workers of ``generate`` last wrote of them, each once, by UUID.

    They alone have the right to ask the driver; whoever else wants to know reads what they publish.
    """
    cards: dict[str, Card] = {}
    for path in sorted(folder.glob(file_in(folder, "generate@*").name)):
        with contextlib.suppress(OSError, ValueError, LookupError):  # not what we write
            families = {family.name: family for family in text_string_to_metric_families(path.read_text("utf-8"))}
            written = families["dropreel_last_write_timestamp_seconds"].samples[0].value
            if wall() - written < STALE_SECONDS:
                cards.update((card.uuid, card) for card in _cards_in(families))
    return [cards[uuid] for uuid in sorted(cards)]


_FIELDS = {
    "dropreel_gpu_utilization_ratio": "utilization",
    "dropreel_gpu_memory_used_bytes": "memory_used_bytes",
    "dropreel_gpu_memory_size_bytes": "memory_bytes",
    "dropreel_gpu_temperature_celsius": "temperature_celsius",
    "dropreel_gpu_power_watts": "power_watts",
}


def _cards_in(families: Mapping[str, Metric]) -> list[Card]:
    """What ``CardFigures`` made families of, as cards again."""

    def samples(name: str) -> list[Sample]:
        return families[name].samples if name in families else []

    found: dict[str, dict[str, Any]] = {
        sample.labels["uuid"]: {"uuid": sample.labels["uuid"], "name": sample.labels["name"], "slowed_by": []}
        for sample in samples("dropreel_gpu_info")
    }
    for name, field in _FIELDS.items():
        for sample in samples(name):
            found[sample.labels["uuid"]][field] = sample.value
    for sample in samples("dropreel_gpu_throttled"):
        if sample.value:
            found[sample.labels["uuid"]]["slowed_by"].append(sample.labels["reason"])
    return [Card.model_validate(card) for card in found.values()]
