"""The optimisation: a generator of `Step` that knows no files and no logs."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import numpy as np
import tensorflow as tf

from daemon import images
from daemon.errors import Failure, JobError, Reason
from daemon.job import Losses, Painting, Step
from daemon.transfer import losses, pixels
from daemon.transfer.losses import Loss, Targets
from daemon.transfer.optimizers import OPTIMIZERS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from daemon.job import Picture
    from daemon.settings import Settings
    from daemon.transfer.optimizers import Optimizer
    from daemon.transfer.vgg19 import Vgg19

OBJECTIVES: Final = {"paper": losses.paper_objective}
_PICTURE: Final = tf.TensorSpec([1, None, None, 3], tf.float32)
_SCALAR: Final = tf.TensorSpec([], tf.float32)


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


class Program:
    """The network, objective and optimiser of one plan, each compiled once for pictures of every size."""

    def __init__(self, network: Vgg19, plan: Plan) -> None:
        """Compile lazily: the first call of each function traces it, no later one does."""
        self.plan = plan
        self.optimizer: Optimizer = OPTIMIZERS[plan.optimizer]
        self._network = network
        self._objective = OBJECTIVES[plan.objective]
        specs = [_PICTURE, self._target_specs()]
        self.content_features = tf.function(self._content_features, input_signature=[_PICTURE])
        self.style_grams = tf.function(self._style_grams, input_signature=[_PICTURE])
        self.loss = tf.function(self._loss, input_signature=specs)
        self.step = tf.function(self._step, input_signature=[*specs, self.optimizer.signature()])

    def _target_specs(self) -> Targets:
        features = tf.TensorSpec([1, None, None, None], tf.float32)
        gram = tf.TensorSpec([None, None], tf.float32)
        content, style = self.plan.content_layers, self.plan.style_layers
        return Targets(
            dict.fromkeys(content, features),
            dict.fromkeys(style, gram),
            dict.fromkeys(content, _SCALAR),
            dict.fromkeys(style, _SCALAR),
            _SCALAR,
            _SCALAR,
            _SCALAR,
        )

    def _content_features(self, image: Any) -> dict[str, Any]:
        return self._network.features(image, self.plan.content_layers, self.plan.pooling)

    def _style_grams(self, image: Any) -> dict[str, Any]:
        features = self._network.features(image, self.plan.style_layers, self.plan.pooling)
        return {layer: losses.gram_matrix(value) for layer, value in features.items()}

    def _loss(self, image: Any, targets: Targets) -> Loss:
        layers = {*self.plan.content_layers, *self.plan.style_layers}
        features = self._network.features(image, layers, self.plan.pooling)
        return self._objective(image, features, targets)

    def _step(self, image: Any, targets: Targets, state: Any) -> tuple[Loss, Any, Any]:
        """Return the loss of the given image, the moved image, and the optimiser's new state."""
        with tf.GradientTape() as tape:
            tape.watch(image)
            loss = self._loss(image, targets)
        gradient = tape.gradient(loss.total, image)
        moved, state = self.optimizer.update(image, gradient, state)
        return loss, pixels.clip(moved), state


class Painter:
    """A loaded network and the programs compiled on it so far, kept from job to job."""

    def __init__(self, network: Vgg19) -> None:
        """Start with nothing compiled."""
        self._network = network
        self._programs: dict[Plan, Program] = {}

    def program(self, settings: Settings) -> Program:
        """Get the program for some settings, compiled at most once."""
        plan = Plan.of(settings)
        if plan not in self._programs:
            self._programs[plan] = Program(self._network, plan)
        return self._programs[plan]

    def stylize(
        self,
        content: Picture,
        styles: Sequence[tuple[Picture, float]],
        settings: Settings,
        init: Picture | None = None,
        wants_picture: Callable[[int], bool] = lambda _: False,
    ) -> Iterator[Step]:
        """Paint the content in the blended styles, coarse to fine, and yield every step of the way.

        Args:
            content: (H, W, 3) uint8 RGB.
            styles: (H, W, 3) uint8 RGB each, with its share of the blend, one at least above 0.
            settings: the job's.
            init: the start picture where settings.init names a file.
            wants_picture: asked with each iteration whether its step should carry the picture.

        Yields:
            Steps 0 to n of each size, picture and losses paired; the last one carries the painting.

        Raises:
            JobError: a side would be too short for VGG19, or the loss is no number any more.
        """
        begun = time.perf_counter()
        program = self.program(settings)
        legs = _legs(content, settings)
        total = sum(leg.iterations for leg in legs)
        before, picture = 0, None
        for leg in legs:
            targets = _targets(program, content, styles, settings, leg)
            if picture is None:
                start = _start(content, styles, settings, init, leg)
            else:
                start = images.resize(picture, leg.height, leg.width)
            loop_begun = time.perf_counter()
            track = _Track(target_s=loop_begun - begun)
            for iteration, image, found in _descend(program, start, targets, settings, leg.iterations):
                track.see(iteration, image, found)
                is_last = before + iteration == total
                yield Step(
                    iteration=before + iteration,
                    iterations=total,
                    size_px=max(leg.height, leg.width),
                    losses=found,
                    elapsed_s=time.perf_counter() - begun,
                    picture=pixels.from_vgg(image) if wants_picture(before + iteration) else None,
                    painting=track.painting(before, time.perf_counter() - loop_begun) if is_last else None,
                )
            picture = pixels.from_vgg(track.best_image)
            before += leg.iterations


