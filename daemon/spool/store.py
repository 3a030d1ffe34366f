"""The spool's operations: accept, claim, end, the operator's verbs, recovery."""

from __future__ import annotations

import contextlib
import fcntl
import functools
import itertools
import json
import os
import time
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from daemon import files
from daemon.errors import Failure, JobError, NotReady, NotTaken, Reason
from daemon.job import Job, Part, Stamp, State, job_id, printable

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from daemon.job import Drop, DropPart

_JOB: Final = "job.json"
_FAILURE: Final = "failure.json"
_ATTEMPTS: Final = "attempts.jsonl"
_CANCEL: Final = "cancel"
_FACTS: Final = "facts.json"
_RETIRED: Final = "retired"
_LOCK_TRIES: Final = 20
_LOCK_PAUSE_S: Final = 0.05


@dataclass(frozen=True)
class Entry:
    """One job where it lies."""

    state: State
    id: str
    folder: Path

    @functools.cached_property
    def job(self) -> Job | None:
        """Its job.json, read when first asked for; None where it cannot be read."""
        try:
            return Job.from_json((self.folder / _JOB).read_bytes())
        except (FileNotFoundError, ValueError, KeyError, TypeError):
            return None

    @property
    def label(self) -> str:
        """The name people know it by."""
        return self.job.label if self.job else self.id

    @property
    def inputs(self) -> Path:
        """The accepted files."""
        return self.folder / "in"

    @property
    def out(self) -> Path:
        """What is to be published."""
        return self.folder / "out"

    def input(self, part: Part) -> Path:
        """The accepted bytes of one part."""
        return self.inputs / part.stored

    @property
    def attempts(self) -> list[dict[str, Any]]:
        """Every record of an attempt, oldest first; a torn last line is passed over."""
        try:
            lines = (self.folder / _ATTEMPTS).read_bytes().splitlines()
        except FileNotFoundError:
            return []
        records = []
        for line in lines:
            with contextlib.suppress(ValueError):
                records.append(json.loads(line))
        return [record for record in records if isinstance(record, dict) and "event" in record]

    @property
    def attempts_used(self) -> int:
        """Attempts that count: started since the last retry and not ended by a stop or the surroundings.

        Of two starts in a row the first never left the queue, and an end recorded twice is one end.
        """
        used, is_open = 0, False
        for record in self.attempts:
            if record["event"] == "retried":
                used = 0
            elif is_open and record["event"] not in {"started", "interrupted"}:
                used += 1
            is_open = record["event"] == "started"
        return used + is_open

    @property
    def failure(self) -> Failure | None:
        """Why it failed, where it did."""
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
            return Failure.from_dict(json.loads((self.folder / _FAILURE).read_bytes()))
        return self.job.failure if self.job else None

    @property
    def facts(self) -> dict[str, Any]:
        """What `job.completed` shall say once the painted picture is published."""
        with contextlib.suppress(OSError, ValueError):
            facts = json.loads((self.folder / _FACTS).read_bytes())
            return facts if isinstance(facts, dict) else {}
        return {}

    @property
    def is_cancelled(self) -> bool:
        """Whether an operator asked to end it."""
        return (self.folder / _CANCEL).exists()

    @property
    def is_retired(self) -> bool:
        """Whether its originals are known to have left the inbox, or to be somebody's new files."""
        return (self.folder / _RETIRED).exists()


@dataclass(frozen=True)
class Claim:
    """One job taken for work: it lies in `running/` and its attempt is on record."""

    entry: Entry
    job: Job
    attempt: int


@dataclass(frozen=True)
class Recovery:
    """What recovery found: published but not ended, cut off and queued again, unreadable."""

    completed: list[Entry]
    requeued: list[Entry]
    corrupt: list[Entry]


