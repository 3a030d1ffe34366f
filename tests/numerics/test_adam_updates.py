"""Adam against Keras' own and against the paper's formulas written in NumPy."""

from __future__ import annotations

import keras
import numpy as np
import pytest
import tensorflow as tf

from daemon.transfer.optimizers import OPTIMIZERS

STEPS = 12
RATE = 2.0
LOSS = tf.constant(1.0)  # which Adam does not look at


@pytest.fixture
def start() -> np.ndarray:
    """A picture to start from, (1, H, W, 3)."""
    return np.random.default_rng(1).uniform(-100, 100, (1, 5, 6, 3)).astype(np.float32)


@pytest.fixture
def gradients() -> np.ndarray:
    """A gradient for each step, of sizes from far below epsilon to far above it."""
    random = np.random.default_rng(2)
    signs = random.normal(size=(STEPS, 1, 5, 6, 3))
    return (signs * 10 ** random.uniform(-4, 6, (1, 1, 5, 6, 3))).astype(np.float32)


def descended(start: np.ndarray, gradients: np.ndarray) -> list[np.ndarray]:
    """The picture after each of the product's updates."""
    adam = OPTIMIZERS["adam"]
    image = tf.constant(start)
    state = adam.start(image, RATE)
    found = []
    for gradient in gradients:
        image, state = adam.update(image, tf.constant(gradient), LOSS, state)
        found.append(np.asarray(image))
    return found


def test_adam_takes_keras_steps(start: np.ndarray, gradients: np.ndarray) -> None:
    """On the same gradients the picture is Keras' after every update, to float32 rounding."""
    theirs = keras.optimizers.Adam(RATE, beta_1=0.99, beta_2=0.999, epsilon=0.1)
    variable = tf.Variable(start)
    for ours, gradient in zip(descended(start, gradients), gradients, strict=True):
        theirs.apply([tf.constant(gradient)], [variable])
        assert ours == pytest.approx(variable.numpy(), rel=1e-5, abs=1e-4)


def test_adam_takes_the_steps_of_its_paper(start: np.ndarray, gradients: np.ndarray) -> None:
    """On the same gradients the picture is that of Kingma & Ba's formulas in float64 after every update."""
    image = start.astype(np.float64)
    mean, square = np.zeros_like(image), np.zeros_like(image)
    for count, (ours, gradient) in enumerate(zip(descended(start, gradients), gradients, strict=True), start=1):
        mean = 0.99 * mean + 0.01 * gradient
        square = 0.999 * square + 0.001 * gradient.astype(np.float64) ** 2
        rate = RATE * np.sqrt(1 - 0.999**count) / (1 - 0.99**count)
        image = image - rate * mean / (np.sqrt(square) + 0.1)
        assert ours == pytest.approx(image, rel=1e-5, abs=1e-3)


def test_first_step_is_the_learning_rate_where_the_gradient_is_large(start: np.ndarray) -> None:
    """Far above epsilon the first update moves each pixel by the learning rate, against the gradient's sign."""
    signs = np.sign(np.random.default_rng(3).normal(size=start.shape)).astype(np.float32)
    (moved,) = descended(start, [signs * 1e8])
    assert moved - start == pytest.approx(-RATE * signs, rel=1e-3)


@pytest.mark.parametrize("loss", [0.0, 1e30, np.nan])
def test_adam_looks_at_the_gradient_alone(start: np.ndarray, gradients: np.ndarray, loss: float) -> None:
    """Whatever the loss is, the update is the same to the bit, and Adam never restarts."""
    adam = OPTIMIZERS["adam"]
    image, state = tf.constant(start), adam.start(start, RATE)
    for gradient, expected in zip(gradients, descended(start, gradients), strict=True):
        image, state = adam.update(image, tf.constant(gradient), tf.constant(loss), state)
        assert np.array_equal(image, expected)
        assert adam.restart(state) == ""


def test_damping_takes_a_tenth_of_the_learning_rate(start: np.ndarray, gradients: np.ndarray) -> None:
    """The last step is taken again as if its rate had been a tenth, and so is every later one."""
    adam = OPTIMIZERS["adam"]
    *before, last = (tf.constant(gradient) for gradient in gradients)
    image, state = tf.constant(start), adam.start(start, RATE)
    for gradient in before:
        image, state = adam.update(image, gradient, LOSS, state)
    slower = state._replace(learning_rate=tf.constant(RATE / 10))
    expected, known = adam.update(image, last, LOSS, slower)

    _, left = adam.update(image, last, LOSS, state)
    moved, damped = adam.damped(image, left)

    assert np.array_equal(moved, expected)
    for ours, theirs in zip(damped, known, strict=True):
        assert np.asarray(ours) == pytest.approx(np.asarray(theirs), rel=1e-6)
