"""The spool, whatever is done to it in whatever order, agrees with a model that a child could keep."""

from __future__ import annotations

import contextlib
from collections import Counter
from dataclasses import dataclass
from datetime import timedelta
from types import SimpleNamespace
from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test
from support.desk import accept
from support.trees import claim_next, digest, folder_in_memory

from daemon.errors import Failure, JobError, NotTaken, Reason
from daemon.job import Drop, Part, Stamp, State
from daemon.sandbox.client import Found
from daemon.settings import Settings
from daemon.spool import Spool, StoredJob

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path
    from typing import Any

    from daemon.job import Job
    from daemon.lifeline import Lifeline

NOT_A_PICTURE = b"no picture "
PICK = st.integers(0, 1 << 16)  # which of the jobs that a rule may choose from


def where(*states: State) -> Callable[[Any], Any]:
    """Offer a rule only while a job is in one of these states."""
    return precondition(lambda self: self._in(*states))


@dataclass
class Known:
    """What the model knows of one job."""

    drop: Drop
    hashes: list[str]
    state: State
    priority: int
    sequence: int
    used: int = 0  # attempts that ended and count
    is_open: bool = False  # one was started, and its end is not on record
    progress: int = 0  # the newest checkpoint
    progress_seen: int = 0  # by the latest start
    is_retired: bool = False
    is_cancelled: bool = False
    is_published: bool = False
    failure: Reason | None = None

    @property
    def attempts(self) -> int:
        """How many attempts count."""
        return self.used + self.is_open

    def end_attempt(self, *, counts: bool) -> None:
        """Close the attempt that is open, if one is."""
        self.used += self.is_open and counts
        self.is_open = False


