"""One claim to one outcome: what the worker decides, and what becomes of the job."""

from __future__ import annotations

import errno
import itertools
import threading
import time
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
from structlog.testing import capture_logs
from support.fakes import PLAN, FakeEngine
from support.trees import NearDecoder, Stepper, Tree, named, wait_for

from daemon import safe_yaml
from daemon.errors import EngineError, NotReady, Reason
from daemon.job import State
from daemon.lifeline import Lifeline
from daemon.service.service import Service
from daemon.worker.outcomes import CANCELLED, Ending
from daemon.worker.worker import Worker

if TYPE_CHECKING:
    from collections.abc import Iterator

    from daemon.job import Plan, Request, Step


def test_a_preview_that_cannot_be_written_does_not_fail_the_job(tree: Tree) -> None:
    """A job whose progress the outbox does not take is warned about once, painted and published."""
    tree.drop("sea")
    stepper = Stepper(tree.config, FakeEngine())
    (tree.outbox / "_running").write_text("a file in the place of the folder")
    with capture_logs() as records:
        assert stepper.until_quiet() == [Ending.COMPLETED]
    assert [record["event"] for record in records].count("outbox.preview_failed") == 1
    tree.check()


def test_the_record_repeats_as_a_sidecar(tree: Tree) -> None:
    """result.yaml names the drop's pictures and every setting, beside the record of what was done."""
    tree.drop("sea", seed=4, strength=None)
    Stepper(tree.config, FakeEngine()).until_quiet()
    document = safe_yaml.parse((tree.result("sea") / "result.yaml").read_bytes())
    assert (document["content"], document["style"], document["size"]) == ("sea.jpg", "sea-style.png", 32)
    assert document["result"]["weights"] == {"source": "fake", "sha256": "0" * 64}
    assert {item["role"] for item in document["result"]["inputs"]} == {"sidecar", "content", "style"}


def test_progress_is_there_while_a_job_runs_and_only_then(tree: Tree) -> None:
    """It is there from the plan on, counts the iterations of the running job, and is gone with it."""
    seen = []

    def look(_step: Step) -> None:
        seen.append(stepper.service.attempts.progress())

    stepper = Stepper(tree.config, FakeEngine(on_step=look))
    tree.drop("sea")
    stepper.until_quiet()
    losses = [(progress.iteration, progress.loss) for (progress,) in seen]
    assert losses == [(0, None), (0, 3.0), (1, 1.5), (2, 1.0)]
    assert stepper.service.attempts.progress() == []


def test_an_engine_that_is_not_ready_costs_no_attempt(tree: Tree) -> None:
    """While the device is busy nothing is claimed and the service pauses; later the job is painted."""

    class Busy(FakeEngine):
        def start(self, life: Lifeline) -> object:  # type: ignore[override]
            if self.script:
                self.script.popleft()
                raise NotReady("the GPU is busy")
            return super().start(life)

    stepper = Stepper(tree.config, Busy("busy", "busy"))
    tree.drop("sea")
    wait_for(lambda: stepper.look() or stepper.service.status.counts.accepted, "the drop to be accepted")
    with capture_logs() as records:
        wait_for(lambda: stepper.turn() is Ending.INTERRUPTED, "the first try")
        (entry,) = tree.spool.entries(State.QUEUED)
        assert entry.attempts_used == 0
        assert stepper.until_quiet()[-1] is Ending.COMPLETED
    assert [record["reason"] for record in named(records, "service.paused")] == ["the GPU is busy"]
    record = safe_yaml.parse((tree.result("sea") / "result.yaml").read_bytes())["result"]
    assert record["attempt"] == 1
    tree.check(is_quiet=True)


def test_an_engine_that_ends_without_a_picture_uses_attempts(tree: Tree) -> None:
    """Steps that end unasked are no stop: the job fails as of an engine that crashed, after max_attempts."""

    class Quitting(FakeEngine):
        def stylize(self, request: Request, life: Lifeline) -> Iterator[Plan | Step]:
            yield from itertools.islice(super().stylize(request, life), 3)

    tree.drop("sea")
    stepper = Stepper(tree.config, Quitting())
    assert stepper.until_quiet() == [Ending.CRASHED, Ending.CRASHED, Ending.FAILED]
    (entry,) = tree.spool.entries(State.FAILED)
    assert entry.failure.reason is Reason.ENGINE_CRASHED
    assert "the engine ended without a picture" in entry.failure.message
    tree.check(is_quiet=True)


