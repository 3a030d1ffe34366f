"""What a morning report says: one entry for each run, and totals; bounded, so that it can be read back."""

from __future__ import annotations

import functools
from collections import Counter
from typing import TYPE_CHECKING, Annotated, Final

from pydantic import Field, PlainSerializer, ValidationError

from daemon import safe_yaml
from daemon.job import printable
from daemon.settings import Model

if TYPE_CHECKING:
    from collections.abc import Sequence

COUNTS: Final = ("accepted", "done", "failed", "hours_used")
MOST_FAILURES: Final = 400  # named a run; all are counted
MOST_WAITING: Final = 200
MOST_RUNS: Final = 50  # a report; the oldest are added up
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


class Waiting(Model):
    """One thing that waits in the inbox."""

    path: str
    reason: str


class Run(Model):
    """What was done from one moment to another."""

    started_at: str = ""  # ISO 8601, local; names the run
    ended_at: str | None = None
    accepted: int = 0
    done: int = 0
    failed: int = 0
    hours_used: Hours = 0.0  # painting what is done
    reasons: dict[str, int] = Field({})  # why jobs failed, and how many
    failures: tuple[Failed, ...] = ()
    failures_not_shown: int = 0

    @property
    def is_empty(self) -> bool:
        """Whether nothing happened."""
        return not (self.accepted or self.done or self.failed)

    def plus(self, later: Run) -> Run:
        """Add what happened later."""
        counts = {name: getattr(self, name) + getattr(later, name) for name in COUNTS}
        reasons = dict(Counter(self.reasons) + Counter(later.reasons))
        run = self.model_copy(update={**counts, "reasons": reasons})
        return run.ending(later.ended_at).showing((*self.failures, *later.failures)[:MOST_FAILURES])

    def ending(self, ended_at: str | None) -> Run:
        """Say when it ended; None while it goes on."""
        return self.model_copy(update={"ended_at": ended_at})

    def showing(self, failures: tuple[Failed, ...]) -> Run:
        """Name these failures and count the others."""
        more = self.failed - len(failures)
        return self.model_copy(update={"failures": failures, "failures_not_shown": more})


class Report(Model):
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

    @property
    def is_idle(self) -> bool:
        """Whether nothing is to be done."""
        return not (self.queued or self.waiting_count)

    def of(self, runs: Sequence[Run]) -> Report:
        """Report these runs instead, oldest first."""
        first = max(len(runs) - MOST_RUNS + 1, 1)
        kept = (functools.reduce(Run.plus, runs[:first]), *runs[first:])
        totals = {name: sum(getattr(run, name) for run in kept) for name in COUNTS}
        return self.model_copy(update={**totals, "runs": kept})

    def without(self, started_at: str) -> tuple[Run, ...]:
        """Give the runs but one."""
        return tuple(run for run in self.runs if run.started_at != started_at)

    def to_yaml(self) -> bytes:
        """Write as YAML, naming fewer failures and waiting things where `from_yaml` would not take so many."""
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

    @classmethod
    def from_yaml(cls, data: bytes) -> Report | None:
        """Read what `to_yaml` wrote; None for anything else."""
        try:
            return cls.model_validate(safe_yaml.parse(data))
        except (safe_yaml.DocumentError, ValidationError):
            return None


def failed(label: str, reason: str, message: str) -> Run:
    """Make a run in which one job failed."""
    failure = Failed(name=_text(label), reason=_text(reason), message=_text(message))
    return Run(failed=1, reasons={failure.reason: 1}, failures=(failure,))


def looked(day: str, waiting: Sequence[tuple[str, str]], queued: int) -> Report:
    """Make a report of no run: what waits (path, reason) and how much is queued."""
    shown = tuple(Waiting(path=_text(path), reason=_text(reason)) for path, reason in waiting[:MOST_WAITING])
    return Report(date=day, queued=queued, waiting_count=len(waiting), waiting=shown)


def _text(text: str) -> str:
    plain = printable(text)
    return plain if len(plain) <= _LONGEST else f"{plain[: _LONGEST - 1]}…"
