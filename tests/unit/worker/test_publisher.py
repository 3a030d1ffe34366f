"""The end of jobs in another thread: order, bound, context, errors, stops."""

from __future__ import annotations

import threading
import time
from concurrent.futures import Future
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest
import structlog
from support.trees import wait_for

from daemon.errors import EngineError, Failure, NotReady, Reason
from daemon.lifeline import Lifeline
from daemon.worker.outcomes import Crashed, Ending, Failed, Interrupted, Stored
from daemon.worker.publisher import Publisher

if TYPE_CHECKING:
    from collections.abc import Iterator

    from daemon.worker.outcomes import Outcome


class Bench:
    """A publisher, outcomes that are held up until the gate opens, and a notebook of what was done."""

    def __init__(self) -> None:
        self.stop = threading.Event()
        self.life, self.worker_life = Lifeline(self.stop), Lifeline(self.stop)
        self.gate = threading.Event()
        self.begun: list[str] = []
        self.done: list[str] = []
        self.threads: dict[str, str] = {}
        self.contexts: list[dict[str, Any]] = []
        self.errors: dict[str, Exception] = {}  # by job
        self.released: list[str] = []
        room: Any = SimpleNamespace(release=self.released.append)
        settler: Any = self
        self.publisher = Publisher(settler, room, self.life)

    def settle(self, claim: Any, outcome: Outcome, life: Lifeline) -> Ending:
        """See `Settler.settle`."""
        self.begun.append(claim.entry.id)
        self.threads[claim.entry.id] = threading.current_thread().name
        if not isinstance(outcome, Interrupted | Crashed):
            assert self.gate.wait(30)
        life.beat()
        self.contexts.append(structlog.contextvars.get_contextvars())
        if claim.entry.id in self.errors:
            raise self.errors[claim.entry.id]
        self.done.append(claim.entry.id)
        return Ending.COMPLETED

    def submit(self, id_: str, outcome: Outcome | None = None) -> None:
        """Hand a job over, as the worker does."""
        claim: Any = SimpleNamespace(entry=SimpleNamespace(id=id_))
        with structlog.contextvars.bound_contextvars(job_id=id_):
            self.publisher.submit(claim, outcome or Stored(), self.worker_life)

    def await_idle(self) -> None:
        """Let everything come to its end."""
        self.gate.set()
        wait_for(lambda: self.publisher.is_idle, "the end")


@pytest.fixture
def bench() -> Iterator[Bench]:
    """Make one."""
    made = Bench()
    yield made
    made.gate.set()
    made.publisher.close()


def test_jobs_end_in_the_order_in_which_they_come(bench: Bench) -> None:
    """One after the other, in a thread of its own."""
    bench.gate.set()
    names = [str(number) for number in range(20)]
    for name in names:
        bench.submit(name)
    bench.await_idle()
    assert bench.done == bench.released == names
    assert {name.startswith("publisher") for name in bench.threads.values()} == {True}


def test_one_is_published_and_one_waits_and_then_the_worker_waits(bench: Bench) -> None:
    """A third job is taken only once the first has ended; who hands it over gives heartbeats meanwhile."""
    bench.submit("a")
    bench.submit("b")
    third = threading.Thread(target=bench.submit, args=("c",))
    third.start()
    wait_for(lambda: bench.worker_life.silence_s > 0, "the heartbeat")
    third.join(0.3)
    assert third.is_alive()
    assert (bench.begun, bench.done) == (["a"], [])
    bench.gate.set()
    third.join(30)
    bench.await_idle()
    assert bench.done == ["a", "b", "c"]


@pytest.mark.parametrize(
    "outcome", [Interrupted(), Crashed(EngineError("x"), 3)], ids=["interrupted", "crashed"]
)
def test_what_goes_back_to_the_queue_does_so_at_once(outcome: Outcome, bench: Bench) -> None:
    """It waits for no publication, and what the environment did not allow is raised there and then."""
    bench.submit("a")
    bench.submit("b")
    bench.submit("c", outcome)
    assert bench.done == bench.released == ["c"]
    assert bench.threads["c"] == threading.current_thread().name
    bench.errors["d"] = NotReady("no room")
    with pytest.raises(NotReady, match="no room"):
        bench.submit("d", outcome)
    assert bench.released == ["c", "d"]


