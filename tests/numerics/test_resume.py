"""True resume: from whichever step a job goes on, it ends as the unbroken one, to the bit."""

from __future__ import annotations

import hashlib
import itertools
import json
import os
import subprocess
import sys
import weakref
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import tensorflow as tf
from structlog.testing import capture_logs
from support.fakes import Killed
from support.trees import Stepper, Tree, digest, save, wait_for

from daemon import config as config_module
from daemon import images, safe_yaml
from daemon.engine.checkpoints import Checkpoints, kept
from daemon.engine.local import LocalEngine
from daemon.job import Request, State, Step
from daemon.settings import PRESETS, Settings
from daemon.transfer import run
from daemon.transfer.backend import device
from daemon.transfer.optimizers import RESTARTS, Lbfgs
from daemon.transfer.painter import Painter
from daemon.transfer.targets import Subject
from daemon.worker.outcomes import Ending

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from daemon.config import Config
    from daemon.job import Plan
    from daemon.lifeline import Lifeline
    from daemon.transfer.run import Checkpoint, Run
    from daemon.transfer.vgg19 import Vgg19

    Draw = Callable[..., np.ndarray]

SIZES: dict[str, Any] = {"size": 36, "iterations": 5, "scales": [{"size": 24, "iterations": 6}]}
ROAD: dict[str, Any] = {**PRESETS["paper"], **SIZES}
LBFGS: dict[str, Any] = {**PRESETS["default"], **SIZES}
LONG: dict[str, Any] = {**LBFGS, "iterations": 12, "scales": [{"size": 24, "iterations": 13}]}
JOBS: dict[str, dict[str, Any]] = {
    "one size": {**ROAD, "size": 32, "iterations": 7, "scales": "none"},
    "two sizes": ROAD,
    "the best is not the last": {**ROAD, "learning_rate": 40},
    "from noise": {**ROAD, "init": "noise", "seed": 3},
    "from a file": {**ROAD, "init": "start.png"},
    "average pooling": {**ROAD, "pooling": "avg"},
    "two styles": {**ROAD, "style": [2.0, 1.0], "init": "style", "tv_weight": 1},
    "one iteration a size": {**ROAD, "iterations": 1, "scales": [{"size": 24, "iterations": 1}]},
    "balanced, L-BFGS": LONG,  # long enough to fill its memory, at both sizes
    "L-BFGS, the paper's objective": {**ROAD, "optimizer": "lbfgs"},
    "L-BFGS, from noise": {**LBFGS, "init": "noise", "strength": 1},
    "L-BFGS begins afresh": {
        **LBFGS,
        "strength": 1,
        "iterations": 8,
        "scales": [{"size": 24, "iterations": 9}],
    },
    "stops early at both sizes": {**LONG, "early_stop": {"improvement": 0.2, "iterations": 3}},
}


class Studio:
    """A painter whose computed steps are counted, and the way from a job's name to a run."""

    def __init__(self, network: Vgg19, draw: Draw) -> None:
        self.painter = Painter(network)
        self.evaluated = 0
        self._draw = draw
        self._counted: set[int] = set()

    def begin(self, name: str, resumed: Checkpoint | None = None) -> Run:
        """Prepare a run of a named job, every picture wanted."""
        keys = dict(JOBS[name])
        shares = keys.pop("style", [1.0])
        styles = [(self._draw(36, 28, seed), share) for seed, share in enumerate(shares, start=1)]
        settings = Settings.model_validate(keys)
        self._count(self.painter.program(settings))
        start = self._draw(40, 30, 9) if settings.init == "start.png" else None
        subject = Subject(self._draw(30, 40), styles, settings, start)
        return self.painter.begin(subject, wants_picture=lambda _iteration: True, resumed=resumed)

    def _count(self, program: Any) -> None:
        if id(program) in self._counted:
            return
        self._counted.add(id(program))
        for name in ("step", "loss"):
            setattr(program, name, self._counting(getattr(program, name)))

    def _counting(self, function: Any) -> Any:
        def call(*arguments: Any) -> Any:
            self.evaluated += 1
            return function(*arguments)

        call.traces = function.experimental_get_tracing_count  # type: ignore[attr-defined]
        return call


