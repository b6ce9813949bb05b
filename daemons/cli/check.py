"""``dropreel check``: what would become of a drop, without dropping it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import typer
from rich.text import Text

from core import companions, fsops, image
from core.contract import MAX_JSON_BYTES, Keyframe, Manifest, MotionSidecar, load, parse
from core.drops import Drop, scan
from core.errors import DropreelError, Finding, Refused
from core.examine import Judged, caption_name, examine, judge_entry
from core.home import SETTINGS_FILE
from core.settings import Settings, load_settings
from daemons.cli.app import HERE, HomeOption, JsonOption, app, console

_COLOURS = {"error": "red", "warning": "yellow", "note": "cyan"}


@app.command()
def check(
    paths: Annotated[list[Path], typer.Argument(help="Images, sidecars, manifests, or folders of them.")],
    home: HomeOption = HERE,
    as_json: JsonOption = False,
) -> None:
    """Validate images with their sidecars, and manifests, by the rules of this home (or the defaults).

    Tells, too, what a preset with a model would make of each: how many frames of which size, and what becomes of every
    parameter. What has only warnings or notes is taken. **Exit status:** 0, or 1 where something would be rejected.
    """
    settings = load_settings(home)[0] if (home / SETTINGS_FILE).is_file() else Settings()
    found: dict[str, list[Finding]] = {}
    for path in paths:
        if not path.exists():
            raise DropreelError(f"There is no {path}.")
        for name, findings in _check(path.absolute(), settings):
            found.setdefault(name, []).extend(findings)
    if as_json:
        typer.echo(
            json.dumps({name: [f.model_dump(exclude_none=True) for f in fs] for name, fs in found.items()}, indent=1)
        )
    else:
        for name, findings in found.items():
            _show(name, findings)
    if any(map(_refused, found.values())):
        raise typer.Exit(1)


def _show(name: str, findings: list[Finding]) -> None:
    for finding in findings:
        said = Text.assemble((f"{finding.severity:<8}", _COLOURS[finding.severity]), f" {finding.code}: {finding}")
        console.print(said, soft_wrap=True)
    verdict = ("would be taken", "green")
    if _refused(findings):
        verdict = ("would be rejected", "red")
    elif any(finding.code == "image_missing" for finding in findings):
        verdict = ("would wait for its image", "yellow")
    console.print(Text.assemble((name, "bold"), ": ", verdict), soft_wrap=True)


def _refused(findings: list[Finding]) -> bool:
    return any(finding.severity == "error" for finding in findings)


def _check(path: Path, settings: Settings) -> Iterator[tuple[str, list[Finding]]]:
    if path.is_dir():
        for drop in scan(path, ()):
            yield str(drop.folder / (drop.group.files[0])), _findings(drop, path, settings)
    elif companions.is_image(path.name) or path.name.endswith(companions.SIDECAR_SUFFIX):
        drop = next(
            d for d in scan(path.parent, (p for p in path.parent.iterdir() if p.is_dir())) if path.name in d.files
        )
        yield str(path), _findings(drop, path.parent, settings)
    else:
        yield from _check_manifest(path, settings)


def _findings(drop: Drop, root: Path, settings: Settings) -> list[Finding]:
    try:
        if drop.group.images:
            examined = examine(drop, root, settings)
            told = _told(examined.entry, examined.judged) if examined.judged.plan else ()
            return [*examined.findings, *told]
        if drop.group.sidecar:
            load(MotionSidecar, drop.folder / drop.group.sidecar)
    except Refused as error:
        return [error.finding]
    alone = "There is no image of this stem here."
    return [Finding(code="image_missing", file=drop.group.stem, severity="warning", message=alone,
                    remedy="Put it beside its companions.")]  # fmt: skip


def _check_manifest(path: Path, settings: Settings) -> Iterator[tuple[str, list[Finding]]]:
    try:
        manifest = parse(Manifest, fsops.read(path, MAX_JSON_BYTES), path.name)
    except Refused as error:
        yield str(path), [error.finding]
        return
    yield str(path), []
    for number, entry in enumerate(manifest.keyframes):
        yield f"{path} keyframes[{number}]", _judge(entry, path.parent, settings)


def _judge(entry: Keyframe, folder: Path, settings: Settings) -> list[Finding]:
    try:
        pixels = image.open_image(folder / entry.image_name, settings.image)
    except Refused as error:
        return [error.finding]
    except FileNotFoundError:
        alone = "The image is not beside its manifest."
        return [Finding(code="file_missing", file=entry.image_name, message=alone, remedy="Put it there.")]
    name = caption_name(entry)
    try:
        caption = (name, fsops.read(folder / name, settings.image.max_bytes)) if name else None
    except FileNotFoundError:
        caption = None
    judged = judge_entry(entry, pixels, caption, settings)
    return [*judged.findings, *_told(entry, judged)]


def _told(entry: Keyframe, judged: Judged) -> Iterator[Finding]:
    """What would be made, and what becomes of each parameter that the entry names, as notes."""
    plan = judged.plan
    if plan is not None:
        width, height = plan.canvas
        slower = f", {plan.slowed:.2f} times slower than they are meant" if plan.slowed > 1 else ""
        stretched = f", stretched {abs(plan.stretched - 1):.1%}" if abs(plan.stretched - 1) > 0.0005 else ""
        yield Finding(code="plan", severity="note", field="generation_params.model", value=plan.preset,
                      message=f"{plan.frames} frames of {width}×{height}{stretched}, {float(plan.rate):.6g} a second"
                      f"{slower}; {plan.steps} steps. The prompt: {plan.prompt or 'none'}")  # fmt: skip
    for name, word in judged.parameters.items():
        given = getattr(entry.generation_params, name)
        yield Finding(code="parameter", severity="note", field=f"generation_params.{name}", value=given,
                      message=f"{given} is {word}.")  # fmt: skip