class _Leg(NamedTuple):
    """One size of the road."""

    height: int
    width: int
    iterations: int


class _Track:
    """What is remembered of one size: the first and last losses, and the best picture with its own."""

    def __init__(self, target_s: float) -> None:
        self._target_s = target_s
        self._losses: list[Losses] = []
        self._best = 0
        self.best_image: Any = None

    def see(self, iteration: int, image: Any, found: Losses) -> None:
        """Take in one picture with the losses computed on it."""
        self._losses.append(found)
        if self.best_image is None or found.total < self._losses[self._best].total:
            self.best_image, self._best = image, iteration

    def painting(self, before: int, loop_s: float) -> Painting:
        """Sum up; `before` is how many iterations the sizes before this one took."""
        return Painting(
            picture=pixels.from_vgg(self.best_image),
            best_iteration=before + self._best,
            first=self._losses[0],
            best=self._losses[self._best],
            last=self._losses[-1],
            target_s=self._target_s,
            loop_s=loop_s,
        )


def _legs(content: Picture, settings: Settings) -> list[_Leg]:
    """Turn the settings' road into sizes in pixels, leaving out coarse ones that are not coarser."""
    height, width = content.shape[:2]
    final = max(height, width) if settings.size == "original" else settings.size
    legs = []
    for size, iterations in settings.road[:-1]:
        if size != "original" and size < final:
            legs.append(_Leg(*images.fit(height, width, size), iterations))
    return [*legs, _Leg(*images.fit(height, width, final), settings.iterations)]


def _start(
    content: Picture,
    styles: Sequence[tuple[Picture, float]],
    settings: Settings,
    init: Picture | None,
    leg: _Leg,
) -> Picture:
    """Make the first picture of the road, (H, W, 3)."""
    if init is not None:
        return images.cover(init, leg.height, leg.width)
    if settings.init == "style":
        return images.cover(styles[0][0], leg.height, leg.width)
    if settings.init == "noise":
        random = np.random.default_rng(settings.seed)
        return random.integers(0, 256, (leg.height, leg.width, 3), np.uint8)
    return images.resize(content, leg.height, leg.width)


def _targets(
    program: Program,
    content: Picture,
    styles: Sequence[tuple[Picture, float]],
    settings: Settings,
    leg: _Leg,
) -> Targets:
    """Compute once what every step of one size compares with.

    Every style is scaled to the content's longest side and keeps its own aspect: a Gram matrix needs no equal
    shape. Several styles are blended as the weighted mean of their Gram matrices.
    """
    grams: dict[str, Any] = {}
    shares = _shares(dict(enumerate(weight for _, weight in styles)))
    for index, (style, _) in enumerate(styles):
        height, width = images.fit(style.shape[0], style.shape[1], max(leg.height, leg.width))
        image = pixels.to_vgg(images.resize(style, height, width))
        for layer, gram in program.style_grams(image).items():
            grams[layer] = grams.get(layer, 0.0) + shares[index] * gram
    scaled = pixels.to_vgg(images.resize(content, leg.height, leg.width))
    return Targets(
        content=program.content_features(scaled),
        style=grams,
        content_layers=_shares(settings.content_layers),
        style_layers=_shares(settings.style_layers),
        content_weight=tf.constant(settings.content_weight, tf.float32),
        style_weight=tf.constant(settings.style_weight, tf.float32),
        tv_weight=tf.constant(settings.tv_weight, tf.float32),
    )


def _shares(weights: dict[Any, float]) -> dict[Any, Any]:
    """Scale weights to sum to 1."""
    total = sum(weights.values())
    return {name: tf.constant(weight / total, tf.float32) for name, weight in weights.items()}


def _descend(
    program: Program, start: Picture, targets: Targets, settings: Settings, iterations: int
) -> Iterator[tuple[int, Any, Losses]]:
    """Yield (iteration, image, losses of that image) from the start to the picture after the last update.

    The paper's listing pairs the loss of the picture before an update with the picture after it; here they
    are of one picture, and so the last picture costs one forward run more.

    Raises:
        JobError: the loss is no number any more.
    """
    image = pixels.to_vgg(start)
    state = program.optimizer.start(image, settings.learning_rate)
    for iteration in range(iterations):
        loss, moved, state = program.step(image, targets, state)
        yield iteration, image, _losses(loss, iteration)
        image = moved
    yield iterations, image, _losses(program.loss(image, targets), iterations)


def _losses(loss: Loss, iteration: int) -> Losses:
    found = Losses(float(loss.total), float(loss.style), float(loss.content))
    if not math.isfinite(found.total):
        raise JobError(
            Failure(
                Reason.DIVERGED,
                f"the loss is {found.total} at iteration {iteration}",
                hint="lower learning_rate or the weights",
            )
        )
    return found
