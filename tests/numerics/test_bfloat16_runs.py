"""Iterating in bfloat16: what is reported of the result is float32's, and as good."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import pytest
import reference
import tensorflow as tf
from PIL import Image
from skimage import data
from support.narrow_vgg import narrow_vgg

from daemon.engine.session import Painter
from daemon.job import Style
from daemon.presets import PRESETS
from daemon.settings import Settings
from daemon.transfer.scales import Subject
from daemon.transfer.targets import targets
from daemon.transfer.vgg19 import Vgg19

if TYPE_CHECKING:
    from collections.abc import Callable

    import numpy as np

    from daemon.engine.checkpoints import Checkpoint
    from daemon.job import Losses, Painting, Step
    from daemon.transfer.weights import Weights

    Draw = Callable[..., np.ndarray]

SCALES: dict[str, Any] = {
    **PRESETS["default"],
    "size": 48,
    "iterations": 4,
    "scales": [{"size": 32, "iterations": 3}],
}


@pytest.fixture(scope="module")
def coarse(narrow: Vgg19) -> Painter:
    """A painter on the narrow network that iterates in bfloat16 and reports in float32."""
    return Painter(narrow_vgg("bfloat16"), narrow)


class Way(NamedTuple):
    """A painted job with its state at every step."""

    subject: Subject
    steps: list[Step]
    states: list[Checkpoint]

    @property
    def painting(self) -> Painting:
        """What it ended with."""
        assert self.steps[-1].painting is not None
        return self.steps[-1].painting


@pytest.fixture(scope="module")
def way(coarse: Painter, picture: Draw) -> Way:
    """A job of two sizes in bfloat16."""
    subject = Subject(picture(36, 48), [Style(picture(36, 28, 1))], Settings.model_validate(SCALES))
    session = coarse.begin(subject)
    made = Way(subject, [], [])
    for step in session.steps():
        made.steps.append(step)
        made.states.append(session.checkpoint())
    return made


def exact(painter: Painter, subject: Subject, image: Any) -> Any:
    """Give the losses of a picture of the final size by the painter that has nothing but float32."""
    compiled = painter.step(subject.settings)
    compared = targets(compiled, subject, subject.scales()[-1], None)
    return [float(value) for value in compiled.loss(tf.constant(image), compared)]


def numbers(losses: Losses) -> list[float]:
    """List total, style and content."""
    return list(vars(losses).values())


def test_first_best_and_last_losses_are_float32s_of_the_actual_pictures(painter: Painter, way: Way) -> None:
    """What a painting reports of its final size is what float32 says of those very pictures."""
    final = [number for number, step in enumerate(way.steps) if step.size_px == 48]
    first, last = way.states[final[0]], way.states[-1]
    painting = way.painting
    assert numbers(painting.first) == pytest.approx(exact(painter, way.subject, first.image), rel=1e-6)
    assert numbers(painting.best) == pytest.approx(exact(painter, way.subject, last.best_image), rel=1e-6)
    assert numbers(painting.last) == pytest.approx(exact(painter, way.subject, last.image), rel=1e-6)


def test_the_last_losses_are_not_the_bests(painter: Painter, coarse: Painter, picture: Draw) -> None:
    """Where every step made it worse, best is the first picture's losses and last those of the last picture."""
    settings = Settings.model_validate({**PRESETS["paper"], "size": 32, "iterations": 3, "learning_rate": 100})
    subject = Subject(picture(24, 32), [Style(picture(36, 28, 1))], settings)
    session = coarse.begin(subject)
    *_, last = session.steps()
    painting = last.painting
    assert painting.best_iteration == 0
    assert painting.best == painting.first
    assert numbers(painting.last) == pytest.approx(
        exact(painter, subject, session.checkpoint().image), rel=1e-6
    )
    assert painting.last.total > 1.01 * painting.best.total


def test_rows_are_those_of_the_iterations(coarse: Painter, way: Way) -> None:
    """The losses of the way are bfloat16's, near float32's and not the same; the best is theirs."""
    final = [step for step in way.steps if step.size_px == 48]
    compiled = coarse.step(way.subject.settings)
    compared = targets(compiled, way.subject, way.subject.scales()[-1], None)
    found = compiled.loss(tf.constant(way.states[-1].image), compared)
    assert numbers(final[-1].losses) == pytest.approx([float(value) for value in found], rel=0.01)
    assert final[0].losses.total == pytest.approx(way.painting.first.total, rel=0.05)
    assert final[0].losses != way.painting.first
    best = min(final, key=lambda step: step.losses.total)
    assert way.painting.best_iteration == best.iteration
    assert way.painting.best != best.losses


def test_the_first_losses_outlive_an_interruption(coarse: Painter, way: Way) -> None:
    """Resumed from a state of either size, a job reports the same to the bit."""
    for number in (1, len(way.states) - 2):
        steps = list(coarse.begin(way.subject, resumed=way.states[number]).steps())
        assert steps[-1].painting is not None
        for name in ("first", "best", "last", "best_iteration"):
            assert getattr(steps[-1].painting, name) == getattr(way.painting, name), name


def test_in_float32_a_painting_reports_its_rows(painter: Painter, way: Way) -> None:
    """Where nothing is rounded, first, best and last are rows of the way to the bit."""
    steps = list(painter.begin(way.subject).steps())
    final = [step for step in steps if step.size_px == 48]
    assert steps[-1].painting.first == final[0].losses
    assert steps[-1].painting.last == final[-1].losses
    assert steps[-1].painting.best in [step.losses for step in final]


@pytest.mark.parametrize(
    "names", [("coffee", "chelsea"), pytest.param(("chelsea", "astronaut"), marks=pytest.mark.slow)]
)
def test_the_papers_loss_is_reached_as_well(
    real_painter: Painter, weights: Weights, network: Vgg19, names: tuple[str, str]
) -> None:
    """On photographs at 48 px the paper's first 25 iterations come to float32's loss within 1 %."""
    content, style = (reference.scaled(Image.fromarray(getattr(data, name)()), 96) for name in names)
    settings = Settings.model_validate({**PRESETS["paper"], "size": 48, "iterations": 25})
    subject = Subject(content, [Style(style)], settings)
    coarse = Painter(Vgg19(weights, "bfloat16"), network)
    fine, rough = (list(one.begin(subject).steps())[-1].painting for one in (real_painter, coarse))
    assert fine.best.total < 0.5 * fine.first.total
    assert rough.first == fine.first  # the same picture, in float32 both
    assert rough.best.total == pytest.approx(fine.best.total, rel=0.01)
