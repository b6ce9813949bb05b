"""Where the weights of a preset lie, whether they are all there, and how they get there. Only ``fetch`` asks a network.

Only safetensors are ever weights: other kinds of files can run code when they are opened, and so could a repository's
own Python; neither is looked at, fetched or loaded.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

from core import fsops
from core.errors import DropreelError, Finding, Refused
from core.generate.family import family
from core.generate.presets import Preset, Source
from core.generate.studio import GenerationSettings
from core.settings import Settings

INDEX_FILE = "model_index.json"
HASHES_FILE = "weights.json"
"""In ``gpu/state``: hashes that were taken, so that none is taken twice."""
_SAFE = frozenset({".safetensors", ".json", ".txt", ".model", ".jinja"})
"""Endings of the files that are looked at: weights, configurations, and what tokenizers are made of."""
_UNSAFE = ["*.bin", "*.pt", "*.pth", "*.pkl", "*.ckpt", "*.py", "*.msgpack", "*.h5", "*.onnx", "*.gguf"]
"""What is never fetched, whatever a preset's patterns say: it runs code when it is opened, or nothing here reads it."""
_VOCABULARIES = ("tokenizer.json", "spiece.model", "tokenizer.model", "vocab.json", "vocab.txt")
_STEMS = ("diffusion_pytorch_model", "model")
"""What files of weights are called by diffusers and by transformers."""
_SAMPLES, _SAMPLE_BYTES = 64, 1 << 14
_CHUNK = 8 << 20


class MissingWeights(Refused):
    """Weights are not where they are looked for; the finding says which file goes where."""


class Need(NamedTuple):
    """One thing that a preset needs files for."""

    name: str
    """``weights``, ``components.vae``, ``tiny_decoder``, ``upsampler``, ``loras[0]``."""
    source: Source
    without: frozenset[str] = frozenset()
    """Of ``weights``: the components that come from elsewhere, or are not needed."""
    configs: tuple[str, ...] = ()
    """Of ``weights``: the folders whose ``config.json`` single files need all the same."""

    @property
    def subfolder(self) -> str:
        """Where a repository that is a whole pipeline has it."""
        return "latent_upsampler/" if self.name == "upsampler" else f"{self.name.removeprefix('components.')}/"

    @property
    def is_pipeline(self) -> bool:
        """Whether it is a whole pipeline, with a ``model_index.json``."""
        return self.name == "weights"


@dataclass(frozen=True)
class Found:
    """What is there of one need."""

    need: Need
    folder: Path
    """Absolute: where its files are, or the first place where they are looked for."""
    commit: str | None
    """Of the hub, where its cache says so; a folder that was copied by hand does not."""
    files: tuple[str, ...]
    """Those that are there, by their paths in ``folder``."""
    missing: tuple[str, ...]
    """Those that are not."""
    missing_bytes: int | None = None
    """Their size, where what is there says it."""

    @property
    def bytes(self) -> int:
        """The size of what is there."""
        return sum((self.folder / file).stat().st_size for file in self.files)

    @property
    def path(self) -> Path:
        """What a loader is given: the file, if it is one; else the folder that holds ``config.json``, or the whole."""
        source = self.need.source
        if source.file:
            return self.folder / source.file
        tensors = [file for file in self.files if file.endswith(".safetensors")]
        if not self.need.is_pipeline and not any(_name(file) == "config.json" for file in self.files):
            if len(tensors) == 1:
                return self.folder / tensors[0]
        elif not self.need.is_pipeline:
            return (self.folder / next(file for file in self.files if _name(file) == "config.json")).parent
        return self.folder


@dataclass(frozen=True)
class Located:
    """Where all the files of a preset are: absolute paths, all there."""

    weights: Path
    """A folder with ``model_index.json``."""
    components: dict[str, Path]
    """Those that come from elsewhere: a folder with ``config.json``, or a ``.safetensors`` file."""
    tiny_decoder: Path | None
    upsampler: Path | None
    loras: tuple[Path, ...]
    variant: str | None
    """The word in the names of the weights' files, such as ``fp16``, where they have no plain names."""
    found: tuple[Found, ...]
    named: dict[str, str]

    def origins(self) -> dict[str, str]:
        """For the record, by need: ``hub/id@commit``, or a folder's name with its fingerprint."""
        return dict(self.named)

    def files_of(self, component: str) -> list[Path]:
        """The files of one component, weights and configuration: what its embeddings, say, depend on."""
        own = next((each for each in self.found if each.need.name == f"components.{component}"), None)
        if own is not None:
            return [own.folder / file for file in own.files]
        whole = self.found[0]
        return [whole.folder / file for file in whole.files if file.startswith(f"{component}/")]


