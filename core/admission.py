"""A batch enters the server once: verified, split into one folder a clip, committed by one rename, acknowledged."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import re
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from core import fsops, image
from core.contract import (
    BATCH_ID,
    CLIP_ID,
    MAX_JSON_BYTES,
    BatchAck,
    Clip,
    EntryOutcome,
    Keyframe,
    Manifest,
    Rejection,
    batch_moment,
    clip_id,
    load,
    next_try,
    now,
    parse,
    seed_from,
)
from core.errors import DropreelError, Finding, Refused, UnreadableClip
from core.examine import caption_name, check_stem, judge_entry, refuse_errors
from core.generate.plan import preset_of
from core.generate.prompts import CAPTION_SUFFIX
from core.home import MANIFEST_FILE, REASON_FILE, GpuHalf
from core.rooms import CLIP_FILE, ClipFolder, Room
from core.settings import Settings
from core.work import Report, unwatched

_BATCH_ID = re.compile(BATCH_ID)
_SENT = re.compile(r"\.?\d{3,4}\.[a-z]|\.manifest\.json\.")
"""What the courier calls the files of a batch, ``001.png``, and rsync until they are whole: ``.001.png.a1B2c3``."""
ACK_FILE = "ack.json"
MAX_COMPARED_BYTES = 256 << 20
"""A larger file that lies in a batch is none of ours; to read it again would keep all others waiting."""
MAX_DAMAGED = 3
"""So often may a file arrive damaged, and be sent again, before its entry is refused."""
NEW_SEED = "+seed"
"""Ends the name of a failed clip's folder on its way back, where the new run is to have another seed: the rename that
takes it out of ``failed/`` says so too, and a crash after it forgets neither."""


class NotYet(Exception):
    """Part of this batch has still to arrive: the file that it names."""


@dataclass(frozen=True)
class Arrival:
    """A batch in the inbox."""

    path: Path
    manifest: Manifest
    sha256: str
    """Of the manifest's bytes: what the acknowledgement repeats."""

    @property
    def by_hand(self) -> bool:
        """Whether nothing says which bytes must arrive, so that only their rest tells that they are whole."""
        return not all(entry.files for entry in self.manifest.keyframes)


