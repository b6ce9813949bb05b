"""What is trouble is told, in words that say what to do, and by one daemon; a low disk holds both ends of the way."""

from __future__ import annotations

import datetime as dt
import itertools
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import structlog

from core import fsops, messages, notify
from core.alerts import ServerAlerts, clips, gave_up, link_lost, of_clip, server_silent
from core.cards import Card
from core.contract import Failure, GenerationParams, Keyframe, Motion, QaReport, Verdict, VideoMeta, now
from core.errors import Finding
from core.motion import FULL, MotionType
from core.overview import RoomStatus, ServerStatus, WorkerStatus
from core.rsync import LinkRefused
from core.settings import load_settings
from core.transfer import Listing, LocalTransport
from daemons.courier import CourierDaemon
from daemons.intake import IntakeDaemon
from daemons.supervisor import Child, Supervisor
from tests.house import House, picture
from tests.unit.living import at_work, settle
from tests.unit.test_notify import Webhook, _serving
from tests.unit.test_results import deliver, results
from tests.waiting import until

pytestmark = pytest.mark.filterwarnings("ignore:'imghdr' is deprecated")  # by one of Apprise's services
LIMIT = 20.0
"""Minutes."""
BATCH = "20250704_143022"
SECONDS = itertools.count()
CLIP = f"{BATCH}-001-00000000"


def room(name: str = "qa", *workers: WorkerStatus, **facts: Any) -> RoomStatus:
    return RoomStatus(**{"room": name, "paused": False, "ready": 1, "active": 0, "workers": list(workers), **facts})


def worker(clip: str | None = None, fraction: float | None = None, *, alive: bool = True) -> WorkerStatus:
    return WorkerStatus(worker="cpu0", alive=alive, clip=clip, fraction=fraction)


def status(*rooms: RoomStatus, seconds: int = 0, free: int = 10**12) -> ServerStatus:
    moment = dt.datetime(2026, 11, 22, 12, 0, tzinfo=dt.UTC) + dt.timedelta(seconds=seconds)
    cards: list[Card] = []
    return ServerStatus(written_at=moment, version="1", inbox=0, rooms=list(rooms), outbox=0, failed=0,
                        disk_free_bytes=free, cards=cards)  # fmt: skip


def keys(alerts: ServerAlerts, *rooms: RoomStatus, minute: float = 0.0) -> list[str]:
    """The troubles that a new status shows at this minute."""
    return [trouble.key for trouble in alerts.look(status(*rooms, seconds=next(SECONDS)), minute * 60)]


def meta(outcome: Verdict, **facts: Any) -> VideoMeta:
    motion = Motion(type=MotionType.static, start_rect=FULL, end_rect=FULL, duration_sec=4.0)
    entry = Keyframe(image_path="img_1.png", motion=motion, generation_params=GenerationParams(model="camera"))
    return VideoMeta(**{"clip_id": CLIP, "run": 1, "batch_id": BATCH, "outcome": outcome, "entry": entry, "seed": 1,
                        **facts})  # fmt: skip


# A room that stands still


def test_clips_that_nobody_takes_up_are_trouble() -> None:
    alerts = ServerAlerts(LIMIT)
    assert keys(alerts, room(oldest_seconds=LIMIT * 60)) == []
    assert keys(alerts, room(oldest_seconds=LIMIT * 60 + 1)) == ["stalled:qa"]
    assert keys(alerts, room("qa", worker(alive=False), oldest_seconds=LIMIT * 60 + 1)) == ["stalled:qa"]


def test_a_long_queue_that_moves_is_none() -> None:
    alerts = ServerAlerts(LIMIT)
    for minute in range(0, 200, 10):
        clip = f"{BATCH}-{minute:03d}-00000000"
        assert keys(alerts, room("qa", worker(clip, 0.5), ready=500, oldest_seconds=1e6), minute=minute) == []


def test_a_clip_on_which_work_goes_on_is_none() -> None:
    alerts = ServerAlerts(LIMIT)
    for minute in range(0, 200, 10):
        assert keys(alerts, room("qa", worker(CLIP, minute / 200), ready=0), minute=minute) == []


def test_a_clip_on_which_work_does_not_go_on_is_trouble() -> None:
    alerts = ServerAlerts(LIMIT)
    stuck = room("qa", worker(CLIP, 0.5), ready=0)
    assert [keys(alerts, stuck, minute=minute) for minute in (0, 10, 20, 21)] == [[], [], [], ["stalled:qa"]]
    assert keys(alerts, room("qa", worker(CLIP, 0.6), ready=0), minute=22) == []


@pytest.mark.parametrize("held", ["paused", "encode is full", "disk is low"])
def test_a_room_that_is_held_does_not_stall(held: str) -> None:
    assert "stalled:qa" not in keys(ServerAlerts(LIMIT), room(held=held, oldest_seconds=1e6))


def test_the_servers_disk_is_told_once_for_all_rooms() -> None:
    alerts = ServerAlerts(LIMIT)
    rooms = [room(name, held="disk is low") for name in ("generate", "qa")]
    assert keys(alerts, *rooms) == ["disk:gpu"]


