"""The main thread: loads the model, says READY, and turns the worker while jobs may be started."""

from __future__ import annotations

import contextlib
import time
from typing import TYPE_CHECKING, Final

from daemon import clock, logs
from daemon.errors import NotReady
from daemon.service import backoff
from daemon.service.systemd import notify
from daemon.worker.outcomes import Interrupted

if TYPE_CHECKING:
    from daemon.lifeline import Lifeline
    from daemon.service.hours import Hours
    from daemon.service.intake_thread import IntakeThread
    from daemon.service.upkeep import Upkeep
    from daemon.worker.outcomes import Outcome
    from daemon.worker.worker import Worker

log = logs.get(__name__)

_TICK_S: Final = 0.2
_IDLE_S: Final = 1.0


class WorkLoop:
    """Works through the spool, in the hours for it."""

    def __init__(
        self, worker: Worker, intake: IntakeThread, hours: Hours, upkeep: Upkeep, life: Lifeline
    ) -> None:
        self._worker = worker
        self._publisher = worker.publisher
        self._intake = intake
        self.hours = hours
        self._upkeep = upkeep
        self._situation = upkeep.situation
        self._life = life
        self._is_open: bool | None = None  # whether jobs may be started now; not known yet

    def run(self) -> None:
        """Turn until the service stops or, when draining, until all is done; raises NotReady."""
        if not self._get_ready():
            return
        drains = self._situation.drains
        while not self._life.is_stopping:
            self._life.beat()
            is_open = self._look_at_clock()
            if drains and self.hours.are_over(clock.local()):
                self._publisher.await_idle(self._life)
                return
            if not is_open:
                self._stay_closed()
                continue
            self._intake.has_work.clear()
            # Read before the queue, so that neither a late drop nor a job that comes back is missed.
            is_last_look = self._publisher.is_idle and self._intake.is_at_rest
            if self.turn() is None:
                if drains and is_last_look:
                    return
                self._life.wait(_TICK_S if drains else _IDLE_S, self._intake.has_work)

    def turn(self) -> Outcome | None:
        """Turn the worker once, or pause it; None when nothing is queued."""
        try:
            outcome = self._worker.turn()
        except (NotReady, OSError) as error:
            self._worker.rest()
            self._situation.backoff.begin("worker", error)
            self._life.wait(backoff.PAUSE_S)
            return Interrupted()
        self._situation.backoff.end("worker")
        return outcome

    def _get_ready(self) -> bool:
        """Load the model, await the first look at the inbox, and send READY; False once the service stops."""
        try:
            self._situation.info = self._worker.start()
        except NotReady:
            if self._life.is_stopping:
                return False
            raise
        while self._situation.last_scan is None:
            if self._life.wait(_TICK_S):
                return False
        self._situation.state = "running"
        notify(READY="1", STATUS="watching the inbox")
        log.info("service.ready", startup_s=round(time.monotonic() - self._situation.started, 3))
        return True

    def _look_at_clock(self) -> bool:
        """Find out whether jobs may be started now, and log it when that changes."""
        opens_at = self.hours.opens_at(clock.local())
        text = None if opens_at is None else clock.stamp(opens_at)
        was_open, self._is_open = self._is_open, text is None
        if text is not None and was_open is not False:
            log.info("service.window_closed", queued=self._upkeep.queued(), opens_at=text)
            if was_open and not self._situation.drains:  # a drain ends with its night
                self._publisher.await_idle(self._life)  # what was painted at night belongs to its report
                self._upkeep.report.end_night()
        elif text is None and was_open is False:
            log.info("service.window_opened", queued=self._upkeep.queued())
            self._upkeep.report.end_night()  # the report of the day, too
        self._situation.opens_at = text
        return text is None

    def _stay_closed(self) -> None:
        """Wait for a moment outside of the hours, in which only a defect matters."""
        self._worker.rest()
        with contextlib.suppress(NotReady, OSError):
            self._publisher.raise_error()
        self._situation.backoff.end("worker")
        self._life.wait(_IDLE_S)
