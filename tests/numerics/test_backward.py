"""Gradients that go back by convolutions: the library's, and chosen where the library has no good kernel."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import TYPE_CHECKING

import numpy as np
import pytest
import tensorflow as tf
from support.narrow_vgg import narrow_weights

from daemon.transfer.backend import device, timing
from daemon.transfer.vgg19 import Vgg19

if TYPE_CHECKING:
    from daemon.job import Backward

LAYERS = ("block1_conv1", "block3_conv1", "block5_conv1", "block4_conv2")


@pytest.mark.parametrize("pooling", ["max", "avg"])
@pytest.mark.parametrize(("height", "width"), [(48, 67), (33, 64)])
def test_both_ways_back_give_one_gradient(pooling: str, *, height: int, width: int) -> None:
    """Values are equal, gradients to rounding."""
    image = tf.constant(np.random.default_rng(0).uniform(-100, 100, (1, height, width, 3)).astype(np.float32))
    ways: tuple[Backward, ...] = ("gradient", "convolution")
    found = []
    for backward in ways:
        network = Vgg19(narrow_weights(), backward=backward)
        with tf.GradientTape() as tape:
            tape.watch(image)
            features = network.features(image, LAYERS, pooling)
            loss = tf.add_n([tf.reduce_mean(tf.square(value)) for value in features.values()])
        found.append((loss.numpy(), tape.gradient(loss, image).numpy()))
    (loss, gradient), (other_loss, other) = found
    assert other_loss == loss
    assert np.linalg.norm(other - gradient) <= 1e-5 * np.linalg.norm(gradient)


@pytest.mark.parametrize(
    ("gpu", "has_onednn", "chosen"),
    [(None, True, "gradient"), (None, False, "convolution"), ("gpu-0", False, "gradient")],
)
def test_it_is_chosen_where_tensorflow_runs_without_onednn(
    monkeypatch: pytest.MonkeyPatch, gpu: str | None, chosen: str, *, has_onednn: bool
) -> None:
    """On a CPU whose TensorFlow computes by Eigen; a GPU's library has good kernels of its own."""
    monkeypatch.setattr(device, "uses_onednn", lambda: has_onednn)
    assert device.choose_backward(gpu) == chosen


@pytest.mark.parametrize("is_on", [False, pytest.param(True, marks=pytest.mark.nightly)])
def test_tensorflow_says_whether_it_uses_onednn(*, is_on: bool) -> None:
    """TF_ENABLE_ONEDNN_OPTS overrides what the processor would have, and the answer follows it."""
    answer = subprocess.run(
        [sys.executable, "-c", "from daemon.transfer.backend import device; print(device.uses_onednn())"],
        env={**os.environ, "TF_ENABLE_ONEDNN_OPTS": str(int(is_on))},
        check=True,
        stdout=subprocess.PIPE,
        text=True,
    ).stdout
    assert answer == f"{is_on}\n"


def test_what_selftest_prints_is_measured_for_real(monkeypatch: pytest.MonkeyPatch) -> None:
    """Both gains are plausible ratios on any machine."""
    monkeypatch.setattr(timing, "ROUNDS", 1)
    assert 0.01 < timing.bfloat16_gain() < 100
    assert 0.01 < timing.convolution_gain("float32") < 100
