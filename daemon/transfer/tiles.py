"""The statistics of a picture too large for memory, and their gradient: tile by tile, equal to the whole's.

A tile is a core and a halo around it. The cores partition the picture, and so do their features at every layer;
the halo is what a core's features depend on beyond the core. So the features of every core are those of the
whole picture, and a sum over positions is the sum over the cores. Every tile runs twice a step: forward for the
sums, and again for the gradient, once the loss of the whole picture's sums is known.
"""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any, Final

import tensorflow as tf

from daemon.transfer.backend.operations import gram_product, sample
from daemon.transfer.backend.tensors import FEATURES, MATRIX, PICTURE, SCALAR, compiled
from daemon.transfer.backend.tile_layout import Tile, feature_px, halo_px, layer_of, spans
from daemon.transfer.losses import Compared, Statistics, squared_difference

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from daemon.transfer import Tensor

_BOX: Final = tf.TensorSpec([4], tf.int32)


class Tiles:
    """Computes the means of a picture in the memory of one tile; the picture's own tensors come on top.

    Each function of a tile is compiled once for all sizes. A step's convolutions take three passes over the
    tiles instead of two over the picture.
    """

    def __init__(self, features: Any, style_layers: Sequence[str], compared: Compared, core_px: int) -> None:
        """Compile lazily.

        `features` is `Vgg19.features`, `compared` holds specs of tensors, and `core_px` is a core's longest
        side, on the grid.
        """
        self._features = features
        self._content_layers, self._style_layers = tuple(compared.content), style_layers
        self._core_px = core_px
        tile = [PICTURE, _BOX]
        grams = dict.fromkeys(compared.guides or style_layers, MATRIX)
        samples = dict.fromkeys(compared.grids, MATRIX)
        errors = dict.fromkeys(compared.content, SCALAR)
        self._core_features = compiled(functools.partial(self._run, layers=self._content_layers), tile)
        style = Compared({}, {}, {layer_of(layer): grid for layer, grid in compared.grids.items()})
        self._style_sums = compiled(self._sums_of_core, [*tile, style])
        masked = style._replace(guides=dict.fromkeys(style_layers, FEATURES))
        self._masked_sums = compiled(self._sums_of_core, [*tile, masked])
        self._core_sums = compiled(self._sums_of_core, [*tile, compared])
        upstream = Statistics(grams, samples, errors, SCALAR, SCALAR)
        self._tile_gradient = compiled(self._gradient_of_tile, [*tile, compared, upstream])

    def content_features(self, image: Tensor) -> dict[str, Tensor]:
        """Compute the features of the content layers: (1, H, W, 3) -> layer -> (1, H', W', C) float32."""
        bands = [
            _joined([self._core_features(_cut(image, tile.whole), tile.inner) for tile in band], axis=2)
            for band in self._bands(image, self._content_layers)
        ]
        return _joined(bands, axis=1)

    def means(self, image: Tensor, compared: Compared) -> Statistics:
        """Compute the statistics of the whole picture (1, H, W, 3); those of a style have no content."""
        sums: Any = None
        style_sums = self._masked_sums if compared.guides else self._style_sums
        core_sums = self._core_sums if compared.content else style_sums
        for tile in self._tiles(image, compared):
            found = core_sums(*_piece(image, compared, tile))
            sums = found if sums is None else tf.nest.map_structure(tf.add, sums, found)
        return _divided(image, compared, sums)

    def gradient(self, image: Tensor, compared: Compared, upstream: Statistics) -> Tensor:
        """Compute a loss' gradient (1, H, W, 3); `upstream` is its gradient with respect to each statistic."""
        of_sums = _divided(image, compared, upstream)  # the chain rule divides as the means do
        whole = tf.Variable(tf.zeros_like(image))  # (1, H, W, 3)
        for tile in self._tiles(image, compared):
            part = self._tile_gradient(*_piece(image, compared, tile), of_sums)  # (1, h, w, 3), core and halo
            region = _cut(whole, tile.whole)
            region.assign(region + part)  # in place: halos overlap
        return whole.read_value()

    def _tiles(self, image: Tensor, compared: Compared) -> list[Tile]:
        return [tile for band in self._bands(image, self._layers(compared)) for tile in band]

    def _layers(self, compared: Compared) -> list[str]:
        return [*compared.content, *(compared.guides or self._style_layers), *compared.grids]

    def _bands(self, image: Tensor, layers: Collection[str]) -> list[list[Tile]]:
        """Cover a picture: the tiles of every band from left to right, the bands from top to bottom."""
        _, height, width, _ = image.shape
        halo = halo_px(layers)
        columns = spans(width, self._core_px, halo)
        return [[Tile(rows, span) for span in columns] for rows in spans(height, self._core_px, halo)]

    def _sums_of_core(self, tile: Tensor, inner: Tensor, compared: Compared) -> Statistics:
        """Sum over a core: (1, h, w, 3), core and halo, and what the core is compared with.

        Samples of positions in other cores are zero, so that those of all cores add up.
        """
        features = self._run(tile, inner, self._layers(compared))
        style_layers = compared.guides or self._style_layers
        grams = {layer: gram_product(features[layer], compared.guides.get(layer)) for layer in style_layers}
        samples = {layer: sample(features[layer], grid) for layer, grid in compared.grids.items()}
        errors = {}
        for layer, wanted in compared.content.items():
            squares = squared_difference(features[layer], wanted, compared.importance.get(layer))
            errors[layer] = tf.reduce_sum(squares)
        return Statistics(grams, samples, errors, *_variation(tile, inner))

    def _gradient_of_tile(
        self, tile: Tensor, inner: Tensor, compared: Compared, upstream: Statistics
    ) -> Tensor:
        """Compute a core's part of the whole gradient: (1, h, w, 3), core and halo."""
        with tf.GradientTape() as tape:
            tape.watch(tile)
            sums = self._sums_of_core(tile, inner, compared)
        return tape.gradient(sums, tile, output_gradients=upstream)

    def _run(self, tile: Tensor, inner: Tensor, layers: Collection[str]) -> dict[str, Tensor]:
        """Run the network on a tile and keep the core's features: layer -> (1, h', w', C)."""
        box, features = tf.unstack(inner), self._features(tile, layers)
        return {layer: _cut(value, box, feature_px(layer)) for layer, value in features.items()}


