"""An engine that crashes, hangs or gives up: attempts are counted, and the next job runs."""

from __future__ import annotations

from typing import TYPE_CHECKING

from support.fakes import FakeEngine
from support.trees import Stepper, claim_next, wait_for

from daemon import safe_yaml
from daemon.job import State
from daemon.worker.outcomes import Ending

if TYPE_CHECKING:
    from support.trees import Tree


def test_a_crash_is_counted_and_the_job_runs_again(tree: Tree) -> None:
    """A job whose engine crashed once is painted at its second attempt."""
    tree.drop("sea")
    assert Stepper(tree.config, FakeEngine("crash")).until_quiet() == [Ending.CRASHED, Ending.COMPLETED]
    record = safe_yaml.parse((tree.result("sea") / "result.yaml").read_bytes())["result"]
    assert record["attempt"] == 2
    tree.check(is_quiet=True)


def test_three_crashes_fail_the_job_and_the_next_one_runs(tree: Tree) -> None:
    """A job that crashes three times fails as engine_crashed with the last words; the next job is painted."""
    tree.drop("bad")
    tree.drop("good")
    engine = FakeEngine("crash", "crash", "crash")
    assert Stepper(tree.config, engine).until_quiet() == [
        *(Ending.CRASHED, Ending.CRASHED, Ending.FAILED),
        Ending.COMPLETED,
    ]
    assert engine.calls[0] == engine.calls[1] == engine.calls[2] != engine.calls[3]
    (failed,) = tree.outbox.glob("bad-*.failed")
    error = safe_yaml.parse((failed / "error.yaml").read_bytes())
    assert (error["reason"], error["attempt"]) == ("engine_crashed", 3)
    assert error["last_lines"] == ["the last words"]
    assert {path.name for path in (failed / "drop").iterdir()} == {"bad.yaml", "bad.jpg", "bad-style.png"}
    tree.check(is_quiet=True)


def test_ending_the_service_three_times_fails_the_job(tree: Tree) -> None:
    """A job that the service never outlived is given up at its fourth start, without being painted again."""
    tree.drop("sea")
    stepper = Stepper(tree.config, FakeEngine())
    wait_for(lambda: stepper.look() or stepper.service.status.counts.accepted, "the drop to be accepted")
    for _ in range(3):
        assert claim_next(tree.spool) is not None
        tree.spool.recover(lambda _job: False)
    engine = FakeEngine()
    assert Stepper(tree.config, engine).until_quiet() == [Ending.FAILED]
    assert engine.calls == []
    tree.check(is_quiet=True)


def test_a_stop_uses_no_attempt(tree: Tree) -> None:
    """A stop in the middle of a job queues it again, takes its progress away and uses no attempt."""
    tree.drop("sea")
    engine = FakeEngine("hang", on_step=lambda _step: stepper.service.stop.set())
    stepper = Stepper(tree.config, engine)
    wait_for(lambda: stepper.turn() is Ending.INTERRUPTED, "the interruption")
    (entry,) = tree.spool.entries(State.QUEUED)
    assert entry.attempts_used == 0
    assert not (tree.outbox / "_running").exists()
    assert Stepper(tree.config, FakeEngine()).until_quiet() == [Ending.COMPLETED]
    tree.check(is_quiet=True)


def test_a_job_that_cannot_be_painted_fails_at_once(tree: Tree) -> None:
    """A job error is final at the first attempt, and a retry paints the job."""
    tree.drop("sea")
    stepper = Stepper(tree.config, FakeEngine("job_error"))
    assert stepper.until_quiet() == [Ending.FAILED]
    (entry,) = tree.spool.entries(State.FAILED)
    tree.spool.retry(entry)
    assert stepper.until_quiet() == [Ending.COMPLETED]
    assert [name for name in tree.results() if name.endswith(".failed")] == []
    tree.check(is_quiet=True)
