"""The morning report, `summary-<date>.yaml`: what was accepted, done and failed, why, and what still waits.

Each run of the service has one entry, in the report of the day on which it ends: a night is whole under the
date of its morning. Services that share an outbox share the report, and each writes its own entries.
"""

from __future__ import annotations

from pathlib import PurePath
from typing import TYPE_CHECKING, Annotated, Final

from pydantic import PlainSerializer, ValidationError

from daemon import files, safe_yaml
from daemon.job import printable
from daemon.settings import Model

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from datetime import date

    from daemon.errors import Failure

COUNTS: Final = ("accepted", "done", "failed", "hours_used")
MOST_NAMED: Final = 200  # failures of a run, and waiting things; all are counted
_LONGEST: Final = 300  # characters of one text
_HEAD: Final = "# The totals of all runs, what waits, each run. One without an end goes on or was cut short.\n"
Hours = Annotated[float, PlainSerializer(lambda hours: round(hours, 4))]


class Run(Model):
    """The entry of one run."""

    started_at: str  # ISO 8601, local; identifies the run
    ended_at: str | None
    accepted: int
    done: int
    failed: int
    hours_used: Hours  # painting what is done
    reasons: dict[str, int]  # why jobs failed, and how many
    failures: tuple[dict[str, str], ...]  # name, reason, message
    failures_not_shown: int = 0

    @property
    def size(self) -> int:
        """How much happened."""
        return self.accepted + self.done + self.failed


class Summary(Model):
    """One report."""

    date: str
    accepted: int = 0
    done: int = 0
    failed: int = 0
    hours_used: Hours = 0.0
    queued: int = 0
    waiting_count: int = 0
    waiting: tuple[dict[str, str], ...] = ()  # path, reason
    runs: tuple[Run, ...] = ()

    def with_run(self, run: Run) -> Summary:
        """Add an entry, or replace it unless it says more: then jobs were forgotten since."""
        known = {one.started_at: one for one in self.runs}
        if (old := known.get(run.started_at)) and old.size > run.size:
            run = old.model_copy(update={"ended_at": run.ended_at})
        return self._of({**known, run.started_at: run}.values())

    def without(self, started_at: str) -> Summary:
        """Remove an entry."""
        return self._of(run for run in self.runs if run.started_at != started_at)

    def _of(self, entries: Iterable[Run]) -> Summary:
        runs = tuple(entries)
        totals = {count: sum(getattr(one, count) for one in runs) for count in COUNTS}
        return self.model_copy(update={**totals, "runs": runs})

    def with_waiting(self, waiting: Sequence[tuple[str, str]], queued: int) -> Summary:
        """Say what waits in the inbox (path, reason), and how much is queued."""
        named = tuple({"path": _text(path), "reason": _text(reason)} for path, reason in waiting[:MOST_NAMED])
        return self.model_copy(update={"queued": queued, "waiting_count": len(waiting), "waiting": named})

    def to_yaml(self) -> bytes:
        """Format as YAML, with as many names as can be read back."""
        named = MOST_NAMED
        while len(data := self._cut(named)) > safe_yaml.MAX_BYTES and named:
            named //= 2
        return data

    def _cut(self, named: int) -> bytes:
        document = self.model_dump()
        document["waiting"] = document["waiting"][:named]
        for run in document["runs"]:
            run["failures"] = run["failures"][:named]
            run["failures_not_shown"] = run["failed"] - len(run["failures"])
        return (_HEAD + safe_yaml.dump(document)).encode("utf-8")


def failure(label: str, why: Failure | None) -> dict[str, str]:
    """Describe a job that failed."""
    reason, message = (why.reason.value, why.message) if why else ("", "")
    return {"name": _text(label), "reason": reason, "message": _text(message)}


def _text(text: str) -> str:
    plain = printable(text)
    return plain if len(plain) <= _LONGEST else f"{plain[: _LONGEST - 1]}…"


def read(root: int, day: date) -> Summary:
    """Read the report of a day in an outbox, held by its descriptor; without one, begin it."""
    name = PurePath(f"summary-{day.isoformat()}.yaml")
    try:
        with open(files.open_regular(root, str(name)), "rb") as file:
            return Summary.model_validate(safe_yaml.parse(file.read(safe_yaml.MAX_BYTES + 1)))
    except (files.ChangedError, PermissionError, safe_yaml.DocumentError, ValidationError):
        if files.exists_at(root, str(name)):
            files.move(name, name.with_suffix(".old"), at=root)  # somebody's file, or damaged
    return Summary(date=day.isoformat())


def remove(root: int, day: date, started_at: str) -> None:
    """Remove an entry from the report of a day; a report of nothing goes."""
    name = f"summary-{day.isoformat()}.yaml"
    if not files.exists_at(root, name):
        return
    report = read(root, day)
    if not (rest := report.without(started_at)).runs:
        files.remove_tree(PurePath(name), at=root)
    elif rest.runs != report.runs:
        write(root, rest)


def write(root: int, report: Summary) -> str:
    """Write a report in the place of the one that was read; gives its name."""
    name = f"summary-{report.date}.yaml"
    files.replace(PurePath(name), report.to_yaml(), at=root)
    return name
