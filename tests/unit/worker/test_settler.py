"""Each outcome has its way out of `running/`: where the job lies then, what is published, what is logged."""

from __future__ import annotations

import errno
import json
from typing import TYPE_CHECKING, Any

import pytest
from structlog.testing import capture_logs
from support.fakes import FakeEngine
from support.trees import claim_next, named

from daemon import files
from daemon.errors import EngineError, Failure, JobError, NotReady, PauseKind, Reason
from daemon.job import State
from daemon.lifeline import Lifeline
from daemon.pictures import decoding, encoding
from daemon.worker import result
from daemon.worker.outcomes import CANCELLED, Crashed, Ending, Failed, Interrupted, Stored

if TYPE_CHECKING:
    from collections.abc import Callable, MutableMapping
    from pathlib import PurePath

    from support.trees import Tree

    from daemon.worker.outcomes import Outcome

DIVERGED = Failure(Reason.DIVERGED, "the numbers ran away")


class Court:
    """One claimed job that is brought to its end."""

    def __init__(self, studio: Any, tree: Tree) -> None:
        self.studio = studio
        self.tree = tree
        self.spool = studio.service.spool
        self.settler = studio.service.settler
        self.records: list[MutableMapping[str, Any]] = []

    def settle(self, outcome: Outcome, life: Lifeline | None = None) -> Ending:
        """End it so."""
        with capture_logs() as records:
            ending: Ending = self.settler.settle(self.studio.claim, outcome, life or Lifeline())
        self.records = list(records)
        return ending

    @property
    def events(self) -> list[str]:
        """What was logged."""
        return [record["event"] for record in self.records]

    @property
    def state(self) -> State:
        """Where the job lies."""
        (entry,) = self.spool.all_entries()
        return State(entry.state)

    def store(self) -> dict[str, Any]:
        """Write its result, as an earlier run did; returns the facts of `job.completed`."""
        claim = self.studio.claim
        document, facts = result.write(claim, self.studio.paint(FakeEngine()), Lifeline())
        self.spool.keep_facts(claim.entry, facts)
        claim.entry.record.write_bytes(document)
        return facts

    def cancel(self) -> None:
        """Have an operator cancel it."""
        self.spool.ask_cancel(self.studio.claim.entry)

    def take_outbox_away(self) -> None:
        """Unmount it."""
        (self.tree.outbox / ".styletransferd-outbox").unlink()


@pytest.fixture
def court(make_studio: Callable[..., Any], tree: Tree) -> Court:
    """Make one."""
    return Court(make_studio(), tree)


def test_a_painting_is_written_published_and_done(court: Court) -> None:
    """One canonical line closes it, and it is counted."""
    assert court.settle(court.studio.paint(FakeEngine())) is Ending.COMPLETED
    assert court.events == ["outbox.published", "job.completed"]
    line = court.records[-1]
    assert line["path"] == court.records[0]["path"] == str(court.tree.result("sea"))
    assert line["best_iteration"] == 3
    assert json.loads(json.dumps(line)) == line
    assert court.studio.service.status.counts.completed == 1
    court.tree.check(is_quiet=True)


def test_what_an_earlier_run_stored_is_published_with_its_facts(court: Court) -> None:
    """Nothing is painted or written again."""
    facts = court.store()
    assert court.settle(Stored()) is Ending.COMPLETED
    assert court.records[-1].items() >= facts.items()


def test_a_failure_is_published_with_its_last_good_picture(court: Court) -> None:
    """The job lies in `failed/`, its drop and the picture in the outbox."""
    (content,) = court.studio.claim.job.parts_of("content")
    picture = decoding.read(court.studio.claim.entry.input(content), 1)
    court.studio.claim.entry.out.mkdir()  # as its attempt did
    assert court.settle(Failed(DIVERGED, picture)) is Ending.FAILED
    assert court.events == ["job.failed"]
    assert court.records[0]["reason"] == "diverged"
    assert (court.tree.result("sea") / "last_good.png").exists()
    assert court.state is State.FAILED
    court.tree.check(is_quiet=True)


