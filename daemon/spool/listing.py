"""The jobs of a spool, listed and found without moving any."""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING

from daemon.job import State
from daemon.spool.stored_job import JOB, StoredJob

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


class Listing:
    """The read-only view of a spool."""

    def __init__(self, root: Path) -> None:
        """Look at a spool; nothing needs to be there."""
        self.root = root
        self._orders: dict[str, tuple[int, int]] = {}

    def folder(self, state: State) -> Path:
        """Give the directory of one state."""
        return self.root / state.value

    def entries(self, state: State) -> list[StoredJob]:
        """List the jobs in one state in the order they are worked off."""
        return sorted(self._unsorted(state), key=self._order)

    def _unsorted(self, state: State) -> list[StoredJob]:
        return [StoredJob.at(self.root, state, id_) for id_ in self._ids(state)]

    def _ids(self, state: State) -> list[str]:
        try:
            with os.scandir(self.folder(state)) as items:
                return [item.name for item in items if item.is_dir(follow_symlinks=False)]
        except FileNotFoundError:
            return []

    def ids(self, *states: State) -> list[str]:
        """List the ids of the jobs in some states, or of all jobs, without reading any."""
        return [id_ for state in states or State for id_ in self._ids(state)]

    def count(self, state: State) -> int:
        """Count the jobs in one state without reading them."""
        return len(self._ids(state))

    def _order(self, entry: StoredJob) -> tuple[int, int]:
        """Higher priority first, then first come, first served.

        job.json never changes, so it is looked into once, and for these two numbers only: thousands of jobs are
        listed before one of them is needed whole.
        """
        order = self._orders.get(entry.id)
        if order is None:
            try:
                data = json.loads((entry.folder / JOB).read_bytes())
                priority = (data["settings"] or {"priority": 0})["priority"]
                order = (-int(priority), int(data["sequence"]))
            except (FileNotFoundError, ValueError, KeyError, TypeError, RecursionError):
                return (0, 0)
            self._orders[entry.id] = order  # which another thread may forget this instant
        return order

    def oldest(self, state: State) -> StoredJob | None:
        """Find the job in one state that was accepted first."""
        found = self._unsorted(state)
        return min(found, key=lambda entry: self._order(entry)[1], default=None)

    def all_entries(self) -> Iterator[StoredJob]:
        """List every job of every state, in no order."""
        for state in State:
            yield from self._unsorted(state)

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
