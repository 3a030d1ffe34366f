"""`run --drain`: works off what is there, then ends. The whole service in this process, with a quick engine."""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING, Any

import pytest
from support.fakes import FakeEngine
from support.trees import NearDecoder, Tree, hasten, wait_for

from daemon.errors import NotReady
from daemon.job import State
from daemon.service.service import Service

if TYPE_CHECKING:
    from collections.abc import Callable

    from support.running import Runs

    from daemon.config import Config
    from daemon.lifeline import Lifeline

SETTLE_S = 0.2


@pytest.fixture
def tree(make_config: Callable[..., Config], monkeypatch: pytest.MonkeyPatch) -> Tree:
    """Make a tree that settles quickly."""
    hasten(monkeypatch)
    made = Tree(make_config(inbox={"settle_s": SETTLE_S, "rescan_s": 0.2}))
    made.inbox.mkdir()
    return made


def _drain(tree: Tree, *script: str) -> int:
    return Service(tree.config, drains=True, engine=FakeEngine(*script), decoder=NearDecoder()).run()


def test_all_done_is_0(tree: Tree) -> None:
    """A drain that paints everything ends with 0, and nothing is left."""
    for number in range(3):
        tree.drop(f"p{number}")
    assert _drain(tree) == 0
    assert len(tree.results()) == 3
    tree.check(is_quiet=True)


def test_nothing_to_do_is_0(tree: Tree) -> None:
    """A drain of an empty inbox ends by itself."""
    assert _drain(tree) == 0


@pytest.mark.parametrize("kind", ["a faulty sidecar", "a job that cannot be painted"])
def test_a_failure_is_1(kind: str, tree: Tree) -> None:
    """One failed job makes it 1, whichever way it failed; the others are painted."""
    tree.drop("a", **({"sise": 3} if kind == "a faulty sidecar" else {}))
    tree.drop("b")
    script = ("job_error",) if kind == "a job that cannot be painted" else ()
    assert _drain(tree, *script) == 1
    assert [name.rpartition("-")[0] for name in tree.results()] == ["a", "b"]
    tree.check(is_quiet=True)


def test_a_file_that_is_still_being_written_is_waited_for(tree: Tree, run: Runs) -> None:
    """A drain does not end while a drop grows, however long that takes."""
    sidecar = tree.drop("slow")
    picture = sidecar.with_name("slow.jpg")
    data = picture.read_bytes()
    with picture.open("wb", buffering=0) as file:
        drain = run(tree.config, drains=True)
        end = time.monotonic() + 6 * SETTLE_S
        for start in range(0, len(data), 1 + len(data) // 40):
            file.write(data[start : start + 1 + len(data) // 40])
            time.sleep(6 * SETTLE_S / 40)
            assert drain.is_alive
        assert time.monotonic() >= end
    assert drain.wait() == 0
    assert len(tree.results()) == 1
    tree.check(is_quiet=True)


def test_what_only_waits_for_somebody_is_not_waited_for(tree: Tree) -> None:
    """A drain ends with a sidecar without its picture, and pictures without a sidecar, left in the inbox."""
    tree.drop("good")
    (tree.inbox / "alone.yaml").write_text("content: missing.jpg\nstyle: missing.png\n")
    (tree.inbox / "orphan.png").write_bytes(b"x")
    assert _drain(tree) == 0
    assert tree.left() == ["alone.yaml", "orphan.png"]
    tree.check(is_quiet=True)


def test_held_jobs_stay_held(tree: Tree, run: Runs) -> None:
    """A drain passes over held jobs and still ends with 0."""
    tree.drop("a")
    stopped = run(tree.config, FakeEngine("hang"))
    wait_for(lambda: tree.spool.count(State.RUNNING), "the job to start")
    stopped.stop()
    (entry,) = tree.spool.entries(State.QUEUED)
    tree.spool.hold(entry)
    tree.drop("b")
    assert _drain(tree) == 0
    assert [job.id for job in tree.spool.entries(State.HELD)] == [entry.id]
    assert len(tree.results()) == 1


def test_a_drain_waits_out_a_missing_outbox(tree: Tree, run: Runs) -> None:
    """A drain whose outbox goes away waits for it instead of ending half done."""
    sentinel = tree.outbox / ".styletransferd-outbox"
    tree.drop("a")
    drain = run(tree.config, FakeEngine(on_step=lambda _step: sentinel.unlink(missing_ok=True)), drains=True)
    wait_for(lambda: drain.service.situation.paused or not drain.is_alive, "the pause")
    assert drain.is_alive
    assert tree.results() == []
    sentinel.touch()
    assert drain.wait() == 0
    tree.check(is_quiet=True)


def test_a_stop_ends_a_drain(tree: Tree, run: Runs) -> None:
    """A drain that is asked to stop ends soon, with the job queued again."""
    tree.drop("a")
    drain = run(tree.config, FakeEngine("hang"), drains=True)
    wait_for(lambda: tree.spool.count(State.RUNNING), "the job to start")
    drain.service.ask_stop()
    drain.join(5)
    assert not drain.is_alive
    assert tree.spool.count(State.QUEUED) == 1


def test_an_engine_that_cannot_start_ends_the_service(tree: Tree) -> None:
    """What the engine lacks at the start is raised, to become exit 75, and no thread is left behind."""

    class Lacking(FakeEngine):
        def start(self, life: Lifeline) -> Any:
            raise NotReady("no GPU")

    before = threading.active_count()
    with pytest.raises(NotReady, match="no GPU"):
        Service(tree.config, drains=True, engine=Lacking(), decoder=NearDecoder()).run()
    assert threading.active_count() == before
