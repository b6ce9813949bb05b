"""What networks run on here, and how much of it they may use."""

from __future__ import annotations

import torch

from core.errors import BadSettings


def device_here(wanted: str = "auto") -> torch.device:
    """What models run on here: the best that this process sees, or the one that is ``wanted``.

    Raises ``BadSettings`` where that is not to be had.
    """
    seen = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    if wanted == "auto":
        return torch.device(next(name for name, there in seen.items() if there))
    if not seen[wanted]:
        raise BadSettings(f"device = \"{wanted}\": torch {torch.__version__} sees no {wanted} here. It sees: "
                          f"{', '.join(name for name, there in seen.items() if there)}.")  # fmt: skip
    return torch.device(wanted)


def limit_card_memory(device: torch.device, gib: float | None) -> None:
    """Let this process use no more of a CUDA card than so much: as if the card were smaller."""
    if device.type == "cuda" and gib is not None:
        whole = torch.cuda.get_device_properties(device).total_memory
        torch.cuda.set_per_process_memory_fraction(min(1.0, gib * 2**30 / whole), device)


def card_memory(device: torch.device, gib: float | None) -> float:
    """The bytes of a CUDA card that this process may use."""
    whole = float(torch.cuda.get_device_properties(device).total_memory)
    return whole if gib is None else min(whole, gib * 2**30)
