"""The steps of a job: losses paired with pictures, the best one kept, faults of numbers and of size."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import time
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import tensorflow as tf

from daemon.engine.session import Painter, Previews
from daemon.errors import JobError, Reason
from daemon.job import Style
from daemon.presets import PRESETS
from daemon.settings import Frames, Settings
from daemon.transfer import pixels
from daemon.transfer.scales import Scale, Subject
from daemon.transfer.targets import targets

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from daemon.errors import Failure
    from daemon.job import Step
    from daemon.transfer.vgg19 import Vgg19

    Paint = Callable[..., list[Step]]
    Draw = Callable[..., np.ndarray]


def paper(**settings: Any) -> Settings:
    """Give the paper's settings, some of them changed."""
    return Settings.model_validate({**PRESETS["paper"], **settings})


def test_each_loss_is_of_the_picture_it_comes_with(painter: Painter, paint: Paint, picture: Draw) -> None:
    """The objective of a step's own picture is the step's loss, and no neighbor's.

    The picture has gone through uint8: half a gray level at most in each pixel, which moves the loss by less
    than a quarter of what the smallest update does.
    """
    content, style = picture(30, 40), picture(36, 28, 1)
    steps = paint(content, [Style(style)], iterations=6)
    settings = paper()
    program = painter.step(settings)
    compared = targets(program, Subject(content, [Style(style)], settings), Scale(24, 32, 6), None)
    again = [float(program.loss(pixels.to_vgg(step.picture), compared).total) for step in steps]
    found = [step.losses.total for step in steps]
    smallest_update = np.abs(np.diff(found)).min()
    assert np.abs(np.array(again) - found).max() < smallest_update / 4


def test_start_is_step_zero(paint: Paint, picture: Draw) -> None:
    """Picture 0 is the content itself, before any update, and its content loss is nothing."""
    content = picture(24, 32)
    first = paint(content)[0]
    assert first.iteration == 0
    assert np.array_equal(first.picture, content)
    assert first.losses.content == 0


@pytest.mark.parametrize("iterations", [1, 5])
def test_a_size_gives_one_step_more_than_iterations(paint: Paint, iterations: int) -> None:
    """The start and every update give a step, numbered in order, and only the last carries the painting."""
    steps = paint(iterations=iterations)
    assert [step.iteration for step in steps] == list(range(iterations + 1))
    assert {step.iterations for step in steps} == {iterations}
    assert [step.painting is not None for step in steps] == [False] * iterations + [True]


def test_painting_is_the_best_picture_with_its_losses(paint: Paint) -> None:
    """The painting is the picture of the least loss, also where later updates made it worse."""
    steps = paint(iterations=5, learning_rate=10, init="noise")
    totals = [step.losses.total for step in steps]
    best = int(np.argmin(totals))
    painting = steps[-1].painting
    assert 0 < best < 5  # at this rate the last update makes it worse again
    assert painting.best_iteration == best
    assert painting.best == steps[best].losses
    assert np.array_equal(painting.picture, steps[best].picture)
    assert (painting.first, painting.last) == (steps[0].losses, steps[-1].losses)


def test_pictures_only_where_they_are_wanted(painter: Painter, picture: Draw) -> None:
    """A step carries its picture exactly where the caller asked for it; without a caller's choice, never."""
    subject = Subject(picture(24, 32), [Style(picture(24, 32, 1))], paper(size=32, iterations=3))
    now_s = time.monotonic()
    steps = list(painter.begin(subject).steps(Previews(Frames(every=2), now_s)))
    assert [step.picture is not None for step in steps] == [True, False, True, False]
    assert [step.picture for step in painter.begin(subject).steps()] == [None] * 4


def test_total_is_style_plus_content_plus_variation(paint: Paint) -> None:
    """Total variation, where it is asked for, is in the total beside style and content."""
    for step in paint(tv_weight=1e6):
        assert step.losses.total > 1.0001 * (step.losses.style + step.losses.content)
    for step in paint():
        assert step.losses.total == pytest.approx(step.losses.style + step.losses.content, rel=1e-6)