class Admission:
    """The inbox, the intake room, and the acknowledgements of batches."""

    def __init__(self, gpu: GpuHalf, settings: Settings, generate: Room) -> None:
        self._gpu = gpu
        self._settings = settings
        self._generate = generate
        self._intake = Room(gpu.rooms / "intake")
        self._damaged: dict[Path, int] = {}
        self._left: set[str] = set()
        """Failed clips that are known to be none to regenerate. What lies in ``failed/`` does not change."""

    def arrivals(self) -> list[Path]:
        """The batches in the inbox that have a manifest, the oldest first. Links are nobody's batch."""
        return [
            path
            for path in sorted(self._gpu.inbox.iterdir())
            if _BATCH_ID.fullmatch(path.name) and not path.is_symlink() and _has_manifest(path)
        ]

    def leftovers(self) -> list[Path]:
        """Batches in the inbox that were taken before, and come without a manifest: a second sending that broke off.

        The first one's answer has reached the Mac meanwhile, so nobody sends the rest. What somebody may have put
        there by hand, under other names than the courier's, is none.
        """
        return [path for path in sorted(self._gpu.inbox.iterdir()) if self._is_left_over(path)]

    def _is_left_over(self, path: Path) -> bool:
        if not _BATCH_ID.fullmatch(path.name) or path.is_symlink() or not path.is_dir():
            return False
        try:
            return all(_SENT.match(file.name) for file in path.iterdir()) and self._known(path.name) is not None
        except (OSError, Refused):  # it cannot be looked at, or what was answered to it
            return False

    def open(self, path: Path) -> Arrival:
        """Read a batch's manifest. Raises ``Refused``."""
        data = _read(path / MANIFEST_FILE, MAX_JSON_BYTES)
        manifest = parse(Manifest, data, MANIFEST_FILE)
        if manifest.batch_id != path.name:
            raise Refused.because(
                "batch_misplaced",
                file=MANIFEST_FILE,
                field="batch_id",
                value=manifest.batch_id,
                message=f"Its folder is called {path.name}.",
                remedy="Give the folder the batch's id.",
            )
        return Arrival(path, manifest, hashlib.sha256(data).hexdigest())

    def admit(self, arrival: Arrival, report: Report = unwatched, *, wait: bool = True) -> BatchAck:
        """Take a batch in, up to the commit; ``finish`` does the rest, now or after a crash.

        A batch that was taken before is only cleared away. Raises ``Refused`` for another content under a known id,
        ``NotYet`` while a file is missing or has to be sent again, and ``OSError``. Without ``wait`` an entry whose
        file is missing is refused.
        """
        batch_id = arrival.manifest.batch_id
        known = self._known(batch_id)
        if known is not None:
            if known.manifest_sha256 != arrival.sha256:
                raise _id_taken(batch_id)
            return known
        building = self._intake.tmp / batch_id
        fsops.discard(building, self._gpu.trash)
        fsops.make_folder(building)
        outcomes = []
        for number, entry in enumerate(arrival.manifest.keyframes, 1):
            report(number / len(arrival.manifest.keyframes))
            outcomes.append(self._build(arrival, number, entry, building, wait=wait))
        ack = BatchAck(batch_id=batch_id, manifest_sha256=arrival.sha256, entries=outcomes)
        fsops.write(building / ACK_FILE, ack.to_json())
        fsops.move(building, self._intake.ready / batch_id)
        return ack

    def finish(self) -> Iterator[Path]:
        """Acknowledge the committed batches, and yield each of their clips as it enters ``generate``."""
        for batch in sorted(self._intake.ready.glob("????????_??????")):
            ack = load(BatchAck, batch / ACK_FILE)
            fsops.write(self._gpu.batch_acks / f"{batch.name}.json", ack.to_json())
            for outcome in ack.entries:
                if outcome.clip_id and (batch / outcome.clip_id).exists():
                    self._generate.enter(batch / outcome.clip_id)
                    yield self._generate.ready / outcome.clip_id
            fsops.discard(batch, self._gpu.trash)

    def clear(self, arrival: Arrival, ack: BatchAck) -> None:
        """Take a batch that was taken out of the inbox. What was put there by hand may be the only copy, and is kept.

        Raises ``Refused`` where another batch was put there by hand under the same manifest.
        """
        if not arrival.by_hand:
            fsops.discard(arrival.path, self._gpu.trash)
            return
        if self._gpu.by_hand.is_symlink():  # nobody of ours made it one, and it would have us move things elsewhere
            fsops.remove(self._gpu.by_hand)
        kept = self._gpu.by_hand / arrival.path.name
        if kept.exists():
            if _contents(kept) != _contents(arrival.path):
                raise _id_taken(arrival.manifest.batch_id)
            fsops.discard(arrival.path, self._gpu.trash)
            return
        findings = [finding for outcome in ack.entries for finding in outcome.findings]
        if findings:
            names = sorted(path.name for path in arrival.path.iterdir())
            fsops.write(arrival.path / REASON_FILE, Rejection.of(findings, names).to_json())
        fsops.make_folder(self._gpu.by_hand)
        fsops.move(arrival.path, kept)

    def refuse(self, path: Path, finding: Finding) -> Path:
        """Set a batch aside in ``failed/`` with its reason; the sender is told, unless its id is another batch's."""
        digest = _hash(path / MANIFEST_FILE)
        if digest and batch_moment(path.name) and self._known(path.name) is None:
            ack = BatchAck(batch_id=path.name, manifest_sha256=digest, entries=[], refused=finding)
            fsops.write(self._gpu.batch_acks / f"{path.name}.json", ack.to_json())
        place = self._gpu.failed / f"{path.name}.{digest[:8] or 'unreadable'}"
        if place.exists() and _contents(place) == _contents(path):  # sent once more: it is as wrong as before
            fsops.discard(path, self._gpu.trash)
            return place
        place = fsops.free_name(place)
        fsops.write(path / REASON_FILE, Rejection.of([finding], sorted(p.name for p in path.iterdir())).to_json())
        fsops.move(path, place)
        return place

    def failed(self) -> list[Path]:
        """The clips that were given up, the oldest first."""
        return sorted(path for path in self._gpu.failed.iterdir() if re.fullmatch(CLIP_ID, path.name))

    def regenerable(self) -> list[Path]:
        """The clips that failed QA and have seeds left to try, as many as the settings allow; the oldest first."""
        most = self._settings.rooms.max_regenerations
        if most == 0:
            return []
        found = []
        for failed in self.failed():
            if failed.name in self._left:
                continue
            try:
                again = self._may_regenerate(ClipFolder.open(failed).clip, most)
            except UnreadableClip:
                again = False
            except OSError:  # of the disk, not of the clip: it is looked at again
                continue
            if again:
                found.append(failed)
            else:
                self._left.add(failed.name)
        return found

    def _may_regenerate(self, clip: Clip, most: int) -> bool:
        preset = self._settings.presets.get(clip.entry.generation_params.model)
        by_model = preset is not None and preset.family != "camera"
        return _failed_qa(clip) and by_model and len(clip.entry.tried_seeds) < most

    def retry(self, failed: Path, *, new_seed: bool = False) -> ClipFolder:
        """Make a failed clip again as a new run, with ``new_seed`` by an entry of its own; as it enters ``generate``.

        The first rename takes it out of ``failed/``, so that of two who ask only one is served; after a crash
        ``resume`` does the rest. Raises ``Refused`` where another seed would make the same clip or none is left to
        try, ``UnreadableClip``, ``AlreadyRunning``, ``OSError``.
        """
        clip = ClipFolder.open(failed).clip  # what cannot be read stays where it is
        if new_seed and preset_of(clip.entry, self._settings).family == "camera":
            raise Refused.because(
                "seed_without_effect",
                file=clip.entry.stem,
                field="generation_params.model",
                value=clip.entry.generation_params.model,
                message=f"'{clip.entry.generation_params.model}' has no model: any seed makes the same clip.",
                remedy="Change its motion, and drop it again.",
            )
        if new_seed:
            next_try(clip.entry, clip.seed)  # where there is none, it stays where it is, too
        building = self._generate.tmp / (failed.name + (NEW_SEED if new_seed else ""))
        with self._building():
            fsops.move(failed, building)
            return self._renew(building)

    def unfinished(self) -> list[Path]:
        """The retries that were cut off, by a crash or by trouble; or that somebody is at this moment."""
        return sorted(path for path in self._generate.tmp.glob("[!.]*") if path.is_dir())

    def resume(self, building: Path) -> None:
        """Finish one of the ``unfinished``, unless whoever was at it has done so.

        One that cannot be read is put into ``failed/`` with its reason: raises ``UnreadableClip``, whose ``path`` is
        that place. Raises ``AlreadyRunning``, ``OSError``.
        """
        with self._building():
            if not building.exists():
                return
            try:
                self._renew(building)
            except UnreadableClip as error:
                reason = Rejection.of([error.finding], sorted(path.name for path in building.iterdir()))
                fsops.write(building / REASON_FILE, reason.to_json())
                place = fsops.free_name(self._gpu.failed / f"{building.name}.unreadable")
                fsops.move(building, place)
                raise UnreadableClip(place, error.finding) from error

    @contextlib.contextmanager
    def _building(self) -> Iterator[None]:
        """Hold ``rooms/generate/tmp``: of intake and an operator's retry, only one renews a clip at a time."""
        lock = fsops.hold(self._generate.tmp)
        try:
            yield
        finally:
            os.close(lock)

    def _renew(self, building: Path) -> ClipFolder:
        """Strip a failed clip to its keyframe, make it the next run, and let it enter ``generate``; may be repeated."""
        folder = ClipFolder.open(building)
        old = folder.clip
        if old.clip_id == building.name.removesuffix(NEW_SEED):  # not yet renewed
            for path in sorted(building.iterdir()):
                if path.is_dir():
                    fsops.discard(path, self._gpu.trash)
                elif not path.name.startswith("keyframe") and path.name != CLIP_FILE:
                    fsops.remove(path)
            base = old.clip_id.rsplit("-r", 1)[0] if old.run > 1 else old.clip_id
            run = old.run + 1
            entry, seed = old.entry, old.seed
            if building.name.endswith(NEW_SEED):
                entry = next_try(entry, seed)
                seed = _seed_of(entry, seed)
            folder.clip = Clip(clip_id=f"{base}-r{run}", run=run, batch_id=old.batch_id, entry=entry,
                               image=old.image, seed=seed, taken_at=now())  # fmt: skip
            folder.save()
        folder.path = self._generate.ready / folder.clip.clip_id
        fsops.move(building, folder.path)
        return folder

    def _known(self, batch_id: str) -> BatchAck | None:
        """What was answered to a batch of this id that was taken; one that was refused may come again, mended."""
        for path in (self._gpu.batch_acks / f"{batch_id}.json", self._intake.ready / batch_id / ACK_FILE):
            if path.exists() and not (ack := load(BatchAck, path)).refused:
                return ack
        return None

    def _build(self, arrival: Arrival, number: int, entry: Keyframe, building: Path, *, wait: bool) -> EntryOutcome:
        field = f"keyframes[{number - 1}]"
        try:
            data = self._payload(arrival, entry, wait=wait)
            folder = self._build_clip(arrival, number, entry, data, building)
        except Refused as error:
            finding = error.finding
            where = f"{field}.{finding.field}" if finding.field else field
            return EntryOutcome(image_path=entry.image_path, findings=[finding.model_copy(update={"field": where})])
        except (NotYet, OSError, DropreelError):
            raise
        except Exception as error:  # noqa: BLE001 - one entry that finds a fault of ours must not hold up the others
            fault = Finding(code="unexpected", field=field, message=f"{type(error).__name__}: {error}.",
                            remedy="This is a fault of Dropreel: tell its makers.")  # fmt: skip
            return EntryOutcome(image_path=entry.image_path, findings=[fault])
        return EntryOutcome(image_path=entry.image_path, clip_id=folder.name)

    def _build_clip(
        self, arrival: Arrival, number: int, entry: Keyframe, data: dict[str, bytes], building: Path
    ) -> Path:
        check_stem(entry.stem)
        name = PurePosixPath(entry.image_path).name
        ending = next(iter(data))
        picture = image.decode(data[ending], name, self._settings.image)
        caption = (f"{entry.stem}{CAPTION_SUFFIX}", data[CAPTION_SUFFIX]) if CAPTION_SUFFIX in data else None
        refuse_errors(judge_entry(entry, picture.pixels, caption, self._settings).findings)
        sha256 = hashlib.sha256(data[ending]).hexdigest()
        folder = building / clip_id(arrival.manifest.batch_id, number, sha256)
        fsops.make_folder(folder)
        for suffix, content in data.items():
            fsops.write(folder / f"keyframe{suffix}", content)
        clip = Clip(clip_id=folder.name, batch_id=arrival.manifest.batch_id, entry=entry, image=f"keyframe{ending}",
                    seed=_seed_of(entry, seed_from(sha256)), taken_at=now())  # fmt: skip
        fsops.write(folder / CLIP_FILE, clip.to_json())
        return folder

    def _payload(self, arrival: Arrival, entry: Keyframe, *, wait: bool) -> dict[str, bytes]:
        """An entry's files by what their names end in, the image first.

        What arrived damaged is thrown away and waited for again. A caption beside a manifest written by hand is its
        picture's.
        """
        limit = self._settings.image.max_bytes
        if not entry.files:
            by_hand = {_suffixes(entry)[0]: _read(arrival.path / entry.image_name, limit)}
            caption = arrival.path / caption_name(entry)
            return by_hand | ({CAPTION_SUFFIX: _read(caption, limit)} if caption.exists() else {})
        found = {}
        suffixes = _suffixes(entry)
        if len(set(suffixes)) < len(entry.files):
            raise Refused.because(
                "files_alike",
                field="files",
                message="Two of its files have one ending.",
                remedy="An entry has one picture, one sidecar, one caption.",
            )
        for suffix, file in zip(suffixes, entry.files, strict=True):
            path = arrival.path / file.path
            damaged = self._damaged.get(path, 0)
            if wait and not path.exists() and not path.is_symlink():
                raise NotYet(file.path)
            data = _read(path, limit) if path.exists() or not damaged else b""
            if hashlib.sha256(data).hexdigest() != file.sha256:
                damaged = self._damaged[path] = damaged + 1
                if wait and damaged < MAX_DAMAGED:
                    fsops.remove(path)
                    raise NotYet(file.path)
                raise Refused.because(
                    "hash_mismatch",
                    file=file.name,
                    field="files",
                    message="The file that arrived is not the one that the manifest names.",
                    remedy="Drop the keyframe again; if it recurs, test the disks.",
                )
            found[suffix] = data
        return found


