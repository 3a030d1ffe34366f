"""A layer of VGG19, and how the gradient goes back through it: by the library's kernel, or by a convolution.

The gradient of a convolution with stride 1 is itself a convolution, with the kernel turned by half a turn and
its channels exchanged (Goodfellow, Bengio & Courville, "Deep Learning", 2016, section 9.5). Both are the same
sums. Where TensorFlow computes without oneDNN, as on a processor whose last vectors are AVX2, its kernel for
the gradient first lays out every neighbourhood: nine times the features, 1.8 GB at 1024 x 768 px.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, NamedTuple

import tensorflow as tf

from daemon.transfer.backend import timing
from daemon.transfer.backend.compile import compiled

if TYPE_CHECKING:
    from collections.abc import Callable

    from daemon.transfer.backend.timing import Recall

# Well above the noise, and where it is not clearly faster it only takes room.
_LEAST_GAIN: Final = 1.3
_FEATURES: Final = (1, 128, 128, 64)  # a piece of block 1, where a step spends most
_KERNEL: Final = (3, 3, 64, 64)


class Backward(NamedTuple):
    """How gradients go back through a convolution."""

    is_turned: bool = False  # by a convolution with the turned kernel; else by the library's kernel
    gain: float | None = None  # how many times as fast that was, where it was measured


def choose(gpu: Any | None, precision: str, recall: Recall = timing.measured_anew) -> Backward:
    """Choose by a short measurement, or what it gave before; on a GPU, whose library knows best, without.

    Args:
        gpu: TensorFlow's physical device, or None for the CPU.
        precision: of the convolutions.
        recall: asked before anything is measured.
    """
    if gpu is not None:
        return Backward()
    gain = recall(f"backward {precision}", lambda: measured_gain(precision))
    return Backward(gain >= _LEAST_GAIN, round(gain, 2))


def measured_gain(precision: str) -> float:
    """Time the gradient of a layer both ways; returns how many times as fast the turned kernel is."""
    library_s, turned_s = timing.fewest_s([_gradient(precision, is_turned=turned) for turned in (False, True)])
    return library_s / turned_s


def _gradient(precision: str, *, is_turned: bool) -> Callable[[], object]:
    features, kernel = tf.ones(_FEATURES, precision), tf.ones(_KERNEL, precision)
    bias, turned_kernel = tf.ones(_KERNEL[-1:], precision), turned(kernel) if is_turned else None

    def slope() -> Any:
        with tf.GradientTape() as tape:
            tape.watch(features)
            found = layer(features, kernel, bias, turned_kernel)
        return tf.reduce_sum(tape.gradient(found, features))

    run = compiled(slope, [])
    return lambda: run().numpy()


def turned(kernel: Any) -> Any:
    """Turn a kernel, (3, 3, C, D), by half a turn and exchange its channels: (3, 3, D, C)."""
    return tf.transpose(tf.reverse(kernel, axis=[0, 1]), [0, 1, 3, 2])


def layer(features: Any, kernel: Any, bias: Any, turned_kernel: Any | None = None) -> Any:
    """Convolve, add the bias, rectify.

    Args:
        features: (1, H, W, C).
        kernel: (3, 3, C, D).
        bias: (D,).
        turned_kernel: what gradients go back by, towards the features alone; None: the library's kernel. It is
            given, since turning block 5's takes longer than a small picture's convolution.

    Returns:
        (1, H, W, D), the same in both cases.
    """
    if turned_kernel is None:
        return _rectified(features, kernel, bias)

    @tf.custom_gradient  # type: ignore[untyped-decorator]
    def forward(features: Any) -> tuple[Any, Callable[[Any], Any]]:
        found = _rectified(features, kernel, bias)

        def backward(slope: Any) -> Any:
            passed = tf.raw_ops.ReluGrad(gradients=slope, features=found)
            return tf.nn.conv2d(passed, turned_kernel, 1, "SAME")

        return found, backward

    return forward(features)


def _rectified(features: Any, kernel: Any, bias: Any) -> Any:
    return tf.nn.relu(tf.nn.bias_add(tf.nn.conv2d(features, kernel, 1, "SAME"), bias))
