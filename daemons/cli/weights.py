"""``dropreel weights``: what each preset needs of weights, what of it is here, and where the rest goes."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from core.errors import BadSettings, DropreelError
from core.generate.fetch import fetch
from core.generate.hashes import Hashes, named_hash
from core.generate.layout import INDEX_FILE
from core.generate.presets import Preset
from core.generate.weights import Found, by_hand, explain, look, weights_folder
from core.home import Home
from core.interpolate.methods import MethodName, files
from core.settings import Settings
from daemons.cli.app import HERE, HomeOption, JsonOption, app, console, need_half, open_home


@app.command()
def weights(
    presets: Annotated[list[str] | None, typer.Argument(help="Presets; without, all of this home.")] = None,
    home: HomeOption = HERE,
    fetch_missing: Annotated[
        bool, typer.Option("--fetch", metavar="", help="Bring what is missing from the hub.")
    ] = False,
    take_hashes: Annotated[
        bool, typer.Option("--hash", metavar="", help="Read every file, and show its SHA-256.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Show which files each preset needs, where they are looked for, and which are here.

    **Exit status:** 0, or 1 where a preset that was named, or else the one of `generation.model`, lacks something,
    something could not be fetched, or a file is not what the hub's cache says it is.
    """
    settings, folders = open_home(home)
    need_half("gpu", settings, "Weights")
    chosen = _chosen(presets, settings)
    troubles = _fetch(chosen, settings, folders) if fetch_missing else []
    found = {preset.name: look(preset, settings.generation, folders.root) for preset in chosen}
    hashes = Hashes(folders.gpu.state)
    folder = weights_folder(settings.generation, folders.root)
    networks = {} if presets else files(settings.interpolate, folder)
    if take_hashes:
        here = [each.folder / file for needs in found.values() for each in needs for file in each.files]
        _hash([*here, *(file for file in networks.values() if file.is_file())], hashes)
    damaged = [path for path, sha in _known(found, hashes).items() if (named_hash(path) or sha) != sha]
    if as_json:
        listed: dict[str, Any] = {preset.name: _json(preset, found[preset.name], hashes) for preset in chosen}
        if networks:  # no preset can be called so
            listed["[interpolate]"] = {name: _network_json(file, hashes) for name, file in networks.items()}
        typer.echo(json.dumps(listed, indent=1))
    else:
        for preset in chosen:
            _show(preset, found[preset.name], hashes if take_hashes else None)
            _tell(found[preset.name], folder)
        _show_networks(networks, hashes if take_hashes else None)
    for trouble in [*troubles, *(f"{path} is damaged: its content is not what its name in the cache says. Delete it, "
                                 "and fetch it again." for path in damaged)]:  # fmt: skip
        typer.echo(f"dropreel: {trouble}", err=True)
    wanted = presets or [settings.generation.model]
    lacking = any(each.missing for name in wanted for each in found.get(name, []))
    raise typer.Exit(int(bool(troubles or damaged or lacking)))


def _chosen(names: list[str] | None, settings: Settings) -> list[Preset]:
    """Those that were named, else all that have a model."""
    for name in names or []:
        if name not in settings.presets:
            raise BadSettings(f"There is no preset '{name}'. Choose of: {', '.join(sorted(settings.presets))}.")
    chosen = [settings.presets[name] for name in names or settings.presets]
    return [preset for preset in chosen if preset.weights is not None]


def _fetch(chosen: Iterable[Preset], settings: Settings, home: Home) -> list[str]:
    """Fetch what the presets lack; what could not be fetched, and why."""
    folder = weights_folder(settings.generation, home.root)
    troubles = []
    for preset in chosen:
        for each in look(preset, settings.generation, home.root):
            if each.missing:
                try:
                    fetch(each.need, folder)
                except DropreelError as error:  # the others may come all the same
                    terms = f" Its terms may have to be accepted first: {preset.licence.url}" if preset.licence else ""
                    troubles.append(f"{preset.name}: {error}{terms}")
        if problem := explain(preset, look(preset, settings.generation, home.root)):
            troubles.append(str(problem))
    return troubles


