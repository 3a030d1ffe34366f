"""True resume: from whichever step a job goes on, it ends as the unbroken one, to the bit."""

from __future__ import annotations

import hashlib
import itertools
import os
import weakref
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st
from structlog.testing import capture_logs
from support.fakes import AskedLife, Killed, steps_of
from support.narrow_vgg import narrow_weights
from support.struck import Struck, kill
from support.trees import Stepper, Tree, save, wait_for

from daemon import config as config_module
from daemon import safe_yaml
from daemon.engine import local
from daemon.engine.checkpoints import UNREADABLE, Checkpoints, kept
from daemon.engine.local import LocalEngine
from daemon.engine.painter import Painter
from daemon.engine.session import Previews
from daemon.job import Request, State
from daemon.settings import PRESETS, Frames, Settings
from daemon.transfer.backend import device
from daemon.transfer.backend.arrays import nest_of
from daemon.transfer.optimizers import RESTARTS, Lbfgs
from daemon.transfer.scales import Subject
from daemon.worker.outcomes import Ending

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from daemon.config import Config
    from daemon.engine.checkpoints import Checkpoint
    from daemon.engine.session import Session
    from daemon.job import Step
    from daemon.transfer.vgg19 import Vgg19

    Draw = Callable[..., np.ndarray]
    Job = dict[str, Any]

EVERY_PICTURE = Previews(Frames(every=1), 0)
SIZES: Job = {"size": 36, "iterations": 5, "scales": [{"size": 24, "iterations": 6}]}
PAPER: Job = {**PRESETS["paper"], **SIZES}
LONG: Job = {**PRESETS["default"], **SIZES, "iterations": 14, "scales": [{"size": 24, "iterations": 18}]}
EARLY: Job = {**LONG, "early_stop": {"improvement": 0.25, "iterations": 3}}

iterations = st.integers(1, 5)
jobs = st.fixed_dictionaries(
    {
        "method": st.sampled_from(
            [
                {**PRESETS["paper"], "learning_rate": 2},
                {**PRESETS["paper"], "learning_rate": 40},
                PRESETS["default"],
                {**PRESETS["default"], "strength": 1, "tv_weight": 1},
            ]
        ),
        "scales": st.one_of(
            st.just("none"), iterations.map(lambda number: [{"size": 24, "iterations": number}])
        ),
        "iterations": iterations,
        "init": st.sampled_from(["content", "style", "noise", "start.png"]),
        "seed": st.integers(0, 3),
        "shares": st.sampled_from([[1.0], [2.0, 1.0]]),
    }
)


class Studio:
    """A painter whose computed steps are counted, and the way from a job to a session."""

    def __init__(self, network: Vgg19, draw: Draw) -> None:
        self.painter = Painter(network)
        self.evaluated = 0
        self._draw = draw
        self._counted: set[int] = set()

    def subject(self, job: Job) -> Subject:
        """Draw a job's pictures; `shares` are those of its styles, `method` holds more settings."""
        keys = {"size": 36, **job, **job.get("method", {})}
        keys |= {key: job[key] for key in ("scales", "iterations", "init", "seed") if key in job}
        shares = keys.pop("shares", [1.0])
        keys.pop("method", None)
        styles = [(self._draw(36, 28, seed), share) for seed, share in enumerate(shares, start=1)]
        chosen = Settings.model_validate(keys)
        start = self._draw(40, 30, 9) if chosen.init == "start.png" else None
        return Subject(self._draw(30, 40), styles, chosen, start)

    def begin(self, job: Job, resumed: Checkpoint | None = None) -> Session:
        """Prepare a job."""
        subject = self.subject(job)
        self._count(self.painter.step(subject.settings))
        return self.painter.begin(subject, resumed=resumed)

    def _count(self, step: Any) -> None:
        if id(step) not in self._counted:
            self._counted.add(id(step))
            step.step, step.loss = self._counting(step.step), self._counting(step.loss)

    def _counting(self, function: Any) -> Any:
        def call(*arguments: Any) -> Any:
            self.evaluated += 1
            return function(*arguments)

        call.experimental_get_tracing_count = function.experimental_get_tracing_count  # type: ignore[attr-defined]
        return call


