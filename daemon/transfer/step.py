"""One step of the descent, compiled once for all sizes: features, losses, gradient, update, clip."""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import tensorflow as tf

from daemon.transfer import losses, pixels
from daemon.transfer.backend import footprint
from daemon.transfer.backend.tensors import FEATURES, GRID, MATRIX, PICTURE, SCALAR, compiled
from daemon.transfer.backend.tile_layout import regional
from daemon.transfer.losses import Compared, Loss, Match, Statistics, Targets
from daemon.transfer.optimizers import OPTIMIZERS
from daemon.transfer.tiles import Tiles

if TYPE_CHECKING:
    from daemon.settings import Settings
    from daemon.transfer import Tensor
    from daemon.transfer.backend.tile_layout import TileSize
    from daemon.transfer.optimizers import Optimizer
    from daemon.transfer.vgg19 import Vgg19


@dataclass(frozen=True)
class Method:
    """The settings that shape the compiled graph; all other values go in as tensors."""

    content_layers: tuple[str, ...]
    style_layers: tuple[str, ...]
    match_layers: tuple[str, ...]  # of the relaxed earth mover's distance; () without it
    pooling: str
    objective: str
    optimizer: str
    protects: bool = False  # some places of the content count more
    regions: int = 0  # compared with styles of their own; 0: the picture as a whole

    @classmethod
    def of(cls, settings: Settings, *, protects: bool = False, regions: int = 0) -> Method:
        """Pick them from a job's settings."""
        return cls(
            tuple(settings.content_layers),
            tuple(settings.style_layers),
            settings.match_layers,
            settings.pooling,
            settings.objective,
            settings.optimizer,
            protects,
            regions,
        )


class _Step:
    """The parts that do not depend on how a picture is computed."""

    core_px: int | None = None  # of the tiles; None: in one piece

    def __init__(self, network: Vgg19, method: Method) -> None:
        self.network = network
        self.method = method
        self.optimizer: Optimizer = OPTIMIZERS[method.optimizer]
        self._objective = losses.OBJECTIVES[method.objective]

    def damped(self, image: Tensor, state: Any) -> tuple[Tensor, Any]:
        """Replace the last update from an image by a smaller one; see `Optimizer.damped`."""
        moved, state = self.optimizer.damped(image, state)
        return pixels.clip(moved), state

    def _moved(self, image: Tensor, gradient: Tensor, loss: Loss, state: Any) -> tuple[Tensor, Any]:
        moved, state = self.optimizer.update(image, gradient, loss.total, state)
        return pixels.clip(moved), state  # (1, H, W, 3)


class WholeStep(_Step):
    """A step of a picture in one piece. The first call of each function traces it, no later one does."""

    def __init__(self, network: Vgg19, method: Method) -> None:
        """Compile lazily."""
        super().__init__(network, method)
        specs = [PICTURE, _target_specs(method, network.precision)]
        self.content_features = compiled(self._content_features, [PICTURE])
        style = Compared({}, {}, dict.fromkeys(method.match_layers, GRID))  # it is sampled only
        masked = style._replace(guides=dict.fromkeys(method.style_layers, FEATURES))
        self.style_statistics = compiled(self._statistics, [PICTURE, style])
        self.masked_statistics = compiled(self._statistics, [PICTURE, masked])
        self.loss = compiled(self._loss, specs)
        self.step = compiled(self._step, [*specs, self.optimizer.signature()])

    def _step(self, image: Tensor, targets: Targets, state: Any) -> tuple[Loss, Tensor, Any]:
        """Return the loss of the image, the moved image, and the optimizer's new state."""
        with tf.GradientTape() as tape:
            tape.watch(image)  # (1, H, W, 3)
            loss = self._objective(self._statistics(image, targets.compared), targets)  # () each
        gradient = tape.gradient(loss.total, image)  # (1, H, W, 3)
        moved, state = self._moved(image, gradient, loss, state)  # (1, H, W, 3)
        return guarded(image, loss), moved, state

    def _loss(self, image: Tensor, targets: Targets) -> Loss:
        return guarded(image, self._objective(self._statistics(image, targets.compared), targets))

    def _statistics(self, image: Tensor, compared: Compared) -> Statistics:
        style_layers = compared.guides or self.method.style_layers
        layers = {*compared.content, *style_layers, *compared.grids}
        features = self.network.features(image, layers, self.method.pooling)  # layer -> (1, H', W', C)
        return losses.statistics(image, features, style_layers, compared)

    def _content_features(self, image: Tensor) -> dict[str, Tensor]:  # layer -> (1, H', W', C)
        return self.network.features(image, self.method.content_layers, self.method.pooling)