def test_weights_scale_their_losses(paint: Paint) -> None:
    """Ten times the style weight gives ten times the style loss of the same picture."""
    once, tenfold = paint(style_weight=0.01)[0].losses, paint(style_weight=0.1)[0].losses
    assert tenfold.style == pytest.approx(10 * once.style, rel=1e-5)


# Determinism

FRESH = """
import hashlib, json, sys
import numpy as np
from support.narrow_vgg import narrow_vgg
from daemon.engine.session import Painter
from daemon.job import Style
from daemon.settings import Settings
from daemon.transfer.scales import Subject
content, style = np.load(sys.argv[1]), np.load(sys.argv[2])
settings = Settings.model_validate_json(sys.argv[3])
steps = list(Painter(narrow_vgg()).begin(Subject(content, [Style(style)], settings)).steps())
painted = hashlib.sha256(steps[-1].painting.picture.tobytes()).hexdigest()
print(json.dumps([painted, [[v.hex() for v in vars(s.losses).values()] for s in steps]]))
"""


SMALL: dict[str, Any] = {"size": 48, "iterations": 4}
DEFAULT = {**PRESETS["default"], **SMALL, "scales": [{"size": 32, "iterations": 4}]}
PAPER = {**PRESETS["paper"], **SMALL}


@pytest.mark.parametrize("settings", [PAPER, DEFAULT], ids=["paper", "default"])
def test_two_runs_are_equal_to_the_bit(paint: Paint, settings: dict[str, Any]) -> None:
    """The same job gives the same losses and pictures again, not nearly but to the bit."""
    one, other = paint(**settings), paint(**settings)
    assert [step.losses for step in one] == [step.losses for step in other]
    assert all(np.array_equal(a.picture, b.picture) for a, b in zip(one, other, strict=True))


@pytest.mark.parametrize(
    ("settings", "count"),
    [pytest.param(PAPER, 5, id="paper"), pytest.param(DEFAULT, 10, marks=pytest.mark.nightly, id="default")],
)
def test_two_processes_are_equal_to_the_bit(
    tmp_path: Path, picture: Draw, painter: Painter, settings: dict[str, Any], count: int
) -> None:
    """The same job in a fresh process, with another hash seed, gives the losses and the picture of this one."""
    content, style = picture(40, 52), picture(36, 28, 1)
    np.save(tmp_path / "content.npy", content)
    np.save(tmp_path / "style.npy", style)
    said = subprocess.run(
        [
            *(sys.executable, "-c", FRESH, tmp_path / "content.npy", tmp_path / "style.npy"),
            json.dumps(settings),
        ],
        env={**os.environ, "PYTHONHASHSEED": "1", "PYTHONPATH": os.pathsep.join(sys.path)},
        check=True,
        stdout=subprocess.PIPE,
    ).stdout
    chosen = Settings.model_validate(settings)
    steps = list(painter.begin(Subject(content, [Style(style)], chosen)).steps())
    painted = hashlib.sha256(steps[-1].painting.picture.tobytes()).hexdigest()
    losses = [[value.hex() for value in vars(step.losses).values()] for step in steps]
    assert len(losses) == count
    assert json.loads(said) == [painted, losses]


# One compilation


@pytest.mark.parametrize(
    ("preset", "weighing"),
    [
        pytest.param("default", {"strength": 0.9}, marks=pytest.mark.nightly),
        ("paper", {"style_weight": 5, "content_weight": 2}),
    ],
)
def test_every_function_is_traced_once(
    narrow: Vgg19, picture: Draw, preset: str, weighing: dict[str, float]
) -> None:
    """Sizes, weights, rates, strength, scales and starts differ, and nothing of a method is compiled again."""
    painter = Painter(narrow)
    styles = [Style(picture(36, 28, seed), float(seed)) for seed in (1, 2, 3)]
    jobs = [
        (picture(24, 32), styles[:1], {"size": 32}),
        (picture(51, 33), styles[:2], {"size": 51, "tv_weight": 1, **weighing}),
        (picture(32, 24), styles, {"size": "original", "learning_rate": 7, "init": "noise", "seed": 9}),
        (picture(48, 48), styles[:1], {"size": 48, "scales": [{"size": 20, "iterations": 1}], "init": "style"}),
        (picture(24, 32), styles[:1], {"size": 32, "style_layers": dict.fromkeys(Settings().style_layers, 3)}),
        (picture(140, 280), styles[:1], {"size": 260, "iterations": 1, "scales": "auto"}),
    ]
    steps = set()
    for content, chosen, settings in jobs:
        job = Settings.model_validate({**PRESETS[preset], "scales": "none", "iterations": 2, **settings})
        assert list(painter.begin(Subject(content, chosen, job)).steps())[-1].painting is not None
        steps.add(painter.step(job))
    (step,) = steps
    for function in (step.step, step.loss, step.content_features, step.style_statistics):
        assert function.experimental_get_tracing_count() == 1


