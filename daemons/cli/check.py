"""``dropreel check``: what would become of a drop, without dropping it; and the nearest motion that passes."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import typer
from rich.text import Text

from core import companions, fsops, image
from core.contract import MAX_JSON_BYTES, Keyframe, Manifest, MotionSidecar, Record, parse
from core.drops import Drop, scan
from core.errors import DropreelError, Finding, OutsideZone, Refused
from core.examine import Judged, caption_name, examine, judge_entry
from core.home import HOT_FOLDER, MANIFEST_FILE, REASON_FILE, SETTINGS_FILE, Home
from core.logs import harmless
from core.mend import changed, mend_drop, mend_entry
from core.settings import Settings, load_settings
from daemons.cli.app import HERE, HomeOption, JsonOption, app, console

_COLOURS = {"error": "red", "warning": "yellow", "note": "cyan"}
Found = Iterator[tuple[str, list[Finding]]]
"""What is said of each thing that was looked at, by its name."""


@app.command()
def check(
    paths: Annotated[list[Path], typer.Argument(help="Images, sidecars, manifests, or folders of one of these.")],
    home: HomeOption = HERE,
    fix: Annotated[
        Path | None,
        typer.Option(metavar="FOLDER", help="Write what would pass to new files in this folder, made if missing."),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Validate images with their sidecars, and manifests, by the rules of this home (or the defaults).

    Tells, too, what a preset with a model would make of each: how many frames of which size, and what becomes of every
    parameter. What has only warnings or notes is taken.

    With --fix the nearest motion that passes is written to new files: `<stem>.motion.json`, or a manifest of the same
    name. What was given is not touched, and nothing is overwritten. **Exit status:** 0, or 1 where something would be
    rejected and was not fixed.
    """
    in_a_home = home != HERE or (home / SETTINGS_FILE).is_file()  # one that was named must be there
    settings, folders = load_settings(home) if in_a_home else (Settings(), None)
    for path in paths:
        if not path.exists():
            raise DropreelError(f"There is no {path}.")
    fixes = _Fixes(fix, paths, folders) if fix else None
    found: dict[str, list[Finding]] = {}
    for path in paths:
        said = list(_check(path.absolute(), settings, folders, fixes))
        if not said:
            typer.echo(f"{path}: there is nothing in this folder to check.", err=True)
        for name, findings in said:
            found.setdefault(name, []).extend(findings)
    if as_json:
        typer.echo(
            json.dumps({name: [f.model_dump(exclude_none=True) for f in fs] for name, fs in found.items()}, indent=1)
        )
    else:
        for name, findings in found.items():
            _show(name, findings)
    if any(_refused(findings) and not _fixed(findings) for findings in found.values()):
        raise typer.Exit(1)


class _Fixes:
    """A folder for new files; one that is there already is not overwritten."""

    def __init__(self, folder: Path, checked: list[Path], home: Home | None) -> None:
        """Raises ``DropreelError`` for a folder in which a new file would be taken for something else."""
        self._folder = Path(os.path.realpath(folder))
        ours = [home.mac.root, home.gpu.root, home.mac.hot] if home else []
        theirs = [path if path.is_dir() else path.parent for path in checked]
        try:
            fsops.guard(self._folder / "any")
        except OutsideZone:
            raise DropreelError(
                "Folders called mojo…, __crop, __cropped and __selected are the studio's, and "
                f"protected: {folder} cannot be in one. Choose another for --fix."
            ) from None
        if HOT_FOLDER in self._folder.parts or any(self._folder.is_relative_to(os.path.realpath(one)) for one in ours):
            raise DropreelError(f"What lies in {folder} may be taken for a drop, or a batch. Choose another folder for "
                                "--fix, and move from there what you want to be taken.")  # fmt: skip
        if self._folder in [Path(os.path.realpath(one)) for one in theirs]:
            raise DropreelError(f"What is checked lies in {folder}, and files of one stem belong together. Choose "
                                "another folder for --fix.")  # fmt: skip
        fsops.confine(self._folder)

    def write(self, name: str, record: Record) -> Path:
        """Write a new file; where it lies. Raises ``Refused`` where there is one of this name."""
        place = self._folder / name
        if os.path.lexists(place):
            raise Refused(
                Finding(
                    code="not_fixed",
                    severity="note",
                    file=str(place),
                    message="This file is there already, and is not overwritten.",
                    remedy="Move it away, or choose another folder for --fix.",
                )
            )
        fsops.make_folder(self._folder)
        fsops.write(place, record.to_json())
        return place


def _show(name: str, findings: list[Finding]) -> None:
    for finding in findings:
        said = Text.assemble(
            (f"{finding.severity:<8}", _COLOURS[finding.severity]), f" {finding.code}: {harmless(str(finding))}"
        )
        console.print(said, soft_wrap=True)
    verdict = [("would be taken", "green")]
    if _refused(findings):
        verdict = [("would be rejected", "red")]
    elif any(finding.code == "image_missing" for finding in findings):
        verdict = [("would wait for its image", "yellow")]
    if (file := _fixed(findings)) is not None:
        verdict += [("; ", ""), (f"with {file} it would be taken", "green")]
    console.print(Text.assemble((harmless(name), "bold"), ": ", *verdict), soft_wrap=True)


def _refused(findings: list[Finding]) -> bool:
    return any(finding.severity == "error" for finding in findings)


def _fixed(findings: list[Finding]) -> str | None:
    """The new file with which it would pass, if there is one."""
    return next((finding.file for finding in findings if finding.code == "fixed"), None)


