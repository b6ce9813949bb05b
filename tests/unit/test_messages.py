"""Each thing is told once, gathered with its like, held back in quiet hours, and forgotten by no restart."""

from __future__ import annotations

import datetime as dt
from zoneinfo import ZoneInfo

import pytest

from core.messages import (
    CALM_SECONDS,
    GATHER_LONGEST_SECONDS,
    GATHER_SECONDS,
    LINES_MAX,
    WAITING_MAX,
    Memory,
    Message,
    Messages,
    Trouble,
    render,
)
from core.settings import NotifySettings

BERLIN = ZoneInfo("Europe/Berlin")
NOON = dt.datetime(2026, 11, 22, 12, 0, tzinfo=BERLIN)
LINK = Trouble("link", "The server cannot be reached", "For 5 minutes.")
DISK = Trouble("disk:mac", "The disk is full", "Make room.", urgent=True)
NIGHT = NotifySettings(quiet_from=dt.time(23), quiet_until=dt.time(7))


def seconds(number: float) -> dt.timedelta:
    return dt.timedelta(seconds=number)


def after(moment: dt.datetime, number: float) -> dt.datetime:
    """So many real seconds later; adding to a local time would skip, or repeat, the hour that a clock is moved by."""
    return (moment.astimezone(dt.UTC) + seconds(number)).astimezone(BERLIN)


class Day:
    """One listener or more, and a clock."""

    def __init__(
        self, settings: NotifySettings | None = None, moment: dt.datetime = NOON, who: tuple[str, ...] = ("a",)
    ) -> None:
        self.settings = settings or NotifySettings()
        self.moment = moment
        self.who = who
        self.messages = Messages(self.settings, who, Memory())

    def restart(self, *who: str) -> None:
        kept = self.messages.memory.model_dump_json()
        self.messages = Messages(self.settings, who or self.who, Memory.model_validate_json(kept))

    def wait(self, number: float) -> None:
        self.moment = after(self.moment, number)

    def see(self, *troubles: Trouble) -> None:
        self.messages.lasting(troubles, self.moment)

    def clip(self, name: str, key: str = "flag B") -> None:
        self.messages.happened(key, name, lambda count: f"{count} flagged", self.moment)

    def titles(self, listener: str = "a") -> list[str]:
        """What is due, without hearing it."""
        return [message.title for message in self.messages.due(listener, self.moment)]

    def hear(self, listener: str = "a") -> list[Message]:
        """What is due now is heard."""
        due = self.messages.due(listener, self.moment)
        self.messages.delivered(listener, due)
        return due

    def heard_within(self, number: float, *troubles: Trouble, step: float = 10.0) -> list[str]:
        """Titles that are heard while these troubles last for so long."""
        heard = []
        for _ in range(int(number / step)):
            self.wait(step)
            self.see(*troubles)
            heard += [message.title for message in self.hear()]
        return heard


# Troubles


def test_a_trouble_is_told_once_and_again_after_repeat_hours() -> None:
    day = Day(NotifySettings(repeat_hours=1))
    assert day.heard_within(3500, LINK) == [LINK.title]
    assert day.heard_within(3600, LINK) == [LINK.title]


def test_its_end_is_told_once() -> None:
    day = Day()
    day.heard_within(60, LINK)
    assert day.heard_within(CALM_SECONDS - 20) == []
    assert day.heard_within(3600) == [f"Over: {LINK.title}"]


def test_what_comes_and_goes_is_one_trouble() -> None:
    day = Day()
    heard = []
    for _ in range(20):
        heard += day.heard_within(60, LINK)
        heard += day.heard_within(CALM_SECONDS / 2)
    assert heard == [LINK.title]


def test_what_is_over_is_told_anew_when_it_comes_again() -> None:
    day = Day()
    day.heard_within(60, LINK)
    day.heard_within(2 * CALM_SECONDS)
    assert day.heard_within(60, LINK) == [LINK.title]


def test_what_went_before_it_was_told_is_not_told() -> None:
    day = Day()
    day.see(LINK)
    assert day.heard_within(2 * CALM_SECONDS) == []
    assert day.messages.memory == Memory()


