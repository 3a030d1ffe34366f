"""Jobs are ended by one thread while the next ones are painted by another: order, bound, stops, endings."""

from __future__ import annotations

import errno
import threading
from datetime import datetime
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import pytest
from support.fakes import FakeEngine
from support.running import END_S, Runs
from support.trees import Tree, captured, named, wait_for

from daemon.job import State
from daemon.outbox import loss_table
from daemon.worker import result

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from conftest import Live

    from daemon.job import Step


class Press:
    """Holds up the drawing of the curve, which is the publisher's work, until the gate opens."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.gate = threading.Event()
        self.begun: list[str] = []
        self.errors: list[Exception] = []  # what goes wrong, once each
        monkeypatch.setattr(loss_table, "curve", self._draw)

    def _draw(self, _rows: object, title: str) -> bytes:
        self.begun.append(title)
        assert self.gate.wait(END_S)
        if self.errors:
            raise self.errors.pop()
        return b"a curve"


@pytest.fixture
def press(monkeypatch: pytest.MonkeyPatch) -> Iterator[Press]:
    """Make one; before the services are ended nothing is held up any more."""
    made = Press(monkeypatch)
    yield made
    made.gate.set()


def _names(records: list[Any], *events: str) -> list[str]:
    return [record["name"].rpartition("-")[0] for record in named(records, *events)]


def test_jobs_are_painted_while_one_is_finished_but_not_without_bound(
    tree: Tree, run: Runs, press: Press
) -> None:
    """One is finished, one waits, one is at hand: then nothing more is claimed. They appear in their order."""
    names = ["a", "b", "c", "d", "e"]
    for name in names:
        tree.drop(name)
    engine = FakeEngine()
    with captured() as records:
        running = run(tree.config, engine, drains=True)
        wait_for(lambda: len(engine.calls) == 3, "three jobs to be painted", END_S)
        wait_for(lambda: engine.steps.count(engine.calls[2]) == 3, "the third one's last step", END_S)
        assert press.begun == ["a"]
        assert tree.results() == []
        assert tree.spool.count(State.RUNNING) == 3
        tree.check()
        assert len(engine.calls) == 3
        press.gate.set()
        running.join()
    assert running.code == 0
    for event in ("job.started", "outbox.published", "job.completed"):
        assert _names(records, event) == names
    tree.check(is_quiet=True)


def test_each_line_of_a_finished_job_is_of_that_job(tree: Tree, run: Runs, press: Press) -> None:
    """What is logged of an ending carries the id of the job that ends, not of one that is painted by then."""
    for name in ("a", "b"):
        tree.drop(name)
    press.gate.set()
    with captured() as records:
        run(tree.config, drains=True).join()
    shown = named(records, "outbox.published")
    assert [record["path"].rpartition("-")[2] == record["job_id"][:8] for record in shown] == [True, True]


def test_a_drain_waits_for_what_is_finished(tree: Tree, run: Runs, press: Press) -> None:
    """With nothing queued any more a drain goes on until the last result is shown and counted."""
    tree.drop("a")
    running = run(tree.config, drains=True)
    wait_for(lambda: press.begun, "the finishing", END_S)
    running.join(0.3)
    assert running.is_alive
    press.gate.set()
    running.join()
    assert (running.code, running.service.status.counts.completed) == (0, 1)
    tree.check(is_quiet=True)


def test_what_comes_back_into_the_queue_is_done_by_the_same_drain(tree: Tree, run: Runs, press: Press) -> None:
    """A spool that does not take a result pauses the worker; the job is painted again, at no cost."""
    tree.drop("a")
    press.errors.append(OSError(errno.ENOSPC, "No space left on device"))
    engine = FakeEngine()
    with captured() as records:
        running = run(tree.config, engine, drains=True)
        wait_for(lambda: press.begun, "the finishing", END_S)
        wait_for(lambda: running.service.intake.is_at_rest, "the inbox at rest", END_S)
        running.join(0.3)
        press.gate.set()
        running.join()
    assert _names(records, "spool.requeued") == _names(records, "job.completed") == ["a"]
    assert [record["part"] for record in named(records, "service.paused")] == ["worker"]
    assert (running.code, len(engine.calls)) == (0, 2)
    (entry,) = tree.spool.entries(State.DONE)
    assert entry.attempts_used == 1
    tree.check(is_quiet=True)


def test_a_stop_finishes_what_is_painted(tree: Tree, run: Runs, press: Press) -> None:
    """Stopped while one is finished, one waits and one is at hand, all three are shown before the end."""
    for name in ("a", "b", "c", "d"):
        tree.drop(name)
    engine = FakeEngine()
    running = run(tree.config, engine)
    wait_for(lambda: len(engine.calls) == 3, "three jobs to be painted", END_S)
    wait_for(lambda: engine.steps.count(engine.calls[2]) == 3, "the third one's last step", END_S)
    running.service.ask_stop()
    press.gate.set()
    running.stop()
    assert running.code == 0
    assert [name.rpartition("-")[0] for name in tree.results()] == ["a", "b", "c"]
    (left,) = tree.spool.entries(State.QUEUED)
    assert left.attempts_used == 0
    tree.check()


def test_a_stop_waits_for_no_outbox(tree: Tree, run: Runs, press: Press) -> None:
    """With the outbox away a stop leaves what is painted and encoded; the next start shows it, unpainted."""
    sentinel = tree.outbox / ".styletransferd-outbox"

    def unmount(step: Step) -> None:
        if step.painting:
            sentinel.unlink()

    tree.drop("a")
    press.gate.set()
    running = run(tree.config, FakeEngine(on_step=unmount))
    wait_for(lambda: "outbox" in running.service.situation.paused, "the pause", END_S)
    running.stop()
    assert running.code == 0
    (left,) = tree.spool.entries(State.QUEUED)
    assert left.attempts_used == 0
    sentinel.touch()
    engine = FakeEngine()
    run(tree.config, engine, drains=True).join()
    assert engine.calls == []
    tree.check(is_quiet=True)


def test_what_takes_too_long_after_a_stop_is_left(
    tree: Tree, run: Runs, press: Press, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Past the grace nothing more is encoded: the job is queued again at no cost, for the next start."""
    monkeypatch.setattr(result, "GRACE_S", -1.0)
    tree.drop("a")
    tree.drop("b")
    engine = FakeEngine()
    with captured() as records:
        running = run(tree.config, engine)
        wait_for(lambda: len(engine.calls) == 2 and press.begun, "both to be painted", END_S)
        running.service.ask_stop()
        press.gate.set()
        running.stop()
    assert _names(records, "job.interrupted") == ["a", "b"]
    assert tree.results() == []
    assert [entry.attempts_used for entry in tree.spool.entries(State.QUEUED)] == [0, 0]
    tree.check()
    assert run(tree.config, drains=True).join() is None
    tree.check(is_quiet=True)


