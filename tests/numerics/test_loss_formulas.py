"""The losses against NumPy's formulas in float64, and their gradient against finite differences."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import reference
import tensorflow as tf

from daemon.settings import Settings
from daemon.transfer import losses, pixels
from daemon.transfer.losses import Targets
from daemon.transfer.stylize import Program, _Leg, _targets

if TYPE_CHECKING:
    from collections.abc import Callable

    from daemon.transfer.stylize import Painter

# Sums of up to some thousand float32 products, against float64: a few units in the last of 24 bits.
ROUNDING = 1e-5


@pytest.fixture
def random() -> np.random.Generator:
    """Numbers that are the same in each run."""
    return np.random.default_rng(7)


def scalar(value: float) -> Any:
    """Make a float32 tensor of no dimension."""
    return tf.constant(value, tf.float32)


def test_gram_matrix_is_the_mean_product_of_two_channels(random: np.random.Generator) -> None:
    """Every entry is the sum over positions of two channels' product, divided by the number of positions."""
    features = random.normal(size=(1, 3, 5, 4)).astype(np.float32)
    expected = np.zeros((4, 4))
    for one in range(4):
        for other in range(4):
            for position in range(15):
                row, column = divmod(position, 5)
                expected[one, other] += (
                    float(features[0, row, column, one] * features[0, row, column, other]) / 15
                )
    assert np.asarray(losses.gram_matrix(tf.constant(features))) == pytest.approx(
        expected, rel=ROUNDING, abs=1e-6
    )


def test_gram_matrix_does_not_depend_on_size(random: np.random.Generator) -> None:
    """A picture tiled twice has the Gram matrix of the picture: content and style may differ in size."""
    features = random.normal(size=(1, 4, 6, 3)).astype(np.float32)
    twice = np.concatenate([features, features], axis=1)
    one, other = (np.asarray(losses.gram_matrix(tf.constant(value))) for value in (features, twice))
    assert other == pytest.approx(one, rel=ROUNDING, abs=1e-6)


def test_content_loss_is_the_mean_squared_difference(random: np.random.Generator) -> None:
    """The content loss is NumPy's mean of the squared difference of two feature maps."""
    one, other = random.normal(size=(2, 1, 5, 7, 6)).astype(np.float32)
    assert float(losses.content_loss(one, other)) == pytest.approx(np.mean((one - other) ** 2.0), rel=ROUNDING)


def test_style_loss_is_the_mean_squared_difference(random: np.random.Generator) -> None:
    """The style loss is NumPy's mean of the squared difference of two Gram matrices."""
    one, other = random.normal(size=(2, 6, 6)).astype(np.float32)
    assert float(losses.style_loss(one, other)) == pytest.approx(np.mean((one - other) ** 2.0), rel=ROUNDING)


def test_total_variation_is_the_mean_squared_difference_of_neighbours(random: np.random.Generator) -> None:
    """Total variation is the mean square of NumPy's differences down, plus that of those to the right."""
    image = random.normal(size=(1, 5, 9, 3)).astype(np.float32)
    expected = np.mean(np.diff(image, axis=1) ** 2.0) + np.mean(np.diff(image, axis=2) ** 2.0)
    assert float(losses.total_variation(tf.constant(image))) == pytest.approx(expected, rel=ROUNDING)


def test_total_variation_of_one_colour_is_zero() -> None:
    """A picture without neighbours that differ has no variation."""
    assert float(losses.total_variation(tf.fill([1, 4, 4, 3], 17.5))) == 0


