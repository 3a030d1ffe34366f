"""What is done beside the work, second by second: status.json, the watchdog, metrics, the report, retention."""

from __future__ import annotations

import contextlib
import json
import os
import threading
import time
from collections import Counter
from dataclasses import asdict, dataclass, field
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, Final

from daemon import __version__, clock, files, lifeline, logs
from daemon.errors import NotReady
from daemon.inbox.intake import Report
from daemon.job import State
from daemon.service import metrics
from daemon.service.report import Report as MorningReport
from daemon.service.systemd import notify
from daemon.worker.outcomes import Ending

if TYPE_CHECKING:
    from collections.abc import Callable

    from daemon.config import Config
    from daemon.errors import Failure
    from daemon.job import EngineInfo
    from daemon.lifeline import Pulse
    from daemon.outbox.publish import Outbox
    from daemon.spool import Spool
    from daemon.worker.attempt import Progress

log = logs.get(__name__)

STATUS_FILE: Final = "status.json"
_SHOWN: Final = 200
_QUEUE_SHOWN: Final = 20
_METRICS_S: Final = 5.0
_SUMMARY_S: Final = 10.0
_RETENTION_S: Final = 3600.0
_SETTLED_S: Final = 300.0  # after a start: until then a machine's clock may be set
_UNSEEN: Final = Report((), (), 0, None, is_at_rest=False)


@dataclass
class Counts:
    """What this run has done so far."""

    accepted: int = 0
    completed: int = 0
    failed: int = 0


@dataclass
class Situation:
    """What the service is doing: its threads write it, and its reports read it."""

    state: str = "starting"
    started: float = field(default_factory=time.monotonic)
    paused: dict[str, str] = field(default_factory=dict)  # part of the service -> why it waits
    report: Report = _UNSEEN
    last_scan: float | None = None  # Unix time
    is_watcher_up: bool | None = None
    info: EngineInfo | None = None
    opens_at: str | None = None  # while no job may be started: when one may
    counts: Counts = field(default_factory=Counts)
    attempts: Counter[str] = field(default_factory=Counter)  # how they ended


