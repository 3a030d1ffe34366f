"""The morning report: what came, what was painted, what failed and why, what still waits.

`summary-<date>.yaml` carries the date of the day it is written on. A run that began after noon moves over
midnight into the new day's report, so that a night is whole under the date of its morning. One that began
earlier, in a service that is always on, stays, and another begins, so that every day keeps its report.
"""

from __future__ import annotations

import itertools
import os
import threading
from datetime import date, datetime, time, timedelta
from typing import TYPE_CHECKING, Any

from daemon import files, safe_yaml
from daemon.clock import stamp
from daemon.outbox import runs
from daemon.outbox.runs import Report, Run

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path


class Summary:
    """What this process does, told by any of its threads, and the reports that say so."""

    def __init__(self, root: Path, check: Callable[[], None], clock: Callable[[], datetime]) -> None:
        """Begin a run.

        Args:
            root: the outbox.
            check: raises NotReady while it is away.
            clock: gives the local time, aware.
        """
        self._root = root
        self._check = check
        self._clock = clock
        self._lock = threading.Lock()  # of the runs; never held while a disk is waited for
        self._writing = threading.Lock()
        self._written_at = clock()
        self._run = Run(started_at=stamp(self._written_at))  # as it stands in the report of `_day`, if in any
        self._day: date | None = None
        self._taken = Run()  # told since, and being written
        self._more = Run()  # told since then
        self._ended: Run | None = None

    def accepted(self) -> None:
        """Count a drop that was taken."""
        self._tell(Run(accepted=1))

    def completed(self, elapsed_s: float) -> None:
        """Count a result, and the seconds it was painted for."""
        self._tell(Run(done=1, hours_used=elapsed_s / 3600))

    def failed(self, label: str, reason: str, message: str) -> None:
        """Count a failure and remember why."""
        self._tell(runs.failed(label, reason, message))

    def _tell(self, more: Run) -> None:
        with self._lock:
            self._more = self._more.plus(more)

    @property
    def is_dirty(self) -> bool:
        """Whether something was told that stands in no report yet."""
        with self._lock:
            return not (self._taken.is_empty and self._more.is_empty)

    def facts(self) -> dict[str, Any]:
        """Give accepted, done, failed and hours_used of this run or, if it has only begun, of the last one."""
        with self._lock:
            run = self._run.plus(self._taken).plus(self._more)
            run = self._ended if self._ended and run.is_empty else run
        return {name: round(getattr(run, name), 4) for name in runs.COUNTS}

    def write(self, waiting: Sequence[tuple[str, str]], queued: int, *, is_final: bool) -> Path | None:
        """Write the report if there is anything to say. After an error nothing is forgotten: try again.

        Args:
            waiting: path and reason of all that waits in the inbox.
            queued: how many jobs wait for their turn.
            is_final: this run ends; what is told later belongs to another one.

        Returns:
            The file, or None where there is nothing to say.

        Raises:
            NotReady: the outbox is away.
            OSError: it does not take the report.
        """
        with self._writing:
            now = self._clock()
            noon = datetime.combine(now.date() - timedelta(days=1), time(12), now.tzinfo)
            if self._day not in {None, now.date()} and datetime.fromisoformat(self._run.started_at) < noon:
                self._leave()
            look = runs.looked(now.date().isoformat(), waiting, queued)
            with self._lock:
                self._taken, self._more = self._taken.plus(self._more), Run()
                run = self._run.plus(self._taken)
            is_worth_it = self._day or not run.is_empty or not (look.is_idle or self._ended)
            path = self._put(look, run.ending(stamp(now) if is_final else None)) if is_worth_it else None
            with self._lock:
                self._run, self._taken, self._written_at = run, Run(), now
                self._day = now.date() if is_worth_it else None
            if is_final:
                self._end()
            return path

    def _leave(self) -> None:
        """End the run in the report where it stands, with what it says there."""
        self._check()
        _amend(self._path(str(self._day)), self._run.started_at, self._run.ending(stamp(self._written_at)))
        self._end()

    def _end(self) -> None:
        """Begin another run where the one in the report ends."""
        begun = stamp(self._written_at)
        if begun == self._run.started_at:  # which names a run
            begun = stamp(self._written_at + timedelta(milliseconds=1))
        with self._lock:
            self._ended = self._ended if self._run.is_empty else self._run
            self._run, self._day = Run(started_at=begun), None

    def _put(self, look: Report, run: Run) -> Path:
        """Write a run into a report, beside those of other processes, and take it out of an earlier day's."""
        self._check()
        path = self._path(look.date)
        found = _read(path)
        if found is None and os.path.lexists(path):
            files.move(path, _free(path))  # somebody else's, or damaged: it is not for us to overwrite
        others = found.without(run.started_at) if found else ()
        files.replace(path, look.of((*others, run)).to_yaml())
        if str(self._day or look.date) != look.date:
            _amend(self._path(str(self._day)), run.started_at)
        return path

    def _path(self, day: str) -> Path:
        return self._root / f"summary-{day}.yaml"


def _read(path: Path) -> Report | None:
    """Read a report; None where there is none, or none of ours."""
    try:
        fd = files.open_regular(path.parent.resolve(), path.name)
    except (files.ChangedError, PermissionError):
        return None
    with open(fd, "rb") as file:
        return Report.from_yaml(file.read(safe_yaml.MAX_BYTES + 1))


def _free(path: Path) -> Path:
    """Find a name to keep a foreign file under."""
    names = (path.with_name(f"{path.stem}.old-{number}.yaml") for number in itertools.count(1))
    return next(name for name in names if not os.path.lexists(name))


def _amend(path: Path, started_at: str, *instead: Run) -> None:
    """Replace a run in a report, or take it out; a report of nothing goes."""
    report = _read(path)
    if report is None:
        return
    left = (*report.without(started_at), *instead)
    if left:
        files.replace(path, report.of(left).to_yaml())
    else:
        files.remove_tree(path)
