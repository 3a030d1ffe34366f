"""What is done at its time in a thread of its own, where a share that hangs delays it alone.

These are the metrics, the morning report and the retention.
"""

from __future__ import annotations

import contextlib
from datetime import timedelta
from typing import TYPE_CHECKING, Final

from daemon import logs
from daemon.errors import NotReady
from daemon.job import State
from daemon.service import metrics
from daemon.service.report import Report

if TYPE_CHECKING:
    from collections.abc import Iterator

    from daemon.outbox.publish import Outbox
    from daemon.service.status import Situation
    from daemon.spool import Spool
    from daemon.worker.attempt import Attempts

log = logs.get(__name__)

_METRICS_S: Final = 5.0
_SUMMARY_S: Final = 10.0
_RETENTION_S: Final = 3600.0
_SETTLED_S: Final = 300.0  # after a start, when the machine's clock has been set


class Upkeep:
    """The timers beside the work, turned once a second."""

    def __init__(self, spool: Spool, outbox: Outbox, situation: Situation, attempts: Attempts) -> None:
        self._spool = spool
        self._outbox = outbox
        self._attempts = attempts
        self.situation = situation
        self._dues: dict[str, float] = {"retention": situation.started + _SETTLED_S}
        self._errors: dict[str, str] = {}
        self.report = Report(spool, outbox)

    def turn(self, now: float) -> None:
        """Do what is due at a moment (monotonic seconds)."""
        if self._is_due("metrics", _METRICS_S, now):
            self._write_metrics()
        if self._is_due("summary", _SUMMARY_S, now):
            self._report(is_final=False)
        if self._is_due("retention", _RETENTION_S, now):
            self._expire()

    def hasten(self) -> None:
        """Make everything due: the config changed."""
        self._dues.clear()

    def end(self) -> None:
        """Leave last metrics and the report of the whole run."""
        self._write_metrics()
        self._report(is_final=True)

    def _report(self, *, is_final: bool) -> None:
        waiting = list(self.situation.report.waiting.items())
        with self._best_effort("summary"):
            self.report.write(waiting, is_final=is_final)

    def _is_due(self, name: str, interval_s: float, now: float) -> bool:
        if now < self._dues.get(name, now):
            return False
        self._dues[name] = now + interval_s
        return True

    @contextlib.contextmanager
    def _best_effort(self, what: str) -> Iterator[None]:
        """Do what no picture depends on; log once why it does not work."""
        try:
            yield
        except (NotReady, OSError) as error:
            if self._errors.get(what) != str(error):
                self._errors[what] = str(error)
                log.warning("service.report_failed", what=what, error=str(error))
        else:
            self._errors.pop(what, None)

    def queued(self) -> int | None:
        """Count the queued jobs; None where the disk cannot be read."""
        try:
            return self._spool.count(State.QUEUED)
        except OSError:
            return None

    def _write_metrics(self) -> None:
        path = self.situation.config.metrics.textfile
        with self._best_effort("metrics"):
            if path is not None:
                metrics.write(path, metrics.collect(self._spool, self._outbox, self.situation, self._attempts))

    def _expire(self) -> None:
        self._report(is_final=False)  # before its records go
        days = self.situation.config.outbox.retention_days
        with self._best_effort("retention"):
            for state, kept in ((State.DONE, days.done), (State.FAILED, days.failed)):
                if gone := self._spool.expire(state, timedelta(days=kept)):
                    log.info("spool.expired", state=state.value, jobs=len(gone), retention_days=kept)