def _hash(paths: Iterable[Path], hashes: Hashes) -> None:
    """Take the hashes that were not taken before, with progress: a hundred gigabytes take minutes."""
    each_once = list(dict.fromkeys(paths))
    columns = TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TimeRemainingColumn()
    with Progress(*columns, console=console, transient=True) as progress:
        task = progress.add_task("hashing", total=sum(path.stat().st_size for path in each_once))
        for path in each_once:
            progress.update(task, description=path.name)
            hashes.take(path, lambda count: progress.advance(task, count))


def _known(found: dict[str, list[Found]], hashes: Hashes) -> dict[Path, str]:
    paths = (each.folder / file for needs in found.values() for each in needs for file in each.files)
    return {path: sha for path in paths if (sha := hashes.known(path)) is not None}


def _show(preset: Preset, found: list[Found], hashes: Hashes | None) -> None:
    licence = preset.licence
    terms = (
        ""
        if licence is None
        else f"  {licence.name}, {licence.url}"
        + (f", not for {', '.join(licence.excludes)}" if licence.excludes else "")
    )
    console.print(Text.assemble((preset.name, "bold"), terms), soft_wrap=True)
    if licence is not None and licence.note:
        console.print(Text(f"  {licence.note}"), soft_wrap=True)
    table = Table(box=None, show_header=False, padding=(0, 2, 0, 2))
    for column in ("need", "source", "there", "where"):
        table.add_column(column, overflow="fold")
    for each in found:
        source = each.need.source
        named = f"{source.hub}@{(each.commit or source.revision)[:12]}" if source.hub else "a folder of yours"
        there = f"{len(each.files)} files, {_gb(each.bytes)}"
        table.add_row(each.need.name, named, Text(there, "red" if each.missing else "green"), str(each.folder))
    console.print(table)
    for each in found:
        if hashes is not None:
            for file in each.files:
                console.print(Text(f"    {hashes.known(each.folder / file)}  {file}"), soft_wrap=True)


def _tell(found: list[Found], folder: Path) -> None:
    """What is missing, and how it gets there."""
    for each in found:
        for file in each.missing:
            more = "  and all that it names" if file == INDEX_FILE else ""
            console.print(Text.assemble(("    missing  ", "red"), str(each.folder / file), more), soft_wrap=True)
        if each.missing_bytes:
            console.print(f"    {_gb(each.missing_bytes)} to come", highlight=False)
    lacking = [each for each in found if each.missing]
    if any(each.need.source.hub for each in lacking):
        console.print("    --fetch brings it where there is a network. Where there is none:", highlight=False)
    for line in dict.fromkeys(by_hand(each, folder) for each in lacking):
        console.print(Text(f"      {line}"), soft_wrap=True)
    console.print()


def _json(preset: Preset, found: list[Found], hashes: Hashes) -> dict[str, Any]:
    def one(each: Found) -> dict[str, Any]:
        source = each.need.source
        listed = {file: {"bytes": (each.folder / file).stat().st_size, "sha256": hashes.known(each.folder / file)
                        or named_hash(each.folder / file)} for file in each.files}  # fmt: skip
        return {"need": each.need.name, "hub": source.hub, "revision": source.revision if source.hub else None,
                "commit": each.commit, "folder": str(each.folder), "files": listed, "missing": list(each.missing),
                "missing_bytes": each.missing_bytes}  # fmt: skip

    licence = preset.licence.model_dump() if preset.licence else None
    return {"whole": explain(preset, found) is None, "licence": licence, "needs": [one(each) for each in found]}


def _show_networks(networks: dict[MethodName, Path], hashes: Hashes | None) -> None:
    """What makes the frames between: better with weights, but there is one that needs none."""
    if networks:
        console.print(Text.assemble(("interpolate", "bold"), "  the first that is here is used; without any, flow is"))
    for name, file in networks.items():
        there = file.is_file()
        told = f"{file.stat().st_size / 1e6:,.1f} MB" if there else "not here: put it there, or do without"
        console.print(Text.assemble(f"  {name}  {file}  ", (told, "green" if there else "yellow")), soft_wrap=True)
        if there and hashes is not None:
            console.print(Text(f"    {hashes.known(file)}  {file.name}"), soft_wrap=True)


def _network_json(file: Path, hashes: Hashes) -> dict[str, Any]:
    there = file.is_file()
    return {"file": str(file), "bytes": file.stat().st_size if there else None,
            "sha256": hashes.known(file) if there else None}  # fmt: skip


def _gb(count: int) -> str:
    return f"{count / 1e9:,.2f} GB"
