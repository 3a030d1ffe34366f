"""Forgetting the jobs that ended long ago."""

from __future__ import annotations

import contextlib
from datetime import timedelta
from typing import TYPE_CHECKING

from daemon import files
from daemon.spool.draft import EXPIRED
from daemon.spool.stored_job import RETIRED

if TYPE_CHECKING:
    from collections.abc import Iterable
    from datetime import datetime
    from pathlib import Path

    from daemon.spool.stored_job import StoredJob


def expire(root: Path, entries: Iterable[StoredJob], now: datetime, age: timedelta) -> list[StoredJob]:
    """Remove, and return, those of the jobs that ended longer ago than `age`, with their inputs.

    Jobs whose originals may still lie in the inbox stay, or those would be taken for a new drop; so do jobs
    whose record cannot be read. Of the others the id is remembered, since their outbox entries may be there.
    """
    gone = []
    for entry in entries:
        with contextlib.suppress(FileNotFoundError):  # an operator retries it this instant
            elapsed = now - entry.ended_at
            # Beyond a year too long it is the clock that is wrong.
            if not entry.is_retired or not age <= elapsed < age + timedelta(days=366) or entry.job is None:
                continue
            with contextlib.suppress(FileExistsError):
                # A second name for the job's own marker: a full disk has no inode for a new file.
                (root / EXPIRED / entry.id).hardlink_to(entry.folder / RETIRED)
            doomed = root / "tmp" / f"expired-{entry.id}"  # out of sight at once; recovery removes what is left
            entry.folder.rename(doomed)
            files.remove_tree(doomed)
            gone.append(entry)
    return gone