class Spool:
    """The daemon's own directory tree on a local disk."""

    def __init__(self, root: Path, clock: Callable[[], datetime] = lambda: datetime.now(UTC)) -> None:
        """Look at a spool; nothing is created before `prepare`."""
        self.root = root
        self._clock = clock
        self._tmp = root / "tmp"
        self._next_sequence = 1
        self._orders: dict[str, tuple[int, int]] = {}

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
            for folder in (self._tmp, *(self.folder(state) for state in State)):
                files.make_folder(folder, mode=0o700)
        except OSError as error:
            raise NotReady(f"spool {self.root}: {error.strerror}") from error

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Be the only daemon of this spool.

        Raises:
            NotReady: another process is.
        """
        fd = os.open(self.root / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
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

    def entries(self, state: State) -> list[Entry]:
        """List the jobs in one state in the order they are worked off."""
        found = (Entry(state, id_, self.folder(state) / id_) for id_ in self._ids(state))
        return sorted(found, key=self._order)

    def _ids(self, state: State) -> list[str]:
        try:
            with os.scandir(self.folder(state)) as items:
                return [item.name for item in items if item.is_dir(follow_symlinks=False)]
        except FileNotFoundError:
            return []

    def count(self, state: State) -> int:
        """Count the jobs in one state without reading them."""
        return len(self._ids(state))

    def _order(self, entry: Entry) -> tuple[int, int]:
        """Higher priority first, then first come, first served; job.json never changes, so it is read once."""
        if entry.id not in self._orders:
            job = entry.job
            if job is None:
                return (0, 0)
            self._orders[entry.id] = (-job.priority, job.sequence)
        return self._orders[entry.id]

    def all_entries(self) -> Iterator[Entry]:
        """List every job of every state."""
        for state in State:
            yield from self.entries(state)

    def find(self, prefix: str) -> list[Entry]:
        """Find jobs by an id's beginning, or by the name of their outbox entry."""
        name = prefix.removesuffix(".failed")
        label, _, short = name.rpartition("-")
        wanted = short if label else name
        found = [
            Entry(state, id_, self.folder(state) / id_)
            for state in State
            for id_ in self._ids(state)
            if id_.startswith(wanted)
        ]
        return [entry for entry in found if not label or (entry.job and name.startswith(entry.job.label))]

    # Accepting

    def accept(
        self,
        drop: Drop,
        *,
        max_bytes: int,
        max_megapixels: float,
        believes_faults: bool,
        versions: dict[str, str],
    ) -> Entry:
        """Take a drop: copy and hash it, check the pictures, and commit it with one rename.

        From the return on, the daemon owes a result. A faulty drop is taken too, with its failure on record; it
        goes straight to `running/`, where no claim finds it, for the caller to end. A drop that was committed
        before, with an error after the rename, gives the same entry again, wherever it lies by now.

        Args:
            drop: the files as the scan saw them.
            max_bytes: the largest file taken.
            max_megapixels: the largest picture taken.
            believes_faults: False while the files are young, so that a picture that does not decode is taken
                for one that is still being written.
            versions: of the programs, for the record.

        Raises:
            NotTaken: the drop changed or may not be complete; it stays in the inbox.
            OSError: the spool's disk does not take it.
        """
        draft = self._tmp / f"draft-{os.getpid()}-{self._next_sequence}"
        files.remove_tree(draft)
        (draft / "in").mkdir(parents=True, mode=0o700)
        try:
            parts, failure = self._copy(drop, draft / "in", max_bytes)
            failure = drop.failure or failure or self._look(drop, parts, draft / "in", max_megapixels)
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
    ) -> Entry:
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
        files.write(draft / _JOB, job.to_json())
        files.fsync_folder(draft / "in")
        files.fsync_folder(draft)
        state = State.RUNNING if failure else State.QUEUED
        target = self.folder(state) / job.id
        files.move(draft, target)
        self._next_sequence += 1
        return Entry(state, job.id, target)

    def _copy(self, drop: Drop, target: Path, max_bytes: int) -> tuple[list[Part], Failure | None]:
        """Copy every part; a file over the cap is kept out, and is the failure."""
        parts, failure, counts = [], None, dict.fromkeys(("sidecar", "content", "style", "init"), 0)
        for item in drop.parts:
            stored = f"{item.role}-{counts[item.role]}{_safe_suffix(item.name)}"
            counts[item.role] += 1
            digest = ""
            if item.stamp.size > max_bytes:
                failure = failure or _too_large(item, max_bytes)
            else:
                digest = _copy_part(item, target / stored, max_bytes)
            if item.role == "sidecar" and drop.sidecar_sha256 not in {None, digest}:
                raise NotTaken(f"{printable(item.name)} changed while it was read")
            parts.append(
                Part(item.role, item.name, stored, *item.stamp, digest, item.weight, library=item.library)
            )
        return parts, failure

    def _look(self, drop: Drop, parts: list[Part], folder: Path, max_megapixels: float) -> Failure | None:
        """Decode every picture whole: half a JPEG passes anything less."""
        from daemon import images  # noqa: PLC0415 - `status` starts faster without numpy and Pillow

        for part in parts:
            if part.role == "sidecar" or not part.sha256:
                continue
            name = printable(part.name)
            try:
                height, width = images.read(folder / part.stored, max_megapixels, name).shape[:2]
                size = drop.settings.road[0][0] if drop.settings else "original"
                if part.role != "init":  # which is cropped to the content's shape
                    images.fit(height, width, max(height, width) if size == "original" else size)
            except JobError as error:
                return Failure(**{**vars(error.failure), "file": name})
        return None

    def _identify(self, parts: tuple[Part, ...]) -> tuple[str, Entry | None]:
        """Find the drop's id, and its entry where it was committed before.

        A retired job of the same id was an earlier drop in reused inodes; one that is not retired yet is this
        very drop.
        """
        for generation in itertools.count():
            found = job_id(parts, generation)
            places = [Entry(state, found, self.folder(state) / found) for state in State]
            present = [entry for entry in places if entry.folder.exists()]
            if not present:
                return found, None
            if not any(entry.is_retired for entry in present):
                return found, present[0]
        raise AssertionError

    # Working

    def claim(self) -> Claim | None:
        """Take the next queued job: its attempt goes on record, then it moves to `running/`."""
        for entry in self.entries(State.QUEUED):
            if entry.job is None:
                continue  # recovery sorts it out
            with contextlib.suppress(FileNotFoundError):  # an operator held it this instant
                self._record(entry, "started")
                attempt = entry.attempts_used  # read before the move: an error after it would strand the job
                return Claim(self._taken(entry), entry.job, attempt)
        return None

    def keep_facts(self, entry: Entry, facts: dict[str, Any]) -> None:
        """Keep what `job.completed` shall say, in case that the publication has to wait for another run."""
        files.replace(entry.folder / _FACTS, json.dumps(facts).encode("ascii"))

    def complete(self, claim: Claim) -> None:
        """End a published job; what was published need not be kept twice."""
        ended = self._moved(claim.entry, State.DONE)
        self._note(ended, "completed")
        files.remove_tree(ended.out)

    def take_cancelled(self) -> Iterator[Entry]:
        """Take every queued or held job that an operator cancelled, for the caller to end."""
        for state in (State.QUEUED, State.HELD):
            for entry in self.entries(state):
                if entry.is_cancelled and entry.job:
                    with contextlib.suppress(FileNotFoundError):  # claimed this instant: the worker sees it
                        yield self._taken(entry)

    def note_failure(self, entry: Entry, failure: Failure) -> None:
        """Write down why a job fails, before its failure is published and it moves."""
        files.replace(entry.folder / _FAILURE, json.dumps(asdict(failure)).encode("ascii"))

    def fail(self, entry: Entry, failure: Failure) -> Entry:
        """End a job that cannot be done; after an error, to be called again."""
        ended = self._moved(entry, State.FAILED)
        if not (ended.folder / _FAILURE).exists():
            self.note_failure(ended, failure)
        self._note(ended, "failed", reason=failure.reason.value)
        return ended

    def requeue(self, entry: Entry, event: str, reason: str) -> Entry:
        """Put a running job back: `interrupted` uses no attempt, `crashed` does.

        What it had ready for the outbox stays with it.
        """
        self._note(entry, event, reason=reason)
        return self._moved(entry, State.QUEUED)

    # Operators' verbs

    def hold(self, entry: Entry) -> Entry:
        """Keep a queued job from being started."""
        return self._moved(entry, State.HELD)

    def release(self, entry: Entry) -> Entry:
        """Let a held job be started."""
        return self._moved(entry, State.QUEUED)

    def retry(self, entry: Entry) -> Entry:
        """Queue a failed job again, with its attempts counted afresh."""
        self._record(entry, "retried")
        (entry.folder / _FAILURE).unlink(missing_ok=True)
        (entry.folder / _CANCEL).unlink(missing_ok=True)
        files.remove_tree(entry.out)
        return self._moved(entry, State.QUEUED)

    def ask_cancel(self, entry: Entry) -> None:
        """Ask whoever works on the spool to end a job."""
        files.append_line(entry.folder / _CANCEL, self._now())

    # Retiring originals

    def unretired(self) -> list[Entry]:
        """List the jobs whose originals may still lie in the inbox."""
        return [entry for entry in self.all_entries() if entry.job and not entry.is_retired]

    def set_retired(self, id: str) -> None:  # noqa: A002 - what it is
        """Remember that a job's originals are dealt with, wherever the job lies by now."""
        for state in (*State, *State):  # twice: it may move from a state not yet looked at to one that was
            with contextlib.suppress(FileNotFoundError, NotADirectoryError):
                folder = self.folder(state) / id
                os.close(os.open(folder / _RETIRED, os.O_CREAT | os.O_WRONLY | os.O_CLOEXEC, 0o600))
                return

    # Recovery

    def recover(self, is_published: Callable[[Job], bool]) -> Recovery:
        """Bring the tree to rest after any end of the last run. Needs the lock.

        Args:
            is_published: tells whether a job's result already lies whole in the outbox.
        """
        for draft in self._tmp.iterdir():
            files.remove_tree(draft)
        done = Recovery([], [], [])
        for entry in self.entries(State.RUNNING):
            if entry.job is None:
                done.corrupt.append(self._fail_corrupt(entry))
            elif is_published(entry.job):
                self.complete(Claim(entry, entry.job, entry.attempts_used))
                done.completed.append(entry)
            else:
                done.requeued.append(self.requeue(entry, "crashed", "the service ended while it ran"))
        unreadable = [entry for entry in self.entries(State.QUEUED) if entry.job is None]
        done.corrupt.extend(self._fail_corrupt(entry) for entry in unreadable)
        sequences = [entry.job.sequence for entry in self.all_entries() if entry.job]
        self._next_sequence = max(sequences, default=0) + 1
        return done

    def _fail_corrupt(self, entry: Entry) -> Entry:
        return self.fail(entry, Failure(Reason.CORRUPT, "the spool's record of this job cannot be read"))

    def _taken(self, entry: Entry) -> Entry:
        """Move a job to `running/`, where an error must mean that it did not move, or no one would end it.

        So without fsync: if a power cut undoes the rename, the job is where it was.
        """
        target = self.folder(State.RUNNING) / entry.id
        entry.folder.rename(target)
        return Entry(State.RUNNING, entry.id, target)

    def _moved(self, entry: Entry, state: State) -> Entry:
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
        return Entry(state, entry.id, target)

    def _note(self, entry: Entry, event: str, **facts: Any) -> None:
        """Record what is good to know but must not stop an ending: a rename needs no space, a record does."""
        with contextlib.suppress(OSError):
            self._record(entry, event, **facts)

    def _record(self, entry: Entry, event: str, **facts: Any) -> None:
        record = {"event": event, "at": self._now(), **facts}
        files.append_line(entry.folder / _ATTEMPTS, json.dumps(record))

    def _now(self) -> str:
        return self._clock().isoformat(timespec="milliseconds")