@dataclass
class Unbroken:
    """A job painted in one go, and its state at every step."""

    steps: list[Step] = field(default_factory=list)
    states: list[Checkpoint] = field(default_factory=list)


@pytest.fixture(scope="module")
def studio(network: Vgg19, picture: Draw) -> Studio:
    """One for all tests, so that each program is compiled once."""
    return Studio(network, picture)


@pytest.fixture(scope="module")
def unbroken(studio: Studio) -> Callable[[str], Unbroken]:
    """Paint a job in one go; once for all tests."""
    made: dict[str, Unbroken] = {}

    def paint(name: str) -> Unbroken:
        if name not in made:
            made[name] = Unbroken()
            run = studio.begin(name)
            for step in run.steps():
                made[name].steps.append(step)
                if step.painting is None:
                    made[name].states.append(run.checkpoint())
        return made[name]

    return paint


@pytest.fixture
def through_disk(tmp_path: Path) -> Callable[[Checkpoint], Checkpoint]:
    """Write a state to a file and read it back."""

    def there_and_back(state: Checkpoint) -> Checkpoint:
        Checkpoints(tmp_path, "key", 30).save(state)
        found = Checkpoints(tmp_path, "key", 30).newest()
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


RARE = {"from noise", "from a file", "average pooling", "two styles", "L-BFGS, from noise"}


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[pytest.mark.slow] if name in RARE else []) for name in JOBS]
)
def test_going_on_from_any_step_ends_as_if_unbroken(
    name: str,
    studio: Studio,
    unbroken: Callable[[str], Unbroken],
    through_disk: Callable[[Checkpoint], Checkpoint],
) -> None:
    """After each step: the record comes again, what follows is equal to the bit, and nothing is redone."""
    whole = unbroken(name)
    assert len(whole.states) == len(whole.steps) - 1 > 1
    for done, state in enumerate(map(through_disk, whole.states), start=1):
        before = studio.evaluated
        run = studio.begin(name, state)
        steps = list(run.steps())
        known, fresh = steps[:done], steps[done:]
        assert all(step.is_replayed and step.picture is None and step.painting is None for step in known)
        assert not any(step.is_replayed for step in fresh)
        assert [facts(step) for step in steps] == [facts(step) for step in whole.steps]
        assert [step.elapsed_s for step in known] == [step.elapsed_s for step in whole.steps[:done]]
        assert all(step.elapsed_s > known[-1].elapsed_s for step in fresh)
        for step, other in zip(fresh, whole.steps[done:], strict=True):
            assert np.array_equal(step.picture, other.picture), step.iteration
        assert_same_end(steps[-1], whole.steps[-1])
        assert studio.evaluated - before == len(fresh)


def test_the_best_picture_may_lie_before_the_break(unbroken: Callable[[str], Unbroken]) -> None:
    """One of the jobs begins its second size from a picture neither first nor last, which had to be kept."""
    whole = unbroken("the best is not the last")
    coarse = [step for step in whole.steps if step.size_px == 24]
    assert 0 < min(coarse, key=lambda step: step.losses.total).iteration < coarse[-1].iteration - 1


def test_the_memory_of_lbfgs_was_full_at_both_sizes(unbroken: Callable[[str], Unbroken]) -> None:
    """The job that shows L-BFGS going on exactly has states with ten pairs, and with none, at each size."""
    lbfgs = Lbfgs()
    known: dict[int, set[int]] = {0: set(), 1: set()}
    for state in unbroken("balanced, L-BFGS").states:
        parts = tf.nest.pack_sequence_as(lbfgs.signature(), list(state.state))
        known[state.leg].add(sum(float(value) > 0 for value in parts.curvatures))
    assert {0, 10} <= known[0]
    assert {0, 10} <= known[1]


