"""One claim to one outcome, job after job; the publisher brings each of them to its end."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import structlog

from daemon.errors import EngineError, Failure, JobError, NotReady, Reason
from daemon.worker.attempt import Attempt
from daemon.worker.lookahead import LookAhead
from daemon.worker.outcomes import CANCELLED, Crashed, Failed, Interrupted, Stored

if TYPE_CHECKING:
    from daemon.engine import Engine
    from daemon.job import EngineInfo
    from daemon.lifeline import Lifeline
    from daemon.spool import Claim
    from daemon.worker.attempt import Attempts
    from daemon.worker.outcomes import Outcome
    from daemon.worker.publisher import Publisher

_HINT: Final = "see the log; retry once the cause is gone"
_HINTS: Final = {
    Reason.OUT_OF_MEMORY: "use a smaller size, or raise engine.memory_limit_mb if it is set",
    Reason.TIMED_OUT: "use fewer iterations or a smaller size, or raise engine.job_timeout_s",
}


class Worker:
    """Works through the queue with one engine, one job a turn."""

    def __init__(
        self, engine: Engine, publisher: Publisher, attempts: Attempts, life: Lifeline, *, max_attempts: int
    ) -> None:
        self.publisher = publisher
        self.max_attempts = max_attempts  # without progress; may be changed between two jobs
        self._engine = engine
        self._room = publisher.room
        self._outbox = publisher.room.outbox
        self._attempts = attempts
        self._life = life
        self._ahead = LookAhead(self._room.spool, engine)

    def start(self) -> EngineInfo:
        """Load the model, or say what is loaded; raises NotReady as `Engine.start` does."""
        return self._engine.start(self._life)

    def turn(self) -> Outcome | None:
        """Take the next job to its outcome; None when nothing is queued.

        Raises:
            NotReady, OSError: the environment does not allow work; a job that it interrupted is queued again.
        """
        self.publisher.raise_error()
        self._outbox.check()
        self.start()  # again, where it died idle: no job is claimed for an engine that cannot start
        claim = self._room.claim()
        if claim is None:
            self.rest()
            return None
        with structlog.contextvars.bound_contextvars(job_id=claim.job.id, name=claim.job.label):
            return self._work(claim)

    def rest(self) -> None:
        """Forget the previous job: the next one does not follow directly."""
        self._ahead.rest()

    def _work(self, claim: Claim) -> Outcome:
        """Work on a claim; a retried one runs alone, so that a crash takes no other job with it."""
        is_retried = claim.attempt > 1 or claim.entry.times_exhausted > 0
        if is_retried:
            self.publisher.await_idle(self._life)
        outcome = self._outcome(claim)
        if isinstance(outcome, Interrupted | Crashed) and claim.entry.is_cancelled:
            outcome = Failed(CANCELLED)  # not queued again
        self.publisher.submit(claim, outcome, self._life)
        if is_retried:
            self.publisher.await_idle(self._life)
        return outcome

    def _outcome(self, claim: Claim) -> Outcome:
        attempt = Attempt(claim, self._outbox, self._life.nested(), self._ahead, self._attempts.rates)
        try:
            if outcome := self._without_painting(claim):
                return outcome
            with self._attempts.running(attempt):
                return attempt.paint(self._engine)
        except JobError as error:
            return Failed(error.failure, error.picture)
        except EngineError as error:
            self._ahead.lose_engine()
            return self._crashed(attempt, error)
        except (NotReady, OSError) as error:
            return Interrupted(error)

    def _without_painting(self, claim: Claim) -> Outcome | None:
        """Give the outcome of a job that need not be painted, or not again."""
        if failure := claim.entry.failure:
            return Failed(failure)
        if claim.entry.is_stored:
            return Stored()
        if claim.attempt > self.max_attempts:  # it ended the service or the engine too often
            message = f"{claim.attempt - 1} attempts ended without a result"
            return Failed(Failure(Reason.ENGINE_CRASHED, message, hint=_HINT))
        failure = self._room.hopeless(claim.job)
        return Failed(failure) if failure else None

    def _crashed(self, attempt: Attempt, error: EngineError) -> Crashed | Failed:
        """Decide whether a job whose attempt ended the engine is tried again."""
        claim = attempt.claim
        has_smaller = attempt.plan is not None and not attempt.plan.is_smallest
        is_exhausted = error.reason is Reason.OUT_OF_MEMORY and has_smaller
        has_advanced = claim.entry.progress > claim.progress
        if is_exhausted or has_advanced or claim.attempt < self.max_attempts:
            return Crashed(error, self.max_attempts, is_exhausted)
        hint = _HINTS.get(error.reason, _HINT)
        message = f"{error.message} (attempt {claim.attempt})"
        return Failed(Failure(error.reason, message, hint=hint, last_lines=error.last_lines))
