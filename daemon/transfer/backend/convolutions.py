"""A layer of VGG19, and its gradient: by the library's kernel, or by a convolution.

The gradient of a convolution with stride 1 is itself a convolution, with the kernel rotated by 180 degrees and
its channels exchanged (Goodfellow, Bengio & Courville, "Deep Learning", 2016, section 9.5). Both are the same
sums. Without oneDNN, TensorFlow's kernel for the gradient first copies every 3 x 3 neighborhood (im2col): nine
times the features, 1.8 GB at 1024 x 768 px, in 1.4 (float32) to 8 times (bfloat16) the time.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import tensorflow as tf

from daemon.transfer.backend import processor

if TYPE_CHECKING:
    from daemon.job import Backward
    from daemon.transfer import Tensor


def choose(gpu: Any | None) -> Backward:
    """Choose how gradients go back through a convolution; `gpu` is TensorFlow's device, None for the CPU."""
    return "gradient" if gpu is not None or processor.uses_onednn() else "convolution"


def rotated(kernel: Tensor) -> Tensor:
    """Rotate a kernel by 180 degrees and exchange its channels."""
    return tf.transpose(tf.reverse(kernel, axis=[0, 1]), [0, 1, 3, 2])  # (3, 3, C, D) -> (3, 3, D, C)


def layer(features: Tensor, kernel: Tensor, bias: Tensor, rotated_kernel: Tensor | None = None) -> Tensor:
    """Convolve, add the bias, rectify.

    Args:
        features: (1, H, W, C).
        kernel: (3, 3, C, D).
        bias: (D,).
        rotated_kernel: (3, 3, D, C), for the gradient's convolution; None: the library's gradient. Made once:
            rotating block 5's takes longer than a small picture's convolution.

    Returns:
        (1, H, W, D), the same in both cases.
    """
    if rotated_kernel is None:
        return _rectified(features, kernel, bias)

    @tf.custom_gradient  # type: ignore[untyped-decorator]
    def forward(features: Tensor) -> tuple[Tensor, Any]:
        found = _rectified(features, kernel, bias)  # (1, H, W, C) -> (1, H, W, D)

        def backward(upstream: Tensor) -> Tensor:  # (1, H, W, D) -> (1, H, W, C)
            passed = tf.raw_ops.ReluGrad(gradients=upstream, features=found)  # (1, H, W, D)
            return tf.nn.conv2d(passed, rotated_kernel, 1, "SAME")

        return found, backward

    return forward(features)


def _rectified(features: Tensor, kernel: Tensor, bias: Tensor) -> Tensor:
    return tf.nn.relu(tf.nn.bias_add(tf.nn.conv2d(features, kernel, 1, "SAME"), bias))
