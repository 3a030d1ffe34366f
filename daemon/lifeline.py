"""Which loops of the service turn: it feeds the service manager's watchdog, which hears of none that hangs."""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable

DEFAULT_LIMIT_S: Final = 150.0


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