def test_early_stop_ended_both_sizes(unbroken: Callable[[str], Unbroken]) -> None:
    """The job that shows early stops going on exactly left both sizes before their last iteration."""
    steps = unbroken("stops early at both sizes").steps
    planned = {24: 13, 36: 12}
    for size_px, iterations in planned.items():
        assert 3 < len([step for step in steps if step.size_px == size_px]) <= iterations


def test_going_on_amid_restarts_ends_as_if_unbroken(
    network: Vgg19,
    picture: Draw,
    monkeypatch: pytest.MonkeyPatch,
    through_disk: Callable[[Checkpoint], Checkpoint],
) -> None:
    """Where L-BFGS takes steps back and begins afresh, a state before, between or after is as good as any."""
    monkeypatch.setattr(Lbfgs, "rise", 1.0)  # so that every rise counts as one to turn back from
    monkeypatch.setattr(Lbfgs, "first_px", 150.0)  # and the first step leads far away
    studio, whole = Studio(network, picture), Unbroken()
    run = studio.begin("L-BFGS begins afresh")
    for step in run.steps():
        whole.steps.append(step)
        whole.states += [run.checkpoint()] if step.painting is None else []
    causes = [step.restart for step in whole.steps]
    assert {step.size_px for step in whole.steps if step.restart == RESTARTS[1]} == {24, 36}
    assert causes.count("") > 10
    for done, state in enumerate(map(through_disk, whole.states), start=1):
        steps = list(studio.begin("L-BFGS begins afresh", state).steps())
        assert [facts(step) for step in steps] == [facts(step) for step in whole.steps]
        assert [step.restart for step in steps[done:]] == causes[done:]
        assert_same_end(steps[-1], whole.steps[-1])


@pytest.mark.parametrize("name", ["two sizes", "balanced, L-BFGS"])
def test_breaking_off_after_each_step_ends_as_if_unbroken(
    name: str,
    studio: Studio,
    unbroken: Callable[[str], Unbroken],
    through_disk: Callable[[Checkpoint], Checkpoint],
) -> None:
    """A job that is broken off after every single step of its way is the same as well."""
    whole, resumed, steps = unbroken(name), None, []
    for done in range(1, len(whole.steps) + 1):
        run = studio.begin(name, resumed)
        steps = list(itertools.islice(run.steps(), done))
        if done < len(whole.steps):
            resumed = through_disk(run.checkpoint())
    assert [facts(step) for step in steps] == [facts(step) for step in whole.steps]
    assert_same_end(steps[-1], whole.steps[-1])


def test_a_state_taken_twice_or_left_alone_changes_nothing(
    studio: Studio, unbroken: Callable[[str], Unbroken]
) -> None:
    """Taking the state has no effect on the way, and one that was taken is not changed by the way after it."""
    whole = unbroken("two sizes")
    run, states = studio.begin("two sizes"), []
    for step, other in zip(run.steps(), whole.steps, strict=True):
        assert step.losses == other.losses
        if step.iteration == 3:
            states = [run.checkpoint(), run.checkpoint()]
    for state in states:
        assert np.array_equal(state.image, whole.states[3].image)
        assert np.array_equal(state.rows[:, :5], whole.states[3].rows[:, :5])
        assert len(state.state) == 4
        assert all(np.array_equal(a, b) for a, b in zip(state.state, whole.states[3].state, strict=True))


def test_nothing_of_the_step_before_is_held(studio: Studio, monkeypatch: pytest.MonkeyPatch) -> None:
    """While a step is computed, the optimiser's memory of the step before is gone."""
    run, before = studio.begin("two sizes"), []
    program, asked = run._programs[0], []
    step = program.step

    def watched(image: Any, targets: Any, state: Any) -> Any:
        asked.append([part() for part in before])
        before[:] = [weakref.ref(state.mean), weakref.ref(state.square)]
        return step(image, targets, state)

    monkeypatch.setattr(program, "step", watched)
    list(run.steps())
    assert asked == [[], *[[None, None]] * 10]


