"""The window and the clock on the wall, also in the nights in which clocks change."""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from daemon.service.hours import Hours, Window, next_time

if TYPE_CHECKING:
    from collections.abc import Iterator

BERLIN = ZoneInfo("Europe/Berlin")
NIGHT = "22:00-06:00"
MINUTE = timedelta(minutes=1)

# 2026: clocks jump from 02:00 to 03:00 on 29 March, and fall from 03:00 to 02:00 on 25 October.
clocks = st.times().map(lambda moment: f"{moment:%H:%M}")
moments = st.one_of(
    st.datetimes(datetime(2026, 3, 27), datetime(2026, 3, 31)),  # noqa: DTZ001 - put into a zone below
    st.datetimes(datetime(2026, 10, 23), datetime(2026, 10, 27)),  # noqa: DTZ001 - the same
).map(lambda moment: moment.replace(tzinfo=UTC).astimezone(BERLIN))


def at(text: str, fold: int = 0) -> datetime:
    """Read a wall-clock time of Berlin; `fold=1`: the second of two that look alike."""
    return datetime.fromisoformat(text).replace(tzinfo=BERLIN, fold=fold)


def shown(moment: datetime) -> str:
    """Write date, time and offset."""
    return moment.isoformat(timespec="minutes")


@pytest.fixture
def berlin_system(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Set the machine's own zone, as a system clock has it."""
    monkeypatch.setenv("TZ", "Europe/Berlin")
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()


@pytest.mark.parametrize(
    ("window", "opened", "closed"),
    [
        (NIGHT, ["22:00", "23:59", "00:00", "05:59"], ["06:00", "12:00", "21:59"]),
        ("09:00-17:30", ["09:00", "17:29"], ["08:59", "17:30", "00:00"]),
        ("00:00-06:00", ["00:00", "05:59"], ["06:00", "23:59"]),
        ("22:00-00:00", ["22:00", "23:59"], ["00:00", "21:59"]),
        ("06:00-06:00", ["05:59", "06:00", "06:01"], []),
        ("00:01-00:00", ["00:01", "23:59"], ["00:00"]),
    ],
)
def test_a_window_holds_its_opening_and_not_its_end(window: str, opened: list[str], closed: list[str]) -> None:
    """A window may go over midnight, and one of equal ends is open all day."""
    is_open = Window.parse(window).is_open
    assert [clock for clock in opened if not is_open(at(f"2026-05-03 {clock}"))] == []
    assert [clock for clock in closed if is_open(at(f"2026-05-03 {clock}"))] == []


@pytest.mark.parametrize(
    ("now", "opens"),
    [
        ("2026-05-03 21:59:59", "2026-05-03T22:00+02:00"),
        ("2026-05-03 06:00", "2026-05-03T22:00+02:00"),
        ("2026-03-28 12:00", "2026-03-28T22:00+01:00"),
        ("2026-03-29 06:00", "2026-03-29T22:00+02:00"),
    ],
)
def test_a_closed_window_says_when_it_opens(now: str, opens: str) -> None:
    """The next opening is given to the minute, with the offset of that moment."""
    assert shown(Window.parse(NIGHT).opens_at(at(now))) == opens


def test_an_open_window_opens_now() -> None:
    """While it is open there is nothing to wait for."""
    now = at("2026-05-03 23:15:42")
    assert Window.parse(NIGHT).opens_at(now) is now


def test_a_short_and_a_long_night_are_open_from_first_to_last_minute() -> None:
    """From 22:00 to 06:00 are seven hours when clocks jump, and nine when they fall."""
    window = Window.parse(NIGHT)
    for begin, hours in (("2026-03-28 22:00", 7), ("2026-10-24 22:00", 9)):
        start = at(begin).astimezone(UTC)
        minutes = [(start + n * MINUTE).astimezone(BERLIN) for n in range(-1, hours * 60 + 1)]
        assert [window.is_open(minute) for minute in minutes] == [False] + [True] * hours * 60 + [False]


@pytest.mark.parametrize(
    ("window", "now", "fold", "opens"),
    [
        ("02:30-05:00", "2026-03-29 00:00", 0, "2026-03-29T03:00+02:00"),  # 02:30 does not exist
        ("02:10-02:50", "2026-03-29 00:00", 0, "2026-03-30T02:10+02:00"),  # nothing of it exists
        ("02:30-05:00", "2026-10-25 00:00", 0, "2026-10-25T02:30+02:00"),  # the first of two
        ("02:30-05:00", "2026-10-25 02:10", 1, "2026-10-25T02:30+01:00"),  # the second
        ("01:00-02:30", "2026-10-25 02:45", 0, "2026-10-25T02:00+01:00"),  # the clock falls back into it
    ],
)
def test_times_that_a_night_skips_or_shows_twice(window: str, now: str, fold: int, opens: str) -> None:
    """The window opens at the first minute the clock on the wall shows that lies in it."""
    assert shown(Window.parse(window).opens_at(at(now, fold))) == opens


@pytest.mark.usefixtures("berlin_system")
def test_the_offset_of_the_system_clock_is_not_carried_over_a_change() -> None:
    """`astimezone()` gives a bare offset; an opening after the change is right all the same."""
    now = at("2026-03-29 00:30").astimezone()
    assert now.utcoffset() == timedelta(hours=1)
    assert shown(Window.parse("09:00-17:00").opens_at(now)) == "2026-03-29T09:00+02:00"
    assert shown(next_time("05:30", now)) == "2026-03-29T05:30+02:00"


@pytest.mark.parametrize(
    ("clock", "now", "fold", "due"),
    [
        ("05:30", "2026-05-03 05:29:59", 0, "2026-05-03T05:30+02:00"),
        ("05:30", "2026-05-03 05:30", 0, "2026-05-04T05:30+02:00"),  # strictly after
        ("05:30", "2026-05-03 05:30:30", 0, "2026-05-04T05:30+02:00"),
        ("00:00", "2026-12-31 23:59", 0, "2027-01-01T00:00+01:00"),
        ("05:30", "2026-03-28 22:00", 0, "2026-03-29T05:30+02:00"),
        ("02:30", "2026-03-28 22:00", 0, "2026-03-29T03:00+02:00"),  # jumped over
        ("02:30", "2026-10-25 00:00", 0, "2026-10-25T02:30+02:00"),
        ("02:30", "2026-10-25 02:30", 0, "2026-10-25T02:30+01:00"),  # shown twice
        ("02:00", "2026-10-25 02:30", 0, "2026-10-25T02:00+01:00"),  # where the clock falls to
        ("03:00", "2026-03-29 01:59", 0, "2026-03-29T03:00+02:00"),
    ],
)
def test_the_next_time_a_clock_shows_an_hour(clock: str, now: str, fold: int, due: str) -> None:
    """It is after now, and a time that the night skips falls due as the clock jumps over it."""
    assert shown(next_time(clock, at(now, fold))) == due


@given(opens=clocks, closes=clocks, now=moments)
@settings(max_examples=60, deadline=None)
def test_an_opening_is_open_and_nothing_before_it_is(opens: str, closes: str, now: datetime) -> None:
    """Whatever the window and the night: open at the opening, closed at every minute until then."""
    window = Window.parse(f"{opens}-{closes}")
    opening = window.opens_at(now)
    assert opening >= now
    assert window.is_open(opening)
    while now < opening:
        assert not window.is_open(now)
        now = (now.astimezone(UTC) + MINUTE).replace(second=0, microsecond=0).astimezone(BERLIN)


@given(clock=clocks, now=moments)
@settings(max_examples=60, deadline=None)
def test_the_next_time_is_within_a_day_and_an_hour(clock: str, now: datetime) -> None:
    """It is never in the past, never skips a night, and shows the clock unless that was jumped over."""
    due = next_time(clock, now)
    assert timedelta(0) < due.astimezone(UTC) - now.astimezone(UTC) <= timedelta(hours=25)
    assert f"{due:%H:%M}" == clock or (clock[:2] == "02" and shown(due) == "2026-03-29T03:00+02:00")


# When jobs may be started, and when the night is over


def test_without_a_window_it_is_always_open() -> None:
    """No window and no last moment: never closed, never over."""
    hours = Hours(None, None, at("2026-03-02 12:00"))
    for text in ("2026-03-02 12:00", "2026-03-03 06:00", "2027-01-01 00:00"):
        assert hours.opens_at(at(text)) is None
        assert not hours.are_over(at(text))


def test_a_closed_window_tells_when_it_opens() -> None:
    """At noon the answer is this evening's moment; in the window there is nothing to wait for."""
    hours = Hours(NIGHT, None, at("2026-03-02 12:00"))
    assert hours.opens_at(at("2026-03-02 12:00")) == at("2026-03-02 22:00")
    assert hours.opens_at(at("2026-03-02 22:00")) is None
    assert hours.opens_at(at("2026-03-03 05:59")) is None
    assert hours.opens_at(at("2026-03-03 06:00")) == at("2026-03-03 22:00")


def test_a_night_is_over_once_it_was_open_and_closed_again() -> None:
    """Before it has opened a night is not over, however long one waits; after its close it is."""
    hours = Hours(NIGHT, None, at("2026-03-02 12:00"))
    assert not hours.are_over(at("2026-03-02 21:59"))
    assert hours.opens_at(at("2026-03-02 22:00")) is None
    assert not hours.are_over(at("2026-03-03 05:59"))
    assert hours.are_over(at("2026-03-03 06:00"))


def test_a_last_moment_ends_the_night_with_or_without_a_window() -> None:
    """From its next occurrence on the night is over; the same time of the day before does not count."""
    for window in (None, NIGHT):
        hours = Hours(window, "05:00", at("2026-03-02 23:00"))
        assert not hours.are_over(at("2026-03-02 23:00"))
        assert not hours.are_over(at("2026-03-03 04:59"))
        assert hours.are_over(at("2026-03-03 05:00"))
        assert hours.are_over(at("2026-03-03 23:00"))


def test_a_start_at_the_very_minute_means_the_next_day() -> None:
    """`--stop-starting-at 06:00`, started at 06:00, has a day before it."""
    hours = Hours(None, "06:00", at("2026-03-02 06:00"))
    assert not hours.are_over(at("2026-03-03 05:59"))
    assert hours.are_over(at("2026-03-03 06:00"))


def test_a_last_moment_that_the_clock_jumps_over_comes_with_the_jump() -> None:
    """On the night in which 02:30 does not exist, the night is over at 03:00."""
    hours = Hours(None, "02:30", at("2026-03-28 22:00"))
    assert not hours.are_over(at("2026-03-29 01:59"))
    assert hours.are_over(at("2026-03-29 03:00"))


def test_a_window_can_change_while_it_lasts() -> None:
    """Another window applies from the next look on, none opens at once, and a close by it ends the night."""
    hours = Hours(NIGHT, None, at("2026-03-02 12:00"))
    noon = at("2026-03-02 12:00")
    hours.change_window("11:00-13:00")
    assert hours.opens_at(noon) is None
    hours.change_window(NIGHT)
    assert hours.are_over(noon)
    hours.change_window(None)
    assert hours.opens_at(noon) is None
    assert not hours.are_over(noon)
