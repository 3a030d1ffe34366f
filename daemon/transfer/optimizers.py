"""How a picture is moved downhill: pure functions of tensors, so that they live inside the compiled step.

An optimiser is a `signature` (the specs of its state), a `start` and an `update`; `damped` alone, which is for
numbers that ran away, is computed outside. Its state is a nest of tensors that leaves the step and goes into
the next one; everything that may differ from job to job is in it.
"""

from __future__ import annotations

from typing import Any, Final, NamedTuple, Protocol

import numpy as np
import tensorflow as tf

from daemon.transfer import optimizer_memory
from daemon.transfer.backend.compile import PICTURE, SCALAR

DAMPING: Final = 0.1


class Optimizer(Protocol):
    """What the step needs of an optimiser."""

    def signature(self) -> Any:
        """Give the specs of the state's tensors, the same for every picture size."""

    def start(self, image: Any, learning_rate: float) -> Any:
        """Make the state before the first update."""

    def update(self, image: Any, gradient: Any, loss: Any, state: Any) -> tuple[Any, Any]:
        """Return the moved image and the new state, given the gradient and the loss of the image."""

    def damped(self, image: Any, state: Any) -> tuple[Any, Any]:
        """Take a smaller step, and smaller ones from then on, in place of an update that led nowhere.

        Args:
            image: which the update moved. What the state holds may be of an earlier one, where the update took
                a step back itself; then that is gone on from.
            state: which it left.

        Returns:
            As `update`.
        """

    def restart(self, state: Any) -> str:
        """Say why the update that led to this state began afresh; empty where it did not."""


class AdamState(NamedTuple):
    """Adam's memory."""

    learning_rate: Any  # ()
    count: Any  # (), updates made
    mean: Any  # (1, H, W, 3), first moment
    square: Any  # (1, H, W, 3), second moment


class Adam:
    """Kingma & Ba (2015), in the order of computation of their section 2's last paragraph.

    There epsilon is added to the square root *before* its bias is corrected, as TensorFlow's Adam does; with
    the paper's epsilon of 0.1 this matters.
    """

    beta_1: Final = 0.99
    beta_2: Final = 0.999
    epsilon: Final = 0.1

    def signature(self) -> AdamState:
        """Give the specs of the state's tensors."""
        return AdamState(SCALAR, SCALAR, PICTURE, PICTURE)

    def start(self, image: Any, learning_rate: float) -> AdamState:
        """Make the state before the first update."""
        rate = tf.constant(learning_rate, tf.float32)
        zeros = tf.zeros_like(image)
        return AdamState(rate, tf.constant(0.0), zeros, zeros)

    def update(self, image: Any, gradient: Any, loss: Any, state: AdamState) -> tuple[Any, AdamState]:  # noqa: ARG002
        """Move the image one step, of about the learning rate in every pixel."""
        count = state.count + 1
        mean = self.beta_1 * state.mean + (1 - self.beta_1) * gradient
        square = self.beta_2 * state.square + (1 - self.beta_2) * tf.square(gradient)
        return self._move(image, AdamState(state.learning_rate, count, mean, square))

    def _move(self, image: Any, state: AdamState) -> tuple[Any, AdamState]:
        correction = tf.sqrt(1 - self.beta_2**state.count) / (1 - self.beta_1**state.count)
        step = state.learning_rate * correction * state.mean / (tf.sqrt(state.square) + self.epsilon)
        return image - step, state

    def damped(self, image: Any, state: AdamState) -> tuple[Any, AdamState]:
        """Take the step again with a tenth of the learning rate, which stays so."""
        return self._move(image, state._replace(learning_rate=state.learning_rate * DAMPING))

    def restart(self, state: AdamState) -> str:  # noqa: ARG002
        """Say nothing: it never begins afresh."""
        return ""


_LEAST: Final = 1e-30
_UNKNOWN: Final = np.zeros((1, 1, 1, 3), np.float32)  # NumPy's: an import must not touch a device
_NONE: Final = np.float32(0)
_INFINITE: Final = np.float32(np.inf)


