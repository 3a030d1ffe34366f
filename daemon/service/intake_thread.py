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
from daemon.worker.attempt import PolledLifeline
from daemon.worker.outcomes import CANCELLED, versions

if TYPE_CHECKING:
    from collections.abc import Callable

    from daemon.config import Config
    from daemon.errors import Failure
    from daemon.job import Drop, Job
    from daemon.sandbox.client import Decoder
    from daemon.sentinel import Sentinel
    from daemon.service.backoff import Pauses
    from daemon.service.upkeep import Situation
    from daemon.spool import Spool, StoredJob

log = logs.get(__name__)

_LEAST_S: Final = 0.1
_BEAT_S: Final = 1.0  # the longest wait without a sign of life, or a look at what operators asked


class IntakeLoop:
    """What brings jobs into the spool, from turn to turn."""

    def __init__(
        self,
        config: Callable[[], Config],
        spool: Spool,
        inspector: Decoder,
        sentinel: Sentinel,
        situation: Situation,
        *,
        pauses: Pauses,
        has_work: threading.Event,
        is_stopping: Callable[[], bool],
        fail_now: Callable[[StoredJob, Failure], bool],
        note_accepted: Callable[[], None],
    ) -> None:
        """Put the parts together.

        Args:
            config: gives the config of the moment.
            spool: where drops are committed.
            inspector: what decodes what was dropped.
            sentinel: tells whether the inbox is there.
            situation: what the service is doing.
            pauses: what is told of obstacles.
            has_work: is set when something is queued.
            is_stopping: gives this loop's sign of life, and tells whether it shall end.
            fail_now: see `Endings.fail_now`.
            note_accepted: told of every job that was not known before.
        """
        self._config = config
        self._spool = spool
        self._inspector = inspector
        self._sentinel = sentinel
        self._situation = situation
        self._pauses = pauses
        self._has_work = has_work
        self._is_stopping = is_stopping
        self._fail_now = fail_now
        self._note_accepted = note_accepted
        self.wake = threading.Event()  # look again
        self.at_rest = threading.Event()  # the inbox holds nothing that is about to become a job
        self.first_scan = threading.Event()
        self._unretired: list[Job] = []  # accepted before this start; their originals may still be there
        self._announced: set[str] = set()  # ids of accepted jobs that were counted and logged

    def remember(self, unretired: list[Job]) -> None:
        """Know, before the first turn, what was accepted before this start and may still lie in the inbox."""
        self._unretired = unretired
        self._announced.update(job.id for job in unretired)

    def run(self) -> None:
        """Turn until the service stops."""
        intake = Intake(
            self._config(),
            self.take,
            self._unretired,
            self._spool.set_retired,
            is_stopping=self._is_stopping,
            check=self._sentinel.check_in,
        )
        watcher = Watcher(self._config().folders.inbox, self.wake)
        while not self._is_stopping():
            intake.config = self._config()
            self._watch(watcher)
            wait_s = self.turn(intake)
            self._pauses.sleep(_LEAST_S)  # a copy sends thousands of events; one look for many is enough
            self._wait_for_news(wait_s)
        watcher.stop()
        self._inspector.stop()

    def _watch(self, watcher: Watcher) -> None:
        """Watch the inbox, or do not: the config may change that."""
        if self._config().inbox.observer != "off":
            watcher.ensure()
            self._situation.is_watcher_up = watcher.is_up
        else:
            watcher.stop()
            self._situation.is_watcher_up = None

    def _wait_for_news(self, longest_s: float) -> None:
        """Wait for a file event, a reload or the end of the time; answer operators meanwhile."""
        end = time.monotonic() + longest_s
        while not self._is_stopping():
            self._answer_operators()
            left = end - time.monotonic()
            if left <= 0 or self.wake.wait(min(left, _BEAT_S)):
                break
        self.wake.clear()  # before the look that answers it

    # The inbox

    def turn(self, intake: Intake) -> float:
        """Turn the intake once; returns how long to wait for the next turn at most."""
        begun = time.monotonic()
        try:
            self._sentinel.check()
            report = intake.turn(begun)
        except (NotReady, OSError) as error:
            self._pauses.begin("inbox", error)
            return backoff.PAUSE_S
        if report.obstacle is None:
            self._pauses.end("inbox")
        else:
            self._pauses.begin("inbox", report.obstacle)
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
            elapsed_s=round(time.monotonic() - begun, 4),
        )
        rescan_s = self._config().inbox.rescan_s
        return rescan_s if report.due_s is None else min(rescan_s, report.due_s + 0.01)

    def take(self, drop: Drop, *, believes_faults: bool) -> Job:
        """Commit a drop to the spool; a faulty one is ended at once, without waiting its turn.

        Raises:
            NotTaken: it stays in the inbox.
            NotReady: the spool does not take it now.
        """
        entry = self._spool.accept(
            drop,
            max_bytes=int(self._config().inbox.max_file_mb * 1e6),
            inspect=lambda path, name: self._inspector.size(path, name, PolledLifeline(self._is_stopping)),
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
        self._has_work.set()
        if job.failure is not None and entry.state is State.RUNNING:
            self._end_failed(entry, job.failure)
        return job

    def _announce(self, job: Job) -> None:
        self._announced.add(job.id)
        self._note_accepted()
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

    def _answer_operators(self) -> None:
        try:
            self.end_cancelled()
        except OSError as error:
            self._pauses.begin("operators", error)
        else:
            self._pauses.end("operators")

    def end_cancelled(self) -> None:
        """End what was cancelled.

        Raises:
            OSError: the spool does not allow it.
        """
        for entry in self._spool.take_cancelled():
            self._end_failed(entry, CANCELLED)

    def _end_failed(self, entry: StoredJob, failure: Failure) -> None:
        if not self._fail_now(entry, failure):
            self._has_work.set()
