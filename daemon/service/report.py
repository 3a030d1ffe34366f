"""The morning report: gathers what the spool's records say of each run, for `outbox.summary` to write."""

from __future__ import annotations

import contextlib
import json
import threading
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Final

from daemon import clock, files, logs
from daemon.job import State
from daemon.outbox import summary
from daemon.outbox.summary import COUNTS, End, History, Period, Run

if TYPE_CHECKING:
    from collections.abc import Sequence

    from daemon.outbox.publish import Outbox
    from daemon.spool import Spool, StoredJob

log = logs.get(__name__)

RUNS: Final = "runs.jsonl"  # in the spool: when runs and nights began and ended
_FOREVER: Final = datetime.max.replace(tzinfo=UTC)
_MS: Final = timedelta(milliseconds=1)


@dataclass(frozen=True)
class _Shift:
    """A run or a night of the service."""

    started: datetime
    ended: datetime | None = None


class Report:
    """The morning report of one service; any of its threads may have it written."""

    def __init__(self, spool: Spool, outbox: Outbox) -> None:
        """Report what a spool has on record to an outbox."""
        self._spool = spool
        self._outbox = outbox
        self._lock = threading.Lock()
        self._first = self._next = _FOREVER  # when this process began; when the next shift begins
        self._shifts: list[_Shift] = []  # whose entries may be out of date, oldest first
        self._histories: dict[str, tuple[State, float, History]] = {}  # by id; see `_gather`
        self._reported: object = None  # see `_look`

    def begin(self) -> None:
        """Begin a run, or a night of it: what is recorded from here on belongs to it."""
        with self._lock:
            if self._first is _FOREVER:
                self._shifts = self._cut_short()
                self._next = max([clock.local(), *(shift.started + _MS for shift in self._shifts)])
                self._reported = self._look()
            shift = _Shift(_at(self._next))
            self._first = min(self._first, shift.started)
            self._shifts.append(shift)
            self._note("started", shift.started)

    def _cut_short(self) -> list[_Shift]:
        """Find the last shift on record if its end is not: its report may lack what came last."""
        found: list[_Shift] = []
        with contextlib.suppress(FileNotFoundError):
            for line in (self._spool.root / RUNS).read_bytes().splitlines():
                with contextlib.suppress(ValueError, KeyError, TypeError):
                    record = json.loads(line)
                    started = datetime.fromisoformat(record["at"])
                    found = [_Shift(started)] if record["event"] == "started" else []
        return found

    def _note(self, event: str, at: datetime) -> None:
        with contextlib.suppress(OSError):  # a full disk must not stop a start
            files.append_line(self._spool.root / RUNS, json.dumps({"event": event, "at": clock.stamp(at)}))

    @property
    def is_due(self) -> bool:
        """Whether something may be on record that no report has."""
        return self._look() != self._reported

    def _look(self) -> object:
        """Tell one state of the spool from another: whatever is accepted or ends moves its folder."""
        return [self._spool.folder(state).stat().st_mtime_ns for state in State]

    def write(self, waiting: Sequence[tuple[str, str]], *, is_final: bool) -> None:
        """Write every entry that may be out of date. After an error nothing is lost: try again.

        Args:
            waiting: path and reason of all that waits in the inbox.
            is_final: the shift ends here; this is logged.

        Raises:
            NotReady: the outbox is away.
            OSError: it does not take the report, or the spool cannot be read.
        """
        with self._lock:
            if not self._shifts:
                return
            now, look, queued = clock.local(), self._look(), self._spool.count(State.QUEUED)
            if is_final:
                self._shifts[-1] = replace(self._shifts[-1], ended=_at(now))
                self._next = _at(now) + _MS
            entries = self._entries(now, has_work_left=bool(waiting or queued))
            path = None
            try:
                if entries:
                    with self._outbox.opened() as root:
                        summary.write(root, entries, summary.looked(now.date(), waiting, queued))
                    path = str(self._outbox.root / summary.name_of([*entries][-1].day))
            finally:
                if is_final and entries and (waiting or [*entries.values()][-1].size):
                    facts = {name: round(getattr([*entries.values()][-1], name), 4) for name in COUNTS}
                    log.info("service.summarized", path=path, waiting=len(waiting), **facts)
            self._forget(now, is_final=is_final)
            self._reported = look

    def _entries(self, now: datetime, *, has_work_left: bool) -> dict[Period, Run]:
        """Ask the records; an empty entry is worth a report only of a whole run that left work undone."""
        jobs = self._gather(self._shifts[0].started)
        periods = []
        for shift, later in zip(self._shifts, [*self._shifts[1:], None], strict=True):
            before = later.started if later else shift.ended + _MS if shift.ended else _FOREVER
            period = Period(shift.started, before, shift.ended or now, is_over=shift.ended is not None)
            if later and not shift.ended:  # an earlier process, cut short on the last day of it
                period = [*replace(period, lasted=_last(period, jobs)).days()][-1]
            periods += [*period.days()]
        entries = {period: Run.of(period, jobs) for period in periods}
        return {
            period: run
            for period, run in entries.items()
            if run.size or (has_work_left and period.started == self._first)
        }

    def _forget(self, now: datetime, *, is_final: bool) -> None:
        """Let go of what no later report needs."""
        if is_final:
            self._note("ended", now)
            self._shifts, self._histories = [], {}
            return
        *_, today = Period(self._shifts[-1].started, _FOREVER, now, is_over=False).days()
        self._shifts = [_Shift(today.started)]
        since = today.started.timestamp()
        self._histories = {id_: known for id_, known in self._histories.items() if known[1] >= since - 1}

    def _gather(self, since: datetime) -> list[History]:
        """Read the jobs whose state or records changed; what was read of expired ones is kept."""
        for job in self._spool.all_entries():
            changed, known = _changed(job), self._histories.get(job.id)
            if changed >= since.timestamp() - 1 and (known is None or known[:2] != (job.state, changed)):
                self._histories[job.id] = (job.state, changed, _history(job, known[2].ends if known else ()))
        return [history for _, _, history in self._histories.values()]


