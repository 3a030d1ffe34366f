"""When work may start: a window of the day, and the next time a clock on the wall shows an hour.

People write what a clock on the wall shows, so that is compared, also in the nights in which clocks change. The
future is searched minute by minute, a few milliseconds a day: hours that a night skips or repeats need no case
of their own.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from datetime import UTC, datetime, time, timedelta, timezone
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterator

_MINUTE: Final = timedelta(minutes=1)


def _minutes_after(now: datetime) -> Iterator[datetime]:
    """Give every full minute after a moment, in local time."""
    # The offset that `astimezone()` attaches is that of its own moment; the system knows the later ones.
    zone = None if isinstance(now.tzinfo, timezone) else now.tzinfo
    start = now.astimezone(UTC).replace(second=0, microsecond=0)
    for count in itertools.count(1):
        yield (start + count * _MINUTE).astimezone(zone)


@dataclass(frozen=True)
class Window:
    """A span of each day, over midnight where it closes before it opens; all day where both are equal."""

    opens: time
    closes: time

    @classmethod
    def parse(cls, text: str) -> Window:
        """Read "22:00-06:00"; the config has checked it."""
        opens, _, closes = text.partition("-")
        return cls(time.fromisoformat(opens), time.fromisoformat(closes))

    def is_open(self, now: datetime) -> bool:
        """Whether the clock on the wall shows a time in the window; `now` is aware local time."""
        if self.opens < self.closes:
            return self.opens <= now.time() < self.closes
        return now.time() >= self.opens or now.time() < self.closes

    def opens_at(self, now: datetime) -> datetime:
        """Give the next time at which the window is open, `now` included; aware local time, both."""
        return now if self.is_open(now) else next(filter(self.is_open, _minutes_after(now)))


def next_time(clock: str, now: datetime) -> datetime:
    """Give the next moment after `now` at which the clock on the wall shows "05:30", say, or jumps over it.

    Both moments are aware local times.
    """
    wanted = time.fromisoformat(clock)
    earlier = now.replace(tzinfo=None)
    for moment in _minutes_after(now):
        wall = moment.replace(tzinfo=None)
        due = datetime.combine(wall, wanted)
        if wall == due or earlier < due < wall:
            return moment
        earlier = wall
    raise AssertionError  # the minutes never end


class Hours:
    """When jobs may be started: in the window, if there is one, and before a last moment, if there is one."""

    def __init__(self, window: str | None, stop_starting_at: str | None, now: datetime) -> None:
        """Read a window such as "22:00-06:00" and a time such as "06:00", after which none is started."""
        self.change_window(window)
        self._last = next_time(stop_starting_at, now) if stop_starting_at else None
        self._was_open = False

    def change_window(self, text: str | None) -> None:
        """Replace the window, from any thread."""
        self._window = Window.parse(text) if text else None

    def opens_at(self, now: datetime) -> datetime | None:
        """Give the time from which jobs may be started again; None while they may."""
        window = self._window
        if window is None or window.is_open(now):
            self._was_open = True
            return None
        return window.opens_at(now)

    def are_over(self, now: datetime) -> bool:
        """Whether the night is over: its last moment has passed, or the window has closed again."""
        is_late = self._last is not None and now >= self._last
        return is_late or (self._was_open and self.opens_at(now) is not None)
