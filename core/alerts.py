"""What is trouble, in words: from how things stand, and without doing anything about it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

from core.contract import VideoMeta
from core.disk import LOW
from core.messages import Trouble
from core.overview import RoomStatus, ServerStatus

Half = Literal["mac", "gpu"]
"""What a room says of itself where it claims nothing for want of room on the disk."""


def disk_low(half: Half, free_bytes: int) -> Trouble:
    """A half begins nothing new, for want of room."""
    held = {"mac": "Nothing is packed and no clip is fetched", "gpu": "No batch is taken in and no clip is begun"}[half]
    return Trouble(
        key=f"disk:{half}",
        title=f"The disk of the {half} half is full",
        text=f"{free_bytes / 1e9:.1f} GB are free. {held}. Make room: `dropreel prune --dry-run` shows what may go.",
        urgent=True,
    )


def link_lost(seconds: float, trouble: str) -> Trouble:
    """The courier has not got through to the server for so long."""
    return Trouble(
        key="link",
        title="The courier does not get through to the server",
        text=f"For {seconds / 60:.0f} minutes: {trouble} Drops wait here, and go out when it does.",
    )


def server_silent(seconds: float) -> Trouble:
    """The server can be reached, but nobody there has written its status for so long."""
    return Trouble(
        key="silent",
        title="The server can be reached, but does not work",
        text=f"For {seconds / 60:.0f} minutes it has written no status: its intake does not run. Look at its services.",
    )


def gave_up(daemon: str) -> Trouble:
    """A daemon is not started again."""
    return Trouble(
        key=f"gave_up:{daemon}",
        title=f"{daemon} has given up",
        text="Its settings cannot be used. Its log says which; mend them, and start everything again.",
        urgent=True,
    )


def of_clip(meta: VideoMeta) -> str | None:
    """What to say of a clip that a person should look at; None where nobody has to: it passed, or was cancelled."""
    if meta.outcome == "pass" or (meta.failure is not None and meta.failure.code == "cancelled"):
        return None
    if meta.failure is not None:
        return f"{meta.entry.stem}: {meta.failure.message}"
    reasons = meta.qa.reasons if meta.qa is not None else []
    return ": ".join([meta.entry.stem, *(reason.message for reason in reasons[:1])])


def clips(meta: VideoMeta) -> Callable[[int], str]:
    """The title of a message about so many clips of one batch, all like this one."""
    word = {"pass": "made", "flag": "flagged", "fail": "failed"}[meta.outcome]
    return lambda count: f"{count} {'clip' if count == 1 else 'clips'} {word} in batch {meta.batch_id}"


class ServerAlerts:
    """What is wrong on the server, from one status after another; moments are those of a monotonic clock, in seconds.

    So it matters nothing whether the clocks of the two halves agree.
    """

    def __init__(self, stalled_minutes: float) -> None:
        self._limit = stalled_minutes * 60
        self._hands: dict[str, tuple[object, float]] = {}
        self._written: object = None
        self._heard_at: float | None = None
        self._found: list[Trouble] = []

    def look(self, status: ServerStatus | None, moment: float, *, reachable: bool = True) -> list[Trouble]:
        """The troubles that the server's latest status shows; of one that was looked at before, those that it showed.

        Without ``reachable`` no new one can be expected.
        """
        written = status.written_at if status is not None else None
        if self._heard_at is None or written != self._written:
            self._written, self._heard_at = written, moment
            self._found = self._judge(status, moment) if status is not None else []
        elif not reachable:
            self._heard_at = moment
        return list(self._found)

    def silence(self, moment: float) -> float:
        """Seconds for which the server could be reached, and there was no new status."""
        return moment - self._heard_at if self._heard_at is not None else 0.0

    def _judge(self, status: ServerStatus, moment: float) -> list[Trouble]:
        found = [trouble for room in status.rooms if (trouble := self._stalled(room, moment)) is not None]
        if LOW in {status.held, *(room.held for room in status.rooms)}:
            found.append(disk_low("gpu", status.disk_free_bytes))
        return found

    def _stalled(self, room: RoomStatus, moment: float) -> Trouble | None:
        """The trouble of a room that has clips and may go on, but in which nothing moves.

        A long queue is none as long as its clips are taken up; nor is a room that is held, be it because the next one
        is full: then that one is the trouble.
        """
        hands = [(worker.worker, worker.clip, worker.fraction) for worker in room.workers if worker.alive]
        before, since = self._hands.get(room.room, (None, moment))
        if hands != before:
            since = moment
        self._hands[room.room] = hands, since
        working = any(clip for _, clip, _ in hands)
        standing = moment - since if working else room.oldest_seconds or 0.0
        if room.held or standing <= self._limit:
            return None
        return Trouble(
            key=f"stalled:{room.room}",
            title=f"The room {room.room} stands still",
            text=f"For {standing / 60:.0f} minutes nothing has moved. {room.ready} clips wait, {len(hands)} of "
            f"{len(room.workers)} workers live. Look into its logs on the server, or start its daemons again.",
        )
