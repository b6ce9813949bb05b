"""``dropreel doctor``: everything that would make tonight's run fail, each with the remedy."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Annotated

import typer
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from core import doctor as checks
from core import fsops
from core.doctor import Patient, Result, Verdict, gpu, weights
from core.doctor.result import Check
from core.errors import BadSettings
from core.generate.weights import used
from core.settings import load_settings
from daemons.cli.app import HERE, HomeOption, JsonOption, app, console

_COLOURS: dict[Verdict, str] = {"ok": "green", "warn": "yellow", "fail": "red", "skipped": "dim"}


@app.command()
def doctor(
    presets: Annotated[list[str] | None, typer.Argument(help="With --gpu: these presets, not those in use.")] = None,
    home: HomeOption = HERE,
    cards: Annotated[
        bool, typer.Option("--gpu", metavar="", help="Only the cards, the weights, and whether presets fit.")
    ] = False,
    card_gib: Annotated[
        float | None, typer.Option(min=1, help="With --gpu: whether they fit a card of so many GiB.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Look for everything that would make tonight's run fail, and say what to do about it.

    Run it as the user who runs the daemons. It writes probes, and takes them away again; it changes nothing.

    With `--gpu` it says what each preset needs at its worst, on the card and on the host, and loads nothing.

    **Exit status:** 0 nothing will fail, though there may be warnings, 1 something will, 78 the settings cannot
    be used.
    """
    settings, folders = load_settings(home)
    if not cards and (presets or card_gib is not None):
        raise BadSettings("Presets and --card-gib are asked of --gpu: dropreel doctor --gpu.")
    patient = Patient(settings, folders)
    looks = _of_cards(patient, presets, card_gib) if cards else checks.CHECKS
    fsops.confine(folders.root, folders.mac.hot)
    found: list[tuple[str, Result]] = []
    with console.status("looking", spinner="line") as status:
        for family, result in checks.examine(patient, looks):
            found.append((family, result))
            status.update(f"looking at {family}")
    failed = any(result.verdict == "fail" for _, result in found)
    if as_json:
        results = [{"family": family, **result.model_dump()} for family, result in found]
        whole = {"home": str(folders.root), "role": settings.role, "failed": failed, "results": results}
        typer.echo(json.dumps(whole, indent=1))
    else:
        _show(found)
    raise typer.Exit(int(failed))


def _of_cards(patient: Patient, names: list[str] | None, card_gib: float | None) -> Iterable[Check]:
    """The checks of the cards, and of these presets or those in use."""
    known = patient.settings.presets
    if unknown := [name for name in names or [] if name not in known]:
        raise BadSettings(f"There is no preset '{unknown[0]}'. Choose of: {', '.join(sorted(known))}.")
    chosen = [known[name] for name in names] if names else used(patient.settings, patient.home.root)
    if card_gib is None:
        yield from (check for check in gpu.CHECKS if check.look is gpu.computing)
    yield Check("weights", "weights", lambda here: weights.judge(here, chosen))
    yield Check("gpu", "fit", lambda here: gpu.judge(here, chosen, card_gib))


def _show(found: list[tuple[str, Result]]) -> None:
    """The table, and under it what to do."""
    table = Table(box=None, show_header=False, padding=(0, 2, 0, 0))
    for _ in range(4):
        table.add_column(overflow="fold")
    last = ""
    for family, result in found:
        mark = Text(result.verdict, _COLOURS[result.verdict])
        table.add_row(Text("" if family == last else family, "bold"), mark, Text(result.name), Text(result.seen))
        last = family
    console.print(table)
    for family, result in found:
        if result.remedy is not None:
            console.print()
            console.print(Text(f"{family}, {result.name}", _COLOURS[result.verdict]))
            console.print(Padding.indent(Text(result.remedy), 2))
    count = {verdict: sum(result.verdict == verdict for _, result in found) for verdict in _COLOURS}
    console.print()
    console.print(", ".join(f"{number} {verdict}" for verdict, number in count.items() if number), highlight=False)
