"""Sums over a picture too large for memory, and their gradient: tile by tile, equal to the whole picture's.

A tile is a core and a halo around it. The cores partition the picture, and so do their features at every layer;
the halo is what a core's features depend on beyond the core. So the features of every core are those of the
whole picture, and a sum over positions is the sum over the cores. Every tile runs twice a step: forward for the
sums, and again for the gradient, once the loss of the whole picture's sums is known.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, NamedTuple

import tensorflow as tf

from daemon.transfer.backend.operations import gram_product
from daemon.transfer.backend.tensors import FEATURES, GRAM, PICTURE, SCALAR, compiled
from daemon.transfer.backend.tile_layout import Tile, borders, feature_px, halo_px, spans

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Sequence

    from daemon.transfer import Tensor

_BORDERS: Final = tf.TensorSpec([4], tf.int32)


class Sums(NamedTuple):
    """What is summed over positions; as means, each is divided by the number of its terms."""

    grams: dict[str, Tensor]  # style layer -> (C, C), FᵀF
    errors: dict[str, Tensor]  # content layer -> (), squared differences from the target's features
    down: Tensor  # (), squared differences of vertical neighbors
    right: Tensor  # (), squared differences of horizontal neighbors


class Tiles:
    """Computes the sums of a picture in the memory of one tile; the picture's own tensors come on top.

    Each function of a tile is compiled once for all sizes. A step's convolutions take three passes over the
    tiles instead of two over the picture.
    """

    def __init__(
        self, features: Any, content_layers: Sequence[str], style_layers: Sequence[str], core_px: int
    ) -> None:
        """Compile lazily; `features` is `Vgg19.features`, and `core_px` a core's longest side, on the grid."""
        self._features = features
        self._content_layers, self._style_layers = tuple(content_layers), tuple(style_layers)
        self._core_px = core_px
        contents = dict.fromkeys(self._content_layers, FEATURES)
        grams, errors = dict.fromkeys(self._style_layers, GRAM), dict.fromkeys(self._content_layers, SCALAR)
        tile = [PICTURE, _BORDERS]
        self._core_features = compiled(self._features_of_core, tile)
        self._core_grams = compiled(self._grams_of_core, tile)
        self._core_sums = compiled(self._sums_of_core, [*tile, contents])
        upstream = Sums(grams, errors, SCALAR, SCALAR)
        self._tile_gradient = compiled(self._gradient_of_tile, [*tile, contents, upstream])

    def content_features(self, image: Tensor) -> dict[str, Tensor]:
        """Compute the features of the content layers: (1, H, W, 3) -> layer -> (1, H', W', C) float32."""
        bands = [
            _joined([self._core_features(_cut(image, tile), borders(tile)) for tile in band], axis=2)
            for band in self._bands(image, self._content_layers)
        ]
        return _joined(bands, axis=1)

    def style_grams(self, image: Tensor) -> dict[str, Tensor]:
        """Compute the Gram matrices of the style layers: (1, H, W, 3) -> layer -> (C, C) float32."""
        found = (
            self._core_grams(_cut(image, tile), borders(tile))
            for tile in self._tiles(image, self._style_layers)
        )
        return {layer: value / _positions(image, layer) for layer, value in _added(found).items()}

    def means(self, image: Tensor, contents: dict[str, Tensor]) -> Sums:
        """Compute the means over the whole picture; `contents`: the target's features, (1, H', W', C)."""
        found = (
            self._core_sums(_cut(image, tile), borders(tile), _cut_contents(contents, tile))
            for tile in self._tiles(image, self._layers)
        )
        return _divided(image, contents, _added(found))

    def gradient(self, image: Tensor, contents: dict[str, Tensor], upstream: Sums) -> Tensor:
        """Compute a loss' gradient (1, H, W, 3); `upstream` is its gradient with respect to each mean."""
        of_sums = _divided(image, contents, upstream)  # the chain rule divides as the means do
        whole = tf.Variable(tf.zeros_like(image))  # (1, H, W, 3)
        for tile in self._tiles(image, self._layers):
            part = self._tile_gradient(  # (1, h, w, 3), core and halo
                _cut(image, tile), borders(tile), _cut_contents(contents, tile), of_sums
            )
            region = whole[:, tile.rows.start : tile.rows.stop, tile.columns.start : tile.columns.stop]
            region.assign(region + part)  # in place: halos overlap
        return whole.read_value()

    @property
    def _layers(self) -> tuple[str, ...]:
        return (*self._content_layers, *self._style_layers)

    def _bands(self, image: Tensor, layers: Collection[str]) -> list[list[Tile]]:
        """Cover a picture: the tiles of every band from left to right, the bands from top to bottom."""
        _, height, width, _ = image.shape
        halo = halo_px(layers)
        columns = spans(width, self._core_px, halo)
        return [[Tile(rows, span) for span in columns] for rows in spans(height, self._core_px, halo)]

    def _tiles(self, image: Tensor, layers: Collection[str]) -> list[Tile]:
        return [tile for band in self._bands(image, layers) for tile in band]

    def _features_of_core(self, tile: Tensor, edges: Tensor) -> dict[str, Tensor]:
        return self._run(tile, edges, self._content_layers)

    def _grams_of_core(self, tile: Tensor, edges: Tensor) -> dict[str, Tensor]:
        features = self._run(tile, edges, self._style_layers)
        return {layer: gram_product(value) for layer, value in features.items()}  # (1, h, w, C) -> (C, C)

    def _sums_of_core(self, tile: Tensor, edges: Tensor, contents: dict[str, Tensor]) -> Sums:
        """Sum over a core: (1, h, w, 3), core and halo, and content layer -> (1, h', w', C) of the core."""
        features = self._run(tile, edges, self._layers)
        grams = {layer: gram_product(features[layer]) for layer in self._style_layers}
        errors = {
            layer: tf.reduce_sum(tf.math.squared_difference(features[layer], wanted))
            for layer, wanted in contents.items()
        }
        return Sums(grams, errors, *_variation(tile, edges))

    def _gradient_of_tile(
        self, tile: Tensor, edges: Tensor, contents: dict[str, Tensor], upstream: Sums
    ) -> Tensor:
        """Compute a core's part of the whole gradient: (1, h, w, 3), core and halo."""
        with tf.GradientTape() as tape:
            tape.watch(tile)
            sums = self._sums_of_core(tile, edges, contents)
        return tape.gradient(sums, tile, output_gradients=upstream)

    def _run(self, tile: Tensor, edges: Tensor, layers: Collection[str]) -> dict[str, Tensor]:
        """Run the network on a tile and keep the core's features."""
        return {layer: _core(value, layer, edges) for layer, value in self._features(tile, layers).items()}


