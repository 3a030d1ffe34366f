"""A loss that is not finite: back to the last good picture with a smaller step; the second time, failure."""

from __future__ import annotations

import hashlib
import json
import pickle
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import tensorflow as tf
from structlog.testing import capture_logs
from support.fakes import FakeEngine
from support.struck import Struck, kill
from support.trees import Stepper, Tree, named, save, wait_for

from daemon import config as config_module
from daemon import safe_yaml
from daemon.engine import local
from daemon.engine.checkpoints import Checkpoints
from daemon.engine.local import LocalEngine
from daemon.engine.session import Painter, Previews
from daemon.errors import Failure, JobError, Reason
from daemon.job import State, Style
from daemon.pictures import decoding
from daemon.presets import PRESETS
from daemon.settings import Frames, Settings
from daemon.transfer import pixels
from daemon.transfer.losses import OBJECTIVES, Loss
from daemon.transfer.optimizers import DAMPING
from daemon.transfer.scales import Subject
from daemon.transfer.step import guarded
from daemon.transfer.targets import targets as targets_of
from daemon.worker.outcomes import Ending

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from daemon.engine.checkpoints import Checkpoint
    from daemon.engine.session import Session
    from daemon.job import Plan, Request, Step
    from daemon.lifeline import Lifeline
    from daemon.transfer.losses import Statistics
    from daemon.transfer.vgg19 import Vgg19

    Draw = Callable[..., np.ndarray]

PAPER: dict[str, Any] = PRESETS["paper"]
SIZES: dict[str, Any] = {"size": 32, "iterations": 5, "scales": [{"size": 24, "iterations": 4}]}
EVERY_PICTURE = Previews(Frames(every=1), 0)
ENDS = {"one size": {"size": 32, "iterations": 6}, "two sizes": SIZES}


class Weak:
    """A painter whose numbers run away at chosen pictures, at each of them every time it is met."""

    def __init__(self, network: Vgg19, draw: Draw) -> None:
        self.painter = Painter(network)
        self.program = self.painter.step(Settings.model_validate(PAPER))
        self.bad: set[bytes] = set()  # pictures whose loss is no number
        self.poison: dict[bytes, float] = {}  # pictures whose update goes to NaN or infinity, in one pixel
        self.rates: list[float] = []  # the learning rate of every update
        self._draw = draw
        self._step, self._loss, self._damped = self.program.step, self.program.loss, self.program.damped
        self.program.step, self.program.loss, self.program.damped = self.step, self.loss, self.damped

    def heal(self) -> None:
        """Have every picture good again."""
        self.bad.clear()
        self.poison.clear()
        self.rates.clear()

    def step(self, image: Any, targets: Any, state: Any) -> Any:
        """Compute, and spoil what is to be bad."""
        loss, moved, new_state = self._step(image, targets, state)
        self.rates.append(round(float(state.learning_rate), 6))
        return self._spoiled(image, loss), self._poisoned(image, moved), new_state

    def loss(self, image: Any, targets: Any) -> Any:
        """Compute, and spoil what is to be bad."""
        return self._spoiled(image, self._loss(image, targets))

    def damped(self, image: Any, state: Any) -> Any:
        """Move again, and spoil what is to be bad."""
        moved, new_state = self._damped(image, state)
        return self._poisoned(image, moved), new_state

    def _poisoned(self, image: Any, moved: Any) -> Any:
        if (name := name_of(image)) not in self.poison:
            return moved
        spoiled = np.array(moved)
        spoiled[0, 3, 4, 1] = self.poison[name]
        return tf.constant(spoiled)

    def _spoiled(self, image: Any, loss: Loss) -> Loss:
        return loss._replace(total=tf.constant(np.nan)) if name_of(image) in self.bad else loss

    def subject(self, settings: dict[str, Any]) -> Subject:
        """Make a job."""
        chosen = Settings.model_validate({**PAPER, **settings})
        return Subject(self._draw(30, 40), [Style(self._draw(36, 28, 1))], chosen)

    def begin(self, settings: dict[str, Any], resumed: Checkpoint | None = None) -> Session:
        """Prepare a job."""
        return self.painter.begin(self.subject(settings), resumed=resumed)

    def way(self, settings: dict[str, Any]) -> tuple[list[Step], list[bytes]]:
        """Paint in one go; gives the steps and the names of their pictures."""
        session, steps, names = self.begin(settings), [], []
        for step in session.steps(EVERY_PICTURE):
            steps.append(step)
            names.append(name_of(session.checkpoint().image) if step.painting is None else b"")
        return steps, names


