"""Which loops of the service turn: it feeds the service manager's watchdog, which hears of none that hangs."""

from __future__ import annotations

import os
import threading
import time
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable

DEFAULT_LIMIT_S: Final = 150.0
_TICK_S: Final = 0.5  # the longest wait without a heartbeat


class Lifeline:
    """What links one thread to the service: a flag that asks it to stop, and its heartbeat."""

    def __init__(
        self, stop: threading.Event | None = None, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """Expect no heartbeat before the first one.

        Args:
            stop: set once the thread should end; default: never.
            clock: monotonic seconds.
        """
        self._stop = stop or threading.Event()
        self._clock = clock
        self._beat_at: float | None = None

    @property
    def is_stopping(self) -> bool:
        """Whether the thread should end."""
        return self._stop.is_set()

    @property
    def silence_s(self) -> float:
        """The seconds since the last heartbeat; 0 while none is expected."""
        return 0.0 if self._beat_at is None else self._clock() - self._beat_at

    def beat(self) -> None:
        """Show that the thread makes progress, or waits for something that does."""
        self._beat_at = self._clock()

    def rest(self) -> None:
        """Expect no heartbeat until the next one."""
        self._beat_at = None

    def wait(self, duration_s: float, wake: threading.Event | None = None) -> bool:
        """Wait for a time, an event or the stop, with heartbeats.

        Args:
            duration_s: the longest wait.
            wake: ends the wait when it is set; default: only the stop does.

        Returns:
            Whether the thread should end.
        """
        end = time.monotonic() + duration_s
        while not self.is_stopping and (left := end - time.monotonic()) > 0:
            self.beat()
            if (wake or self._stop).wait(min(left, _TICK_S)):
                break
        return self.is_stopping


class Pulse:
    """Remembers when each loop gave its last sign of life; loops beat from threads of their own."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        """Know no loop yet.

        Args:
            clock: monotonic seconds.
        """
        self._clock = clock
        self._beats: dict[str, float] = {}

    def beat(self, loop: str) -> None:
        """Show that a loop turns, or that what it waits for moves."""
        self._beats[loop] = self._clock()

    def end(self, loop: str) -> None:
        """Expect nothing of a loop any more."""
        self._beats.pop(loop, None)

    def silent(self, limit_s: float) -> list[str]:
        """Name the loops that gave no sign for so long."""
        now = self._clock()
        return sorted(loop for loop, at in list(self._beats.items()) if now - at > limit_s)


def limit_s() -> float:
    """Give the silence after which the service manager is told nothing more: half of its patience."""
    microseconds = os.environ.get("WATCHDOG_USEC", "")
    is_ours = os.environ.get("WATCHDOG_PID", str(os.getpid())) == str(os.getpid())
    has_patience = microseconds.isdecimal() and int(microseconds) > 0
    return int(microseconds) / 2e6 if has_patience and is_ours else DEFAULT_LIMIT_S
