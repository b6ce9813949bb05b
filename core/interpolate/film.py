"""FILM: new frames from a TorchScript file, which brings its own network; slower, and good where much moves.

The files that are meant are those of https://github.com/dajes/frame-interpolation-pytorch, ``film_net_fp32.pt`` and
``film_net_fp16.pt``: ``forward(x0, x1, dt)`` with frames ``(1, 3, H, W)`` of 0..1 and ``dt`` ``(1, 1)``.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from zipfile import BadZipFile, ZipFile

import torch

from core.errors import Refused
from core.interpolate.flow import is_cut
from core.interpolate.network import Frame, as_frames, as_tensor
from core.interpolate.plan import Sample
from core.interpolate.retime import pair_by_pair
from core.torch_errors import meaning

MULTIPLE = 64
"""Both sides of what the network is given: it halves them six times."""
TOUCHES_FILES = re.compile(r"\.(save|from_file)\b")
"""All that a TorchScript program can do outside its tensors, by the names that the saved code has for it."""
REMEDY = "Name film_net_fp32.pt or film_net_fp16.pt."


class Film:
    """Interpolation by a FILM network.

    It was trained for the middle alone. So the frame nearest to the middle is made first, and those on either side of
    it between it and the frames there are, each at its own share of the way.
    """

    name = "film"

    def __init__(self, network: torch.jit.ScriptModule, device: str | torch.device = "cpu") -> None:
        """In the precision of ``network``."""
        self.device = torch.device(device)
        self._network = network.eval().to(self.device)
        self._dtype = next((x.dtype for x in network.parameters()), torch.float32)

    @classmethod
    def load(cls, path: str | Path, device: str | torch.device = "cpu") -> Film:
        """From a TorchScript file; on the processor in float32, whatever the file's own precision.

        Such a file holds a program. TorchScript knows no Python, no processes and no network, but it can write and
        map files; a program that does is refused before it is loaded. Raises ``Refused`` for that too, where the file
        is no TorchScript, and where it takes other things than FILM, and ``OSError``.
        """
        path = Path(path)
        try:
            with ZipFile(path) as archive:
                code = [archive.read(name).decode() for name in archive.namelist() if name.endswith(".py")]
        except BadZipFile:
            raise _unreadable(path, "is no TorchScript") from None
        if any(TOUCHES_FILES.search(text) for text in code):
            raise _unreadable(path, "holds a program that reads or writes files")
        try:
            network = torch.jit.load(str(path), map_location="cpu")  # type: ignore[no-untyped-call]  # torch's own
        except RuntimeError as error:
            raise _unreadable(path, f"is no TorchScript: {str(error).strip().splitlines()[0]}") from None
        taken = [argument.name for argument in network.forward.schema.arguments[1:]]
        if len(taken) != 3:
            raise Refused.because(
                "interpolator_unknown",
                f"The network takes {', '.join(taken) or 'nothing'}; FILM's takes two frames and the time.",
                file=path.name,
                remedy=REMEDY,
            )
        return cls(network if torch.device(device).type == "cuda" else network.float(), device)

    def clip(self, base: Frame, samples: Iterable[Sample]) -> Iterator[Frame]:
        """The frames of ``samples``; see ``retime.Method``."""
        return pair_by_pair(base, samples, self.between)

    def between(self, a: Frame, b: Frame, times: Iterable[float]) -> Iterator[Frame]:
        """The frames at ascending ``times``, in (0, 1), between two RGB frames, ``(H, W, 3)``.

        Of two shots, the nearer one. They are made one by one: the public files cannot take several. Raises
        ``NotFinite``, ``OutOfMemory`` and ``CardLost``.
        """
        wanted = list(times)
        if not wanted:
            return
        if is_cut(a, b):
            yield from (a if t < 0.5 else b for t in wanted)
            return
        height, width = a.shape[:2]
        with meaning():
            ends = [as_tensor(frame, MULTIPLE, self.device).to(self._dtype) for frame in (a, b)]
        for made in self._between(ends[0], 0.0, ends[1], 1.0, wanted):
            yield from as_frames(made, height, width)

    def _between(
        self, a: torch.Tensor, at_a: float, b: torch.Tensor, at_b: float, times: list[float]
    ) -> Iterator[torch.Tensor]:
        """The frames at ``times`` between two that are at ``at_a`` and ``at_b``, in order, ``(1, 3, H, W)`` each."""
        if not times:
            return
        shares = [(t - at_a) / (at_b - at_a) for t in times]
        place = min(range(len(times)), key=lambda number: abs(shares[number] - 0.5))
        with meaning(), torch.inference_mode():
            made = self._network(a, b, a.new_full((1, 1), shares[place])).clamp(0, 1)
        yield from self._between(a, at_a, made, times[place], times[:place])
        yield made
        yield from self._between(made, times[place], b, at_b, times[place + 1 :])


def _unreadable(path: Path, what: str) -> Refused:
    return Refused.because("interpolator_unreadable", f"The file {what}.", file=path.name, remedy=REMEDY)
