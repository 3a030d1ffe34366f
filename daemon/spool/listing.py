"""The jobs of a spool, listed and found without moving any."""

from __future__ import annotations

import contextlib
import functools
import json
import os
from typing import TYPE_CHECKING

from daemon.job import State
from daemon.spool.stored_job import JOB, StoredJob

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


class Listing:
    """The read-only view of a spool, of which nothing needs to be there."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def folder(self, state: State) -> Path:
        """Give the directory of one state."""
        return self.root / state.value

    def ids(self, *states: State) -> list[str]:
        """List the ids of the jobs in some states, or of all jobs, without reading any."""
        found: list[str] = []
        for state in states or State:
            with contextlib.suppress(FileNotFoundError), os.scandir(self.folder(state)) as items:
                found += [item.name for item in items if item.is_dir(follow_symlinks=False)]
        return found

    def count(self, state: State) -> int:
        """Count the jobs in one state without reading them."""
        return len(self.ids(state))

    def all_entries(self, *states: State) -> Iterator[StoredJob]:
        """List every job in some states, or of all states, in no order."""
        for state in states or State:
            yield from [StoredJob.at(self.root, state, id_) for id_ in self.ids(state)]

    def entries(self, state: State) -> list[StoredJob]:
        """List the jobs in one state in the order in which they are to be run."""
        return sorted(self.all_entries(state), key=order)

    def oldest(self, state: State) -> StoredJob | None:
        """Find the job in one state that was accepted first."""
        return min(self.all_entries(state), key=lambda entry: order(entry)[1], default=None)

    def find(self, prefix: str) -> list[StoredJob]:
        """Find jobs by an id's beginning, or by the name of their outbox entry."""
        name = prefix.removesuffix(".failed")
        label, _, short = name.rpartition("-")
        wanted = short if label else name
        for _ in range(2):  # a job that moves meanwhile is seen twice, or not at all
            found = {entry.id: entry for entry in self.all_entries() if wanted and entry.id.startswith(wanted)}
            if found:
                break
        return [
            entry for entry in found.values() if not label or (entry.job and name.startswith(entry.job.label))
        ]


def order(entry: StoredJob) -> tuple[int, int]:
    """Give what jobs are sorted by: higher priority first, then first come, first served."""
    try:
        return _order(entry.folder)
    except (FileNotFoundError, ValueError, KeyError, TypeError, RecursionError):
        return (0, 0)


@functools.lru_cache(maxsize=1 << 17)
def _order(folder: Path) -> tuple[int, int]:
    """Read these two numbers once, since job.json never changes: thousands of jobs are listed to find one."""
    data = json.loads((folder / JOB).read_bytes())
    priority = (data["settings"] or {"priority": 0})["priority"]
    return -int(priority), int(data["sequence"])
