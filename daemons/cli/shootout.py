"""``dropreel shootout``: the same keyframes through several presets, and a report that compares them."""

from __future__ import annotations

import io
import json
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import Annotated

import typer
from PIL import Image
from rich.table import Table
from rich.text import Text

from core import fsops, image
from core.companions import SIDECAR_SUFFIX
from core.contract import BATCH_ID_FORMAT, Motion, PayloadFile, now
from core.drops import Drop, scan
from core.errors import DiskFull, DropreelError
from core.examine import examine
from core.generate.presets import Preset
from core.motion import FULL, MotionType, Rect
from core.settings import Settings
from core.shootout import MEMORY_GIB, ClipFigures, Contestant, cold, judge, ranked, rules
from core.shootout_report import Shown, Terms, eliminations, page
from core.temporal import steadiness_of
from core.trial import without_regeneration
from daemons.cli.app import HERE, app, console
from daemons.cli.trials import DeviceOption, LenderOption, OutOption, Screen, lend, stopping, tell, watching
from daemons.oneshot import Oneshot, Order, Outcome, environment_for, generation_for, need_packages, prepare_out

REPORT_PAGE, REPORT_FILE, CLIPS = "report.html", "report.json", "clips"
SLOW_ZOOM = Rect(0.04, 0.04, 0.96, 0.96)
"""Where the camera ends over a keyframe without a sidecar; it begins with the whole."""
LOADED_FOR = 16
"""So many clips one loading of a model makes; their frames wait on the disk."""
SLOW_INTENSITY = 0.3
"""What such a move says of itself, where a model is told."""
PICTURE_PIXELS = 640
"""The longer side of a keyframe on the page."""


@app.command()
def shootout(
    keyframes: Annotated[Path, typer.Option(help="A folder of images, with their .motion.json and .caption.")],
    presets: Annotated[str, typer.Option(help="Names of presets, with commas between them.")],
    out: OutOption,
    *,
    home: LenderOption = HERE,
    dollars_per_hour: Annotated[float, typer.Option(min=0, help="What an hour of the card costs.")] = 0.40,
    memory_gib: Annotated[float, typer.Option(min=1, help="The memory of the cards that it is for.")] = MEMORY_GIB,
    seconds: Annotated[
        float, typer.Option(min=0.1, help="How long the slow zoom is that keyframes without a sidecar get.")
    ] = 4.0,
    device: DeviceOption = "auto",
) -> None:
    """Run the same keyframes and motions through presets, and write report.html and report.json.

    The rules are the studio's; the report prints every formula. **Exit status:** 0 where every preset made at least
    one clip, else 1.
    """
    settings, base = lend(home)
    chosen = _presets(presets, settings)
    need_packages(chosen)
    environment = environment_for(device, chosen)
    generation = generation_for(device) | {"memory_gib": memory_gib}
    settings = without_regeneration(_together(settings))
    drops = _drops(keyframes)
    entries = {preset.name: list(_orders(drops, keyframes, preset, settings, seconds)) for preset in chosen}
    prepare_out(out, [])
    if (out / REPORT_FILE).exists():
        raise DropreelError(f"{out} holds the report of another shootout. Choose another --out.")
    pictures = {drop.group.stem: _picture(drop, out, settings) for drop in drops}
    contestants, clips = [], {drop.group.stem: dict[str, str]() for drop in drops}
    with watching() as screen, stopping():
        for number, (name, orders) in enumerate(entries.items(), 1):
            screen.title = f"{name}, {number} of {len(entries)}"
            console.print(Text(name, "bold"))
            lane = Oneshot(settings, base, (out / CLIPS / name).absolute(), environment, generation, screen.show, tell)
            outcomes = _made(lane, orders, settings)
            warming = cold(outcome.meta for outcome in outcomes if outcome.meta)
            found = [_figures(outcome, screen, warming) for outcome in outcomes]
            contestants.append(judge(name, found, memory_gib))
            for outcome in outcomes:
                if outcome.came_out:
                    clips[outcome.entry.stem][name] = _video(outcome).relative_to(out.absolute()).as_posix()
    ranking = ranked(contestants)
    terms = Terms(dollars_per_hour, memory_gib)
    shown = [Shown(order.entry.stem, pictures[order.entry.stem], _in_words(order.entry.motion),
                   clips[order.entry.stem]) for order in entries[chosen[0].name]]  # fmt: skip
    fsops.write(out / REPORT_FILE, _json(ranking, terms))
    fsops.write(out / REPORT_PAGE, page(ranking, shown, terms).encode())
    _print(ranking, terms)
    console.print(f"The report is {out / REPORT_PAGE}", markup=False, highlight=False, soft_wrap=True)
    if not all(one.figures.n for one in ranking):
        raise typer.Exit(1)


def _together(settings: Settings) -> Settings:
    """With room for so many clips behind ``generate`` that a model is loaded as seldom as can be."""
    bounds = settings.rooms.bounds
    wider = bounds.model_copy(update={"interpolate": max(LOADED_FOR, bounds.interpolate)})
    changed = settings.model_copy(update={"rooms": settings.rooms.model_copy(update={"bounds": wider})})
    changed.adopt(settings.presets)
    return changed


def _presets(names: str, settings: Settings) -> list[Preset]:
    """The presets of these names, each once. Raises ``DropreelError``."""
    wanted = list(dict.fromkeys(name.strip() for name in names.split(",") if name.strip()))
    unknown = [name for name in wanted if name not in settings.presets]
    if unknown or not wanted:
        what = f"There is no preset '{unknown[0]}'" if unknown else "No preset is named"
        raise DropreelError(f"{what}. Choose of: {', '.join(sorted(settings.presets))}; or name the home whose "
                            "presets.toml has it with --home.")  # fmt: skip
    return [settings.presets[name] for name in wanted]


