"""Bringing the jobs of a spool to rest at a start, after any end of the last run."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from daemon.errors import Failure, Reason
from daemon.job import State
from daemon.spool.stored_job import Claim

if TYPE_CHECKING:
    from collections.abc import Callable

    from daemon.job import Job
    from daemon.spool.spool import Spool
    from daemon.spool.stored_job import StoredJob

_CORRUPT: Final = Failure(Reason.CORRUPT, "the spool's record of this job cannot be read")


@dataclass(frozen=True)
class Recovery:
    """The jobs that recovery moved: published but not ended, cut off and queued again, unreadable."""

    completed: list[StoredJob] = field(default_factory=list)
    requeued: list[StoredJob] = field(default_factory=list)
    corrupt: list[StoredJob] = field(default_factory=list)


def recover(spool: Spool, is_published: Callable[[Job], bool]) -> Recovery:
    """End what was published, queue again what was cut off, set aside what cannot be read."""
    done = Recovery()
    for entry in spool.entries(State.RUNNING):
        if entry.job is None:
            done.corrupt.append(spool.fail(entry, _CORRUPT))
        elif is_published(entry.job):
            done.completed.append(spool.complete(Claim(entry, entry.job, entry.attempts_used)))
        else:
            done.requeued.append(spool.requeue(entry, "crashed", "the service ended while it ran"))
    unreadable = [entry for entry in spool.entries(State.QUEUED) if entry.job is None and entry.folder.exists()]
    done.corrupt.extend(spool.fail(entry, _CORRUPT) for entry in unreadable)
    return done
