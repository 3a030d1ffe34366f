"""The service's own threads, in this process and with a fake engine, while the environment fails."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from structlog.testing import capture_logs
from support.fakes import FakeEngine
from support.running import END_S, Runs
from support.trees import Stepper, Tree, named, wait_for

from daemon import safe_yaml
from daemon.job import State
from daemon.spool import lock

if TYPE_CHECKING:
    from pathlib import Path

    from daemon.job import Step

FACTS = {"attempt", "iterations", "height_px", "width_px", "first_loss", "best_loss", "last_loss", "device"}


def _sentinel(tree: Tree) -> Path:
    return tree.outbox / ".styletransferd-outbox"


def test_a_faulty_drop_does_not_hold_up_the_inbox_while_the_outbox_is_away(tree: Tree, run: Runs) -> None:
    """With the outbox away a good drop after a faulty one is accepted; both endings appear once it is back."""
    running = run(tree.config).until_ready()
    _sentinel(tree).unlink()
    tree.drop("bad", sise=3)
    wait_for(lambda: running.service.status.counts.accepted == 1, "the faulty drop to be accepted", END_S)
    tree.drop("good")
    wait_for(lambda: running.service.status.counts.accepted == 2, "the good drop to be accepted", END_S)
    wait_for(lambda: tree.left() == [], "the inbox to be cleared", END_S)
    assert tree.results() == []
    _sentinel(tree).touch()
    wait_for(lambda: len(tree.spool.entries(State.DONE)) == 1, "the good drop's end", END_S)
    wait_for(lambda: len(tree.spool.entries(State.FAILED)) == 1, "the faulty drop's end", END_S)
    running.stop()
    (failed,) = tree.outbox.glob("bad-*.failed")
    assert safe_yaml.parse((failed / "error.yaml").read_bytes())["reason"] == "bad_sidecar"
    assert (running.service.status.counts.completed, running.service.status.counts.failed) == (1, 1)
    tree.check(is_quiet=True)


@pytest.mark.parametrize(
    "part", ["intake.turn", "settler.end_cancelled", "work.turn", "status.turn", "upkeep.turn"]
)
def test_a_defect_in_any_thread_ends_the_run_with_it(
    part: str, tree: Tree, run: Runs, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What no one expected in any of the threads stops all of them and is raised."""
    defect = RuntimeError("a defect")

    def stumble(*_: object) -> None:
        raise defect

    engine = FakeEngine()
    running = run(tree.config, engine).until_ready()
    loop, _, name = part.partition(".")
    monkeypatch.setattr(getattr(running.service, loop), name, stumble)
    running.join()
    assert running.error is defect
    assert not engine.is_started
    assert not lock.is_locked(tree.spool.root)


def test_facts_survive_a_stop_while_the_outbox_is_away(tree: Tree, run: Runs) -> None:
    """A job published only after a restart is completed with the facts of its painting, painted once."""

    def unmount(step: Step) -> None:
        if step.painting:
            _sentinel(tree).unlink()

    first, second = FakeEngine(on_step=unmount), FakeEngine()
    running = run(tree.config, first).until_ready()
    tree.drop("sea")
    wait_for(lambda: "outbox" in running.service.situation.paused, "the publication to pause", END_S)
    running.stop()
    assert running.code == 0
    assert tree.results() == []
    _sentinel(tree).touch()
    with capture_logs() as records:
        running = run(tree.config, second)
        wait_for(lambda: tree.spool.entries(State.DONE), "the job to be done", END_S)
        running.stop()
    (line,) = named(records, "job.completed")
    assert line.keys() >= FACTS | {"path"}
    assert (line["height_px"], line["width_px"], line["device"]) == (24, 32, "fake")
    assert (len(first.calls), second.calls) == (1, [])
    tree.check(is_quiet=True)


def test_facts_survive_an_end_between_publication_and_completion(
    tree: Tree, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A job that recovery finds published is completed with the facts of its painting."""
    stepper = Stepper(tree.config, FakeEngine())
    tree.drop("sea")

    def end(_claim: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(stepper.service.spool, "complete", end)
    with pytest.raises(KeyboardInterrupt):
        stepper.until_quiet()
    assert len(tree.spool.entries(State.RUNNING)) == 1
    with capture_logs() as records:
        Stepper(tree.config, FakeEngine())
    (line,) = named(records, "job.completed")
    assert line.keys() >= FACTS
    tree.check(is_quiet=True)