def _seed_of(entry: Keyframe, otherwise: int) -> int:
    seed = entry.generation_params.seed
    return otherwise if seed is None else seed


def _failed_qa(clip: Clip) -> bool:
    """Whether it was QA's verdict that a clip was given up for, not a crash in that room, nor the operator's word."""
    failure, qa = clip.failure, clip.qa
    if failure is None or failure.stage != "qa" or qa is None or qa.verdict != "fail":
        return False
    return failure.code in {reason.code for reason in qa.reasons}


def _suffixes(entry: Keyframe) -> list[str]:
    """What the names of an entry's files end in: the wire's names are ``001.png``, ``001.motion.json``."""
    if not entry.files:
        suffix = PurePosixPath(entry.image_path).suffix.lower()
        return [suffix if re.fullmatch(r"\.[a-z0-9]{1,8}", suffix) else ""]
    return [file.path[file.path.index(".") :] if "." in file.path else "" for file in entry.files]


def _read(path: Path, limit: int) -> bytes:
    """Read a file in the inbox, which anybody may have put there. Raises ``Refused``, and ``OSError`` of the disk."""
    try:
        return fsops.read(path, limit)
    except FileNotFoundError:
        raise Refused.because(
            "file_missing",
            file=path.name,
            message="The file is not beside its manifest.",
            remedy="Put it there before the manifest.",
        ) from None
    except OSError as error:
        if error.errno not in {errno.ELOOP, errno.EINVAL, errno.EFBIG, errno.ENXIO, errno.EISDIR}:
            raise
        raise Refused.because(
            "file_not_plain",
            file=path.name,
            message=f"It cannot be read: {error.strerror}.",
            remedy=f"Only plain files of at most {limit} bytes are read.",
        ) from None


def _hash(path: Path) -> str:
    try:
        return hashlib.sha256(fsops.read(path, MAX_JSON_BYTES)).hexdigest()
    except OSError:
        return ""


def _has_manifest(batch: Path) -> bool:
    try:
        return (batch / MANIFEST_FILE).exists()
    except PermissionError:  # not ours to read: opening it will say so
        return True


def _contents(folder: Path) -> dict[str, str]:
    """The hash of each file in a folder, but for the reason that was put there; the size of one too large for ours."""
    found = {}
    for path in folder.iterdir():
        info = path.lstat()
        if stat.S_ISREG(info.st_mode) and path.name != REASON_FILE:
            found[path.name] = fsops.hash_file(path) if info.st_size <= MAX_COMPARED_BYTES else str(info.st_size)
    return found


def _id_taken(batch_id: str) -> Refused:
    return Refused.because(
        "batch_id_taken",
        file=MANIFEST_FILE,
        field="batch_id",
        value=batch_id,
        message="Another batch of this id was taken before.",
        remedy="Give the new one an id of its own.",
    )
