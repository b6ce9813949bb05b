"""Where everything lies: the folders of a home and of its two halves."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from core import fsops

STAGES = ("generate", "interpolate", "qa", "encode")
"""The rooms a clip walks through, in order; ``intake`` comes before them and the outbox after."""
SETTINGS_FILE = "dropreel.toml"
HOT_FOLDER = "__video_keyframes"
MANIFEST_FILE = "manifest.json"
REASON_FILE = "reason.json"
STATUS_FILE = "status.json"


@dataclass(frozen=True)
class MacHalf:
    """The folders on the operator's machine."""

    root: Path
    hot: Path
    """``__video_keyframes``: where the operator drops."""

    @property
    def sent(self) -> Path:
        """Originals whose clips the server has taken on, by batch."""
        return self.hot / "sent"

    @property
    def rejected(self) -> Path:
        """Drops set aside, each in a folder with its ``reason.json``."""
        return self.hot / "rejected"

    @property
    def outbox(self) -> Path:
        """Batches on their way to the server, kept until the server acknowledges them."""
        return self.root / "outbox"

    @property
    def results(self) -> Path:
        """Finished clips, by batch; ``flagged/`` and ``failed/`` beside them."""
        return self.root / "results"

    @property
    def state(self) -> Path:
        """What is derived or transient."""
        return self.root / "state"

    @property
    def building(self) -> Path:
        """Batches being put together."""
        return self.state / "building"

    @property
    def taken(self) -> Path:
        """Manifests of batches that were sent: the memory by which a clip dropped twice is known."""
        return self.state / "taken"

    @property
    def acks(self) -> Path:
        """The server's acknowledgements of batches."""
        return self.state / "acks"

    @property
    def incoming(self) -> Path:
        """Results being received."""
        return self.state / "incoming"

    @property
    def result_acks(self) -> Path:
        """Our acknowledgements of results, kept until the server stops listing them."""
        return self.state / "result_acks"

    @property
    def server(self) -> Path:
        """What the server says of itself: ``status.json``, as the courier last brought it."""
        return self.state / "server"

    @property
    def listing(self) -> Path:
        """The names in the server's outbox, as empty folders, from the courier's last look."""
        return self.state / "listing"

    @property
    def logs(self) -> Path:
        """One log a daemon."""
        return self.root / "logs"

    @property
    def moved_within(self) -> tuple[Path, ...]:
        """Folders between which batches and results move by a rename."""
        return self.outbox, self.results, self.state, self.building, self.incoming

    @property
    def folders(self) -> tuple[Path, ...]:
        """All that must be there before a daemon starts."""
        return (self.hot, self.sent, self.rejected, self.outbox, self.results, self.building, self.taken, self.acks,
                self.incoming, self.result_acks, self.server, self.listing, self.state / "trash",
                self.logs)  # fmt: skip


@dataclass(frozen=True)
class GpuHalf:
    """The folders on the server."""

    root: Path

    @property
    def inbox(self) -> Path:
        """Batches arriving, each complete when its manifest is there."""
        return self.root / "inbox"

    @property
    def result_acks(self) -> Path:
        """The Mac's acknowledgements of results."""
        return self.inbox / "acks"

    @property
    def by_hand(self) -> Path:
        """Batches that were put into the inbox by hand, once they are taken: perhaps the only copy there is."""
        return self.inbox / "taken"

    @property
    def rooms(self) -> Path:
        """One room a stage."""
        return self.root / "rooms"

    @property
    def failed(self) -> Path:
        """Clips given up, each with its ``failure.json``; batches refused, each with its ``reason.json``."""
        return self.root / "failed"

    @property
    def outbox(self) -> Path:
        """Results waiting for the Mac, by batch, until it acknowledges them."""
        return self.root / "outbox"

    @property
    def batch_acks(self) -> Path:
        """Our acknowledgements of batches, and the memory of the batches that were taken."""
        return self.outbox / "acks"

    @property
    def status(self) -> Path:
        """How the server stands, for the Mac."""
        return self.outbox / STATUS_FILE

    @property
    def state(self) -> Path:
        """What is derived or transient."""
        return self.root / "state"

    @property
    def released(self) -> Path:
        """Results that the Mac has, about to be deleted."""
        return self.state / "released"

    @property
    def trash(self) -> Path:
        """What nobody wants, about to be deleted."""
        return self.state / "trash"

    @property
    def logs(self) -> Path:
        """One log a worker."""
        return self.root / "logs"

    @property
    def moved_within(self) -> tuple[Path, ...]:
        """Folders between which clips move by a rename."""
        rooms = [self.rooms / name / part for name in ("intake", *STAGES) for part in ("tmp", "ready", "active")]
        return *rooms, self.inbox, self.failed, self.outbox, self.state

    @property
    def folders(self) -> tuple[Path, ...]:
        """All that must be there before a daemon starts."""
        rooms = [self.rooms / name / part for name in ("intake", *STAGES) for part in ("tmp", "ready", "active")]
        return (self.inbox, self.result_acks, *rooms, self.failed, self.outbox, self.batch_acks, self.state,
                self.released, self.trash, self.logs)  # fmt: skip


@dataclass(frozen=True)
class Home:
    """The folder that holds ``dropreel.toml``; it has a ``mac/`` half, a ``gpu/`` half, or both."""

    root: Path
    hot_folder: Path | None = None
    """Where the settings put the hot folder, if not inside the home."""

    @property
    def mac(self) -> MacHalf:
        """The operator's half."""
        return MacHalf(self.root / "mac", self.hot_folder or self.root / "mac" / HOT_FOLDER)

    @property
    def gpu(self) -> GpuHalf:
        """The server's half."""
        return GpuHalf(self.root / "gpu")

    def prepare(self, *halves: MacHalf | GpuHalf) -> None:
        """Make the missing folders of these halves; but no hot folder elsewhere, which may be a share not mounted."""
        for half in halves:
            for folder in half.folders:
                if folder.is_relative_to(self.root) or (self.hot_folder and self.hot_folder.is_dir()):
                    fsops.make_folder(folder)
