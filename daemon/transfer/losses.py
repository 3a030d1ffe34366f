"""The losses, one function an equation, and the two objectives.

An objective sees a picture through its `Statistics` only. All are sums over positions, divided by their number,
so they can be computed from the whole picture or tile by tile (`tiles`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

import tensorflow as tf

from daemon.transfer.backend.operations import gram_product

if TYPE_CHECKING:
    from daemon.transfer import Tensor


_LEAST: Final = 1e-12  # a picture of one color has features that vanish


class Targets(NamedTuple):
    """What a picture is compared with, and the weight of each comparison. All float32 tensors.

    The weights are tensors, so that a change of a weight needs no new graph.
    """

    content: dict[str, Tensor]  # layer -> (1, H, W, C)
    style: dict[str, Tensor]  # layer -> (C, C)
    content_layers: dict[str, Tensor]  # layer -> (), shares that sum to 1
    style_layers: dict[str, Tensor]  # layer -> (), shares that sum to 1
    content_weight: Tensor  # ()
    style_weight: Tensor  # ()
    tv_weight: Tensor  # ()


class Statistics(NamedTuple):
    """What the objectives see of a picture: means over its positions. All float32 tensors."""

    grams: dict[str, Tensor]  # style layer -> (C, C), FᵀF
    errors: dict[str, Tensor]  # content layer -> (), squared difference from the target's features
    down: Tensor  # (), squared difference of vertical neighbors
    right: Tensor  # (), squared difference of horizontal neighbors


class Loss(NamedTuple):
    """The scalars of one picture, each with its weight applied."""

    total: Tensor
    style: Tensor
    content: Tensor


def gram_matrix(features: Tensor) -> Tensor:
    """Correlate channels: G = FᵀF / (H·W).

    Gatys, Ecker & Bethge (2016), eq. 3, divided by the number of positions, so that content and style may
    differ in size. (Their eq. 4 has 1 / (4 N² M²) at the loss instead.)
    """
    height, width = tf.unstack(tf.cast(tf.shape(features)[1:3], tf.float32))
    return gram_product(features) / (height * width)  # (1, H, W, C) -> (C, C)


def content_loss(features: Tensor, target: Tensor) -> Tensor:
    """Mean squared difference of features: Gatys et al. (2016), eq. 1, with a mean for the half sum."""
    return tf.reduce_mean(tf.math.squared_difference(features, target))


def style_loss(gram: Tensor, target: Tensor) -> Tensor:
    """Mean squared difference of Gram matrices: Gatys et al. (2016), eq. 4, with a mean for its constants."""
    return tf.reduce_mean(tf.math.squared_difference(gram, target))


def statistics(image: Tensor, features: dict[str, Tensor], targets: Targets) -> Statistics:
    """Compute what the objectives see of a picture (1, H, W, 3) and its features, layer -> (1, H', W', C)."""
    down = image[:, 1:, :, :] - image[:, :-1, :, :]  # (1, H - 1, W, 3)
    right = image[:, :, 1:, :] - image[:, :, :-1, :]  # (1, H, W - 1, 3)
    return Statistics(
        {layer: gram_matrix(features[layer]) for layer in targets.style},
        {layer: content_loss(features[layer], target) for layer, target in targets.content.items()},
        tf.reduce_mean(tf.square(down)),
        tf.reduce_mean(tf.square(right)),
    )


def paper_objective(found: Statistics, targets: Targets) -> Loss:
    """Weigh and sum: style as the mean over its layers, content likewise.

    Gatys et al. (2016), eq. 5 and 7. With equal weights the shares are 1 / number of layers.
    """
    style = [style_loss(found.grams[layer], target) for layer, target in targets.style.items()]
    return _weighed(style, list(found.errors.values()), found, targets)


def balanced_objective(found: Statistics, targets: Targets) -> Loss:
    """Weigh and sum relative errors: |G - Gs|² / |Gs|² and |F - Fc|² / |Fc|².

    Every layer counts the same and a weight means the same for every pair of pictures and every size; in the
    paper's objective blocks 3 and 4 outweigh all others by orders of magnitude.
    """
    style = [
        style_loss(found.grams[layer], target) / _mean_square(target) for layer, target in targets.style.items()
    ]
    content = [found.errors[layer] / _mean_square(target) for layer, target in targets.content.items()]
    return _weighed(style, content, found, targets)


def _mean_square(target: Tensor) -> Tensor:
    return tf.maximum(tf.reduce_mean(tf.square(target)), _LEAST)


def _weighed(style: list[Tensor], content: list[Tensor], found: Statistics, targets: Targets) -> Loss:
    """Average both lists by the layers' shares, in the order of the targets; weigh, and add total variation.

    That is Mahendran & Vedaldi (2015), beta = 2, as a mean.
    """
    style_shares = [targets.style_layers[layer] for layer in targets.style]
    content_shares = [targets.content_layers[layer] for layer in targets.content]
    style_sum = targets.style_weight * _average(style, style_shares)
    content_sum = targets.content_weight * _average(content, content_shares)
    variation = targets.tv_weight * (found.down + found.right)
    return Loss(style_sum + content_sum + variation, style_sum, content_sum)


def _average(values: list[Tensor], shares: list[Tensor]) -> Tensor:
    return tf.add_n([share * value for value, share in zip(values, shares, strict=True)])


OBJECTIVES: Final = {"paper": paper_objective, "balanced": balanced_objective}