@dataclass
class Unbroken:
    """A job painted in one go, and its state at every step."""

    steps: list[Step] = field(default_factory=list)
    states: list[Checkpoint] = field(default_factory=list)


@pytest.fixture(scope="module")
def studio(narrow: Vgg19, picture: Draw) -> Studio:
    """One for all tests, so that each step is compiled once."""
    return Studio(narrow, picture)


def paint(studio: Studio, job: Job) -> Unbroken:
    """Paint a job in one go."""
    made, painting = Unbroken(), studio.begin(job)
    for step in painting.steps(EVERY_PICTURE):
        made.steps.append(step)
        if step.painting is None:
            made.states.append(painting.checkpoint())
    return made


@pytest.fixture(scope="module")
def through_disk(tmp_path_factory: pytest.TempPathFactory) -> Callable[[Checkpoint], Checkpoint]:
    """Write a state to a file and read it back."""
    folder = tmp_path_factory.mktemp("ckpt")

    def there_and_back(state: Checkpoint) -> Checkpoint:
        Checkpoints(folder, "key", 30).save(state)
        found = Checkpoints(folder, "key", 30).newest().checkpoint
        assert found is not None
        return found

    return there_and_back


def facts(step: Step) -> tuple[Any, ...]:
    """What a step says of the way."""
    return step.iteration, step.iterations, step.size_px, step.losses


def assert_same_end(found: Step, expected: Step) -> None:
    """The painting has the same pixels and the same record but for times."""
    one, other = found.painting, expected.painting
    assert one is not None
    assert other is not None
    assert np.array_equal(one.picture, other.picture)
    for name in ("best_iteration", "first", "best", "last", "steps_back"):
        assert getattr(one, name) == getattr(other, name), name


def assert_goes_on(studio: Studio, job: Job, whole: Unbroken, state: Checkpoint) -> None:
    """The record comes again, what follows is equal to the bit, and nothing is computed again."""
    done, before = len(state.rows), studio.evaluated
    steps = list(studio.begin(job, state).steps(EVERY_PICTURE))
    known, fresh = steps[:done], steps[done:]
    assert all(step.is_replayed and step.picture is None and step.painting is None for step in known)
    assert not any(step.is_replayed for step in fresh)
    assert [facts(step) for step in steps] == [facts(step) for step in whole.steps]
    assert [step.elapsed_s for step in known] == [step.elapsed_s for step in whole.steps[:done]]
    assert all(step.elapsed_s > known[-1].elapsed_s for step in fresh)
    assert [step.restart for step in fresh] == [step.restart for step in whole.steps[done:]]
    for step, other in zip(fresh, whole.steps[done:], strict=True):
        assert np.array_equal(step.picture, other.picture), step.iteration
    assert_same_end(steps[-1], whole.steps[-1])
    assert studio.evaluated - before == len(fresh)


@given(jobs, st.data())
@settings(max_examples=25, deadline=None)
def test_going_on_from_any_step_of_any_job_ends_as_if_unbroken(
    studio: Studio, through_disk: Callable[[Checkpoint], Checkpoint], job: Job, data: st.DataObject
) -> None:
    """Whatever the job and the step after which it was broken off."""
    whole = paint(studio, job)
    assert len(whole.states) == len(whole.steps) - 1 >= 1
    state = data.draw(st.sampled_from(whole.states))
    assert_goes_on(studio, job, whole, through_disk(state))


def test_the_best_picture_may_lie_before_the_break(
    studio: Studio, through_disk: Callable[[Checkpoint], Checkpoint]
) -> None:
    """The second size begins from a picture neither first nor last, which had to be kept."""
    job = {**PAPER, "learning_rate": 30}
    whole = paint(studio, job)
    coarse = [step for step in whole.steps if step.size_px == 24]
    best = min(coarse, key=lambda step: step.losses.total)
    assert 0 < best.iteration < coarse[-1].iteration - 1
    for state in whole.states[best.iteration + 1 : len(coarse)]:
        assert_goes_on(studio, job, whole, through_disk(state))


