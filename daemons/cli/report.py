"""``dropreel report``: how batches came out, from their results."""

from __future__ import annotations

import itertools
import json
from collections.abc import Sequence
from typing import Annotated

import typer
from rich.table import Table
from rich.text import Text

from core.errors import DropreelError
from core.report import CONFIDENCE, BatchReport, Flagged, Outcomes, Quality, batches, outcomes
from core.report import report as report_of
from core.settings import load_settings
from daemons.cli.app import HERE, HomeOption, JsonOption, app, console, need_half

_VERDICTS = {
    "kept": ("kept", "green"),
    "broken": ("broken", "red"),
    "open": ("too few clips to tell", "yellow"),
}


@app.command()
def report(
    batch: Annotated[str | None, typer.Argument(help="A batch's id.", show_default="all, a line each")] = None,
    home: HomeOption = HERE,
    as_json: JsonOption = False,
) -> None:
    """Show how batches came out: passed, flagged and failed, by code; quality; what was made again.

    From the metas in `results/`. The share flagged is of the delivered clips. Of a clip that was made again the last
    run counts.
    """
    settings, folders = load_settings(home)
    need_half("mac", settings, "report")
    found = list(batches(folders.mac.results))
    if batch is not None:
        known = ", ".join(one.batch_id for one in found[-5:]) or "none"
        found = [one for one in found if one.batch_id == batch]
        if not found:
            raise DropreelError(f"There are no results of {batch}. The last batches are: {known}.")
    reports = [report_of(one) for one in found]
    total = outcomes(list(itertools.chain.from_iterable(one.metas for one in found)))
    if as_json:
        said = {"batches": [one.model_dump() for one in reports], "total": total.model_dump()}
        typer.echo(json.dumps(said, indent=1, ensure_ascii=False))
        return
    if not reports:
        console.print("There are no results yet.")
    elif batch is not None:
        console.print(_one(reports[0]))
    else:
        console.print(_all(reports, total))
    for name in itertools.chain.from_iterable(one.broken for one in reports):
        console.print(Text(f"not counted: {name}", "yellow"), soft_wrap=True)


def _one(batch: BatchReport) -> Table:
    """A batch, a figure a line."""
    table = Table(title=batch.batch_id, title_justify="left", show_header=False)
    table.add_row("clips", str(batch.clips))
    table.add_row("passed", str(batch.passed))
    table.add_row("flagged", _counted(batch.flagged, batch.flagged_by))
    table.add_row("failed", _counted(batch.failed, batch.failed_by))
    if batch.flagged_share is not None:
        table.add_row("share flagged", _share(batch.flagged_share))
    for name, words in _quality(batch.quality):
        table.add_row(name, words)
    again = f"{batch.regenerated}, after {batch.seeds_tried} other seeds in all" if batch.regenerated else "0"
    table.add_row("made again", again)
    return table


def _all(reports: Sequence[BatchReport], total: Outcomes) -> Table:
    """A batch a line, and their total."""
    table = Table()
    for name in ("batch", "clips", "passed", "flagged", "failed", "share flagged", "VMAF", "lowest", "spread", "CRF",
                 "unmet", "made again"):  # fmt: skip
        table.add_column(name, justify="left" if name == "batch" else "right")
    for one in reports:
        table.add_row(one.batch_id, *_figures(one))
    table.add_section()
    table.add_row("all", *_figures(total))
    return table


def _figures(some: Outcomes) -> list[str]:
    share, vmaf = some.flagged_share, some.quality.vmaf
    return [
        *(str(count) for count in (some.clips, some.passed, some.flagged, some.failed)),
        _interval(share) if share else "",
        *((f"{figure:.1f}" for figure in (vmaf.mean, vmaf.lowest, vmaf.spread)) if vmaf else ("", "", "")),
        _crf(some.quality),
        str(some.quality.unmet),
        str(some.regenerated),
    ]


def _counted(count: int, by_code: dict[str, int]) -> str:
    codes = ", ".join(f"{code} {clips}" for code, clips in by_code.items())
    return f"{count}: {codes}" if codes else str(count)


def _interval(share: Flagged) -> str:
    return f"{share.share:.1%} ({share.low:.1%} to {share.high:.1%})"


def _share(share: Flagged) -> Text:
    """The share, the interval in which it lies, and what that means."""
    words, colour = _VERDICTS[share.verdict]
    return Text.assemble(f"{_interval(share)}, {CONFIDENCE:.0%} sure; at most {share.limit:.0%}: ", (words, colour))


def _quality(quality: Quality) -> list[tuple[str, str]]:
    lines = []
    if (vmaf := quality.vmaf) is not None:
        words = [f"mean {vmaf.mean:.2f}", f"lowest {vmaf.lowest:.2f}", f"spread {vmaf.spread:.2f}"]
        if vmaf.deviation is not None:
            words.append(f"standard deviation {vmaf.deviation:.2f}")
        if vmaf.lowest_moment is not None:
            words.append(f"lowest 5th percentile {vmaf.lowest_moment:.2f}")
        lines.append(("VMAF", f"{', '.join(words)}, of {vmaf.clips}"))
    if crf := _crf(quality):
        lines.append(("CRF", crf))
    return [*lines, ("target not met", str(quality.unmet))]


def _crf(quality: Quality) -> str:
    low, high = quality.crf_lowest, quality.crf_highest
    if low is None or high is None:
        return ""
    return f"{low:g}" if low == high else f"{low:g} to {high:g}"