def _at(moment: datetime) -> datetime:
    """Give a moment as a record has it."""
    return datetime.fromisoformat(clock.stamp(moment))


def _last(period: Period, jobs: Sequence[History]) -> datetime:
    moments = [moment for job in jobs for moment in (job.accepted_at, *(end.at for end in job.ends))]
    return max((moment for moment in moments if moment and period.holds(moment)), default=period.started)


def _changed(job: StoredJob) -> float:
    """Tell when a job's records changed last; 0 where it is gone."""
    for name in ("attempts.jsonl", "job.json"):
        with contextlib.suppress(FileNotFoundError):
            return (job.folder / name).stat().st_mtime
    return 0.0


def _history(job: StoredJob, earlier: Sequence[End]) -> History:
    """Read when a job was accepted and how it ended, each time; an end recorded twice is one end.

    A retry keeps no message of the failure before it; it is known where it was read in time.
    """
    known = {end.at: end for end in earlier}
    ends: list[End] = []
    is_ended = False
    for record in job.attempts:
        was_ended, is_ended = is_ended, record["event"] in {"completed", "failed"}
        if is_ended and not was_ended:
            at = _moment(record.get("at")) or job.ended_at
            has_failed = record["event"] == "failed"
            ends.append(known.get(at) or _end(job, at, record.get("reason"), has_failed=has_failed))
    if job.state in {State.DONE, State.FAILED} and not is_ended:  # a full disk took no record
        ends.append(_end(job, job.ended_at, has_failed=job.state is State.FAILED))
    return History(_accepted_at(job), tuple(ends))


def _end(job: StoredJob, at: datetime, reason: str | None = None, *, has_failed: bool) -> End:
    if not has_failed:
        return End(at, hours_used=job.facts.get("elapsed_s", 0.0) / 3600)
    failure = job.failure if job.state is State.FAILED else None
    why = reason or (failure.reason.value if failure else "")
    return End(at, failure=summary.failed(job.label, why, failure.message if failure else ""))


def _accepted_at(job: StoredJob) -> datetime | None:
    """Read this from job.json and nothing else: there may be thousands of jobs."""
    with contextlib.suppress(FileNotFoundError, ValueError, KeyError, TypeError):
        return _moment(json.loads((job.folder / "job.json").read_bytes())["accepted_at"])
    return None


def _moment(text: str | None) -> datetime | None:
    with contextlib.suppress(TypeError, ValueError):
        return datetime.fromisoformat(text or "")
    return None