def needs(preset: Preset) -> list[Need]:
    """What a preset needs files for, ``weights`` first; nothing for the camera."""
    if preset.weights is None:
        return []
    configs = tuple(sorted({source.config for source in preset.components.values() if source.config}))
    without = frozenset(preset.components) | frozenset(family(preset.family).unused)
    found = [Need("weights", preset.weights, without, configs)]
    found += [Need(f"components.{name}", source) for name, source in preset.components.items()]
    if preset.tiny_decoder is not None:
        found.append(Need("tiny_decoder", preset.tiny_decoder))
    if preset.upsampler is not None:
        found.append(Need("upsampler", preset.upsampler.source))
    return found + [Need(f"loras[{number}]", lora.source) for number, lora in enumerate(preset.loras)]


def weights_folder(rules: GenerationSettings, root: Path) -> Path:
    """Where weights lie that are not in the hub's cache, for the home at ``root``."""
    return root / rules.weights.expanduser()


def hub_cache(environment: Mapping[str, str] = os.environ) -> Path:
    """The hub's own cache, by the variables that its client reads."""
    if given := environment.get("HF_HUB_CACHE") or environment.get("HUGGINGFACE_HUB_CACHE"):
        return Path(given).expanduser()
    caches = Path(environment.get("XDG_CACHE_HOME") or "~/.cache")
    return Path(environment.get("HF_HOME") or caches / "huggingface").expanduser() / "hub"


def look(preset: Preset, rules: GenerationSettings, root: Path) -> list[Found]:
    """What is there of each need of a preset in the home at ``root``. Reads names and small files only."""
    return [_look(need, weights_folder(rules, root)) for need in needs(preset)]


def locate(preset: Preset, rules: GenerationSettings, root: Path) -> Located:
    """Where all files of a model's preset are. Raises ``MissingWeights``; never asks a network."""
    found = look(preset, rules, root)
    if problem := explain(preset, found):
        raise MissingWeights(problem)
    paths = {each.need.name: each.path for each in found}
    return Located(
        weights=paths["weights"],
        components={name: paths[f"components.{name}"] for name in preset.components},
        tiny_decoder=paths.get("tiny_decoder"),
        upsampler=paths.get("upsampler"),
        loras=tuple(paths[f"loras[{number}]"] for number in range(len(preset.loras))),
        variant=_variant(found[0]),
        found=tuple(found),
        named={each.need.name: _origin(each) for each in found},
    )


def explain(preset: Preset, found: Iterable[Found]) -> Finding | None:
    """What is missing and where it goes; None where nothing is."""
    lacking = [each for each in found if each.missing]
    if not lacking:
        return None
    first, count = lacking[0], sum(len(each.missing) for each in lacking)
    what = "1 file is missing" if count == 1 else f"{count} files are missing, the first of them"
    name = f"`dropreel weights {preset.name}"
    if first.need.source.hub is None:
        remedy = f"Put it there; {name}` lists all."
    else:
        remedy = f"{name} --fetch` where there is a network; {name}` says where each file goes where there is none."
    return Finding(
        code="weights_missing",
        field="generation_params.model",
        value=preset.name,
        message=f"The weights of '{preset.name}' are not all here: {what}: {first.folder / first.missing[0]}.",
        remedy=remedy,
    )


def by_hand(found: Found, weights: Path) -> str:
    """How a machine that has a network gets what is missing of a need, in the folder that then goes to ``weights``."""
    source = found.need.source
    if source.hub is None:
        return f"What is missing goes to {found.folder}."
    what = [source.file] if source.file else [f'--include "{pattern}"' for pattern in source.files]
    pin = [] if source.revision == "main" else [f"--revision {source.revision}"]
    command = " ".join(["hf download", source.hub, *what, *pin, "--local-dir", source.hub])
    return f"`{command}` on a machine that has one; what it makes goes to {weights / source.hub}."


