"""The spool's operations: accept, claim, end, the operator's verbs, recovery."""

from __future__ import annotations

import contextlib
import fcntl
import itertools
import json
import os
import time
from dataclasses import asdict
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Final

from daemon import clock, files
from daemon.errors import Failure, NotReady, NotTaken, Reason
from daemon.job import Job, State, job_id
from daemon.spool.draft import copy, look
from daemon.spool.stored_job import ATTEMPTS, CANCEL, FACTS, FAILURE, JOB, RETIRED, Claim, Recovery, StoredJob

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from datetime import datetime
    from pathlib import Path

    from daemon.job import Drop, Part

_LOCK_TRIES: Final = 20
_LOCK_PAUSE_S: Final = 0.05
_ENTRIES_A_JOB: Final = 16  # files and folders that accepting one takes
EXPIRED: Final = "expired"  # ids of jobs that are forgotten, empty files
_ASKED: Final = "asked"  # grows when an operator asks for something


class Spool:
    """The daemon's own directory tree on a local disk."""

    def __init__(self, root: Path, now: Callable[[], datetime] = clock.utc) -> None:
        """Look at a spool; nothing is created before `prepare`."""
        self.root = root
        self._clock = now
        self._tmp = root / "tmp"
        self._next_sequence = 1
        self._orders: dict[str, tuple[int, int]] = {}
        self._seen = -1  # the asking that was answered

    def folder(self, state: State) -> Path:
        """Give the directory of one state."""
        return self.root / state.value

    def prepare(self) -> None:
        """Create what is missing.

        Raises:
            NotReady: it cannot be created or written.
        """
        try:
            files.make_folder(self.root, mode=0o700)
            for folder in (self._tmp, self.root / EXPIRED, *(self.folder(state) for state in State)):
                files.make_folder(folder, mode=0o700)
        except OSError as error:
            raise NotReady(f"spool {self.root}: {error.strerror}") from error

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Be the only daemon of this spool.

        Raises:
            NotReady: another process is.
        """
        try:
            fd = os.open(self.root / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise NotReady(f"spool {self.root}: {error.strerror}") from error
        try:
            for tries_left in reversed(range(_LOCK_TRIES)):  # `status` holds it shared for an instant
                try:
                    fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                except BlockingIOError:
                    if not tries_left:
                        raise NotReady(f"spool {self.root}: another styletransferd works here") from None
                    time.sleep(_LOCK_PAUSE_S)
            yield
        finally:
            os.close(fd)

    def is_locked(self) -> bool:
        """Tell whether a daemon works on this spool now."""
        try:
            fd = os.open(self.root / "lock", os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            return False
        try:
            fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        finally:
            os.close(fd)
        return False

    # Reading

    def entries(self, state: State) -> list[StoredJob]:
        """List the jobs in one state in the order they are worked off."""
        return sorted(self._unsorted(state), key=self._order)

    def _unsorted(self, state: State) -> list[StoredJob]:
        return [StoredJob(state, id_, self.folder(state) / id_) for id_ in self._ids(state)]

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

    # Accepting

    def accept(
        self,
        drop: Drop,
        *,
        max_bytes: int,
        inspect: Callable[[Path, str], tuple[int, int]],
        believes_faults: bool,
        versions: dict[str, str],
        beat: Callable[[], None] = lambda: None,
    ) -> StoredJob:
        """Take a drop: copy and hash it, check the pictures, and commit it with one rename.

        From the return on, the daemon owes a result. A faulty drop is taken too, with its failure on record; it
        goes straight to `running/`, where no claim finds it, for the caller to end. A drop that was committed
        before, with an error after the rename, gives the same entry again, wherever it lies by now.

        Args:
            drop: the files as the scan saw them.
            max_bytes: the largest file taken.
            inspect: decodes a picture whole and gives its (height, width); see `Decoder.size`.
            believes_faults: False while the files are young, so that a picture that does not decode is taken
                for one that is still being written.
            versions: of the programs, for the record.
            beat: called now and then, to show that a long copy is alive.

        Raises:
            NotReady: the spool's disk has no room for it.
            NotTaken: the drop changed or may not be complete; it stays in the inbox.
            OSError: the spool's disk does not take it.
        """
        sizes = [part.stamp.size for part in drop.parts if part.stamp.size <= max_bytes]
        files.require_room(self._tmp, sum(sizes), _ENTRIES_A_JOB)
        draft = self._tmp / f"draft-{os.getpid()}-{self._next_sequence}"
        files.remove_tree(draft)
        (draft / "in").mkdir(parents=True, mode=0o700)
        try:
            parts, failure = copy(drop, draft / "in", max_bytes, beat)
            failure = drop.failure or failure
            if failure is None:
                parts, failure = look(drop, parts, draft / "in", inspect)
            if failure and not believes_faults:
                raise NotTaken(failure.message)
            return self._commit(drop, draft, tuple(parts), failure, versions)
        finally:
            files.remove_tree(draft)

    def _commit(
        self,
        drop: Drop,
        draft: Path,
        parts: tuple[Part, ...],
        failure: Failure | None,
        versions: dict[str, str],
    ) -> StoredJob:
        id_, known = self._identify(parts)
        if known is not None:
            files.fsync_folder(known.folder.parent)
            return known
        job = Job(
            id=id_,
            sequence=self._next_sequence,
            stem=drop.stem,
            folder=str(drop.folder),
            parts=parts,
            preset=drop.preset,
            settings=drop.settings,
            accepted_at=self._now(),
            failure=failure,
            versions=versions,
        )
        files.write(draft / JOB, job.to_json())
        files.fsync_folder(draft / "in")
        files.fsync_folder(draft)
        state = State.RUNNING if failure else State.QUEUED
        target = self.folder(state) / job.id
        files.move(draft, target)
        self._next_sequence += 1
        return StoredJob.of(job, state, target)

    def _identify(self, parts: tuple[Part, ...]) -> tuple[str, StoredJob | None]:
        """Find the drop's id, and its entry where it was committed before.

        A job of the same id whose originals were removed was an earlier drop, in reused inodes; one whose
        originals were not, or were found gone, is this very drop, perhaps in a folder of another name.
        """
        for generation in itertools.count():
            found = job_id(parts, generation)
            places = [StoredJob(state, found, self.folder(state) / found) for state in State]
            present = [entry for entry in places if entry.folder.exists()]
            if (self.root / EXPIRED / found).exists():
                continue
            if not present:
                return found, None
            if not any(entry.is_retired and not entry.was_moved for entry in present):
                return found, present[0]
        raise AssertionError

    # Working

    def claim(self, check: Callable[[StoredJob], None] = lambda _entry: None) -> Claim | None:
        """Take the next queued job: its attempt goes on record, then it moves to `running/`.

        Args:
            check: raises NotReady where the surroundings have no room for a job; then the next one is taken.

        Raises:
            NotReady: there is no room for any that is queued.
        """
        obstacle: NotReady | None = None
        for entry in self.entries(State.QUEUED):
            if entry.job is None:
                continue  # recovery sorts it out
            try:
                check(entry)
            except NotReady as error:
                obstacle = obstacle or error
                continue
            with contextlib.suppress(FileNotFoundError):  # an operator held it this instant
                progress = entry.progress
                self._record(entry, "started", progress=progress)
                attempt = entry.attempts_used  # read before the move: an error after it would strand the job
                return Claim(self._taken(entry), entry.job, attempt, progress)
        if obstacle is not None:
            raise obstacle
        return None

    def keep_facts(self, entry: StoredJob, facts: dict[str, Any]) -> None:
        """Keep what `job.completed` shall say, in case that the publication has to wait for another run."""
        files.replace(entry.folder / FACTS, json.dumps(facts).encode("ascii"))

    def complete(self, claim: Claim) -> StoredJob:
        """End a published job; what was published need not be kept twice."""
        ended = self._ended(claim.entry, State.DONE)
        self._note(ended, "completed")
        self._clear(ended)
        return ended

    def _clear(self, ended: StoredJob) -> None:
        """Remove what a painting left behind; the inputs stay."""
        self._orders.pop(ended.id, None)
        files.remove_tree(ended.checkpoints)
        files.remove_tree(ended.out)

    def take_cancelled(self) -> Iterator[StoredJob]:
        """Take every queued or held job that an operator cancelled, for the caller to end.

        The jobs are looked through only after somebody asked for something. One whose failure is on record was
        taken before, and its end did not get through: the worker ends it when its turn comes.
        """
        asked = self._last_asked()
        if asked == self._seen:
            return
        self._seen = asked  # before the look: what `requeue` says meanwhile, in another thread, must stand
        try:
            for state in (State.QUEUED, State.HELD):
                for entry in self._unsorted(state):
                    if entry.is_cancelled and entry.job and not (state is State.QUEUED and entry.failure):
                        with contextlib.suppress(FileNotFoundError):  # claimed this instant: the worker sees it
                            yield self._taken(entry)
        except BaseException:
            self._seen = -1
            raise

    def _last_asked(self) -> int:
        """Tell one asking from another; 0 before the first of a run."""
        try:
            return (self.root / _ASKED).stat().st_size
        except FileNotFoundError:
            return 0

    def note_failure(self, entry: StoredJob, failure: Failure) -> None:
        """Write down why a job fails, before its failure is published and it moves."""
        files.replace(entry.folder / FAILURE, json.dumps(asdict(failure)).encode("ascii"))

    def fail(self, entry: StoredJob, failure: Failure) -> StoredJob:
        """End a job that cannot be done; after an error, to be called again."""
        ended = self._ended(entry, State.FAILED)
        if not (ended.folder / FAILURE).exists():
            with contextlib.suppress(FileNotFoundError):  # an operator retries it this instant
                self.note_failure(ended, failure)
        self._note(ended, "failed", reason=failure.reason.value)
        self._clear(ended)
        return ended

    def requeue(self, entry: StoredJob, event: str, reason: str) -> StoredJob:
        """Put a running job back: `interrupted` uses no attempt, `crashed` and `exhausted` do.

        What it had ready for the outbox stays with it.
        """
        self._note(entry, event, reason=reason)
        queued = self._ended(entry, State.QUEUED)
        self._seen = -1  # it may carry a cancel that was passed over until it was moved
        return queued

    # Operators' verbs

    def hold(self, entry: StoredJob) -> StoredJob:
        """Keep a queued job from being started."""
        self._note(entry, "held")
        return self._moved(entry, State.HELD)

    def release(self, entry: StoredJob) -> StoredJob:
        """Let a held job be started."""
        self._note(entry, "released")
        return self._moved(entry, State.QUEUED)

    def retry(self, entry: StoredJob) -> StoredJob:
        """Queue a failed job again, with its attempts counted afresh."""
        self._record(entry, "retried")
        (entry.folder / FAILURE).unlink(missing_ok=True)
        (entry.folder / CANCEL).unlink(missing_ok=True)
        self._clear(entry)
        return self._moved(entry, State.QUEUED)

    def ask_cancel(self, entry: StoredJob) -> None:
        """Ask whoever works on the spool to end a job."""
        files.append_line(entry.folder / CANCEL, self._now())
        files.append_line(self.root / _ASKED, entry.id)  # longer each time, whoever else asks

    # Retiring originals

    def unretired(self) -> list[StoredJob]:
        """List the jobs whose originals may still lie in the inbox."""
        return [entry for entry in self.all_entries() if not entry.is_retired and entry.job]

    def set_retired(self, id: str, *, was_removed: bool = True) -> None:  # noqa: A002 - what it is
        """Remember that a job's originals are dealt with, wherever the job lies by now.

        Args:
            id: of the job.
            was_removed: False where they were found gone.
        """
        for state in (*State, *State):  # twice: it may move from a state not yet looked at to one that was
            with contextlib.suppress(FileNotFoundError, NotADirectoryError):
                flags = os.O_CREAT | os.O_TRUNC | os.O_WRONLY | os.O_CLOEXEC
                with open(os.open(self.folder(state) / id / RETIRED, flags, 0o600), "wb") as file:
                    file.write(b"" if was_removed else b"found gone\n")
                return

    # Retention

    def expire(self, state: State, age: timedelta) -> list[StoredJob]:
        """Forget the jobs that ended longer ago than `age`, with their inputs.

        Jobs whose originals may still lie in the inbox stay, or those would be taken for a new drop; so do jobs
        whose record cannot be read. Of the others the id is remembered, since its outbox entry may be there.
        """
        now = self._clock()
        gone = []
        for entry in self._unsorted(state):
            with contextlib.suppress(FileNotFoundError):  # an operator retries it this instant
                elapsed = now - entry.ended_at
                # Beyond a year too long it is the clock that is wrong.
                if not entry.is_retired or not age <= elapsed < age + timedelta(days=366) or entry.job is None:
                    continue
                self._remember_expired(entry)
                doomed = (
                    self._tmp / f"expired-{entry.id}"
                )  # out of sight at once; recovery removes what is left
                entry.folder.rename(doomed)
                self._orders.pop(entry.id, None)
                files.remove_tree(doomed)
                gone.append(entry)
        return gone

    def _remember_expired(self, entry: StoredJob) -> None:
        """Give the job's own marker a second name, since a full disk has no inode for a new file."""
        with contextlib.suppress(FileExistsError):
            (self.root / EXPIRED / entry.id).hardlink_to(entry.folder / RETIRED)

    # Recovery

    def recover(self, is_published: Callable[[Job], bool]) -> Recovery:
        """Bring the tree to rest after any end of the last run. Needs the lock.

        Args:
            is_published: tells whether a job's result already lies whole in the outbox.
        """
        for leftover in (*self._tmp.iterdir(), self.root / _ASKED):
            files.remove_tree(leftover)
        done = Recovery([], [], [])
        for entry in self.entries(State.RUNNING):
            if entry.job is None:
                done.corrupt.append(self._fail_corrupt(entry))
            elif is_published(entry.job):
                done.completed.append(self.complete(Claim(entry, entry.job, entry.attempts_used)))
            else:
                done.requeued.append(self.requeue(entry, "crashed", "the service ended while it ran"))
        unreadable = [
            entry for entry in self.entries(State.QUEUED) if entry.job is None and entry.folder.exists()
        ]
        done.corrupt.extend(self._fail_corrupt(entry) for entry in unreadable)
        self._next_sequence = max((self._order(entry)[1] for entry in self.all_entries()), default=0) + 1
        return done

    def _fail_corrupt(self, entry: StoredJob) -> StoredJob:
        return self.fail(entry, Failure(Reason.CORRUPT, "the spool's record of this job cannot be read"))

    def _taken(self, entry: StoredJob) -> StoredJob:
        """Move a job to `running/`, where an error must mean that it did not move, or no one would end it.

        So without fsync: if a power cut undoes the rename, the job is where it was.
        """
        target = self.folder(State.RUNNING) / entry.id
        entry.folder.rename(target)
        return StoredJob(State.RUNNING, entry.id, target)

    def _moved(self, entry: StoredJob, state: State) -> StoredJob:
        """Move a job; done twice it is done once, so that an ending can be tried again.

        Raises:
            FileNotFoundError: another process moved it elsewhere first.
        """
        target = self.folder(state) / entry.id
        try:
            files.move(entry.folder, target)
        except FileNotFoundError:
            if not target.exists():
                raise
        return StoredJob(state, entry.id, target)

    def _ended(self, entry: StoredJob, state: State) -> StoredJob:
        """Move a job out of `running/`; where it is in neither place by now, an operator took it on already."""
        with contextlib.suppress(FileNotFoundError):
            return self._moved(entry, state)
        return StoredJob(state, entry.id, self.folder(state) / entry.id)

    def _note(self, entry: StoredJob, event: str, **facts: Any) -> None:
        """Record what is good to know but must not stop an ending: a rename needs no space, a record does."""
        with contextlib.suppress(OSError):
            self._record(entry, event, **facts)

    def _record(self, entry: StoredJob, event: str, **facts: Any) -> None:
        record = {"event": event, "at": self._now(), **facts}
        files.append_line(entry.folder / ATTEMPTS, json.dumps(record))

    def _now(self) -> str:
        return clock.stamp(self._clock())
