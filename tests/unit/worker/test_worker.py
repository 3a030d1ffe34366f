"""One job, one ending: what the worker writes, shows and logs on the way."""

from __future__ import annotations

import itertools
import json
from typing import TYPE_CHECKING, Any

import pytest
import structlog
from structlog.testing import capture_logs
from support.fakes import Clock, FakeEngine
from support.trees import Stepper, Tree, wait_for

from daemon import images, safe_yaml
from daemon.errors import EngineError, Failure, JobError, NotReady, Reason
from daemon.job import State
from daemon.service import backoff
from daemon.worker.outcomes import Ending

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from contextlib import AbstractContextManager

    from daemon.config import Config
    from daemon.job import Request, Step


@pytest.fixture
def tree(make_config: Callable[..., Config], monkeypatch: pytest.MonkeyPatch) -> Tree:
    """Make a tree that settles at once."""
    monkeypatch.setattr(backoff, "PAUSE_S", 0.001)
    made = Tree(make_config(inbox={"settle_s": 0.001, "rescan_s": 0.002}))
    made.inbox.mkdir()
    return made


def test_a_preview_that_cannot_be_written_does_not_fail_the_job(tree: Tree) -> None:
    """A job whose progress the outbox does not take is warned about once, painted and published."""
    tree.drop("sea")
    stepper = Stepper(tree.config, FakeEngine())
    (tree.outbox / "_running").write_text("a file in the place of the folder")
    with capture_logs() as records:
        assert stepper.until_quiet() == [Ending.COMPLETED]
    assert [record["event"] for record in records].count("outbox.preview_failed") == 1
    tree.check()


def test_the_canonical_line_has_what_an_operator_filters_by(tree: Tree) -> None:
    """job.completed carries attempt, preset, sizes, losses, times, device and weights, all as plain values."""
    stepper = Stepper(tree.config, FakeEngine())
    tree.drop("sea")
    with capture_logs() as records:
        stepper.until_quiet()
    (line,) = [record for record in records if record["event"] == "job.completed"]
    facts = {
        *("attempt", "preset", "size", "height_px", "width_px", "iterations", "best_iteration", "styles"),
        *("first_loss", "best_loss", "last_loss", "target_s", "loop_s", "elapsed_s"),
        *("device", "precision", "weights_sha256", "path"),
    }
    assert facts <= line.keys()
    assert json.loads(json.dumps(line)) == line
    assert (line["height_px"], line["width_px"], line["first_loss"], line["best_loss"]) == (24, 32, 3.0, 0.75)


def test_the_record_repeats_as_a_sidecar(tree: Tree) -> None:
    """result.yaml names the drop's pictures and every setting, beside the record of what was done."""
    tree.drop("sea", seed=4, strength=None)
    Stepper(tree.config, FakeEngine()).until_quiet()
    document = safe_yaml.parse((tree.result("sea") / "result.yaml").read_bytes())
    assert (document["content"], document["style"], document["size"]) == ("sea.jpg", "sea-style.png", 32)
    assert document["result"]["weights"] == {"source": "fake", "sha256": "0" * 64}
    assert {item["role"] for item in document["result"]["inputs"]} == {"sidecar", "content", "style"}


