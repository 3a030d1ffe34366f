"""What links a thread to the service: a flag that asks it to stop, and its heartbeat."""

from __future__ import annotations

import threading
import time
from typing import Final

_TICK_S: Final = 0.5  # the longest wait without a heartbeat


class Lifeline:
    """One thread's stop flag, which threads may share, and its heartbeat.

    A nested one can be stopped alone, before its thread; its heartbeats are the thread's.
    """

    def __init__(self, stop: threading.Event | None = None, parent: Lifeline | None = None) -> None:
        """Expect no heartbeat before the first one.

        `parent` is the thread's own lifeline, which takes the heartbeats and whose stop counts as well.
        """
        self._stop = stop or threading.Event()
        self._parent = parent
        self._beat_at: float | None = None
        self._stop_noticed_at: float | None = None

    def nested(self) -> Lifeline:
        """Make a lifeline for one piece of the thread's work."""
        return Lifeline(parent=self)

    def ask_stop(self) -> None:
        """Ask everything that shares this stop flag to end; returns at once."""
        self._stop.set()

    @property
    def is_stopping(self) -> bool:
        """Whether the thread should end."""
        return self._stop.is_set() or (self._parent is not None and self._parent.is_stopping)

    @property
    def silence_s(self) -> float:
        """The seconds since the last heartbeat; 0 while none is expected."""
        beat_at = self._beat_at  # another thread may write it
        return 0.0 if beat_at is None else time.monotonic() - beat_at

    @property
    def overtime_s(self) -> float:
        """The seconds since the first heartbeat after the stop; 0 before it."""
        return 0.0 if self._stop_noticed_at is None else time.monotonic() - self._stop_noticed_at

    def beat(self) -> None:
        """Show that the thread makes progress, or waits for something that does."""
        if self._parent is not None:
            self._parent.beat()
        self._beat_at = time.monotonic()
        if self._stop_noticed_at is None and self.is_stopping:
            self._stop_noticed_at = self._beat_at

    def rest(self) -> None:
        """Expect no heartbeat until the next one."""
        self._beat_at = None

    def wait(self, duration_s: float, wake: threading.Event | None = None) -> bool:
        """Wait with heartbeats for a time, for `wake` or the stop; gives whether the thread should stop."""
        end = time.monotonic() + duration_s
        self.beat()
        while not self.is_stopping and (left := end - time.monotonic()) > 0:
            if (wake or self._stop).wait(min(left, _TICK_S)):
                break
            self.beat()
        return self.is_stopping
