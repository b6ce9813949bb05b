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
from core.generate.checks import ENOUGH, Blank, NotFinite, WrongFrames, refuse_black
from core.generate.embeddings import EmbeddingCache, embedding_key
from core.generate.family import Embeddings, Family, family
from core.generate.hashes import fingerprint
from core.generate.loading import load_encoders, load_model
from core.generate.memory import CONTEXT_BYTES
from core.generate.plan import Plan
from core.generate.presets import Memory, Preset
from core.generate.progress import Progress, watch_denoiser, watch_other
from core.generate.residency import Residency, watch_entries
from core.generate.turns import Turns, forget_variables
from core.generate.weights import Located
from core.light import LINEAR, XYZ
from core.torch_errors import OutOfMemory, meaning
from core.versions import versions
from core.work import Report, unwatched

Pixels = NDArray[np.uint8]
NATIVE = "native"


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

        Raises what ``load_model`` does, ``BadSettings`` for a component that would have to take turns and cannot,
        ``OutOfMemory`` and ``CardLost``.
        """
        begun = time.perf_counter()
        self.preset = preset
        self.device = device
        self.attention = preset.attention
        self._kind = family(preset.family)
        _refuse_turns(preset, self._kind)
        self._located = located
        self._embeddings = EmbeddingCache(cache)
        self._encoder_hash = ""
        self._encoders: Any = None
        self._unencoded: dict[str, Exception] = {}
        """The prompts of the round that could not be encoded, by key, and why."""
        self._encode_seconds: dict[str, float] = {}
        """How long the prompts took that no clip was made of yet, by key."""
        self.leaner = False
        """Whether it was out of memory, and asks for as little of it as there is a way to."""
        self._now = _Now()
        self._turns: Turns[Made] | None = None
        if device.type == "cuda":
            torch.cuda.empty_cache()  # what is left of the model before this one
        self._forget_peak()
        with meaning():
            self._pipe = load_model(preset, self._kind, located, device)
        modules = {name: made for name, made in self._pipe.components.items() if isinstance(made, torch.nn.Module)}
        if (upsample := getattr(self._pipe, "upsample", None)) is not None:
            modules["latent_upsampler"] = upsample.latent_upsampler
        for name, module in modules.items():
            watch_entries(module, partial(self._need, name))
            watch = watch_denoiser if name in self._kind.denoisers else watch_other
            watch(module, lambda: self._now.progress)
        tiny = getattr(self._pipe.vae, "tiny_decoder", None)
        (self._pipe.vae.decoder if tiny is None else tiny.decoder[-1]).register_forward_hook(_must_be_finite)
        with meaning():
            self.residency = Residency(modules, preset.memory, device, self._kind.stays)
        self.load_seconds = time.perf_counter() - begun

    def encode(self, jobs: Sequence[Job], ahead: Callable[[], Sequence[Job]] = tuple) -> int:
        """Encode the prompts of ``jobs`` that are not on disk yet, in one phase; how many were encoded.

        Where there are any, those of ``ahead`` are encoded with them. A prompt that cannot be encoded is the failure of
        its own clips, and raised where these are made. The jobs' ``report`` is called before every block of an encoder.
        Raises ``Stopped``, ``OutOfMemory`` and ``CardLost``.
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
        place = self._encoders_place
        if self.leaner or self.preset.text_encoder == "turn":
            self.residency.clear()
        begun, encoded = time.perf_counter(), []
        with meaning(), torch.no_grad():
            encoders = self._encoders or self._load_encoders(place)
            for key, job in (ahead | needed).items():
                self._now.progress = Progress(partial(_not_cancelled, job.report), 1)
                try:
                    with meaning():
                        _not_cancelled(job.report, 0.0)
                        self._embeddings.put(key, self._kind.embed(encoders, job.plan, job.picture, place))
                    encoded.append(key)
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
        each = (time.perf_counter() - begun) / max(len(encoded), 1)
        self._encode_seconds |= dict.fromkeys(encoded, each)
        return len(encoded)

    def _load_encoders(self, place: torch.device) -> Any:
        encoders = load_encoders(self.preset, self._kind, self._located, place)
        for name in self._kind.encoders:
            if isinstance(module := getattr(encoders, name, None), torch.nn.Module):
                watch_other(module, lambda: self._now.progress)
        return encoders

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
        try:
            for job, made in self._round(jobs, running):
                if (remedy := self._remedy(made)) is None:
                    yield job, made
                else:
                    again.append(job)
                    remedies[remedy] = None
        finally:
            self._unencoded.clear()
            self._forget_peak()
        for remedy in remedies:
            remedy()
        for job in again:
            yield from self.run([job], running)

    def _remedy(self, made: Made | Exception) -> Callable[[], None] | None:
        """What may make a clip that failed; each is tried once in a generator's life."""
        if any(made is failure for failure in self._unencoded.values()):
            return None
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
        for number, made in turns.run():
            if isinstance(made, Exception):
                self._sweep()
            yield jobs[number], made

    def _make(self, job: Job, together: int) -> Made:
        """One clip, in whatever thread runs it."""
        assert self._turns is not None  # noqa: S101 - a clip is only made inside a round
        kind, plan = self._kind, job.plan
        begun = time.perf_counter()
        self._now.progress = Progress(job.report, kind.forwards(plan, self.preset))
        arguments = kind.call(plan, self.preset, job.picture, job.last) | self._embedded(job)
        arguments |= {"generator": torch.Generator("cpu").manual_seed(plan.seed), "output_type": "pt"}
        with meaning(), torch.no_grad():
            pipe = self._own_pipe()
            frames = kind.decode(pipe, kind.run(pipe, arguments, self.preset))
            host, arrived = self._to_host(frames, job)
        record = {
            "card": name_of(self.device),
            "dtype": self.preset.dtype,
            "attention": self.attention,
            "together": together,
            "leaner": self.leaner,
            "swaps": self._turns.brought,
            "make_seconds": round(time.perf_counter() - begun - self._turns.waited, 3),
            "weights": self._located.origins(),
            "versions": versions(),
        }
        if kind.has_prompt:
            key = self._key(job)
            record["embeddings"] = key
            record["encode_seconds"] = round(self._encode_seconds.pop(key, 0.0), 3)
        if self.attention != self.preset.attention:
            record["attention_given_up"] = self.preset.attention
        if self.device.type == "cuda":
            peak = torch.cuda.max_memory_reserved(self.device) + CONTEXT_BYTES
            record["memory"] = {"peak_gib": round(peak / 2**30, 2)}
        return Made(record, host, arrived)

    def _to_host(self, frames: torch.Tensor, job: Job) -> tuple[torch.Tensor, torch.cuda.Event | None]:
        """Check the frames, ``(T, 3, H, W)`` float 0..1, and begin to copy them as bytes, ``(T, H, W, 3)``."""
        width, height = job.plan.canvas
        if tuple(frames.shape) != (job.plan.frames, 3, height, width):
            raise WrongFrames(f"Asked for {job.plan.frames} of {width}×{height}, it made {tuple(frames.shape)}.")
        if not bool(torch.isfinite(frames).all()):
            raise NotFinite
        codes = (frames.clamp(0, 1) * 255).round().to(torch.uint8).permute(0, 2, 3, 1).contiguous()
        refuse_black(_light(codes), job.picture)
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
        prompt = self._kind.prompt_key(job.plan, job.picture)
        return embedding_key(self._encoder_hash, self.preset.dtype, name_of(self._encoders_place), prompt)

    @property
    def _encoders_place(self) -> torch.device:
        return torch.device("cpu") if self.preset.text_encoder == "cpu" else self.device

    def _embedded(self, job: Job) -> Embeddings:
        if not self._kind.has_prompt:
            return {}
        key = self._key(job)
        if (failure := self._unencoded.get(key)) is not None:
            raise failure
        found = self._embeddings.get(key)
        if found is None:
            raise DropreelError("The prompt's embeddings went from the cache while they were needed.")
        return {name: tensor.to(self.device) for name, tensor in found.items()}

    def _make_leaner(self) -> None:
        """Ask for as little of the card as there is a way to: everything takes turns, the decoder works in tiles."""
        if hasattr(self._pipe.vae, "use_tiling"):  # the method is there too where it only raises
            self._pipe.vae.enable_tiling()
        self.residency.all_turn()
        self._sweep()
        self.leaner = True

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

    def _forget_peak(self) -> None:
        """Between two rounds: a peak is that of its own round's encoders and steps, and the first one's of loading."""
        if self.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self.device)


