"""The morning report: what the spool's records say of each run or night of the service, so far or in all."""

from __future__ import annotations

import contextlib
import json
from collections import Counter, deque
from dataclasses import dataclass, replace
from datetime import UTC, datetime, time, timedelta
from typing import TYPE_CHECKING, Final

from daemon import clock, files, logs
from daemon.errors import NotReady
from daemon.job import State
from daemon.outbox import summary
from daemon.spool.stored_job import ATTEMPTS, JOB

if TYPE_CHECKING:
    from collections.abc import Sequence

    from daemon.outbox.publish import Outbox
    from daemon.spool import Spool, StoredJob

    Waiting = Sequence[tuple[str, str]]  # path, reason

log = logs.get(__name__)

RUNS: Final = "runs.jsonl"  # in the spool: since when nothing is reported
_NOON: Final = 12
_FOREVER: Final = datetime.max.replace(tzinfo=UTC)
_MS: Final = timedelta(milliseconds=1)  # the resolution of the records


@dataclass(frozen=True)
class _Job:
    """The times of one job on record; one that was retried has its last end only."""

    state: State
    changed: float  # the time of its last record
    accepted_at: datetime | None
    ended_at: datetime | None = None
    hours_used: float = 0.0
    failure: dict[str, str] | None = None


class Report:
    """The morning report of one service; one thread at a time has it written."""

    def __init__(self, spool: Spool, outbox: Outbox) -> None:
        self._spool = spool
        self._outbox = outbox
        self._first = _FOREVER  # when this process began
        self._since: datetime | None = None  # what came from here on is not reported yet
        self._nights: deque[datetime] = deque()  # the ends of those that are not reported yet
        self._seen: object = None  # the state of the spool that is reported; see `_look`
        self._jobs: dict[str, _Job] = {}  # by id, those since then; retention may have removed some meanwhile

    def begin(self) -> None:
        """Begin a run; what could not be reported of the one before belongs to it."""
        self._since = self._cut_short()
        with contextlib.suppress(NotReady, OSError):
            self.write((), is_final=True)
        if self._since is None:
            self._note(_now())
        self._first, self._seen = _now(), self._look()

    def end_night(self) -> None:
        """End a night, or the day before one, at this moment; called from any thread, it writes nothing."""
        self._nights.append(_now())

    def _cut_short(self) -> datetime | None:
        """Find out since when an earlier process did not report, if it was cut short."""
        with contextlib.suppress(FileNotFoundError, IndexError, ValueError, KeyError, TypeError):
            last = json.loads((self._spool.root / RUNS).read_bytes().splitlines()[-1])
            return datetime.fromisoformat(last["at"]) if last["event"] == "started" else None
        return None

    def _note(self, at: datetime | None) -> None:
        """Note that everything before a moment is reported; None where nothing goes on."""
        self._since = at
        record = {"event": "started" if at else "ended", "at": clock.stamp(at or _now())}
        with contextlib.suppress(OSError):  # a full disk must not stop a start
            files.append_line(self._spool.root / RUNS, json.dumps(record))

    @property
    def is_due(self) -> bool:
        """Whether something happened, or a day is over, that is not reported yet."""
        since = self._since
        has_news = bool(self._nights) or self._look() != self._seen
        return since is not None and (has_news or _now() >= _midnight(since))

    def _look(self) -> object:
        """Tell one state of the spool from another: every job that is accepted or ends moves a folder."""
        return [self._spool.folder(state).stat().st_mtime_ns for state in State]

    def write(self, waiting: Waiting, *, is_final: bool) -> None:
        """Report what is new: each day that is over, and the run or night so far. After an error, try again.

        `waiting` names everything that waits in the inbox. Raises NotReady and OSError of outbox and spool.
        """
        if not (is_final or self.is_due):
            return
        while self._nights:
            end = self._nights.popleft()
            self._write(waiting, end, is_final=True)
            self._note(end + _MS)
        self._write(waiting, _now(), is_final=is_final)

    def _write(self, waiting: Waiting, end: datetime, *, is_final: bool) -> None:
        if self._since is None:
            return
        since, seen = self._since, self._look()
        self._gather(since)
        while end >= (midnight := _midnight(since)):
            self._put(since, midnight - _MS, waiting)
            since = midnight
        self._put(since, end, waiting, is_over=is_final, is_logged=is_final)
        if is_final or since != self._since:
            self._note(None if is_final else since)
        self._seen = seen

    def _gather(self, since: datetime) -> None:
        """Read the jobs whose records changed since then; there may be thousands of others."""
        kept = {id_: known for id_, known in self._jobs.items() if known.ended_at and known.ended_at >= since}
        for entry in self._spool.all_entries():
            records = [path for path in (entry.folder / ATTEMPTS, entry.folder / JOB) if path.exists()]
            changed = max((path.stat().st_mtime for path in records), default=0.0)
            known = self._jobs.get(entry.id)
            if changed >= since.timestamp() - 1:
                is_same = known and (known.state, known.changed) == (entry.state, changed)
                kept[entry.id] = known if known and is_same else _read(entry, changed)
        self._jobs = kept

    def _put(
        self, start: datetime, end: datetime, waiting: Waiting, *, is_over: bool = True, is_logged: bool = False
    ) -> None:
        """Write the entry of a run, unless nothing happened and this process left nothing undone."""
        run, queued = self._run(start, end, is_over=is_over), self._spool.count(State.QUEUED)
        first_day, day = start.astimezone().date(), end.astimezone().date()
        is_first = start <= self._first <= end
        if not (run.accepted or run.done or run.failed or (is_first and (waiting or queued))):
            return
        path = None
        try:
            with self._outbox.opened() as root:
                report = summary.read(root, day).with_run(run)
                if end >= self._first:
                    report = report.with_waiting(waiting, queued)
                path = str(self._outbox.root / summary.write(root, report))
                for earlier in {first_day, first_day + timedelta(days=1)} - {day}:
                    summary.remove(root, earlier, run.started_at)  # where it stood so far
        finally:
            if is_logged:
                facts = {name: round(getattr(run, name), 4) for name in summary.COUNTS}
                log.info("service.summarized", path=path, waiting=len(waiting), **facts)

    def _run(self, start: datetime, end: datetime, *, is_over: bool) -> summary.Run:
        """Count what happened from start to end; the end of an earlier process is not known."""
        ended = [job for job in self._jobs.values() if job.ended_at and start <= job.ended_at <= end]
        failures = [job.failure for job in ended if job.failure]
        return summary.Run(
            started_at=clock.stamp(start),
            ended_at=clock.stamp(end) if is_over and end >= self._first else None,
            accepted=sum(start <= job.accepted_at <= end for job in self._jobs.values() if job.accepted_at),
            done=len(ended) - len(failures),
            failed=len(failures),
            hours_used=sum(job.hours_used for job in ended),
            reasons=Counter(failure["reason"] for failure in failures),
            failures=tuple(failures),
        )


def _midnight(since: datetime) -> datetime:
    """Give the end of a report: the next midnight, or the one after it where this began in the afternoon."""
    start = since.astimezone()
    day = start.date() + timedelta(days=1 + (start.hour >= _NOON))
    return datetime.combine(day, time()).astimezone()


def _now() -> datetime:
    """Give the time as a record has it."""
    return datetime.fromisoformat(clock.stamp(clock.local()))


def _read(entry: StoredJob, changed: float) -> _Job:
    accepted_at = datetime.fromisoformat(entry.job.accepted_at) if entry.job else None
    job = _Job(entry.state, changed, accepted_at)
    if entry.state is State.DONE:
        return replace(job, ended_at=entry.ended_at, hours_used=entry.facts.get("elapsed_s", 0.0) / 3600)
    if entry.state is State.FAILED:
        return replace(job, ended_at=entry.ended_at, failure=summary.failure(entry.label, entry.failure))
    return job
