"""True resume: from whichever step a job resumes, it ends as the uninterrupted one, to the bit."""

from __future__ import annotations

import functools
import hashlib
import itertools
import os
import weakref
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st
from support.fakes import AskedLife, steps_of
from support.narrow_vgg import narrow_engine
from support.trees import save

from daemon.engine.checkpoints import UNREADABLE, Checkpoints, kept
from daemon.engine.session import Painter, Previews
from daemon.job import Face, Request, Style
from daemon.presets import PRESETS
from daemon.settings import Frames, Settings
from daemon.transfer.backend import footprint
from daemon.transfer.backend.tensors import nest_of
from daemon.transfer.optimizers import RESTARTS, Lbfgs
from daemon.transfer.scales import Subject

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from daemon.engine.checkpoints import Checkpoint
    from daemon.engine.local import LocalEngine
    from daemon.engine.session import Session
    from daemon.job import Step
    from daemon.transfer.vgg19 import Vgg19

    Ask = Callable[..., Request]
    Draw = Callable[..., np.ndarray]
    Job = dict[str, Any]

EVERY_PICTURE = Previews(Frames(every=1), 0)
SIZES: Job = {"size": 36, "iterations": 5, "scales": [{"size": 24, "iterations": 6}]}
PAPER: Job = {**PRESETS["paper"], **SIZES}
# Traced quickly: for what does not depend on the network's depth.
SHALLOW: Job = {"content_layers": ["block2_conv1"], "style_layers": ["block1_conv1", "block2_conv1"]}
LONG: Job = {**PRESETS["default"], **SIZES, "iterations": 14, "scales": [{"size": 24, "iterations": 18}]}
EARLY: Job = {**LONG, "early_stop": {"improvement": 0.25, "iterations": 3}}

LBFGS: Job = {**PRESETS["default"], "strength": 1, "tv_weight": 1}
jobs = st.fixed_dictionaries(
    {
        "method": st.sampled_from([{**PRESETS["paper"], "learning_rate": 40}, PRESETS["paper"], LBFGS]),
        "scales": st.sampled_from(["none", [{"size": 24, "iterations": 1}], [{"size": 24, "iterations": 4}]]),
        "iterations": st.integers(1, 5),
        "init": st.sampled_from(["content", "style", "noise", "start.png"]),
        "seed": st.integers(0, 3),
        "preserve_color": st.sampled_from(["none", "luminance", "match"]),
        "shares": st.sampled_from([[1.0], [2.0, 1.0]]),
    }
)


class Studio:
    """A painter whose computed steps are counted, and the folder that checkpoints go through."""

    def __init__(self, network: Vgg19, draw: Draw, folder: Path) -> None:
        self.painter = Painter(network)
        self.evaluated = 0
        self._draw, self._folder = draw, folder
        self._counted: set[int] = set()

    def subject(self, job: Job) -> Subject:
        """Draw a job's pictures; `shares` are those of its styles, `method` holds more settings."""
        keys = {"size": 36, **job.get("method", {}), **job}
        shares = keys.pop("shares", [1.0])
        keys.pop("method", None)
        styles = [Style(self._draw(36, 28, seed), share) for seed, share in enumerate(shares, start=1)]
        chosen = Settings.model_validate(keys)
        start = self._draw(40, 30, 9) if chosen.init == "start.png" else None
        return Subject(self._draw(30, 40), styles, chosen, start)

    def begin(self, job: Job, resumed: Checkpoint | None = None) -> Session:
        """Prepare a job."""
        subject = self.subject(job)
        step: Any = self.painter.step(subject.settings)
        if id(step) not in self._counted:
            self._counted.add(id(step))
            step.step, step.loss = self._counting(step.step), self._counting(step.loss)
        return self.painter.begin(subject, resumed=resumed)

    def _counting(self, function: Any) -> Any:
        @functools.wraps(function)  # with what TensorFlow counts of it
        def call(*arguments: Any) -> Any:
            self.evaluated += 1
            return function(*arguments)

        return call

    def reread(self, state: Checkpoint) -> Checkpoint:
        """Write a state to a file and read it back."""
        Checkpoints(self._folder, "key", 30).save(state)
        found = Checkpoints(self._folder, "key", 30).newest().checkpoint
        assert found is not None
        return found


@dataclass
class Whole:
    """A job painted in one go, and its state at every step."""

    steps: list[Step] = field(default_factory=list)
    states: list[Checkpoint] = field(default_factory=list)


@pytest.fixture(scope="module")
def studio(narrow: Vgg19, picture: Draw, tmp_path_factory: pytest.TempPathFactory) -> Studio:
    """One for all tests, so that each step is compiled once."""
    return Studio(narrow, picture, tmp_path_factory.mktemp("ckpt"))


