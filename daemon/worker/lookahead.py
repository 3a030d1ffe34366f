"""The order in which one engine works: the hint at its next job, and whether that job had to wait."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, NamedTuple

from daemon.job import Request, State
from daemon.worker import result

if TYPE_CHECKING:
    from daemon.engine import Engine
    from daemon.job import Job
    from daemon.settings import Settings
    from daemon.spool import Spool, StoredJob


class Start(NamedTuple):
    """What is known of a job as its attempt begins."""

    is_prepared: bool  # the engine was told of it before
    follows: float | None  # the last step of the job before, where this one waited for it (monotonic seconds)


class _Before(NamedTuple):
    """The job before."""

    last_step: float  # monotonic seconds
    queued: frozenset[str]  # the ids that waited at that moment


class LookAhead:
    """What one worker remembers from job to job."""

    def __init__(self, spool: Spool, engine: Engine) -> None:
        """Know of no job.

        Args:
            spool: the queue.
            engine: what is told of the next job.
        """
        self._spool = spool
        self._engine = engine
        self._announced = ""  # the job that the engine was told of
        self._before: _Before | None = None

    def begin(self, id_: str) -> Start:
        """Note that a job begins."""
        before, self._before = self._before, None
        announced, self._announced = self._announced, ""
        is_next = before is not None and id_ in before.queued
        return Start(announced == id_, before.last_step if before is not None and is_next else None)

    def hint(self) -> None:
        """Tell the engine what comes next, so that it can prepare for it; a wrong guess costs nothing."""
        with contextlib.suppress(OSError):  # a disk that cannot be read
            for entry in self._spool.entries(State.QUEUED):
                if entry.job is None or entry.failure or entry.is_cancelled or result.is_stored(entry):
                    continue
                if entry.id != self._announced:
                    self._announced = entry.id
                    self._engine.prepare(request_for(entry, entry.job))
                return

    def end(self, last_step: float) -> None:
        """Note that a job was painted, and what waits now.

        Args:
            last_step: when its last step came, in monotonic seconds.
        """
        with contextlib.suppress(OSError):  # a disk that cannot be read
            self._before = _Before(last_step, frozenset(self._spool.ids(State.QUEUED)))

    def rest(self) -> None:
        """Forget the previous job: the next one does not follow directly."""
        self._before = None

    def lose_engine(self) -> None:
        """Forget the hint: the engine that had it is gone."""
        self._announced = ""


def request_for(entry: StoredJob, job: Job) -> Request:
    """Ask for a job's picture.

    Args:
        entry: where the job lies.
        job: the same, without a failure.
    """
    init = job.parts_of("init")
    return Request(
        content=entry.input(job.parts_of("content")[0]),
        styles=tuple((entry.input(part), part.weight) for part in job.parts_of("style")),
        init=entry.input(init[0]) if init else None,
        settings=settings_of(job),
        checkpoints=entry.checkpoints,
        frames=frozenset(result.frames_in(entry.out / result.FRAMES)),
        smaller=entry.times_exhausted,
    )


def settings_of(job: Job) -> Settings:
    """Give the settings of a job without a failure."""
    assert job.settings is not None  # noqa: S101 - see above
    return job.settings