def test_the_memory_of_lbfgs_is_kept_full(
    studio: Studio, through_disk: Callable[[Checkpoint], Checkpoint]
) -> None:
    """States with ten pairs, at each of two sizes, are gone on from exactly."""
    whole = paint(studio, LONG)
    full = []
    for state in whole.states:
        parts = tf.nest.pack_sequence_as(Lbfgs().signature(), list(state.state))
        full += [state] if all(float(sy) > 0 for sy in parts.sy) else []
    assert {state.scale for state in full} == {0, 1}
    for state in (full[0], full[-1]):
        assert_goes_on(studio, LONG, whole, through_disk(state))


def test_early_stop_ends_the_same_sizes(
    studio: Studio, through_disk: Callable[[Checkpoint], Checkpoint]
) -> None:
    """A job that left both sizes before their last iteration leaves them there again."""
    whole = paint(studio, EARLY)
    for size_px, planned in {24: 18, 36: 14}.items():
        assert 3 < len([step for step in whole.steps if step.size_px == size_px]) <= planned
    for state in whole.states[::3]:
        assert_goes_on(studio, EARLY, whole, through_disk(state))


def test_going_on_between_restarts_ends_as_if_unbroken(
    narrow: Vgg19,
    picture: Draw,
    monkeypatch: pytest.MonkeyPatch,
    through_disk: Callable[[Checkpoint], Checkpoint],
) -> None:
    """Where L-BFGS takes steps back and restarts, a state before, between or after is as good as any."""
    monkeypatch.setattr(Lbfgs, "rise", 1.0)  # so that every rise counts as one to turn back from
    monkeypatch.setattr(Lbfgs, "first_px", 150.0)  # and the first step leads far away
    studio = Studio(narrow, picture)
    whole = paint(studio, {**LONG, "strength": 1})
    assert {step.size_px for step in whole.steps if step.restart == RESTARTS[1]} == {24, 36}
    for state in whole.states[::2]:
        assert_goes_on(studio, {**LONG, "strength": 1}, whole, through_disk(state))


def test_a_state_is_not_changed_by_the_way_after_it(studio: Studio) -> None:
    """One that was taken stays as it was, although it shares the tensors' memory."""
    whole, painting, copies = paint(studio, PAPER), studio.begin(PAPER), []
    for step, state in zip(painting.steps(), whole.states, strict=False):
        taken = painting.checkpoint()
        copies.append((taken, [np.array(part) for part in (taken.image, taken.moved, *taken.state)]))
        assert np.array_equal(taken.image, state.image), step.iteration
    for taken, before in copies:
        assert all(map(np.array_equal, (taken.image, taken.moved, *taken.state), before))


@pytest.mark.parametrize("job", [PAPER, LONG], ids=["Adam", "L-BFGS"])
def test_nothing_of_the_step_before_is_held(studio: Studio, monkeypatch: pytest.MonkeyPatch, job: Job) -> None:
    """While a step is computed, what the optimizer dropped in the step before is gone.

    Adam has its moments anew at every step; L-BFGS drops its gradient, and a full memory its oldest pair.
    """
    painting, before = studio.begin(job), []
    compiled, alive = studio.painter.step(studio.subject(job).settings), []
    step = compiled.step

    def watched(image: Any, targets: Any, state: Any) -> Any:
        inputs = {id(part) for part in tf.nest.flatten(state)} | {id(image)}
        alive.append(
            [part for part in (ref() for ref in before) if part is not None and id(part) not in inputs]
        )
        alive[-1] = len(alive[-1])
        before[:] = [weakref.ref(part) for part in tf.nest.flatten(state) if part.shape.rank]
        return step(image, targets, state)

    monkeypatch.setattr(compiled, "step", watched)
    list(painting.steps())
    assert alive == [0] * len(alive)
    assert len(alive) > 10