def name_of(device: torch.device) -> str:
    """The card's name, or ``cpu``."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type


def _refuse_turns(preset: Preset, kind: Family) -> None:
    for name in kind.stays:
        if preset.memory.get(name, Memory()).residency != "card":
            raise BadSettings(f"Preset '{preset.name}': memory.{name}.residency: the {name} of {preset.family} changes "
                              "its dtype as it works, and cannot leave the card. Say \"card\".")  # fmt: skip


def _not_cancelled(report: Report, _fraction: float) -> None:
    """Report of a clip whose prompt is encoded, which is soon done: its own steps will raise ``Cancelled``."""
    with contextlib.suppress(Cancelled):
        report(0.0)


def _light(codes: torch.Tensor) -> NDArray[np.float32]:
    """The mean relative luminance of each frame, ``(T,)``, from sRGB codes, ``(T, H, W, 3)``, where these are."""
    table = torch.as_tensor(LINEAR, dtype=torch.float32, device=codes.device)
    every = max(1, min(codes.shape[1:3]) // ENOUGH)
    colours = torch.stack([table[few[::every, ::every].int()].mean((0, 1)) for few in codes]).cpu().numpy()
    return np.asarray(colours @ XYZ[1], np.float32)


def _must_be_finite(_module: torch.nn.Module, _args: Any, made: Any) -> None:
    """Look at what a decoder made before it is cut to what can be shown, when infinite is only white."""
    pictures = made[0] if isinstance(made, tuple) else made
    if not bool(torch.isfinite(pictures).all()):
        raise NotFinite