# Numbers that run away, pictures that are too narrow


def diverged(
    painter: Painter, content: np.ndarray, style: np.ndarray, **settings: float
) -> tuple[int, Failure]:
    """Paint what must fail; returns how many steps came before, and the failure."""
    job = paper(size=32, iterations=5, **settings)
    steps = painter.begin(Subject(content, [Style(style)], job)).steps()
    for count in range(7):
        try:
            next(steps)
        except JobError as error:
            return count, error.failure
    pytest.fail("it went on to its end")


def test_an_infinite_loss_fails_the_job(painter: Painter, picture: Draw) -> None:
    """A loss past float32 ends the job as diverged at its first picture, and says what to do."""
    count, failure = diverged(painter, picture(24, 32), picture(24, 32, 1), style_weight=1e38)
    assert (count, failure.reason) == (0, Reason.DIVERGED)
    assert failure.message == "the loss is inf at iteration 0"
    assert "learning_rate" in failure.hint


def test_a_loss_that_is_no_number_fails_the_job(painter: Painter, picture: Draw) -> None:
    """NaN ends the job as diverged.

    A weight past float32 is infinite; where content and style are one picture the loss is nothing, and infinity
    times nothing is NaN.
    """
    count, failure = diverged(painter, picture(24, 32), picture(24, 32), style_weight=1e39)
    assert (count, failure.reason) == (0, Reason.DIVERGED)
    assert failure.message == "the loss is nan at iteration 0"


def test_a_huge_learning_rate_stays_within_black_and_white(paint: Paint) -> None:
    """However far an update throws, every picture is clipped and every loss a number."""
    steps = paint(iterations=4, learning_rate=1e6)
    assert all(np.isfinite(step.losses.total) for step in steps)
    assert np.isin(steps[1].picture, (0, 255)).mean() > 0.99  # all pixels but those that have hardly a gradient


def test_a_content_too_narrow_fails_the_job(paint: Paint, picture: Draw) -> None:
    """A content whose short side falls below 16 px is refused with both numbers named."""
    with pytest.raises(JobError) as caught:
        paint(picture(20, 200), [Style(picture(60, 60, 1))], size=64)
    assert caught.value.failure.reason is Reason.PICTURE_TOO_NARROW
    assert "200 x 20 px scaled to 64 px is 6 px" in caught.value.failure.message
    assert "16 px" in caught.value.failure.hint


def test_the_narrowest_picture_is_painted(paint: Paint, picture: Draw) -> None:
    """A short side of exactly 16 px passes all four poolings."""
    assert paint(picture(16, 40), size="original")[-1].painting.picture.shape == (16, 40, 3)


def test_out_of_range_never_leaves_the_step(painter: Painter, picture: Draw) -> None:
    """The picture inside the loop, not only the saved one, is held within [-mean, 255 - mean]."""
    settings = paper(size=32, learning_rate=500)
    program = painter.step(settings)
    content = picture(24, 32)
    subject = Subject(content, [Style(picture(24, 32, 1))], settings)
    image, compared = pixels.to_vgg(content), targets(program, subject, Scale(24, 32, 1), None)
    _, moved, _ = program.step(image, compared, program.optimizer.start(image, settings.learning_rate))
    assert float(tf.reduce_max(tf.abs(moved - image))) > 50
    assert np.all(moved >= pixels.LOWEST)
    assert np.all(moved <= pixels.HIGHEST)