def test_memory_that_ran_out_costs_no_attempt_while_there_is_a_smaller_way(tree: Tree) -> None:
    """Each such attempt is followed by one with smaller tiles; at the smallest it counts as a crash."""

    class Tiling(FakeEngine):
        def stylize(self, request: Request, life: Lifeline) -> Iterator[Plan | Step]:
            self.plan = replace(PLAN, is_smallest=request.smaller >= 4)
            return super().stylize(request, life)

    engine = Tiling(*["exhaust"] * 5)
    tree.drop("sea")
    stepper = Stepper(tree.config, engine)
    with capture_logs() as records:
        endings = stepper.until_quiet()
    assert endings == [*[Ending.CRASHED] * 5, Ending.COMPLETED]
    assert [request.smaller for request in engine.requests] == [0, 1, 2, 3, 4, 4]
    (entry,) = tree.spool.entries(State.DONE)
    events = [record["event"] for record in entry.attempts if record["event"] not in {"started", "completed"}]
    assert events == [*["exhausted"] * 4, "crashed"]
    assert [record["reason"] for record in named(records, "spool.requeued")] == ["out_of_memory"] * 5


@pytest.mark.parametrize(
    ("reason", "hint"),
    [
        (Reason.ENGINE_CRASHED, "see the log"),
        (Reason.OUT_OF_MEMORY, "use a smaller size"),
        (Reason.TIMED_OUT, "use fewer iterations"),
    ],
)
def test_a_job_that_its_engine_never_outlives_says_what_helps(reason: Reason, hint: str, tree: Tree) -> None:
    """After `max_attempts` it fails with the last reason, its hint, the attempt and the last words."""

    class Dying(FakeEngine):
        def _act(self, act: str, life: Lifeline) -> None:
            raise EngineError("it ended", reason, ("the last words",))

    stepper = Stepper(tree.config, Dying())
    tree.drop("sea")
    assert stepper.until_quiet() == [Ending.CRASHED, Ending.CRASHED, Ending.FAILED]
    (entry,) = tree.spool.entries(State.FAILED)
    assert (entry.failure.reason, entry.failure.message) == (reason, "it ended (attempt 3)")
    assert entry.failure.hint.startswith(hint)
    assert entry.failure.last_lines == ("the last words",)


@pytest.mark.parametrize("how", ["a crash", "a full disk", "its lifeline"])
def test_a_cancelled_job_is_not_queued_again(how: str, tree: Tree) -> None:
    """However its attempt ends early, it fails as cancelled, at the first."""

    def cancel(step: Step) -> None:
        if step.iteration == 0:
            (entry,) = tree.spool.entries(State.RUNNING)
            tree.spool.ask_cancel(entry)
            if how == "a crash":
                raise EngineError("it ended")
            if how == "a full disk":
                raise OSError(errno.ENOSPC, "No space left on device")
            stepper.service.attempts.stop_cancelled()

    tree.drop("sea")
    stepper = Stepper(tree.config, engine := FakeEngine(on_step=cancel))
    assert stepper.until_quiet() == [Ending.FAILED]
    assert len(engine.calls) == 1
    (entry,) = tree.spool.entries(State.FAILED)
    assert entry.failure == CANCELLED
    tree.check(is_quiet=True)


def test_two_workers_share_one_spool(tree: Tree) -> None:
    """Nothing outside of an attempt counts on one job at a time: each job is painted once, by either."""
    names = "abcdef"
    for name in names:
        tree.drop(name)
    engines = [FakeEngine(), FakeEngine()]
    service = Service(tree.config, engine=engines[0], decoder=NearDecoder())
    service.spool.prepare()
    service.recover()
    wait_for(
        lambda: service.intake.turn(time.monotonic()) and service.status.counts.accepted == 6, "all to be there"
    )
    lives = [Lifeline(), Lifeline()]
    workers = [
        Worker(engine, service.publisher, service.attempts, life, max_attempts=3)
        for engine, life in zip(engines, lives, strict=True)
    ]

    def work(worker: Worker) -> None:
        while worker.turn() is not None:
            pass

    threads = [threading.Thread(target=work, args=(worker,)) for worker in workers]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    service.publisher.close()
    service.publisher.raise_error()
    assert sorted(engines[0].calls + engines[1].calls) == sorted(tree.spool.ids(State.DONE))
    assert len(tree.results()) == 6
    assert service.room.reserved == {}
    assert service.attempts.progress() == []
    tree.check()