# A server that says nothing


def test_silence_is_measured_by_what_is_new_and_not_by_its_clock() -> None:
    alerts = ServerAlerts(LIMIT)
    looks = [
        (0, 0.0, True, 0),
        (0, 300.0, True, 300),
        (-9999, 400.0, True, 0),  # its clock was set; it speaks
        (-9999, 500.0, False, 0),  # who cannot be reached is not silent
        (-9999, 600.0, True, 100),
    ]
    for written, moment, reachable, silence in looks:
        alerts.look(status(seconds=written), moment, reachable=reachable)
        assert alerts.silence(moment) == silence


def test_an_old_status_says_nothing_new() -> None:
    alerts = ServerAlerts(LIMIT)
    at_work = status(room("qa", worker(CLIP, 0.5)))
    assert alerts.look(at_work, 0.0) == alerts.look(at_work, 1e6, reachable=False) == []
    stuck = status(room(oldest_seconds=1e6), seconds=1)
    assert alerts.look(stuck, 1e6) == alerts.look(stuck, 2e6, reachable=False) != []


def test_a_server_that_never_spoke_is_silent() -> None:
    alerts = ServerAlerts(LIMIT)
    alerts.look(None, 0.0)
    alerts.look(None, 300.0)
    assert alerts.silence(300.0) == 300


# Words


def test_only_what_does_not_end_by_itself_is_urgent() -> None:
    stalled, disk = ServerAlerts(LIMIT).look(status(room("qa", held="disk is low"), room(oldest_seconds=1e6)), 0.0)
    urgent = {
        trouble.key: trouble.urgent for trouble in (stalled, disk, link_lost(60, ""), server_silent(60), gave_up("x"))
    }
    assert urgent == {"stalled:qa": False, "disk:gpu": True, "link": False, "silent": False, "gave_up:x": True}


def test_clips_are_counted() -> None:
    assert clips(meta("flag"))(1) == f"1 clip flagged in batch {BATCH}"
    assert clips(meta("fail"))(7) == f"7 clips failed in batch {BATCH}"


def test_a_clip_is_told_with_its_reason_unless_it_passed_or_was_cancelled() -> None:
    failure = Failure(stage="qa", code="black_frames", message="Black.", failed_at=now())
    qa = QaReport(verdict="flag", screened="x", reasons=[Finding(code="cut", message="It jumps.")])
    assert of_clip(meta("fail", failure=failure)) == "img_1: Black."
    assert of_clip(meta("flag", qa=qa)) == "img_1: It jumps."
    assert of_clip(meta("pass", qa=qa)) is None
    assert of_clip(meta("fail", failure=failure.model_copy(update={"code": "cancelled"}))) is None


# The daemons


@pytest.fixture
def webhook() -> Iterator[Webhook]:
    yield from _serving(Webhook())


def told(webhook: Webhook) -> str:
    return "\n".join(f"{said['title']}\n{said['message']}" for said in webhook.heard)


def noted(folder: Path) -> set[str]:
    """The troubles that a teller knows of."""
    file = folder / "notify.json"
    return set(messages.Memory.model_validate_json(file.read_bytes()).troubles) if file.exists() else set()


def pass_time(house: House, minutes: float, *daemons: int) -> None:
    """Let these daemons, or all, look every five seconds."""
    for _ in range(int(minutes * 12)):
        house.clock.seconds += 5
        for number in daemons or range(len(house.daemons)):
            house.daemons[number].runtime.alive()
            house.daemons[number].step()


@pytest.fixture
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(messages, "GATHER_SECONDS", 0.0)
    monkeypatch.setattr(notify, "LOOK_SECONDS", 0.01)


def urls(webhook: Webhook) -> str:
    return f'\n[notify]\nurls = ["{webhook.url}"]\nlink_minutes = 5.0\n'


