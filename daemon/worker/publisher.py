"""The end of a job beside the painting of the next one: files are encoded, shown and put on record elsewhere.

The worker hands each job over once its last step is taken. What was handed over is done in that order, one job
after the other, and never more than one waits: then the worker waits too.
"""

from __future__ import annotations

import collections
import contextvars
import threading
import time
from typing import TYPE_CHECKING, Final

from daemon.errors import NotReady
from daemon.processes import yield_to_others
from daemon.worker.outcomes import Ending

if TYPE_CHECKING:
    from collections.abc import Callable

    Task = Callable[[], Ending]

# After a stop, looked at between pieces: what is not begun by then is left to a checkpoint.
GRACE_S: Final = 20.0
_WAITING: Final = 1  # jobs, besides the one that is being finished
_TICK_S: Final = 0.2
_NICE: Final = 5  # the painting goes first, but nobody shall wait long for a result


class OutOfTime(Exception):  # noqa: N818 - an answer, not an error
    """The service stops, and what is left to do takes too long."""


class Finisher:
    """Ends each job in the thread that hands it over: for whoever works step by step."""

    @property
    def is_idle(self) -> bool:
        """Whether everything that was handed over has come to its end."""
        return True

    def take(self, task: Task) -> Ending:
        """End one job.

        Args:
            task: ends it, and says how.

        Returns:
            How it ended, or that this is another thread's concern now.

        Raises:
            NotReady: the surroundings do not allow it; the job is queued again.
        """
        return task()

    def await_idle(self) -> None:
        """Wait until everything that was handed over has come to its end, or the service stops."""

    def raise_trouble(self) -> None:
        """Hand on what the surroundings did not allow since the last call; the job is queued again.

        Raises:
            NotReady: there was something.
        """

    def breathe(self) -> None:
        """Show that a long task is alive: called by it, between its pieces.

        Raises:
            OutOfTime: it shall end here.
        """

    def run(self) -> None:
        """Work off what is handed over until closed and done."""

    def close(self) -> None:
        """Expect nothing more; returns at once."""


class BackgroundFinisher(Finisher):
    """Ends jobs in a thread of its own, that of `run`, so that the engine has its next picture at once."""

    def __init__(
        self,
        is_stopping: Callable[[], bool],
        beat: Callable[[], None],
        rest: Callable[[], None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Have nothing to do.

        Args:
            is_stopping: whether the service stops.
            beat: gives a sign of life for the calling thread.
            rest: no signs of life are to be expected of `run` now.
            clock: monotonic seconds.
        """
        self._is_stopping = is_stopping
        self._beat = beat
        self._rest = rest
        self._clock = clock
        self._changed = threading.Condition()
        self._waiting: collections.deque[Task] = collections.deque()
        self._is_working = False
        self._is_closed = False
        self._has_ended = False
        self._trouble: Exception | None = None
        self._deadline: float | None = None  # once the service stops

    @property
    def is_idle(self) -> bool:
        """Whether everything that was handed over has come to its end."""
        with self._changed:
            return not self._waiting and not self._is_working

    def take(self, task: Task) -> Ending:
        """Put a job behind those that were handed over before; waits while there are enough of them."""
        context = contextvars.copy_context()  # so that its log lines carry the job's id
        with self._changed:
            while len(self._waiting) >= _WAITING and not self._has_ended:
                self._changed.wait(_TICK_S)
                self._beat()
            if self._has_ended:
                return Ending.INTERRUPTED  # by a defect; the next start finds the job where it lies
            self._waiting.append(lambda: context.run(task))
            self._changed.notify_all()
        return Ending.PAINTED

    def await_idle(self) -> None:
        """See `Finisher.await_idle`."""
        while not (self.is_idle or self._has_ended or self._is_stopping()):
            self._beat()
            with self._changed:
                self._changed.wait(_TICK_S)

    def raise_trouble(self) -> None:
        """See `Finisher.raise_trouble`."""
        with self._changed:
            trouble, self._trouble = self._trouble, None
        if trouble is not None:
            raise NotReady(str(trouble)) from trouble

    def breathe(self) -> None:
        """See `Finisher.breathe`."""
        self._beat()
        if not self._is_stopping():
            return
        now = self._clock()
        if self._deadline is None:
            self._deadline = now + GRACE_S
        if now > self._deadline:
            raise OutOfTime

    def run(self) -> None:
        """Work off what is handed over until closed and done."""
        yield_to_others(_NICE)
        try:
            while self._end_next():
                pass
        finally:
            with self._changed:
                self._is_working, self._has_ended = False, True
                self._changed.notify_all()

    def _end_next(self) -> bool:
        """Work off one task, and let go of it: it holds a whole painting. False where none will come."""
        task = self._next()
        if task is None:
            return False
        self._beat()
        try:
            task()
        except (NotReady, OSError) as error:
            with self._changed:
                self._trouble = error
        return True

    def _next(self) -> Task | None:
        """Wait for the next task; None where none will come."""
        with self._changed:
            self._is_working = False
            self._rest()
            self._changed.notify_all()
            while not self._waiting and not self._is_closed:
                self._changed.wait()
            if not self._waiting:
                return None
            self._is_working = True
            task = self._waiting.popleft()
            self._changed.notify_all()
            return task

    def close(self) -> None:
        """Expect nothing more; returns at once."""
        with self._changed:
            self._is_closed = True
            self._changed.notify_all()
