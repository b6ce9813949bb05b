"""Makes clips with one model: seeding, residency, progress, cancelling and checks, the same for every family."""

from __future__ import annotations

import copy
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from core.errors import Cancelled, DropreelError, MustRestart, Stopped
from core.generate.embeddings import EmbeddingCache, embedding_key
from core.generate.family import Embeddings, family
from core.generate.loading import load_encoders, load_model, versions
from core.generate.plan import Plan
from core.generate.presets import Preset
from core.generate.progress import Progress, watch_denoiser, watch_other
from core.generate.residency import Residency, watch_entries
from core.generate.turns import Abandoned, Turns
from core.generate.weights import Located, fingerprint
from core.work import Report, unwatched

Pixels = NDArray[np.uint8]
NATIVE = "native"


class NotFinite(DropreelError):
    """The model made numbers that are none."""


class Blank(DropreelError):
    """The model made a black clip of a picture that is not black."""


class WrongFrames(DropreelError):
    """The model made other frames than it was asked for."""


class OutOfMemory(DropreelError):
    """The card's memory does not hold this clip."""


class CardLost(MustRestart):
    """The card failed, and this process can use it no more: it has to be started again."""


@dataclass(frozen=True)
class Job:
    """One clip to make."""

    name: str
    plan: Plan
    picture: Pixels
    """The first frame as the model is given it, ``(H, W, 3)`` of the plan's canvas."""
    last: Pixels | None = None
    """The last one, for a plan of ``endpoints``."""
    report: Report = unwatched


@dataclass(frozen=True)
class Made:
    """A clip's base frames, maybe still on their way from the card."""

    record: dict[str, Any]
    """What the generator chose and measured: with the plan, all that it takes to make these bits again."""
    _host: torch.Tensor
    _arrived: torch.cuda.Event | None

    def frames(self) -> Pixels:
        """``(T, H, W, 3)`` uint8 RGB; waits until they have all arrived."""
        if self._arrived is not None:
            self._arrived.synchronize()
        found: Pixels = self._host.numpy()
        return found


@dataclass
class _Now(threading.local):
    """What runs in this thread."""

    progress: Progress = field(default_factory=lambda: Progress(unwatched, 1))


