"""The morning report, `summary-<date>.yaml`: what came, what was painted, what failed and why, what waits.

It is a query over the records of the jobs. Each run of the service has one entry, in the report of the day on
which it ends: a night is whole under the date of its morning. A service that is always on gets an entry a day.
"""

from __future__ import annotations

import itertools
from collections import Counter
from dataclasses import dataclass, replace
from datetime import datetime, time, timedelta
from pathlib import PurePath
from typing import TYPE_CHECKING, Annotated, Final

from pydantic import Field, PlainSerializer, ValidationError

from daemon import files, safe_yaml
from daemon.clock import stamp
from daemon.job import printable
from daemon.settings import Model

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from datetime import date

COUNTS: Final = ("accepted", "done", "failed", "hours_used")
MOST_FAILURES: Final = 400  # named in a run; all are counted
MOST_WAITING: Final = 200
_NOON: Final = 12
_LONGEST: Final = 300  # characters of one text
_HEAD: Final = (
    "# The totals of all runs, the last look, and each run. A run without an end goes on, or was cut short.\n"
)
Hours = Annotated[float, PlainSerializer(lambda hours: round(hours, 4))]


class Failed(Model):
    """One job that failed."""

    name: str
    reason: str
    message: str


@dataclass(frozen=True)
class End:
    """One end of a job."""

    at: datetime
    hours_used: float = 0.0
    failure: Failed | None = None


@dataclass(frozen=True)
class History:
    """What the records say of one job; a job that was retried has several ends."""

    accepted_at: datetime | None
    ends: tuple[End, ...]


@dataclass(frozen=True)
class Period:
    """A run of the service, or the part of one that stands in one report."""

    started: datetime
    before: datetime  # what is on record from here on belongs to the next period
    lasted: datetime  # the last moment that is known of it
    is_over: bool

    @property
    def day(self) -> date:
        """The date of its report."""
        return max(self.started, self.lasted - timedelta(microseconds=1)).astimezone().date()

    def days(self) -> Iterator[Period]:
        """Split at the midnights where another report begins: the second one for what started after noon."""
        part = self
        while True:
            start = part.started.astimezone()
            last_day = start.date() + timedelta(days=1 + (start.hour >= _NOON))
            midnight = datetime.combine(last_day, time()).astimezone()
            if part.lasted <= midnight:
                yield part
                return
            yield replace(part, before=midnight, lasted=midnight, is_over=True)
            part = replace(part, started=midnight)

    def holds(self, moment: datetime | None) -> bool:
        """Tell whether a moment belongs to it."""
        return moment is not None and self.started <= moment < self.before


class Run(Model):
    """The entry of one period."""

    started_at: str = ""  # ISO 8601, local; names the run
    ended_at: str | None = None
    accepted: int = 0
    done: int = 0
    failed: int = 0
    hours_used: Hours = 0.0  # painting what is done
    reasons: dict[str, int] = Field({})  # why jobs failed, and how many
    failures: tuple[Failed, ...] = ()
    failures_not_shown: int = 0

    @classmethod
    def of(cls, period: Period, jobs: Sequence[History]) -> Run:
        """Count what the records of the jobs say of a period."""
        ends = sorted((end for job in jobs for end in job.ends if period.holds(end.at)), key=lambda end: end.at)
        failures = [end.failure for end in ends if end.failure]
        return cls(
            started_at=stamp(period.started),
            ended_at=stamp(period.lasted) if period.is_over else None,
            accepted=sum(period.holds(job.accepted_at) for job in jobs),
            done=len(ends) - len(failures),
            failed=len(failures),
            hours_used=sum(end.hours_used for end in ends),
            reasons=Counter(failure.reason for failure in failures),
        ).showing(tuple(failures[:MOST_FAILURES]))

    @property
    def size(self) -> int:
        """How much happened."""
        return self.accepted + self.done + self.failed

    def showing(self, failures: tuple[Failed, ...]) -> Run:
        """Name these failures and count the others."""
        more = self.failed - len(failures)
        return self.model_copy(update={"failures": failures, "failures_not_shown": more})


class Waiting(Model):
    """One thing that waits in the inbox."""

    path: str
    reason: str


