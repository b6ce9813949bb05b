"""Which components are on the card: those that stay there, and the one, of those that take turns, that works now."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Mapping
from types import SimpleNamespace
from typing import Any

import torch

from core.generate.presets import Memory

PINNED_BYTES = 256 << 20
"""Of one piece of page-locked memory; a larger tensor has one of its own."""
ALIGNED_BYTES = 256


class Residency:
    """The components of one model, on one device.

    A component that takes turns has its weights on the host for good: bringing it to the card copies them, and taking
    it off only lets the copy go. Weights do not change, so nothing is ever copied back.
    """

    def __init__(
        self,
        components: Mapping[str, torch.nn.Module],
        memory: Mapping[str, Memory],
        device: torch.device,
        stays: Collection[str] = (),
    ) -> None:
        """Brings the components that stay to ``device``, and keeps those that take turns on the host.

        ``stays`` are those that ``all_turn`` leaves where they are: their weights change as they work.
        """
        self.device = device
        self.here: str | None = None
        """Which of those that take turns is on the card."""
        self.swaps = 0
        """How often one was brought there,"""
        self.seconds = 0.0
        """how long that took in all,"""
        self.bytes = 0
        """and how much was copied."""
        self._host: dict[str, dict[str, torch.Tensor]] = {}
        self._modules = dict(components)
        self._memory = memory
        self._stays = stays
        for name, module in components.items():
            kept = memory.get(name, Memory())
            if kept.residency == "turn":
                self._keep_on_host(name, pin=kept.host == "pinned" and device.type == "cuda")
            elif kept.residency == "card":
                module.to(device)
            else:
                _group_offload(module, device, pin=kept.host == "pinned")

    def all_turn(self) -> None:
        """Let every component that stayed, and need not, take turns from now on."""
        for name, module in self._modules.items():
            if name not in {*self._host, *self._stays} and self._memory.get(name, Memory()).residency == "card":
                module.to("cpu")
                self._keep_on_host(name, pin=False)

    def _keep_on_host(self, name: str, *, pin: bool) -> None:
        module: Any = self._modules[name]
        host = {place: tensor.data for place, tensor in _tensors(module)}
        self._host[name] = _pinned(host) if pin else host
        self._point(name, self._host[name])
        # Where diffusers asks a component that waits on the host where it will work, it looks for accelerate's hook.
        module._hf_hook = SimpleNamespace(execution_device=self.device)  # noqa: SLF001 - the name is accelerate's

    @property
    def turning(self) -> frozenset[str]:
        """The components that take turns."""
        return frozenset(self._host)

    def has(self, name: str) -> bool:
        """Whether a component can work at once."""
        return name not in self._host or self.here == name

    def bring(self, name: str) -> None:
        """Let a component take its turn on the card; the one before it goes."""
        if self.has(name):
            return
        begun = time.perf_counter()
        self.clear()
        # A copy even where the device is the host's own memory: then, too, what works is not what is mapped.
        copies = {place: _copied(tensor, self.device) for place, tensor in self._host[name].items()}
        self._point(name, copies)
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        self.here = name
        self.swaps += 1
        self.seconds += time.perf_counter() - begun
        self.bytes += sum(tensor.nbytes for tensor in copies.values())

    def clear(self) -> None:
        """Take the one that is on the card off it."""
        if self.here is not None:
            self._point(self.here, self._host[self.here])
            self.here = None

    def _point(self, name: str, tensors: dict[str, torch.Tensor]) -> None:
        for place, tensor in _tensors(self._modules[name]):
            tensor.data = tensors[place]


def _group_offload(module: Any, device: torch.device, *, pin: bool) -> None:
    """Have diffusers bring each block when it works, the next one meanwhile where the device can do both."""
    module.enable_group_offload(
        onload_device=device,
        offload_type="block_level",
        num_blocks_per_group=1,
        use_stream=device.type == "cuda",
        low_cpu_mem_usage=not pin,
    )


def _pinned(host: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The same tensors in page-locked memory, many to a piece: torch rounds every piece up to a power of two."""
    found: dict[str, torch.Tensor] = {}
    piece, used = torch.empty(0, dtype=torch.uint8), 0
    for place, tensor in host.items():
        if used + tensor.nbytes > len(piece):
            piece, used = torch.empty(max(PINNED_BYTES, tensor.nbytes), dtype=torch.uint8, pin_memory=True), 0
        found[place] = piece[used : used + tensor.nbytes].view(tensor.dtype).view(tensor.shape).copy_(tensor)
        used += -(-tensor.nbytes // ALIGNED_BYTES) * ALIGNED_BYTES
    return found


def watch_entries(module: torch.nn.Module, enter: Callable[[], None]) -> None:
    """Have ``enter`` called whenever a component begins to work: its forward, or an autoencoder's two halves."""

    def hook(_module: torch.nn.Module, _args: Any) -> None:
        enter()

    module.register_forward_pre_hook(hook)
    for half in ("encode", "decode"):
        if callable(inner := getattr(module, half, None)):
            setattr(module, half, _entered(inner, enter))


def _entered(inner: Callable[..., Any], enter: Callable[[], None]) -> Callable[..., Any]:
    def entered(*args: Any, **kwargs: Any) -> Any:
        enter()
        return inner(*args, **kwargs)

    return entered


def _tensors(module: torch.nn.Module) -> list[tuple[str, torch.Tensor]]:
    """The parameters and buffers of a component; one that two places share is named once."""
    return [*module.named_parameters(), *((f"buffer {name}", tensor) for name, tensor in module.named_buffers())]


def _copied(tensor: torch.Tensor, device: torch.device) -> torch.Tensor:
    return tensor.clone() if tensor.device == device else tensor.to(device, non_blocking=True)
