"""The order in which one engine works: what it should prepare next, and whether a job had to wait for it."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

from daemon.job import REGION_ROLES, Request, State, Style

if TYPE_CHECKING:
    from daemon.engine import Engine
    from daemon.job import Job
    from daemon.settings import Settings
    from daemon.spool import Spool, StoredJob


class LookAhead:
    """What one worker remembers from job to job."""

    def __init__(self, spool: Spool, engine: Engine) -> None:
        self.is_prepared = False  # the engine got a hint of the job that it paints now
        self.follows: float | None = None  # the last step of the previous job, if this one waited by then
        self._spool = spool
        self._engine = engine
        self._hinted = ""  # the job that the engine got a hint of
        self._last_step: float | None = None  # of the previous job, in monotonic seconds
        self._waiting: frozenset[str] = frozenset()  # the ids that were queued at that moment

    def begin(self, id_: str) -> None:
        """Note that a job begins."""
        self.is_prepared = id_ == self._hinted
        self.follows = self._last_step if id_ in self._waiting else None
        self._hinted = ""
        self.rest()

    def hint(self) -> None:
        """Have the engine prepare for the next job in the queue; a wrong guess costs nothing."""
        with contextlib.suppress(OSError):  # a disk that cannot be read
            for entry in self._spool.entries(State.QUEUED):
                if entry.job is None or entry.failure or entry.is_cancelled or entry.is_stored:
                    continue
                if entry.id != self._hinted:
                    self._hinted = entry.id
                    self._engine.prepare(request_for(entry, entry.job))
                return

    def end(self, last_step: float) -> None:
        """Note that a job was painted whose last step came at a moment (monotonic seconds)."""
        with contextlib.suppress(OSError):  # a disk that cannot be read
            self._last_step, self._waiting = last_step, frozenset(self._spool.ids(State.QUEUED))

    def rest(self) -> None:
        """Forget the previous job: the next one does not follow directly."""
        self._last_step, self._waiting = None, frozenset()

    def lose_engine(self) -> None:
        """Forget the hint: the engine that had it is gone."""
        self._hinted = ""


def request_for(entry: StoredJob, job: Job) -> Request:
    """Ask for the picture of a job without a failure."""
    init, mask, settings = job.parts_of("init"), job.parts_of("protect"), settings_of(job)
    styles = [Style(entry.input(part), part.weight, part.scale) for part in job.parts_of("style")]
    places, paintings, masks = (map(entry.input, job.parts_of(role)) for role in REGION_ROLES)
    for region in settings.regions:
        style_mask = next(masks) if region.style_mask else None
        styles.append(Style(next(paintings), region.weight, mask=style_mask, region=next(places)))
    shown = (*job.parts_of("content"), *job.parts_of("style")) if job.preset == "sheet" else ()
    return Request(
        content=entry.input(job.parts_of("content")[0]),
        styles=tuple(styles),
        init=entry.input(init[0]) if init else None,
        settings=settings,
        checkpoints=entry.checkpoints,
        frames=frozenset(entry.kept_frames),
        faces=job.faces or (),
        mask=entry.input(mask[0]) if mask else None,
        sheet=tuple(part.name for part in shown),
        smaller=entry.times_exhausted,
    )


def settings_of(job: Job) -> Settings:
    """Give the settings of a job without a failure."""
    assert job.settings is not None  # noqa: S101 - only a failed job has none
    return job.settings
