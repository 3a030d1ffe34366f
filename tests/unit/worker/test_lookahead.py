"""What comes next on an engine: the hint about it, and the gap before it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from support.fakes import Clock, FakeEngine
from support.trees import NearDecoder, Stepper, Tree, captured, named, save, wait_for

from daemon import sidecar
from daemon.job import Face, State
from daemon.sandbox.client import Found
from daemon.worker.outcomes import Ending

if TYPE_CHECKING:
    from pathlib import Path

    from daemon.job import Step
    from daemon.lifeline import Lifeline


def _queue(tree: Tree, stepper: Stepper, *names: str, **keys: Any) -> None:
    """Drop jobs and wait until they are queued."""
    count = tree.spool.count(State.QUEUED) + len(names)
    for name in names:
        tree.drop(name, **keys)
    wait_for(lambda: stepper.look() or tree.spool.count(State.QUEUED) == count, "the drops to be accepted")


def _completed(records: list[Any]) -> dict[str, Any]:
    """The line of each completed job, by the name of its sidecar."""
    return {record["name"].rpartition("-")[0]: record for record in named(records, "job.completed")}


def test_the_engine_gets_one_hint_of_what_comes_next(tree: Tree) -> None:
    """While a job is painted the next one in the queue is hinted at, once; the last job has no next one."""
    engine = FakeEngine()
    stepper = Stepper(tree.config, engine)
    _queue(tree, stepper, "a", "b", "c", iterations=8)
    with captured() as records:
        stepper.until_quiet()
    assert [request.content.parent.parent.name for request in engine.hints] == engine.calls[1:]
    assert all(request.content.parts[-4] == "queued" for request in engine.hints)
    prepared = {name: line["prepared"] for name, line in _completed(records).items()}
    assert prepared == {"a": False, "b": True, "c": True}


def test_a_hint_names_what_the_painting_will_ask_for(tree: Tree) -> None:
    """Pictures, weights, scales and settings of the hint are those of the request that follows it."""
    engine = FakeEngine()
    stepper = Stepper(tree.config, engine)
    _queue(tree, stepper, "a")
    _queue(tree, stepper, "b", style=[{"image": "b-style.png", "scale": 2.0}])
    stepper.until_quiet()
    (hint,), (_, asked) = engine.hints, engine.requests
    assert [path.name for path in (hint.content, hint.styles[0][0])] == [
        path.name for path in (asked.content, asked.styles[0][0])
    ]
    assert hint.styles[0].scale == asked.styles[0].scale == 2.0
    assert (hint.settings, hint.styles[0][1], hint.init) == (asked.settings, asked.styles[0][1], asked.init)


def test_a_request_has_the_regions_with_their_masks(tree: Tree) -> None:
    """Each region's painting has its mask of the photo, its own mask if it has one, and its weight.

    The files are accepted and retired with the others, also one that is used twice; the record repeats the job.
    """
    engine = FakeEngine()
    stepper = Stepper(tree.config, engine)
    sky = {"content": "sky.png", "style": "b-style.png", "weight": 2.0}
    sea = {"content": "sea.png", "style": "wave.png", "style_mask": "sky.png"}
    for seed, name in enumerate(("sky.png", "sea.png", "wave.png"), start=5):
        save(tree.inbox / name, seed)
    _queue(tree, stepper, "b", regions=[sky, sea])
    stepper.until_quiet()
    (request,) = engine.requests
    plain, sky, sea = request.styles
    assert (plain.mask, plain.region, sky.weight, sky.mask, sea.weight) == (None, None, 2.0, None, 1.0)
    paths = (sky.image, sky.region, sea.image, sea.mask, sea.region)
    parts = ("style-0", "content-0", "style-1", "style_mask-0", "content-1")
    assert [path.name for path in paths] == [f"region_{part}.png" for part in parts]
    assert list(tree.inbox.glob("*.png")) == []
    (record,) = tree.outbox.glob("b-*/result.yaml")
    assert sidecar.parse(record.read_bytes(), "result.yaml").settings.regions == request.settings.regions


def test_a_request_has_what_is_to_be_protected(tree: Tree) -> None:
    """The mask comes as a file of its own, and faces as they were found."""
    engine = FakeEngine()
    stepper = Stepper(tree.config, engine, Seeing())
    save(tree.inbox / "mask.png", 9)
    _queue(tree, stepper, "a", protect="mask.png")
    _queue(tree, stepper, "b")
    with captured() as records:
        stepper.until_quiet()
    masked, faced = engine.requests
    assert (masked.mask.name, masked.faces) == ("protect-0.png", ())
    assert (faced.mask, faced.faces) == (None, (FACE,))
    assert {name: line["faces"] for name, line in _completed(records).items()} == {"a": None, "b": 1}
    assert tree.left() == []


def test_a_sheet_has_the_names_as_they_are(tree: Tree) -> None:
    """A line break in one is no backslash: sheet.yaml is to find the file."""
    engine = FakeEngine()
    stepper = Stepper(tree.config, engine)
    _queue(tree, stepper, "a\nb", preset="sheet", frames={"every": 0})
    stepper.until_quiet()
    assert engine.requests[0].sheet == ("a\nb.jpg", "a\nb-style.png")


FACE = Face(0.25, 0.25, 0.5, 0.5)


class Seeing(NearDecoder):
    """Sees a face wherever it is asked for one."""

    def inspect(
        self, path: Path, name: str, life: Lifeline, *, wants_faces: bool = False, **wants: bool
    ) -> tuple[tuple[int, int], Found]:
        """See the base class."""
        size, found = super().inspect(path, name, life)
        return size, Found((FACE,), "a fake") if wants_faces else found


@pytest.mark.parametrize("at", [2, 7], ids=["early", "too late"])
def test_what_comes_meanwhile_is_seen_near_the_end(tree: Tree, at: int) -> None:
    """A job that overtakes the queue during a painting gets its hint near the end, not after that look."""

    def overtake(step: Step) -> None:
        if step.iteration == at and len(engine.calls) == 1:
            _queue(tree, stepper, "urgent", priority=5)

    engine = FakeEngine(on_step=overtake)
    stepper = Stepper(tree.config, engine)
    _queue(tree, stepper, "a", "b", iterations=8)
    with captured() as records:
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


def test_an_engine_that_died_has_no_hint(tree: Tree) -> None:
    """A hint given to an engine that ended since counts for nothing."""
    options = tree.config.engine.model_copy(update={"max_attempts": 1})
    stepper = Stepper(tree.config.model_copy(update={"engine": options}), engine := FakeEngine("crash"))
    _queue(tree, stepper, "a", "b")
    with captured() as records:
        assert stepper.until_quiet() == [Ending.FAILED, Ending.COMPLETED]
    assert len(engine.hints) == 1
    assert not _completed(records)["b"]["prepared"]


# The gap between two jobs


def test_the_gap_is_recorded_for_jobs_that_waited(tree: Tree) -> None:
    """gap_s is from the last step of the job before to the first one here; None where nothing waited."""
    clock = Clock()
    engine = FakeEngine(on_step=lambda step: clock.sleep(1.0 if step.iteration == 0 else 5.0))
    stepper = Stepper(tree.config, engine)
    _queue(tree, stepper, "a", "b")
    with clock.attached(), captured() as records:
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
    with captured() as records:
        assert stepper.turn() is Ending.COMPLETED
        _queue(tree, stepper, "b")
        assert stepper.turn() is Ending.COMPLETED
    assert _completed(records)["b"]["gap_s"] is None
