"""What is compiled: network, objective and optimiser of one plan, traced once for pictures of every size."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import tensorflow as tf

from daemon.transfer import losses, pixels
from daemon.transfer.backend import device
from daemon.transfer.backend.compile import PICTURE, SCALAR, compiled
from daemon.transfer.backend.tiles import Tiled
from daemon.transfer.losses import Loss, Targets
from daemon.transfer.optimizers import OPTIMIZERS

if TYPE_CHECKING:
    from daemon.settings import Settings
    from daemon.transfer.optimizers import Optimizer
    from daemon.transfer.vgg19 import Vgg19


@dataclass(frozen=True)
class Plan:
    """What shapes a compiled step; everything else goes in as tensors."""

    content_layers: tuple[str, ...]
    style_layers: tuple[str, ...]
    pooling: str
    objective: str
    optimizer: str

    @classmethod
    def of(cls, settings: Settings) -> Plan:
        """Pick the shaping settings."""
        return cls(
            tuple(settings.content_layers),
            tuple(settings.style_layers),
            settings.pooling,
            settings.objective,
            settings.optimizer,
        )


class _Planned:
    """What every program of a plan has, however it computes a picture."""

    core_px: int | None = None  # of the tiles; None: in one piece

    def __init__(self, network: Vgg19, plan: Plan) -> None:
        self.plan = plan
        self.optimizer: Optimizer = OPTIMIZERS[plan.optimizer]
        self.network = network

    def _moved(self, image: Any, gradient: Any, loss: Any, state: Any) -> tuple[Any, Any]:
        moved, state = self.optimizer.update(image, gradient, loss, state)
        return pixels.clip(moved), state

    def damped(self, image: Any, state: Any) -> tuple[Any, Any]:
        """Return what a smaller step from an image leads to; see `Optimizer.damped`."""
        moved, state = self.optimizer.damped(image, state)
        return pixels.clip(moved), state


class Program(_Planned):
    """The functions of one plan. The first call of each traces it, no later one does."""

    def __init__(self, network: Vgg19, plan: Plan) -> None:
        """Compile lazily."""
        super().__init__(network, plan)
        self._objective = losses.OBJECTIVES[plan.objective]
        specs = [PICTURE, self._target_specs()]
        self.content_features = compiled(self._content_features, [PICTURE])
        self.style_grams = compiled(self._style_grams, [PICTURE])
        self.loss = compiled(self._loss, specs)
        self.step = compiled(self._step, [*specs, self.optimizer.signature()])

    def _target_specs(self) -> Targets:
        features = tf.TensorSpec([1, None, None, None], tf.float32)
        gram = tf.TensorSpec([None, None], tf.float32)
        content, style = self.plan.content_layers, self.plan.style_layers
        return Targets(
            dict.fromkeys(content, features),
            dict.fromkeys(style, gram),
            dict.fromkeys(content, SCALAR),
            dict.fromkeys(style, SCALAR),
            SCALAR,
            SCALAR,
            SCALAR,
        )

    def _content_features(self, image: Any) -> dict[str, Any]:
        return self.network.features(image, self.plan.content_layers, self.plan.pooling)

    def _style_grams(self, image: Any) -> dict[str, Any]:
        features = self.network.features(image, self.plan.style_layers, self.plan.pooling)
        return {layer: losses.gram_matrix(value) for layer, value in features.items()}

    def _objective_of(self, image: Any, targets: Targets) -> Loss:
        layers = {*self.plan.content_layers, *self.plan.style_layers}
        features = self.network.features(image, layers, self.plan.pooling)
        loss = self._objective(losses.statistics(features, targets), targets)
        return loss._replace(total=loss.total + targets.tv_weight * losses.total_variation(image))

    def _loss(self, image: Any, targets: Targets) -> Loss:
        return _guarded(image, self._objective_of(image, targets))

    def _step(self, image: Any, targets: Targets, state: Any) -> tuple[Loss, Any, Any]:
        """Return the loss of the given image, the moved image, and the optimiser's new state."""
        with tf.GradientTape() as tape:
            tape.watch(image)
            loss = self._objective_of(image, targets)
        gradient = tape.gradient(loss.total, image)
        moved, state = self._moved(image, gradient, loss.total, state)
        return _guarded(image, loss), moved, state


def _guarded(image: Any, loss: Loss) -> Loss:
    """Make the total NaN where the image holds NaN or infinities, which a ReLU or a clip may hide."""
    is_finite = tf.reduce_all(tf.math.is_finite(image))
    return loss._replace(total=tf.where(is_finite, loss.total, math.nan))


class TiledProgram(_Planned):
    """The same functions in the memory of one tile, for the same picture at the cost of more time."""

    def __init__(self, network: Vgg19, plan: Plan, core_px: int) -> None:
        """Compile lazily; see `tiles.Tiled`."""
        super().__init__(network, plan)
        self.core_px = core_px
        objective = losses.OBJECTIVES[plan.objective]
        self._tiled = Tiled(
            network, plan.content_layers, plan.style_layers, plan.pooling, objective, core_px=core_px
        )
        self.content_features = self._tiled.content_features
        self.style_grams = self._tiled.style_grams
        specs = [PICTURE, PICTURE, SCALAR, self.optimizer.signature()]
        self._update = compiled(self._moved, specs)

    def loss(self, image: Any, targets: Targets) -> Loss:
        """Compute the loss of (1, H, W, 3)."""
        return _guarded(image, self._tiled.loss(image, targets))

    def step(self, image: Any, targets: Targets, state: Any) -> tuple[Loss, Any, Any]:
        """Return the loss of the given image, the moved image, and the optimiser's new state."""
        loss, gradient = self._tiled.loss_and_gradient(image, targets)
        device.trim()  # the update needs the room that the tiles took
        moved, state = self._update(image, gradient, loss.total, state)
        return _guarded(image, loss), moved, state


AnyProgram = Program | TiledProgram
