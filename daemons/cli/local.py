"""``dropreel local``: a manifest through the rooms on this machine, before it is sent anywhere."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table
from rich.text import Text

from core import fsops, trial
from core.contract import MAX_JSON_BYTES, Keyframe, Manifest, parse, seed_from
from core.errors import DropreelError
from core.generate.presets import Preset
from core.home import MANIFEST_FILE
from core.settings import Settings
from daemons.cli.app import HERE, app, console
from daemons.cli.trials import DeviceOption, LenderOption, OutOption, lend, stopping, tell, watching
from daemons.oneshot import Oneshot, Order, Outcome, environment_for, generation_for, need_packages, prepare_out

LOCAL_FILE = "local.json"
RANKING_FILE = "ranking.json"


@app.command()
def local(
    manifest: Annotated[Path, typer.Argument(help="A manifest beside its images, or the folder of a packaged batch.")],
    out: OutOption,
    *,
    home: LenderOption = HERE,
    draft: Annotated[
        bool, typer.Option("--draft", metavar="", help="Half the size, half the rate, fewer steps.")
    ] = False,
    seeds: Annotated[int, typer.Option(min=1, max=100, help="So many takes of each keyframe, ranked by QA.")] = 1,
    device: DeviceOption = "auto",
) -> None:
    """Run a manifest through the same rooms on this machine, with the same daemons, and see what comes out.

    Neither the manifest nor its images are touched. **Exit status:** 0 where every entry came out, flagged ones too;
    1 where one did not.
    """
    settings, base = lend(home)
    file = manifest / MANIFEST_FILE if manifest.is_dir() else manifest
    wanted = _read(file)
    _need_files(wanted.keyframes, file.parent)
    used = presets_used(wanted.keyframes, settings, str(file))
    entries, said = wanted.keyframes, list[str]()
    if draft:
        settings, entries, said = _draft(settings, entries, used)
        used = [settings.presets[preset.name] for preset in used]
    orders = [order for entry, original in zip(entries, wanted.keyframes, strict=True)
              for order in _orders(entry, original, file.parent, seeds)]  # fmt: skip
    if seeds > 1:
        settings = trial.without_regeneration(settings)  # the next seed is another take
    need_packages(used)
    environment = environment_for(device, used)
    prepare_out(out, [order.entry.stem for order in orders])
    for change in said:
        console.print(f"draft: {change}", markup=False, highlight=False, soft_wrap=True)
    if seeds > 1 and any(preset.family == "camera" for preset in used):
        console.print("The preset 'camera' leaves nothing to chance: its takes are all the same.")
    with watching() as screen, stopping():
        batch = Oneshot(settings, base, out.absolute(), environment, generation_for(device), screen.show, tell)
        outcomes = batch.run(orders, wanted.project_id, wanted.batch_id)
    record = {"manifest": str(file.absolute()), "draft": said, "seeds": seeds, "device": device,
              "entries": [_entry_record(outcome, out) for outcome in outcomes]}  # fmt: skip
    fsops.write(fsops.free_name(out / LOCAL_FILE), _json(record))
    if seeds > 1:
        _rank(outcomes, out, seeds)
    summary(outcomes, out)
    if not all(outcome.came_out for outcome in outcomes):
        raise typer.Exit(1)


def presets_used(entries: Sequence[Keyframe], settings: Settings, where: str) -> list[Preset]:
    """The presets that these entries name, each once. Raises ``DropreelError`` for one that there is not."""
    names = list(dict.fromkeys(entry.generation_params.model for entry in entries))
    unknown = [name for name in names if name not in settings.presets]
    if unknown:
        raise DropreelError(f"{where}: there is no preset '{unknown[0]}'. Choose one of: "
                            f"{', '.join(sorted(settings.presets))}; or name the home whose presets.toml has it with "
                            "--home.")  # fmt: skip
    return [settings.presets[name] for name in names]


def summary(outcomes: Sequence[Outcome], out: Path) -> None:
    """Say how many came out, and where."""
    counts = Counter(outcome.verdict for outcome in outcomes)
    words = {"pass": "passed", "flag": "flagged", "fail": "failed", "refused": "refused"}
    found = ", ".join(f"{counts[verdict]} {word}" for verdict, word in words.items() if counts[verdict])
    console.print(f"{len(outcomes)} in all: {found}. Results in {out}", markup=False, highlight=False, soft_wrap=True)


def _read(file: Path) -> Manifest:
    try:
        data = fsops.read(file.resolve(), MAX_JSON_BYTES)
    except OSError as error:
        raise DropreelError(f"{file} cannot be read: {error.strerror}. Name a manifest.json that lies beside its "
                            "images, or the folder of a batch; `dropreel schema manifest` says what it must hold."
                            ) from None  # fmt: skip
    return parse(Manifest, data, str(file))


def _need_files(entries: Sequence[Keyframe], folder: Path) -> None:
    """Raise ``DropreelError`` where files are missing."""
    missing = [name for entry in entries for name in _names(entry) if not (folder / name).is_file()]
    if missing:
        some = ", ".join(missing[:5]) + (f" and {len(missing) - 5} more" if len(missing) > 5 else "")
        raise DropreelError(f"{some} {'is' if len(missing) == 1 else 'are'} not in {folder.absolute()}. The images lie "
                            "beside their manifest: put them there.")  # fmt: skip


def _names(entry: Keyframe) -> list[str]:
    """The files of an entry, by their names beside the manifest; the image first."""
    return [file.path for file in entry.files] or [entry.image_name]


def _draft(
    settings: Settings, entries: Sequence[Keyframe], used: Sequence[Preset]
) -> tuple[Settings, list[Keyframe], list[str]]:
    """The same, small and quick; and what was changed, in words."""
    settings, said = trial.draft_settings(settings)
    presets = dict(settings.presets)
    for preset in used:
        presets[preset.name], changed = trial.draft_preset(preset)
        said += changed
    smaller = []
    for entry in entries:
        made, changed = trial.draft_entry(entry, presets[entry.generation_params.model])
        smaller.append(made)
        said += changed
    settings.adopt(presets)
    return settings, smaller, list(dict.fromkeys(said))


def _orders(entry: Keyframe, original: Keyframe, folder: Path, seeds: int) -> list[Order]:
    """The takes of one entry; by hand, the image of each has another name than the ``original``'s."""
    names = _names(original)
    takes = [entry]
    if seeds > 1:
        seed = original.generation_params.seed
        first = seed_from(fsops.hash_file(folder / names[0])) if seed is None else seed
        takes = trial.takes(entry, first, seeds)
    return [Order(take, {new: folder / old for new, old in zip(_names(take), names, strict=True)}) for take in takes]