def _drops(folder: Path) -> list[Drop]:
    """The keyframes that lie in the folder itself; folders in it may hold anything. Raises ``DropreelError``."""
    if not folder.is_dir():
        raise DropreelError(f"There is no folder {folder}. --keyframes names one that holds images.")
    drops = [drop for drop in scan(folder, (path for path in folder.iterdir() if path.is_dir())) if drop.group.images]
    if not drops:
        raise DropreelError(f"There are no images in {folder}.")
    return drops


def _orders(drops: Sequence[Drop], folder: Path, preset: Preset, settings: Settings, seconds: float) -> Iterator[Order]:
    """The keyframes as the hot folder would order them of a preset. Raises ``Refused`` where it would reject one."""
    generation = settings.generation.model_copy(update={"model": preset.name})
    asked = settings.model_copy(update={"generation": generation})
    asked.adopt(settings.presets)
    for number, drop in enumerate(drops, 1):
        entry = examine(drop, folder, asked).entry
        if drop.group.sidecar is None:
            motion = Motion(type=MotionType.zoom_in, start_rect=FULL, end_rect=SLOW_ZOOM, duration_sec=seconds)
            old = entry.generation_params.model_dump(include={"fps", "width", "height", "seed"})
            rects = {"start_rect": motion.start_rect, "end_rect": motion.end_rect}
            params = generation.params(motion.type, SLOW_INTENSITY, preset.studio).model_copy(update=old | rects)
            entry = entry.model_copy(update={"motion": motion, "generation_params": params})
        files = [file.model_copy(update={"path": f"{number:03d}{_ending(file)}"}) for file in entry.files]
        where = {file.path: drop.folder / file.name for file in files}
        yield Order(entry.model_copy(update={"files": files}), where)


def _ending(file: PayloadFile) -> str:
    """What its name on the wire ends in."""
    name = file.name.lower()
    return next((end for end in (SIDECAR_SUFFIX, ".caption") if name.endswith(end)), PurePosixPath(name).suffix)


def _in_words(motion: Motion) -> str:
    return f"{str(motion.type).replace('_', ' ')}, {motion.duration_sec:g} s"


def _picture(drop: Drop, out: Path, settings: Settings) -> str:
    """The keyframe for the page, small; its path relative to it."""
    pixels = image.open_image(drop.folder / drop.group.images[0], settings.image)
    picture = Image.fromarray(pixels)
    picture.thumbnail((PICTURE_PIXELS, PICTURE_PIXELS), Image.Resampling.LANCZOS)
    data = io.BytesIO()
    picture.save(data, "JPEG", quality=90)
    path = out / "keyframes" / f"{drop.group.stem}.jpg"
    fsops.make_folder(path.absolute().parent)
    fsops.write(path, data.getvalue())
    return path.relative_to(out).as_posix()


def _made(lane: Oneshot, orders: Sequence[Order], settings: Settings) -> list[Outcome]:
    """Every keyframe through one preset. What keeps all of its clips from being made ends no shootout."""
    try:
        return lane.run(orders, settings.project_id, now().strftime(BATCH_ID_FORMAT))
    except DiskFull:
        raise
    except DropreelError as error:
        outcomes = [Outcome(order.entry, None, [str(error)], lane.out) for order in orders]
    for outcome in outcomes:
        tell(outcome)
    return outcomes


def _video(outcome: Outcome) -> Path:
    return outcome.place.with_name(f"{outcome.entry.stem}.mp4")


def _figures(outcome: Outcome, screen: Screen, warming: Collection[str]) -> ClipFigures:
    """``warming`` are the ids of the clips that warmed a model up."""
    stem = outcome.entry.stem
    steady = None
    if outcome.came_out:
        steady = steadiness_of(_video(outcome), lambda fraction: screen.measure(stem, fraction)).ssim
    warmed = outcome.meta is not None and outcome.meta.clip_id in warming
    return ClipFigures.of(stem, outcome.verdict, outcome.reasons, outcome.meta, steady, cold=warmed)


def _json(found: Sequence[Contestant], terms: Terms) -> bytes:
    record = {
        "dollars_per_hour": terms.dollars_per_hour,
        "memory_gib": terms.memory_gib,
        "eliminated_by": eliminations(terms.memory_gib),
        "rules": [rule.to_json() for rule in rules(terms.memory_gib)],
        "presets": [one.to_json(terms.dollars_per_hour) for one in found],
    }
    return (json.dumps(record, indent=1, ensure_ascii=False) + "\n").encode()


def _print(found: Sequence[Contestant], terms: Terms) -> None:
    table = Table()
    for column in ("preset", "score", "s a clip", "temporal", "first frame", "GiB", "clips/min", "$ a clip", "clips"):
        table.add_column(column, overflow="fold", justify="left" if column == "preset" else "right")

    def said(value: float | None, digits: str) -> str:
        return "–" if value is None else f"{value:{digits}}"

    for one in found:
        figures = one.figures
        name = Text.assemble(one.preset, *(("\n" + why, "red") for why in one.eliminated))
        dollars = figures.dollars_per_clip(terms.dollars_per_hour)
        table.add_row(name, f"{one.score:.1f}", said(figures.seconds, ".2f"), said(figures.steadiness, ".3f"),
                      said(figures.first_frame, ".3f"), said(figures.peak_gib, ".1f"),
                      said(figures.clips_per_minute, ".1f"), said(dollars, ".5f"),
                      f"{figures.n} of {figures.of}")  # fmt: skip
    console.print(table)
