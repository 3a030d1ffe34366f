"""The end of a job in another thread: order, bound, context, errors, stops."""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING

import pytest
import structlog
from support.trees import wait_for

from daemon.errors import NotReady
from daemon.worker import publisher
from daemon.worker.outcomes import Ending
from daemon.worker.publisher import BackgroundFinisher, Finisher, OutOfTime

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


class Bench:
    """A finisher in its thread, and what it did."""

    def __init__(self) -> None:
        self.is_stopping = False
        self.now_s = 100.0
        self.beats: list[str] = []  # the thread of each
        self.rests = 0
        self.done: list[object] = []
        self.gate = threading.Event()
        self.finisher = BackgroundFinisher(
            lambda: self.is_stopping, self._beat, self._rest, clock=lambda: self.now_s
        )
        self.error: Exception | None = None
        self.thread = threading.Thread(target=self._run, name="finisher")

    def _beat(self) -> None:
        self.beats.append(threading.current_thread().name)

    def _rest(self) -> None:
        self.rests += 1

    def _run(self) -> None:
        try:
            self.finisher.run()
        except Exception as error:  # noqa: BLE001 - looked at by the tests
            self.error = error

    def task(self, word: object, *, waits: bool = False) -> Callable[[], Ending]:
        """Make a task that leaves a word, perhaps once the gate is open."""

        def do() -> Ending:
            if waits:
                assert self.gate.wait(30)
            self.done.append(word)
            return Ending.COMPLETED

        return do

    def end(self) -> None:
        """Close it, and see that its thread ends."""
        self.gate.set()
        self.finisher.close()
        if self.thread.ident is not None:
            self.thread.join(30)
            assert not self.thread.is_alive()


@pytest.fixture
def bench() -> Iterator[Bench]:
    """A finisher that runs."""
    made = Bench()
    made.thread.start()
    yield made
    made.end()


def test_what_is_handed_over_is_done_in_that_order(bench: Bench) -> None:
    """Tasks are done one after the other, in the order of their coming, and each take says `painted`."""
    said = {bench.finisher.take(bench.task(number)) for number in range(20)}
    bench.end()
    assert said == {Ending.PAINTED}
    assert bench.done == list(range(20))


def test_one_is_done_and_one_waits_and_then_the_worker_waits(bench: Bench) -> None:
    """A third task is taken only once the first is done; who hands it over gives signs of life meanwhile."""
    bench.finisher.take(bench.task(0, waits=True))
    wait_for(lambda: bench.finisher._is_working, "the first one to begin")
    bench.finisher.take(bench.task(1))
    third = threading.Thread(target=lambda: bench.finisher.take(bench.task(2)), name="worker")
    third.start()
    wait_for(lambda: bench.beats.count("worker") >= 2, "the signs of life")
    assert third.is_alive()
    assert bench.done == []
    bench.gate.set()
    third.join(30)
    bench.end()
    assert bench.done == [0, 1, 2]


def test_it_is_idle_only_when_all_is_done(bench: Bench) -> None:
    """It is not idle from the moment it is given something until that has come to its end."""
    assert bench.finisher.is_idle
    bench.finisher.take(bench.task(0, waits=True))
    for _ in range(20):
        assert not bench.finisher.is_idle
        time.sleep(0.001)
    bench.gate.set()
    wait_for(lambda: bench.finisher.is_idle, "the end")
    assert bench.done == [0]


def test_who_wants_it_idle_waits_unless_the_service_stops(bench: Bench) -> None:
    """Waiting for its rest ends with the last task, and shows signs of life; with a stop it ends at once."""
    bench.finisher.take(bench.task(0, waits=True))
    waiter = threading.Thread(target=bench.finisher.await_idle, name="worker")
    waiter.start()
    wait_for(lambda: bench.beats.count("worker") >= 2, "the signs of life")
    assert waiter.is_alive()
    bench.gate.set()
    waiter.join(30)
    assert bench.done == [0]
    bench.gate.clear()
    bench.finisher.take(bench.task(1, waits=True))
    bench.is_stopping = True
    bench.finisher.await_idle()
    assert bench.done == [0]


