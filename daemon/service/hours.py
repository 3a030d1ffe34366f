"""When work may start: a window of the day, and the next time a clock on the wall shows an hour.

What people write is what the clock on the wall shows, so that is what is compared, also in the nights in which
clocks change. The future is walked minute by minute: times that a night skips or shows twice then need no case
of their own, and a whole day costs a few milliseconds.
"""

from __future__ import annotations

import itertools
import re
from dataclasses import dataclass
from datetime import UTC, datetime, time, timedelta, timezone
from typing import TYPE_CHECKING, Final

from daemon.config import CLOCK

if TYPE_CHECKING:
    from collections.abc import Iterator

_MINUTE: Final = timedelta(minutes=1)


def _parse(clock: str) -> time:
    if not re.fullmatch(CLOCK, clock):
        raise ValueError(f"not a time of the day such as 22:00: {clock!r}")
    return time.fromisoformat(clock)


def _minutes_after(now: datetime) -> Iterator[datetime]:
    """Give every full minute after a moment, in local time."""
    # The offset that `astimezone()` attaches holds for its own moment only; the system knows those to come.
    zone = None if isinstance(now.tzinfo, timezone) else now.tzinfo
    start = now.astimezone(UTC).replace(second=0, microsecond=0)
    for count in itertools.count(1):
        yield (start + count * _MINUTE).astimezone(zone)


@dataclass(frozen=True)
class Window:
    """A span of each day, over midnight where it closes no later than it opens; of equal ends, all day."""

    opens: time
    closes: time

    @classmethod
    def parse(cls, text: str) -> Window:
        """Read "22:00-06:00".

        Raises:
            ValueError: it is not that.
        """
        opens, _, closes = text.partition("-")
        return cls(_parse(opens), _parse(closes))

    def is_open(self, now: datetime) -> bool:
        """Tell whether the clock on the wall shows a time in the window.

        Args:
            now: local time; aware, as `datetime.now().astimezone()` gives it.
        """
        shown = now.time()
        if self.opens < self.closes:
            return self.opens <= shown < self.closes
        return shown >= self.opens or shown < self.closes

    def opens_at(self, now: datetime) -> datetime:
        """Say from when on the window is open: `now` if it is.

        Args:
            now: local time; see `is_open`.

        Returns:
            Local time, with the offset of that moment.
        """
        return now if self.is_open(now) else next(filter(self.is_open, _minutes_after(now)))


def next_time(clock: str, now: datetime) -> datetime:
    """Say when the clock on the wall shows a time next, or jumps over it.

    Args:
        clock: such as "05:30".
        now: local time; aware, as `datetime.now().astimezone()` gives it.

    Returns:
        A moment after `now`; local time, with the offset of that moment.

    Raises:
        ValueError: `clock` is no time of the day.
    """
    sought = _parse(clock)
    earlier = now.replace(tzinfo=None)
    for moment in _minutes_after(now):
        shown = moment.replace(tzinfo=None)
        due = datetime.combine(shown, sought)
        if shown == due or earlier < due < shown:
            return moment
        earlier = shown
    raise AssertionError  # the minutes never end


class Hours:
    """When jobs may be started: in the window, if there is one, and before a last moment, if there is one."""

    def __init__(self, window: str | None, stop_starting_at: str | None, now: datetime) -> None:
        """Read what people wrote.

        Args:
            window: "22:00-06:00", or None for always.
            stop_starting_at: "06:00": none from its next occurrence on; or None.
            now: local time; see `Window.is_open`.

        Raises:
            ValueError: it is not that.
        """
        self.window = window
        self._last = next_time(stop_starting_at, now) if stop_starting_at else None
        self._was_open = False

    @property
    def window(self) -> str | None:
        """The window as it is written in the config; it may change from one moment to the next."""
        return self._text

    @window.setter
    def window(self, text: str | None) -> None:
        self._window = Window.parse(text) if text else None
        self._text = text

    def opens_at(self, now: datetime) -> datetime | None:
        """Say when jobs may be started again; None while they may.

        Args:
            now: local time; see `Window.is_open`.
        """
        window = self._window  # which another thread may replace
        if window is None or window.is_open(now):
            self._was_open = True
            return None
        return window.opens_at(now)

    def are_over(self, now: datetime) -> bool:
        """Tell whether the night is over: its last moment has passed, or the window has closed again."""
        is_late = self._last is not None and now >= self._last
        return is_late or (self._was_open and self.opens_at(now) is not None)