def _variation(tile: Tensor, edges: Tensor) -> tuple[Tensor, Tensor]:
    """Sum the squared differences of a core's pixels from the neighbors below and to the right.

    Those of the last row and column lie in the halo; at the picture's border there are none.
    """
    top, bottom, left, right = tf.unstack(edges)
    tall, wide = tile[:, top : bottom + 1, left:right], tile[:, top:bottom, left : right + 1]
    return (
        tf.reduce_sum(tf.math.squared_difference(tall[:, 1:], tall[:, :-1])),
        tf.reduce_sum(tf.math.squared_difference(wide[:, :, 1:], wide[:, :, :-1])),
    )


def _divided(image: Tensor, contents: dict[str, Tensor], sums: Sums) -> Sums:
    """Divide every sum by the number of its terms in the whole picture."""
    _, height, width, channels = image.shape
    return Sums(
        {layer: value / _positions(image, layer) for layer, value in sums.grams.items()},
        {layer: value / tf.size(contents[layer], tf.float32) for layer, value in sums.errors.items()},
        sums.down / ((height - 1) * width * channels),
        sums.right / (height * (width - 1) * channels),
    )


def _core(features: Tensor, layer: str, edges: Tensor) -> Tensor:
    """Cut the core out of a tile's features: (1, h', w', C)."""
    top, bottom, left, right = tf.unstack(edges // feature_px(layer))
    return features[:, top:bottom, left:right]


def _cut(image: Tensor, tile: Tile) -> Tensor:
    rows, columns = tile
    return image[:, rows.start : rows.stop, columns.start : columns.stop]  # (1, H, W, 3) -> (1, h, w, 3)


def _cut_contents(contents: dict[str, Tensor], tile: Tile) -> dict[str, Tensor]:
    """Cut the core out of every content layer's features of the whole picture."""
    (_, top, bottom, _), (_, left, right, _) = tile
    cut = {}
    for layer, features in contents.items():
        px = feature_px(layer)
        cut[layer] = features[:, top // px : bottom // px, left // px : right // px]  # (1, h', w', C)
    return cut


def _positions(image: Tensor, layer: str) -> int:
    """Count the positions of a layer's features over the whole picture, (1, H, W, 3)."""
    _, height, width, _ = image.shape
    return int(height // feature_px(layer) * (width // feature_px(layer)))


def _added(found: Iterable[Any]) -> Any:
    """Sum equal structures of tensors, one after the other."""
    total: Any = None
    for one in found:
        total = one if total is None else tf.nest.map_structure(tf.add, total, one)
    return total


def _joined(found: Sequence[dict[str, Tensor]], axis: int) -> dict[str, Tensor]:
    """Put the features of adjacent cores side by side: (1, h', w', C) each."""
    return {layer: tf.concat([one[layer] for one in found], axis) for layer in found[0]}
