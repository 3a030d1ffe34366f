"""The optimisation: a generator of `Step` that knows no files and no logs."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, replace
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

    import numpy.typing as npt

    from daemon.job import Picture
    from daemon.settings import Settings
    from daemon.transfer.optimizers import Optimizer
    from daemon.transfer.vgg19 import Vgg19

MAX_STEPS_BACK: Final = 1
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
        self._objective = losses.OBJECTIVES[plan.objective]
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

    def _objective_of(self, image: Any, targets: Targets) -> Loss:
        layers = {*self.plan.content_layers, *self.plan.style_layers}
        features = self._network.features(image, layers, self.plan.pooling)
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
        moved, state = self.optimizer.update(image, gradient, state)
        return _guarded(image, loss), pixels.clip(moved), state


def _guarded(image: Any, loss: Loss) -> Loss:
    """Make the total NaN where the image holds NaN or infinities, which a ReLU or a clip may hide."""
    is_finite = tf.reduce_all(tf.math.is_finite(image))
    return loss._replace(total=tf.where(is_finite, loss.total, math.nan))


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

    def begin(
        self,
        content: Picture,
        styles: Sequence[tuple[Picture, float]],
        settings: Settings,
        *,
        init: Picture | None = None,
        wants_picture: Callable[[int], bool] = lambda _: False,
        resumed: Checkpoint | None = None,
    ) -> Run:
        """Prepare to paint the content in the blended styles, coarse to fine.

        Args:
            content: (H, W, 3) uint8 RGB.
            styles: (H, W, 3) uint8 RGB each, with its share of the blend, one at least above 0.
            settings: the job's.
            init: the start picture where settings.init names a file.
            wants_picture: asked with each iteration whether its step should carry the picture.
            resumed: where an earlier run of the same job had come.

        Raises:
            JobError: a side would be too short for VGG19.
        """
        program = self.program(settings)
        return Run(program, content, styles, settings, init=init, wants_picture=wants_picture, resumed=resumed)


@dataclass(frozen=True)
class Checkpoint:
    """One picture of the way and everything that the next one depends on.

    It is of a picture whose loss was computed and is a number, so it is a good place to go back to as well.
    Nothing in the loop is random: the seed shapes the start alone.
    """

    leg: int  # which size
    iteration: int  # of this size
    image: npt.NDArray[np.float32]  # (1, H, W, 3), the picture of that iteration
    state: tuple[npt.NDArray[np.float32], ...]  # the optimiser's, before it moves that picture
    best_image: npt.NDArray[np.float32]  # (1, H, W, 3), the best one of this size
    best_row: int  # where the table has it
    leg_row: int  # where this size begins in the table
    leg_begun_s: float
    steps_back: int
    rows: npt.NDArray[np.float64]  # (n, 6): iteration, size_px, total, style, content, elapsed_s


class Run:
    """One picture being painted: an iterator of steps whose whole state can be taken between two of them."""

    def __init__(
        self,
        program: Program,
        content: Picture,
        styles: Sequence[tuple[Picture, float]],
        settings: Settings,
        *,
        init: Picture | None,
        wants_picture: Callable[[int], bool],
        resumed: Checkpoint | None,
    ) -> None:
        """See `Painter.begin`."""
        self._begun = time.perf_counter()
        self._program = program
        self._content, self._styles, self._init = content, styles, init
        self._settings = settings
        self._wants_picture = wants_picture
        self._legs = _legs(content, settings)
        self._total = sum(leg.iterations for leg in self._legs)
        self._leg = self._iteration = self._best_row = self._leg_row = self._steps_back = 0
        self._image: Any = None  # (1, H, W, 3)
        self._best_image: Any = None  # (1, H, W, 3), of this size
        self._state: Any = None  # the optimiser's, before it moves the image
        self._leg_begun_s = 0.0
        self._rows: list[Step] = []
        self._resumed = resumed

    def checkpoint(self) -> Checkpoint:
        """Take the state at the step that was yielded last."""
        rows = [(row.iteration, row.size_px, *vars(row.losses).values(), row.elapsed_s) for row in self._rows]
        return Checkpoint(
            leg=self._leg,
            iteration=self._iteration,
            image=self._image.numpy(),
            state=tuple(np.asarray(part) for part in tf.nest.flatten(self._state)),
            best_image=self._best_image.numpy(),
            best_row=self._best_row,
            leg_row=self._leg_row,
            leg_begun_s=self._leg_begun_s,
            steps_back=self._steps_back,
            rows=np.asarray(rows, np.float64),
        )

    def steps(self) -> Iterator[Step]:
        """Yield every step of the way; those that a checkpoint knows come again from the record.

        Yields:
            Steps 0 to n of each size, picture and losses paired; the last one carries the painting.

        Raises:
            JobError: the loss was no number twice.
        """
        if self._resumed is not None:
            yield from self._replay(self._resumed)
            yield from self._descend(self._targets())
            self._leg += 1
        while self._leg < len(self._legs):
            targets = self._targets()
            self._enter()
            yield from self._descend(targets)
            self._leg += 1

    def _replay(self, known: Checkpoint) -> Iterator[Step]:
        for iteration, size_px, total, style, content, elapsed_s in known.rows.tolist():
            row = Step(
                iteration=int(iteration),
                iterations=self._total,
                size_px=int(size_px),
                losses=Losses(total, style, content),
                elapsed_s=elapsed_s,
                is_replayed=True,
                steps_back=known.steps_back,
            )
            self._rows.append(row)
            yield row
        self._leg, self._iteration = known.leg, known.iteration
        self._image, self._best_image = tf.constant(known.image), tf.constant(known.best_image)
        parts = [tf.constant(part) for part in known.state]
        self._state = tf.nest.pack_sequence_as(self._program.optimizer.signature(), parts)
        self._best_row, self._leg_row, self._steps_back = known.best_row, known.leg_row, known.steps_back
        self._leg_begun_s = known.leg_begun_s
        self._begun = time.perf_counter() - self._rows[-1].elapsed_s

    def _targets(self) -> Targets:
        return _targets(self._program, self._content, self._styles, self._settings, self._legs[self._leg])

    def _enter(self) -> None:
        """Begin a size: with the first picture, or the best one of the size before."""
        leg = self._legs[self._leg]
        if self._best_image is None:
            start = _start(self._content, self._styles, self._settings, self._init, leg)
        else:
            start = images.resize(pixels.from_vgg(self._best_image), leg.height, leg.width)
        self._image, self._best_image = pixels.to_vgg(start), None
        self._state = self._program.optimizer.start(self._image, self._settings.learning_rate)
        self._iteration, self._leg_row = -1, len(self._rows)
        self._leg_begun_s = time.perf_counter() - self._begun

    def _descend(self, targets: Targets) -> Iterator[Step]:
        """Yield the steps of one size, up to the picture after its last update.

        The paper's listing pairs the loss of the picture before an update with the picture after it; here they
        are of one picture, and so the last picture costs one forward run more.
        """
        last = self._legs[self._leg].iterations
        image, state = self._image, self._state
        if 0 <= self._iteration < last:  # known already: only the way from here is computed again
            _, image, state = self._program.step(image, targets, state)
        while self._iteration < last:
            is_last = self._iteration + 1 == last
            if is_last:
                loss, moved, next_state = self._program.loss(image, targets), None, None
            else:
                loss, moved, next_state = self._program.step(image, targets, state)
            found = Losses(float(loss.total), float(loss.style), float(loss.content))
            if not math.isfinite(found.total):
                image, state = self._step_back(targets, found)
                continue
            self._image, self._state = image, state
            self._iteration += 1
            yield self._judge(found)
            image, state = moved, next_state

    def _step_back(self, targets: Targets, found: Losses) -> tuple[Any, Any]:
        """Take another, smaller step from the last good picture.

        Raises:
            JobError: there was none, or it is the second time.
        """
        self._steps_back += 1
        if self._iteration < 0 or self._steps_back > MAX_STEPS_BACK:
            raise JobError(
                Failure(
                    Reason.DIVERGED,
                    f"the loss is {found.total} at iteration {self._before + self._iteration + 1}",
                    hint="lower learning_rate or the weights",
                ),
                pixels.from_vgg(self._image),
            )
        _, image, state = self._program.step(self._image, targets, self._program.optimizer.damped(self._state))
        return image, state

    @property
    def _before(self) -> int:
        """The iterations of the sizes before this one."""
        return sum(leg.iterations for leg in self._legs[: self._leg])

    def _judge(self, found: Losses) -> Step:
        """Take in the current picture with the losses computed on it."""
        leg = self._legs[self._leg]
        iteration = self._before + self._iteration
        if self._best_image is None or found.total < self._rows[self._best_row].losses.total:
            self._best_image, self._best_row = self._image, len(self._rows)
        row = Step(
            iteration=iteration,
            iterations=self._total,
            size_px=max(leg.height, leg.width),
            losses=found,
            elapsed_s=time.perf_counter() - self._begun,
            steps_back=self._steps_back,
        )
        self._rows.append(row)
        is_last = iteration == self._total
        return replace(
            row,
            picture=pixels.from_vgg(self._image) if self._wants_picture(iteration) else None,
            painting=self._painting() if is_last else None,
        )

    def _painting(self) -> Painting:
        best, last = self._rows[self._best_row], self._rows[-1]
        return Painting(
            picture=pixels.from_vgg(self._best_image),
            best_iteration=best.iteration,
            first=self._rows[self._leg_row].losses,
            best=best.losses,
            last=last.losses,
            target_s=self._leg_begun_s,
            loop_s=last.elapsed_s - self._leg_begun_s,
            steps_back=self._steps_back,
        )


class _Leg(NamedTuple):
    """One size of the road."""

    height: int
    width: int
    iterations: int


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
