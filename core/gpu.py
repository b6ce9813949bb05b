"""The card that this process was given: which it is, and whether it works."""

from __future__ import annotations

import importlib
import importlib.util
import os
import re
from collections.abc import Mapping
from pathlib import Path

from core.errors import BadSettings

CARD_STAGES = ("generate", "interpolate")
"""The stages whose workers use a card."""
CARD_DRIVER = Path("/proc/driver/nvidia/version")
"""Is there when the driver is loaded."""

_INDEX = re.compile(r"gpu(\d+)")
_UUID = re.compile(r"(GPU|MIG)-[0-9a-f-]+")


def card_of(worker: str) -> str | None:
    """The card that a worker's name means, as CUDA calls it: ``gpu1`` is ``1``, ``GPU-8932f937`` itself; else None."""
    if index := _INDEX.fullmatch(worker):
        return index[1]
    return worker if _UUID.fullmatch(worker) else None


def card_environment(stage: str, worker: str | None, environment: Mapping[str, str] = os.environ) -> dict[str, str]:
    """The variables that give a worker the card that its name means, and no other.

    Empty where there is no driver or no torch to use a card with, and where the operator has chosen cards.
    """
    card = card_of(worker or "") if stage in CARD_STAGES else None
    if card is None or "CUDA_VISIBLE_DEVICES" in environment or not CARD_DRIVER.exists():
        return {}
    if importlib.util.find_spec("torch") is None:
        return {}
    return {"CUDA_DEVICE_ORDER": "PCI_BUS_ID", "CUDA_VISIBLE_DEVICES": card}


def self_test() -> str:
    """What the card is that ``CUDA_VISIBLE_DEVICES`` names, once it has multiplied; empty where the variable is.

    Raises ``BadSettings`` where torch is missing, does not see exactly one card, or the card computes nothing: else
    the work would run on the processor for hours, and nobody would hear of it.
    """
    given = os.environ.get("CUDA_VISIBLE_DEVICES", "")
    if not given:
        return ""
    says = f"CUDA_VISIBLE_DEVICES={given} gives this worker a card, but "
    try:
        torch = importlib.import_module("torch")
    except ImportError as error:
        raise BadSettings(f"{says}torch cannot be imported ({error}). Install the extra: pip install 'dropreel[gpu]'; "
                          "or unset the variable.") from error  # fmt: skip
    seen = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if seen != 1:
        raise BadSettings(f"{says}torch sees {seen}, not one. `nvidia-smi -L` lists the cards; the service must be "
                          "allowed /dev/nvidia*, and the driver loaded.")  # fmt: skip
    try:
        ones = torch.ones((16, 16), device="cuda")
        right = float((ones @ ones).sum()) == 16**3
    except RuntimeError as error:
        raise BadSettings(f"{says}it cannot compute: {error}. Look for it in `nvidia-smi` and `dmesg`.") from error
    if not right:
        raise BadSettings(f"{says}it computes wrongly. Take it out of service.")
    card = torch.cuda.get_device_properties(0)
    return f"{card.name}, {card.total_memory / 2**30:.0f} GiB, compute capability {card.major}.{card.minor}"