def test_an_end_is_told_to_those_who_heard_of_it() -> None:
    day = Day(who=("a", "b"))
    day.see(LINK)
    day.wait(GATHER_SECONDS)
    day.hear("a")  # b cannot be reached
    day.see()
    day.wait(CALM_SECONDS)
    day.see()
    day.wait(GATHER_SECONDS)
    assert day.titles("a") == [f"Over: {LINK.title}"]
    assert day.titles("b") == []


def test_one_who_cannot_be_reached_keeps_nobody_else_from_hearing() -> None:
    day = Day(NotifySettings(repeat_hours=1), who=("a", "b"))
    assert day.heard_within(4 * 3600, LINK) == [LINK.title] * 4
    assert day.titles("b") == [LINK.title]


def test_looking_changes_nothing_as_long_as_nothing_changes() -> None:
    day = Day()
    assert day.messages.lasting([LINK], day.moment)
    assert not day.messages.lasting([LINK], day.moment)
    assert day.messages.lasting([], day.moment)
    assert not day.messages.lasting([], day.moment)


# Gathering


def test_what_happens_within_a_moment_is_one_message() -> None:
    day = Day()
    for number in range(7):
        day.clip(f"img_{number}")
        day.wait(GATHER_SECONDS - 1)
        assert day.titles() == []
    day.wait(1)
    (message,) = day.hear()
    assert message.title == "7 flagged"
    assert message.lines == [f"img_{number}" for number in range(7)]
    day.clip("img_8")
    day.wait(GATHER_SECONDS)
    assert day.titles() == ["1 flagged"]


def test_a_stream_that_never_ends_is_told_of_all_the_same() -> None:
    day = Day()
    begun = day.moment
    while not day.titles():
        day.clip("img")
        day.wait(1)
    assert day.moment - begun == seconds(GATHER_LONGEST_SECONDS)


def test_batches_are_told_apart() -> None:
    day = Day()
    day.clip("img_1", "flag A")
    day.clip("img_2", "flag B")
    day.wait(GATHER_SECONDS)
    assert [message.lines for message in day.hear()] == [["img_1"], ["img_2"]]


def test_a_long_list_is_cut_and_says_so() -> None:
    day = Day()
    for number in range(200):
        day.clip(f"img_{number}")
    day.wait(GATHER_SECONDS)
    title, text = render(day.hear(), BERLIN)
    assert title == "200 flagged"
    assert text.splitlines()[-1] == f"… and {200 - LINES_MAX} more"
    assert len(text.splitlines()) == LINES_MAX + 1


def test_names_of_strangers_stay_on_their_line() -> None:
    day = Day()
    day.clip("a\nBcc: everyone\r\x1b[2J")
    day.see(Trouble("link", "Two\r\nlines", ""))
    day.wait(GATHER_SECONDS)
    flagged, link = day.hear()
    assert flagged.lines == ["a Bcc: everyone  [2J"]
    assert link.title == "Two  lines"


def test_several_are_one_digest_with_their_times() -> None:
    day = Day()
    day.see(LINK)
    day.wait(60)
    day.clip("img_1")
    day.wait(GATHER_SECONDS)
    title, text = render(day.hear(), BERLIN)
    assert title == "2 messages"
    assert text == f"22 Nov 12:00  {LINK.title}\n{LINK.text}\n\n22 Nov 12:01  1 flagged\nimg_1"


# Quiet hours


@pytest.mark.parametrize(
    ("begin", "end", "quiet", "loud"),
    [
        ("23:00", "07:00", ["23:00", "23:59", "00:00", "06:59:59"], ["07:00", "12:00", "22:59:59"]),
        ("01:00", "02:00", ["01:00", "01:30"], ["00:59", "02:00", "13:30"]),
        ("09:00", "09:00", [], ["08:59", "09:00", "21:00"]),
    ],
)
def test_quiet_hours_may_go_across_midnight(begin: str, end: str, quiet: list[str], loud: list[str]) -> None:
    settings = NotifySettings(quiet_from=dt.time.fromisoformat(begin), quiet_until=dt.time.fromisoformat(end))
    messages = Messages(settings, ["a"], Memory())
    said = {time: messages.quiet(dt.datetime.combine(NOON, dt.time.fromisoformat(time), BERLIN))
            for time in quiet + loud}  # fmt: skip
    assert said == dict.fromkeys(quiet, True) | dict.fromkeys(loud, False)