def test_a_state_is_not_held_twice_while_it_is_taken_over() -> None:
    """Each array is gone once its tensor is there: together they may be gigabytes. Here, 6 of 48 MB."""
    arrays = [np.ones((1, 2048, 2048, 3), np.float32) for _ in range(6)]
    device.begin_peak()
    before = device.peak_mb()
    found = run._tensors(arrays)
    after = device.peak_mb()
    assert before is not None
    assert after is not None
    assert after - before < 3 * 48
    assert [float(tf.reduce_min(tensor)) for tensor in found] == [1.0] * 6


def test_nothing_is_compiled_again(studio: Studio, unbroken: Callable[[str], Unbroken]) -> None:
    """Going on uses the programs that painting from the start uses: each function is traced once."""
    for name in ("two sizes", "average pooling", "balanced, L-BFGS"):
        list(studio.begin(name, unbroken(name).states[4]).steps())
        keys = {key: value for key, value in JOBS[name].items() if key != "style"}
        program = studio.painter.program(Settings.model_validate(keys))
        counts = [program.step.traces(), program.loss.traces()]
        others = (program.content_features, program.style_grams)
        assert [*counts, *(function.experimental_get_tracing_count() for function in others)] == [1] * 4


FRESH = """
import hashlib, json, sys
from pathlib import Path
import numpy as np
from daemon.engine.checkpoints import Checkpoints
from daemon.settings import Settings
from daemon.transfer import weights
from daemon.transfer.painter import Painter
from daemon.transfer.targets import Subject
from daemon.transfer.vgg19 import Vgg19
content, style = np.load(sys.argv[1]), np.load(sys.argv[2])
painter = Painter(Vgg19(weights.load("bundled"), is_turned=json.loads(sys.argv[5])))
settings = Settings.model_validate_json(sys.argv[4])
for folder in sorted(Path(sys.argv[3]).iterdir()):
    state = Checkpoints(folder, "key", 30).newest()
    steps = list(painter.begin(Subject(content, [(style, 1.0)], settings), resumed=state).steps())
    painted = hashlib.sha256(steps[-1].painting.picture.tobytes()).hexdigest()
    fresh = [step.losses for step in steps if not step.is_replayed]
    print(json.dumps([painted, [[value.hex() for value in vars(losses).values()] for losses in fresh]]))
"""


@pytest.mark.parametrize("name", ["two sizes", "balanced, L-BFGS"])
def test_a_fresh_process_goes_on_as_if_unbroken(
    name: str, picture: Draw, unbroken: Callable[[str], Unbroken], tmp_path: Path, *, is_turned: bool
) -> None:
    """Another process that knows nothing but a file on disk gives the same losses and picture to the bit."""
    whole = unbroken(name)
    breaks = range(1, len(whole.steps), 3)  # after some steps; the tests above break after every one
    np.save(tmp_path / "content.npy", picture(30, 40))
    np.save(tmp_path / "style.npy", picture(36, 28, 1))
    (tmp_path / "ckpt").mkdir()
    for done in breaks:
        Checkpoints(tmp_path / "ckpt" / f"{done:03d}", "key", 30).save(whole.states[done - 1])
    said = subprocess.run(
        [
            *(sys.executable, "-c", FRESH, tmp_path / "content.npy", tmp_path / "style.npy"),
            *(tmp_path / "ckpt", json.dumps(JOBS[name]), json.dumps(is_turned)),
        ],
        env={**os.environ, "PYTHONHASHSEED": "5"},
        check=True,
        stdout=subprocess.PIPE,
    ).stdout
    assert whole.steps[-1].painting is not None
    expected = hashlib.sha256(whole.steps[-1].painting.picture.tobytes()).hexdigest()
    losses = [[value.hex() for value in vars(step.losses).values()] for step in whole.steps]
    assert [json.loads(line) for line in said.splitlines()] == [[expected, losses[done:]] for done in breaks]