def _check(path: Path, settings: Settings, home: Home | None, fixes: _Fixes | None) -> Found:
    if (path / MANIFEST_FILE).is_file():
        yield from _check_manifest(path / MANIFEST_FILE, settings, fixes)
    elif path.is_dir():
        for drop in scan(path, (home.mac.sent, home.mac.rejected) if home else ()):
            if set(drop.files) != {REASON_FILE}:  # of a drop that was rejected
                yield str(drop.folder / (drop.group.files[0])), _drop(drop, path, settings, fixes)
    elif companions.images_of([path.name]) or path.name.endswith(companions.SIDECAR_SUFFIX):
        ours = scan(path.parent, (p for p in path.parent.iterdir() if p.is_dir()))
        holds_it = next((drop for drop in ours if path.name in drop.files), None)
        if holds_it is None:
            raise DropreelError(f"{path} is hidden, or half-copied: nothing of that name is ever taken.")
        yield str(path), _drop(holds_it, path.parent, settings, fixes)
    else:
        yield from _check_manifest(path, settings, fixes)


def _drop(drop: Drop, root: Path, settings: Settings, fixes: _Fixes | None) -> list[Finding]:
    findings = _findings(drop, root, settings)
    if fixes is not None and drop.group.images and _may_be_better(findings):
        try:
            old, new = mend_drop(drop, root, settings)
            if new != old:
                place = fixes.write(f"{drop.group.stem}{companions.SIDECAR_SUFFIX}", new)
                findings += _changes(place, old, new)
        except Refused as error:
            findings.append(_not_fixed(error))
    return findings


def _may_be_better(findings: list[Finding]) -> bool:
    return any(finding.severity != "note" for finding in findings)


def _changes(place: Path, old: Record, new: Record) -> Iterator[Finding]:
    """What differs in the new file, field by field."""
    for field, before, after in changed(old, new):
        yield Finding(code="fixed", severity="note", file=str(place), field=field, value=_text(after),
                      message=f"{_text(before)} → {_text(after)}.")  # fmt: skip


def _text(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def _not_fixed(error: Refused) -> Finding:
    """Why no new file was written."""
    finding = error.finding
    if finding.code == "not_fixed":
        return finding
    return Finding(code="not_fixed", severity="note", field=finding.field,
                   message=f"No motion is known that would mend this: {finding.message}")  # fmt: skip


def _findings(drop: Drop, root: Path, settings: Settings) -> list[Finding]:
    try:
        if drop.group.images:
            examined = examine(drop, root, settings)
            told = _told(examined.entry, examined.judged) if examined.judged.plan else ()
            return [*examined.findings, *told]
        if drop.group.sidecar:
            data = fsops.read(drop.folder / drop.group.sidecar, MAX_JSON_BYTES)
            parse(MotionSidecar, data, drop.group.sidecar)
    except Refused as error:
        return [error.finding]
    except OSError as error:
        return [_unreadable(drop.group.files[0], error)]
    alone = "There is no image of this stem here."
    return [Finding(code="image_missing", file=drop.group.stem, severity="warning", message=alone,
                    remedy="Put it beside its companions.")]  # fmt: skip


def _check_manifest(path: Path, settings: Settings, fixes: _Fixes | None) -> Found:
    try:
        manifest = parse(Manifest, fsops.read(path, MAX_JSON_BYTES), path.name)
    except Refused as error:
        yield str(path), [error.finding]
        return
    except OSError as error:
        yield str(path), [_unreadable(path.name, error)]
        return
    yield str(path), []
    mended: list[Keyframe] = []
    said: list[list[Finding]] = []
    for entry in manifest.keyframes:
        found, better = _judge(entry, path.parent, settings, mend=fixes is not None)
        said.append(found)
        mended.append(better)
    if fixes is not None and mended != manifest.keyframes:
        try:
            place = fixes.write(path.name, manifest.model_copy(update={"keyframes": mended}))
            for findings, old, new in zip(said, manifest.keyframes, mended, strict=True):
                findings.extend(_changes(place, old, new))
        except Refused as error:
            said[0].append(_not_fixed(error))
    yield from ((f"{path} keyframes[{number}]", found) for number, found in enumerate(said))


def _judge(entry: Keyframe, folder: Path, settings: Settings, *, mend: bool) -> tuple[list[Finding], Keyframe]:
    """What is said of an entry; and the same entry, or a better one."""
    try:
        pixels = image.open_image(folder / entry.image_name, settings.image)
    except Refused as error:
        return [error.finding], entry
    except FileNotFoundError:
        alone = "The image is not beside its manifest."
        return [Finding(code="file_missing", file=entry.image_name, message=alone, remedy="Put it there.")], entry
    except OSError as error:
        return [_unreadable(entry.image_name, error)], entry
    name = caption_name(entry)
    try:
        caption = (name, fsops.read(folder / name, settings.image.max_bytes)) if name else None
    except FileNotFoundError:
        caption = None
    except OSError as error:
        return [_unreadable(name, error)], entry
    judged = judge_entry(entry, pixels, caption, settings)
    findings = [*judged.findings, *_told(entry, judged)]
    if not mend or not _may_be_better(findings):
        return findings, entry
    try:
        return findings, mend_entry(entry, pixels, caption, settings)
    except Refused as error:
        return [*findings, _not_fixed(error)], entry


def _unreadable(name: str, error: OSError) -> Finding:
    return Finding(code="file_not_plain", file=name, message=f"It cannot be read: {error.strerror}.",
                   remedy="Only plain files are read, and those that are yours to read.")  # fmt: skip


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