def paint(studio: Studio, job: Job) -> Whole:
    """Paint a job in one go."""
    made, painting = Whole(), studio.begin(job)
    for step in painting.steps(EVERY_PICTURE):
        made.steps.append(step)
        if step.painting is None:
            made.states.append(painting.checkpoint())
    return made


def facts(steps: list[Step]) -> list[tuple[Any, ...]]:
    """What steps report, but for their times and pictures."""
    return [(step.iteration, step.iterations, step.size_px, step.losses) for step in steps]


def assert_resumes(studio: Studio, job: Job, whole: Whole, state: Checkpoint) -> None:
    """The record comes again, what follows is equal to the bit, and nothing is computed again."""
    done, before = len(state.rows), studio.evaluated
    steps = list(studio.begin(job, studio.reread(state)).steps(EVERY_PICTURE))
    known, fresh = steps[:done], steps[done:]
    assert all(step.is_replayed and step.picture is None and step.painting is None for step in known)
    assert not any(step.is_replayed for step in fresh)
    assert facts(steps) == facts(whole.steps)
    assert [step.elapsed_s for step in known] == [step.elapsed_s for step in whole.steps[:done]]
    assert all(step.elapsed_s > known[-1].elapsed_s for step in fresh)
    assert [step.restart for step in fresh] == [step.restart for step in whole.steps[done:]]
    assert all(np.array_equal(a.picture, b.picture) for a, b in zip(fresh, whole.steps[done:], strict=True))
    found, expected = steps[-1].painting, whole.steps[-1].painting
    assert np.array_equal(found.picture, expected.picture)
    for name in ("best_iteration", "first", "best", "last", "steps_back"):
        assert getattr(found, name) == getattr(expected, name), name
    assert studio.evaluated - before == len(fresh)


def assert_any_resumes(studio: Studio, job: Job, data: st.DataObject) -> None:
    """A job resumes from a drawn step."""
    whole = paint(studio, job)
    assert len(whole.states) == len(whole.steps) - 1 >= 1
    assert_resumes(studio, job, whole, data.draw(st.sampled_from(whole.states)))


@given(jobs, st.data())
@settings(max_examples=5, deadline=None)
def test_resuming_from_any_step_of_any_job_ends_as_if_uninterrupted(
    studio: Studio, job: Job, data: st.DataObject
) -> None:
    """Whatever the job and the step after which it was interrupted."""
    assert_any_resumes(studio, job, data)


@pytest.mark.nightly
@given(jobs, st.data())
@settings(max_examples=60, deadline=None)
def test_resuming_from_any_step_of_many_jobs(studio: Studio, job: Job, data: st.DataObject) -> None:
    """The same of many jobs."""
    assert_any_resumes(studio, job, data)


def test_the_best_picture_may_lie_before_the_interruption(studio: Studio) -> None:
    """The second size begins from a picture neither first nor last, which had to be kept."""
    job = {**PAPER, "learning_rate": 30}
    whole = paint(studio, job)
    coarse = [step for step in whole.steps if step.size_px == 24]
    best = min(coarse, key=lambda step: step.losses.total)
    assert 0 < best.iteration < coarse[-1].iteration - 1
    for state in (whole.states[best.iteration + 1], whole.states[len(coarse) - 1]):
        assert_resumes(studio, job, whole, state)


def test_the_memory_of_lbfgs_is_kept_full(studio: Studio) -> None:
    """A job resumes exactly from states with ten pairs, at each of two sizes."""
    whole = paint(studio, LONG)
    signature = Lbfgs().signature()
    full = [
        state
        for state in whole.states
        if all(float(sy) > 0 for sy in tf.nest.pack_sequence_as(signature, list(state.state)).sy)
    ]
    assert {state.scale for state in full} == {0, 1}
    for state in (full[0], full[-1]):
        assert_resumes(studio, LONG, whole, state)


def test_early_stop_ends_the_same_sizes(studio: Studio) -> None:
    """A job that left both sizes before their last iteration leaves them there again."""
    whole = paint(studio, EARLY)
    for size_px, planned in {24: 18, 36: 14}.items():
        assert 3 < len([step for step in whole.steps if step.size_px == size_px]) <= planned
    for state in whole.states[::6]:
        assert_resumes(studio, EARLY, whole, state)


