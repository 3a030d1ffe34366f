"""One function an equation: Gram matrix, content loss, style loss, total variation, and their objective."""

from __future__ import annotations

from typing import Any, NamedTuple

import tensorflow as tf


class Targets(NamedTuple):
    """What a picture is compared with, and how much each comparison counts. All float32 tensors.

    The weights travel as tensors, so that another weight needs no other graph.
    """

    content: dict[str, Any]  # layer -> (1, H, W, C)
    style: dict[str, Any]  # layer -> (C, C)
    content_layers: dict[str, Any]  # layer -> (), shares that sum to 1
    style_layers: dict[str, Any]  # layer -> (), shares that sum to 1
    content_weight: Any  # ()
    style_weight: Any  # ()
    tv_weight: Any  # ()


class Loss(NamedTuple):
    """The scalars of one picture, each with its weight applied."""

    total: Any
    style: Any
    content: Any


def gram_matrix(features: Any) -> Any:
    """Correlate channels: G = FᵀF / (H·W).

    Gatys, Ecker & Bethge (2016), eq. 3, divided by the number of positions, so that content and style may
    differ in size. (Their eq. 4 has 1 / (4 N² M²) at the loss instead.)

    Args:
        features: (1, H, W, C) float32.

    Returns:
        (C, C) float32.
    """
    channels = tf.shape(features)[-1]
    flat = tf.reshape(features, [-1, channels])  # (1, H, W, C) -> (H·W, C)
    positions = tf.cast(tf.shape(flat)[0], features.dtype)
    return tf.matmul(flat, flat, transpose_a=True) / positions  # -> (C, C)


def content_loss(features: Any, target: Any) -> Any:
    """Mean squared difference of features: Gatys et al. (2016), eq. 1, with a mean for the half sum."""
    return tf.reduce_mean(tf.math.squared_difference(features, target))


def style_loss(gram: Any, target: Any) -> Any:
    """Mean squared difference of Gram matrices: Gatys et al. (2016), eq. 4, with a mean for its constants."""
    return tf.reduce_mean(tf.math.squared_difference(gram, target))


def total_variation(image: Any) -> Any:
    """Mean squared difference of neighbouring pixels: Mahendran & Vedaldi (2015), beta = 2, as a mean.

    Args:
        image: (1, H, W, 3) float32.
    """
    down = image[:, 1:, :, :] - image[:, :-1, :, :]
    right = image[:, :, 1:, :] - image[:, :, :-1, :]
    return tf.reduce_mean(tf.square(down)) + tf.reduce_mean(tf.square(right))


def paper_objective(image: Any, features: dict[str, Any], targets: Targets) -> Loss:
    """Weigh and sum: style as the mean over its layers, content likewise, total variation if asked for.

    Gatys et al. (2016), eq. 5 and 7. With equal weights the shares are 1 / number of layers.

    Args:
        image: (1, H, W, 3) float32 BGR minus the mean.
        features: layer -> (1, H, W, C) float32, for every layer of the targets.
        targets: what to compare with.
    """
    style = targets.style_weight * tf.add_n(
        [
            share * style_loss(gram_matrix(features[layer]), targets.style[layer])
            for layer, share in targets.style_layers.items()
        ]
    )
    content = targets.content_weight * tf.add_n(
        [
            share * content_loss(features[layer], targets.content[layer])
            for layer, share in targets.content_layers.items()
        ]
    )
    variation = targets.tv_weight * total_variation(image)
    return Loss(style + content + variation, style, content)
