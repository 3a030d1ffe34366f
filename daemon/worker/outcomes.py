"""How a claimed job ends: shown and done, shown and failed, or queued again."""

from __future__ import annotations

import contextlib
import functools
from enum import StrEnum
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Final

from daemon import clock, files, images, logs
from daemon.errors import SEE_LOG, EngineError, Failure, JobError, NotReady, Reason
from daemon.lifeline import Lifeline
from daemon.outbox import record

if TYPE_CHECKING:
    from collections.abc import Callable

    from daemon.job import Picture
    from daemon.outbox.publish import Outbox
    from daemon.spool import Claim, Spool, StoredJob

log = logs.get(__name__)

CANCELLED: Final = Failure(Reason.CANCELLED, "cancelled by an operator")


class Ending(StrEnum):
    """How one turn of the worker can end."""

    COMPLETED = "completed"
    FAILED = "failed"
    INTERRUPTED = "interrupted"  # by a stop; no attempt used
    CRASHED = "crashed"  # the engine ended; queued again
    PAINTED = "painted"  # or failed: another thread brings it to its end


class Endings:
    """Every way out of `running/`, for the worker, the finisher and the intake, each in a thread of its own."""

    def __init__(
        self,
        spool: Spool,
        outbox: Outbox,
        hold_out: Callable[[str, Callable[[], object]], bool],
        note: Callable[[Ending, str, float, Failure | None], None],
    ) -> None:
        """Put the parts together.

        Args:
            spool: where jobs are ended.
            outbox: where endings are shown.
            hold_out: runs an action upon a part of the surroundings, and again while they do not allow it;
                False once told to stop. It raises the OSError of an outbox that will never take it.
            note: told of every ending: which, of what, the seconds it took, and why it failed.
        """
        self._spool = spool
        self._outbox = outbox
        self._hold_out = hold_out
        self._note = note

    def publish(self, claim: Claim) -> Ending:
        """Show the result and end the job, as often as it takes.

        A cancel after the last step comes too late, unless the outbox keeps the result waiting.
        """
        facts, paths, has_waited = claim.entry.facts, [], False

        def publish() -> None:
            nonlocal has_waited
            is_late, has_waited = has_waited, True
            if is_late and claim.entry.is_cancelled and not self._outbox.is_published(claim.job):
                raise JobError(CANCELLED)
            paths.append(str(self._outbox.publish(claim.job, claim.entry.out, Lifeline())))

        try:
            is_shown = self._hold_out("outbox", publish)
        except JobError as error:
            return self.fail(claim.entry, error.failure)
        except OSError as error:
            return self.fail(claim.entry, _refusal(error))
        if not is_shown:
            return self.interrupt(claim)
        log.info("outbox.published", path=paths[-1])
        if not self._hold_out("spool", lambda: self._spool.complete(claim)):
            return Ending.INTERRUPTED  # recovery finds it published
        log.info("job.completed", **facts, path=paths[-1])
        self._note(Ending.COMPLETED, claim.job.label, facts.get("elapsed_s", 0.0), None)
        return Ending.COMPLETED

    def fail(self, entry: StoredJob, failure: Failure, picture: Picture | None = None) -> Ending:
        """Show a failure and end the job, as often as it takes; what cannot be shown at all is ended unseen.

        Args:
            entry: the job, in `running/`.
            failure: why.
            picture: the last good one of a job whose numbers ran away, to be shown with the failure.
        """
        if picture is not None:
            data = images.encode(picture, "png")
            self._hold_out("spool", lambda: files.replace(entry.last_good, data))
        try:
            is_ended = self._hold_out("outbox", lambda: self._end_failed(entry, failure))
        except OSError as error:
            log.warning("outbox.refused", message=str(error))
            with contextlib.suppress(OSError, NotReady):
                self._outbox.clean([entry.id])
            is_ended = self._hold_out("spool", lambda: self._end_failed(entry, failure, is_shown=False))
        # Interrupted, recovery ends it: its failure is on record.
        return Ending.FAILED if is_ended else Ending.INTERRUPTED

    def fail_now(self, entry: StoredJob, failure: Failure) -> bool:
        """End a job that lies in `running/`, at the first try; where that fails, it waits in the queue.

        Returns:
            Whether it ended; if not, the worker ends it when its turn comes.
        """
        try:
            self._end_failed(entry, failure)
        except (NotReady, OSError) as error:
            self._spool.requeue(entry, "interrupted", str(error))
            return False
        return True

    def _end_failed(self, entry: StoredJob, failure: Failure, *, is_shown: bool = True) -> None:
        job, attempt = entry.job, entry.attempts_used
        assert job is not None  # noqa: S101 - an unreadable job is never claimed
        if entry.folder.exists():  # else it was shown and moved before, and only the end of that failed
            self._spool.note_failure(entry, failure)
            if is_shown:
                document = record.error(job, failure, attempt, clock.stamp(clock.utc()), versions())
                self._outbox.publish_failure(job, document, entry.inputs, entry.last_good, Lifeline())
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
        self._note(Ending.FAILED, entry.label, 0.0, failure)

    def interrupt(self, claim: Claim) -> Ending:
        """Queue a job again that a stop cut short, at no cost; a cancelled one that is not shown yet fails."""
        with contextlib.suppress(OSError, NotReady):  # who cannot ask the outbox leaves it to the next attempt
            if claim.entry.is_cancelled and not self._outbox.is_published(claim.job):
                return self.fail(claim.entry, CANCELLED)
        self._requeue(claim, "interrupted", "the service was stopped")
        log.info("job.interrupted", attempt=claim.attempt, reason="stop")
        self._note(Ending.INTERRUPTED, claim.job.label, 0.0, None)
        return Ending.INTERRUPTED

    def put_off(self, claim: Claim, error: Exception) -> Ending:
        """Queue a job again that the surroundings did not allow, for the service to wait until they might."""
        self._requeue(claim, "interrupted", str(error))
        log.warning("spool.requeued", attempt=claim.attempt, reason="not_ready", message=str(error))
        raise NotReady(str(error)) from error

    def crash(self, claim: Claim, error: EngineError, max_attempts: int) -> Ending:
        """Queue a job again under which the engine ended; the attempt counts."""
        event = "exhausted" if error.reason is Reason.OUT_OF_MEMORY else "crashed"
        self._requeue(claim, event, error.message)
        log.warning(
            "spool.requeued",
            attempt=claim.attempt,
            max_attempts=max_attempts,
            reason=error.reason.value,
            message=error.message,
        )
        self._note(Ending.CRASHED, claim.job.label, 0.0, None)
        return Ending.CRASHED

    def _requeue(self, claim: Claim, event: str, reason: str) -> None:
        """Give a claim back, as often as it takes, or no one would work on it before the next start."""
        self._hold_out("spool", lambda: self._spool.requeue(claim.entry, event, reason))


def crash_failure(error: EngineError, attempt: int) -> Failure:
    """Say why a job failed under which the engine ended too often."""
    hints = {
        Reason.OUT_OF_MEMORY: "use a smaller size, or raise engine.memory_limit_mb if it is set",
        Reason.TIMED_OUT: "use fewer iterations or a smaller size, or raise engine.job_timeout_s",
    }
    hint = hints.get(error.reason, SEE_LOG)
    message = f"{error.message} (attempt {attempt})"
    return Failure(error.reason, message, hint=hint, last_lines=error.last_lines)


def _refusal(error: OSError) -> Failure:
    return Failure(
        Reason.OUTBOX_REFUSED,
        f"the outbox does not take the result: {error.strerror}",
        hint="another file system or share for folders.outbox may; then retry",
    )


@functools.cache
def versions() -> dict[str, str]:
    """Name the installed programs without importing them."""
    found = {}
    for name in ("styletransferd", "tensorflow", "keras", "numpy", "pillow"):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found
