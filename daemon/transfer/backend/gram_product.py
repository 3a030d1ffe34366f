"""The product that a Gram matrix is made of, with a gradient at half of the usual cost."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import tensorflow as tf

if TYPE_CHECKING:
    from daemon.transfer import Tensor


@tf.custom_gradient  # type: ignore[untyped-decorator]
def gram_product(features: Tensor) -> tuple[Tensor, Any]:
    """Sum FᵀF over positions: a Gram matrix before its division.

    Its gradient is F·(S + Sᵀ) for an upstream gradient S: one product as large as F. Differentiating the
    product by its two factors takes two products, and their sum.
    """
    flat = tf.reshape(features, [-1, tf.shape(features)[-1]])  # (1, H, W, C) -> (H·W, C)

    def gradient(upstream: Tensor) -> Tensor:  # (C, C) -> (1, H, W, C)
        return tf.reshape(tf.matmul(flat, upstream + tf.transpose(upstream)), tf.shape(features))

    return tf.matmul(flat, flat, transpose_a=True), gradient  # (H·W, C) -> (C, C)