def _safe_suffix(name: str) -> str:
    suffix = Path(name).suffix.lower()
    return suffix if suffix.isascii() and suffix[1:].isalnum() and len(suffix) <= 6 else ""  # noqa: PLR2004


def _too_large(item: DropPart, max_bytes: int) -> Failure:
    name = printable(item.name)
    return Failure(
        Reason.FILE_TOO_LARGE,
        f"{name}: {item.stamp.size} bytes is more than {max_bytes}",
        hint="use a smaller file, or raise inbox.max_file_mb",
        file=name,
    )


def _copy_part(item: DropPart, target: Path, max_bytes: int) -> str:
    """Copy one part if it is still, and remains, the file that was seen."""
    try:
        fd = files.open_regular(item.folder, item.name)
    except (files.ChangedError, OSError) as error:
        raise NotTaken(f"{printable(item.name)}: {getattr(error, 'strerror', None) or error}") from None
    try:
        if Stamp.of(os.fstat(fd)) != item.stamp:
            raise NotTaken(f"{printable(item.name)} changed")
        digest = files.copy_hashed(fd, target, max_bytes)
        if Stamp.of(os.fstat(fd)) != item.stamp:
            raise NotTaken(f"{printable(item.name)} changed while it was copied")
    except files.TooLargeError:
        raise NotTaken(f"{printable(item.name)} grew while it was copied") from None
    except files.SourceError as error:
        raise NotTaken(f"{printable(item.name)} cannot be read: {error}") from None
    finally:
        os.close(fd)
    return digest
