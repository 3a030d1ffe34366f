"""Gradients that go back by convolutions: those of the library, whatever is asked of the network."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest
import tensorflow as tf

from daemon.transfer.backend import convolutions
from daemon.transfer.backend.convolutions import Backward
from daemon.transfer.vgg19 import Vgg19

if TYPE_CHECKING:
    from daemon.transfer.weights import Weights

LAYERS = ("block1_conv1", "block3_conv1", "block5_conv1", "block4_conv2")


@pytest.mark.parametrize("pooling", ["max", "avg"])
@pytest.mark.parametrize(("height", "width"), [(48, 67), (33, 64)])
def test_both_ways_back_give_one_gradient(weights: Weights, pooling: str, *, height: int, width: int) -> None:
    """Values are equal, gradients to rounding."""
    image = tf.constant(np.random.default_rng(0).uniform(-100, 100, (1, height, width, 3)).astype(np.float32))
    found = []
    for is_turned in (False, True):
        network = Vgg19(weights, is_turned=is_turned)
        with tf.GradientTape() as tape:
            tape.watch(image)
            features = network.features(image, LAYERS, pooling)
            loss = tf.add_n([tf.reduce_mean(tf.square(value)) for value in features.values()])
        found.append((loss.numpy(), tape.gradient(loss, image).numpy()))
    (loss, gradient), (turned_loss, turned) = found
    assert turned_loss == loss
    assert np.linalg.norm(turned - gradient) <= 1e-5 * np.linalg.norm(gradient)


@pytest.mark.parametrize(("gain", "chosen"), [(0.9, False), (1.29, False), (1.3, True), (2.8, True)])
def test_it_is_chosen_where_it_is_clearly_faster(
    monkeypatch: pytest.MonkeyPatch, *, gain: float, chosen: bool
) -> None:
    """A measurement decides, with room for its noise."""
    monkeypatch.setattr(convolutions, "measured_gain", lambda precision: gain if precision == "float32" else 0)
    assert convolutions.choose(None, "float32") == Backward(is_turned=chosen, gain=gain)


def test_a_gpu_is_not_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its library chooses for itself."""
    monkeypatch.setattr(convolutions, "measured_gain", pytest.fail)
    assert convolutions.choose("gpu-0", "float32") == Backward()


def test_the_measurement_is_of_both_ways() -> None:
    """Run for real, it gives a ratio."""
    assert convolutions.measured_gain("float32") > 0