class Summary(Model):
    """One report."""

    date: str
    accepted: int = 0
    done: int = 0
    failed: int = 0
    hours_used: Hours = 0.0
    queued: int = 0
    waiting_count: int = 0
    waiting: tuple[Waiting, ...] = ()
    runs: tuple[Run, ...] = ()

    def of(self, runs: Sequence[Run]) -> Summary:
        """Report these runs instead, oldest first."""
        totals = {name: sum(getattr(run, name) for run in runs) for name in COUNTS}
        return self.model_copy(update={**totals, "runs": tuple(runs)})

    def to_yaml(self) -> bytes:
        """Write as YAML; where that is too long to be read back, with fewer names."""
        shown = MOST_FAILURES
        while len(data := self._cut(shown)) > safe_yaml.MAX_BYTES and shown:
            shown //= 2
        return data

    def _cut(self, shown: int) -> bytes:
        runs: list[Run] = []
        left = shown
        for run in reversed(self.runs):  # the newest matters most
            runs.insert(0, run.showing(run.failures[:left]))
            left -= len(runs[0].failures)
        report = self.model_copy(update={"runs": tuple(runs), "waiting": self.waiting[:shown]})
        return (_HEAD + safe_yaml.dump(report.model_dump())).encode("utf-8")


def failed(label: str, reason: str, message: str) -> Failed:
    """Name a failure, with texts that can be shown."""
    return Failed(name=_text(label), reason=_text(reason), message=_text(message))


def looked(day: date, waiting: Sequence[tuple[str, str]], queued: int) -> Summary:
    """Make a report of no run: what waits (path, reason) and how much is queued."""
    shown = tuple(Waiting(path=_text(path), reason=_text(reason)) for path, reason in waiting[:MOST_WAITING])
    return Summary(date=day.isoformat(), queued=queued, waiting_count=len(waiting), waiting=shown)


def _text(text: str) -> str:
    plain = printable(text)
    return plain if len(plain) <= _LONGEST else f"{plain[: _LONGEST - 1]}…"


def name_of(day: date) -> str:
    """Name the report of a day."""
    return f"summary-{day.isoformat()}.yaml"


def write(root: int, runs: Mapping[Period, Run], look: Summary) -> None:
    """Put runs into the reports of their days, beside those of other services; nothing of theirs is changed.

    Args:
        root: descriptor of the outbox.
        runs: entries, oldest first.
        look: what waits now, for the report of its date.

    Raises:
        OSError: the outbox does not take a report.
    """
    for day, group in itertools.groupby(runs, key=lambda period: period.day):
        name = PurePath(name_of(day))
        found = _read(root, name)
        if found is None and files.exists_at(root, str(name)):
            files.move(name, _free(root, name), at=root)  # somebody else's, or damaged: not ours to overwrite
        entries = {run.started_at: run for run in found.runs} if found else {}
        written = [*group]
        for period in written:
            run = runs[period]
            old = entries.get(run.started_at, run)
            # The report says more than the records where jobs were forgotten or retried before a crash.
            is_more = run.size > old.size
            entries[run.started_at] = run if is_more else old.model_copy(update={"ended_at": run.ended_at})
        report = look if look.date == day.isoformat() else found or Summary(date=day.isoformat())
        files.replace(name, report.of([*entries.values()]).to_yaml(), at=root)
        for period in written:
            if day != (begun := period.started.astimezone().date()):
                _take_out(root, begun, runs[period])


def _take_out(root: int, day: date, run: Run) -> None:
    """Remove an entry that moved on to the next day; a report of nothing goes."""
    name = PurePath(name_of(day))
    found = _read(root, name)
    if found is None or not any(other.started_at == run.started_at for other in found.runs):
        return
    others = [other for other in found.runs if other.started_at != run.started_at]
    if others:
        files.replace(name, found.of(others).to_yaml(), at=root)
    else:
        files.remove_tree(name, at=root)


def _read(root: int, name: PurePath) -> Summary | None:
    """Read a report; None where there is none, or none of ours."""
    try:
        with open(files.open_regular(root, str(name)), "rb") as file:
            return Summary.model_validate(safe_yaml.parse(file.read(safe_yaml.MAX_BYTES + 1)))
    except (files.ChangedError, PermissionError, safe_yaml.DocumentError, ValidationError):
        return None


def _free(root: int, name: PurePath) -> PurePath:
    """Find a name to keep a foreign file under."""
    names = (name.with_name(f"{name.stem}.old-{number}.yaml") for number in itertools.count(1))
    return next(name for name in names if not files.exists_at(root, str(name)))