class SpoolMachine(RuleBasedStateMachine):
    """One spool on a real disk, its users, its worker, and the deaths of its process."""

    def __init__(self) -> None:
        """Begin with an empty spool."""
        super().__init__()
        self.stack = contextlib.ExitStack()
        base = self.stack.enter_context(folder_in_memory())
        self.inbox = base / "inbox"
        self.inbox.mkdir()
        self.root = base / "spool"
        self.jobs: dict[str, Known] = {}
        self.expired: set[str] = set()  # the drops of jobs that nobody remembers
        self.next_sequence = 1
        self.dropped = 0
        self.spool = self._opened()

    def teardown(self) -> None:
        """Remove everything."""
        self.stack.close()

    def _opened(self) -> Spool:
        spool = Spool(self.root)
        spool.prepare()
        return spool

    def _in(self, *states: State) -> list[str]:
        return [id_ for id_, known in self.jobs.items() if known.state in states]

    def _entry(self, id_: str) -> StoredJob:
        state = self.jobs[id_].state
        return StoredJob(state, id_, self.spool.folder(state) / id_)

    def _some(self, pick: int, *states: State) -> tuple[StoredJob, Known]:
        """Pick a job in one of the states."""
        ids = self._in(*states)
        id_ = ids[pick % len(ids)]
        return self._entry(id_), self.jobs[id_]

    # Accepting

    def _accept(self, drop: Drop, *, believes: bool = True) -> StoredJob:
        return accept(
            self.spool, drop, believes=believes, max_bytes=100, decoder=SimpleNamespace(inspect=_inspect)
        )

    def _drop(self, priority: int, content: bytes) -> Drop:
        """Make two files and say what they ask for."""
        self.dropped += 1
        parts = []
        for role, data in (("content", content), ("style", b"a style ")):
            path = self.inbox / f"{role}-{self.dropped}.png"
            path.write_bytes(data + str(self.dropped).encode())
            parts.append(Part(role, path.name).seen(Stamp.of(path.stat())))  # type: ignore[arg-type]
        return Drop(f"drop-{self.dropped}", self.inbox, tuple(parts), "default", Settings(priority=priority))

    def _enter(self, entry: StoredJob, drop: Drop, failure: Reason | None) -> None:
        hashes = sorted(digest((self.inbox / part.name).read_bytes()) for part in drop.parts)
        self.jobs[entry.id] = Known(
            drop, hashes, entry.state, drop.settings.priority, self.next_sequence, failure=failure
        )
        self.next_sequence += 1

    @rule(priority=st.integers(-2, 2))
    def accept_a_good_drop(self, priority: int) -> None:
        """Take what is whole: it is queued."""
        drop = self._drop(priority, b"a picture ")
        entry = self._accept(drop)
        assert entry.id not in self.jobs
        assert entry.state == State.QUEUED
        self._enter(entry, drop, None)

    @rule(priority=st.integers(-2, 2), believes=st.booleans())
    def accept_a_faulty_drop(self, priority: int, *, believes: bool) -> None:
        """Take what is no picture once that is believed: it goes past the queue."""
        drop = self._drop(priority, NOT_A_PICTURE)
        if not believes:
            with pytest.raises(NotTaken):
                self._accept(drop, believes=False)
            return
        entry = self._accept(drop)
        assert entry.state == State.RUNNING
        self._enter(entry, drop, Reason.NOT_A_PICTURE)

    @rule()
    def accept_a_drop_that_changes(self) -> None:
        """Take nothing of what is not what the scan saw."""
        drop = self._drop(0, b"a picture ")
        (self.inbox / drop.parts[-1].name).write_bytes(b"another style")
        with pytest.raises(NotTaken):
            self._accept(drop)

    @precondition(lambda self: self._known_drops())
    @rule(pick=PICK)
    def accept_the_same_drop_again(self, pick: int) -> None:
        """Know a drop whose originals are still there; once they were dealt with, it is a new one."""
        ids = self._known_drops()
        known = self.jobs[ids[pick % len(ids)]]
        twins = [job for job, other in self.jobs.items() if other.drop is known.drop and not other.is_retired]
        entry = self._accept(known.drop)
        if twins:
            assert entry.id in twins
            assert entry.state == self.jobs[entry.id].state
            return
        assert entry.id not in self.jobs
        faulty = known.failure if known.failure == Reason.NOT_A_PICTURE else None
        self._enter(entry, known.drop, faulty)

    def _known_drops(self) -> list[str]:
        return [id_ for id_, known in self.jobs.items() if known.drop.stem not in self.expired]

    # Working

    @where(State.QUEUED)
    @rule()
    def claim(self) -> None:
        """Take the first of the queue."""
        self._claim()

    @where(State.QUEUED)
    @rule(
        paints=st.booleans(),
        end=st.sampled_from(["interrupted", "crashed", "exhausted", "died", "died during a record"]),
    )
    def work_in_vain(self, end: str, *, paints: bool) -> None:
        """Take the first of the queue, come further or not, and end without a result."""
        id_ = self._claim()
        if paints:
            self._paint(self._entry(id_), self.jobs[id_])
        if end.startswith("died"):
            self._die(is_torn=end != "died")
        else:
            self._requeue(self._entry(id_), self.jobs[id_], end)

    def _claim(self) -> str:
        """Take the first of the queue; its attempt is on record."""
        queue = self._order(State.QUEUED)
        claim = claim_next(self.spool)
        assert claim.entry.id == queue[0]
        known = self.jobs[claim.entry.id]
        known.end_attempt(counts=False)
        if known.progress > known.progress_seen:
            known.used, known.progress_seen = 0, known.progress
        known.is_open, known.state = True, State.RUNNING
        assert claim.attempt == known.attempts
        return claim.entry.id

    @where(State.RUNNING)
    @rule(pick=PICK)
    def paint(self, pick: int) -> None:
        """Leave a checkpoint and a part of the result."""
        self._paint(*self._some(pick, State.RUNNING))

    def _paint(self, entry: StoredJob, known: Known) -> None:
        if not known.failure:
            known.progress += 1
            for path in (entry.out / "result.png", entry.checkpoints / f"{known.progress:07d}.ckpt"):
                path.parent.mkdir(exist_ok=True)
                path.write_bytes(b"paint")

    @where(State.RUNNING)
    @rule(pick=PICK)
    def publish(self, pick: int) -> None:
        """Show a result, and not yet end the job."""
        _, known = self._some(pick, State.RUNNING)
        known.is_published = not known.failure

    @where(State.RUNNING)
    @rule(pick=PICK)
    def complete(self, pick: int) -> None:
        """Show a result and end the job."""
        entry, known = self._some(pick, State.RUNNING)
        if not known.failure:
            assert entry.job
            known.is_published = True
            self.spool.complete(entry)
            self._completed(known)

    def _completed(self, known: Known) -> None:
        known.end_attempt(counts=True)
        known.state = State.DONE

    @where(State.RUNNING)
    @rule(pick=PICK)
    def fail(self, pick: int) -> None:
        """End a job that cannot be done."""
        entry, known = self._some(pick, State.RUNNING)
        if not known.is_published:
            self._fail(entry, known, Reason.DIVERGED)

    def _fail(self, entry: StoredJob, known: Known, reason: Reason) -> None:
        reason = known.failure or reason
        self.spool.fail(entry, Failure(reason, "it cannot be done"))
        known.end_attempt(counts=True)
        known.failure, known.state = reason, State.FAILED

    @where(State.RUNNING)
    @rule(pick=PICK, event=st.sampled_from(["interrupted", "crashed", "exhausted"]))
    def requeue(self, pick: int, event: str) -> None:
        """Give a job back; only a crash costs an attempt."""
        self._requeue(*self._some(pick, State.RUNNING), event)

    def _requeue(self, entry: StoredJob, known: Known, event: str) -> None:
        self.spool.requeue(entry, event, "the reason")
        known.end_attempt(counts=event == "crashed")
        known.state = State.QUEUED

    # Operators

    @where(State.QUEUED)
    @rule(pick=PICK)
    def hold(self, pick: int) -> None:
        """Keep a job from being started."""
        entry, known = self._some(pick, State.QUEUED)
        self.spool.hold(entry)
        known.state = State.HELD

    @where(State.HELD)
    @rule(pick=PICK)
    def release(self, pick: int) -> None:
        """Let a held job be started."""
        entry, known = self._some(pick, State.HELD)
        self.spool.release(entry)
        known.state = State.QUEUED

    @where(State.FAILED)
    @rule(pick=PICK)
    def retry(self, pick: int) -> None:
        """Try a failed job again, from the beginning."""
        entry, known = self._some(pick, State.FAILED)
        self.spool.retry(entry)
        known.used, known.is_open, known.progress, known.progress_seen = 0, False, 0, 0
        known.is_cancelled, known.state = False, State.QUEUED
        known.failure = Reason.NOT_A_PICTURE if known.failure == Reason.NOT_A_PICTURE else None

    @where(State.QUEUED, State.RUNNING, State.HELD)
    @rule(pick=PICK)
    def cancel(self, pick: int) -> None:
        """Ask for a job's end."""
        entry, known = self._some(pick, State.QUEUED, State.RUNNING, State.HELD)
        self.spool.ask_cancel(entry)
        known.is_cancelled = True

    @precondition(lambda self: any(known.is_cancelled for known in self.jobs.values()))
    @rule()
    def take_cancelled(self) -> None:
        """End what is to be ended and does not run; a queued one that failed already is the worker's."""
        wanted = {id_ for id_ in self._in(State.QUEUED, State.HELD) if self.jobs[id_].is_cancelled}
        wanted -= {id_ for id_ in self._in(State.QUEUED) if self.jobs[id_].failure}
        taken = set()
        for entry in self.spool.take_cancelled():
            taken.add(entry.id)
            self.jobs[entry.id].state = entry.state
            self._fail(entry, self.jobs[entry.id], Reason.CANCELLED)
        assert taken == wanted

    # Originals and retention

    @precondition(lambda self: self.jobs)
    @rule(pick=PICK)
    def retire(self, pick: int) -> None:
        """Be done with a job's originals, wherever it is."""
        id_ = list(self.jobs)[pick % len(self.jobs)]
        self.spool.set_retired(id_)
        self.jobs[id_].is_retired = True

    @where(State.DONE, State.FAILED)
    @rule(state=st.sampled_from([State.DONE, State.FAILED]), days=st.integers(0, 1))
    def expire(self, state: State, days: int) -> None:
        """Forget what ended long ago and has left the inbox."""
        wanted = {id_ for id_ in self._in(state) if self.jobs[id_].is_retired and days == 0}
        assert {entry.id for entry in self.spool.expire(state, timedelta(days=days))} == wanted
        for id_ in wanted:
            self.expired.add(self.jobs.pop(id_).drop.stem)

    # Death

    @rule(is_torn=st.booleans())
    def die_and_restart(self, *, is_torn: bool) -> None:
        """Recover from a death, with half a draft and perhaps half a line left behind."""
        self._die(is_torn=is_torn)

    def _die(self, *, is_torn: bool) -> None:
        draft = self.root / "tmp" / "draft-1-1" / "in"
        draft.mkdir(parents=True)
        (draft / "content-0.png").write_bytes(b"half a pi")
        running = self._in(State.RUNNING)
        for id_ in running if is_torn else []:
            with (self._entry(id_).folder / "attempts.jsonl").open("ab") as file:
                file.write(b'{"event": "cras')
        self.spool = self._opened()
        found = self.spool.recover(self._is_published)
        for id_ in running:
            self._recovered(self.jobs[id_])
        assert {entry.id for entry in found.completed} == set(running) & set(self._in(State.DONE))
        assert {entry.id for entry in found.requeued} == set(running) & set(self._in(State.QUEUED))
        assert found.corrupt == []
        self.next_sequence = max((known.sequence for known in self.jobs.values()), default=0) + 1

    def _is_published(self, job: Job) -> bool:
        return self.jobs[job.id].is_published

    def _recovered(self, known: Known) -> None:
        if known.is_published:
            self._completed(known)
        else:
            known.end_attempt(counts=True)
            known.state = State.QUEUED

    # What always holds

    def _order(self, state: State) -> list[str]:
        return sorted(self._in(state), key=lambda id_: (-self.jobs[id_].priority, self.jobs[id_].sequence))

    @invariant()
    def each_job_is_in_one_state(self) -> None:
        """Every job lies in the state that the model says, and nowhere else."""
        found = Counter((entry.state, entry.id) for entry in self.spool.all_entries())
        assert found == Counter((known.state, id_) for id_, known in self.jobs.items())
        assert all(self.spool.count(state) == len(self._in(state)) for state in State)

    @invariant()
    def each_state_is_in_order(self) -> None:
        """Higher priority first, then first come, first served; also to a spool that never looked before."""
        for spool in (self.spool, Spool(self.root)):
            for state in State:
                assert [entry.id for entry in spool.entries(state)] == self._order(state)

    @invariant()
    def each_job_is_known_for_what_it_is(self) -> None:
        """Attempts, reasons and marks are those of the model."""
        for id_, known in self.jobs.items():
            entry = self._entry(id_)
            assert entry.attempts_used == known.attempts
            assert entry.is_cancelled == known.is_cancelled
            assert entry.is_retired == known.is_retired
            assert (entry.failure.reason if entry.failure else None) == known.failure

    @invariant()
    def each_input_is_whole(self) -> None:
        """The accepted bytes are those that were dropped, whatever happened to the job."""
        for id_, known in self.jobs.items():
            stored = self._entry(id_).inputs.iterdir()
            assert sorted(digest(path.read_bytes()) for path in stored) == known.hashes

    @invariant()
    def nothing_is_left_over(self) -> None:
        """No draft stays in `tmp/`; what was painted for a job that ended is gone."""
        assert list((self.root / "tmp").iterdir()) == []
        for id_ in self._in(State.DONE, State.FAILED):
            assert not self._entry(id_).out.exists()
            assert not self._entry(id_).checkpoints.exists()

    @invariant()
    def the_unretired_are_listed(self) -> None:
        """A new start lists every job whose originals may still be in the inbox."""
        found = {job.id for job in self.spool.unretired()}
        assert found == {id_ for id_, known in self.jobs.items() if not known.is_retired}


def _inspect(path: Path, name: str, _life: Lifeline, **_: bool) -> tuple[tuple[int, int], Found]:
    if path.read_bytes().startswith(NOT_A_PICTURE):
        raise JobError(Failure(Reason.NOT_A_PICTURE, f"{name} is no picture"))
    return (8, 8), Found()


@pytest.mark.parametrize(
    ("examples", "steps"),
    [
        (25, 40),
        pytest.param(100, 40, marks=pytest.mark.nightly),
        pytest.param(4000, 60, marks=[pytest.mark.slow, pytest.mark.timeout(3600)]),
    ],
)
def test_the_spool_agrees_with_its_model(examples: int, steps: int) -> None:
    """After any steps of users, operators, worker and death, every job is where and what the model says."""
    slow = [HealthCheck.too_slow, HealthCheck.data_too_large]
    options = settings(
        max_examples=examples, stateful_step_count=steps, deadline=None, suppress_health_check=slow
    )
    run_state_machine_as_test(SpoolMachine, settings=options)