def test_a_state_is_not_held_twice_while_it_is_loaded() -> None:
    """Each array is gone once its tensor is there: together they may be gigabytes. Here, 6 of 48 MB."""
    arrays = [np.ones((1, 2048, 2048, 3), np.float32) for _ in range(6)]
    device.begin_peak()
    before = device.peak_mb()
    found = nest_of([tf.TensorSpec(None)] * 6, arrays)
    after = device.peak_mb()
    assert before is not None
    assert after is not None
    assert after - before < 3 * 48
    assert [float(tf.reduce_min(tensor)) for tensor in found] == [1.0] * 6


def test_nothing_is_compiled_again(studio: Studio) -> None:
    """Going on uses the steps that painting from the start uses: each function is traced once."""
    for job in (PAPER, LONG):
        list(studio.begin(job, paint(studio, job).states[4]).steps())
        compiled = studio.painter.step(studio.subject(job).settings)
        functions = compiled.step, compiled.loss, compiled.content_features, compiled.style_grams
        assert [function.experimental_get_tracing_count() for function in functions] == [1] * 4


# The engine


def engine_in(folder: Path) -> LocalEngine:
    """An engine that is not started."""
    raw = {"engine": {"device": "cpu", "precision": "float32"}}
    return LocalEngine(config_module.build(raw, folder, environment={}))


@pytest.fixture(scope="module", autouse=True)
def narrow_engines() -> Iterator[None]:
    """Have every engine here load the narrow network."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(local.weights, "load", lambda _source: narrow_weights())
        yield


@pytest.fixture(scope="module")
def loaded(tmp_path_factory: pytest.TempPathFactory) -> LocalEngine:
    """One engine for all tests, with the steps that are compiled already."""
    made = engine_in(tmp_path_factory.mktemp("engine"))
    made.start()
    return made


@pytest.fixture
def engine(loaded: LocalEngine, monkeypatch: pytest.MonkeyPatch) -> LocalEngine:
    """The engine, keeping its state after every third picture."""
    asked = itertools.count()
    monkeypatch.setattr(Checkpoints, "is_due", lambda _self: next(asked) % 3 == 2)
    return loaded


@pytest.fixture
def order(tmp_path: Path) -> Callable[..., Request]:
    """Make a request for one job; keywords are settings beside the two sizes, or parts of the request."""
    content = save(tmp_path / "content.png", 1)
    styles = tuple((save(tmp_path / f"style-{seed}.png", seed, 32, 28), 1.0) for seed in (2, 3))

    def make(*, limit: int | None = None, share: float = 1.0, **more: Any) -> Request:
        chosen = Settings.model_validate({**PAPER, "frames": {"every": 0}, **more})
        parts = ((styles[0][0], share), styles[1])
        frames = None if limit is None else frozenset(range(limit + 1))
        return Request(content, parts, None, chosen, tmp_path / "ckpt", frames)

    return make


def stopped(engine: LocalEngine, request: Request, done: int) -> list[Step]:
    """Paint until asked to stop, after so many steps."""
    answers = iter([*[False] * (done - 1), True])
    return list(steps_of(engine, request, AskedLife(lambda: next(answers))))


def first_fresh(engine: LocalEngine, request: Request) -> int:
    """Tell how many steps came from the record; nothing more is painted."""
    return next(number for number, step in enumerate(steps_of(engine, request)) if not step.is_replayed)


@pytest.mark.parametrize("done", [1, 6, 7, 8, 12])
def test_a_stop_keeps_the_state_of_its_very_step(
    done: int, engine: LocalEngine, order: Callable[..., Request], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Told to stop after whichever step, the engine keeps that step: nothing is painted twice."""
    monkeypatch.setattr(Checkpoints, "is_due", lambda _self: False)
    assert len(stopped(engine, order(), done)) == done
    assert first_fresh(engine, order()) == done


def test_a_stop_among_known_steps_keeps_what_there_was(
    engine: LocalEngine, order: Callable[..., Request], tmp_path: Path
) -> None:
    """Told to stop while the record is told again, the engine leaves the checkpoints as they are."""
    stopped(engine, order(), 8)
    before = {path.name: path.read_bytes() for path in kept(tmp_path / "ckpt")}
    assert len(stopped(engine, order(), 1)) == 1
    assert {path.name: path.read_bytes() for path in kept(tmp_path / "ckpt")} == before