@pytest.mark.parametrize(
    ("outcome", "ending", "event", "record"),
    [
        (Interrupted(), Ending.INTERRUPTED, "job.interrupted", "interrupted"),
        (Crashed(EngineError("x"), 3), Ending.CRASHED, "spool.requeued", "crashed"),
        (
            Crashed(EngineError("x", Reason.OUT_OF_MEMORY), 3, is_exhausted=True),
            Ending.CRASHED,
            "spool.requeued",
            "exhausted",
        ),
    ],
    ids=["a stop", "a crash", "too little memory"],
)
def test_what_is_tried_again_is_queued(
    outcome: Outcome, ending: Ending, event: str, record: str, court: Court
) -> None:
    """With the reason on record, which decides whether the attempt counts."""
    assert court.settle(outcome) is ending
    assert court.events == [event]
    assert court.state is State.QUEUED
    (entry,) = court.spool.entries(State.QUEUED)
    assert entry.attempts[-1]["event"] == record
    assert court.studio.service.attempts.endings == {ending.value: 1}


def test_the_environment_is_handed_up_with_its_kind(court: Court) -> None:
    """The job is queued again at no cost, and the service learns why it should pause."""
    with pytest.raises(NotReady, match="No space left") as raised:
        court.settle(Interrupted(OSError(28, "No space left on device")))
    assert PauseKind.of(raised.value) is PauseKind.NO_SPACE
    (entry,) = court.spool.entries(State.QUEUED)
    assert entry.attempts_used == 0