def _entry_record(outcome: Outcome, out: Path) -> dict[str, Any]:
    meta = outcome.meta
    record: dict[str, Any] = {
        "name": outcome.entry.stem,
        "outcome": outcome.verdict,
        "reasons": outcome.reasons,
        "meta": outcome.place.relative_to(out.absolute()).as_posix(),
    }
    if meta is not None:
        record |= {"seed": meta.seed, "seconds": {name: stage.seconds for name, stage in meta.stages.items()}}
    return record


def _rank(outcomes: Sequence[Outcome], out: Path, seeds: int) -> None:
    """Print and write the takes of each keyframe, the best first."""
    ranking = []
    console.print(f"The best first, by: {'; '.join(trial.RANKING)}.", highlight=False, soft_wrap=True)
    for begin in range(0, len(outcomes), seeds):
        takes = sorted(outcomes[begin : begin + seeds], key=_take_key)
        table = Table()
        for column in ("place", "take", "seed", "outcome", "findings", "first frame"):
            table.add_column(column, overflow="fold")
        for number, take in enumerate(takes, 1):
            measures = take.meta.qa.measures if take.meta and take.meta.qa else {}
            seed = take.entry.generation_params.seed
            table.add_row(str(number), Text(take.entry.stem), str(seed), take.verdict, str(len(take.reasons)),
                          str(measures.get("first_frame_ssim", "")))  # fmt: skip
            ranking.append({"place": number, "name": take.entry.stem, "seed": seed, "outcome": take.verdict,
                            "reasons": take.reasons, "measures": measures})  # fmt: skip
        console.print(table)
    fsops.write(fsops.free_name(out / RANKING_FILE), _json({"by": trial.RANKING, "takes": ranking}))


def _take_key(outcome: Outcome) -> tuple[float, ...]:
    return trial.rank(outcome.meta) if outcome.meta else (len(trial.RANKING),)


def _json(record: dict[str, Any]) -> bytes:
    return (json.dumps(record, indent=1, ensure_ascii=False) + "\n").encode()
