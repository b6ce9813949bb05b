"""``dropreel check``: what would become of a drop, without dropping it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import typer
from rich.text import Text

from core import companions, fsops, image, safety
from core.contract import MAX_JSON_BYTES, Manifest, MotionSidecar, load, parse
from core.drops import Drop, scan
from core.errors import DropreelError, Finding, Refused
from core.examine import examine, output_size
from core.home import SETTINGS_FILE
from core.safety import Scene
from core.settings import Settings, load_settings, presets
from daemons.cli.app import HERE, HomeOption, JsonOption, app, console

_COLOURS = {"error": "red", "warning": "yellow", "note": "cyan"}


@app.command()
def check(
    paths: Annotated[list[Path], typer.Argument(help="Images, sidecars, manifests, or folders of them.")],
    home: HomeOption = HERE,
    as_json: JsonOption = False,
) -> None:
    """Validate images with their sidecars, and manifests, by the rules of this home (or the defaults).

    What has only warnings or notes is taken. **Exit status:** 0, or 1 where something would be rejected.
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
            return examine(drop, root, settings).findings
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
        where = f"{path} keyframes[{number}]"
        model = entry.generation_params.model
        findings = []
        if model not in presets():
            findings.append(Finding(code="model_unknown", field="generation_params.model", value=model,
                                    message=f"There is no preset '{model}'.",
                                    remedy=f"Choose one of: {', '.join(sorted(presets()))}."))  # fmt: skip
        try:
            pixels = image.open_image(path.parent / entry.image_name, settings.image)
            size = output_size(entry.generation_params, (pixels.shape[1], pixels.shape[0]), settings)
            scene = Scene(pixels, size, entry.generation_params.fps, settings.motion)
            findings += safety.check(entry.motion, scene)
        except Refused as error:
            findings.append(error.finding)
        except FileNotFoundError:
            alone = "The image is not beside its manifest."
            findings.append(Finding(code="file_missing", file=entry.image_name, message=alone, remedy="Put it there."))
        yield where, findings
