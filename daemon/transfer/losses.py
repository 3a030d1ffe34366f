"""The losses, one function an equation, and the two objectives.

Where regions have styles of their own, "layer" is, of style and match, a layer in one region (`regional`).

An objective sees a picture through its `Statistics` only: means over its positions, and its features at some of
them. Both can be computed from the whole picture or tile by tile (`tiles`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

import tensorflow as tf

from daemon.transfer.backend.operations import gram_product, nearest, sample

if TYPE_CHECKING:
    from collections.abc import Iterable

    from daemon.transfer import Tensor


_LEAST: Final = 1e-12  # a picture of one color has features that vanish
_LEAST_SQUARE: Final = 1e-6  # of a vector that is made a unit vector


class Compared(NamedTuple):
    """What the features of a picture are compared with place by place, and where they are sampled."""

    content: dict[str, Tensor]  # content layer -> (1, H, W, C)
    importance: dict[str, Tensor]  # content layer -> (1, H, W, 1), how often each place counts; or empty
    grids: dict[str, Tensor]  # matched layer -> (n, 2) int32, rows and columns
    guides: dict[str, Tensor] = {}  # noqa: RUF012 - not changed; style layer -> (1, H, W, 1), mean 1; or empty


class Match(NamedTuple):
    """What the features of one layer are matched with, and where."""

    mean: Tensor  # (C,) float32, of the styles' features
    style: Tensor  # (m, C), unit vectors of the styles' features less their mean; in the network's precision
    grid: Tensor  # (n, 2) int32, the rows and columns at which the picture is sampled
    weight: Tensor  # (n,) float32, of each sample: 1 / n, less where the content is protected


class Targets(NamedTuple):
    """What a picture is compared with, and the weight of each comparison. Float32 tensors but where said.

    The weights are tensors, so that a change of a weight needs no new graph.
    """

    content: dict[str, Tensor]  # layer -> (1, H, W, C)
    importance: dict[str, Tensor]  # content layer -> (1, H, W, 1); empty where nothing is protected
    style: dict[str, Tensor]  # layer -> (C, C)
    match: dict[str, Match]  # layer; empty where nothing is matched
    content_layers: dict[str, Tensor]  # layer -> (), shares that sum to 1
    style_layers: dict[str, Tensor]  # layer -> (), shares that sum to 1; of regions, times area and weight
    content_weight: Tensor  # ()
    style_weight: Tensor  # ()
    match_weight: Tensor  # ()
    tv_weight: Tensor  # ()
    guides: dict[str, Tensor] = {}  # noqa: RUF012 - not changed; as in `Compared`
    match_layers: dict[str, Tensor] = {}  # noqa: RUF012 - not changed; of regions: layer -> (), as `style_layers`

    @property
    def compared(self) -> Compared:
        """The part that belongs to places of the picture."""
        grids = {layer: match.grid for layer, match in self.match.items()}
        return Compared(self.content, self.importance, grids, self.guides)


class Statistics(NamedTuple):
    """What the objectives see of a picture: means over its positions, and samples. All float32 tensors."""

    grams: dict[str, Tensor]  # style layer -> (C, C), FᵀF
    samples: dict[str, Tensor]  # matched layer -> (n, C), the features on its grid
    errors: dict[str, Tensor]  # content layer -> (), squared difference from the target's features
    down: Tensor  # (), squared difference of vertical neighbors
    right: Tensor  # (), squared difference of horizontal neighbors


class Loss(NamedTuple):
    """The scalars of one picture, each with its weight applied."""

    total: Tensor
    style: Tensor
    content: Tensor


def gram_matrix(features: Tensor, guide: Tensor | None = None) -> Tensor:
    """Correlate channels: G = FᵀF / (H·W), or Fᵀ·diag(g)·F / (H·W) with a guide, (1, H, W, 1), of mean 1.

    Gatys, Ecker & Bethge (2016), eq. 3, divided by the number of positions, so that content and style may
    differ in size. (Their eq. 4 has 1 / (4 N² M²) at the loss instead.) With guides: Gatys et al. (2017,
    "Controlling Perceptual Factors"), section 4.1, with g for their g²: so the regions' mean is the whole's.
    """
    height, width = tf.unstack(tf.cast(tf.shape(features)[1:3], tf.float32))
    return gram_product(features, guide) / (height * width)  # (1, H, W, C) -> (C, C)


def content_loss(features: Tensor, target: Tensor, importance: Tensor | None = None) -> Tensor:
    """Mean squared difference of features: Gatys et al. (2016), eq. 1, with a mean for the half sum."""
    return tf.reduce_mean(squared_difference(features, target, importance))


def squared_difference(features: Tensor, target: Tensor, importance: Tensor | None = None) -> Tensor:
    """Square a difference of features, (1, H, W, C), times the importance of each place, (1, H, W, 1)."""
    squares = tf.math.squared_difference(features, target)
    # Not multiplied by 1: TensorFlow would sum in another order, and the paper's losses differ in the last bit.
    return squares if importance is None else importance * squares


def style_loss(gram: Tensor, target: Tensor) -> Tensor:
    """Mean squared difference of Gram matrices: Gatys et al. (2016), eq. 4, with a mean for its constants."""
    return tf.reduce_mean(tf.math.squared_difference(gram, target))


def relaxed_emd(samples: Tensor, match: Match) -> Tensor:
    """Relaxed earth mover's distance of features from a style's: Kolkin et al. (2019, STROTSS), eq. 5-7.

    The mean cosine distance of each feature, (n, C), from the nearest one of the style, and of each one of the
    style from the nearest feature. So the picture has no mixture that the style does not have, and leaves
    nothing of the style out. The paper takes the larger of the two means; their sum has no kink where both are
    equal. As in NNST (Kolkin et al. 2022), cosines are of features less the style's mean.
    """
    own = unit(samples - match.mean)  # (n, C)
    # No gradient: only the order of the similarities counts, so the network's precision will do.
    to_style, to_own = nearest(tf.cast(own, match.style.dtype), match.style)  # (n,), (m,)
    style = tf.cast(match.style, tf.float32)  # (m, C)
    from_own = 1.0 - tf.reduce_sum(own * tf.gather(style, to_style), axis=1)  # (n,)
    from_style = 1.0 - tf.reduce_sum(tf.gather(own, to_own) * style, axis=1)  # (m,)
    return tf.reduce_sum(match.weight * from_own) + tf.reduce_mean(from_style)


def unit(vectors: Tensor) -> Tensor:
    """Scale vectors, (n, C), to the length 1; near zero they are shorter."""
    return vectors * tf.math.rsqrt(tf.reduce_sum(tf.square(vectors), axis=1, keepdims=True) + _LEAST_SQUARE)


def statistics(
    image: Tensor, features: dict[str, Tensor], style_layers: Iterable[str], compared: Compared
) -> Statistics:
    """Compute what the objectives see of a picture (1, H, W, 3) and its features, layer -> (1, H', W', C)."""
    down = image[:, 1:, :, :] - image[:, :-1, :, :]  # (1, H - 1, W, 3)
    right = image[:, :, 1:, :] - image[:, :, :-1, :]  # (1, H, W - 1, 3)
    return Statistics(
        {layer: gram_matrix(features[layer], compared.guides.get(layer)) for layer in style_layers},
        {layer: sample(features[layer], grid) for layer, grid in compared.grids.items()},
        {
            layer: content_loss(features[layer], target, compared.importance.get(layer))
            for layer, target in compared.content.items()
        },
        tf.reduce_mean(tf.square(down)),
        tf.reduce_mean(tf.square(right)),
    )


def paper_objective(found: Statistics, targets: Targets) -> Loss:
    """Weigh and sum: style as the mean over its layers, content likewise.

    Gatys et al. (2016), eq. 5 and 7. With equal weights the shares are 1 / number of layers.
    """
    style = {layer: style_loss(found.grams[layer], target) for layer, target in targets.style.items()}
    return _weighed(_mean(style, targets.style_layers), found.errors, found, targets)


def balanced_objective(found: Statistics, targets: Targets) -> Loss:
    """Weigh and sum relative errors: |G - Gs|² / |Gs|² and |F - Fc|² / |Fc|².

    Every layer counts the same and a weight means the same for every pair of pictures and every size; in the
    paper's objective blocks 3 and 4 outweigh all others by orders of magnitude. Where layers are matched, the
    mean of their relaxed earth mover's distances is a share of the style loss.
    """
    grams = {
        layer: style_loss(found.grams[layer], target) / _mean_square(target)
        for layer, target in targets.style.items()
    }
    content = {layer: found.errors[layer] / _mean_square(target) for layer, target in targets.content.items()}
    style = _mean(grams, targets.style_layers)
    if targets.match:
        distances = {layer: relaxed_emd(found.samples[layer], match) for layer, match in targets.match.items()}
        by_area, plain = targets.match_layers, tf.add_n([*distances.values()]) / len(distances)
        style += targets.match_weight * ((_mean(distances, by_area) if by_area else plain) - style)
    return _weighed(style, content, found, targets)


def _mean_square(target: Tensor) -> Tensor:
    return tf.maximum(tf.reduce_mean(tf.square(target)), _LEAST)


def _weighed(style: Tensor, content: dict[str, Tensor], found: Statistics, targets: Targets) -> Loss:
    """Weigh and sum the style loss, the mean of the content layers' losses, and the total variation.

    That is Mahendran & Vedaldi (2015), beta = 2, as a mean.
    """
    style_sum = targets.style_weight * style
    content_sum = targets.content_weight * _mean(content, targets.content_layers)
    variation = targets.tv_weight * (found.down + found.right)
    return Loss(style_sum + content_sum + variation, style_sum, content_sum)


def _mean(values: dict[str, Tensor], shares: dict[str, Tensor]) -> Tensor:
    """Average over layers, in the order of the values."""
    return tf.add_n([shares[layer] * value for layer, value in values.items()])


OBJECTIVES: Final = {"paper": paper_objective, "balanced": balanced_objective}
