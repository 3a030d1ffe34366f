"""The one place that ends a claimed job as its outcome says: in spool, outbox and log."""

from __future__ import annotations

import contextlib
import functools
from pathlib import Path
from typing import TYPE_CHECKING

from daemon import clock, files, logs
from daemon.errors import Failure, JobError, NotReady, Reason
from daemon.outbox import error_page, record
from daemon.pictures import encoding
from daemon.worker import result
from daemon.worker.outcomes import CANCELLED, Crashed, Ending, Failed, Interrupted, Painted, Stored

if TYPE_CHECKING:
    from collections.abc import Callable

    from daemon.job import Job
    from daemon.lifeline import Lifeline
    from daemon.outbox.publish import Outbox
    from daemon.spool import Claim, Spool, StoredJob
    from daemon.worker.attempt import Attempts
    from daemon.worker.outcomes import Outcome

log = logs.get(__name__)


class Settler:
    """Every way out of `running/`, for all threads; each call gets the lifeline of the calling one."""

    def __init__(self, spool: Spool, outbox: Outbox, retry: Callable[..., bool], attempts: Attempts) -> None:
        """Wait for the environment by `retry`, which is that of `service.backoff.Backoff`."""
        self._spool = spool
        self._outbox = outbox
        self._retry = retry
        self._attempts = attempts

    def settle(self, claim: Claim, outcome: Outcome, life: Lifeline) -> Ending:
        """Bring a claimed job to its end, with retries while the environment does not allow it.

        Once the thread is stopping nothing is waited for: what cannot be ended at the first try is left to the
        next start.

        Raises:
            NotReady: the environment interrupted the job; it is queued again, for the service to pause.
        """
        if isinstance(outcome, Painted):
            outcome = self._store(claim, outcome, life)
        ended = self._publish(claim, life) if isinstance(outcome, Stored) else outcome
        if isinstance(ended, Path):
            return self._complete(claim.entry, ended, life)
        if isinstance(ended, Failed):
            return self._fail(claim.entry, ended, life)
        return self._put_back(claim, ended, life)

    def end_cancelled(self, life: Lifeline) -> bool:
        """End the queued and held jobs that operators cancelled; `Attempts.stop_cancelled` is for running ones.

        Tells whether all of them have ended; if not, the worker ends the rest.
        """
        ended = [self.fail_now(entry, CANCELLED, life) for entry in self._spool.take_cancelled()]
        return all(ended)

    # A result

    def _store(self, claim: Claim, painted: Painted, life: Lifeline) -> Stored | Failed | Interrupted:
        """Write what is to be published; result.yaml comes last and says that the rest is there."""
        entry = claim.entry
        try:
            document, facts = result.write(claim, painted, life)
            self._spool.keep_facts(entry, facts)
            files.replace(entry.record, document)
        except JobError as error:
            return Failed(error.failure)
        except result.OutOfTime:
            return Interrupted()
        except (NotReady, OSError) as error:
            return Interrupted(error)
        return Stored()

    def _publish(self, claim: Claim, life: Lifeline) -> Path | Failed | Interrupted:
        paths: list[Path] = []

        def publish() -> None:
            if claim.entry.is_cancelled:
                raise JobError(CANCELLED)
            paths.append(self._outbox.publish(claim.job, claim.entry.out, life))

        try:
            is_published = self._retry("outbox", publish, life, gives_up=True)
        except JobError as error:
            return Failed(error.failure)
        except OSError as error:
            message = f"the outbox does not take the result: {error.strerror}"
            hint = "another file system or share for folders.outbox may; then retry"
            return Failed(Failure(Reason.OUTBOX_REFUSED, message, hint=hint))
        if not is_published:
            return Interrupted()
        log.info("outbox.published", path=str(paths[-1]))
        return paths[-1]

    def _complete(self, entry: StoredJob, published: Path, life: Lifeline) -> Ending:
        facts = {"job_id": entry.id, "name": entry.label, **entry.facts}
        if not self._retry("spool", functools.partial(self._spool.complete, entry), life):
            return Ending.INTERRUPTED  # recovery finds it published
        log.info("job.completed", **facts, path=str(published))
        return self._note(Ending.COMPLETED)

    # A failure

    def _fail(self, entry: StoredJob, failed: Failed, life: Lifeline) -> Ending:
        """Publish the failure and end the job; one that the outbox can never take is ended unpublished."""
        if failed.picture is not None:
            data = encoding.encode(failed.picture)
            self._retry("spool", functools.partial(files.replace, entry.last_good, data), life)
        endings: list[Ending] = []

        def end(*, is_shown: bool = True) -> None:
            endings.append(self._end_failed(entry, failed.failure, life, is_shown=is_shown))

        try:
            self._retry("outbox", end, life, gives_up=True)
        except OSError as error:
            log.warning("outbox.refused", message=str(error))
            with contextlib.suppress(OSError, NotReady):
                self._outbox.clean([entry.id])
            self._retry("spool", functools.partial(end, is_shown=False), life)
        # Interrupted, recovery ends it: its failure is on record.
        return endings[0] if endings else Ending.INTERRUPTED

    def fail_now(self, entry: StoredJob, failure: Failure, life: Lifeline) -> bool:
        """End a job that lies in `running/`, if the first try succeeds.

        Otherwise it is queued, and the worker ends it when its turn comes.
        """
        try:
            self._end_failed(entry, failure, life)
        except (NotReady, OSError) as error:
            self._spool.requeue(entry, "interrupted", str(error))
            return False
        return True

    def _end_failed(
        self, entry: StoredJob, failure: Failure, life: Lifeline, *, is_shown: bool = True
    ) -> Ending:
        """End a job as failed; one whose result is in the outbox all the same is completed."""
        job, attempt = entry.job, entry.attempts_used
        assert job is not None  # noqa: S101 - an unreadable job is never claimed
        if entry.folder.exists():  # else it was published and moved before, and only the end of that failed
            self._spool.note_failure(entry, failure)
            if is_shown and self._outbox.is_published(job):
                return self._complete(entry, self._outbox.publish(job, entry.out, life), life)
            if is_shown:
                document = record.error(job, failure, attempt, clock.stamp(clock.utc()))
                page = _error_page(entry, job, failure)
                self._outbox.publish_failure(job, document, entry.inputs, entry.last_good, life, page=page)
        self._spool.fail(entry, failure)
        log.error(
            "job.failed",
            job_id=entry.id,
            name=entry.label,
            reason=failure.reason.value,
            message=failure.message,
            hint=failure.hint,
            attempt=attempt,
        )
        return self._note(Ending.FAILED)

    def _put_back(self, claim: Claim, outcome: Interrupted | Crashed, life: Lifeline) -> Ending:
        """Queue a job again, with retries, or nobody would work on it before the next start."""
        error, event = outcome.error, "interrupted"
        if isinstance(outcome, Crashed):
            event = "exhausted" if outcome.is_exhausted else "crashed"
        message = "the service was stopped" if error is None else str(error)
        self._retry("spool", functools.partial(self._spool.requeue, claim.entry, event, message), life)
        if isinstance(outcome, Crashed):
            facts = {"max_attempts": outcome.max_attempts, "reason": outcome.error.reason.value}
            log.warning("spool.requeued", attempt=claim.attempt, **facts, message=message)
            return self._note(Ending.CRASHED)
        if error is not None:
            log.warning("spool.requeued", attempt=claim.attempt, reason="not_ready", message=message)
            raise NotReady(message) from error
        log.info("job.interrupted", attempt=claim.attempt, reason="stop")
        return self._note(Ending.INTERRUPTED)

    def _note(self, ending: Ending) -> Ending:
        self._attempts.note(ending)
        return ending


def _error_page(entry: StoredJob, job: Job, failure: Failure) -> bytes:
    """Make error.html; an error in making it costs the page, never the entry."""
    try:
        return error_page.make(job, failure, entry.inputs, has_last_good=entry.last_good.exists())
    except Exception as error:  # noqa: BLE001 - of Jinja2, the disk, memory
        log.warning("outbox.report_failed", error=f"{type(error).__name__}: {error}")
        return b""
