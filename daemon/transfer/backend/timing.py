"""What each choice of how to compute gains, measured: for `selftest`; no choice depends on it."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any, Final

import tensorflow as tf

from daemon.transfer.backend import convolutions
from daemon.transfer.backend.compile import compiled

if TYPE_CHECKING:
    from collections.abc import Sequence

    from daemon.transfer import Tensor

ROUNDS: Final = 5
_BLOCK_1: Final = (1, 128, 128, 64)  # a piece of block 1, where a step spends most of its time
_BLOCK_3: Final = (1, 64, 64, 256)


def bfloat16_gain() -> float:
    """Measure how many times as fast as float32's a bfloat16 convolution of VGG19's middle is."""
    float32_s, bfloat16_s = _fewest_s([_convolution(dtype) for dtype in ("float32", "bfloat16")])
    return float32_s / bfloat16_s


def convolution_gain(precision: str) -> float:
    """Measure how many times as fast as the library's gradient a convolution with the rotated kernel is."""
    gradient_s, convolution_s = _fewest_s(
        [_gradient(precision, is_rotated=is_rotated) for is_rotated in (False, True)]
    )
    return gradient_s / convolution_s


def _convolution(dtype: str) -> Any:
    features, kernel = tf.ones(_BLOCK_3, dtype), tf.ones((3, 3, _BLOCK_3[-1], _BLOCK_3[-1]), dtype)
    return compiled(lambda: tf.reduce_sum(tf.nn.conv2d(features, kernel, 1, "SAME")), [])


def _gradient(precision: str, *, is_rotated: bool) -> Any:
    channels = _BLOCK_1[-1]
    features, kernel = tf.ones(_BLOCK_1, precision), tf.ones((3, 3, channels, channels), precision)
    bias, rotated = tf.ones([channels], precision), convolutions.rotated(kernel) if is_rotated else None

    def gradient() -> Tensor:
        with tf.GradientTape() as tape:
            tape.watch(features)
            found = convolutions.layer(features, kernel, bias, rotated)
        return tf.reduce_sum(tape.gradient(found, features))  # ()

    return compiled(gradient, [])


def _fewest_s(functions: Sequence[Any]) -> list[float]:
    """Time compiled functions in turns, since the machine may be busy; returns the fewest seconds of each."""
    for function in functions:
        function().numpy()  # the first call also compiles
    times = [[_seconds(function) for function in functions] for _ in range(ROUNDS)]
    return [min(taken) for taken in zip(*times, strict=True)]


def _seconds(function: Any) -> float:
    begun = time.perf_counter()
    function().numpy()
    return time.perf_counter() - begun