class TiledStep(_Step):
    """The same step in the memory of one tile: the same picture, in more time."""

    def __init__(self, network: Vgg19, method: Method, core_px: int) -> None:
        """Compile lazily; see `Tiles`."""
        super().__init__(network, method)
        self.core_px = core_px
        features = functools.partial(network.features, pooling=method.pooling)
        self._tiles = Tiles(features, method.style_layers, _compared_specs(method), core_px)
        self.content_features = self._tiles.content_features
        self.style_statistics = self.masked_statistics = self._tiles.means
        self._update = compiled(
            self._moved, [PICTURE, PICTURE, Loss(SCALAR, SCALAR, SCALAR), self.optimizer.signature()]
        )

    def step(self, image: Tensor, targets: Targets, state: Any) -> tuple[Loss, Tensor, Any]:
        """Return the loss of the image, the moved image, and the optimizer's new state."""
        means = self._tiles.means(image, targets.compared)  # forward, tile by tile
        with tf.GradientTape() as tape:
            tape.watch(means)
            loss = self._objective(means, targets)  # () each
        upstream = tape.gradient(loss.total, means)
        gradient = self._tiles.gradient(image, targets.compared, upstream)  # (1, H, W, 3); forward and backward
        footprint.trim()  # the update needs the room that the tiles took
        moved, state = self._update(image, gradient, loss, state)  # (1, H, W, 3)
        return guarded(image, loss), moved, state

    def loss(self, image: Tensor, targets: Targets) -> Loss:
        """Compute the loss of (1, H, W, 3)."""
        return guarded(image, self._objective(self._tiles.means(image, targets.compared), targets))


Step = WholeStep | TiledStep


def make(network: Vgg19, method: Method, tile_size: TileSize) -> Step:
    """Make the step that computes a picture in one piece or by tiles."""
    if tile_size.core_px is None:
        return WholeStep(network, method)
    return TiledStep(network, method, tile_size.core_px)


def _compared_specs(method: Method) -> Compared:
    contents = dict.fromkeys(method.content_layers, FEATURES)
    grids = dict.fromkeys(regional(method.match_layers, method.regions), GRID)
    guides = dict.fromkeys(regional(method.style_layers, method.regions), FEATURES) if method.regions else {}
    return Compared(contents, contents if method.protects else {}, grids, guides)


def _target_specs(method: Method, precision: str) -> Targets:
    compared, styles = _compared_specs(method), regional(method.style_layers, method.regions)
    vector, style = tf.TensorSpec([None], tf.float32), tf.TensorSpec([None, None], precision)
    return Targets(
        content=compared.content,
        importance=compared.importance,
        style=dict.fromkeys(styles, MATRIX),
        match={layer: Match(vector, style, grid, vector) for layer, grid in compared.grids.items()},
        content_layers=dict.fromkeys(method.content_layers, SCALAR),
        style_layers=dict.fromkeys(styles, SCALAR),
        match_layers=dict.fromkeys(compared.grids if compared.guides else (), SCALAR),
        content_weight=SCALAR,
        style_weight=SCALAR,
        match_weight=SCALAR,
        tv_weight=SCALAR,
        guides=compared.guides,
    )


def guarded(image: Tensor, loss: Loss) -> Loss:
    """Make the total NaN if the image holds NaN or infinity, which a ReLU or a clip may hide."""
    is_finite = tf.reduce_all(tf.math.is_finite(image))  # (1, H, W, 3) -> ()
    return loss._replace(total=tf.where(is_finite, loss.total, math.nan))
