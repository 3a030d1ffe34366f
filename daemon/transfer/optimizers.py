"""How a picture is moved downhill: pure functions of tensors, so that they live inside the compiled step.

An optimiser is a `signature` (the specs of its state), a `start` and an `update`. Its state is a tuple of
tensors that leaves the step and goes into the next one; everything that may differ from job to job is in it.
"""

from __future__ import annotations

from typing import Any, Final, NamedTuple, Protocol

import tensorflow as tf

_PICTURE: Final = tf.TensorSpec([1, None, None, 3], tf.float32)
_SCALAR: Final = tf.TensorSpec([], tf.float32)
DAMPING: Final = 0.1


class Optimizer(Protocol):
    """What the step needs of an optimiser."""

    def signature(self) -> Any:
        """Give the specs of the state's tensors, the same for every picture size."""

    def start(self, image: Any, learning_rate: float) -> Any:
        """Make the state before the first update."""

    def update(self, image: Any, gradient: Any, state: Any) -> tuple[Any, Any]:
        """Return the moved image and the new state."""

    def damped(self, state: Any) -> Any:
        """Return the state with smaller steps to come, after a step that led nowhere."""


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
        return AdamState(_SCALAR, _SCALAR, _PICTURE, _PICTURE)

    def start(self, image: Any, learning_rate: float) -> AdamState:
        """Make the state before the first update."""
        zeros = tf.zeros_like(image)
        return AdamState(tf.constant(learning_rate, tf.float32), tf.constant(0.0), zeros, zeros)

    def update(self, image: Any, gradient: Any, state: AdamState) -> tuple[Any, AdamState]:
        """Move the image one step, of about the learning rate in every pixel."""
        count = state.count + 1
        mean = self.beta_1 * state.mean + (1 - self.beta_1) * gradient
        square = self.beta_2 * state.square + (1 - self.beta_2) * tf.square(gradient)
        correction = tf.sqrt(1 - self.beta_2**count) / (1 - self.beta_1**count)
        moved = image - state.learning_rate * correction * mean / (tf.sqrt(square) + self.epsilon)
        return moved, AdamState(state.learning_rate, count, mean, square)

    def damped(self, state: AdamState) -> AdamState:
        """Go on with a tenth of the learning rate."""
        return state._replace(learning_rate=state.learning_rate * DAMPING)


OPTIMIZERS: Final[dict[str, Optimizer]] = {"adam": Adam()}