def test_without_quiet_hours_there_are_none() -> None:
    messages = Messages(NotifySettings(), ["a"], Memory())
    assert not any(messages.quiet(after(NOON, 3600 * hour)) for hour in range(24))


@pytest.mark.parametrize(
    ("evening", "hours"),
    [
        ("2026-11-22T23:30", 7.5),
        ("2026-10-24T23:30", 8.5),  # clocks go back an hour that night
        ("2026-03-28T23:30", 6.5),  # and forward
    ],
)
def test_what_can_wait_comes_in_the_morning_as_one_digest(evening: str, hours: float) -> None:
    day = Day(NIGHT, dt.datetime.fromisoformat(evening).replace(tzinfo=BERLIN))
    day.see(LINK)
    day.clip("img_1")
    begun = day.moment
    while not day.titles():
        day.wait(60)
        day.see(LINK)
    assert day.titles() == [LINK.title, "1 flagged"]
    assert day.moment.astimezone(dt.UTC) - begun.astimezone(dt.UTC) == dt.timedelta(hours=hours)
    assert day.moment.time() == dt.time(7)


def test_what_is_urgent_wakes() -> None:
    day = Day(NIGHT, dt.datetime(2026, 11, 22, 23, 30, tzinfo=BERLIN))
    day.see(LINK, DISK)
    assert day.titles() == [DISK.title]


def test_a_trouble_of_the_night_that_is_over_by_morning_is_not_told() -> None:
    day = Day(NIGHT, dt.datetime(2026, 11, 22, 23, 30, tzinfo=BERLIN))
    assert day.heard_within(3600, LINK, step=60) == []
    assert day.heard_within(8 * 3600, step=60) == []


def test_time_is_measured_across_the_hour_that_comes_twice() -> None:
    day = Day(NotifySettings(repeat_hours=1), dt.datetime(2026, 10, 25, 1, 50, tzinfo=BERLIN))
    day.heard_within(60, LINK)
    day.wait(3600)  # a clock on the wall shows two minutes to three, for the first time; an hour has passed
    day.see(LINK)
    day.wait(GATHER_SECONDS)
    assert day.titles() == [LINK.title]
    twice = Day(NotifySettings(repeat_hours=1), dt.datetime(2026, 10, 25, 2, 50, tzinfo=BERLIN))
    assert twice.heard_within(3500, LINK) == [LINK.title]  # ten to three comes again meanwhile


def test_a_clock_that_is_set_back_holds_nothing_up() -> None:
    day = Day(moment=NOON.replace(year=2036))
    day.clip("img_1")
    day.see(LINK)
    day.moment = NOON
    assert day.titles() == ["1 flagged", LINK.title]


# Restarts and bounds


def test_a_restart_neither_repeats_nor_forgets() -> None:
    day = Day()
    day.heard_within(60, LINK)
    day.clip("img_1")
    day.restart()
    day.clip("img_2")
    assert day.heard_within(60, LINK) == ["2 flagged"]
    day.restart()
    day.heard_within(60)
    day.restart()
    assert day.heard_within(2 * CALM_SECONDS) == [f"Over: {LINK.title}"]


def test_who_is_no_longer_told_is_waited_for_no_longer() -> None:
    day = Day(who=("a", "b"))
    day.clip("img_1")
    day.wait(GATHER_SECONDS)
    day.hear("a")
    day.restart("a", "c")
    assert day.messages.memory.waiting == []
    day.see(LINK)
    day.wait(GATHER_SECONDS)
    assert day.titles("c") == [LINK.title]


def test_what_waits_is_bounded_and_what_is_urgent_stays() -> None:
    day = Day()
    day.see(DISK)
    for number in range(2 * WAITING_MAX):
        day.clip("img", f"flag {number}")
    waiting = day.messages.memory.waiting
    assert len(waiting) == WAITING_MAX
    assert waiting[0].key == DISK.key
    assert waiting[-1].key == f"flag {2 * WAITING_MAX - 1}"
