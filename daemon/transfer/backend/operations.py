"""The two operations that a step spends its time in, with gradients cheaper than TensorFlow's own.

A layer of VGG19: the gradient of a convolution with stride 1 is itself a convolution, with the kernel rotated
by 180 degrees and its channels exchanged (Goodfellow, Bengio & Courville, "Deep Learning", 2016, section 9.5).
Both are the same sums. Without oneDNN, TensorFlow's kernel for the gradient first copies every 3 x 3
neighborhood (im2col): nine times the features, 1.8 GB at 1024 x 768 px, in 1.4 (float32) to 8 times (bfloat16)
the time.

A Gram matrix: differentiating FᵀF by its two factors takes two products as large as F, and their sum; one does.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import tensorflow as tf

if TYPE_CHECKING:
    from daemon.transfer import Tensor


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


def gram_product(features: Tensor, guide: Tensor | None = None) -> Tensor:
    """Sum FᵀF over positions: a Gram matrix before its division; with a guide g, (1, H, W, 1), Fᵀ·diag(g)·F.

    Its gradient is g·F·(S + Sᵀ) for an upstream gradient S: one product as large as F.
    """

    @tf.custom_gradient  # type: ignore[untyped-decorator]
    def forward(features: Tensor) -> tuple[Tensor, Any]:
        flat = tf.reshape(features, [-1, tf.shape(features)[-1]])  # (1, H, W, C) -> (H·W, C)

        def gradient(upstream: Tensor) -> Tensor:  # (C, C) -> (1, H, W, C)
            found = tf.reshape(tf.matmul(flat, upstream + tf.transpose(upstream)), tf.shape(features))
            return found if guide is None else guide * found

        weighed = flat if guide is None else tf.reshape(guide * features, tf.shape(flat))
        return tf.matmul(flat, weighed, transpose_a=True), gradient  # (H·W, C) -> (C, C)

    return forward(features)


def sample(features: Tensor, grid: Tensor) -> Tensor:
    """Take (1, H, W, C) at (n, 2) rows and columns: (n, C), zero where a position lies outside."""
    _, height, width, channels = tf.unstack(tf.shape(features))
    inside = tf.where(tf.reduce_all((grid >= 0) & (grid < [height, width]), axis=1))  # (k, 1) int64
    row, column = tf.unstack(tf.gather(grid, inside[:, 0]), axis=1)  # (k,) each
    flat = tf.reshape(features, [height * width, channels])  # (H·W, C)
    taken = tf.gather(flat, row * width + column)  # (k, C)
    return tf.scatter_nd(inside, taken, tf.stack([tf.shape(grid, tf.int64)[0], tf.cast(channels, tf.int64)]))


def nearest(first: Tensor, second: Tensor) -> tuple[Tensor, Tensor]:
    """Find for each of two sets of unit vectors the nearest in the other set: (n, C), (m, C) -> (n,), (m,).

    Transposed for the columns, along which the largest value is found three times as slowly.
    """
    similarity = tf.matmul(first, second, transpose_b=True)  # (n, m)
    return tf.argmax(similarity, axis=1), tf.argmax(tf.transpose(similarity), axis=1)