def _variation(tile: Tensor, inner: Tensor) -> tuple[Tensor, Tensor]:
    """Sum the squared differences of a core's pixels from the neighbors below and to the right.

    Those of the last row and column lie in the halo; at the picture's border there are none.
    """
    top, bottom, left, right = tf.unstack(inner)
    tall, wide = tile[:, top : bottom + 1, left:right], tile[:, top:bottom, left : right + 1]
    return (
        tf.reduce_sum(tf.math.squared_difference(tall[:, 1:], tall[:, :-1])),
        tf.reduce_sum(tf.math.squared_difference(wide[:, :, 1:], wide[:, :, :-1])),
    )


def _piece(image: Tensor, compared: Compared, tile: Tile) -> tuple[Any, ...]:
    """Cut out a tile of the picture, say where its core lies, and cut what that is compared with.

    The grids' positions are counted from the core's corner.
    """
    top, _, left, _ = tile.core
    content, importance, guides = (
        {layer: _cut(value, tile.core, feature_px(layer)) for layer, value in values.items()}
        for values in (compared.content, compared.importance, compared.guides)
    )
    grids = {
        layer: grid - [top // feature_px(layer), left // feature_px(layer)]
        for layer, grid in compared.grids.items()
    }
    return _cut(image, tile.whole), tile.inner, Compared(content, importance, grids, guides)


def _cut(values: Tensor, box: Sequence[Any], px: int = 1) -> Tensor:
    """Cut a box in pixels out of values that are `px` apart: (1, H, W, C) -> (1, h, w, C)."""
    top, bottom, left, right = (edge // px for edge in box)
    return values[:, top:bottom, left:right]


def _divided(image: Tensor, compared: Compared, sums: Statistics) -> Statistics:
    """Divide every sum by the number of its terms in the whole picture; a sample is a sum of one."""
    _, height, width, channels = image.shape
    positions = {layer: (height // feature_px(layer)) * (width // feature_px(layer)) for layer in sums.grams}
    return Statistics(
        {layer: value / positions[layer] for layer, value in sums.grams.items()},
        sums.samples,
        {layer: value / tf.size(compared.content[layer], tf.float32) for layer, value in sums.errors.items()},
        sums.down / ((height - 1) * width * channels),
        sums.right / (height * (width - 1) * channels),
    )


def _joined(found: Sequence[dict[str, Tensor]], axis: int) -> dict[str, Tensor]:
    """Put the features of adjacent cores side by side: (1, h', w', C) each."""
    return {layer: tf.concat([one[layer] for one in found], axis) for layer in found[0]}
