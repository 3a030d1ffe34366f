"""Loss and gradient of a picture too large for memory: by tiles, with the statistics of the whole picture.

A tile is a core and a halo around it. The cores partition the picture, and so do their features at every layer;
the halo is what a core's features look at beyond the core. So the features of every core are those of the whole
picture, and what objectives see, sums over positions, is the sum over the cores. Every tile runs twice: forward
for the sums, and again for the gradient, once the whole picture's sums are known.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, NamedTuple

import tensorflow as tf

from daemon.transfer import losses
from daemon.transfer.backend.compile import PICTURE, SCALAR, compiled
from daemon.transfer.backend.tile_layout import Tile, borders, feature_px, halo_px, spans
from daemon.transfer.losses import Loss, Statistics, Targets

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Sequence

    from daemon.transfer.vgg19 import Vgg19

_FEATURES: Final = tf.TensorSpec([1, None, None, None], tf.float32)
_GRAM: Final = tf.TensorSpec([None, None], tf.float32)
_BORDERS: Final = tf.TensorSpec([4], tf.int32)


class Sums(NamedTuple):
    """What is summed over the cores of a picture."""

    statistics: Statistics  # before they are divided by the number of features
    down: Any  # (), squared differences of vertical neighbours
    right: Any  # (), squared differences of horizontal neighbours


class Tiled:
    """What a program computes of a picture, in the memory of one tile; the picture's own tensors come on top.

    Each function of a tile is compiled once for all sizes. The convolutions of a step are three passes over all
    tiles instead of two over the picture.
    """

    def __init__(
        self,
        network: Vgg19,
        content_layers: Sequence[str],
        style_layers: Sequence[str],
        pooling: str,
        objective: Callable[[Statistics, Targets], Loss],
        *,
        core_px: int,
    ) -> None:
        """Compile lazily: the first call of each function traces it, no later one does.

        Args:
            network: in any precision.
            content_layers: where the content is compared.
            style_layers: where the style is compared.
            pooling: max or avg.
            objective: out of `losses.OBJECTIVES`.
            core_px: the longest side of a core, a multiple of `GRID_PX`.
        """
        self._network = network
        self._content_layers, self._style_layers = tuple(content_layers), tuple(style_layers)
        self._pooling = pooling
        self._objective = objective
        self._core_px = core_px
        contents = dict.fromkeys(self._content_layers, _FEATURES)
        grams, errors = dict.fromkeys(self._style_layers, _GRAM), dict.fromkeys(self._content_layers, SCALAR)
        slopes = Sums(Statistics(grams, errors), SCALAR, SCALAR)
        tile = [PICTURE, _BORDERS]
        self._core_features = compiled(self._features_of_core, tile)
        self._core_grams = compiled(self._grams_of_core, tile)
        self._core_sums = compiled(self._sums_of_core, [*tile, contents])
        self._tile_gradient = compiled(self._gradient_of_tile, [*tile, contents, slopes])

    def content_features(self, image: Any) -> dict[str, Any]:
        """Compute what contents are compared with.

        Args:
            image: (1, H, W, 3) float32 BGR minus the mean, each side 16 px or more.

        Returns:
            layer -> (1, H / 2^(block - 1), W / 2^(block - 1), C) float32.
        """
        bands = [
            _joined([self._core_features(_cut(image, tile), borders(tile)) for tile in band], axis=2)
            for band in self._bands(image, self._content_layers)
        ]
        return _joined(bands, axis=1)

    def style_grams(self, image: Any) -> dict[str, Any]:
        """Compute the Gram matrices of (1, H, W, 3): layer -> (C, C) float32."""
        found = (
            self._core_grams(_cut(image, tile), borders(tile))
            for tile in self._tiles(image, self._style_layers)
        )
        sums = _added(found)
        return {layer: value / _positions(image, layer) for layer, value in sums.items()}

    def loss(self, image: Any, targets: Targets) -> Loss:
        """Compute the loss of (1, H, W, 3)."""
        found = self._measured(image, targets)
        return self._judged(found, targets)

    def loss_and_gradient(self, image: Any, targets: Targets) -> tuple[Loss, Any]:
        """Compute the loss of (1, H, W, 3) and the total's gradient, of the same shape."""
        found = self._measured(image, targets)
        with tf.GradientTape() as tape:
            tape.watch(found)
            loss = self._judged(found, targets)
        slopes = self._divided(image, targets, tape.gradient(loss.total, found))
        whole = tf.Variable(tf.zeros_like(image))
        for tile in self._tiles(image, self._layers):
            contents = _cut_contents(targets, tile)
            part = self._tile_gradient(_cut(image, tile), borders(tile), contents, slopes)
            region = whole[:, tile.rows.start : tile.rows.stop, tile.columns.start : tile.columns.stop]
            region.assign(region + part)  # in place: halos overlap
        return loss, whole.read_value()

    @property
    def _layers(self) -> tuple[str, ...]:
        return (*self._content_layers, *self._style_layers)

    def _bands(self, image: Any, layers: Collection[str]) -> list[list[Tile]]:
        """Cover a picture: the tiles of every band from left to right, the bands from top to bottom."""
        _, height, width, _ = image.shape
        halo = halo_px(layers)
        columns = spans(width, self._core_px, halo)
        return [[Tile(rows, span) for span in columns] for rows in spans(height, self._core_px, halo)]

    def _tiles(self, image: Any, layers: Collection[str]) -> list[Tile]:
        return [tile for band in self._bands(image, layers) for tile in band]

    def _judged(self, found: Sums, targets: Targets) -> Loss:
        """Weigh and sum what was measured of the whole picture."""
        loss = self._objective(found.statistics, targets)
        return loss._replace(total=loss.total + targets.tv_weight * (found.down + found.right))

    def _measured(self, image: Any, targets: Targets) -> Sums:
        """Measure the whole picture: means over all cores."""
        found = (
            self._core_sums(_cut(image, tile), borders(tile), _cut_contents(targets, tile))
            for tile in self._tiles(image, self._layers)
        )
        return self._divided(image, targets, _added(found))

    def _divided(self, image: Any, targets: Targets, sums: Sums) -> Sums:
        """Divide every sum by what it is summed over; so do its slopes, by the chain rule."""
        _, height, width, channels = image.shape
        (grams, errors), down, right = sums
        return Sums(
            Statistics(
                {layer: value / _positions(image, layer) for layer, value in grams.items()},
                {layer: value / tf.size(targets.content[layer], tf.float32) for layer, value in errors.items()},
            ),
            down / ((height - 1) * width * channels),
            right / (height * (width - 1) * channels),
        )

    def _features_of_core(self, tile: Any, edges: Any) -> dict[str, Any]:
        return self._run(tile, edges, self._content_layers)

    def _grams_of_core(self, tile: Any, edges: Any) -> dict[str, Any]:
        features = self._run(tile, edges, self._style_layers)
        return {layer: losses.correlated(value) for layer, value in features.items()}

    def _sums_of_core(self, tile: Any, edges: Any, contents: dict[str, Any]) -> Sums:
        """Measure a core."""
        features = self._run(tile, edges, self._layers)
        found = Statistics(
            {layer: losses.correlated(features[layer]) for layer in self._style_layers},
            {
                layer: tf.reduce_sum(tf.math.squared_difference(features[layer], wanted))
                for layer, wanted in contents.items()
            },
        )
        return Sums(found, *_variation(tile, edges))

    def _gradient_of_tile(self, tile: Any, edges: Any, contents: dict[str, Any], slopes: Sums) -> Any:
        """Compute what a core adds to the whole gradient, within its tile; slopes are those of the total."""
        with tf.GradientTape() as tape:
            tape.watch(tile)
            sums = self._sums_of_core(tile, edges, contents)
        return tape.gradient(sums, tile, output_gradients=slopes)

    def _run(self, tile: Any, edges: Any, layers: Collection[str]) -> dict[str, Any]:
        """Run the network on a tile and keep the core's features."""
        features = self._network.features(tile, layers, self._pooling)
        return {layer: _core(value, layer, edges) for layer, value in features.items()}