def name_of(image: Any) -> bytes:
    """Name a picture by its numbers."""
    return hashlib.sha256(np.asarray(image).tobytes()).digest()


@pytest.fixture(scope="module")
def compiled(narrow: Vgg19, picture: Draw) -> Weak:
    """One for all tests, so that each function is compiled once."""
    return Weak(narrow, picture)


@pytest.fixture
def weak(compiled: Weak) -> Weak:
    """The painter, with nothing bad yet."""
    compiled.heal()
    return compiled


def facts(steps: list[Step]) -> list[Any]:
    """What steps say of the way."""
    return [(step.iteration, step.size_px, step.losses) for step in steps]


def targets_of_first_scale(weak: Weak) -> Any:
    """Compute the targets of a job of one scale."""
    subject = weak.subject({"size": 32, "iterations": 2})
    return targets_of(weak.program, subject, subject.scales()[0], None)


def failed(session: Session) -> tuple[list[Step], JobError]:
    """Paint what must fail; gives the steps before, and the error."""
    steps: list[Step] = []
    with pytest.raises(JobError) as caught:
        steps.extend(session.steps(EVERY_PICTURE))  # keeps what came before the error
    return steps, caught.value


# What counts as no number


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("where", [(0, 0, 0, 0), (0, 23, 31, 2), (0, 11, 16, 1)])
def test_a_picture_that_is_no_number_has_no_loss(
    weak: Weak, picture: Draw, value: float, where: tuple[int, ...]
) -> None:
    """One pixel of NaN or infinity makes the total NaN, also of losses that do not feel it."""
    image = pixels.to_vgg(picture(24, 32)).numpy()
    finite = Loss(tf.constant(3.0), tf.constant(2.0), tf.constant(1.0))
    assert float(guarded(tf.constant(image), finite).total) == 3.0
    image[where] = value
    assert np.isnan(guarded(tf.constant(image), finite).total)


