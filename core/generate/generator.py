"""Makes clips with one model: seeding, residency, progress, cancelling and checks, the same for every family."""

from __future__ import annotations

import contextlib
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

from core.errors import BadSettings, Cancelled, DropreelError, MustRestart, Stopped
from core.generate.embeddings import EmbeddingCache, embedding_key
from core.generate.family import Embeddings, family
from core.generate.loading import load_encoders, load_model, versions
from core.generate.plan import Plan
from core.generate.presets import Preset
from core.generate.progress import Progress, watch_denoiser, watch_other
from core.generate.residency import Residency, watch_entries
from core.generate.turns import Turns, forget_variables
from core.generate.weights import Located, fingerprint
from core.torch_errors import OutOfMemory, meaning
from core.work import Report, unwatched

Pixels = NDArray[np.uint8]
NATIVE = "native"


class NotFinite(DropreelError):
    """The model made numbers that are none."""


class Blank(DropreelError):
    """The model made a black clip of a picture that is not black."""


class WrongFrames(DropreelError):
    """The model made other frames than it was asked for."""


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
        """``(T, H, W, 3)`` uint8 RGB; waits until they have all arrived. Raises ``CardLost``."""
        if self._arrived is not None:
            with meaning():
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
        """Loads the model; ``cache`` is the folder of prompt embeddings.

        Raises what ``load_model`` does, ``OutOfMemory`` and ``CardLost``.
        """
        begun = time.perf_counter()
        self.preset = preset
        self.device = device
        self.attention = preset.attention
        self._kind = family(preset.family)
        self._located = located
        self._embeddings = EmbeddingCache(cache)
        self._encoder_hash = ""
        self._encoders: Any = None
        self._unencoded: dict[str, Exception] = {}
        """The prompts that could not be encoded, by key, and why."""
        self.leaner = False
        """Whether it was out of memory, and asks for as little of it as there is a way to."""
        self._now = _Now()
        self._turns: Turns[Made] | None = None
        with meaning():
            self._pipe = load_model(preset, self._kind, located, device)
        modules = {name: made for name, made in self._pipe.components.items() if isinstance(made, torch.nn.Module)}
        if (upsample := getattr(self._pipe, "upsample", None)) is not None:
            modules["latent_upsampler"] = upsample.latent_upsampler
        for name, module in modules.items():
            watch_entries(module, partial(self._need, name))
            watch = watch_denoiser if name in self._kind.denoisers else watch_other
            watch(module, lambda: self._now.progress)
        self._pipe.vae.decoder.register_forward_hook(_must_be_finite)
        with meaning():
            self.residency = Residency(modules, preset.memory, device)
        self.load_seconds = time.perf_counter() - begun

    def encode(self, jobs: Sequence[Job], ahead: Callable[[], Sequence[Job]] = tuple) -> int:
        """Encode the prompts of ``jobs`` that are not on disk yet, in one phase; how many were encoded.

        Where there are any, those of ``ahead`` are encoded with them. A prompt that cannot be encoded is its own clip's
        failure, and raised where that is made. Raises ``Stopped``, ``OutOfMemory`` and ``CardLost``.
        """
        missing = self._missing(jobs)
        if not missing:
            return 0
        try:
            return self._encode(missing, self._missing(ahead()))
        except OutOfMemory:
            if self.leaner:
                raise
            self._make_leaner()
            return self._encode(missing, {})

    def _missing(self, jobs: Sequence[Job]) -> dict[str, Job]:
        if not self._kind.has_prompt:
            return {}
        keys = {self._key(job): job for job in jobs}
        return {key: job for key, job in keys.items() if key not in self._unencoded and not self._embeddings.get(key)}

    def _encode(self, needed: dict[str, Job], ahead: dict[str, Job]) -> int:
        place = self.device if self.preset.text_encoder != "cpu" else torch.device("cpu")
        if self.leaner or self.preset.text_encoder == "turn":
            self.residency.clear()
        encoded = 0
        with meaning(), torch.no_grad():
            encoders = self._encoders or load_encoders(self.preset, self._kind, self._located, place)
            for key, job in (ahead | needed).items():
                try:
                    with meaning(), contextlib.suppress(Cancelled):  # which the clip's own steps will raise
                        job.report(0.0)
                    with meaning():
                        self._embeddings.put(key, self._kind.embed(encoders, job.plan, job.picture, place))
                    encoded += 1
                except (Stopped, MustRestart):
                    raise
                except Exception as error:
                    forget_variables(error)
                    if key in needed and isinstance(error, OutOfMemory):
                        raise
                    if key in needed:
                        self._unencoded[key] = error
        self._encoders = encoders if self.preset.text_encoder == "card" and not self.leaner else None
        del encoders
        self._sweep()
        return encoded

    def run(
        self, jobs: Sequence[Job], running: Callable[[Job | None], None] = lambda _job: None
    ) -> Iterator[tuple[Job, Made | Exception]]:
        """Make clips, and yield each as it is done, with its frames or with why there are none.

        A clip that could not be made for want of memory, or by the attention backend's fault, is made once again when
        the others are done, as this generator makes all clips from then on: ``leaner``, or with native attention.

        ``running`` hears which clip's steps run from now on: in a round of several they alternate. A failure is the
        clip's own; ``Stopped``, ``CardLost`` and what breaks the generator itself end the round and are raised.
        """
        self.encode(jobs)
        again: list[Job] = []
        remedies: dict[Callable[[], None], None] = {}
        for job, made in self._round(jobs, running):
            if (remedy := self._remedy(made)) is None:
                yield job, made
            else:
                again.append(job)
                remedies[remedy] = None
        for remedy in remedies:
            remedy()
        for job in again:
            yield from self.run([job], running)

    def _remedy(self, made: Made | Exception) -> Callable[[], None] | None:
        """What may make a clip that failed; each is tried once in a generator's life."""
        if isinstance(made, OutOfMemory) and not self.leaner:
            return self._make_leaner
        # The backend is the first suspect; one that cannot do what this model asks of it, a mask, says ValueError.
        if isinstance(made, (NotFinite, Blank, ValueError)) and self.attention != NATIVE:
            return self._use_native_attention
        return None

    def _round(
        self, jobs: Sequence[Job], running: Callable[[Job | None], None]
    ) -> Iterator[tuple[Job, Made | Exception]]:
        turns = self._turns = Turns(
            self.residency,
            [partial(self._make, job, len(jobs)) for job in jobs],
            lambda number: running(None if number is None else jobs[number]),
        )
        if self.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self.device)
        for number, made in turns.run():
            if isinstance(made, Exception):
                self._sweep()
            yield jobs[number], made

    def _make(self, job: Job, together: int) -> Made:
        """One clip, in whatever thread runs it."""
        assert self._turns is not None  # noqa: S101 - a clip is only made inside a round
        kind, plan = self._kind, job.plan
        swaps, begun = self.residency.swaps, time.perf_counter()
        self._now.progress = Progress(job.report, kind.forwards(plan, self.preset))
        arguments = kind.call(plan, self.preset, job.picture, job.last) | self._embedded(job)
        arguments |= {"generator": torch.Generator("cpu").manual_seed(plan.seed), "output_type": "pt"}
        with meaning(), torch.no_grad():
            pipe = self._own_pipe()
            frames = kind.decode(pipe, kind.run(pipe, arguments, self.preset))
            host, arrived = self._to_host(frames, job)
        record = {
            "card": _name_of(self.device),
            "dtype": self.preset.dtype,
            "attention": self.attention,
            "together": together,
            "leaner": self.leaner,
            "swaps": self.residency.swaps - swaps,
            "make_seconds": round(time.perf_counter() - begun - self._turns.waited, 3),
            "weights": self._located.origins(),
            "versions": versions(),
        }
        if self.attention != self.preset.attention:
            record["attention_given_up"] = self.preset.attention
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
        """The pipeline with a scheduler and a guider of its own: they remember where in its steps a clip is."""
        pipe = copy.copy(self._pipe)
        for name in ("scheduler", "guider"):
            if (own := getattr(self._pipe, name, None)) is not None:
                setattr(pipe, name, copy.deepcopy(own))
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
        key = self._key(job)
        if (failure := self._unencoded.pop(key, None)) is not None:
            raise failure
        found = self._embeddings.get(key)
        if found is None:
            raise DropreelError("The prompt's embeddings went from the cache while they were needed.")
        return {name: tensor.to(self.device) for name, tensor in found.items()}

    def _make_leaner(self) -> None:
        """Ask for as little of the card as there is a way to: everything takes turns, the decoder works in tiles."""
        self.leaner = True
        if callable(tile := getattr(self._pipe.vae, "enable_tiling", None)):
            tile()
        self.residency.all_turn()
        self._sweep()

    def _use_native_attention(self) -> None:
        self.attention = NATIVE
        for denoiser in self._kind.denoisers:
            if (module := getattr(self._pipe, denoiser, None)) is not None:
                module.set_attention_backend(NATIVE)

    def _sweep(self) -> None:
        """After a failure or a phase: what diffusers remembers of a broken run, and memory that nothing uses."""
        self._pipe.maybe_free_model_hooks()
        if self.device.type == "cuda":
            torch.cuda.empty_cache()


def _name_of(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type


def _must_be_finite(_module: torch.nn.Module, _args: Any, made: Any) -> None:
    """Look at what a decoder made before it is cut to what can be shown, when infinite is only white."""
    pictures = made[0] if isinstance(made, tuple) else made
    if not bool(torch.isfinite(pictures).all()):
        raise NotFinite