def test_the_film_shows_its_frames_in_the_order_of_the_iterations(
    tree: Tree, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Frame 10000 comes after frame 5000, though its name sorts before."""
    shown: list[str] = []
    monkeypatch.setattr(
        images, "animate", lambda frames, _format, _beat: shown.extend(path.stem for path in frames) or b""
    )
    tree.drop("sea", iterations=10_000, frames={"every": 5_000})
    Stepper(tree.config, FakeEngine()).until_quiet(deadline_s=60)
    assert shown == ["0000", "5000", "10000"]


def test_progress_is_there_while_a_job_runs_and_only_then(tree: Tree) -> None:
    """`progress` counts the iterations of the running job and is gone with it."""
    seen = []

    def look(_step: Step) -> None:
        seen.append(stepper.service._worker.progress)

    stepper = Stepper(tree.config, FakeEngine(on_step=look))
    tree.drop("sea")
    stepper.until_quiet()
    assert seen[0] is None
    assert [progress.iteration for progress in seen[1:] if progress] == [0, 1, 2]
    assert stepper.service._worker.progress is None


def test_an_engine_that_is_not_ready_costs_no_attempt(tree: Tree) -> None:
    """While the device is busy nothing is claimed and the service pauses; later the job is painted."""

    class Busy(FakeEngine):
        def start(self) -> object:  # type: ignore[override]
            if self.script:
                self.script.popleft()
                raise NotReady("the GPU is busy")
            return super().start()

    stepper = Stepper(tree.config, Busy("busy", "busy"))
    tree.drop("sea")
    wait_for(lambda: stepper.look() or stepper.service.counts.accepted, "the drop to be accepted")
    with capture_logs() as records:
        wait_for(lambda: stepper.turn() is Ending.INTERRUPTED, "the first try")
        (entry,) = tree.spool.entries(State.QUEUED)
        assert entry.attempts_used == 0
        assert stepper.until_quiet()[-1] is Ending.COMPLETED
    reasons = [record["reason"] for record in records if record["event"] == "service.paused"]
    assert reasons == ["the GPU is busy"]
    record = safe_yaml.parse((tree.result("sea") / "result.yaml").read_bytes())["result"]
    assert record["attempt"] == 1
    tree.check(is_quiet=True)


def test_an_engine_that_ends_without_a_picture_uses_attempts(tree: Tree) -> None:
    """Steps that end unasked are no stop: the job fails as of an engine that crashed, after max_attempts."""

    class Quitting(FakeEngine):
        def stylize(self, request: Request, is_stopping: Callable[[], bool]) -> Iterator[Step]:
            yield from itertools.islice(super().stylize(request, is_stopping), 2)

    tree.drop("sea")
    stepper = Stepper(tree.config, Quitting())
    assert stepper.until_quiet() == [Ending.CRASHED, Ending.CRASHED, Ending.FAILED]
    (entry,) = tree.spool.entries(State.FAILED)
    assert entry.failure.reason is Reason.ENGINE_CRASHED
    assert "the engine ended without a picture" in entry.failure.message
    tree.check(is_quiet=True)


def test_memory_that_ran_out_leaves_less_to_the_next_attempt(
    make_config: Callable[..., Config], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each attempt that the engine ended for want of memory is followed by one with seven tenths of it."""
    monkeypatch.setattr(backoff, "PAUSE_S", 0.001)
    limits = []

    class Exhausted(FakeEngine):
        def stylize(self, request: Request, is_stopping: Callable[[], bool]) -> Iterator[Step]:
            limits.append(request.memory_limit_mb)
            raise EngineError("memory ran out", Reason.OUT_OF_MEMORY)

    tree = Tree(make_config(inbox={"settle_s": 0.001, "rescan_s": 0.002}, engine={"memory_limit_mb": 1000}))
    tree.inbox.mkdir()
    tree.drop("sea")
    assert Stepper(tree.config, Exhausted()).until_quiet() == [Ending.CRASHED, Ending.CRASHED, Ending.FAILED]
    assert limits == [1000, 700, 490]


# What comes next


def _queue(tree: Tree, stepper: Stepper, *names: str, **keys: Any) -> None:
    """Drop jobs and wait until they are queued."""
    count = tree.spool.count(State.QUEUED) + len(names)
    for name in names:
        tree.drop(name, **keys)
    wait_for(lambda: stepper.look() or tree.spool.count(State.QUEUED) == count, "the drops to be accepted")


def _captured() -> AbstractContextManager[list[Any]]:
    """Catch the log with the job's context."""
    return capture_logs(processors=[structlog.contextvars.merge_contextvars])


def _completed(records: list[Any]) -> dict[str, Any]:
    """The line of each completed job, by the name of its sidecar."""
    return {
        record["name"].rpartition("-")[0]: record for record in records if record["event"] == "job.completed"
    }


def test_the_engine_is_told_once_what_comes_next(tree: Tree) -> None:
    """While a job is painted the next one in the queue is hinted at, once; the last job has no next one."""
    engine = FakeEngine()
    stepper = Stepper(tree.config, engine)
    _queue(tree, stepper, "a", "b", "c", iterations=8)
    with _captured() as records:
        stepper.until_quiet()
    assert [request.content.parent.parent.name for request in engine.hints] == engine.calls[1:]
    assert all(request.content.parts[-4] == "queued" for request in engine.hints)
    prepared = {name: line["prepared"] for name, line in _completed(records).items()}
    assert prepared == {"a": False, "b": True, "c": True}


def test_a_hint_names_what_the_painting_will_ask_for(tree: Tree) -> None:
    """Pictures, weights and settings of the hint are those of the request that follows it."""
    engine = Asked()
    stepper = Stepper(tree.config, engine)
    _queue(tree, stepper, "a", "b")
    stepper.until_quiet()
    (hint,), (_, asked) = engine.hints, engine.requests
    assert [path.name for path in (hint.content, hint.styles[0][0])] == [
        path.name for path in (asked.content, asked.styles[0][0])
    ]
    assert (hint.settings, hint.styles[0][1], hint.init) == (asked.settings, asked.styles[0][1], asked.init)


class Asked(FakeEngine):
    """Remembers what it was asked to paint."""

    def __init__(self, *script: str, **options: Any) -> None:
        super().__init__(*script, **options)
        self.requests: list[Request] = []

    def stylize(self, request: Request, is_stopping: Callable[[], bool]) -> Iterator[Step]:
        """Paint as the fake does."""
        self.requests.append(request)
        return super().stylize(request, is_stopping)


@pytest.mark.parametrize("at", [2, 7], ids=["early", "too late"])
def test_what_comes_meanwhile_is_seen_near_the_end(tree: Tree, at: int) -> None:
    """A job that overtakes the queue amid a picture is hinted at before its end; after that look it is not."""

    def overtake(step: Step) -> None:
        if step.iteration == at and len(engine.calls) == 1:
            _queue(tree, stepper, "urgent", priority=5)

    engine = FakeEngine(on_step=overtake)
    stepper = Stepper(tree.config, engine)
    _queue(tree, stepper, "a", "b", iterations=8)
    with _captured() as records:
        stepper.until_quiet()
    lines = _completed(records)
    assert list(lines) == ["a", "urgent", "b"]
    assert lines["urgent"]["prepared"] == (at == 2)
    assert lines["b"]["prepared"]


def test_jobs_that_need_no_engine_are_not_hinted_at(tree: Tree) -> None:
    """A cancelled job is passed over for the next one that will be painted."""

    def cancel(step: Step) -> None:
        if step.iteration == 0 and len(engine.calls) == 1:
            tree.spool.ask_cancel(tree.spool.entries(State.QUEUED)[0])

    engine = FakeEngine(on_step=cancel)
    stepper = Stepper(tree.config, engine)
    _queue(tree, stepper, "a", "b", "c", iterations=8)
    last = tree.spool.entries(State.QUEUED)[2].id
    stepper.until_quiet()
    assert [request.content.parent.parent.name for request in engine.hints] == [last]


def test_an_engine_that_died_was_not_told(tree: Tree) -> None:
    """A hint given to an engine that ended since counts for nothing."""
    options = tree.config.engine.model_copy(update={"max_attempts": 1})
    stepper = Stepper(tree.config.model_copy(update={"engine": options}), engine := FakeEngine("crash"))
    _queue(tree, stepper, "a", "b")
    with _captured() as records:
        assert stepper.until_quiet() == [Ending.FAILED, Ending.COMPLETED]
    assert len(engine.hints) == 1
    assert not _completed(records)["b"]["prepared"]


# The gap between two jobs


def test_the_gap_is_told_for_jobs_that_waited(tree: Tree) -> None:
    """gap_s is from the last step of the job before to the first one here; None where nothing waited."""
    engine = FakeEngine()
    stepper = Stepper(tree.config, engine)
    _queue(tree, stepper, "a", "b")
    with Clock().attached() as clock, _captured() as records:
        engine._on_step = lambda step: clock.sleep(1.0 if step.iteration == 0 else 5.0)
        assert [stepper.turn(), stepper.turn()] == [Ending.COMPLETED] * 2
        assert stepper.turn() is None
        _queue(tree, stepper, "c")
        assert stepper.turn() is Ending.COMPLETED
    gaps = {name: line["gap_s"] for name, line in _completed(records).items()}
    assert gaps == {"a": None, "b": 1.0, "c": None}


def test_a_job_that_came_after_the_last_step_did_not_wait(tree: Tree) -> None:
    """Where the next job was not queued when the one before took its last step, there is no gap."""
    stepper = Stepper(tree.config, FakeEngine())
    _queue(tree, stepper, "a")
    with _captured() as records:
        assert stepper.turn() is Ending.COMPLETED
        _queue(tree, stepper, "b")
        assert stepper.turn() is Ending.COMPLETED
    assert _completed(records)["b"]["gap_s"] is None


def test_a_format_that_holds_no_such_picture_fails_the_job(tree: Tree, monkeypatch: pytest.MonkeyPatch) -> None:
    """What cannot be encoded after the last step fails with its reason, and the next job is painted."""
    encode = images.encode

    def refuse(picture: Any, format: str, *profile: Any) -> bytes:  # noqa: A002 - as it is called
        if format == "webp":
            raise JobError(Failure(Reason.PICTURE_TOO_LARGE, "too large for webp"))
        return encode(picture, format, *profile)

    monkeypatch.setattr(images, "encode", refuse)
    stepper = Stepper(tree.config, FakeEngine())
    _queue(tree, stepper, "a", output={"format": "webp"})
    _queue(tree, stepper, "b")
    assert stepper.until_quiet() == [Ending.FAILED, Ending.COMPLETED]
    (entry,) = tree.spool.entries(State.FAILED)
    assert entry.failure.reason is Reason.PICTURE_TOO_LARGE
    tree.check(is_quiet=True)