# The engine


def engine_in(folder: Path) -> LocalEngine:
    """An engine that is not started."""
    raw = {"engine": {"device": "cpu", "precision": "float32"}}
    return LocalEngine(config_module.build(raw, folder, environment={}))


@pytest.fixture(scope="module")
def loaded(studio: Studio, tmp_path_factory: pytest.TempPathFactory) -> LocalEngine:
    """One engine for all tests, with the programs that are compiled already."""
    made = engine_in(tmp_path_factory.mktemp("engine"))
    made.start()
    made._painter = studio.painter
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

    def make(*, limit: int | None = None, share: float = 1.0, **settings: Any) -> Request:
        chosen = Settings.model_validate({**ROAD, "frames": {"every": 0}, **settings})
        parts = ((styles[0][0], share), styles[1])
        frames = None if limit is None else frozenset(range(limit + 1))
        return Request(content, parts, None, chosen, tmp_path / "ckpt", frames)

    return make


def first_fresh(engine: LocalEngine, request: Request) -> int:
    """Tell how many steps came from the record; nothing more is painted."""
    return next(number for number, step in enumerate(engine.stylize(request)) if not step.is_replayed)


def test_work_is_bounded_however_often_it_is_killed(
    engine: LocalEngine, order: Callable[..., Request], studio: Studio
) -> None:
    """Killed after every so many steps, the way costs its steps and at most one interval more for each kill."""
    request = order()
    whole = list(engine.stylize(Request(**{**vars(request), "checkpoints": None})))
    before, kills, steps = studio.evaluated, 0, []
    while not steps or steps[-1].painting is None:
        steps, fresh = [], 0
        for step in engine.stylize(request):
            steps.append(step)
            fresh += not step.is_replayed
            if fresh == 5 and step.painting is None:
                kills += 1
                break
    assert kills >= 2
    assert studio.evaluated - before <= len(whole) + kills * 3
    assert [facts(step) for step in steps] == [facts(step) for step in whole]
    assert_same_end(steps[-1], whole[-1])


