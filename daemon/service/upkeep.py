"""The timers beside the work: watchdog, cancels of running jobs, status, metrics, morning report, retention."""

from __future__ import annotations

import contextlib
import time
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Final

from daemon import __version__, clock, files, logs
from daemon.errors import NotReady
from daemon.job import State
from daemon.service import metrics
from daemon.service.report import Report
from daemon.service.systemd import notify

if TYPE_CHECKING:
    from collections.abc import Iterator

    from daemon.outbox.publish import Outbox
    from daemon.service.status import Situation, Status
    from daemon.spool import Spool
    from daemon.worker.progress import Attempts

log = logs.get(__name__)

_METRICS_S: Final = 5.0
_SUMMARY_S: Final = 10.0
_RETENTION_S: Final = 3600.0
_SETTLED_S: Final = 300.0  # after a start, when the machine's clock has been set


class Upkeep:
    """Everything that the status thread does, once a second."""

    def __init__(
        self, spool: Spool, outbox: Outbox, situation: Situation, attempts: Attempts, status: Status
    ) -> None:
        self._spool = spool
        self._outbox = outbox
        self._attempts = attempts
        self.situation = situation
        self.status = status
        self._is_stalled = False
        self._dues: dict[str, float] = {"retention": situation.started + _SETTLED_S}
        self._errors: dict[str, str] = {}
        self.report = Report(spool, outbox)

    def turn(self, now: float) -> None:
        """Do what is due at a moment (monotonic seconds).

        Raises:
            OSError: the spool does not take status.json, or cannot be read.
        """
        self._feed_watchdog()
        self._attempts.stop_cancelled()  # here, where no slow share delays it
        if self._is_due("metrics", _METRICS_S, now):
            self._write_metrics()
        if self.report.is_due and self._is_due("summary", _SUMMARY_S, now):
            self._report(is_final=False)
        if self._is_due("retention", _RETENTION_S, now):
            self._expire()
        self.status.write()

    def hasten(self) -> None:
        """Make everything due: the config changed."""
        self._dues.clear()

    def end_night(self) -> None:
        """Close the report of a night and begin the next one."""
        self._report(is_final=True)
        self.report.begin()

    def end(self) -> None:
        """Leave a last status, last metrics and the report of the whole run."""
        with self._best_effort("status"):
            self.status.write()
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

    def _feed_watchdog(self) -> None:
        """Send a heartbeat to systemd, but not while a thread has given none for too long."""
        stalled = self.status.stalled
        if not stalled:
            notify(WATCHDOG="1")
        elif not self._is_stalled:
            log.error("service.stalled", loops=stalled, limit_s=self.status.limit_s)
        self._is_stalled = bool(stalled)

    def _write_metrics(self) -> None:
        path = self.situation.config.metrics.textfile
        with self._best_effort("metrics"):
            if path is not None:
                metrics.write(path, self._facts())

    def _facts(self) -> metrics.Facts:
        now, progress = self.situation, next(iter(self._attempts.progress()), None)
        rooms = {}
        for name, folder in (("spool", self._spool.root), ("outbox", self._outbox.root)):
            with contextlib.suppress(OSError):  # a share that is away has no figure
                rooms[name] = files.room(folder)
        oldest = self._spool.oldest(State.QUEUED)
        since = datetime.fromisoformat(oldest.job.accepted_at) if oldest and oldest.job else None
        return metrics.Facts(
            version=__version__,
            device=now.info.device if now.info else "",
            precision=now.info.precision if now.info else "",
            started=time.time() - (time.monotonic() - now.started),
            is_window_open=now.opens_at is None,
            jobs={state.value: self._spool.count(state) for state in State},
            oldest_queued_s=(clock.utc() - since).total_seconds() if since else None,
            last_scan=now.last_scan,
            is_watcher_up=now.is_watcher_up,
            paused={part: pause.kind for part, pause in dict(now.backoff.pauses).items()},
            attempts={ending.value: count for ending, count in dict(self._attempts.endings).items()},
            free_bytes={name: room.size for name, room in rooms.items()},
            free_inodes={name: room.entries for name, room in rooms.items() if room.entries is not None},
            iteration_s=progress.iteration_s if progress else None,
            progress=progress.iteration / progress.iterations if progress else None,
        )

    def _expire(self) -> None:
        self._report(is_final=False)  # before its records go
        days = self.situation.config.outbox.retention_days
        with self._best_effort("retention"):
            for state, kept in ((State.DONE, days.done), (State.FAILED, days.failed)):
                if gone := self._spool.expire(state, timedelta(days=kept)):
                    log.info("spool.expired", state=state.value, jobs=len(gone), retention_days=kept)