def installed(settings: Settings, root: Path) -> list[Preset]:
    """The models whose weights are all there."""
    return [
        preset
        for preset in settings.presets.values()
        if preset.weights is not None and explain(preset, look(preset, settings.generation, root)) is None
    ]


def used(settings: Settings, root: Path) -> list[Preset]:
    """The presets that this home can be asked for: the one that its settings name, and those that are installed."""
    named = settings.presets[settings.generation.model]
    return [named, *(preset for preset in installed(settings, root) if preset.name != named.name)]


# What is there


def _look(need: Need, weights: Path) -> Found:
    looked = [_look_in(need, *place) for place in _places(need.source, weights)]
    return next((found for found in looked if not found.missing), None) or max(
        looked, key=lambda found: len(found.files)
    )


def _places(source: Source, weights: Path) -> Iterator[tuple[Path, str | None]]:
    """Where a source may be, each with the commit that lies there."""
    if source.folder is not None:
        yield weights / source.folder.expanduser(), None
        return
    assert source.hub is not None  # noqa: S101 - a source has one or the other
    yield weights / source.hub, None
    repository = hub_cache() / f"models--{source.hub.replace('/', '--')}"
    commit = source.revision
    if (reference := repository / "refs" / source.revision).is_file():
        commit = reference.read_text("ascii").strip()
    if (snapshot := repository / "snapshots" / commit).is_dir():
        yield snapshot, commit


def _look_in(need: Need, folder: Path, commit: str | None) -> Found:
    allowed = patterns(need, folder)
    there = sorted(file for file in _files_in(folder) if _wanted(file, allowed))
    absent = list(_missing(need, folder, there))
    sizes = [size for _, size in absent if size is not None]
    missing_bytes = sum(sizes) if len(sizes) == len(absent) else None
    place = Path(os.path.normpath(folder.absolute()))
    return Found(need, place, commit, tuple(there), tuple(file for file, _ in absent), missing_bytes)


def _files_in(folder: Path) -> Iterator[str]:
    for at, _, names in os.walk(folder):
        for name in names:
            path = Path(at, name)
            if path.suffix in _SAFE and path.exists():  # a link of the cache whose blob is gone is not there
                yield path.relative_to(folder).as_posix()


def patterns(need: Need, folder: Path) -> list[str]:
    """The files that a need is made of, as glob patterns; a pipeline's by the ``model_index.json`` in ``folder``."""
    source = need.source
    if source.file:
        return [source.file]
    if source.files:
        return [*source.files, *([INDEX_FILE] if need.is_pipeline else [])]
    if not need.is_pipeline:
        return [pattern for prefix in ("", need.subfolder) for stem in _STEMS for pattern in _of_model(prefix, stem)]
    found = [INDEX_FILE]
    for name, library, kind in _parts(folder):
        if name in need.without:
            continue
        if _is_model(kind):
            found += _of_model(f"{name}/", _stem(library))
        else:
            found += [f"{name}/*.json", f"{name}/*.txt", f"{name}/*.model", f"{name}/*.jinja"]
    return found + [f"{config}/config.json" for config in need.configs]


def _of_model(prefix: str, stem: str) -> list[str]:
    return [f"{prefix}config.json", f"{prefix}{stem}.safetensors", f"{prefix}{stem}-*-of-*.safetensors",
            f"{prefix}{stem}.safetensors.index.json"]  # fmt: skip


def _wanted(file: str, allowed: list[str]) -> bool:
    return PurePosixPath(file).suffix in _SAFE and any(fnmatch(file, pattern) for pattern in allowed)


def _missing(need: Need, folder: Path, there: list[str]) -> Iterator[tuple[str, int | None]]:
    """What a need lacks in ``folder``, each with its size where that is known."""
    source = need.source
    if source.file:
        yield from _absent([source.file], there)
        return
    if need.is_pipeline:
        if INDEX_FILE not in there:
            yield INDEX_FILE, None
            return
        for name, library, kind in _parts(folder):
            if name not in need.without:
                yield from _missing_of_part(folder, f"{name}/", library, kind, there)
        yield from _absent((f"{config}/config.json" for config in need.configs), there)
    elif not source.files:
        prefix = need.subfolder if any(file.startswith(need.subfolder) for file in there) else ""
        own = [file for file in there if "/" not in file.removeprefix(prefix)]
        stem = "model" if any(_name(file).startswith("model") for file in own) else _STEMS[0]
        yield from _missing_of_model(folder, prefix, stem, own)
    for pattern in source.files:
        if not any(fnmatch(file, pattern) for file in there):
            yield pattern, None
    if not need.is_pipeline:
        for index in (file for file in there if file.endswith(".safetensors.index.json")):
            yield from _missing_shards(folder, index, there)