class LbfgsState(NamedTuple):
    """The memory of L-BFGS: the newest pair first. What is not known yet is one pixel.

    A pair is a tensor of its own, so that a new one moves the others along without a copy.
    """

    image: Any  # (1, H, W, 3), of the update before
    gradient: Any  # (1, H, W, 3), at that image
    loss: Any  # (), of that image
    moves: tuple[Any, ...]  # s: (1, H, W, 3) each
    turns: tuple[Any, ...]  # y, the gradient's change along s: (1, H, W, 3) each
    curvatures: tuple[Any, ...]  # s·y: () each, 0 of a pair that is not known
    first_px: Any  # (), grey levels that the first step moves the pixel that moves most
    cause: Any  # (), why this update began afresh, an index into `RESTARTS`


RESTARTS: Final = ("", "the loss doubled", "the direction led uphill", "the loss has no slope")


class Lbfgs:
    """Limited-memory BFGS without a line search: Nocedal & Wright (2006), algorithms 7.4 and 7.5.

    A step of length 1 is nearly always a good one here, and an evaluation costs as much as a step, so there is
    nothing for a line search to win; under bfloat16's noise its conditions often cannot be met at all. What
    takes its place: a pair whose curvature is not clearly positive is passed over, and a step that doubled the
    loss is taken back and the memory begun afresh.
    """

    history: Final = optimizer_memory.HISTORY
    large_history: Final = optimizer_memory.LARGE_HISTORY
    large_px: Final = optimizer_memory.LARGE_PX
    first_px: Final = 2.0
    least_curvature: Final = 1e-8  # s·y over |s||y|
    rise: Final = 2.0

    def signature(self) -> LbfgsState:
        """Give the specs of the state's tensors."""
        pictures, scalars = (PICTURE,) * self.history, (SCALAR,) * self.history
        return LbfgsState(PICTURE, PICTURE, SCALAR, pictures, pictures, scalars, SCALAR, SCALAR)

    def start(self, image: Any, learning_rate: float) -> LbfgsState:  # noqa: ARG002
        """Make the state before the first update."""
        return self._empty(_UNKNOWN, _UNKNOWN, _INFINITE, np.float32(self.first_px), _NONE)

    def _empty(self, image: Any, gradient: Any, loss: Any, first_px: Any, cause: Any) -> LbfgsState:
        unknown, none = (_UNKNOWN,) * self.history, (_NONE,) * self.history
        state = LbfgsState(image, gradient, loss, unknown, unknown, none, first_px, cause)
        return tf.nest.map_structure(tf.convert_to_tensor, state)  # type: ignore[no-any-return]

    def update(self, image: Any, gradient: Any, loss: Any, state: LbfgsState) -> tuple[Any, LbfgsState]:
        """Move the image one step; a step that doubled the loss is taken back instead."""
        return tf.cond(  # type: ignore[no-any-return]
            loss > self.rise * state.loss,
            lambda: self._back(state, tf.constant(np.float32(1))),
            lambda: self._onward(image, gradient, loss, state),
        )

    def _back(self, state: LbfgsState, cause: Any) -> tuple[Any, LbfgsState]:
        """Take a short step down the slope from the image before, and begin the memory afresh."""
        first_px = DAMPING * state.first_px
        moved = state.image + _steepest(state.gradient, first_px)
        return moved, self._empty(state.image, state.gradient, state.loss, first_px, cause)

    def _onward(self, image: Any, gradient: Any, loss: Any, state: LbfgsState) -> tuple[Any, LbfgsState]:
        state = self._remembering(image, gradient, loss, state)
        direction = self._direction(state)
        return tf.cond(  # type: ignore[no-any-return]
            _dot(direction, gradient) < 0,
            lambda: (image + direction, state),
            lambda: self._afresh(image, gradient, loss, state.first_px),
        )

    def _afresh(self, image: Any, gradient: Any, loss: Any, first_px: Any) -> tuple[Any, LbfgsState]:
        """Go straight down from where it is; nowhere, where nothing slopes."""
        cause = tf.where(tf.reduce_all(gradient == 0), np.float32(3), np.float32(2))
        return image + _steepest(gradient, first_px), self._empty(image, gradient, loss, first_px, cause)

    def _remembering(self, image: Any, gradient: Any, loss: Any, state: LbfgsState) -> LbfgsState:
        """Take in the pair of the last step, if its curvature is positive."""
        move, turn = image - state.image, gradient - state.gradient
        curvature = _dot(move, turn)
        least = self.least_curvature * tf.sqrt(_dot(move, move)) * tf.sqrt(_dot(turn, turn))
        is_good = tf.logical_and(tf.math.is_finite(state.loss), curvature > least)
        moves, turns, curvatures = tf.cond(
            is_good,
            lambda: self._cut(
                image,
                (move, *state.moves[:-1]),
                (turn, *state.turns[:-1]),
                (curvature, *state.curvatures[:-1]),
            ),
            lambda: (state.moves, state.turns, state.curvatures),
        )
        return LbfgsState(image, gradient, loss, moves, turns, curvatures, state.first_px, tf.constant(_NONE))

    def _cut(self, image: Any, moves: Any, turns: Any, curvatures: Any) -> tuple[Any, Any, Any]:
        """Keep fewer pairs of a large picture."""
        kept, lost = self.large_history, self.history - self.large_history
        unknown, none = (tf.constant(_UNKNOWN),) * lost, (tf.constant(_NONE),) * lost
        return tf.cond(  # type: ignore[no-any-return]
            tf.size(image) > 3 * self.large_px,
            lambda: (
                (*moves[:kept], *unknown),
                (*turns[:kept], *unknown),
                (*curvatures[:kept], *none),
            ),
            lambda: (moves, turns, curvatures),
        )

    def _direction(self, state: LbfgsState) -> Any:
        """Multiply the gradient by the approximate inverse Hessian: the two-loop recursion."""
        pairs = list(zip(state.moves, state.turns, map(_inverse, state.curvatures), strict=True))
        rest = state.gradient
        shares = []
        for move, turn, inverse in pairs:
            share = inverse * _dot(move, rest)
            shares.append(share)
            rest = rest - share * turn
        found = rest * self._scale(state)
        for (move, turn, inverse), share in zip(reversed(pairs), reversed(shares), strict=True):
            found = found + (share - inverse * _dot(turn, found)) * move
        return -found

    def _scale(self, state: LbfgsState) -> Any:
        """Guess the inverse Hessian by the newest pair (Nocedal & Wright, eq. 7.20), else by the first step."""
        newest = state.curvatures[0]
        known = newest / tf.maximum(_dot(state.turns[0], state.turns[0]), _LEAST)
        return tf.where(newest > 0, known, state.first_px / _largest(state.gradient))

    def damped(self, image: Any, state: LbfgsState) -> tuple[Any, LbfgsState]:  # noqa: ARG002
        """Forget every pair, and begin with a tenth of the first step, where the state has it."""
        return self._back(state, state.cause)

    def restart(self, state: LbfgsState) -> str:
        """Say why the update that led to this state began afresh; empty where it did not."""
        return RESTARTS[int(state.cause)]


def _dot(one: Any, other: Any) -> Any:
    return tf.reduce_sum(one * other)


def _inverse(curvature: Any) -> Any:
    return tf.math.divide_no_nan(1.0, curvature)


def _largest(gradient: Any) -> Any:
    return tf.maximum(tf.reduce_max(tf.abs(gradient)), _LEAST)


def _steepest(gradient: Any, first_px: Any) -> Any:
    """Go down the slope so that the pixel that moves most moves by `first_px`."""
    return gradient * (-first_px / _largest(gradient))


OPTIMIZERS: Final[dict[str, Optimizer]] = {"adam": Adam(), "lbfgs": Lbfgs()}
