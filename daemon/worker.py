"""One job, one ending: takes a claim through the engine to the outbox."""

from __future__ import annotations

import contextlib
import functools
import time
from enum import StrEnum
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Final

import structlog

from daemon import clock, files, images, logs
from daemon.easel import Easel, room_needed
from daemon.errors import EngineError, Failure, JobError, NotReady, Reason
from daemon.outbox import record

if TYPE_CHECKING:
    from collections.abc import Callable

    from daemon.config import Config
    from daemon.easel import Progress
    from daemon.engine import Engine
    from daemon.job import Job
    from daemon.outbox.publish import Outbox
    from daemon.spool import Claim, Entry, Spool

log = logs.get(__name__)

_LOOK_S: Final = 1.0
_RESULT_RECORD: Final = "result.yaml"


class Ending(StrEnum):
    """How one turn of the worker can end."""

    COMPLETED = "completed"
    FAILED = "failed"
    INTERRUPTED = "interrupted"  # by a stop; no attempt used
    CRASHED = "crashed"  # the engine ended; queued again


class Worker:
    """Works off the queue, one job a turn."""

    def __init__(
        self,
        config: Config,
        spool: Spool,
        engine: Engine,
        outbox: Outbox,
        *,
        is_stopping: Callable[[], bool],
        hold_out: Callable[[str, Callable[[], object]], bool],
        note_ending: Callable[[Ending, str, float, Failure | None], None],
    ) -> None:
        """Put the parts together.

        Args:
            config: the whole config.
            spool: where jobs are claimed and ended.
            engine: what paints.
            outbox: where endings are shown.
            is_stopping: whether the service is asked to stop.
            hold_out: runs an action upon a part of the surroundings, and again while they do not allow it;
                False once told to stop. It raises the OSError of an outbox that will never take it.
            note_ending: told of every ending: which, of what, the seconds it took, and why it failed.
        """
        self.config = config  # may be replaced between two jobs
        self._spool = spool
        self._engine = engine
        self._outbox = outbox
        self._is_stopping = is_stopping
        self._hold_out = hold_out
        self._note_ending = note_ending
        self._looked = 0.0
        self.progress: Progress | None = None

    def turn(self) -> Ending | None:
        """Take the next job to its ending; None when nothing is queued."""
        claim = self._spool.claim(self._require_room)
        if claim is None:
            return None
        with structlog.contextvars.bound_contextvars(job_id=claim.job.id, name=claim.job.label):
            try:
                return self._work(claim)
            finally:
                self.progress = None

    def _require_room(self, entry: Entry) -> None:
        """See that spool and outbox have room for a job before it is started; one that only ends needs none.

        Raises:
            NotReady: they have not.
        """
        if entry.job is None or entry.failure or _is_painted(entry) or self._hopeless(entry.job):
            return
        needed = room_needed(entry.job)
        kept = max(0, needed.kept - files.size_of(entry.out) - files.size_of(entry.checkpoints))
        spool, outbox = self._spool.root, self._outbox.root
        shared = needed.shown if files.is_same_disk(spool, outbox) else 0
        files.require_room(spool, kept + shared, needed.entries)
        files.require_room(outbox, needed.shown, needed.entries)

    def _hopeless(self, job: Job) -> Failure | None:
        """Refuse a job whose result no emptying would make room for."""
        needed = room_needed(job)
        capacity = min(files.capacity(self._spool.root), files.capacity(self._outbox.root))
        if max(needed.kept, needed.shown) <= capacity:
            return None
        return Failure(
            Reason.PICTURE_TOO_LARGE,
            f"it needs {needed.kept / 1e9:.1f} GB of a disk that has {capacity / 1e9:.1f} GB in all",
            hint="use a smaller size, or keep fewer frames",
            key="size",
        )

    def _work(self, claim: Claim) -> Ending:
        is_painted = _is_painted(claim.entry)  # and was kept from the outbox
        failure = claim.entry.failure or (None if is_painted else self._given_up(claim))
        if failure is None and not is_painted:
            try:
                is_painted = self._paint(claim)
            except JobError as error:
                failure = error.failure
                self._keep_last_good(claim, error)
            except EngineError as error:
                if claim.attempt < self.config.engine.max_attempts or claim.entry.progress > claim.progress:
                    return self._crashed(claim, error)
                failure = _crash_failure(error, claim.attempt)
            except (NotReady, OSError) as error:
                return self._put_off(claim, error)
        if failure is not None:
            return self._fail(claim, failure)
        return self._publish(claim) if is_painted else self._interrupted(claim)

    def _paint(self, claim: Claim) -> bool:
        """Paint into the job's `out/`; False when it ended early because it is no longer wanted."""
        hopeless = self._hopeless(claim.job)
        if hopeless is not None:
            raise JobError(hopeless)
        easel = Easel(claim, self._outbox, self._show, lambda: self._is_unwanted(claim))
        result = easel.paint(self._engine)
        if result is None:
            return False
        record_, facts = result
        self._spool.keep_facts(claim.entry, facts)
        files.replace(claim.entry.out / _RESULT_RECORD, record_)  # comes last and says that the rest is there
        return True

    def _keep_last_good(self, claim: Claim, error: JobError) -> None:
        """Keep the picture of a job whose numbers ran away, to be shown with the failure."""
        if error.picture is not None:
            data = images.encode(error.picture, "png")
            self._hold_out("spool", lambda: files.replace(claim.entry.last_good, data))

    def _show(self, progress: Progress) -> None:
        self.progress = progress

    def _given_up(self, claim: Claim) -> Failure | None:
        """Fail what ended the service or the engine too often."""
        if claim.attempt <= self.config.engine.max_attempts:
            return None
        return Failure(
            Reason.ENGINE_CRASHED,
            f"{claim.attempt - 1} attempts ended without a result",
            hint="see the log; retry once the cause is gone",
        )

    def _is_unwanted(self, claim: Claim) -> bool:
        """Whether the running job should end: the service stops, or (looked for once a second) a cancel."""
        if self._is_stopping():
            return True
        now = time.monotonic()
        if now - self._looked < _LOOK_S:
            return False
        self._looked = now
        try:
            return claim.entry.is_cancelled
        except OSError:
            return False  # a disk that does not say is no reason to end a painting

    # Endings

    def _publish(self, claim: Claim) -> Ending:
        """Show the result and end the job, as often as it takes."""
        facts, paths = claim.entry.facts, []

        def publish() -> None:
            paths.append(str(self._outbox.publish(claim.job, claim.entry.out)))

        try:
            is_shown = self._hold_out("outbox", publish)
        except OSError as error:
            return self._fail(claim, _refusal(error))
        if not is_shown:
            return self._interrupted(claim)
        log.info("outbox.published", path=paths[-1])
        if not self._hold_out("spool", lambda: self._spool.complete(claim)):
            return Ending.INTERRUPTED  # recovery finds it published
        log.info("job.completed", **facts, path=paths[-1])
        self._note_ending(Ending.COMPLETED, claim.job.label, facts.get("elapsed_s", 0.0), None)
        return Ending.COMPLETED

    def _fail(self, claim: Claim, failure: Failure) -> Ending:
        """Show a failure and end the job, as often as it takes; what cannot be shown at all is ended unseen."""
        entry = claim.entry
        try:
            is_ended = self._hold_out("outbox", lambda: self._end_failed(entry, failure))
        except OSError as error:
            log.warning("outbox.refused", message=str(error))
            with contextlib.suppress(OSError):
                self._outbox.clean([entry.id])
            is_ended = self._hold_out("spool", lambda: self._end_failed(entry, failure, is_shown=False))
        return (
            Ending.FAILED if is_ended else Ending.INTERRUPTED
        )  # then recovery ends it: its failure is on record

    def fail_now(self, entry: Entry, failure: Failure) -> bool:
        """End a job of another thread, which lies in `running/`; where that fails, it waits in the queue.

        Returns:
            Whether it ended; if not, the worker ends it when its turn comes.
        """
        try:
            self._end_failed(entry, failure)
        except (NotReady, OSError) as error:
            self._spool.requeue(entry, "interrupted", str(error))
            return False
        return True

    def _end_failed(self, entry: Entry, failure: Failure, *, is_shown: bool = True) -> None:
        job, attempt = entry.job, entry.attempts_used
        assert job is not None  # noqa: S101 - an unreadable job is never claimed
        if entry.folder.exists():  # else it was shown and moved before, and only the end of that failed
            self._spool.note_failure(entry, failure)
            if is_shown:
                document = record.error(job, failure, attempt, clock.stamp(clock.utc()), versions())
                self._outbox.publish_failure(job, document, entry.inputs, entry.last_good)
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
        self._note_ending(Ending.FAILED, entry.label, 0.0, failure)

    def _interrupted(self, claim: Claim) -> Ending:
        if claim.entry.is_cancelled:
            return self._fail(claim, Failure(Reason.CANCELLED, "cancelled by an operator"))
        self._requeue(claim, "interrupted", "the service was stopped")
        log.info("job.interrupted", attempt=claim.attempt, reason="stop")
        self._note_ending(Ending.INTERRUPTED, claim.job.label, 0.0, None)
        return Ending.INTERRUPTED

    def _put_off(self, claim: Claim, error: Exception) -> Ending:
        """Queue a job again that the surroundings did not allow, and wait until they might."""
        self._requeue(claim, "interrupted", str(error))
        log.warning("spool.requeued", attempt=claim.attempt, reason="not_ready", message=str(error))
        raise NotReady(str(error)) from error

    def _crashed(self, claim: Claim, error: EngineError) -> Ending:
        self._requeue(claim, "crashed", error.message)
        log.warning(
            "spool.requeued",
            attempt=claim.attempt,
            max_attempts=self.config.engine.max_attempts,
            reason=error.reason.value,
            message=error.message,
        )
        self._note_ending(Ending.CRASHED, claim.job.label, 0.0, None)
        return Ending.CRASHED

    def _requeue(self, claim: Claim, event: str, reason: str) -> None:
        """Give a claim back, as often as it takes, or no one would work on it before the next start."""
        self._hold_out("spool", lambda: self._spool.requeue(claim.entry, event, reason))


def _is_painted(entry: Entry) -> bool:
    return (entry.out / _RESULT_RECORD).exists()


def _crash_failure(error: EngineError, attempt: int) -> Failure:
    hints = {
        Reason.OUT_OF_MEMORY: "use a smaller size",
        Reason.TIMED_OUT: "use fewer iterations or a smaller size, or raise engine.job_timeout_s",
    }
    hint = hints.get(error.reason, "see the log; retry once the cause is gone")
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