def _missing_of_part(
    folder: Path, prefix: str, library: str, kind: str, there: list[str]
) -> Iterator[tuple[str, int | None]]:
    if _is_model(kind):
        yield from _missing_of_model(folder, prefix, _stem(library), there)
    elif kind.endswith("Scheduler"):
        yield from _absent([f"{prefix}scheduler_config.json"], there)
    elif "Tokenizer" in kind:
        yield from _absent([f"{prefix}tokenizer_config.json"], there)
        bytewise = kind.startswith("ByT5")  # its vocabulary is the bytes
        if not bytewise and not any(f"{prefix}{file}" in there for file in _VOCABULARIES):
            yield f"{prefix}{_VOCABULARIES[0]}", None
    elif kind.endswith("Guidance"):
        yield from _absent([f"{prefix}guider_config.json"], there)
    elif not any(f"{prefix}{file}" in there for file in ("preprocessor_config.json", "processor_config.json")):
        yield f"{prefix}preprocessor_config.json", None


def _missing_of_model(folder: Path, prefix: str, stem: str, there: list[str]) -> Iterator[tuple[str, int | None]]:
    yield from _absent([f"{prefix}config.json"], there)
    own = [file for file in there if file.startswith(prefix) and _name(file).startswith(stem)]
    indices = [file for file in own if file.endswith(".safetensors.index.json")]
    plain = [file for file in own if file.endswith(".safetensors") and "-of-" not in file]
    if plain:
        return
    if indices:
        yield from _missing_shards(folder, indices[0], there)
    else:
        yield f"{prefix}{stem}.safetensors", None


def _missing_shards(folder: Path, index: str, there: list[str]) -> Iterator[tuple[str, int | None]]:
    read = _read_json(folder / index)
    prefix = index[: -len(_name(index))]
    shards = sorted({f"{prefix}{shard}" for shard in read.get("weight_map", {}).values()})
    absent = [shard for shard in shards if shard not in there]
    total = read.get("metadata", {}).get("total_size")
    here = sum((folder / shard).stat().st_size for shard in shards if shard in there)
    for number, shard in enumerate(absent):  # the whole is told with the first of them
        size = None if total is None else max(0, int(total) - here) if number == 0 else 0
        yield shard, size


def _absent(files: Iterable[str], there: list[str]) -> Iterator[tuple[str, None]]:
    for file in files:
        if file not in there:
            yield file, None


def _parts(folder: Path) -> Iterator[tuple[str, str, str]]:
    """The components that a ``model_index.json`` names: name, library, class; those that are left empty are not."""
    for name, value in _read_json(folder / INDEX_FILE).items():
        if isinstance(value, list) and len(value) == 2 and value[0] and value[1]:  # the others are plain settings
            yield name, str(value[0]), str(value[1])


def models_in(folder: Path) -> list[str]:
    """The components of a pipeline that have weights, by its ``model_index.json``; none where it is not there."""
    return [name for name, _, kind in _parts(folder) if _is_model(kind)]


def _is_model(kind: str) -> bool:
    others = ("Scheduler", "Processor", "FeatureExtractor", "Guidance")
    return (
        not kind.endswith(others) and "Tokenizer" not in kind and not kind.endswith(("ProcessorFast", "ProcessorPil"))
    )


def _stem(library: str) -> str:
    return _STEMS[library == "transformers"]


def _variant(whole: Found) -> str | None:
    words = {_name(file).split(".")[1] for file in whole.files
             if file.endswith(".safetensors") and _name(file).count(".") == 2}  # fmt: skip
    plain = any(_name(file).count(".") == 1 for file in whole.files if file.endswith(".safetensors"))
    return None if plain or len(words) != 1 else words.pop().split("-")[0]


def _read_json(file: Path) -> dict[str, Any]:
    """A file that says what is what; nothing where it is not there or says nothing."""
    try:
        read = json.loads(file.read_bytes())
    except (OSError, ValueError):
        return {}
    return read if isinstance(read, dict) else {}