def test_objective_weighs_layers_and_terms(random: np.random.Generator) -> None:
    """The paper's objective is the weighted sum of NumPy's own terms: shares of layers, then two weights."""
    features = {name: random.normal(size=(1, 6, 6, 4)).astype(np.float32) for name in "abcd"}
    wanted = {name: random.normal(size=(1, 6, 6, 4)).astype(np.float32) for name in "cd"}
    grams = {name: random.normal(size=(4, 4)).astype(np.float32) for name in "ab"}
    targets = Targets(
        content={name: tf.constant(value) for name, value in wanted.items()},
        style={name: tf.constant(value) for name, value in grams.items()},
        content_layers={"c": scalar(0.75), "d": scalar(0.25)},
        style_layers={"a": scalar(0.125), "b": scalar(0.875)},
        content_weight=scalar(3),
        style_weight=scalar(5),
        tv_weight=scalar(7),
    )

    def style_of(name: str) -> float:
        flat = features[name].reshape(36, 4).astype(np.float64)
        return float(np.mean((flat.T @ flat / 36 - grams[name]) ** 2))

    style = 5 * (0.125 * style_of("a") + 0.875 * style_of("b"))
    content = 3 * sum(
        share * np.mean((features[name].astype(np.float64) - wanted[name]) ** 2)
        for name, share in (("c", 0.75), ("d", 0.25))
    )
    tensors = {name: tf.constant(value) for name, value in features.items()}

    found = losses.paper_objective(losses.statistics(tensors, targets), targets)

    assert float(found.style) == pytest.approx(style, rel=ROUNDING)
    assert float(found.content) == pytest.approx(content, rel=ROUNDING)
    assert float(found.total) == pytest.approx(style + content, rel=ROUNDING)


def prepared(
    program: Program, picture: Callable[..., np.ndarray], settings: Settings, *styles: tuple[np.ndarray, float]
) -> Targets:
    """Targets of a content of 24 x 32 px and some styles."""
    return _targets(program, picture(24, 32), styles, settings, _Leg(24, 32, 1))


def test_layer_weights_of_a_job_are_shares(painter: Painter, picture: Callable[..., np.ndarray]) -> None:
    """Layer weights of 1 and 3 weigh a quarter and three quarters, whatever their sum."""
    settings = Settings.model_validate({"style_layers": {"block1_conv1": 1, "block2_conv1": 3}})
    targets = prepared(painter.program(settings), picture, settings, (picture(24, 24, 1), 1.0))
    assert {name: float(share) for name, share in targets.style_layers.items()} == {
        "block1_conv1": 0.25,
        "block2_conv1": 0.75,
    }


def test_styles_are_blended_as_the_weighted_mean_of_their_grams(
    painter: Painter, picture: Callable[..., np.ndarray]
) -> None:
    """Two styles weighing 2 and 1 give two thirds of one's Gram matrix plus a third of the other's."""
    settings = Settings()
    program = painter.program(settings)
    one, other = picture(24, 32, 1), picture(32, 20, 2)
    blended = prepared(program, picture, settings, (one, 2.0), (other, 1.0)).style
    alone = prepared(program, picture, settings, (one, 1.0)).style
    second = prepared(program, picture, settings, (other, 1.0)).style
    for layer, gram in blended.items():
        expected = (2 * np.asarray(alone[layer], np.float64) + np.asarray(second[layer], np.float64)) / 3
        assert np.asarray(gram) == pytest.approx(expected, rel=ROUNDING, abs=1e-3), layer


def test_gradient_equals_finite_differences_in_float64(
    painter: Painter, picture: Callable[..., np.ndarray], random: np.random.Generator
) -> None:
    """Along any direction the gradient is the slope of the same objective in float64 by Keras' own network.

    Float64 allows a difference of a ten-thousandth of a grey level, small enough to cross no kink of ReLU or
    pooling that matters. What is left is the float32 gradient's own rounding through 13 convolutions.
    """
    content, style = picture(32, 32), picture(32, 32, 1)
    image = pixels.to_vgg(picture(32, 32, 2))
    program = painter.program(Settings())
    targets = _targets(program, content, [(style, 1.0)], Settings(), _Leg(32, 32, 1))
    with tf.GradientTape() as tape:
        tape.watch(image)
        loss = program.loss(image, targets)
    gradient = np.asarray(tape.gradient(loss.total, image), np.float64)

    paper = reference.Paper(reference.network("float64"), content, style)
    exact = tf.cast(image, tf.float64)
    assert float(loss.total) == pytest.approx(float(paper.losses(exact)[0]), rel=1e-4)
    steepest = gradient / np.abs(gradient).max()
    for direction in (steepest, *random.choice([-1.0, 1.0], size=(3, *gradient.shape))):
        step = 1e-4 * direction
        slope = float(paper.losses(exact + step)[0] - paper.losses(exact - step)[0]) / 2e-4
        size = np.linalg.norm(gradient) * np.linalg.norm(direction)
        assert np.vdot(gradient, direction) == pytest.approx(slope, abs=1e-4 * size)
