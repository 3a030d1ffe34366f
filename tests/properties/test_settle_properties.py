"""Under any interleaving of writes, pauses, renames and scans, quiet means unchanged."""

from __future__ import annotations

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from daemon.inbox.settle import Settle
from daemon.job import Stamp

NAMES = st.sampled_from(["a", "b", "c"])


class Interleaving(RuleBasedStateMachine):
    """A folder with writers, a clock, and a Settle that scans now and then."""

    def __init__(self) -> None:
        """Begin with an empty folder and no scan."""
        super().__init__()
        self.settle = Settle()
        self.now = 100.0
        self.files: dict[str, Stamp] = {}
        self.changes: dict[str, list[tuple[float, Stamp | None]]] = {}
        self.scans: list[tuple[float, dict[str, Stamp]]] = [(self.now, {})]
        self.inode = 0

    def _put(self, name: str, stamp: Stamp | None) -> None:
        if stamp is None:
            self.files.pop(name, None)
        else:
            self.files[name] = stamp
        changes = self.changes.setdefault(name, [])
        if not changes or changes[-1][1] != stamp:
            changes.append((self.now, stamp))

    @rule(quarters=st.integers(0, 1000))
    def wait(self, quarters: int) -> None:
        """Let time pass; only `now` knows of it."""
        self.now += quarters / 4

    @rule(name=NAMES, size=st.integers(0, 3), mtime_ns=st.integers(-2, 2))
    def write(self, name: str, size: int, mtime_ns: int) -> None:
        """Write to a file in place; the share's clock is anything, and may go backwards."""
        if name in self.files:
            self._put(name, self.files[name]._replace(size=size, mtime_ns=mtime_ns))

    @rule(name=NAMES, size=st.integers(0, 3))
    def create(self, name: str, size: int) -> None:
        """Make a file, or one in the place of another, which gets an inode of its own."""
        self.inode += 1
        self._put(name, Stamp(1, self.inode, size, 0))

    @rule(name=NAMES, other=NAMES)
    def rename(self, name: str, other: str) -> None:
        """Put a file in another's place; its stamp goes with it."""
        if name in self.files and name != other:
            self._put(other, self.files[name])
            self._put(name, None)

    @rule(name=NAMES)
    def remove(self, name: str) -> None:
        """Take a file away."""
        self._put(name, None)

    @rule()
    def scan(self) -> None:
        """Observe everything as it is."""
        self.settle.observe(dict(self.files), self.now)
        self.scans.append((self.now, dict(self.files)))

    @invariant()
    def quiet_is_the_time_over_which_all_scans_saw_the_same(self) -> None:
        """The answer is exact: back to the first of the latest scans that agree."""
        for name, stamp in self.scans[-1][1].items():
            since = self.now
            for time, seen in reversed(self.scans):
                if seen.get(name) != stamp:
                    break
                since = time
            assert self.settle.quiet_s(name, self.now) == self.now - since

    @invariant()
    def nothing_is_quiet_longer_than_since_its_change(self) -> None:
        """A stamp that a name never had before cannot have been quiet before it was there."""
        scanned_at, seen = self.scans[-1]
        for name, stamp in seen.items():
            times = [time for time, state in self.changes[name] if state == stamp and time <= scanned_at]
            assert self.settle.quiet_s(name, self.now) <= self.now - times[0]


TestInterleaving = Interleaving.TestCase
