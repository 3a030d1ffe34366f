"""What each choice of how to compute gains, measured: for `selftest`; no choice depends on it."""

from __future__ import annotations

import timeit
from typing import TYPE_CHECKING, Any, Final

import tensorflow as tf

from daemon.transfer.backend import operations
from daemon.transfer.backend.tensors import compiled

if TYPE_CHECKING:
    from daemon.transfer import Tensor

ROUNDS: Final = 5
_BLOCK_1: Final = (1, 128, 128, 64)  # a piece of block 1, where a step spends most of its time
_BLOCK_3: Final = (1, 64, 64, 256)


def bfloat16_gain() -> float:
    """Measure how many times as fast as float32's a bfloat16 convolution of VGG19's middle is."""
    return _gain(_convolution("float32"), _convolution("bfloat16"))


def convolution_gain(precision: str) -> float:
    """Measure how many times as fast as the library's gradient a convolution with the rotated kernel is."""
    return _gain(_gradient(precision, is_rotated=False), _gradient(precision, is_rotated=True))


def _convolution(dtype: str) -> Any:
    features, kernel = tf.ones(_BLOCK_3, dtype), tf.ones((3, 3, _BLOCK_3[-1], _BLOCK_3[-1]), dtype)
    return compiled(lambda: tf.reduce_sum(tf.nn.conv2d(features, kernel, 1, "SAME")), [])


def _gradient(precision: str, *, is_rotated: bool) -> Any:
    channels = _BLOCK_1[-1]
    features, kernel = tf.ones(_BLOCK_1, precision), tf.ones((3, 3, channels, channels), precision)
    bias, rotated = tf.ones([channels], precision), operations.rotated(kernel) if is_rotated else None

    def gradient() -> Tensor:
        with tf.GradientTape() as tape:
            tape.watch(features)
            found = operations.layer(features, kernel, bias, rotated)
        return tf.reduce_sum(tape.gradient(found, features))  # ()

    return compiled(gradient, [])


def _gain(usual: Any, other: Any) -> float:
    """Divide the fewest seconds of two compiled functions, timed in turns, since the machine may be busy."""
    timers = [timeit.Timer("run().numpy()", globals={"run": function}) for function in (usual, other)]
    rounds = [[timer.timeit(1) for timer in timers] for _ in range(1 + ROUNDS)]  # the first one also compiles
    return min(usual_s for usual_s, _ in rounds) / min(other_s for _, other_s in rounds)
