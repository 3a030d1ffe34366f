"""What the service is doing: kept by its threads, written to `status.json` and to the service manager.

The status thread also feeds the watchdog and stops cancelled attempts, so nothing in it may wait for a share.
"""

from __future__ import annotations

import json
import os
import time
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from daemon import __version__, clock, files, logs
from daemon.inbox.intake import Report
from daemon.job import State
from daemon.service.backoff import Backoff
from daemon.service.systemd import limit_s, notify
from daemon.worker.outcomes import Ending
from daemon.worker.pace import Pace

if TYPE_CHECKING:
    from collections.abc import Mapping

    from daemon.config import Config
    from daemon.job import EngineInfo
    from daemon.lifeline import Lifeline
    from daemon.spool import Spool, StoredJob
    from daemon.worker.attempt import Attempts

log = logs.get(__name__)

_LISTED: Final = 200
_QUEUE_LISTED: Final = 20


class Counts(NamedTuple):
    """What this run has done so far, in jobs."""

    accepted: int = 0
    completed: int = 0
    failed: int = 0


@dataclass
class Situation:
    """What the service is doing: its threads write it, and its reports read it."""

    config: Config  # of the moment: a reload replaces it
    drains: bool = False  # ends once all is done that is there
    state: str = "starting"
    started: float = 0.0  # monotonic
    backoff: Backoff = field(default_factory=Backoff)
    report: Report = field(default_factory=Report)
    last_scan: float | None = None  # Unix time
    is_watcher_up: bool | None = None
    info: EngineInfo | None = None
    opens_at: str | None = None  # the time from which jobs may be started; None while they may
    accepted: int = 0  # jobs, in this run

    @property
    def paused(self) -> dict[str, str]:
        """The reason of each part of the service that waits."""
        return {part: pause.reason for part, pause in dict(self.backoff.pauses).items()}


class Status:
    """Writes the service's own state for whoever asks."""

    def __init__(
        self, spool: Spool, situation: Situation, attempts: Attempts, lives: Mapping[str, Lifeline]
    ) -> None:
        self._spool = spool
        self._situation = situation
        self._attempts = attempts
        self._lives = lives  # by the thread's name
        self.limit_s = limit_s()
        self._is_stalled = False

    def turn(self) -> None:
        """Feed the watchdog, stop cancelled attempts, write the status; raises OSError of the spool."""
        self._feed_watchdog()
        self._attempts.stop_cancelled()
        self.write()

    def _feed_watchdog(self) -> None:
        """Send a heartbeat to systemd, but not while a thread has given none for too long."""
        stalled = self.stalled
        if not stalled:
            notify(WATCHDOG="1")
        elif not self._is_stalled:
            log.error("service.stalled", loops=stalled, limit_s=self.limit_s)
        self._is_stalled = bool(stalled)

    @property
    def stalled(self) -> list[str]:
        """The threads that gave no heartbeat for longer than `limit_s`."""
        return sorted(name for name, life in self._lives.items() if life.silence_s > self.limit_s)

    @property
    def counts(self) -> Counts:
        """What this run has done so far."""
        endings = self._attempts.endings
        return Counts(self._situation.accepted, endings[Ending.COMPLETED], endings[Ending.FAILED])

    def write(self) -> None:
        """Write `status.json`, and the STATUS line of a running service; raises OSError of the spool."""
        document = self._document()
        files.replace(self._spool.root / "status.json", json.dumps(document).encode(), is_durable=False)
        if document["state"] == "running":
            notify(STATUS=_line(document))

    def _document(self) -> dict[str, Any]:
        now = self._situation
        queue, paused = self._spool.entries(State.QUEUED), now.paused
        jobs = [asdict(progress) for progress in self._attempts.progress()]
        engine = asdict(now.info) if now.info else None
        waiting = list(now.report.waiting.items())
        return {
            "state": "paused" if now.state == "running" and paused else now.state,
            "paused": paused,
            "stalled": self.stalled,
            "opens_at": now.opens_at,
            "pid": os.getpid(),
            "version": __version__,
            "updated_at": clock.stamp(clock.utc()),
            "uptime_s": round(time.monotonic() - now.started, 1),
            "engine": engine,
            "engines": [engine] if engine else [],
            "job": jobs[0] if jobs else None,
            "jobs": jobs,
            "queued": len(queue),
            "queue": self._queue(queue[:_QUEUE_LISTED], jobs),
            "waiting": [{"path": path, "reason": why} for path, why in waiting[:_LISTED]],
            "waiting_count": len(waiting),
            "run": self.counts._asdict(),
        }

    def _queue(self, queue: list[StoredJob], running: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """List the next jobs with the seconds until each is painted; None where that is not known."""
        is_held_up = self._situation.opens_at or self._situation.paused
        lefts: list[Any] = [None] if is_held_up else [job["eta_s"] for job in running]
        listed = []
        for entry in queue:
            job = entry.job
            lefts.append(Pace(job, self._attempts.rates).eta_s() if job and not job.failure else 0.0)
            left_s = None if None in lefts else round(sum(lefts), 1)
            listed.append({"id": entry.id, "name": entry.label, "eta_s": left_s})
        return listed


def _line(document: dict[str, Any]) -> str:
    job = document["job"]
    if job is not None:
        return f"painting {job['name']}: {job['iteration']}/{job['iterations']}, {document['queued']} queued"
    if document["opens_at"]:
        return f"{document['queued']} queued, starting at {document['opens_at']}"
    return f"watching the inbox, {document['queued']} queued, {document['waiting_count']} waiting"