def _name(file: str) -> str:
    return file.rpartition("/")[2]


# Which they are


def _origin(found: Found) -> str:
    if found.commit:
        return f"{found.need.source.hub}@{found.commit}"
    return f"{found.need.source.hub or found.folder.name}#{fingerprint(found.folder / file for file in found.files)}"


def fingerprint(files: Iterable[Path]) -> str:
    """What tells files from others, as 16 hex digits: SHA-256 of names, sizes and 64 samples of 16 KiB each.

    Takes milliseconds where a hash of all takes minutes. A configuration is smaller than a sample, and read whole;
    other weights differ in nearly every number, so they differ here; a single damaged byte of theirs need not.
    """
    told = hashlib.sha256()
    for path in sorted(files):
        size = path.stat().st_size
        told.update(f"{path.name} {size}\n".encode())
        with path.open("rb") as file:
            for number in range(_SAMPLES):
                file.seek(max(0, size - _SAMPLE_BYTES) * number // (_SAMPLES - 1))
                told.update(file.read(_SAMPLE_BYTES))
    return told.hexdigest()[:16]


class Hashes:
    """The SHA-256 of files, each taken once: a file is the same while its inode, size and time are."""

    def __init__(self, state: Path) -> None:
        """``state`` is the folder in which they are remembered."""
        self._file = state / HASHES_FILE
        self._known = _read_json(self._file)

    def known(self, path: Path) -> str | None:
        """The hash of a file, if it was taken since the file was last written."""
        entry = self._known.get(str(path), {})
        return entry.get("sha256") if isinstance(entry, dict) and entry.get("of") == _state_of(path) else None

    def take(self, path: Path, tell: Callable[[int], None]) -> str:
        """The hash of a file; ``tell`` hears how many bytes more have been read. Raises ``OSError``."""
        if (known := self.known(path)) is not None:
            tell(path.stat().st_size)
            return known
        of, told = _state_of(path), hashlib.sha256()
        with path.open("rb") as file:
            while chunk := file.read(_CHUNK):
                told.update(chunk)
                tell(len(chunk))
        self._known[str(path)] = {"of": of, "sha256": told.hexdigest()}
        self._known = {name: entry for name, entry in self._known.items() if Path(name).exists()}
        fsops.write(self._file, json.dumps(self._known, indent=1).encode(), durable=False)
        return told.hexdigest()


def named_hash(path: Path) -> str | None:
    """The SHA-256 that the hub's cache says a file has, by the name of the blob that it links to; None elsewhere."""
    name = Path(os.path.realpath(path)).name
    return name if path.is_symlink() and len(name) == 64 else None


def _state_of(path: Path) -> list[int]:
    status = path.stat()
    return [status.st_ino, status.st_size, status.st_mtime_ns]


# Getting them


def fetch(need: Need, weights: Path) -> None:
    """Bring what is missing of a need from its hub: into the folder that was begun by hand, else into the hub's cache.

    Shows its progress on stderr. Raises ``DropreelError`` with what the hub, or the way to it, said.
    """
    source = need.source
    if source.hub is None:
        folder = weights / (source.folder or "")
        raise DropreelError(f"{need.name} is a folder of yours, {folder}: nobody can fetch it. Put its files there.")
    try:
        import huggingface_hub as hub
    except ImportError as error:
        raise DropreelError(f"Fetching needs huggingface_hub, which cannot be imported ({error}). Install the extra: "
                            "pip install 'dropreel[gpu]'.") from error  # fmt: skip
    by_hand = weights / source.hub
    into = by_hand if by_hand.is_dir() else None
    if into is not None:
        fsops.guard(into / INDEX_FILE)
    given: dict[str, Any] = {"revision": source.revision, "local_dir": into}
    try:
        folder = by_hand
        if need.is_pipeline and not source.files:
            folder = Path(hub.snapshot_download(source.hub, allow_patterns=[INDEX_FILE], **given))
        hub.snapshot_download(source.hub, allow_patterns=patterns(need, folder), ignore_patterns=_UNSAFE, **given)
    except Exception as error:  # the client lets through whatever the network raises
        said = str(error).strip().partition("\n")[0]
        raise DropreelError(f"{source.hub} could not be fetched: {type(error).__name__}: {said}") from error
