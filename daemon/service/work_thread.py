"""The main thread's loop: loads the model, says READY, and turns the worker while jobs may be started."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Final

from daemon import clock, logs
from daemon.errors import NotReady
from daemon.service import backoff
from daemon.service.systemd import notify
from daemon.worker.attempt import PolledLifeline
from daemon.worker.outcomes import Ending

if TYPE_CHECKING:
    import threading
    from collections.abc import Callable

    from daemon.engine import Engine
    from daemon.service.backoff import Pauses
    from daemon.service.hours import Hours
    from daemon.service.upkeep import Housekeeping, Situation
    from daemon.worker.publisher import Finisher
    from daemon.worker.worker import Worker

log = logs.get(__name__)

_TICK_S: Final = 0.2
_IDLE_S: Final = 1.0


class WorkLoop:
    """What works off the spool, in the hours for it."""

    def __init__(
        self,
        worker: Worker,
        engine: Engine,
        finisher: Finisher,
        hours: Hours,
        housekeeping: Housekeeping,
        *,
        situation: Situation,
        pauses: Pauses,
        drains: bool,
        has_work: threading.Event,
        first_scan: threading.Event,
        at_rest: threading.Event,
        is_stopping: Callable[[], bool],
        check_outbox: Callable[[], None],
    ) -> None:
        """Put the parts together.

        Args:
            worker: takes one job after the other.
            engine: what the worker paints with.
            finisher: who ends what was painted.
            hours: when jobs may be started.
            housekeeping: who closes the report of a night.
            situation: what the service is doing.
            pauses: what is told of obstacles.
            drains: work off what is there, then end.
            has_work: is set when something is queued.
            first_scan: is set once the inbox was looked at.
            at_rest: set while the inbox holds nothing that is about to become a job.
            is_stopping: gives this loop's sign of life, and tells whether it shall end.
            check_outbox: raises NotReady while the outbox is away.
        """
        self._worker = worker
        self._engine = engine
        self._finisher = finisher
        self.hours = hours
        self._housekeeping = housekeeping
        self._situation = situation
        self._pauses = pauses
        self._drains = drains
        self._has_work = has_work
        self._first_scan = first_scan
        self._at_rest = at_rest
        self._is_stopping = is_stopping
        self._check_outbox = check_outbox
        self._is_open: bool | None = None  # whether jobs may be started now; not known yet

    def run(self) -> None:
        """Turn until the service stops or, when draining, until all is done.

        Raises:
            NotReady: the engine cannot be started.
        """
        if not self._get_ready():
            return
        while not self._is_stopping():
            may_start = self._may_start()
            if self._drains and self.hours.are_over(clock.local()):
                self._finisher.await_idle()
                return
            if not may_start:
                self._worker.rest()
                self._pauses.end("worker")  # what it paused for is no obstacle before the window opens
                self._pauses.sleep(_IDLE_S)
                continue
            self._has_work.clear()
            # Read before the queue, so that no late drop is missed, nor a job that comes back into it.
            is_last_look = self._finisher.is_idle and self._at_rest.is_set()
            if self.turn() is None:
                if self._drains and is_last_look:
                    return
                self._has_work.wait(_TICK_S if self._drains else _IDLE_S)

    def _get_ready(self) -> bool:
        """Load the model, await the first look at the inbox, and say READY; False once the service stops."""
        try:
            self._situation.info = self._engine.start(PolledLifeline(self._is_stopping))
        except NotReady:
            if self._is_stopping():
                return False
            raise
        while not self._first_scan.wait(_TICK_S) and not self._is_stopping():
            pass
        if self._is_stopping():
            return False
        self._situation.state = "running"
        notify(READY="1", STATUS="watching the inbox")
        log.info("service.ready", startup_s=round(time.monotonic() - self._situation.started, 3))
        return True

    def _may_start(self) -> bool:
        """Tell whether this is a time at which jobs are started, and say so when that changes."""
        now = clock.local()
        opens_at = self.hours.opens_at(now)
        text = None if opens_at is None else clock.stamp(opens_at)
        was_open, self._is_open = self._is_open, text is None
        if text is not None and was_open is not False:
            log.info("service.window_closed", queued=self._housekeeping.queued(), opens_at=text)
        if text is not None and was_open and not self._drains:  # whose end is its night's
            self._finisher.await_idle()  # what was painted at night is of its report
            self._housekeeping.end_night()
        if text is None and was_open is False:
            log.info("service.window_opened", queued=self._housekeeping.queued())
            self._housekeeping.end_night()  # and the day's: what comes belongs to the night
        self._situation.opens_at = text
        return text is None

    def turn(self) -> Ending | None:
        """Turn the worker once, or pause it; None when nothing is queued."""
        try:
            self._check_outbox()
            # Anew, where it died idle: before a job is claimed for one that cannot start.
            self._engine.start(PolledLifeline(self._is_stopping))
            ending = self._worker.turn()
        except (NotReady, OSError) as error:
            self._worker.rest()
            self._pauses.begin("worker", error)
            self._pauses.sleep(backoff.PAUSE_S)
            return Ending.INTERRUPTED
        self._pauses.end("worker")
        return ending
