"""The Mac's window: drops become a batch in the outbox, and originals move on when the server acknowledges it."""

from __future__ import annotations

import contextlib
import datetime as dt
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from core import fsops
from core.companions import SIDECAR_SUFFIX, group, housekeeping, ignored, images_of, is_image
from core.contract import (
    BATCH_ID,
    BATCH_ID_FORMAT,
    BatchAck,
    EntryOutcome,
    Keyframe,
    Manifest,
    PayloadFile,
    Rejection,
    batch_moment,
    load,
    now,
    work_key,
)
from core.drops import Drop, DropKey
from core.errors import Finding, Refused
from core.examine import Examined
from core.home import MANIFEST_FILE, REASON_FILE, MacHalf
from core.work import Report

_BATCH_ID = re.compile(BATCH_ID)
_NOT_TAKEN = Finding(code="not_taken", message="The server did not take this entry.", remedy="Drop it again.")


@dataclass(frozen=True)
class Taken:
    """Where a clip that was asked for before is to be found."""

    batch_id: str
    stem: str


class Batches:
    """The outbox, and the memory of what was sent: the manifests in ``outbox/`` and ``state/taken/``."""

    def __init__(self, mac: MacHalf, project_id: str) -> None:
        self._mac = mac
        self._project_id = project_id
        self._manifests: dict[str, Manifest] = {}
        self._made: dict[str, list[Taken]] = {}
        self._last_id = ""

    def waiting(self) -> list[Manifest]:
        """The batches in the outbox, the oldest first.

        One that cannot be read (a disk's fault) is set aside in ``state/broken/``: its originals are still in the hot
        folder, and are taken again.
        """
        found = []
        for path in sorted(self._mac.outbox.iterdir()):
            if _BATCH_ID.fullmatch(path.name):
                try:
                    found.append(self._manifest(path / MANIFEST_FILE, path.name))
                except (Refused, FileNotFoundError, NotADirectoryError):
                    broken = self._mac.state / "broken"
                    fsops.make_folder(broken)
                    fsops.move(path, fsops.free_name(broken / path.name))
        return found

    def _manifest(self, path: Path, batch_id: str) -> Manifest:
        if batch_id not in self._manifests:  # a manifest is never written twice
            manifest = self._manifests[batch_id] = load(Manifest, path)
            for entry in manifest.keyframes:
                if entry.files:
                    self._made.setdefault(work_key(entry), []).append(Taken(batch_id, entry.stem))
        return self._manifests[batch_id]

    def _forget(self, batch_id: str, entries: Iterable[Keyframe]) -> None:
        """These were not taken after all: they may be dropped again."""
        for entry in entries:
            key = work_key(entry)
            self._made[key] = [taken for taken in self._made.get(key, ()) if taken.batch_id != batch_id]

    def held(self) -> dict[DropKey, list[Keyframe]]:
        """What the outbox holds, by the drop it was."""
        held: dict[DropKey, list[Keyframe]] = {}
        for manifest in self.waiting():
            for entry in manifest.keyframes:
                held.setdefault((self.original(entry).parent, entry.stem), []).append(entry)
        return held

    def original(self, entry: Keyframe) -> Path:
        """Where the operator dropped an entry's image."""
        return self._mac.hot.joinpath(*PurePosixPath(entry.image_path).parts[1:])

    def made_before(self, entry: Keyframe) -> Taken | None:
        """The earlier clip that this one would repeat: the same picture, motion and parameters, and not a failure."""
        self.waiting()
        for path in self._mac.taken.glob("*.json"):
            with contextlib.suppress(Refused, FileNotFoundError):  # a memory lost costs time, never a clip
                self._manifest(path, path.stem)
        return next((taken for taken in self._made.get(work_key(entry), ()) if not self._has_failed(taken)), None)

    def _has_failed(self, taken: Taken) -> bool:
        """Whether a failure came back, and no later run of it went well."""
        folder, name = self._mac.results / taken.batch_id, f"{taken.stem}.video_meta.json"
        went_well = (folder / name).exists() or (folder / "flagged" / name).exists()
        return (folder / "failed" / name).exists() and not went_well

    def next_id(self) -> str:
        """UTC ``YYYYMMDD_HHMMSS``, never one already used, and later than all of them: ids sort by age."""
        mac = self._mac
        used = [path.name[:15] for place in (mac.outbox, mac.taken, mac.sent, mac.results) for path in place.iterdir()]
        moment = now()
        tomorrow = moment + dt.timedelta(days=1)  # an id from beyond it is no clock's: somebody made it up
        taken = [at for name in (*used, self._last_id) if (at := batch_moment(name)) is not None and at < tomorrow]
        return max([moment, *(at + dt.timedelta(seconds=1) for at in taken)]).strftime(BATCH_ID_FORMAT)

    def send(self, drops: Sequence[Examined], report: Report) -> tuple[Manifest | None, list[Examined]]:
        """Package drops as one batch in the outbox: the manifest there is the moment at which they are taken.

        ``report`` is called before each; what it raises ends the packaging, and nothing is taken. Returns the manifest
        and the drops that changed under our hands, which are not in it; None if all did.
        """
        for left in self._mac.building.iterdir():  # by a try that met a full disk: it would fill it
            fsops.discard(left, self._mac.state / "trash")
        batch_id = self._last_id = self.next_id()
        building = self._mac.building / batch_id
        fsops.make_folder(building)
        entries: list[Keyframe] = []
        changed: list[Examined] = []
        for examined in drops:
            number = len(entries) + 1
            report(number / len(drops))
            files = [file.model_copy(update={"path": _wire_name(number, file)}) for file in examined.entry.files]
            if all(_copied(examined.drop.folder / file.name, building / file.path, file) for file in files):
                entries.append(examined.entry.model_copy(update={"files": files}))
            else:
                changed.append(examined)
        if not entries:
            fsops.discard(building, self._mac.state / "trash")
            return None, changed
        manifest = Manifest(project_id=self._project_id, batch_id=batch_id, keyframes=entries)
        fsops.write(building / MANIFEST_FILE, manifest.to_json())  # syncs the folder, copies and all
        fsops.move(building, self._mac.outbox / batch_id)
        return manifest, changed

    def acknowledged(self) -> Iterator[tuple[Manifest, BatchAck]]:
        """The batches in the outbox that the server has answered."""
        for manifest in self.waiting():
            path = self._mac.acks / f"{manifest.batch_id}.json"
            try:
                ack = load(BatchAck, path)
            except FileNotFoundError:
                continue
            except Refused:
                ack = None
            batch = self._mac.outbox / manifest.batch_id
            if ack is None:
                fsops.remove(path)  # it is fetched again
            elif ack.manifest_sha256 == fsops.hash_file(batch / MANIFEST_FILE):
                yield manifest, ack
            else:  # the server has another batch of this id, and will never take ours: its drops get a new one
                self._forget(manifest.batch_id, manifest.keyframes)
                fsops.discard(batch, self._mac.state / "trash")
                fsops.remove(path)

    def conclude(self, manifest: Manifest, ack: BatchAck) -> Iterator[tuple[Keyframe, EntryOutcome, Path]]:
        """Move an acknowledged batch's originals to ``sent/`` or ``rejected/``; yields each entry and its new place.

        What the operator replaced or changed meanwhile stays where it is, as a new drop, and the copy that was sent
        takes its place. Only when all originals are in safety does the batch leave the outbox. May be repeated
        after a crash at any point.
        """
        batch = self._mac.outbox / manifest.batch_id
        outcomes = {outcome.image_path: outcome for outcome in ack.entries}
        accepted: list[Keyframe] = []
        refused: list[Keyframe] = []
        for entry in manifest.keyframes:
            outcome = outcomes.get(entry.image_path, EntryOutcome(image_path=entry.image_path))
            if outcome.clip_id is None:
                refused.append(entry)
                place = self._shelf(f"{entry.stem} ({manifest.batch_id})")  # the same one after a crash
                fsops.make_folder(place)
                names = [file.name for file in entry.files]
                findings = outcome.findings or [ack.refused or _NOT_TAKEN]
                fsops.write(place / REASON_FILE, Rejection.of(findings, names).to_json())
            else:
                accepted.append(entry)
                place = self._mac.sent / manifest.batch_id
                fsops.make_folder(place)
            self._retire(entry, batch, place)
            yield entry, outcome, place
        self._forget(manifest.batch_id, refused)
        if accepted:
            memory = manifest.model_copy(update={"keyframes": accepted})
            fsops.write(self._mac.taken / f"{manifest.batch_id}.json", memory.to_json())
        fsops.discard(batch, self._mac.state / "trash")
        fsops.remove(self._mac.acks / f"{manifest.batch_id}.json")

    def reject(self, folder: Path, names: Sequence[str], stem: str, findings: list[Finding]) -> Path:
        """Set a drop aside in ``rejected/`` with its reason, the picture first; where it lies now."""
        number = 1
        # A folder with a reason and nothing else is what a crash left of this very rejection.
        while _holds_files(place := self._shelf(stem if number == 1 else f"{stem} ({number})")):
            number += 1
        files = [(folder / name).relative_to(self._mac.hot).as_posix() for name in names]
        fsops.make_folder(place)
        fsops.write(place / REASON_FILE, Rejection.of(findings, files).to_json())
        for name in names:
            fsops.move(folder / name, place / name)
        clear_shell(folder, self._mac.hot)
        return place

    def recover(self) -> None:
        """Clear away what a crash left half-built, and bring rejected companions after their picture.

        A companion left behind would become that of a later drop.
        """
        for path in self._mac.building.iterdir():
            fsops.discard(path, self._mac.state / "trash")
        fsops.empty(self._mac.state / "trash")
        for ack in self._mac.acks.glob("[!.]*.json"):
            if not (self._mac.outbox / ack.stem).exists():
                fsops.remove(ack)
        fsops.sweep(self._mac.sent, self._mac.rejected, self._mac.taken)
        for reason in self._mac.rejected.glob(f"*/{REASON_FILE}"):
            with contextlib.suppress(Refused):
                names = [PurePosixPath(name) for name in load(Rejection, reason).files]
                if any(name.is_absolute() or ".." in name.parts for name in names):
                    continue  # not written by us
                files = [self._mac.hot.joinpath(*name.parts) for name in names]
                images = images_of(file.name for file in files)
                if any(file.name in images and file.exists() for file in files):
                    continue  # the picture is there: not yet rejected, or dropped again
                if not any((reason.parent / name).exists() for name in images):
                    continue  # the operator has taken it out, to mend it
                for file in files:
                    if file.is_file() and not (reason.parent / file.name).exists():
                        fsops.move(file, reason.parent / file.name)

    def _shelf(self, name: str) -> Path:
        """A folder in ``rejected/``; not one of a protected name, into which nothing could be written."""
        return self._mac.rejected / (f"_{name}" if fsops.PROTECTED.fullmatch(name) else name)

    def _retire(self, entry: Keyframe, batch: Path, place: Path) -> None:
        folder = self.original(entry).parent
        if self._unchanged(entry, folder, place):
            for name in _group_names(entry, folder):
                if not (place / name).exists():
                    fsops.move(folder / name, place / name)
            if any(fsops.hash_file(place / file.name) != file.sha256 for file in entry.files):
                for name in _group_names(entry, place):  # edited behind its own times: it was not this that was sent
                    if not (folder / name).exists():
                        fsops.move(place / name, folder / name)
        for file in entry.files:
            if not (place / file.name).exists():  # the operator has changed the drop: what was sent is kept here
                fsops.copy(batch / file.path, place / file.name)
        fsops.sync_folder(place)
        clear_shell(folder, self._mac.hot)

    @staticmethod
    def _unchanged(entry: Keyframe, folder: Path, place: Path) -> bool:
        """Whether the hot folder shows what was taken, but for what is in its new place already."""
        rest = [file for file in entry.files if not (place / file.name).exists()]
        travelling = {name for name in _group_names(entry, folder) if travels(name)}
        return travelling == {file.name for file in rest} and all(_is_same(folder / file.name, file) for file in rest)


