"""Where the weights of a preset lie, and whether they are all there. Reads names and small files; asks no network."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from core.errors import Finding, Refused
from core.generate.family import family
from core.generate.hashes import fingerprint
from core.generate.layout import Need, files_in, missing, name_of
from core.generate.presets import Preset, Source
from core.generate.studio import GenerationSettings
from core.settings import Settings


class MissingWeights(Refused):
    """Weights are not where they are looked for; the finding says which file goes where."""


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
        if not self.need.is_pipeline and not any(name_of(file) == "config.json" for file in self.files):
            if len(tensors) == 1:
                return self.folder / tensors[0]
        elif not self.need.is_pipeline:
            return (self.folder / next(file for file in self.files if name_of(file) == "config.json")).parent
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
    there = files_in(need, folder)
    absent = list(missing(need, folder, there))
    sizes = [size for _, size in absent if size is not None]
    missing_bytes = sum(sizes) if len(sizes) == len(absent) else None
    place = Path(os.path.normpath(folder.absolute()))
    return Found(need, place, commit, tuple(there), tuple(file for file, _ in absent), missing_bytes)


def _variant(whole: Found) -> str | None:
    words = {name_of(file).split(".")[1] for file in whole.files
             if file.endswith(".safetensors") and name_of(file).count(".") == 2}  # fmt: skip
    plain = any(name_of(file).count(".") == 1 for file in whole.files if file.endswith(".safetensors"))
    return None if plain or len(words) != 1 else words.pop().split("-")[0]


def _origin(found: Found) -> str:
    if found.commit:
        return f"{found.need.source.hub}@{found.commit}"
    return f"{found.need.source.hub or found.folder.name}#{fingerprint(found.folder / file for file in found.files)}"