CHANGES: dict[str, Job] = {
    "style_weight": {"style_weight": 0.02},
    "learning_rate": {"learning_rate": 3},
    "iterations": {"iterations": 6},
    "the first size": {"scales": [{"size": 24, "iterations": 7}]},
    "size": {"size": 37},
    "seed": {"seed": 1},
    "method": {"optimizer": "lbfgs", "objective": "balanced", "content_layers": ["block4_conv2"]},
    "strength": {"strength": 0.6},
    "colors of the start": {"init_colors": "style"},
    "early stop": {"early_stop": {"improvement": 0.001, "iterations": 4}},
    "a share of the blend": {"share": 2.0},
}


@pytest.mark.parametrize("change", CHANGES)
def test_what_shapes_the_result_makes_a_state_worthless(
    change: str, engine: LocalEngine, order: Callable[..., Request]
) -> None:
    """Another setting begins at its start; what shapes nothing is no hindrance."""
    stopped(engine, order(), 5)
    assert first_fresh(engine, order(**CHANGES[change])) == 0
    assert first_fresh(engine, order(priority=7, output={"format": "jpeg"})) == 5


def test_another_version_begins_anew(
    engine: LocalEngine, order: Callable[..., Request], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A state is taken by an engine that computes as the one before, in the same versions, and by no other."""
    stopped(engine, order(), 5)
    assert first_fresh(engine_in(tmp_path), order()) == 5
    for name, value in (
        ("daemon.engine.local.__version__", "0.0"),
        ("daemon.transfer.backend.device.versions", lambda: {"tensorflow": "0.0"}),
        ("daemon.transfer.backend.convolutions.choose", lambda _gpu: "convolution"),
        ("daemon.transfer.backend.processor.name", lambda: "another"),
    ):
        with monkeypatch.context() as patch:
            patch.setattr(name, value)
            assert first_fresh(engine_in(tmp_path), order()) == 0


def test_a_state_of_the_format_before_is_told_and_ignored(
    engine: LocalEngine, order: Callable[..., Request], tmp_path: Path
) -> None:
    """The painting begins anew, says so once, and replaces it."""
    stopped(engine, order(), 5)
    for path in kept(tmp_path / "ckpt"):
        data = path.read_bytes()
        path.write_bytes(hashlib.sha256(data).digest() + data)
    steps = list(steps_of(engine, order()))
    assert not any(step.is_replayed for step in steps)
    assert [step.trouble for step in steps] == [UNREADABLE, *[""] * (len(steps) - 1)]
    assert steps[-1].painting is not None
    assert [path.read_bytes()[:2] for path in kept(tmp_path / "ckpt")] == [b"PK"] * 2


def test_no_state_past_a_missing_frame_is_taken(engine: LocalEngine, order: Callable[..., Request]) -> None:
    """Where later frames are missing, the engine goes on from an older state, or from the start."""
    stopped(engine, order(), 8)  # pictures 3 and 6 are kept as due ones, 8 by the stop
    assert [path.stem for path in kept(order().checkpoints)] == ["0000006", "0000008"]
    every = {"every": 1}
    assert first_fresh(engine, order(limit=6, frames=every)) == 8  # the 8th picture is iteration 6, of size two
    assert first_fresh(engine, order(limit=5, frames=every)) == 6
    assert first_fresh(engine, order(limit=4, frames=every)) == 0


def test_a_disk_that_takes_no_state_is_told_once_a_try(
    engine: LocalEngine, order: Callable[..., Request], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The painting goes on to its end; each failed try is told with the next step, and with no other one."""

    def full(_self: Checkpoints, _state: Checkpoint) -> None:
        raise OSError(28, os.strerror(28))

    monkeypatch.setattr(Checkpoints, "save", full)
    steps = list(steps_of(engine, order()))
    assert steps[-1].painting is not None
    told = [number for number, step in enumerate(steps) if step.trouble]
    assert told == [3, 6, 9, 12]
    assert steps[3].trouble == "checkpoint not written: No space left on device"


# The whole way from a drop to its entry, in one process


@pytest.fixture
def tree(make_config: Callable[..., Config]) -> Tree:
    """Make a tree that settles at once."""
    made = Tree(make_config(inbox={"settle_s": 0.001, "rescan_s": 0.002}, engine={"device": "cpu"}))
    made.inbox.mkdir()
    return made


SEA: Job = {**PAPER, "seed": 4, "frames": {"every": 1}}


def content_of(entry: Path) -> dict[str, Any]:
    """What of an entry must not depend on how often it was broken off: pictures, numbers, the record."""
    rows = [line.split(",")[:5] for line in (entry / "losses.csv").read_text().splitlines()]
    record = safe_yaml.parse((entry / "result.yaml").read_bytes())["result"]
    pictures = [entry / "result.png", *sorted((entry / "frames").iterdir())]
    return {
        **{str(path.relative_to(entry)): path.read_bytes() for path in pictures},
        "rows": rows,
        "record": {key: record[key] for key in ("best_iteration", "steps_back", "losses")},
    }


@pytest.fixture(scope="module")
def sea(loaded: LocalEngine, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What the drop `sea` gives when nothing breaks it off, in another tree."""
    raw = {"inbox": {"settle_s": 0.001, "rescan_s": 0.002}}
    other = Tree(config_module.build(raw, tmp_path_factory.mktemp("unbroken"), environment={}))
    other.inbox.mkdir()
    other.drop("sea", **SEA)
    assert Stepper(other.config, loaded).until_quiet(60) == [Ending.COMPLETED]
    return content_of(other.result("sea"))


@pytest.mark.parametrize("after", [4, 8])
def test_a_stopped_job_is_published_as_if_unbroken(
    after: int, tree: Tree, engine: LocalEngine, sea: dict[str, Any]
) -> None:
    """Stopped after whichever step and started again: the same entry, no attempt used, no step twice."""
    tree.drop("sea", **SEA)
    struck = Struck(engine, after, kill)
    stepper = Stepper(tree.config, struck)
    struck.strike = stepper.service.ask_stop
    assert wait_for(stepper.turn, "the job to be stopped") is Ending.INTERRUPTED
    (entry,) = tree.spool.entries(State.QUEUED)
    assert (entry.attempts_used, entry.progress) == (0, after)
    with capture_logs() as records:
        assert Stepper(tree.config, engine).until_quiet(60) == [Ending.COMPLETED]
    computed = [record["iteration"] for record in records if record["event"] == "job.progressed"]
    assert len(computed) == 13 - after
    assert content_of(tree.result("sea")) == sea
    tree.check(is_quiet=True)


@pytest.mark.parametrize(("after", "missing"), [(2, ""), (8, ""), (12, "0004"), (12, "all")])
def test_a_killed_job_is_published_as_if_unbroken(
    after: int, missing: str, tree: Tree, engine: LocalEngine, sea: dict[str, Any]
) -> None:
    """Killed after whichever step, also with frames unwritten, and started again: the same entry."""
    tree.drop("sea", **SEA)
    stepper = Stepper(tree.config, Struck(engine, after, kill))
    with pytest.raises(Killed):
        wait_for(stepper.turn, "the kill")
    (entry,) = tree.spool.entries(State.RUNNING)
    lost = [
        path
        for path in (entry.out / "frames").glob("*")
        if missing and (missing == "all" or path.stem >= missing)
    ]
    for path in lost:
        path.unlink()
    with capture_logs() as records:
        assert Stepper(tree.config, engine).until_quiet(60) == [Ending.COMPLETED]
    computed = [record for record in records if record["event"] == "job.progressed"]
    assert lost or len(computed) == 13 - 3 * ((after - 1) // 3)
    assert content_of(tree.result("sea")) == sea
    tree.check(is_quiet=True)
