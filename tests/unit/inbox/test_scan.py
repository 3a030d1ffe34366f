"""A file is quiet for as long as nothing of its stamp has changed."""

from __future__ import annotations

import pytest

from daemon.inbox.scan import last_changes
from daemon.job import Stamp

STAMP = Stamp(1, 2, 3, 1_000_000_000)


def quiet_since(*scans: dict[str, Stamp]) -> dict[str, float]:
    """Scan at 0 s, 1 s and so on; gives for each file since when it has looked as it does at the last scan."""
    changes: dict[str, tuple[Stamp, float]] = {}
    for now, stamps in enumerate(scans):
        changes = last_changes(stamps, float(now), changes)
    return {path: since for path, (_, since) in changes.items()}


def test_a_file_is_quiet_since_it_was_first_seen() -> None:
    """The first sight starts the clock, further sights of the same do not restart it."""
    assert quiet_since({}, {"a": STAMP}) == {"a": 1.0}
    assert quiet_since({}, {"a": STAMP}, {"a": STAMP}) == {"a": 1.0}


@pytest.mark.parametrize(
    "changed",
    [
        STAMP._replace(dev=9),
        STAMP._replace(ino=9),
        STAMP._replace(size=9),
        STAMP._replace(mtime_ns=1_000_000_001),
        STAMP._replace(mtime_ns=1),
        STAMP._replace(mtime_ns=-1),
    ],
    ids=["device", "inode", "size", "newer", "older", "before 1970"],
)
def test_any_change_restarts_the_clock(changed: Stamp) -> None:
    """Another inode, size or time, be it earlier, is a change; the other files' clocks run on."""
    assert quiet_since({"a": STAMP, "b": STAMP}, {"a": changed, "b": STAMP}) == {"a": 1.0, "b": 0.0}


def test_a_change_back_is_a_change() -> None:
    """A file that looks again as it did before the last change has been quiet only since then."""
    assert quiet_since({"a": STAMP}, {"a": STAMP._replace(size=9)}, {"a": STAMP}) == {"a": 2.0}


def test_a_file_that_was_away_is_new() -> None:
    """A file missing from one scan is forgotten, and counts from zero when it returns."""
    assert quiet_since({"a": STAMP}, {}) == {}
    assert quiet_since({"a": STAMP}, {}, {"a": STAMP}) == {"a": 2.0}