def test_resuming_between_restarts_ends_as_if_uninterrupted(
    narrow: Vgg19, picture: Draw, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Where L-BFGS takes steps back and restarts, a state before, between or after is as good as any."""
    monkeypatch.setattr(Lbfgs, "rise", 1.0)  # so that every rise counts as one to turn back from
    monkeypatch.setattr(Lbfgs, "first_px", 150.0)  # and the first step leads far away
    studio = Studio(narrow, picture, tmp_path / "ckpt")
    job = {**LONG, **SHALLOW, "strength": 1}
    whole = paint(studio, job)
    assert {step.size_px for step in whole.steps if step.restart == RESTARTS[1]} == {24, 36}
    for state in whole.states[::6]:
        assert_resumes(studio, job, whole, state)


def test_a_state_is_not_changed_by_later_steps(studio: Studio) -> None:
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

    Adam makes new moments at every step; L-BFGS drops its gradient, and a full memory its oldest pair.
    """
    painting, before = studio.begin(job), []
    compiled, alive = studio.painter.step(studio.subject(job).settings), []
    step = compiled.step

    def watched(image: Any, targets: Any, state: Any) -> Any:
        inputs = {id(part) for part in tf.nest.flatten(state)} | {id(image)}
        alive.append(sum(part is not None and id(part) not in inputs for part in (ref() for ref in before)))
        before[:] = [weakref.ref(part) for part in tf.nest.flatten(state) if part.shape.rank]
        return step(image, targets, state)

    monkeypatch.setattr(compiled, "step", watched)
    list(painting.steps())
    assert alive == [0] * len(alive)
    assert len(alive) > 10


def test_a_state_is_not_held_twice_while_it_is_loaded() -> None:
    """Each array is freed once its tensor is there: together they may be gigabytes. Here, 6 of 48 MB."""
    arrays = [np.ones((1, 2048, 2048, 3), np.float32) for _ in range(6)]
    footprint.begin_peak()
    before = footprint.peak_mb()
    found = nest_of([tf.TensorSpec(None)] * 6, arrays)
    after = footprint.peak_mb()
    assert before is not None
    assert after is not None
    assert after - before < 3 * 48
    assert [float(tf.reduce_min(tensor)) for tensor in found] == [1.0] * 6


# The engine


@pytest.fixture(scope="module")
def loaded(tmp_path_factory: pytest.TempPathFactory) -> LocalEngine:
    """One engine for all tests, with the steps that are compiled already."""
    return narrow_engine(tmp_path_factory.mktemp("engine"))


@pytest.fixture
def engine(loaded: LocalEngine, monkeypatch: pytest.MonkeyPatch) -> LocalEngine:
    """The engine, keeping its state after every third picture."""
    asked = itertools.count()
    monkeypatch.setattr(Checkpoints, "is_due", lambda _self: next(asked) % 3 == 2)
    return loaded


@pytest.fixture
def order(tmp_path: Path) -> Ask:
    """Make a request for one job; keywords are settings beside the two sizes, or parts of the request."""
    content = save(tmp_path / "content.png", 1)
    styles = tuple(Style(save(tmp_path / f"style-{seed}.png", seed, 32, 28)) for seed in (2, 3))

    def make(*, limit: int | None = None, share: float = 1.0, **more: Any) -> Request:
        chosen = Settings.model_validate({**PAPER, **SHALLOW, "frames": {"every": 0}, **more})
        parts = (styles[0]._replace(weight=share), styles[1])
        frames = None if limit is None else frozenset(range(limit + 1))
        return Request(content, parts, None, chosen, tmp_path / "ckpt", frames)

    return make


def stopped(engine: LocalEngine, request: Request, done: int) -> list[Step]:
    """Paint until asked to stop, after so many steps."""
    answers = iter([*[False] * (done - 1), True])
    return list(steps_of(engine, request, AskedLife(lambda: next(answers))))


def first_fresh(engine: LocalEngine, request: Request) -> int:
    """Count the steps that came from the record; nothing more is painted."""
    return next(number for number, step in enumerate(steps_of(engine, request)) if not step.is_replayed)


@pytest.mark.parametrize("done", [1, 7, *(pytest.param(n, marks=pytest.mark.nightly) for n in (6, 8, 12))])
def test_a_stop_saves_the_state_of_its_own_step(
    done: int, engine: LocalEngine, order: Ask, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Stopped after any step, the engine saves that step: nothing is painted twice."""
    monkeypatch.setattr(Checkpoints, "is_due", lambda _self: False)
    assert len(stopped(engine, order(), done)) == done
    assert first_fresh(engine, order()) == done


def test_a_stop_among_replayed_steps_changes_no_checkpoint(
    engine: LocalEngine, order: Ask, tmp_path: Path
) -> None:
    """Stopped while the record is replayed, the engine leaves the checkpoints as they are."""
    stopped(engine, order(), 8)
    before = {path.name: path.read_bytes() for path in kept(tmp_path / "ckpt")}
    assert len(stopped(engine, order(), 1)) == 1
    assert {path.name: path.read_bytes() for path in kept(tmp_path / "ckpt")} == before


CHANGES: tuple[Job, ...] = (
    *({"style_weight": 0.02}, {"learning_rate": 3}, {"iterations": 6}, {"size": 37}, {"seed": 1}),
    {"scales": [{"size": 24, "iterations": 7}]},
    {"optimizer": "lbfgs", "objective": "balanced", "content_layers": ["block4_conv2"]},
    *({"strength": 0.6}, {"init_colors": "style"}, {"share": 2.0}),  # share: of a style in the blend
    {"early_stop": {"improvement": 0.001, "iterations": 4}},
    *({"style_scale": 0.9}, {"preserve_color": "match"}),
)


def test_a_change_that_shapes_the_result_makes_a_state_useless(
    engine: LocalEngine, order: Ask, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With another setting that shapes the result a job begins at its start; with any other it resumes."""
    stopped(engine, order(), 5)
    monkeypatch.setattr(Checkpoints, "is_due", lambda _self: False)
    for keys in CHANGES:
        assert first_fresh(engine, order(**keys)) == 0, keys
    for face in (Face(0.2, 0.2, 0.3, 0.3), Face(0.3, 0.2, 0.3, 0.3)):
        assert first_fresh(engine, replace(order(), faces=(face,))) == 0
        stopped(engine, replace(order(), faces=(face,)), 5)
    assert first_fresh(engine, replace(order(), faces=(face,))) == 5
    assert (
        first_fresh(engine, replace(order(), styles=[order().styles[0], order().styles[1]._replace(scale=0.9)]))
        == 0
    )
    stopped(engine, order(), 5)
    assert first_fresh(engine, order(priority=7, output={"format": "jpeg"})) == 5


def test_another_version_begins_again(
    engine: LocalEngine, order: Ask, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A state is taken by an engine that computes as the one before, in the same versions, and by no other."""
    stopped(engine, order(), 5)
    assert first_fresh(narrow_engine(tmp_path), order()) == 5
    for name, value in (
        ("daemon.transfer.backend.device.versions", lambda: {"tensorflow": "0.0"}),
        ("daemon.transfer.backend.device.choose_backward", lambda _gpu: "convolution"),
        ("daemon.transfer.backend.device.processor_name", lambda: "another"),
    ):
        with monkeypatch.context() as patch:
            patch.setattr(name, value)
            if name.endswith("versions"):  # installed since the engine was started
                assert first_fresh(engine, order()) == 5
            assert first_fresh(narrow_engine(tmp_path), order()) == 0
    monkeypatch.setattr("daemon.engine.local.__version__", "0.0")  # never changes in a running process
    assert first_fresh(narrow_engine(tmp_path), order()) == 0


def test_a_state_of_the_previous_format_is_reported_and_ignored(
    engine: LocalEngine, order: Ask, tmp_path: Path
) -> None:
    """The painting begins again, reports it once, and replaces the file."""
    stopped(engine, order(), 5)
    for path in kept(tmp_path / "ckpt"):
        data = path.read_bytes()
        path.write_bytes(hashlib.sha256(data).digest() + data)
    steps = list(steps_of(engine, order()))
    assert not any(step.is_replayed for step in steps)
    assert [step.trouble for step in steps] == [UNREADABLE, *[""] * (len(steps) - 1)]
    assert steps[-1].painting is not None
    assert [path.read_bytes()[:2] for path in kept(tmp_path / "ckpt")] == [b"PK"] * 2


def test_no_state_past_a_missing_frame_is_taken(engine: LocalEngine, order: Ask) -> None:
    """Where later frames are missing, the engine resumes from an older state, or begins at the start."""
    stopped(engine, order(), 8)  # pictures 3 and 6 are saved as due ones, 8 by the stop
    assert [path.stem for path in kept(order().checkpoints)] == ["0000006", "0000008"]
    every = {"every": 1}
    assert first_fresh(engine, order(limit=6, frames=every)) == 8  # the 8th picture is iteration 6, of size two
    assert first_fresh(engine, order(limit=5, frames=every)) == 6
    assert first_fresh(engine, order(limit=4, frames=every)) == 0


def test_each_failed_save_is_reported_once(
    engine: LocalEngine, order: Ask, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The painting reaches its end; each failed save is reported with the next step, and with no other one."""

    def full(_self: Checkpoints, _state: Checkpoint) -> None:
        raise OSError(28, os.strerror(28))

    monkeypatch.setattr(Checkpoints, "save", full)
    steps = list(steps_of(engine, order()))
    assert steps[-1].painting is not None
    assert [number for number, step in enumerate(steps) if step.trouble] == [3, 6, 9, 12]
    assert steps[3].trouble == "checkpoint not written: No space left on device"
