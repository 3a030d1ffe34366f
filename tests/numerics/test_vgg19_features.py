"""VGG19 on the bundled weights against Keras' own network with the same numbers."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from support.narrow_vgg import narrow_weights

from daemon.presets import PRESETS
from daemon.settings import LAYERS, Settings
from daemon.transfer import pixels
from daemon.transfer.step import Method, WholeStep
from daemon.transfer.vgg19 import Vgg19

if TYPE_CHECKING:
    from collections.abc import Callable

    import keras

    from daemon.transfer.weights import Weights

    Draw = Callable[..., np.ndarray]

# Both run the same float32 convolutions; a library may sum them in another order. Each sum has at most
# 9 x 512 terms, and 16 such layers follow each other: 1e-5 of a layer's largest value is some 80 units in the
# last place, while one wrong weight, bias or pixel order is off by whole percents.
ROUNDING = 1e-5
PAPER = Method.of(Settings.model_validate(PRESETS["paper"]))


def error(ours: Any, theirs: Any) -> float:
    """Largest difference, as a share of the largest value."""
    ours, theirs = np.asarray(ours, np.float64), np.asarray(theirs, np.float64)
    assert ours.shape == theirs.shape
    return float(np.abs(ours - theirs).max() / np.abs(theirs).max())


@pytest.mark.parametrize(("height", "width"), [(64, 64), (33, 47), (16, 31)])
def test_features_equal_keras_at_every_layer(
    network: Vgg19, keras_vgg19: keras.Model, picture: Draw, height: int, width: int
) -> None:
    """All 16 convolutions give Keras' features, at odd sizes too, where pooling drops a row or column."""
    image = pixels.to_vgg(picture(height, width))
    theirs = keras_vgg19(image)
    ours = network.features(image, LAYERS)
    assert len(LAYERS) == 16
    assert set(ours) == set(theirs)
    errors = {layer: error(ours[layer], theirs[layer]) for layer in LAYERS}
    assert max(errors.values()) < ROUNDING, errors


def test_every_layer_sees_something(network: Vgg19, picture: Draw) -> None:
    """No layer's features are all zero: equality with Keras is of something."""
    for layer, features in network.features(pixels.to_vgg(picture(64, 64)), LAYERS).items():
        assert np.max(features) > 0, layer
        assert np.min(features) == 0, layer  # after the ReLU


def test_average_pooling_differs_from_max_pooling_after_the_first_block(network: Vgg19, picture: Draw) -> None:
    """Average pooling leaves block 1 alone and changes every block after it."""
    image = pixels.to_vgg(picture(32, 32))
    averaged = network.features(image, LAYERS, "avg")
    for layer, features in network.features(image, LAYERS, "max").items():
        differs = error(averaged[layer], features) > 0.01
        assert differs == (not layer.startswith("block1")), layer


def test_average_pooling_takes_the_mean_of_four(weights: Weights, network: Vgg19, picture: Draw) -> None:
    """What enters block 2 is the mean of 2 x 2 features: its convolution of NumPy's means gives the same."""
    image = pixels.to_vgg(picture(16, 16))
    found = network.features(image, ("block1_conv2", "block2_conv1"), "avg")
    features = np.asarray(found["block1_conv2"])[0]
    means = features.reshape(8, 2, 8, 2, 64).mean(axis=(1, 3))
    padded = np.pad(means, ((1, 1), (1, 1), (0, 0)))
    kernel, bias = weights.layers["block2_conv1"]
    patches = np.lib.stride_tricks.sliding_window_view(padded, (3, 3), axis=(0, 1))  # (8, 8, 64, 3, 3)
    expected = np.maximum(np.einsum("hwcij,ijcd->hwd", patches, kernel) + bias, 0)
    assert error(found["block2_conv1"][0], expected) < ROUNDING


def operations(function: Any, kind: str) -> int:
    """Count the operations of one kind that a compiled function's results need; the others are never run."""
    waiting = [tensor.op for tensor in function.get_concrete_function().graph.outputs]
    needed = {}
    while waiting:
        operation = waiting.pop()
        if operation.name not in needed:
            needed[operation.name] = operation.type
            waiting += [*(tensor.op for tensor in operation.inputs), *operation.control_inputs]
    return list(needed.values()).count(kind)


def test_nothing_past_the_last_layer_is_computed(narrow: Vgg19) -> None:
    """The paper's content costs 14 convolutions, its style 13; a step 14 back, and no weight's gradient."""
    step = WholeStep(narrow, PAPER)
    assert operations(step.content_features, "Conv2D") == 14
    assert operations(step.style_statistics, "Conv2D") == 13
    assert operations(step.step, "Conv2D") == 14
    assert operations(step.step, "Conv2DBackpropInput") == 14
    assert operations(step.step, "Conv2DBackpropFilter") == 0


def test_kernels_are_rotated_once() -> None:
    """A step that goes back by convolutions runs 14 forward and 14 back, and rotates no kernel."""
    step = WholeStep(Vgg19(narrow_weights(), backward="convolution"), PAPER)
    assert operations(step.step, "Conv2D") == 28
    assert operations(step.step, "ReverseV2") == 0


def test_a_shallow_job_runs_a_shallow_network(narrow: Vgg19) -> None:
    """A job whose deepest layer is block2_conv1 runs three convolutions."""
    layers = {"content_layers": ["block2_conv1"], "style_layers": ["block1_conv1"]}
    settings = Settings.model_validate({**layers, "match_weight": 0})
    step = WholeStep(narrow, Method.of(settings))
    assert operations(step.step, "Conv2D") == 3


def test_layers_past_the_last_are_not_even_needed(weights: Weights, network: Vgg19, picture: Draw) -> None:
    """A network without any weights past block2_conv1 gives the features up to there."""
    upper = dict(list(weights.layers.items())[:3])
    shallow = Vgg19(replace(weights, layers=upper))
    image, wanted = pixels.to_vgg(picture(24, 24)), ("block1_conv1", "block2_conv1")
    found, whole = shallow.features(image, wanted), network.features(image, wanted)
    assert set(found) == set(wanted)
    assert all(np.array_equal(found[layer], whole[layer]) for layer in wanted)


def test_bfloat16_features_stay_near_float32(weights: Weights, network: Vgg19, picture: Draw) -> None:
    """In bfloat16 every layer leaves in float32, within 3 % (2-norm) of the float32 one, yet not equal.

    bfloat16 keeps 8 bits, so each rounding is off by up to 0.4 %; input, weights and 16 layers add up.
    """
    image = pixels.to_vgg(picture(32, 48))
    coarse = Vgg19(weights, "bfloat16").features(image, LAYERS)
    for layer, fine in network.features(image, LAYERS).items():
        assert coarse[layer].dtype == "float32"
        relative = np.linalg.norm(coarse[layer] - fine) / np.linalg.norm(fine)
        assert 0 < relative < 0.03, layer