def _variation(tile: Any, edges: Any) -> tuple[Any, Any]:
    """Sum the squared differences of a core's pixels and their neighbours: `losses.total_variation`.

    The neighbours below and to the right of the core lie in the halo; at the picture's border there are none.
    """
    top, bottom, left, right = tf.unstack(edges)
    tall, wide = tile[:, top : bottom + 1, left:right], tile[:, top:bottom, left : right + 1]
    return (
        tf.reduce_sum(tf.math.squared_difference(tall[:, 1:], tall[:, :-1])),
        tf.reduce_sum(tf.math.squared_difference(wide[:, :, 1:], wide[:, :, :-1])),
    )


def _core(features: Any, layer: str, edges: Any) -> Any:
    """Cut the core out of a tile's features."""
    top, bottom, left, right = tf.unstack(edges // feature_px(layer))
    return features[:, top:bottom, left:right]


def _cut(image: Any, tile: Tile) -> Any:
    rows, columns = tile
    return image[:, rows.start : rows.stop, columns.start : columns.stop]


def _cut_contents(targets: Targets, tile: Tile) -> dict[str, Any]:
    """Cut the core out of every content layer's whole features."""
    (_, top, bottom, _), (_, left, right, _) = tile
    cut = {}
    for layer, features in targets.content.items():
        px = feature_px(layer)
        cut[layer] = features[:, top // px : bottom // px, left // px : right // px]
    return cut


def _positions(image: Any, layer: str) -> int:
    """Count the features of a whole picture, (1, H, W, 3), at a layer."""
    _, height, width, _ = image.shape
    return int(height // feature_px(layer) * (width // feature_px(layer)))


def _added(found: Iterable[Any]) -> Any:
    """Sum equal structures of tensors, one after the other."""
    total: Any = None
    for one in found:
        total = one if total is None else tf.nest.map_structure(tf.add, total, one)
    return total


def _joined(found: Sequence[dict[str, Any]], axis: int) -> dict[str, Any]:
    """Put the features of neighbours beside each other."""
    return {layer: tf.concat([one[layer] for one in found], axis) for layer in found[0]}