def test_a_format_that_holds_no_such_picture_fails_the_job(
    court: Court, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What cannot be encoded after the last step fails for its own reason."""
    painted = court.studio.paint(FakeEngine())
    painted.frames.close(Lifeline().beat)

    def refuse(*_: object) -> bytes:
        raise JobError(Failure(Reason.PICTURE_TOO_LARGE, "too large for webp"))

    monkeypatch.setattr(encoding, "encode", refuse)
    assert court.settle(painted) is Ending.FAILED
    assert court.records[-1]["reason"] == "picture_too_large"


def test_past_the_grace_a_painting_is_queued_again_at_no_cost(
    court: Court, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is not written in time after a stop is painted again from its checkpoint."""
    monkeypatch.setattr(result, "GRACE_S", -1.0)
    life = Lifeline()
    life.ask_stop()
    assert court.settle(court.studio.paint(FakeEngine()), life) is Ending.INTERRUPTED
    (entry,) = court.spool.entries(State.QUEUED)
    assert entry.attempts_used == 0


def test_a_stop_waits_for_no_outbox(court: Court) -> None:
    """A painted job is stored and queued; a failed one stays where recovery finds its failure."""
    life = Lifeline()
    painted = court.studio.paint(FakeEngine())
    court.take_outbox_away()
    life.ask_stop()
    assert court.settle(painted, life) is Ending.INTERRUPTED
    (entry,) = court.spool.entries(State.QUEUED)
    assert entry.is_stored
    claim = claim_next(court.spool)
    assert court.settler.settle(claim, Failed(DIVERGED), life) is Ending.INTERRUPTED
    assert court.state is State.RUNNING
    (entry,) = court.spool.entries(State.RUNNING)
    assert entry.failure == DIVERGED


# Cancels


def test_a_cancel_takes_effect_until_the_result_is_published(court: Court) -> None:
    """A painting of a cancelled job is not published."""
    painted = court.studio.paint(FakeEngine())
    court.cancel()
    assert court.settle(painted) is Ending.FAILED
    assert court.state is State.FAILED
    assert [name.endswith(".failed") for name in court.tree.results()] == [True]
    court.tree.check(is_quiet=True)


@pytest.mark.parametrize("outcome", [Stored(), Failed(CANCELLED)], ids=["stored", "cancelled"])
def test_a_cancel_after_the_publication_comes_too_late(outcome: Outcome, court: Court) -> None:
    """Cut off between the publication and its end, a cancelled job is completed all the same."""
    claim = court.studio.claim
    court.store()
    court.studio.service.outbox.publish(claim.job, claim.entry.out, Lifeline())
    court.cancel()
    assert court.settle(outcome) is Ending.COMPLETED
    court.tree.check(is_quiet=True)


def test_a_cancel_while_the_publication_is_not_known_to_last_comes_too_late(
    court: Court, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After an fsync that failed, a stop and a cancel, the result stays alone in the outbox, and is done."""
    life = Lifeline()
    fsync_folder = files.fsync_folder

    def fail(folder: PurePath, *, at: int | None = None) -> None:
        if at is not None and court.tree.results():
            life.ask_stop()
            raise OSError(errno.EIO, "Input/output error")
        fsync_folder(folder, at=at)

    with monkeypatch.context() as patch:
        patch.setattr(files, "fsync_folder", fail)
        assert court.settle(court.studio.paint(FakeEngine()), life) is Ending.INTERRUPTED
    assert court.state is State.QUEUED
    assert court.tree.results()
    (entry,) = court.spool.entries(State.QUEUED)
    court.spool.ask_cancel(entry)
    with capture_logs() as records:
        assert court.settler.end_cancelled(Lifeline())
    assert court.state is State.DONE
    (line,) = named(records, "job.completed")
    assert (line["job_id"], line["best_iteration"]) == (entry.id, 3)
    (ended,) = court.spool.entries(State.DONE)
    assert ended.failure is None
    court.tree.check(is_quiet=True)


def test_a_failure_stays_what_it_is_where_the_job_was_cancelled_too(court: Court) -> None:
    """A cancel hides no other reason."""
    court.cancel()
    assert court.settle(Failed(DIVERGED)) is Ending.FAILED
    assert court.records[-1]["reason"] == "diverged"


def test_without_the_outbox_a_cancelled_job_goes_through_the_queue(court: Court) -> None:
    """With the outbox away nobody knows what is published: the job is queued, and looked for again there."""
    court.cancel()
    court.take_outbox_away()
    assert court.settle(Interrupted()) is Ending.INTERRUPTED
    assert not court.settler.end_cancelled(Lifeline())
    assert court.state is State.QUEUED
    (court.tree.outbox / ".styletransferd-outbox").touch()
    (entry,) = court.spool.entries(State.QUEUED)
    assert entry.failure == CANCELLED  # for the worker, whose turn it is


def test_one_look_ends_queued_and_held_jobs(court: Court) -> None:
    """They fail at once; a running one is left to its attempt."""
    court.cancel()
    assert court.settler.end_cancelled(Lifeline())
    assert court.state is State.RUNNING
    court.spool.hold(court.spool.requeue(court.studio.claim.entry, "interrupted", "x"))
    assert court.settler.end_cancelled(Lifeline())
    assert court.state is State.FAILED
    (entry,) = court.spool.entries(State.FAILED)
    assert entry.failure == CANCELLED
    court.tree.check(is_quiet=True)


def test_a_faulty_drop_is_ended_at_the_first_try_or_left_to_the_worker(court: Court) -> None:
    """The intake waits for no outbox: with it away the job is queued with its failure on record."""
    entry, failure = court.studio.claim.entry, Failure(Reason.BAD_SIDECAR, "x")
    court.take_outbox_away()
    assert not court.settler.fail_now(entry, failure, Lifeline())
    (queued,) = court.spool.entries(State.QUEUED)
    assert (queued.failure, queued.attempts_used) == (failure, 0)
    (court.tree.outbox / ".styletransferd-outbox").touch()
    claim = claim_next(court.spool)
    assert court.settler.fail_now(claim.entry, failure, Lifeline())
    assert court.state is State.FAILED
    court.tree.check(is_quiet=True)