def test_what_it_logs_is_of_the_job_that_was_handed_over(bench: Bench) -> None:
    """A task sees the log context of the moment it was handed over, whatever is painted by then."""

    def look() -> Ending:
        assert bench.gate.wait(30)
        bench.done.append(structlog.contextvars.get_contextvars())
        return Ending.COMPLETED

    with structlog.contextvars.bound_contextvars(job_id="a"):
        bench.finisher.take(look)
    with structlog.contextvars.bound_contextvars(job_id="b"):
        bench.gate.set()
        bench.finisher.take(look)
        bench.end()
    assert bench.done == [{"job_id": "a"}, {"job_id": "b"}]


def test_surroundings_that_do_not_allow_it_are_the_worker_s_pause(bench: Bench) -> None:
    """NotReady and OSError of a task are raised to the worker at its next turn, once; the next task is done."""

    def fail() -> Ending:
        raise NotReady("no room")

    bench.finisher.take(fail)
    bench.finisher.take(bench.task(1))
    wait_for(lambda: bench.finisher.is_idle, "both")
    assert bench.done == [1]
    with pytest.raises(NotReady, match="no room"):
        bench.finisher.raise_trouble()
    bench.finisher.raise_trouble()
    assert bench.error is None


def test_a_defect_ends_the_thread_and_holds_no_one_up(bench: Bench) -> None:
    """An error that no one expected leaves the thread; further tasks are not done, nor waited for."""

    def stumble() -> Ending:
        raise RuntimeError("a defect")

    bench.finisher.take(stumble)
    bench.thread.join(30)
    assert isinstance(bench.error, RuntimeError)
    assert bench.finisher.take(bench.task(1)) is Ending.INTERRUPTED
    assert bench.done == []


def test_signs_of_life_are_expected_only_while_it_works(bench: Bench) -> None:
    """It beats when it begins a task and between its pieces, and says when it rests."""
    wait_for(lambda: bench.rests == 1, "its first rest")
    assert bench.beats == []

    def work() -> Ending:
        bench.finisher.breathe()
        bench.finisher.breathe()
        return Ending.COMPLETED

    bench.finisher.take(work)
    wait_for(lambda: bench.rests == 2, "its second rest")
    assert bench.beats == ["finisher"] * 3


def test_a_stop_leaves_a_while_to_finish(bench: Bench) -> None:
    """Asked to stop it goes on for GRACE_S, over all tasks together, and then ends each one early."""

    def work() -> Ending:
        try:
            for _ in range(4):
                bench.finisher.breathe()
                bench.now_s += publisher.GRACE_S / 4
        except OutOfTime:
            bench.done.append("cut short")
            return Ending.INTERRUPTED
        bench.done.append("whole")
        return Ending.COMPLETED

    bench.finisher.take(work)
    wait_for(lambda: bench.finisher.is_idle, "the one before the stop")
    bench.is_stopping = True
    for _ in range(3):
        bench.finisher.take(work)
    bench.end()
    assert bench.done == ["whole", "whole", "cut short", "cut short"]


def test_closed_it_still_does_what_it_was_given(bench: Bench) -> None:
    """A close is no cut: what was handed over before it is done, then the thread ends."""
    bench.finisher.take(bench.task(0, waits=True))
    bench.finisher.take(bench.task(1))
    bench.finisher.close()
    bench.gate.set()
    bench.thread.join(30)
    assert bench.done == [0, 1]


def test_step_by_step_everything_is_done_at_once() -> None:
    """The finisher of one thread ends each job where it is handed over, and raises what went wrong there."""
    finisher = Finisher()
    assert finisher.take(lambda: Ending.FAILED) is Ending.FAILED
    assert finisher.is_idle

    def fail() -> Ending:
        raise NotReady("no room")

    with pytest.raises(NotReady, match="no room"):
        finisher.take(fail)