def travels(name: str) -> bool:
    """Whether a file goes to the server: pictures, their motion, their caption."""
    return is_image(name) or name.lower().endswith((SIDECAR_SUFFIX, ".caption"))


def is_held(drop: Drop, entries: Sequence[Keyframe]) -> bool:
    """Whether one of these entries names this very drop: the same files, unchanged. It waits for the server's word."""
    here = {name: (file.inode, file.size, file.mtime_ns) for name, file in drop.files.items() if travels(name)}
    return any(here == {f.name: (f.inode, f.size, f.mtime_ns) for f in entry.files} for entry in entries)


def _holds_files(folder: Path) -> bool:
    return folder.is_dir() and any(path.name != REASON_FILE for path in folder.iterdir() if not ignored(path.name))


def _group_names(entry: Keyframe, folder: Path) -> tuple[str, ...]:
    """The files of an entry's stem that lie in a folder now."""
    if not folder.is_dir():
        return ()
    members = group(path.name for path in folder.iterdir() if path.is_file()).get(entry.stem)
    return members.files if members else ()


def clear_shell(folder: Path, hot: Path) -> None:
    """Remove a folder that was dragged in, and those around it, once nothing is left but what a file manager made."""
    while folder != hot and folder.is_relative_to(hot) and folder.is_dir():
        left = list(folder.iterdir())
        if any(path.is_dir() or not housekeeping(path.name) for path in left):
            return
        for path in left:
            fsops.remove(path)
        fsops.remove_folder(folder)
        folder = folder.parent


def _wire_name(number: int, file: PayloadFile) -> str:
    """``001.png``, ``001.motion.json``, ``001.caption``: the same in every shell and on every file system."""
    lower = file.name.lower()
    suffix = next((s for s in (SIDECAR_SUFFIX, ".caption") if lower.endswith(s)), PurePosixPath(lower).suffix)
    return f"{number:03d}{suffix}"


def _copied(source: Path, target: Path, file: PayloadFile) -> bool:
    try:
        return fsops.copy(source, target) == file.sha256
    except OSError:  # gone, or not to be read any more: it is looked at again
        return False


def _is_same(path: Path, file: PayloadFile) -> bool:
    try:
        info = path.lstat()
    except FileNotFoundError:
        return False
    return (info.st_ino, info.st_size, info.st_mtime_ns) == (file.inode, file.size, file.mtime_ns)
