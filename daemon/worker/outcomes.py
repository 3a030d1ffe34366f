"""What an attempt comes to, as values, and what then becomes of the job."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Any, Final

from daemon.errors import Failure, NotReady, Reason

if TYPE_CHECKING:
    from collections.abc import Mapping

    from daemon.errors import EngineError
    from daemon.job import EngineInfo, Painting, Picture
    from daemon.outbox.frames import FrameWriter
    from daemon.outbox.loss_table import Row
    from daemon.settings import Settings

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


class Ending(StrEnum):
    """What became of a claimed job, as metrics count it."""

    COMPLETED = "completed"
    FAILED = "failed"
    INTERRUPTED = "interrupted"  # queued again; no attempt used
    CRASHED = "crashed"  # queued again