def test_a_job_cancelled_before_it_is_published_is_not(tree: Tree, run: Runs, press: Press) -> None:
    """A cancel that comes after the last step still takes effect, as long as nothing is published."""
    tree.drop("a")
    with captured() as records:
        running = run(tree.config, drains=True)
        wait_for(lambda: press.begun, "the finishing", END_S)
        tree.spool.ask_cancel(tree.spool.entries(State.RUNNING)[0])
        press.gate.set()
        running.join()
    assert _names(records, "job.completed") == []
    assert [record["reason"] for record in named(records, "job.failed")] == ["cancelled"]
    assert running.code == 1
    tree.check(is_quiet=True)


def test_a_running_job_that_is_cancelled_ends_soon(tree: Tree, run: Runs, press: Press) -> None:
    """The operator's wish reaches the attempt while it paints; it fails as cancelled, and the next one runs."""
    tree.drop("a")
    tree.drop("b")
    with captured() as records:
        running = run(tree.config, FakeEngine("hang"), drains=True)
        wait_for(running.service.attempts.progress, "the first step", END_S)
        tree.spool.ask_cancel(tree.spool.entries(State.RUNNING)[0])
        press.gate.set()
        running.join()
    assert _names(records, "job.failed") == ["a"]
    assert _names(records, "job.completed") == ["b"]
    assert _names(records, "job.interrupted") == []
    tree.check(is_quiet=True)


