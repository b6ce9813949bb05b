"""How a model's files are laid out: which a need is made of, and which of these a folder lacks.

Only safetensors are ever weights: other kinds of files can run code when they are opened, and so could a repository's
own Python; neither is looked at, fetched or loaded.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator
from fnmatch import fnmatch
from pathlib import Path
from typing import Any, NamedTuple

from core.generate.presets import Source

INDEX_FILE = "model_index.json"
_SAFE = frozenset({".safetensors", ".json", ".txt", ".model", ".jinja"})
"""Endings of the files that are looked at: weights, configurations, and what tokenizers are made of."""
_VOCABULARIES = ("tokenizer.json", "spiece.model", "tokenizer.model", "vocab.json", "vocab.txt")
_STEMS = ("diffusion_pytorch_model", "model")
"""What files of weights are called by diffusers and by transformers."""


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


def files_in(need: Need, folder: Path) -> list[str]:
    """The files of a need that are in ``folder``, by their paths in it."""
    allowed = patterns(need, folder)
    return sorted(file for file in _safe_files(folder) if any(fnmatch(file, pattern) for pattern in allowed))


def _safe_files(folder: Path) -> Iterator[str]:
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


def missing(need: Need, folder: Path, there: list[str]) -> Iterator[tuple[str, int | None]]:
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
        stem = "model" if any(name_of(file).startswith("model") for file in own) else _STEMS[0]
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
    own = [file for file in there if file.startswith(prefix) and name_of(file).startswith(stem)]
    indices = [file for file in own if file.endswith(".safetensors.index.json")]
    plain = [file for file in own if file.endswith(".safetensors") and "-of-" not in file]
    if plain:
        return
    if indices:
        yield from _missing_shards(folder, indices[0], there)
    else:
        yield f"{prefix}{stem}.safetensors", None


def _missing_shards(folder: Path, index: str, there: list[str]) -> Iterator[tuple[str, int | None]]:
    read = read_json(folder / index)
    prefix = index[: -len(name_of(index))]
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
    for name, value in read_json(folder / INDEX_FILE).items():
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


def read_json(file: Path) -> dict[str, Any]:
    """A file that says what is what; nothing where it is not there or says nothing."""
    try:
        read = json.loads(file.read_bytes())
    except (OSError, ValueError):
        return {}
    return read if isinstance(read, dict) else {}


def name_of(file: str) -> str:
    return file.rpartition("/")[2]
