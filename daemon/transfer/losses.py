"""One function an equation: what is measured of a picture, and the objectives made of it.

An objective sees a picture through its `Statistics` alone: Gram matrices and mean squared errors, both of which
are sums over positions. So they can be gathered from a whole picture or from its tiles.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, NamedTuple

import tensorflow as tf

if TYPE_CHECKING:
    from collections.abc import Callable


_LEAST: Final = 1e-12  # a picture of one colour has features that vanish


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


class Statistics(NamedTuple):
    """What the objectives see of a picture. All float32 tensors."""

    grams: dict[str, Any]  # style layer -> (C, C)
    errors: dict[str, Any]  # content layer -> (), mean squared difference from the target's features


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
    height, width = tf.unstack(tf.cast(tf.shape(features)[1:3], tf.float32))
    return correlated(features) / (height * width)


@tf.custom_gradient  # type: ignore[untyped-decorator]
def correlated(features: Any) -> tuple[Any, Callable[[Any], Any]]:
    """Sum FᵀF over positions: a Gram matrix before its division.

    Its gradient is F·(S + Sᵀ) for a slope S: one product as large as F, where differentiating the product by
    its two factors takes two, and their sum.

    Args:
        features: (1, H, W, C) float32.

    Returns:
        (C, C) float32.
    """
    flat = tf.reshape(features, [-1, tf.shape(features)[-1]])  # (1, H, W, C) -> (H·W, C)

    def gradient(slope: Any) -> Any:
        return tf.reshape(tf.matmul(flat, slope + tf.transpose(slope)), tf.shape(features))

    return tf.matmul(flat, flat, transpose_a=True), gradient  # -> (C, C)


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


def statistics(features: dict[str, Any], targets: Targets) -> Statistics:
    """Measure a picture by its features.

    Args:
        features: layer -> (1, H, W, C) float32, for every layer of the targets.
        targets: what to compare with.
    """
    return Statistics(
        {layer: gram_matrix(features[layer]) for layer in targets.style},
        {layer: content_loss(features[layer], target) for layer, target in targets.content.items()},
    )


def paper_objective(found: Statistics, targets: Targets) -> Loss:
    """Weigh and sum: style as the mean over its layers, content likewise.

    Gatys et al. (2016), eq. 5 and 7. With equal weights the shares are 1 / number of layers.
    """
    style = [style_loss(found.grams[layer], target) for layer, target in targets.style.items()]
    return _weighed(style, list(found.errors.values()), targets)


def balanced_objective(found: Statistics, targets: Targets) -> Loss:
    """Weigh and sum relative errors: |G - Gs|² / |Gs|² and |F - Fc|² / |Fc|².

    Every layer counts the same and a weight means the same for every pair of pictures and every size; in the
    paper's objective blocks 3 and 4 outweigh all others by orders of magnitude.
    """
    style = [
        style_loss(found.grams[layer], target) / _mean_square(target) for layer, target in targets.style.items()
    ]
    content = [found.errors[layer] / _mean_square(target) for layer, target in targets.content.items()]
    return _weighed(style, content, targets)


def _mean_square(target: Any) -> Any:
    return tf.maximum(tf.reduce_mean(tf.square(target)), _LEAST)


def _weighed(style: list[Any], content: list[Any], targets: Targets) -> Loss:
    """Blend each list by its layers' shares, in the order of the targets, and weigh the sums."""
    style_shares = [targets.style_layers[layer] for layer in targets.style]
    content_shares = [targets.content_layers[layer] for layer in targets.content]
    style_sum = targets.style_weight * _blend(style, style_shares)
    content_sum = targets.content_weight * _blend(content, content_shares)
    return Loss(style_sum + content_sum, style_sum, content_sum)


def _blend(values: list[Any], shares: list[Any]) -> Any:
    return tf.add_n([share * value for value, share in zip(values, shares, strict=True)])


OBJECTIVES: Final[dict[str, Callable[[Statistics, Targets], Loss]]] = {
    "paper": paper_objective,
    "balanced": balanced_objective,
}
