"""When jobs may be started, and when the night is over."""

from __future__ import annotations

from datetime import datetime
from zoneinfo import ZoneInfo

from daemon.service.hours import Hours

BERLIN = ZoneInfo("Europe/Berlin")
NIGHT = "22:00-06:00"


def at(text: str) -> datetime:
    """Read a wall-clock time of Berlin."""
    return datetime.fromisoformat(text).replace(tzinfo=BERLIN)


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