def test_step_and_loss_are_guarded(
    narrow: Vgg19, weak: Weak, picture: Draw, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both the step and the last loss see a NaN in the picture that an objective does not feel.

    VGG19 nearly is such a one: its ReLU makes 0 of NaN on the processor, so that style and content are numbers.
    """

    def unfeeling(found: Statistics, _targets: Any) -> Loss:
        total = tf.where(tf.math.is_finite(found.down), found.down, 0.0)
        return Loss(total, tf.constant(2.0), tf.constant(1.0))

    targets = targets_of_first_scale(weak)
    monkeypatch.setitem(OBJECTIVES, "paper", unfeeling)
    program = Painter(narrow).step(Settings.model_validate(PAPER))
    for value in (7.0, np.nan):
        image = pixels.to_vgg(picture(24, 32)).numpy()
        image[0, 5, 5, 0] = value
        of_step, _, _ = program.step(image, targets, program.optimizer.start(image, 2.0))
        of_loss = program.loss(image, targets)
        assert bool(np.isnan(of_step.total)) == bool(np.isnan(of_loss.total)) == bool(np.isnan(value))
        assert float(of_step.style) == float(of_loss.style) == 2.0


def test_the_step_as_it_is_gives_nan_for_a_picture_that_holds_it(weak: Weak, picture: Draw) -> None:
    """The real step and loss of a picture with one NaN are NaN; of the same picture without it they are not."""
    targets = targets_of_first_scale(weak)
    clean = pixels.to_vgg(picture(24, 32))
    spoilt = clean.numpy()
    spoilt[0, 5, 5, 0] = np.nan
    state = weak.program.optimizer.start(clean, 2.0)
    for image, is_good in ((clean, True), (tf.constant(spoilt), False)):
        totals = [weak.step(image, targets, state)[0].total, weak.loss(image, targets).total]
        assert [bool(np.isfinite(total)) for total in totals] == [is_good] * 2


# Once


@pytest.mark.parametrize("name", ENDS)
def test_a_bad_picture_is_gone_around(name: str, weak: Weak) -> None:
    """Wherever the loss is no number once, the step before it is taken again at a tenth, and the job ends well.

    The way up to there is the same, the bad picture is in no record, and the learning rate stays small to the
    end of that size.
    """
    settings = ENDS[name]
    steps, names = weak.way(settings)
    sizes = [*(step.size_px for step in steps), 0]
    ends = [index for index in range(len(steps)) if sizes[index] != sizes[index + 1]]
    starts = {0, *(end + 1 for end in ends)}
    for number in sorted(set(range(len(steps) - 1)) - starts):
        weak.heal()
        weak.bad = {names[number]}
        found = list(weak.begin(settings).steps(EVERY_PICTURE))
        assert facts(found[:number]) == facts(steps[:number])
        assert [(s.iteration, s.size_px) for s in found] == [(s.iteration, s.size_px) for s in steps]
        assert found[number].losses != steps[number].losses
        assert all(np.isfinite(step.losses.total) for step in found)
        assert [step.steps_back for step in found] == [0] * number + [1] * (len(steps) - number)
        assert found[-1].painting.steps_back == 1
        last = next(end for end in ends if end >= number)
        # The one of the bad picture is in vain; the smaller step needs no gradient.
        updates = [2.0 for index in range(number + 1) if index not in ends]
        updates += [round(2 * DAMPING, 6)] * (last - number)
        assert weak.rates == updates + [2.0 for index in range(last + 1, len(steps)) if index not in ends]


def test_the_last_picture_may_be_the_bad_one(weak: Weak) -> None:
    """Where only the very last loss is no number, the step to it is taken again, smaller."""
    settings = {"size": 32, "iterations": 4}
    seen: list[bytes] = []
    inner, weak._loss = weak._loss, lambda image, targets: seen.append(name_of(image)) or inner(image, targets)
    try:
        steps = list(weak.begin(settings).steps(EVERY_PICTURE))
        weak.bad = set(seen)
        found = list(weak.begin(settings).steps(EVERY_PICTURE))
    finally:
        weak._loss = inner
    assert facts(found[:-1]) == facts(steps[:-1])
    assert found[-1].losses != steps[-1].losses
    assert np.isfinite(found[-1].losses.total)
    assert (found[-1].steps_back, found[-1].iteration) == (1, 4)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_an_update_that_leaves_the_numbers_is_gone_around(weak: Weak, value: float) -> None:
    """An update to a picture with NaN or infinity in it is taken again, and that picture is never seen."""
    settings = {"size": 32, "iterations": 4}
    steps, names = weak.way(settings)
    weak.poison = {names[2]: value}
    inner = weak._damped
    # The second try is a good one.
    weak._damped = lambda image, state: weak.poison.clear() or inner(image, state)
    try:
        found = list(weak.begin(settings).steps(EVERY_PICTURE))
    finally:
        weak._damped = inner
    assert facts(found[:3]) == facts(steps[:3])
    assert [step.steps_back for step in found] == [0, 0, 0, 1, 1]
    assert all(np.isfinite(step.losses.total) for step in found)


def test_a_smaller_step_is_a_tenth_of_the_way(weak: Weak) -> None:
    """From the last good picture the second try moves every pixel a tenth as far as the first did."""
    settings = {"size": 32, "iterations": 4}
    session = weak.begin(settings)
    images_ = [np.asarray(session.checkpoint().image) for step in session.steps() if step.iteration < 4]
    weak.bad = {name_of(images_[3])}
    session = weak.begin(settings)
    again = [np.asarray(session.checkpoint().image) for step in session.steps() if step.iteration < 4]
    assert np.array_equal(again[2], images_[2])
    inside = (np.abs(images_[3] - pixels.LOWEST) > 1) & (np.abs(images_[3] - pixels.HIGHEST) > 1)
    first, second = (images_[3] - images_[2])[inside], (again[3] - images_[2])[inside]
    assert np.abs(first).max() > 0.5
    assert np.allclose(second, first * DAMPING, atol=2e-5)


# Twice, and from the start


def test_a_second_time_fails_the_job_with_the_last_good_picture(weak: Weak) -> None:
    """Where the numbers run away again the job is diverged, says where, and gives the picture before."""
    settings = {"size": 32, "iterations": 6}
    _, names = weak.way(settings)
    weak.bad = {names[2]}
    around, others = weak.way(settings)
    weak.bad |= {others[4]}
    steps, error = failed(weak.begin(settings))
    assert facts(steps) == facts(around[:4])
    assert error.failure.reason is Reason.DIVERGED
    assert error.failure.message == "the loss is nan at iteration 4"
    assert np.array_equal(error.picture, around[3].picture)


def test_a_step_that_stays_bad_fails_the_job(weak: Weak) -> None:
    """Where the smaller step leads nowhere either, the picture before both is given, be it the best or not."""
    settings = {"size": 32, "iterations": 6, "learning_rate": 40}
    steps, names = weak.way(settings)
    totals = [step.losses.total for step in steps]
    good = next(number for number in range(1, 6) if totals[number] > totals[number - 1])
    weak.poison = {names[good]: np.nan}
    found, error = failed(weak.begin(settings))
    assert facts(found) == facts(steps[: good + 1])
    assert error.failure.message == f"the loss is nan at iteration {good + 1}"
    assert np.array_equal(error.picture, steps[good].picture)


def test_once_in_each_size_is_twice(weak: Weak) -> None:
    """Steps back count over all scales; the failure counts iterations over all of them as well."""
    _, names = weak.way(SIZES)
    weak.bad = {names[2]}
    around, others = weak.way(SIZES)
    weak.bad |= {others[7]}
    steps, error = failed(weak.begin(SIZES))
    assert len(steps) == 7
    assert error.failure.message == "the loss is nan at iteration 6"
    assert np.array_equal(error.picture, around[6].picture)


def test_a_start_that_is_infinite_fails_at_once_with_the_start(weak: Weak, picture: Draw) -> None:
    """There is nothing to go back to from the first picture, which is the content itself."""
    steps, error = failed(weak.begin({"size": 40, "iterations": 4, "style_weight": 1e38}))
    assert steps == []
    assert error.failure.message == "the loss is inf at iteration 0"
    assert np.array_equal(error.picture, picture(30, 40))


def test_a_second_size_that_begins_infinite_fails_with_its_start(weak: Weak) -> None:
    """The first picture of a later size is the enlarged best one; where it is bad the job ends with it."""
    steps, names = weak.way(SIZES)
    weak.bad = {names[5]}
    found, error = failed(weak.begin(SIZES))
    assert facts(found) == facts(steps[:5])
    assert error.failure.message == "the loss is nan at iteration 4"
    assert np.array_equal(error.picture, steps[5].picture)


# Across a break


@pytest.mark.parametrize("bad", [2, 8, *(pytest.param(bad, marks=pytest.mark.nightly) for bad in (3, 6))])
def test_going_on_around_a_bad_picture_is_as_if_unbroken(bad: int, weak: Weak, tmp_path: Path) -> None:
    """From every state before and after the bad picture the rest is equal to the bit, with one step back."""
    _, names = weak.way(SIZES)
    weak.bad = {names[bad]}
    session, steps, states = weak.begin(SIZES), [], []
    for step in session.steps(EVERY_PICTURE):
        steps.append(step)
        if step.painting is None:
            states.append(session.checkpoint())
    for done, state in enumerate(states, start=1):
        store = Checkpoints(tmp_path / str(done), "key", 30)
        store.save(state)
        found = list(weak.begin(SIZES, store.newest().checkpoint).steps(EVERY_PICTURE))
        assert facts(found) == facts(steps)
        assert [step.steps_back for step in found[done:]] == [step.steps_back for step in steps[done:]]
        assert np.array_equal(found[-1].painting.picture, steps[-1].painting.picture)
        assert found[-1].painting.steps_back == 1


def test_the_count_of_steps_back_outlives_a_break(weak: Weak) -> None:
    """A job that stepped back before the break fails at the next bad number after it."""
    _, names = weak.way(SIZES)
    weak.bad = {names[2]}
    session = weak.begin(SIZES)
    for step in session.steps(EVERY_PICTURE):
        if step.iteration == 3:
            break
    state = session.checkpoint()
    _, others = weak.way(SIZES)
    weak.bad |= {others[7]}
    steps, error = failed(weak.begin(SIZES, state))
    assert error.failure.reason is Reason.DIVERGED
    assert len(steps) == 7


# From the drop to the entry


@pytest.fixture(scope="module")
def loaded(compiled: Weak, tmp_path_factory: pytest.TempPathFactory) -> LocalEngine:
    """One engine for all tests, on the painter whose numbers can be spoilt."""
    raw = {"engine": {"device": "cpu", "precision": "float32"}}
    made = LocalEngine(config_module.build(raw, tmp_path_factory.mktemp("engine"), environment={}))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(local, "Painter", lambda *_: compiled.painter)
        made.start()
    return made


@pytest.fixture
def tree(tmp_path: Path) -> Tree:
    """Make a tree that settles at once."""
    raw = {"inbox": {"settle_s": 0.001, "rescan_s": 0.002}}
    made = Tree(config_module.build(raw, tmp_path, environment={}))
    made.inbox.mkdir()
    return made


class Runaway(FakeEngine):
    """Fails each scripted picture as diverged, with a last good picture; then paints."""

    def __init__(self, picture: np.ndarray, times: int) -> None:
        super().__init__()
        self._picture, self._times = picture, times

    def stylize(self, request: Request, life: Lifeline) -> Iterator[Plan | Step]:
        """Give one step, then fail."""
        steps = super().stylize(request, life)
        if not self._times:
            yield from steps
            return
        self._times -= 1
        yield next(steps)  # the plan
        yield next(steps)
        raise JobError(
            Failure(Reason.DIVERGED, "the loss is nan at iteration 1", hint="lower it"), self._picture
        )


def test_a_diverged_job_shows_its_last_good_picture_and_can_be_tried_again(tree: Tree, picture: Draw) -> None:
    """The failure entry holds the picture, in its manifest; a retry is painted and takes the failure away."""
    good = picture(24, 32, 5)
    tree.drop("sea")
    stepper = Stepper(tree.config, Runaway(good, times=1))
    assert stepper.until_quiet() == [Ending.FAILED]
    (entry,) = tree.outbox.glob("sea-*.failed")
    assert np.array_equal(decoding.read(entry / "last_good.png", 1), good)
    assert "last_good.png" in json.loads((entry / "manifest.json").read_bytes())["files"]
    error = safe_yaml.parse((entry / "error.yaml").read_bytes())
    assert (error["reason"], error["hint"]) == ("diverged", "lower it")
    tree.check(is_quiet=True)
    (job,) = tree.spool.entries(State.FAILED)
    assert not job.last_good.exists()  # shown, and so not kept twice
    tree.spool.retry(job)
    assert stepper.until_quiet() == [Ending.COMPLETED]
    assert tree.results() == [entry.name.removesuffix(".failed")]
    assert not (tree.result("sea") / "last_good.png").exists()
    tree.check(is_quiet=True)


def test_a_failure_of_another_kind_shows_no_picture(tree: Tree, picture: Draw) -> None:
    """A job that first diverged, was tried again and then failed otherwise has no last good picture."""
    tree.drop("sea")
    engine = Runaway(picture(24, 32, 5), times=1)
    stepper = Stepper(tree.config, engine)
    assert stepper.until_quiet() == [Ending.FAILED]
    (job,) = tree.spool.entries(State.FAILED)
    tree.spool.retry(job)
    engine.script.append("job_error")
    assert stepper.until_quiet() == [Ending.FAILED]
    (entry,) = tree.outbox.glob("sea-*.failed")
    assert not (entry / "last_good.png").exists()
    tree.check(is_quiet=True)


def test_the_picture_crosses_the_engines_pipe(picture: Draw) -> None:
    """The error arrives whole on the other side: failure and picture."""
    sent = JobError(Failure(Reason.DIVERGED, "the loss is nan", hint="lower it"), picture(24, 32))
    come = pickle.loads(pickle.dumps(sent))  # noqa: S301 - as the pipe does
    assert come.failure == sent.failure
    assert np.array_equal(come.picture, sent.picture)


def own_names(weak: Weak, tree: Tree, keys: dict[str, Any]) -> list[bytes]:
    """Name the pictures that the drop `sea` goes through."""
    place = tree.inbox.parent
    content, style = save(place / "look.jpg", 4), save(place / "look.png", 5)
    chosen = Settings.model_validate({**PAPER, **keys})
    session = weak.painter.begin(Subject(decoding.read(content, 1), [Style(decoding.read(style, 1))], chosen))
    return [name_of(session.checkpoint().image) for step in session.steps() if step.painting is None]


def test_a_step_back_is_logged_once_and_is_in_the_record(weak: Weak, loaded: LocalEngine, tree: Tree) -> None:
    """One warning says where; result.yaml counts it, also where the job is broken off and goes on after it."""
    keys = {"size": 32, "iterations": 6}
    names = own_names(weak, tree, keys)
    weak.bad = {names[3]}
    tree.drop("sea", seed=4, preset="paper", **keys)
    struck = Struck(loaded, 5, kill)
    stepper = Stepper(tree.config, struck)
    struck.strike = stepper.service.ask_stop
    with capture_logs() as records:
        assert wait_for(stepper.turn, "the stop") is Ending.INTERRUPTED
        assert Stepper(tree.config, loaded).until_quiet(30) == [Ending.COMPLETED]
    assert [record["iteration"] for record in named(records, "job.damped")] == [3]
    assert [record["iteration"] for record in named(records, "job.resumed")] == [5]
    record = safe_yaml.parse((tree.result("sea") / "result.yaml").read_bytes())["result"]
    assert record["steps_back"] == 1
    tree.check(is_quiet=True)


def test_an_engine_whose_numbers_run_away_twice_fails_the_job(
    weak: Weak, loaded: LocalEngine, tree: Tree
) -> None:
    """The real engine's last good picture, and no later one, is in the failure entry."""
    keys = {"size": 32, "iterations": 6, "frames": {"every": 1}}
    names = own_names(weak, tree, keys)
    weak.poison = {names[3]: np.nan}
    tree.drop("sea", seed=4, preset="paper", **keys)
    stepper = Stepper(tree.config, loaded)
    assert stepper.until_quiet(30) == [Ending.FAILED]
    (entry,) = tree.outbox.glob("sea-*.failed")
    good = decoding.read(entry / "last_good.png", 1)
    weak.heal()
    (job,) = tree.spool.entries(State.FAILED)
    tree.spool.retry(job)
    assert stepper.until_quiet(30) == [Ending.COMPLETED]
    shown = tree.result("sea") / "frames"
    frames = {path.stem: decoding.read(path, 1) for path in shown.glob("*.png")}
    assert np.array_equal(good, frames["0003"])
    assert not np.array_equal(good, frames["0004"])
    tree.check(is_quiet=True)
