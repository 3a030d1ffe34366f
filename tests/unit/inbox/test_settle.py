"""A file is quiet for as long as nothing of its stamp has changed."""

from __future__ import annotations

import pytest

from daemon.inbox.settle import Settle
from daemon.job import Stamp

STAMP = Stamp(1, 2, 3, 1_000_000_000)


def test_a_file_is_quiet_since_it_was_first_seen() -> None:
    """The first sight starts the clock, further sights of the same do not restart it."""
    settle = Settle()

    settle.observe({"a": STAMP}, 10.0)
    assert settle.quiet_s("a", 10.0) == 0.0
    settle.observe({"a": STAMP}, 12.0)
    assert settle.quiet_s("a", 12.5) == 2.5


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
    settle = Settle()
    settle.observe({"a": STAMP, "b": STAMP}, 0.0)

    settle.observe({"a": changed, "b": STAMP}, 5.0)

    assert settle.quiet_s("a", 6.0) == 1.0
    assert settle.quiet_s("b", 6.0) == 6.0


def test_a_change_back_is_a_change() -> None:
    """A file that looks again as it did before the last change has been quiet only since then."""
    settle = Settle()
    for now, stamp in enumerate([STAMP, STAMP._replace(size=9), STAMP]):
        settle.observe({"a": stamp}, float(now))

    assert settle.quiet_s("a", 4.0) == 2.0


def test_a_file_that_was_away_is_new() -> None:
    """A file missing from one scan is forgotten, and counts from zero when it returns."""
    settle = Settle()
    settle.observe({"a": STAMP}, 0.0)
    settle.observe({}, 1.0)

    settle.observe({"a": STAMP}, 2.0)

    assert settle.quiet_s("a", 3.0) == 1.0


def test_a_file_not_in_the_last_scan_has_no_answer() -> None:
    """Asking for an unknown file is a defect."""
    settle = Settle()
    settle.observe({"a": STAMP}, 0.0)
    settle.observe({}, 1.0)

    with pytest.raises(KeyError):
        settle.quiet_s("a", 1.0)