class Generator:
    """One model, loaded, on one device."""

    def __init__(self, preset: Preset, located: Located, device: torch.device, cache: Path) -> None:
        """Loads the model; ``cache`` is the folder of prompt embeddings. Raises what ``load_model`` does."""
        begun = time.perf_counter()
        self.preset = preset
        self.device = device
        self.attention = preset.attention
        self._kind = family(preset.family)
        self._located = located
        self._embeddings = EmbeddingCache(cache)
        self._encoder_hash = ""
        self._encoders: Any = None
        self._leaner = False
        self._now = _Now()
        self._turns: Turns[Made] | None = None
        self._pipe = load_model(preset, self._kind, located, device)
        modules = {name: made for name, made in self._pipe.components.items() if isinstance(made, torch.nn.Module)}
        if (upsample := getattr(self._pipe, "upsample", None)) is not None:
            modules["latent_upsampler"] = upsample.latent_upsampler
        for name, module in modules.items():
            watch_entries(module, partial(self._need, name))
            watch = watch_denoiser if name in self._kind.denoisers else watch_other
            watch(module, lambda: self._now.progress)
        self.residency = Residency(modules, preset.memory, device)
        self.load_seconds = time.perf_counter() - begun

    def encode(self, jobs: Sequence[Job]) -> int:
        """Encode the prompts that are not on disk yet, all in one phase; how many there were."""
        if not self._kind.has_prompt:
            return 0
        missing = {key: job for job in jobs if self._embeddings.get(key := self._key(job)) is None}
        if not missing:
            return 0
        place = self.device if self.preset.text_encoder != "cpu" else torch.device("cpu")
        if self.preset.text_encoder == "turn":
            self.residency.clear()
        encoders = self._encoders or load_encoders(self.preset, self._kind, self._located, place)
        for key, job in missing.items():
            job.report(0.0)
            with torch.no_grad():
                self._embeddings.put(key, self._kind.embed(encoders, job.plan, job.picture, place))
        self._encoders = encoders if self.preset.text_encoder == "card" else None
        del encoders
        self._sweep()
        return len(missing)

    def run(
        self, jobs: Sequence[Job], running: Callable[[Job | None], None] = lambda _job: None
    ) -> Iterator[tuple[Job, Made | Exception]]:
        """Make clips, and yield each as it is done, with its frames or with why there are none.

        ``running`` hears which clip's steps run from now on: in a round of several they alternate. A failure is the
        clip's own; ``Stopped``, ``CardLost`` and what breaks the generator itself end the round and are raised.
        """
        self.encode(jobs)
        again = []
        for job, made in self._round(jobs, running):
            if isinstance(made, OutOfMemory) and not self._leaner:
                again.append(job)
            else:
                yield job, made
        if again:
            self._make_leaner()
            for job in again:
                yield from self._round([job], running)

    def _round(
        self, jobs: Sequence[Job], running: Callable[[Job | None], None]
    ) -> Iterator[tuple[Job, Made | Exception]]:
        turns = self._turns = Turns(
            self.residency,
            [partial(self._make, job, len(jobs)) for job in jobs],
            lambda number: running(None if number is None else jobs[number]),
        )
        for number, made in turns.run():
            if isinstance(made, (Stopped, CardLost, Abandoned)) or not isinstance(made, (Made, Exception)):
                raise made
            if isinstance(made, Exception):
                self._sweep()
            yield jobs[number], made

    def _make(self, job: Job, together: int) -> Made:
        try:
            return self._attempt(job, together)
        except (NotFinite, Blank):
            if self.attention == NATIVE:
                raise
            self._use_attention(NATIVE)  # the backend is the first suspect; this worker uses it no more
            return self._attempt(job, together)

    def _attempt(self, job: Job, together: int) -> Made:
        """One clip, in whatever thread runs it."""
        kind, plan = self._kind, job.plan
        swaps, begun = self.residency.swaps, time.perf_counter()
        self._now.progress = Progress(job.report, kind.forwards(plan, self.preset))
        arguments = kind.call(plan, self.preset, job.picture, job.last) | self._embedded(job)
        arguments |= {"generator": torch.Generator("cpu").manual_seed(plan.seed), "output_type": "pt"}
        try:
            pipe = self._own_pipe()
            with torch.no_grad():
                frames = kind.decode(pipe, kind.run(pipe, arguments, self.preset))
                host, arrived = self._to_host(frames, job)
        except (Stopped, Cancelled, Abandoned, DropreelError):
            raise
        except torch.OutOfMemoryError as error:
            raise OutOfMemory(f"{OutOfMemory.__doc__} {error}") from error
        except RuntimeError as error:
            raise _what_it_means(error) from error
        record = {
            "card": _name_of(self.device),
            "dtype": self.preset.dtype,
            "attention": self.attention,
            "together": together,
            "leaner": self._leaner,
            "swaps": self.residency.swaps - swaps,
            "make_seconds": round(time.perf_counter() - begun, 3),
            "weights": self._located.origins(),
            "versions": versions(),
        }
        if self.device.type == "cuda":
            record["memory"] = {"peak_gib": round(torch.cuda.max_memory_allocated(self.device) / 2**30, 2)}
        return Made(record, host, arrived)

    def _to_host(self, frames: torch.Tensor, job: Job) -> tuple[torch.Tensor, torch.cuda.Event | None]:
        """Check the frames, ``(T, 3, H, W)`` float 0..1, and begin to copy them as bytes, ``(T, H, W, 3)``."""
        width, height = job.plan.canvas
        if tuple(frames.shape) != (job.plan.frames, 3, height, width):
            raise WrongFrames(f"{WrongFrames.__doc__} Asked for {job.plan.frames} of {width}×{height}, it made "
                              f"{tuple(frames.shape)}.")  # fmt: skip
        if not bool(torch.isfinite(frames).all()):
            raise NotFinite
        codes = (frames.clamp(0, 1) * 255).round().to(torch.uint8).permute(0, 2, 3, 1).contiguous()
        if int(codes.max()) < 8 and int(job.picture.max()) > 32:
            raise Blank
        if self.device.type != "cuda":
            return codes.cpu(), None
        host = torch.empty(codes.shape, dtype=torch.uint8, pin_memory=True)
        host.copy_(codes, non_blocking=True)
        arrived = torch.cuda.Event()  # type: ignore[no-untyped-call]  # torch's own
        arrived.record()
        return host, arrived

    def _own_pipe(self) -> Any:
        """The pipeline with a scheduler of its own: a scheduler remembers where in its steps it is."""
        pipe = copy.copy(self._pipe)
        pipe.scheduler = copy.deepcopy(self._pipe.scheduler)
        return pipe

    def _need(self, component: str) -> None:
        assert self._turns is not None  # noqa: S101 - components only run inside a round
        self._turns.need(component)

    def _key(self, job: Job) -> str:
        if not self._encoder_hash:
            self._encoder_hash = fingerprint(
                file for name in self._kind.encoders for file in self._located.files_of(name)
            )
        return embedding_key(self._encoder_hash, self.preset.dtype, self._kind.prompt_key(job.plan, job.picture))

    def _embedded(self, job: Job) -> Embeddings:
        if not self._kind.has_prompt:
            return {}
        found = self._embeddings.get(self._key(job))
        if found is None:
            raise DropreelError("The prompt's embeddings went from the cache while they were needed.")
        return {name: tensor.to(self.device) for name, tensor in found.items()}

    def _make_leaner(self) -> None:
        """Ask for as little of the card as there is a way to: everything takes turns, and the decoder works in tiles."""
        self._leaner = True
        if callable(tile := getattr(self._pipe.vae, "enable_tiling", None)):
            tile()
        self.residency.all_turn()
        self._sweep()

    def _use_attention(self, name: str) -> None:
        self.attention = name
        for denoiser in self._kind.denoisers:
            if (module := getattr(self._pipe, denoiser, None)) is not None:
                module.set_attention_backend(name)

    def _sweep(self) -> None:
        """After a failure or a phase: what diffusers remembers of a broken run, and memory that nothing uses."""
        self._pipe.maybe_free_model_hooks()
        if self.device.type == "cuda":
            torch.cuda.empty_cache()


def device_here() -> torch.device:
    """The best device that this process sees: a CUDA card, Apple's, or the processor."""
    if torch.cuda.is_available():
        return torch.device("cuda")
    return torch.device("mps" if torch.backends.mps.is_available() else "cpu")


def _name_of(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type


def _what_it_means(error: RuntimeError) -> Exception:
    """A RuntimeError of torch, as what it is: no memory, a card that is lost, or a failure like any other."""
    said = str(error)
    if "can't allocate memory" in said or "out of memory" in said:
        return OutOfMemory(f"{OutOfMemory.__doc__} {said}")
    if "CUDA error" in said or "cuDNN error" in said:
        return CardLost(f"{CardLost.__doc__} {said}")
    return error
