"""Under any interleaving of writes, pauses, renames and scans, quiet means unchanged, and a copy is whole."""

from __future__ import annotations

import contextlib
import hashlib
import os
from dataclasses import dataclass
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any
from unittest import mock

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test
from support.desk import Desk
from support.trees import folder_in_memory

from daemon import config as config_module
from daemon import files
from daemon.inbox.scan import last_changes
from daemon.job import Stamp
from daemon.lifeline import Lifeline
from daemon.sandbox.client import Found
from daemon.spool import Spool

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from daemon.job import Drop
    from daemon.spool import Draft, StoredJob

NAMES = st.sampled_from(["a", "b", "c"])


class Interleaving(RuleBasedStateMachine):
    """A folder with writers, a clock, and scans now and then."""

    def __init__(self) -> None:
        """Begin with an empty folder and no scan."""
        super().__init__()
        self.last_changes: dict[str, tuple[Stamp, float]] = {}
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
        self.last_changes = last_changes(self.files, self.now, self.last_changes)
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
            assert self.last_changes[name] == (stamp, since)

    @invariant()
    def nothing_is_quiet_longer_than_since_its_change(self) -> None:
        """A stamp that a name never had before cannot have been quiet before it was there."""
        scanned_at, seen = self.scans[-1]
        for name, stamp in seen.items():
            times = [time for time, state in self.changes[name] if state == stamp and time <= scanned_at]
            assert self.last_changes[name][1] >= times[0]


TestInterleaving = Interleaving.TestCase


SETTLE_S = 2.0
PARTS = ("sea.yaml", "sea.png", "wave.png")
FILES = st.sampled_from(PARTS)
SIZES = st.sampled_from([0, 0, 7])  # often the same
MEDDLING = st.none() | st.tuples(FILES, st.integers(0, 15), st.integers(0, 2))
OLD_NS = 10**18  # the time that every copied original had


@dataclass
class Writer:
    """Somebody who writes one whole version of a file, bit by bit."""

    path: Path
    version: bytes
    done: int = 0


@dataclass
class Original:
    """One name in the inbox, as its users know it: nothing of what the daemon does."""

    content: bytes | None = None
    stamp: Stamp | None = None
    changed: float = -1e9  # when that changed last, on the clock that never jumps
    writer: Writer | None = None


class Copying(Lifeline):
    """A lifeline that lets something happen at each heartbeat: with every piece of a copy comes one."""

    def __init__(self, act: Callable[[], None]) -> None:
        super().__init__()
        self._act = act

    def beat(self) -> None:
        """Act."""
        self._act()


