"""The graphics cards: each one computes for the worker that it is given to, and the services see theirs."""

from __future__ import annotations

import sys
from collections.abc import Iterator

from core import cards, metrics, process
from core.doctor.alive import posts
from core.doctor.result import Check, Patient, Result, fail, ok, skipped, warn
from core.errors import ProcessFailed
from core.gpu import card_of
from core.services import plan
from core.services.systemd import CARD_STAGES
from core.settings import Settings, presets
from core.work import unwatched

_ON_THE_PROCESSOR = frozenset({"camera"})
"""Families of presets that need no card."""
_TEST = "from core.gpu import self_test; print(self_test())"
_TEST_SECONDS = 120.0  # torch takes its time to load
_REMEDY = ("Do what it says: until then the service of this worker does not start. Where no preset needs a card, "
           "`dropreel up` does without.")  # fmt: skip


def computing(patient: Patient) -> Iterator[Result]:
    """The test that a service makes before it says that it is ready, for the card that each worker is given."""
    if not patient.settings.gpu:
        return
    needing = [name for name, preset in presets().items() if preset["family"] not in _ON_THE_PROCESSOR]
    if not plan.CARD_DRIVER.exists():
        if needing:
            yield fail("cards", f"no NVIDIA driver is loaded, and {', '.join(needing)} cannot do without a card",
                       "Install the driver until `nvidia-smi` lists the cards.")  # fmt: skip
        else:
            yield skipped("cards", "no NVIDIA driver is loaded, and no preset needs a card: camera moves are made on "
                          "the processor")  # fmt: skip
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


CHECKS = (Check("gpu", "cards", computing, seconds=300.0),)


def _given(settings: Settings) -> dict[str, list[str]]:
    """The cards that workers are given by their names, each with those workers."""
    found: dict[str, list[str]] = {}
    for stage in CARD_STAGES:
        for worker in settings.rooms.workers.of(stage):
            if (card := card_of(worker)) is not None:
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
