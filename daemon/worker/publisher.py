"""One background thread that brings jobs to their end while the next ones are painted.

Jobs end one after the other, in the order in which they are submitted. At most one waits beside the one that is
being published, since a job that waits holds a whole painting. What goes back to the queue does so at once, or
a stop would have to wait for the publications before it.
"""

from __future__ import annotations

import contextvars
import functools
import threading
from concurrent.futures import FIRST_COMPLETED, Executor, Future, ThreadPoolExecutor, wait
from typing import TYPE_CHECKING, Final

from daemon.errors import NotReady
from daemon.processes import yield_to_others
from daemon.worker.outcomes import Crashed, Interrupted

if TYPE_CHECKING:
    from daemon.lifeline import Lifeline
    from daemon.spool import Claim
    from daemon.worker.outcomes import Ending, Outcome
    from daemon.worker.room import Room
    from daemon.worker.settler import Settler

_UNDER_WAY: Final = 2  # the one that is published, and one that waits
_TICK_S: Final = 0.2
_NICE: Final = 5  # the painting has priority, but nobody should wait long for a result


class Publisher:
    """Settles outcomes in a thread of its own; workers submit them, each from its own thread."""

    def __init__(self, settler: Settler, room: Room, life: Lifeline, executor: Executor | None = None) -> None:
        self.room = room
        self._settler = settler
        self._life = life  # of the background thread
        self._executor = executor or ThreadPoolExecutor(
            max_workers=1, thread_name_prefix="publisher", initializer=functools.partial(yield_to_others, _NICE)
        )
        self._lock = threading.Lock()
        self._futures: list[Future[Ending]] = []  # in order; the ended ones until their errors were raised

    @property
    def is_idle(self) -> bool:
        """Whether everything that was submitted has come to its end."""
        return not self._unfinished()

    def submit(self, claim: Claim, outcome: Outcome, life: Lifeline) -> None:
        """Have a claim brought to its end; waits, with heartbeats, while there are enough of them.

        Raises NotReady as `Settler.settle` does.
        """
        if isinstance(outcome, Interrupted | Crashed):
            self._settle(claim, outcome, life)
            return
        while len(unfinished := self._unfinished()) >= _UNDER_WAY:
            life.beat()
            wait(unfinished, _TICK_S, FIRST_COMPLETED)
        context = contextvars.copy_context()  # so that its log lines carry the job's id
        future = self._executor.submit(context.run, self._publish, claim, outcome)
        with self._lock:
            self._futures.append(future)

    def await_idle(self, life: Lifeline) -> None:
        """Wait, with heartbeats, until all that was submitted has ended, or the service stops."""
        while (unfinished := self._unfinished()) and not life.is_stopping:
            life.beat()
            wait(unfinished, _TICK_S)

    def raise_error(self) -> None:
        """Raise what stopped a job on its way to its end since the last call.

        Raises:
            NotReady, OSError: the environment did; that job is queued again.
            Exception: a defect.
        """
        with self._lock:
            ended = [future for future in self._futures if future.done()]
            self._futures = [future for future in self._futures if future not in ended]
        errors = [error for future in ended if (error := future.exception())]
        for error in sorted(errors, key=lambda error: isinstance(error, NotReady | OSError)):  # a defect first
            raise error

    def close(self) -> None:
        """Wait for the end of everything that was submitted, and of the thread."""
        self._executor.shutdown()

    def _unfinished(self) -> list[Future[Ending]]:
        with self._lock:
            return [future for future in self._futures if not future.done()]

    def _publish(self, claim: Claim, outcome: Outcome) -> Ending:
        self._life.beat()
        try:
            return self._settle(claim, outcome, self._life)
        except Exception as error:
            if not isinstance(error, NotReady | OSError):
                self._life.ask_stop()  # a defect ends the service, before the worker's next turn raises it
            raise
        finally:
            self._life.rest()

    def _settle(self, claim: Claim, outcome: Outcome, life: Lifeline) -> Ending:
        try:
            return self._settler.settle(claim, outcome, life)
        finally:
            self.room.release(claim.entry.id)
