"""The spool: jobs as directories, committed, claimed and ended by one rename each, and the operator's verbs."""

from __future__ import annotations

import contextlib
import json
import os
from dataclasses import asdict, dataclass, field
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Final

from daemon import clock, files
from daemon.errors import Failure, NotReady, Reason
from daemon.job import Job, State
from daemon.spool.draft import EXPIRED, copy, identify
from daemon.spool.listing import Listing, order
from daemon.spool.stored_job import ATTEMPTS, CANCEL, FACTS, FAILURE, JOB, RETIRED, Claim, StoredJob

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from daemon.job import Drop
    from daemon.lifeline import Lifeline
    from daemon.spool.draft import Draft

_ENTRIES_A_JOB: Final = 16  # files and folders that accepting one takes
_YEAR: Final = timedelta(days=366)
_CORRUPT: Final = Failure(Reason.CORRUPT, "the spool's record of this job cannot be read")


@dataclass(frozen=True)
class Recovery:
    """The jobs that recovery moved: published but not ended, cut off and queued again, unreadable."""

    completed: list[StoredJob] = field(default_factory=list)
    requeued: list[StoredJob] = field(default_factory=list)
    corrupt: list[StoredJob] = field(default_factory=list)


class Spool(Listing):
    """The daemon's own directory tree on a local disk."""

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self._tmp = root / "tmp"
        self._next_sequence = 1

    def prepare(self) -> None:
        """Create what is missing; raises NotReady where that is not possible."""
        try:
            files.make_folder(self.root, mode=0o700)
            for folder in (self._tmp, self.root / EXPIRED, *(self.folder(state) for state in State)):
                files.make_folder(folder, mode=0o700)
        except OSError as error:
            raise NotReady(f"spool {self.root}: {error.strerror}") from error

    def recover(self, is_published: Callable[[Job], bool]) -> Recovery:
        """Bring the spool, which must be locked, to rest after any end of the last run.

        `is_published` says whether the result of a job already lies whole in the outbox.
        """
        for leftover in self._tmp.iterdir():
            files.remove_tree(leftover)
        found = Recovery()
        for entry in self.entries(State.RUNNING):
            if entry.job is None:
                found.corrupt.append(self.fail(entry, _CORRUPT))
            elif is_published(entry.job):
                found.completed.append(self.complete(entry))
            else:
                found.requeued.append(self.requeue(entry, "crashed", "the service ended while it ran"))
        for entry in self.entries(State.QUEUED):
            if entry.job is None and entry.folder.exists():
                found.corrupt.append(self.fail(entry, _CORRUPT))
        self._next_sequence = max((order(entry)[1] for entry in self.all_entries()), default=0) + 1
        return found

    # Accepting, and retiring the originals

    @contextlib.contextmanager
    def draft(self, drop: Drop, max_bytes: int, life: Lifeline) -> Iterator[Draft]:
        """Copy a drop, to be committed; what is not committed in the end is removed.

        Raises NotReady where the disk has no room for it, NotTaken where the drop changed.
        """
        sizes = [part.size for part in drop.parts if part.size <= max_bytes]
        files.require_room(self._tmp, sum(sizes), _ENTRIES_A_JOB)
        folder = self._tmp / f"draft-{os.getpid()}-{self._next_sequence}"
        files.remove_tree(folder)
        try:
            yield copy(drop, folder, max_bytes, life)
        finally:
            files.remove_tree(folder)

    def commit(self, draft: Draft, versions: dict[str, str]) -> StoredJob:
        """Make a job of a draft with one rename: from then on it survives any crash.

        A faulty one is taken too, with its failure on record; it goes straight to `running/`, where no claim
        finds it, for the caller to end. A drop that was committed before, with an error after the rename, gives
        the same job again, wherever it lies by now.
        """
        id_, known = identify(self.root, draft.parts)
        if known is not None:
            files.fsync_folder(known.folder.parent)
            return known
        drop = draft.drop
        job = Job(
            id=id_,
            sequence=self._next_sequence,
            stem=drop.stem,
            folder=str(drop.folder),
            parts=draft.parts,
            preset=drop.preset,
            settings=drop.settings,
            accepted_at=clock.stamp(clock.utc()),
            failure=draft.failure,
            versions=versions,
        )
        files.write(draft.folder / JOB, job.to_json())
        files.fsync_folder(draft.inputs)
        files.fsync_folder(draft.folder)
        entry = StoredJob.at(self.root, State.RUNNING if job.failure else State.QUEUED, id_)
        entry.__dict__["job"] = job  # the worker may have moved it before anybody asks for its record here
        files.move(draft.folder, entry.folder)
        self._next_sequence += 1
        return entry

    def unretired(self) -> list[Job]:
        """List the jobs whose originals may still lie in the inbox."""
        return [entry.job for entry in self.all_entries() if not entry.is_retired and entry.job]

    def set_retired(self, id: str, *, was_removed: bool = True) -> None:  # noqa: A002 - what it is
        """Record, wherever a job lies by now, that its originals were removed or else found gone."""
        for state in (*State, *State):  # twice: it may move from a state not yet looked at to one that was
            with contextlib.suppress(FileNotFoundError, NotADirectoryError):
                (self.folder(state) / id / RETIRED).write_bytes(b"" if was_removed else b"found gone\n")
                return

    # Working

    def claim(self, entry: StoredJob) -> Claim | None:
        """Take a queued job: its attempt goes on record, then it moves to `running/`.

        None where its record cannot be read, which is for recovery, or where it was moved this instant.
        """
        if entry.job is None:
            return None
        with contextlib.suppress(FileNotFoundError):
            progress = entry.progress
            self._record(entry, "started", progress=progress)
            attempt = entry.attempts_used  # read before the move: an error after it would strand the job
            return Claim(self._taken(entry), entry.job, attempt, progress)
        return None

    def keep_facts(self, entry: StoredJob, facts: dict[str, Any]) -> None:
        """Keep the keys of `job.completed`, in case the publication has to wait for another run."""
        files.replace(entry.folder / FACTS, json.dumps(facts).encode("ascii"))

    def complete(self, entry: StoredJob) -> StoredJob:
        """End a published job; what was published need not be kept twice."""
        ended = self._ended(entry, State.DONE)
        self._note(ended, "completed")
        (ended.folder / FAILURE).unlink(missing_ok=True)
        self._clear(ended)
        return ended

    def _clear(self, ended: StoredJob) -> None:
        """Remove what a painting left behind; the inputs stay."""
        files.remove_tree(ended.checkpoints)
        files.remove_tree(ended.out)

    def take_cancelled(self) -> Iterator[StoredJob]:
        """Take every queued or held job that an operator cancelled, for the caller to end.

        A running one is left to whoever runs it. A queued one whose failure is on record was taken before and
        could not be ended; the worker ends it when its turn comes.
        """
        for state in (State.QUEUED, State.HELD):
            for id_ in self.ids(state):
                if not os.path.exists(f"{self.root}/{state.value}/{id_}/{CANCEL}"):  # noqa: PTH110 - faster
                    continue
                entry = StoredJob.at(self.root, state, id_)
                if entry.job and not (state is State.QUEUED and entry.failure):
                    with contextlib.suppress(FileNotFoundError):  # claimed this instant: the worker sees it
                        yield self._taken(entry)

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
        """Put a running job back, with what it had ready for the outbox.

        Of the events, `crashed` uses an attempt; `interrupted` and `exhausted` (out of memory) do not.
        """
        self._note(entry, event, reason=reason)
        return self._ended(entry, State.QUEUED)

    # Operators' verbs

    def hold(self, entry: StoredJob) -> StoredJob:
        """Keep a queued job from being started."""
        self._note(entry, "held")
        return self._moved(entry, State.HELD)

    def release(self, entry: StoredJob) -> StoredJob:
        """Put a held job back into the queue."""
        self._note(entry, "released")
        return self._moved(entry, State.QUEUED)

    def retry(self, entry: StoredJob) -> StoredJob:
        """Queue a failed job again, with no attempt counted."""
        self._record(entry, "retried")
        (entry.folder / FAILURE).unlink(missing_ok=True)
        (entry.folder / CANCEL).unlink(missing_ok=True)
        self._clear(entry)
        return self._moved(entry, State.QUEUED)

    def ask_cancel(self, entry: StoredJob) -> None:
        """Ask whoever works on the spool to end a job."""
        files.append_line(entry.folder / CANCEL, clock.stamp(clock.utc()))

    # Retention

    def expire(self, state: State, age: timedelta) -> list[StoredJob]:
        """Remove, and return, the jobs of one state that ended longer ago than `age`, with their inputs.

        Jobs whose originals may still lie in the inbox stay, or those would be taken for a new drop; so do jobs
        whose record cannot be read. Of the others the id is remembered: their outbox entries may be there.
        """
        gone = []
        for entry in self.all_entries(state):
            with contextlib.suppress(FileNotFoundError):  # an operator retries it this instant
                elapsed = clock.utc() - entry.ended_at
                # Beyond a year too long it is the clock that is wrong.
                if not entry.is_retired or not age <= elapsed < age + _YEAR or entry.job is None:
                    continue
                with contextlib.suppress(FileExistsError):
                    # A second name for the job's own marker: a full disk has no inode for a new file.
                    (self.root / EXPIRED / entry.id).hardlink_to(entry.folder / RETIRED)
                doomed = self._tmp / f"expired-{entry.id}"
                entry.folder.rename(doomed)  # out of sight at once; recovery removes what is left
                files.remove_tree(doomed)
                gone.append(entry)
        return gone

    # Moves and records

    def _taken(self, entry: StoredJob) -> StoredJob:
        """Move a job to `running/` without fsync.

        A failing fsync after the rename would leave a job in `running/` that nobody works on. After a power cut
        the job is simply still queued.
        """
        taken = StoredJob.at(self.root, State.RUNNING, entry.id)
        entry.folder.rename(taken.folder)
        return taken

    def _moved(self, entry: StoredJob, state: State) -> StoredJob:
        """Move a job, or find it moved already: an ending can be tried again. Else FileNotFoundError."""
        moved = StoredJob.at(self.root, state, entry.id)
        try:
            files.move(entry.folder, moved.folder)
        except FileNotFoundError:
            if not moved.folder.exists():
                raise
        return moved

    def _ended(self, entry: StoredJob, state: State) -> StoredJob:
        """Move a job out of `running/`; if it is in neither place by now, an operator moved it on already."""
        with contextlib.suppress(FileNotFoundError):
            return self._moved(entry, state)
        return StoredJob.at(self.root, state, entry.id)

    def _note(self, entry: StoredJob, event: str, **facts: Any) -> None:
        """Record what is useful but must not stop an ending: a rename needs no space, a record does."""
        with contextlib.suppress(OSError):
            self._record(entry, event, **facts)

    def _record(self, entry: StoredJob, event: str, **facts: Any) -> None:
        record = {"event": event, "at": clock.stamp(clock.utc()), **facts}
        files.append_line(entry.folder / ATTEMPTS, json.dumps(record))
