"""The intake's thread: looks at the inbox again and again, commits what is complete, ends what is cancelled."""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING, Final

from daemon import logs
from daemon.errors import NotReady, NotTaken
from daemon.inbox.intake import Intake
from daemon.inbox.watcher import Watcher
from daemon.job import State
from daemon.service import backoff
from daemon.worker.versions import versions

if TYPE_CHECKING:
    from daemon.job import Drop, Job
    from daemon.lifeline import Lifeline
    from daemon.sandbox.client import Inspector
    from daemon.sentinel import Sentinel
    from daemon.service.backoff import Backoff
    from daemon.service.upkeep import Upkeep
    from daemon.spool import Spool
    from daemon.worker.outcomes import Outcomes

log = logs.get(__name__)

_LEAST_S: Final = 0.1
_BEAT_S: Final = 1.0  # the longest wait without a heartbeat, or a look at what operators asked


class IntakeLoop:
    """What brings jobs into the spool, from turn to turn."""

    def __init__(
        self,
        spool: Spool,
        inspector: Inspector,
        sentinel: Sentinel,
        upkeep: Upkeep,
        *,
        backoff: Backoff,
        outcomes: Outcomes,
        life: Lifeline,
    ) -> None:
        """Put the parts together.

        Args:
            spool: where drops are committed.
            inspector: decodes what was dropped.
            sentinel: tells whether the inbox is there.
            upkeep: is told of every job that was not known before.
            backoff: is told of obstacles.
            outcomes: ends faulty drops, and what was cancelled.
            life: this thread's.
        """
        self._spool = spool
        self._inspector = inspector
        self._sentinel = sentinel
        self._upkeep = upkeep
        self._situation = upkeep.situation
        self._backoff = backoff
        self._outcomes = outcomes
        self._life = life
        self.wake = threading.Event()  # look again
        self.has_work = threading.Event()  # for the worker: something is queued
        self.at_rest = threading.Event()  # the inbox holds nothing that is about to become a job
        self.first_scan = threading.Event()
        self._announced: set[str] = set()  # ids of accepted jobs that were counted and logged
        self._intake = self._make_intake([])

    def _make_intake(self, unretired: list[Job]) -> Intake:
        return Intake(
            self._situation.config,
            self.take,
            unretired,
            self._spool.set_retired,
            is_stopping=self._is_stopping,
            check=self._sentinel.check_in,
        )

    def _is_stopping(self) -> bool:
        self._life.beat()
        return self._life.is_stopping

    def remember(self, unretired: list[Job]) -> None:
        """Know, before the first turn, what was accepted before this start and may still lie in the inbox."""
        self._announced.update(job.id for job in unretired)
        self._intake = self._make_intake(unretired)

    def run(self) -> None:
        """Turn until the service stops."""
        watcher = Watcher(self._situation.config.folders.inbox, self.wake)
        while not self._is_stopping():
            self._watch(watcher)
            wait_s = self.turn(time.monotonic())
            self._life.wait(_LEAST_S)  # a copy sends thousands of events; one look for many is enough
            self._wait_for_news(wait_s)
        watcher.stop()
        self._inspector.stop()

    def _watch(self, watcher: Watcher) -> None:
        """Watch the inbox, or do not: the config may change that."""
        if self._situation.config.inbox.observer != "off":
            watcher.ensure()
            self._situation.is_watcher_up = watcher.is_up
        else:
            watcher.stop()
            self._situation.is_watcher_up = None

    def _wait_for_news(self, longest_s: float) -> None:
        """Wait for a file event, a reload or the end of the time; answer operators meanwhile."""
        end = time.monotonic() + longest_s
        while not self._is_stopping():
            self.answer_operators()
            left = end - time.monotonic()
            if left <= 0 or self.wake.wait(min(left, _BEAT_S)):
                break
        self.wake.clear()  # before the look that answers it

    # The inbox

    def turn(self, now: float) -> float:
        """Turn the intake once; returns how long to wait for the next turn at most.

        Args:
            now: monotonic seconds.
        """
        self._intake.config = self._situation.config
        try:
            self._sentinel.check()
            report = self._intake.turn(now)
        except (NotReady, OSError) as error:
            self._backoff.begin("inbox", error)
            return backoff.PAUSE_S
        if report.obstacle is None:
            self._backoff.end("inbox")
        else:
            self._backoff.begin("inbox", report.obstacle)
        self._situation.report, self._situation.last_scan = report, time.time()
        if report.is_at_rest and not report.accepted:
            self.at_rest.set()
        else:
            self.at_rest.clear()
        self.first_scan.set()
        log.debug(
            "inbox.rescanned",
            files=report.files,
            accepted=len(report.accepted),
            waiting=len(report.waiting),
            elapsed_s=round(time.monotonic() - now, 4),
        )
        rescan_s = self._situation.config.inbox.rescan_s
        return rescan_s if report.due_s is None else min(rescan_s, report.due_s + 0.01)

    def take(self, drop: Drop, *, believes_faults: bool) -> Job:
        """Commit a drop to the spool; a faulty one is ended at once, without waiting its turn.

        Raises:
            NotTaken: it stays in the inbox.
            NotReady: the spool does not take it now.
        """
        entry = self._spool.accept(
            drop,
            max_bytes=int(self._situation.config.inbox.max_file_mb * 1e6),
            inspect=self._inspector.inspect,
            believes_faults=believes_faults,
            versions=versions(),
            beat=self._beat_or_end,
        )
        job = entry.job
        if job is None:
            raise NotReady(f"spool: {entry.folder} cannot be read back")
        self.at_rest.clear()
        # Else it is the very drop again: after an error at the end of its acceptance, or moved by somebody.
        if job.id not in self._announced and not entry.was_moved:
            self._announce(job)
        if job.failure is not None and entry.state is State.RUNNING:
            self._outcomes.fail_now(entry, job.failure, self._life)
        self.has_work.set()
        return job

    def _announce(self, job: Job) -> None:
        self._announced.add(job.id)
        self._upkeep.note_accepted()
        if job.failure is None:
            log.info(
                "inbox.accepted", job_id=job.id, name=job.label, files=len(job.parts), sequence=job.sequence
            )
        else:
            log.warning("inbox.rejected", job_id=job.id, name=job.label, reason=job.failure.reason.value)

    def _beat_or_end(self) -> None:
        """Show that a long copy is alive, and end it once the service stops.

        Raises:
            NotTaken: it stops; the drop stays where it is.
        """
        if self._is_stopping():
            raise NotTaken("the service was stopped")

    # Operators

    def answer_operators(self) -> None:
        """End what was cancelled; what the spool does not allow now is done the next time."""
        try:
            if not self._outcomes.end_cancelled(self._life):
                self.has_work.set()
        except OSError as error:
            self._backoff.begin("operators", error)
        else:
            self._backoff.end("operators")