def test_a_running_job_is_cancelled_while_the_inbox_is_busy(
    tree: Tree, run: Runs, press: Press, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A share that takes minutes to give a file does not keep the operator waiting for an attempt to end."""
    press.gate.set()
    tree.drop("a")
    running = run(tree.config, FakeEngine("hang"))
    wait_for(running.service.attempts.progress, "the first step", END_S)
    begun, free = threading.Event(), threading.Event()

    def read_slowly(*_: object) -> None:
        begun.set()
        free.wait(END_S)

    monkeypatch.setattr(running.service.intake, "turn", read_slowly)
    try:
        assert begun.wait(END_S)
        tree.spool.ask_cancel(tree.spool.entries(State.RUNNING)[0])
        wait_for(lambda: tree.spool.count(State.FAILED), "the end of the attempt", 10)
    finally:
        free.set()


def test_failures_come_in_their_order_too(tree: Tree, run: Runs, press: Press) -> None:
    """A job that fails at the engine does not overtake the one before it that is still being finished."""
    for name in ("a", "b", "c"):
        tree.drop(name)
    engine = FakeEngine("paint", "job_error")
    with captured() as records:
        running = run(tree.config, engine, drains=True)
        wait_for(lambda: len(engine.calls) == 3, "all to be painted", END_S)
        assert tree.results() == []
        press.gate.set()
        running.join()
    assert _names(records, "job.completed", "job.failed") == ["a", "b", "c"]
    assert running.code == 1
    tree.check(is_quiet=True)


def test_a_job_that_was_cut_off_before_is_alone(tree: Tree, run: Runs, press: Press) -> None:
    """At its second attempt nothing else is under way, so that what it may do to the service costs no other."""
    for name in ("a", "b", "c"):
        tree.drop(name)
    engine = FakeEngine("paint", "crash")
    running = run(tree.config, engine, drains=True)
    wait_for(lambda: running.service.attempts.endings["crashed"], "the crash", END_S)
    wait_for(lambda: tree.spool.count(State.RUNNING) == 2, "its second attempt", END_S)
    running.join(0.2)
    assert len(engine.calls) == 2  # it waits for the first job's end
    press.gate.set()
    running.join()
    assert engine.calls == [engine.calls[0], engine.calls[1], engine.calls[1], engine.calls[3]]
    tree.check(is_quiet=True)


def test_the_room_of_what_is_finished_is_not_given_away(tree: Tree, run: Runs, press: Press) -> None:
    """What a handed over job may still take counts for the next claim, and no longer once it has ended."""
    tree.drop("a")
    tree.drop("b")
    engine = FakeEngine()
    running = run(tree.config, engine)
    room = running.service.room
    wait_for(lambda: len(room.reserved) == 2 and not running.service.attempts.progress(), "both", END_S)
    assert all(needed.outbox > 0 for needed in room.reserved.values())
    press.gate.set()
    wait_for(lambda: running.service.status.counts.completed == 2, "their end", END_S)
    wait_for(lambda: not room.reserved, "their room", END_S)


def test_a_defect_in_the_publisher_ends_the_run_with_it(
    tree: Tree, run: Runs, press: Press, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What no one expected while a job is finished ends the service; the next start does the job."""
    defect = RuntimeError("a defect")

    def stumble(*_: object) -> bytes:
        raise defect

    monkeypatch.setattr(loss_table, "table", stumble)
    tree.drop("a")
    running = run(tree.config)
    running.join()
    assert running.error is defect
    monkeypatch.undo()
    tree.check()
    press.gate.set()
    monkeypatch.setattr(loss_table, "curve", lambda *_: b"a curve")
    run(tree.config, drains=True).join()
    tree.check(is_quiet=True)


def test_an_encoding_that_hangs_is_noticed(tree: Tree, run: Runs, press: Press) -> None:
    """While a piece is encoded no one vouches for the publisher; idle, nothing is expected of it."""
    running = run(tree.config).until_ready()
    life = running.service.lives["publisher"]
    assert life.silence_s == 0.0
    tree.drop("a")
    wait_for(lambda: press.begun, "the finishing", END_S)
    wait_for(lambda: life.silence_s > 0.1, "the silence", END_S)
    press.gate.set()
    wait_for(lambda: running.service.status.counts.completed, "its end", END_S)
    wait_for(lambda: life.silence_s == 0.0, "its rest", END_S)


# With the real engine


@pytest.mark.nightly
def test_the_engine_hardly_waits_between_two_jobs(make_live: Callable[..., Live]) -> None:
    """Of three real jobs of one size each has its first step within a second of the last one before."""
    live = make_live()
    for name in ("a", "b", "c"):
        live.tree.drop(name, size=64, iterations=6, preset="paper", frames={"every": 1})
    live.start("--drain")
    assert live.wait(120) == 0
    first, *others = live.records("job.completed")
    assert (first["gap_s"], first["prepared"]) == (None, False)
    steps = live.records("job.progressed")
    for before, line in zip(("a", "b"), others, strict=True):
        assert line["prepared"]
        assert line["gap_s"] < 1.0
        *_, last = (_at(step) for step in steps if step["name"].startswith(f"{before}-"))
        ends = [_at(step) for step in steps if step["name"] == line["name"]]
        slowest_step_s = max(after - end for end, after in pairwise(ends))
        # A line is written when a step ends: between the two lines are the gap and the first step.
        assert line["gap_s"] - 0.2 <= ends[0] - last <= line["gap_s"] + slowest_step_s + 0.2
    live.tree.check(is_quiet=True)


def _at(record: dict[str, Any]) -> float:
    return datetime.fromisoformat(record["timestamp"]).timestamp()
