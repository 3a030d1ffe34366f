"""The service's own threads, in this process and with a fake engine, while its surroundings fail."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

import pytest
from structlog.testing import capture_logs
from support.fakes import FakeEngine
from support.trees import NearInspector, Stepper, Tree, wait_for

from daemon import safe_yaml
from daemon.job import State
from daemon.service.service import Service

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, MutableMapping
    from pathlib import Path
    from typing import Any

    from daemon.config import Config
    from daemon.job import Step

FACTS = {"attempt", "iterations", "height_px", "width_px", "first_loss", "best_loss", "last_loss", "device"}
END_S = 20


class Running:
    """A service that runs in a thread of its own, and what came of it."""

    def __init__(self, config: Config, engine: FakeEngine) -> None:
        self.service = Service(config, engine=engine, inspector=NearInspector())
        self.code: int | None = None
        self.error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        try:
            self.code = self.service.run()
        except Exception as error:  # noqa: BLE001 - for the test to look at
            self.error = error

    def until_ready(self) -> None:
        """Wait until it works."""
        wait_for(lambda: self.service.situation.state == "running", "the service to be ready", END_S)

    def wait(self) -> bool:
        """Wait for its end; whether it came."""
        self._thread.join(END_S)
        return not self._thread.is_alive()

    def stop(self) -> None:
        """End it."""
        self.service.ask_stop()
        assert self.wait()


@pytest.fixture
def run(tree: Tree) -> Iterator[Callable[[FakeEngine], Running]]:
    """Start services on the tree; those that still run are ended."""
    made: list[Running] = []

    def start(engine: FakeEngine) -> Running:
        made.append(Running(tree.config, engine))
        return made[-1]

    yield start
    for running in made:
        running.stop()


def _sentinel(tree: Tree) -> Path:
    return tree.outbox / ".styletransferd-outbox"


def _completed(records: list[MutableMapping[str, Any]]) -> MutableMapping[str, Any]:
    (line,) = [record for record in records if record["event"] == "job.completed"]
    return line


def test_a_faulty_drop_does_not_hold_up_the_inbox_while_the_outbox_is_away(
    tree: Tree, run: Callable[[FakeEngine], Running]
) -> None:
    """With the outbox away a good drop after a faulty one is accepted; both endings appear once it is back."""
    running = run(FakeEngine())
    running.until_ready()
    _sentinel(tree).unlink()
    tree.drop("bad", sise=3)
    wait_for(lambda: running.service.counts.accepted == 1, "the faulty drop to be accepted", END_S)
    tree.drop("good")
    wait_for(lambda: running.service.counts.accepted == 2, "the good drop to be accepted", END_S)
    wait_for(lambda: tree.left() == [], "the inbox to be cleared", END_S)
    assert tree.results() == []
    _sentinel(tree).touch()
    wait_for(lambda: len(tree.spool.entries(State.DONE)) == 1, "the good drop's end", END_S)
    wait_for(lambda: len(tree.spool.entries(State.FAILED)) == 1, "the faulty drop's end", END_S)
    running.stop()
    (failed,) = tree.outbox.glob("bad-*.failed")
    assert safe_yaml.parse((failed / "error.yaml").read_bytes())["reason"] == "bad_sidecar"
    assert (running.service.counts.completed, running.service.counts.failed) == (1, 1)
    tree.check(is_quiet=True)


@pytest.mark.parametrize("part", ["_intake.turn", "_intake.end_cancelled", "_work.turn"])
def test_a_defect_in_any_thread_ends_the_run_with_it(
    part: str, tree: Tree, run: Callable[[FakeEngine], Running], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What no one expected, in the intake, for operators or in the worker, stops all of them and is raised."""
    defect = RuntimeError("a defect")

    def stumble(*_: object) -> None:
        raise defect

    engine = FakeEngine()
    running = run(engine)
    running.until_ready()
    loop, _, name = part.partition(".")
    monkeypatch.setattr(getattr(running.service, loop), name, stumble)
    assert running.wait()
    assert running.error is defect
    assert not engine.is_started
    assert not tree.spool.is_locked()


def test_facts_survive_a_stop_while_the_outbox_is_away(
    tree: Tree, run: Callable[[FakeEngine], Running]
) -> None:
    """A job published only after a restart is completed with the facts of its painting, painted once."""

    def unmount(step: Step) -> None:
        if step.painting:
            _sentinel(tree).unlink()

    first, second = FakeEngine(on_step=unmount), FakeEngine()
    running = run(first)
    running.until_ready()
    tree.drop("sea")
    wait_for(lambda: "outbox" in running.service.situation.paused, "the publication to pause", END_S)
    running.stop()
    assert running.code == 0
    assert tree.results() == []
    _sentinel(tree).touch()
    with capture_logs() as records:
        running = run(second)
        wait_for(lambda: tree.spool.entries(State.DONE), "the job to be done", END_S)
        running.stop()
    line = _completed(records)
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
    assert _completed(records).keys() >= FACTS
    tree.check(is_quiet=True)
