"""What an attempt comes to, as values, and the one place that ends a job for it: in spool, outbox and log."""

from __future__ import annotations

import contextlib
import functools
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Protocol, TypeVar

from daemon import clock, files, images, logs
from daemon.errors import Failure, JobError, NotReady, Reason
from daemon.outbox import record
from daemon.worker import result

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from daemon.errors import EngineError
    from daemon.job import EngineInfo, Painting, Picture
    from daemon.lifeline import Lifeline
    from daemon.outbox.frames import FrameWriter
    from daemon.outbox.loss_table import Row
    from daemon.outbox.publish import Outbox
    from daemon.settings import Settings
    from daemon.spool import Claim, Spool, StoredJob
    from daemon.worker.progress import Attempts

log = logs.get(__name__)

CANCELLED: Final = Failure(Reason.CANCELLED, "cancelled by an operator")


@dataclass(frozen=True)
class Painted:
    """There is a painting; nothing of it is on disk but its frames."""

    painting: Painting
    rows: tuple[Row, ...]
    settings: Settings
    info: EngineInfo
    facts: Mapping[str, Any]  # of the attempt, for `job.completed`
    frames: FrameWriter  # may still be writing


@dataclass(frozen=True)
class Stored:
    """All of the result lies in the job's `out/`; it is not published yet."""


@dataclass(frozen=True)
class Failed:
    """The job cannot be done."""

    failure: Failure
    picture: Picture | None = None  # the last good one of a job whose numbers diverged


@dataclass(frozen=True)
class Interrupted:
    """The attempt ended early, by no fault of the job: by a stop, a cancel, or the environment."""

    error: NotReady | OSError | None = None  # what the environment did not allow


@dataclass(frozen=True)
class Crashed:
    """The engine ended during the attempt, and the job is tried again."""

    error: EngineError
    max_attempts: int
    is_exhausted: bool = False  # memory ran out, and there is a way to compute it with less


Outcome = Painted | Stored | Failed | Interrupted | Crashed
_Some = TypeVar("_Some", bound=Outcome)


class Ending(StrEnum):
    """What became of a claimed job, as metrics count it."""

    COMPLETED = "completed"
    FAILED = "failed"
    INTERRUPTED = "interrupted"  # queued again; no attempt used
    CRASHED = "crashed"  # queued again


class Retry(Protocol):
    """Waits for the environment; see `service.backoff.Backoff.retry`."""

    def retry(self, part: str, action: Callable[[], object], life: Lifeline, *, gives_up: bool = False) -> bool:
        """Run an action until it succeeds; False once the thread should end."""


