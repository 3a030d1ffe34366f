"""One job after the other: takes a claim through the engine, and hands what was painted over to its ending."""

from __future__ import annotations

import contextlib
import time
from typing import TYPE_CHECKING, Final, NamedTuple

import structlog

from daemon import files
from daemon.errors import EngineError, Failure, JobError, NotReady, Reason
from daemon.job import State
from daemon.worker.attempt import Easel, request_for, room_needed
from daemon.worker.outcomes import CANCELLED, Ending, Endings, crash_failure
from daemon.worker.publisher import OutOfTime

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from daemon.config import Config
    from daemon.engine import Engine
    from daemon.job import Job, Picture
    from daemon.outbox.publish import Outbox
    from daemon.spool import Claim, Spool, StoredJob
    from daemon.worker.attempt import Needed, Progress
    from daemon.worker.publisher import Finisher, Task

_LOOK_S: Final = 1.0
_RESULT_RECORD: Final = "result.yaml"
# When the engine is told what comes next, in shares of the running job: once early, and once more for what
# came meanwhile.
_LOOKS_AHEAD: Final = (0.0, 0.75)


class _Before(NamedTuple):
    """The job before."""

    last_step: float  # monotonic seconds
    queued: frozenset[str]  # the ids that waited at that moment


class Worker:
    """Works off the queue, one job a turn."""

    def __init__(
        self,
        config: Config,
        spool: Spool,
        engine: Engine,
        outbox: Outbox,
        finisher: Finisher,
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
            finisher: who brings what was painted, and what failed, to its ending.
            is_stopping: whether the service is asked to stop.
            hold_out: see `Endings`.
            note_ending: see `Endings`.
        """
        self.config = config  # may be replaced between two jobs
        self._spool = spool
        self._engine = engine
        self._outbox = outbox
        self._finisher = finisher
        self._is_stopping = is_stopping
        self._endings = Endings(spool, outbox, hold_out, note_ending)
        self.fail_now = self._endings.fail_now
        self._looked = 0.0
        self._looks_ahead: Iterator[float] = iter(())
        self._next_look: float | None = None  # ahead, as a share of the running job
        self._announced = ""  # the job that the engine was told of
        self._before: _Before | None = None
        self._unfinished: dict[str, Needed] = {}  # what was handed over takes room yet
        self.progress: Progress | None = None

    def turn(self) -> Ending | None:
        """Take the next job to its ending, or to the finisher; None when nothing is queued.

        Raises:
            NotReady: the surroundings do not allow it, or did not allow an ending of a job before.
        """
        self._finisher.raise_trouble()
        claim = self._spool.claim(self._require_room)
        if claim is None:
            self.rest()
            return None
        with structlog.contextvars.bound_contextvars(job_id=claim.job.id, name=claim.job.label):
            try:
                return self._work(claim)
            finally:
                self.progress = None

    def rest(self) -> None:
        """Know that what comes next does not follow upon the job before."""
        self._before = None

    # Room

    def _require_room(self, entry: StoredJob) -> None:
        """See that spool and outbox have room for a job before it is started; one that only ends needs none.

        Raises:
            NotReady: they have not.
        """
        if entry.job is None or entry.failure or _is_painted(entry) or self._hopeless(entry.job):
            return
        needed = room_needed(entry.job)
        owed = list(self._unfinished.values())
        kept = max(0, needed.kept - files.size_of(entry.out) - files.size_of(entry.checkpoints))
        kept += sum(job.shown for job in owed)
        shown = needed.shown + sum(job.shown for job in owed)
        entries = needed.entries + sum(job.entries for job in owed)
        spool, outbox = self._spool.root, self._outbox.root
        files.require_room(spool, kept + (shown if files.is_same_disk(spool, outbox) else 0), entries)
        files.require_room(outbox, shown, entries)

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

    # Work

    def _work(self, claim: Claim) -> Ending:
        """Work on a claim; one that was cut off before is alone, lest others be cut off with it once more."""
        if claim.attempt <= 1:
            return self._begin(claim)
        self._finisher.await_idle()
        ending = self._begin(claim)
        self._finisher.await_idle()
        return ending

    def _begin(self, claim: Claim) -> Ending:
        entry, ends = claim.entry, self._endings
        is_painted = _is_painted(entry)  # and was kept from the outbox
        failure = entry.failure or (None if is_painted else self._given_up(claim))
        if failure is not None:
            return self._fail(claim, failure)
        if is_painted:
            return self._hand_over(claim, lambda: ends.publish(claim))
        return self._attempt(claim)

    def _attempt(self, claim: Claim) -> Ending:
        try:
            easel = self._paint(claim)
        except JobError as error:
            return self._fail(claim, error.failure, error.picture)
        except EngineError as error:
            return self._crashed(claim, error)
        except (NotReady, OSError) as error:
            return self._endings.put_off(claim, error)
        if easel is not None:
            return self._hand_over(claim, lambda: self._finish(claim, easel))
        if claim.entry.is_cancelled:
            return self._fail(claim, CANCELLED)
        return self._endings.interrupt(claim)

    def _crashed(self, claim: Claim, error: EngineError) -> Ending:
        self._announced = ""  # the engine that was told is gone
        most = self.config.engine.max_attempts
        if claim.attempt < most or claim.entry.progress > claim.progress:
            return self._endings.crash(claim, error, most)
        return self._fail(claim, crash_failure(error, claim.attempt))

    def _fail(self, claim: Claim, failure: Failure, picture: Picture | None = None) -> Ending:
        return self._finisher.take(lambda: self._endings.fail(claim.entry, failure, picture))

    def _paint(self, claim: Claim) -> Easel | None:
        """Take every step; None when it ended early because it is no longer wanted."""
        hopeless = self._hopeless(claim.job)
        if hopeless is not None:
            raise JobError(hopeless)
        before, self._before = self._before, None
        announced, self._announced = self._announced, ""
        self._looks_ahead = iter(_LOOKS_AHEAD)
        self._next_look = next(self._looks_ahead)
        easel = Easel(
            claim,
            self._outbox,
            self._show,
            lambda: self._is_unwanted(claim),
            follows=before.last_step if before and claim.entry.id in before.queued else None,
            is_prepared=announced == claim.entry.id,
            memory_limit_mb=self.config.engine.memory_limit_mb,
        )
        if not easel.paint(self._engine):
            return None
        with contextlib.suppress(OSError):  # a disk that does not say what waits
            self._before = _Before(easel.last_step, frozenset(self._spool.ids(State.QUEUED)))
        return easel

    def _hand_over(self, claim: Claim, task: Task) -> Ending:
        """Have a job brought to its end; until then its room is not given to another."""
        id_ = claim.entry.id
        self._unfinished[id_] = room_needed(claim.job)

        def end() -> Ending:
            try:
                return task()
            finally:
                self._unfinished.pop(id_, None)

        return self._finisher.take(end)

    def _finish(self, claim: Claim, easel: Easel) -> Ending:
        """Write what is to be published into the job's `out/`, and publish it."""
        entry = claim.entry
        try:
            document, facts = easel.finish(self._finisher.breathe)
            self._spool.keep_facts(entry, facts)
            files.replace(entry.out / _RESULT_RECORD, document)  # comes last and says that the rest is there
        except JobError as error:
            return self._endings.fail(entry, error.failure)
        except OutOfTime:
            return self._endings.interrupt(claim)
        except (NotReady, OSError) as error:
            return self._endings.put_off(claim, error)
        return self._endings.publish(claim)

    def _given_up(self, claim: Claim) -> Failure | None:
        """Fail what ended the service or the engine too often."""
        if claim.attempt <= self.config.engine.max_attempts:
            return None
        return Failure(
            Reason.ENGINE_CRASHED,
            f"{claim.attempt - 1} attempts ended without a result",
            hint="see the log; retry once the cause is gone",
        )

    # Meanwhile

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

    def _show(self, progress: Progress) -> None:
        self.progress = progress
        if self._next_look is not None and progress.iteration >= self._next_look * progress.iterations:
            self._next_look = next(self._looks_ahead, None)
            with contextlib.suppress(OSError):  # a disk that does not say what comes next
                self._look_ahead()

    def _look_ahead(self) -> None:
        """Tell the engine what comes next, so that it can prepare for it; a wrong guess costs nothing."""
        for entry in self._spool.entries(State.QUEUED):
            if entry.job is None or entry.failure or entry.is_cancelled or _is_painted(entry):
                continue
            if entry.id != self._announced:
                self._announced = entry.id
                self._engine.prepare(request_for(entry, entry.job))
            return


def _is_painted(entry: StoredJob) -> bool:
    return (entry.out / _RESULT_RECORD).exists()