@pytest.mark.parametrize("done", range(1, 13))
def test_a_stop_keeps_the_state_of_its_very_step(
    done: int, engine: LocalEngine, order: Callable[..., Request], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Told to stop after whichever step, the engine keeps that step: nothing is painted twice."""
    monkeypatch.setattr(Checkpoints, "is_due", lambda _self: False)
    answers = iter([*[False] * (done - 1), True])
    assert len(list(engine.stylize(order(), lambda: next(answers)))) == done
    assert first_fresh(engine, order()) == done


def test_a_stop_among_known_steps_keeps_what_there_was(
    engine: LocalEngine, order: Callable[..., Request], tmp_path: Path
) -> None:
    """Told to stop while the record is told again, the engine leaves the checkpoints as they are."""
    answers = iter([*[False] * 7, True])
    list(engine.stylize(order(), lambda: next(answers)))
    before = {path.name: path.read_bytes() for path in kept(tmp_path / "ckpt")}
    assert len(list(engine.stylize(order(), lambda: True))) == 1
    assert {path.name: path.read_bytes() for path in kept(tmp_path / "ckpt")} == before


CHANGES: dict[str, dict[str, Any]] = {
    "style_weight": {"style_weight": 0.02},
    "learning_rate": {"learning_rate": 3},
    "iterations": {"iterations": 6},
    "the first size": {"scales": [{"size": 24, "iterations": 7}]},
    "size": {"size": 37},
    "seed": {"seed": 1},
    "pooling": {"pooling": "avg"},
    "layers": {"content_layers": ["block4_conv2"]},
    "objective": {"objective": "balanced"},
    "optimizer": {"optimizer": "lbfgs"},
    "strength": {"strength": 0.6},
    "colours of the start": {"init_colors": "style"},
    "early stop": {"early_stop": {"improvement": 0.001, "iterations": 4}},
    "a share of the blend": {"share": 2.0},
}


@pytest.mark.parametrize("change", CHANGES)
def test_what_shapes_the_way_makes_a_state_worthless(
    change: str, engine: LocalEngine, order: Callable[..., Request]
) -> None:
    """Another setting means another way, which begins at its start; what shapes nothing is no hindrance."""
    answers = iter([*[False] * 4, True])
    list(engine.stylize(order(), lambda: next(answers)))
    assert first_fresh(engine, order(**CHANGES[change])) == 0
    assert first_fresh(engine, order(priority=7, output={"format": "jpeg"})) == 5


CHANGED: dict[str, Callable[[pytest.MonkeyPatch], None]] = {
    "this program": lambda patch: patch.setattr("daemon.engine.local.__version__", "0.0"),
    "TensorFlow": lambda patch: patch.setattr(
        "daemon.transfer.backend.device.versions", lambda: {"tensorflow": "0.0"}
    ),
    "oneDNN": lambda patch: patch.setenv("TF_ENABLE_ONEDNN_OPTS", "0"),
}


@pytest.mark.parametrize("what", CHANGED)
def test_another_version_begins_anew(
    what: str,
    engine: LocalEngine,
    order: Callable[..., Request],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A state is gone on from by what it was kept by: not by another version, nor one installed since."""
    answers = iter([*[False] * 4, True])
    list(engine.stylize(order(), lambda: next(answers)))
    CHANGED[what](monkeypatch)
    assert first_fresh(engine, order()) == 5
    other = engine_in(tmp_path)
    other._info, other._painter = engine._info, engine._painter
    assert first_fresh(other, order()) == 0


def test_no_state_past_a_missing_frame_is_taken(engine: LocalEngine, order: Callable[..., Request]) -> None:
    """Where later frames are missing, the engine goes on from an older state, or from the start."""
    answers = iter([*[False] * 7, True])  # pictures 3 and 6 are kept as due ones, 8 by the stop
    list(engine.stylize(order(), lambda: next(answers)))
    iterations = [path.stem for path in kept(order().checkpoints)]
    assert iterations == ["0000006", "0000008"]
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
    steps = list(engine.stylize(order()))
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


class Struck(LocalEngine):
    """Calls something after so many computed steps, counted over all its pictures."""

    def __init__(self, inner: LocalEngine, after: int, strike: Callable[[], None]) -> None:
        self._inner, self._left, self._strike = inner, after, strike

    def start(self, life: Lifeline) -> Any:
        """Say what is loaded."""
        return self._inner.start(life)

    def stylize(self, request: Request, life: Lifeline) -> Iterator[Plan | Step]:
        """Paint; the strike comes before the step reaches the daemon's hands."""
        for item in self._inner.stylize(request, life):
            if isinstance(item, Step) and not item.is_replayed:
                self._left -= 1
                if not self._left:
                    self._strike()
            yield item

    def stop(self) -> None:
        """Keep the model."""


def kill() -> None:
    """End the process here."""
    raise Killed


SEA: dict[str, Any] = {**ROAD, "seed": 4, "frames": {"every": 1}}


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


@pytest.mark.parametrize("after", [1, 4, 7, 8, 11])
def test_a_stopped_job_is_published_as_if_unbroken(
    after: int, tree: Tree, engine: LocalEngine, sea: dict[str, Any]
) -> None:
    """Stopped after whichever step and started again: the same entry, no attempt used, no step twice."""
    tree.drop("sea", **SEA)
    struck = Struck(engine, after, lambda: stepper.service.ask_stop())  # noqa: PLW0108 - which is to come
    stepper = Stepper(tree.config, struck)
    assert wait_for(stepper.turn, "the job to be stopped") is Ending.INTERRUPTED
    (entry,) = tree.spool.entries(State.QUEUED)
    assert (entry.attempts_used, entry.progress) == (0, after)
    with capture_logs() as records:
        assert Stepper(tree.config, engine).until_quiet(60) == [Ending.COMPLETED]
    (resumed,) = [record for record in records if record["event"] == "job.resumed"]
    computed = [record["iteration"] for record in records if record["event"] == "job.progressed"]
    assert len(computed) == 13 - after
    assert resumed["iteration"] == computed[0]
    assert content_of(tree.result("sea")) == sea
    tree.check(is_quiet=True)


def test_a_job_that_left_a_size_early_goes_on_from_where_it_was(tree: Tree, engine: LocalEngine) -> None:
    """Where early stop cut the first size short, a stop in the second one costs no step of either."""
    keys = {**JOBS["stops early at both sizes"], "frames": {"every": 1}}
    tree.drop("sea", **keys)
    tree.drop("lake", seed=int(digest(b"sea")[:6], 16), **keys)  # the same pictures
    stepper = Stepper(tree.config, engine)
    with capture_logs() as records:
        assert wait_for(stepper.turn, "the first job") is Ending.COMPLETED
    sizes = [record["size_px"] for record in records if record["event"] == "job.progressed"]
    assert sizes.count(24) < 14
    after = sizes.count(24) + 2
    struck = Struck(engine, after, lambda: stepper.service.ask_stop())  # noqa: PLW0108 - which is to come
    stepper = Stepper(tree.config, struck)
    assert wait_for(stepper.turn, "the job to be stopped") is Ending.INTERRUPTED
    with capture_logs() as records:
        assert Stepper(tree.config, engine).until_quiet(60) == [Ending.COMPLETED]
    assert [record["event"] for record in records].count("job.progressed") == len(sizes) - after
    assert content_of(tree.result("sea")) == content_of(tree.result("lake"))


@pytest.mark.parametrize("after", [2, 5, 8, 12])
def test_a_killed_job_is_published_as_if_unbroken(
    after: int, tree: Tree, engine: LocalEngine, sea: dict[str, Any]
) -> None:
    """Killed after whichever step and started again: the same entry, from the newest state on disk."""
    tree.drop("sea", **SEA)
    stepper = Stepper(tree.config, Struck(engine, after, kill))
    with pytest.raises(Killed):
        wait_for(stepper.turn, "the kill")
    with capture_logs() as records:
        assert Stepper(tree.config, engine).until_quiet(60) == [Ending.COMPLETED]
    computed = [record for record in records if record["event"] == "job.progressed"]
    assert len(computed) == 13 - 3 * ((after - 1) // 3)
    assert content_of(tree.result("sea")) == sea
    tree.check(is_quiet=True)


@pytest.mark.parametrize("missing", ["0000", "0004", "0006", "0007", "all"])
def test_frames_that_are_missing_are_painted_again(
    missing: str, tree: Tree, engine: LocalEngine, sea: dict[str, Any]
) -> None:
    """Where a kill left frames unwritten the job goes on from before them, and at the end all are there."""
    tree.drop("sea", **SEA)
    stepper = Stepper(tree.config, Struck(engine, 12, kill))
    with pytest.raises(Killed):
        wait_for(stepper.turn, "the kill")
    (entry,) = tree.spool.entries(State.RUNNING)
    for path in (entry.out / "frames").iterdir():
        if missing == "all" or path.stem >= missing:
            path.unlink()
    assert Stepper(tree.config, engine).until_quiet(60) == [Ending.COMPLETED]
    assert content_of(tree.result("sea")) == sea
    tree.check(is_quiet=True)


def test_the_frame_between_two_sizes_does_not_hang_on_a_race(
    tree: Tree, engine: LocalEngine, sea: dict[str, Any]
) -> None:
    """The frame whose iteration ends one size and begins the next is the smaller one, whoever writes when."""
    tree.drop("sea", **SEA)
    Stepper(tree.config, engine).until_quiet(60)
    frames = tree.result("sea") / "frames"
    sizes = {path.stem: max(images.read(path, 1).shape) for path in frames.glob("*.png")}
    assert sizes == {f"{number:04d}": 24 if number <= 6 else 36 for number in range(12)}