def test_a_failure_waits_its_turn(bench: Bench) -> None:
    """It is published, in the order of the others."""
    bench.submit("a")
    bench.submit("b", Failed(Failure(Reason.CANCELLED, "x")))
    assert bench.done == []
    bench.await_idle()
    assert bench.done == ["a", "b"]


def test_it_is_idle_only_when_all_is_done(bench: Bench) -> None:
    """It is not idle from the moment it is given something until that has come to its end."""
    assert bench.publisher.is_idle
    bench.submit("a")
    for _ in range(20):
        assert not bench.publisher.is_idle
        time.sleep(0.001)
    bench.await_idle()
    assert bench.done == ["a"]


def test_who_wants_it_idle_waits_unless_the_service_stops(bench: Bench) -> None:
    """Waiting for its rest ends with the last job, and gives heartbeats; with a stop it ends at once."""
    bench.submit("a")
    waiter = threading.Thread(target=bench.publisher.await_idle, args=(bench.worker_life,))
    waiter.start()
    wait_for(lambda: bench.worker_life.silence_s > 0, "the heartbeat")
    assert waiter.is_alive()
    bench.gate.set()
    waiter.join(30)
    assert bench.done == ["a"]
    bench.gate.clear()
    bench.submit("b")
    bench.stop.set()
    bench.publisher.await_idle(bench.worker_life)
    assert bench.done == ["a"]


def test_what_is_logged_is_of_the_job_that_was_handed_over(bench: Bench) -> None:
    """A job ends with the log context of the moment it was submitted, whatever is painted by then."""
    bench.submit("a")
    bench.submit("b")
    bench.await_idle()
    assert bench.contexts == [{"job_id": "a"}, {"job_id": "b"}]


def test_what_the_environment_does_not_allow_is_the_workers_pause(bench: Bench) -> None:
    """NotReady and OSError are raised to the worker at its next turn, once; the next job is done."""
    bench.errors["a"] = NotReady("no room")
    bench.submit("a")
    bench.submit("b")
    bench.await_idle()
    assert bench.done == ["b"]
    with pytest.raises(NotReady, match="no room"):
        bench.publisher.raise_error()
    bench.publisher.raise_error()
    assert not bench.stop.is_set()


def test_a_defect_stops_the_service_and_is_raised_before_anything_else(bench: Bench) -> None:
    """An error that no one expected asks all threads to end; the worker, or the end of the run, raises it."""
    bench.errors = {"a": NotReady("no room"), "b": RuntimeError("a defect")}
    bench.submit("a")
    bench.submit("b")
    bench.await_idle()
    assert bench.stop.is_set()
    with pytest.raises(RuntimeError, match="a defect"):
        bench.publisher.raise_error()
    assert bench.released == ["a", "b"]


def test_an_error_that_comes_during_the_look_is_raised_at_the_next_one() -> None:
    """A job that ends while the ended ones are gathered is not taken for one whose error was raised."""

    class Late(Future[Any]):
        looks = 0

        def done(self) -> bool:
            self.looks += 1
            return self.looks > 1

    future = Late()
    future.set_exception(NotReady("no room"))
    anything: Any = SimpleNamespace(submit=lambda *_: future, entry=SimpleNamespace(id="a"))
    publisher = Publisher(anything, anything, Lifeline(), anything)
    publisher.submit(anything, Stored(), Lifeline())
    publisher.raise_error()
    with pytest.raises(NotReady, match="no room"):
        publisher.raise_error()


def test_heartbeats_are_expected_only_while_it_works(bench: Bench) -> None:
    """It beats when it begins a job, and rests when that has ended."""
    assert bench.life.silence_s == 0
    bench.submit("a")
    wait_for(lambda: bench.life.silence_s > 0, "the heartbeat")
    bench.await_idle()
    wait_for(lambda: bench.life.silence_s == 0, "the rest")


def test_closed_it_still_does_what_it_was_given(bench: Bench) -> None:
    """A close is no cut: what was submitted before it is done, then the thread ends."""
    bench.submit("a")
    bench.submit("b")
    opener = threading.Timer(0.05, bench.gate.set)
    opener.start()
    bench.publisher.close()
    assert bench.done == ["a", "b"]
    opener.join()