class Writers(RuleBasedStateMachine):
    """Real files with writers of every habit; an intake that looks now and then, and really copies."""

    def __init__(self) -> None:
        """Begin with an empty inbox."""
        super().__init__()
        self.stack = contextlib.ExitStack()
        base = self.stack.enter_context(folder_in_memory())
        self.stack.enter_context(mock.patch.object(files, "_CHUNK", 16))  # so that a copy takes several reads
        options = {"inbox": {"settle_s": SETTLE_S}}
        config = config_module.build(options, base, environment={})
        self.inbox = config.folders.inbox
        self.inbox.mkdir(parents=True)
        # Anything is a picture, so that torn ones would be taken.
        decoder: Any = SimpleNamespace(inspect=lambda *_, **__: ((64, 64), Found()))
        self.desk = Desk(config, decoder, Copying(self._meddle))
        self.spool = self.desk.spool
        self.spool.draft = self._draft  # type: ignore[method-assign]
        self.spool.commit = self._commit  # type: ignore[method-assign]
        self.now = 1000.0
        self.wall_ns = 2 * OLD_NS
        self.originals = {name: Original() for name in PARTS}
        self.versions = 0
        self.meddling: list[tuple[str, int, int]] = []
        self.accepted = 0

    def teardown(self) -> None:
        """Remove everything."""
        self.stack.close()

    def _stamped(self, path: Path, *, is_old: bool = False) -> None:
        """Give a file its time, as the file system does; no two changes fall on the same nanosecond."""
        self.wall_ns += 1
        time_ns = OLD_NS if is_old else self.wall_ns
        os.utime(path, ns=(time_ns, time_ns))

    def _changed(self, name: str, content: bytes | None) -> None:
        original = self.originals[name]
        path = self.inbox / name
        stamp = Stamp.of(path.stat()) if path.exists() else None
        if stamp != original.stamp:
            original.stamp, original.changed = stamp, self.now
        original.content = content

    def _version(self, name: str, size: int) -> bytes:
        """Make a new whole version; the same size twice is likely."""
        self.versions += 1
        if name == "sea.yaml":
            text = f"content: sea.png\nstyle: wave.png\nsize: {100 + self.versions}\n"
            return text.encode() + b"#" * size
        return (f"{name} {self.versions} ".encode() * 40)[: 60 + size]

    # Users

    def _is_somebody_writing(self) -> bool:
        return any(original.writer for original in self.originals.values())

    def _is_idle(self, name: str) -> bool:
        return self.originals[name].writer is None

    def _put_what_is_missing(self) -> None:
        for name, original in self.originals.items():
            if original.content is None:
                self._put_whole(name, 0, is_old=True)

    @rule(name=FILES, size=SIZES, is_old=st.booleans())
    def put_whole(self, name: str, size: int, *, is_old: bool) -> None:
        """Rename a whole file into place, over another or not, with its own time or an old one."""
        self._put_whole(name, size, is_old=is_old)

    def _put_whole(self, name: str, size: int, *, is_old: bool) -> None:
        if self._is_idle(name):
            hidden = self.inbox / f".{name}.part"
            version = self._version(name, size)
            hidden.write_bytes(version)
            self._stamped(hidden, is_old=is_old)
            hidden.rename(self.inbox / name)
            self._changed(name, version)

    @rule(name=FILES, size=SIZES, preallocates=st.booleans())
    def begin(self, name: str, size: int, *, preallocates: bool) -> None:
        """Open a file in place, cut it to nothing or to its later size, and write nothing yet."""
        if self._is_idle(name):
            writer = Writer(self.inbox / name, self._version(name, size))
            content = bytes(len(writer.version)) if preallocates else b""
            writer.path.write_bytes(content)
            self._stamped(writer.path)
            self.originals[name].writer = writer
            self._changed(name, content)

    @precondition(lambda self: self._is_somebody_writing())
    @rule(name=FILES, count=st.integers(1, 80))
    def write(self, name: str, count: int) -> None:
        """Write some more."""
        self._write_some(name, count)

    def _write_some(self, name: str, count: int) -> None:
        writer = self.originals[name].writer
        if writer and writer.path.exists():
            piece = writer.version[writer.done : writer.done + count]
            self._write_at(name, writer.done, piece)
            writer.done += len(piece)

    @precondition(lambda self: self._is_somebody_writing())
    @rule(name=FILES, is_old=st.booleans())
    def finish(self, name: str, *, is_old: bool) -> None:
        """Write the rest, and perhaps give the file the time that its original had."""
        self._finish(name, is_old=is_old)

    def _finish(self, name: str, *, is_old: bool) -> None:
        writer = self.originals[name].writer
        if writer and writer.path.exists():
            self._write_at(name, writer.done, writer.version[writer.done :])
            self._stamped(writer.path, is_old=is_old)
            self._changed(name, writer.version)
        self.originals[name].writer = None

    def _write_at(self, name: str, place: int, piece: bytes) -> None:
        with (self.inbox / name).open("r+b") as file:
            file.seek(place)
            file.write(piece)
        self._stamped(self.inbox / name)
        self._changed(name, (self.inbox / name).read_bytes())

    @rule(name=FILES)
    def remove(self, name: str) -> None:
        """Take a file away."""
        if self._is_idle(name):
            (self.inbox / name).unlink(missing_ok=True)
            self._changed(name, None)

    @rule(name=FILES, other=FILES)
    def rename(self, name: str, other: str) -> None:
        """Put a file in another's place, with the time it has."""
        content = self.originals[name].content
        if name != other and self._is_idle(name) and self._is_idle(other) and content is not None:
            (self.inbox / name).rename(self.inbox / other)
            self._changed(other, content)
            self._changed(name, None)

    # Time

    @rule(quarters=st.integers(1, 12))
    def wait(self, quarters: int) -> None:
        """Let time pass."""
        self.now += quarters / 4

    @rule(seconds=st.integers(-(10**6), 10**6))
    def step_the_clock(self, seconds: int) -> None:
        """Set the clock on the wall, by which files are stamped."""
        self.wall_ns += seconds * 10**9 + 1

    # The daemon

    @rule()
    def look(self) -> None:
        """Turn the intake once."""
        self.desk.intake.turn(self.now)

    @rule(meddling=MEDDLING, is_complete=st.booleans(), writes=st.booleans())
    def look_until_all_is_quiet(
        self, meddling: tuple[str, int, int] | None, *, is_complete: bool, writes: bool
    ) -> None:
        """Look, let all settle, and look again; perhaps somebody meddles during the copy.

        Args:
            meddling: file, number of reads before it, and kind: a write in place, another file, or a removal.
            is_complete: whether missing files are put there first.
            writes: whether writers go on in the middle of it.
        """
        if is_complete:
            self._put_what_is_missing()
        self.desk.intake.turn(self.now)
        self.now += SETTLE_S / 2
        for name in PARTS if writes else ():
            self._write_some(name, 1)
        self.now += SETTLE_S / 2
        self.meddling = [meddling] if meddling else []
        self.desk.intake.turn(self.now)
        self.meddling = []

    @contextlib.contextmanager
    def _draft(self, drop: Drop, max_bytes: int, life: Lifeline) -> Iterator[Draft]:
        self.before = {name: original.content for name, original in self.originals.items()}
        with Spool.draft(self.spool, drop, max_bytes, life) as draft:
            yield draft

    def _commit(self, draft: Draft, versions: dict[str, str]) -> StoredJob:
        entry = Spool.commit(self.spool, draft, versions)
        for part in entry.job.parts:
            self._check(part.name, entry.input(part).read_bytes(), self.before[part.name])
        self.accepted += 1
        return entry

    def _check(self, name: str, taken: bytes, before: bytes | None) -> None:
        """See that what was taken is what lay there whole, and that nobody was about to change it."""
        original = self.originals[name]
        assert taken == before, f"{name}: what was taken is not what lay there"
        if original.content == taken:
            quiet_s = self.now - original.changed
            assert quiet_s >= SETTLE_S, f"{name} changed {quiet_s} s ago"
            original.content = original.stamp = None
            original.writer = None  # somebody who has slept for so long writes on into nothing
        # else somebody put another file in its place during the copy, which stays

    def _meddle(self) -> None:
        """Change a file during the copy of it or of another one."""
        if not self.meddling:
            return
        name, after, how = self.meddling.pop()
        if after:
            self.meddling.append((name, after - 1, how))
        elif self._is_idle(name) and self.originals[name].content:
            if how == 0:
                version = self._version(name, 0)
                (self.inbox / name).write_bytes(version)
                self._stamped(self.inbox / name)
                self._changed(name, version)
            elif how == 1:
                self._put_whole(name, 0, is_old=True)
            else:
                (self.inbox / name).unlink()
                self._changed(name, None)

    @invariant()
    def nothing_is_lost(self) -> None:
        """What users put there and the daemon did not take lies there unchanged."""
        for name, original in self.originals.items():
            path = self.inbox / name
            found = path.read_bytes() if path.exists() else None
            assert found == original.content or (found is None and self._holds(original.content)), name

    def _holds(self, content: bytes | None) -> bool:
        wanted = hashlib.sha256(content or b"").hexdigest()
        jobs = [entry.job for entry in self.spool.all_entries() if entry.job]
        return any(part.sha256 == wanted for job in jobs for part in job.parts)


@pytest.mark.parametrize(
    ("examples", "steps"),
    [
        (30, 50),
        pytest.param(150, 50, marks=pytest.mark.nightly),
        pytest.param(5000, 80, marks=[pytest.mark.slow, pytest.mark.timeout(3600)]),
    ],
)
def test_what_is_taken_is_quiet_and_whole(examples: int, steps: int) -> None:
    """Whatever the habits of those who write, a drop is copied whole, once it was quiet, or stays."""
    options = settings(max_examples=examples, stateful_step_count=steps, deadline=None)
    run_state_machine_as_test(Writers, settings=options)