class Housekeeping:
    """Turned every second by a thread of its own."""

    def __init__(
        self,
        config: Callable[[], Config],
        spool: Spool,
        outbox: Outbox,
        situation: Situation,
        *,
        progress: Callable[[], Progress | None],
        heart: Pulse,
    ) -> None:
        """Put the parts together.

        Args:
            config: gives the config of the moment.
            spool: whose jobs are counted.
            outbox: where the report goes.
            situation: what the service is doing.
            progress: what the running job is doing.
            heart: whether the service's loops turn.
        """
        self._config = config
        self._spool = spool
        self._outbox = outbox
        self._situation = situation
        self._progress = progress
        self._heart = heart
        self._limit_s = lifeline.limit_s()
        self._is_stalled = False
        self._dues: dict[str, float] = {"retention": situation.started + _SETTLED_S}
        self._troubles: dict[str, str] = {}
        self._noting = threading.Lock()  # endings are noted by several threads
        self.report = MorningReport(spool, outbox)

    def turn(self, now: float) -> None:
        """Do what is due.

        Args:
            now: monotonic time in seconds.

        Raises:
            OSError: the spool does not take status.json, or cannot be read.
        """
        self._feed_watchdog()
        if self._is_due("metrics", _METRICS_S, now):
            self._best_effort("metrics", self._write_metrics)
        if self.report.is_due and self._is_due("summary", _SUMMARY_S, now):
            self._report(is_final=False)
        if self._is_due("retention", _RETENTION_S, now):
            self._best_effort("retention", self._expire)
        self.write_status()

    def hasten(self) -> None:
        """Make everything due: the config changed."""
        self._dues.clear()

    def end_night(self) -> None:
        """Close the report of a night; what comes next is another entry of it."""
        self._report(is_final=True)
        self.report.begin()

    def end(self) -> None:
        """Leave a last status, last metrics and the report of the whole run."""
        self._best_effort("status", self.write_status)
        self._best_effort("metrics", self._write_metrics)
        self._report(is_final=True)

    def _report(self, *, is_final: bool) -> None:
        waiting = [(item.path, item.reason) for item in self._situation.report.waiting]
        self._best_effort("summary", lambda: self.report.write(waiting, is_final=is_final))

    def _is_due(self, name: str, interval_s: float, now: float) -> bool:
        if now < self._dues.get(name, now):
            return False
        self._dues[name] = now + interval_s
        return True

    def _best_effort(self, what: str, action: Callable[[], None]) -> None:
        """Do what nobody's picture depends on; say once why it does not work."""
        try:
            action()
        except (NotReady, OSError) as error:
            if self._troubles.get(what) != str(error):
                self._troubles[what] = str(error)
                log.warning("service.report_failed", what=what, error=str(error))
        else:
            self._troubles.pop(what, None)

    # What is told by the loops

    def note_accepted(self) -> None:
        """Take an accepted job into the figures."""
        with self._noting:
            self._situation.counts.accepted += 1

    def note_ending(self, ending: Ending, _name: str, _elapsed_s: float, failure: Failure | None) -> None:
        """Take an ending into the figures; see `Endings`."""
        with self._noting:
            self._situation.attempts[ending.value] += 1
            if failure is not None:
                self._situation.counts.failed += 1
            elif ending is Ending.COMPLETED:
                self._situation.counts.completed += 1

    def queued(self) -> int | None:
        """Count what waits for its turn, where the disk tells."""
        try:
            return self._spool.count(State.QUEUED)
        except OSError:
            return None

    # The watchdog

    def _feed_watchdog(self) -> None:
        """Vouch for the service only while its loops turn."""
        silent = self._heart.silent(self._limit_s)
        if not silent:
            notify(WATCHDOG="1")
        elif not self._is_stalled:
            log.error("service.stalled", loops=silent, limit_s=self._limit_s)
        self._is_stalled = bool(silent)

    # status.json

    def write_status(self) -> None:
        """Write the service's own state.

        Raises:
            OSError: the spool does not take it.
        """
        document = self._document()
        path = self._spool.root / STATUS_FILE
        files.replace(path, json.dumps(document).encode(), is_durable=False)
        if document["state"] == "running":
            notify(STATUS=_status_line(document))

    def _document(self) -> dict[str, Any]:
        now, progress = self._situation, self._progress()
        queue = self._spool.entries(State.QUEUED)
        return {
            "state": "paused" if now.state == "running" and now.paused else now.state,
            "paused": dict(now.paused),
            "stalled": self._heart.silent(self._limit_s),
            "opens_at": now.opens_at,
            "pid": os.getpid(),
            "version": __version__,
            "updated_at": clock.stamp(clock.utc()),
            "uptime_s": round(time.monotonic() - now.started, 1),
            "engine": asdict(now.info) if now.info else None,
            "job": asdict(progress) if progress else None,
            "queued": len(queue),
            "queue": [{"id": entry.id, "name": entry.label} for entry in queue[:_QUEUE_SHOWN]],
            "waiting": [asdict(item) for item in now.report.waiting[:_SHOWN]],
            "waiting_count": len(now.report.waiting),
            "run": asdict(now.counts),
        }

    # Metrics

    def _write_metrics(self) -> None:
        path = self._config().metrics.textfile
        if path is not None:
            metrics.write(path, self._facts())

    def _facts(self) -> metrics.Facts:
        now, progress = self._situation, self._progress()
        rooms = self._rooms()
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
            paused=dict(now.paused),
            attempts=dict(now.attempts),
            free_bytes={name: room.size for name, room in rooms.items()},
            free_inodes={name: room.entries for name, room in rooms.items() if room.entries is not None},
            iteration_s=progress.iteration_s if progress else None,
            progress=progress.iteration / progress.iterations if progress else None,
        )

    def _rooms(self) -> dict[str, files.Room]:
        """Ask each file system what it has left; one that is away is left out."""
        rooms = {}
        for name, folder in (("spool", self._spool.root), ("outbox", self._outbox.root)):
            with contextlib.suppress(OSError):
                rooms[name] = files.room(folder)
        return rooms

    # Retention

    def _expire(self) -> None:
        self._report(is_final=False)  # before its records go
        days = self._config().outbox.retention_days
        for state, kept in ((State.DONE, days.done), (State.FAILED, days.failed)):
            gone = self._spool.expire(state, timedelta(days=kept))
            if gone:
                log.info("spool.expired", state=state.value, jobs=len(gone), retention_days=kept)


def _status_line(document: dict[str, Any]) -> str:
    job = document["job"]
    if job is not None:
        return f"painting {job['name']}: {job['iteration']}/{job['iterations']}, {document['queued']} queued"
    if document["opens_at"]:
        return f"{document['queued']} queued, starting at {document['opens_at']}"
    return f"watching the inbox, {document['queued']} queued, {document['waiting_count']} waiting"