def test_flagged_and_failed_clips_are_told_by_batch(
    tmp_path: Path, webhook: Webhook, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(notify, "LOOK_SECONDS", 0.01)
    with at_work(tmp_path / "home", more=urls(webhook)) as house:
        for number in range(1, 4):
            deliver(house, number, "flag", stem=f"img_{number}")
        deliver(house, 4, "pass", stem="img_4")
        settle(house)
        monkeypatch.setattr(messages, "GATHER_SECONDS", 0.0)
        until(lambda: webhook.heard, "a message")
    assert webhook.titles() == [f"Dropreel: 3 clips flagged in batch {BATCH}"]
    assert [line.split(":")[0] for line in webhook.heard[0]["message"].splitlines()[:3]] == ["img_1", "img_2", "img_3"]


class Refusing(LocalTransport):
    """A way on which the other end can be made to refuse."""

    trouble = ""

    def look(self, unanswered: Any) -> Listing:
        if self.trouble:
            raise LinkRefused("", self.trouble)
        return super().look(unanswered)


def test_a_link_that_stays_lost_is_told_and_a_restart_is_not_its_end(
    tmp_path: Path, webhook: Webhook, at_once: None
) -> None:
    with at_work(tmp_path / "home", more=urls(webhook)) as house:
        courier = house.daemons[1]
        assert isinstance(courier, CourierDaemon)
        way = Refusing(house.home.mac, house.home.gpu, courier.runtime.breathe)
        courier.transport = way
        pass_time(house, 1)
        way.trouble = "The server's host key is another."
        pass_time(house, 4)
        assert noted(house.home.mac.state) == set()
        pass_time(house, 3)
        until(lambda: webhook.heard, "a message")
        assert way.trouble in told(webhook)
        house.stop()
        house.start()
        again = house.daemons[1]
        assert isinstance(again, CourierDaemon)
        again.transport = way
        pass_time(house, 1)
        known = messages.Memory.model_validate_json((house.home.mac.state / "notify.json").read_bytes())
        assert known.troubles["link"].gone_at is None
        way.trouble = ""
        pass_time(house, 2)
        known = messages.Memory.model_validate_json((house.home.mac.state / "notify.json").read_bytes())
        assert known.troubles["link"].gone_at is not None
    assert len(webhook.heard) == 1


def test_a_server_that_does_not_work_is_told(tmp_path: Path, webhook: Webhook, at_once: None) -> None:
    with at_work(tmp_path / "home", more=urls(webhook)) as house:
        pass_time(house, 1)
        pass_time(house, 6, 0, 1)  # intake is dead
        until(lambda: webhook.heard, "a message")
    assert "The server can be reached, but does not work" in told(webhook)


def test_a_room_that_stands_still_is_told(tmp_path: Path, webhook: Webhook, at_once: None) -> None:
    with at_work(tmp_path / "home", more=urls(webhook)) as house:
        clip = house.home.gpu.rooms / "qa" / "ready" / CLIP
        clip.mkdir()
        os.utime(clip, (0, 0))
        pass_time(house, 1, 1, 2)
        until(lambda: webhook.heard, "a message")
    assert "The room qa stands still" in told(webhook)


@pytest.mark.parametrize(("role", "teller"), [("both", "mac"), ("gpu", "gpu")])
def test_one_daemon_of_a_home_tells(role: str, teller: str, tmp_path: Path, webhook: Webhook, at_once: None) -> None:
    with at_work(tmp_path / "home", more=urls(webhook)) as house:
        house.stop()
        house.settings = house.settings.model_copy(update={"role": role})
        house.settings.disk.low_water_mb = house.settings.disk.high_water_mb = 10**9
        house.start()
        intake = house.daemons[2]
        assert isinstance(intake, IntakeDaemon)
        pass_time(house, 1, 2) if role == "gpu" else pass_time(house, 1)
        halves = {"mac": house.home.mac.state, "gpu": house.home.gpu.state}
        assert {name for name, state in halves.items() if noted(state)} == {teller}
        assert "disk:gpu" in noted(halves[teller])
        until(lambda: "The disk of the gpu half is full" in told(webhook), "a message")


# The Mac's disk


def full(house: House, yes: bool) -> None:
    house.settings.disk.low_water_mb = house.settings.disk.high_water_mb = 10**9 if yes else 0


def test_on_a_full_disk_nothing_is_packed_and_it_is_said_once(tmp_path: Path) -> None:
    with at_work(tmp_path / "home", gpu=False) as house:
        full(house, True)
        house.drop("img", picture())
        pass_time(house, 2, 0)
        assert not list(house.home.mac.outbox.iterdir())
        assert len(house.said("disk.low")) == 1
        full(house, False)
        pass_time(house, 1, 0)
        assert len(list(house.home.mac.outbox.iterdir())) == 1
        assert len(house.said("disk.enough")) == 1


def test_on_a_full_disk_no_result_is_fetched_and_what_is_small_goes_on(tmp_path: Path) -> None:
    with at_work(tmp_path / "home", gpu=False) as house:
        house.drop("img", picture())
        pass_time(house, 1, 0)
        deliver(house, stem="img_1")
        full(house, True)
        pass_time(house, 2, 1)
        assert results(house) == []
        assert len(house.said("disk.low")) == 1
        assert len(house.said("batch.pushed")) == 2, "and again, being unanswered"
        full(house, False)
        pass_time(house, 1, 1)
        assert "img_1.mp4" in results(house)
        assert len(house.said("disk.enough")) == 1


def test_a_daemon_that_gives_up_is_told(tmp_path: Path, webhook: Webhook, at_once: None) -> None:
    (tmp_path / "dropreel.toml").write_text('role = "mac"\n' + urls(webhook))  # and no server to carry to
    fsops.confine()
    settings, home = load_settings(tmp_path)
    home.prepare(home.mac)
    log: Any = structlog.wrap_logger(structlog.PrintLogger(), [_drop], wrapper_class=structlog.BoundLogger)
    supervisor = Supervisor(home.root, settings, log, quiet=True, children=[Child("courier", None)])

    def tended() -> bool:
        supervisor.tend()
        return bool(webhook.heard)

    try:
        until(tended, "a message")
    finally:
        supervisor.close()
    assert "courier has given up" in told(webhook)


def _drop(_logger: object, _method: str, _event: Any) -> Any:
    raise structlog.DropEvent