class Outcomes:
    """Every way out of `running/`, for all threads; each call gets the lifeline of the calling one."""

    def __init__(self, spool: Spool, outbox: Outbox, backoff: Retry, attempts: Attempts) -> None:
        self._spool = spool
        self._outbox = outbox
        self._backoff = backoff
        self._attempts = attempts

    def settle(self, claim: Claim, outcome: Outcome, life: Lifeline) -> Ending:
        """Bring a claimed job to its end, with retries while the environment does not allow it.

        Once the thread is stopping nothing is waited for: what cannot be ended at the first try is left to the
        next start.

        Raises:
            NotReady: the environment interrupted the job; it is queued again, for the service to pause.
        """
        if isinstance(outcome, Painted):
            outcome = self.unless_cancelled(claim, self._store(claim, outcome, life))
        ended = self._publish(claim, life) if isinstance(outcome, Stored) else outcome
        if isinstance(ended, Path):
            return self._complete(claim, ended, life)
        if isinstance(ended, Failed):
            return self._fail(claim.entry, ended, life)
        return self._put_back(claim, ended, life)

    # Cancels

    def end_cancelled(self, life: Lifeline) -> bool:
        """End the queued and held jobs that operators cancelled; `Attempts.stop_cancelled` is for running ones.

        Returns:
            Whether all of them have ended; if not, the worker ends the rest.

        Raises:
            OSError: the spool cannot be read.
        """
        ended = [self.fail_now(entry, CANCELLED, life) for entry in self._spool.take_cancelled()]
        return all(ended)

    def unless_cancelled(self, claim: Claim, outcome: _Some) -> _Some | Failed:
        """Give the outcome, but a failure where a cancelled job would be queued again.

        Where a cancelled job would be published, `settle` ends it.
        """
        if isinstance(outcome, Interrupted | Crashed):
            with contextlib.suppress(NotReady, OSError):  # `end_cancelled` finds it in the queue
                if self._is_cancelled(claim):
                    return Failed(CANCELLED)
        return outcome

    def _is_cancelled(self, claim: Claim) -> bool:
        """Whether an operator cancelled the job before its result was published.

        Raises:
            NotReady, OSError: the outbox cannot be read.
        """
        return claim.entry.is_cancelled and not self._outbox.is_published(claim.job)

    # A result

    def _store(self, claim: Claim, painted: Painted, life: Lifeline) -> Stored | Failed | Interrupted:
        """Write what is to be published; result.yaml comes last and says that the rest is there."""
        entry = claim.entry
        try:
            document, facts = result.write(claim, painted, life)
            self._spool.keep_facts(entry, facts)
            files.replace(entry.out / result.RECORD, document)
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
            if self._is_cancelled(claim):
                raise JobError(CANCELLED)
            paths.append(self._outbox.publish(claim.job, claim.entry.out, life))

        try:
            is_published = self._backoff.retry("outbox", publish, life, gives_up=True)
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

    def _complete(self, claim: Claim, published: Path, life: Lifeline) -> Ending:
        facts = claim.entry.facts
        if not self._backoff.retry("spool", functools.partial(self._spool.complete, claim), life):
            return Ending.INTERRUPTED  # recovery finds it published
        log.info("job.completed", **facts, path=str(published))
        return self._note(Ending.COMPLETED)

    # A failure

    def _fail(self, entry: StoredJob, failed: Failed, life: Lifeline) -> Ending:
        """Publish the failure and end the job; one that the outbox can never take is ended unpublished."""
        if failed.picture is not None:
            data = images.encode(failed.picture, "png")
            self._backoff.retry("spool", functools.partial(files.replace, entry.last_good, data), life)
        end = functools.partial(self._end_failed, entry, failed.failure, life)
        try:
            is_ended = self._backoff.retry("outbox", end, life, gives_up=True)
        except OSError as error:
            log.warning("outbox.refused", message=str(error))
            with contextlib.suppress(OSError, NotReady):
                self._outbox.clean([entry.id])
            is_ended = self._backoff.retry("spool", functools.partial(end, is_published=False), life)
        # Interrupted, recovery ends it: its failure is on record.
        return Ending.FAILED if is_ended else Ending.INTERRUPTED

    def fail_now(self, entry: StoredJob, failure: Failure, life: Lifeline) -> bool:
        """End a job that lies in `running/`, at the first try.

        Returns:
            Whether it ended; if not, it is queued, and the worker ends it when its turn comes.
        """
        try:
            self._end_failed(entry, failure, life)
        except (NotReady, OSError) as error:
            self._spool.requeue(entry, "interrupted", str(error))
            return False
        return True

    def _end_failed(
        self, entry: StoredJob, failure: Failure, life: Lifeline, *, is_published: bool = True
    ) -> None:
        job, attempt = entry.job, entry.attempts_used
        assert job is not None  # noqa: S101 - an unreadable job is never claimed
        if entry.folder.exists():  # else it was published and moved before, and only the end of that failed
            self._spool.note_failure(entry, failure)
            if is_published:
                document = record.error(job, failure, attempt, clock.stamp(clock.utc()))
                self._outbox.publish_failure(job, document, entry.inputs, entry.last_good, life)
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
        self._note(Ending.FAILED)

    # Back to the queue

    def _put_back(self, claim: Claim, outcome: Interrupted | Crashed, life: Lifeline) -> Ending:
        """Queue a job again, with retries, or nobody would work on it before the next start.

        Raises:
            NotReady: the environment interrupted it.
        """
        if isinstance(outcome, Crashed):
            message, reason = outcome.error.message, outcome.error.reason.value
            self._requeue(claim, "exhausted" if outcome.is_exhausted else "crashed", message, life)
            facts = {"attempt": claim.attempt, "max_attempts": outcome.max_attempts}
            log.warning("spool.requeued", **facts, reason=reason, message=message)
            return self._note(Ending.CRASHED)
        if outcome.error is not None:
            message = str(outcome.error)
            self._requeue(claim, "interrupted", message, life)
            log.warning("spool.requeued", attempt=claim.attempt, reason="not_ready", message=message)
            raise NotReady(message) from outcome.error
        self._requeue(claim, "interrupted", "the service was stopped", life)
        log.info("job.interrupted", attempt=claim.attempt, reason="stop")
        return self._note(Ending.INTERRUPTED)

    def _requeue(self, claim: Claim, event: str, reason: str, life: Lifeline) -> None:
        requeue = functools.partial(self._spool.requeue, claim.entry, event, reason)
        self._backoff.retry("spool", requeue, life)

    def _note(self, ending: Ending) -> Ending:
        self._attempts.note(ending)
        return ending
