"""``dropreel local``: a manifest through the rooms on this machine, before it is sent anywhere."""

from __future__ import annotations

import contextlib
import json
import signal
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from core import fsops, trial
from core.contract import MAX_JSON_BYTES, Keyframe, Manifest, parse, seed_from
from core.errors import DropreelError, OutsideZone
from core.generate.presets import Preset
from core.home import MANIFEST_FILE, SETTINGS_FILE
from core.overview import ServerStatus
from core.settings import Settings, load_settings
from daemons.cli.app import HERE, app, console
from daemons.oneshot import Device, Oneshot, Order, Outcome, environment_for, need_packages

LOCAL_FILE = "local.json"
RANKING_FILE = "ranking.json"
STOPPED = 130
"""The exit status of what Ctrl-C ended, as shells have it."""
_COLOURS = {"pass": "green", "flag": "yellow", "fail": "red", "refused": "red"}

OutOption = Annotated[Path, typer.Option("--out", help="Where the results go; made if it is not there.")]
LenderOption = Annotated[
    Path,
    typer.Option(
        "--home",
        envvar="DROPREEL_HOME",
        help="A home whose settings and presets to use; nothing in it is touched.",
        show_default="here, else the defaults",
    ),
]
DeviceOption = Annotated[Device, typer.Option(help="What to make clips on; auto takes the best there is.")]


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
    fsops.write(out / LOCAL_FILE, _json(record))
    if seeds > 1:
        _rank(outcomes, out, seeds)
    summary(outcomes, out)
    if not all(outcome.came_out for outcome in outcomes):
        raise typer.Exit(1)


def lend(home: Path) -> tuple[Settings, Path]:
    """The settings of a home, or the defaults where none was named; and what its folders are relative to."""
    if (home / SETTINGS_FILE).is_file() or home != HERE:
        settings, folders = load_settings(home)
        return settings, folders.root
    return Settings(), home.absolute()


def presets_used(entries: Sequence[Keyframe], settings: Settings, where: str) -> list[Preset]:
    """The presets that these entries name, each once. Raises ``DropreelError`` for one that there is not."""
    names = list(dict.fromkeys(entry.generation_params.model for entry in entries))
    unknown = [name for name in names if name not in settings.presets]
    if unknown:
        raise DropreelError(f"{where}: there is no preset '{unknown[0]}'. Choose one of: "
                            f"{', '.join(sorted(settings.presets))}; or name the home whose presets.toml has it with "
                            "--home.")  # fmt: skip
    return [settings.presets[name] for name in names]


def prepare_out(out: Path, stems: Sequence[str]) -> None:
    """Make the folder for the results, and write nowhere else from now on.

    Raises ``DropreelError`` where results of these names are there already: they are not overwritten.
    """
    try:
        fsops.guard(out.absolute() / "any")
    except OutsideZone:
        raise DropreelError(f"Folders called mojo…, __crop, __cropped and __selected are the studio's, and protected: "
                            f"{out} cannot be in one. Choose another --out.") from None  # fmt: skip
    endings = ("mp4", "video_meta.json", "reason.json")
    there = [path for folder in (out, out / "flagged", out / "failed") for stem in stems for ending in endings
             if (path := folder / f"{stem}.{ending}").exists()]  # fmt: skip
    if there:
        raise DropreelError(f"{there[0]} is there already, and is not overwritten. Choose another --out, or move "
                            "away what an earlier run left.")  # fmt: skip
    fsops.make_folder(out.absolute())
    fsops.confine(out.absolute())


def generation_for(device: Device) -> dict[str, object]:
    """The keys of ``[generation]`` that a device asks for. A card is hidden from the daemons; Apple's cannot be.

    Their model is the one that is warmed up at a daemon's start; the camera needs none.
    """
    named: dict[str, object] = {"device": device} if device == "cpu" and sys.platform == "darwin" else {}
    return {"model": "camera"} | named


@contextlib.contextmanager
def stopping() -> Iterator[None]:
    """Let Ctrl-C and SIGTERM end the batch as any error does: no process and no home is left, what came out stays."""
    before = {number: signal.signal(number, signal.default_int_handler) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    except KeyboardInterrupt:
        console.print("Stopped. What had come out is kept; all else is cleared away.")
        raise typer.Exit(STOPPED) from None
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


class Screen:
    """The rooms, as they stand."""

    def __init__(self, live: Live) -> None:
        self.title = ""
        self._live = live
        self._begun = time.monotonic()

    def show(self, status: ServerStatus) -> None:
        """Draw the rooms: a number for what waits, a bar for what is worked on."""
        grid = Table.grid(padding=(0, 2))
        for room in status.rooms:
            worker = next((worker for worker in room.workers if worker.clip), None)
            bar = ProgressBar(total=1.0, completed=worker.fraction or 0.0, width=32) if worker else ""
            grid.add_row(room.room, "[bold green]●[/]" if worker or room.ready else "[dim]·[/]",
                         str(room.ready) if room.ready else "", bar)  # fmt: skip
        self._draw(grid)

    def measure(self, name: str, fraction: float) -> None:
        """Draw how far a measurement is."""
        grid = Table.grid(padding=(0, 2))
        grid.add_row(f"measuring {name}", ProgressBar(total=1.0, completed=fraction, width=32))
        self._draw(grid)

    def _draw(self, grid: Table) -> None:
        seconds = Text(f"{time.monotonic() - self._begun:.0f} s")
        self._live.update(Group(*([Text(self.title)] if self.title else []), grid, seconds))


@contextlib.contextmanager
def watching() -> Iterator[Screen]:
    """A screen, for as long as the block; where there is no terminal nothing is drawn."""
    with Live(console=console, refresh_per_second=8, transient=True) as live:
        yield Screen(live)


def tell(outcome: Outcome) -> None:
    """One line for an entry, and its reasons below."""
    meta = outcome.meta
    line = Text.assemble((f"{outcome.verdict:<7}", _COLOURS[outcome.verdict]), f" {outcome.entry.stem}")
    if meta is not None and outcome.came_out:
        seconds = sum(record.seconds for record in meta.stages.values())
        line.append(f"  {meta.width}×{meta.height}, {meta.frames} frames at {meta.fps}, made in {seconds:.1f} s")
    console.print(line, soft_wrap=True)
    for reason in outcome.reasons:
        console.print(Text(f"        {reason}"), soft_wrap=True)


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
    fsops.write(out / RANKING_FILE, _json({"by": trial.RANKING, "takes": ranking}))


def _take_key(outcome: Outcome) -> tuple[float, ...]:
    return trial.rank(outcome.meta) if outcome.meta else (len(trial.RANKING),)


def _json(record: dict[str, Any]) -> bytes:
    return (json.dumps(record, indent=1, ensure_ascii=False) + "\n").encode()
