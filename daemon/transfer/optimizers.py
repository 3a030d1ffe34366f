"""The two optimizers: pure functions of tensors, so that they live inside the compiled step.

An optimizer is a `signature` (the specs of its state), a `start` and an `update`. Outside of the compiled step
run `damped`, the answer to a loss that is not finite, and `restart`, which names what an update had to do. The
state is a nest of tensors that leaves the step and goes into the next one; everything that may differ from job
to job is in it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, NamedTuple, Protocol

import numpy as np
import tensorflow as tf

from daemon.transfer import optimizer_memory
from daemon.transfer.backend.tensors import PICTURE, SCALAR

if TYPE_CHECKING:
    from daemon.transfer import Tensor

DAMPING: Final = 0.1


class Optimizer(Protocol):
    """What the step needs of an optimizer."""

    def signature(self) -> Any:
        """Give the specs of the state's tensors, the same for every picture size."""

    def start(self, image: Tensor, learning_rate: float) -> Any:
        """Make the state before the first update."""

    def update(self, image: Tensor, gradient: Tensor, loss: Tensor, state: Any) -> tuple[Tensor, Any]:
        """Make the next picture and state, given the loss () of an image (1, H, W, 3) and its gradient."""

    def damped(self, image: Tensor, state: Any) -> tuple[Tensor, Any]:
        """Replace the last update, from an image (1, H, W, 3) to a state, by a smaller one; later ones as well.

        L-BFGS starts from the picture in its state, an earlier one if the update itself was a step back.
        """

    def restart(self, state: Any) -> str:
        """Name the reason why the update that led to this state restarted; empty if it did not."""


class AdamState(NamedTuple):
    """Adam's moments."""

    learning_rate: Tensor  # ()
    count: Tensor  # (), updates made
    mean: Tensor  # (1, H, W, 3), first moment
    square: Tensor  # (1, H, W, 3), second moment


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

    def start(self, image: Tensor, learning_rate: float) -> AdamState:
        """Make the state before the first update."""
        rate = tf.constant(learning_rate, tf.float32)
        zeros = tf.zeros_like(image)
        return AdamState(rate, tf.constant(0.0), zeros, zeros)

    def update(
        self,
        image: Tensor,
        gradient: Tensor,
        loss: Tensor,  # noqa: ARG002 - of the protocol
        state: AdamState,
    ) -> tuple[Tensor, AdamState]:
        """Move the image one step, of about the learning rate in every pixel."""
        count = state.count + 1
        mean = self.beta_1 * state.mean + (1 - self.beta_1) * gradient  # (1, H, W, 3)
        square = self.beta_2 * state.square + (1 - self.beta_2) * tf.square(gradient)  # (1, H, W, 3)
        return self._move(image, AdamState(state.learning_rate, count, mean, square))

    def _move(self, image: Tensor, state: AdamState) -> tuple[Tensor, AdamState]:
        correction = tf.sqrt(1 - self.beta_2**state.count) / (1 - self.beta_1**state.count)  # ()
        step = state.learning_rate * correction * state.mean / (tf.sqrt(state.square) + self.epsilon)
        return image - step, state  # (1, H, W, 3)

    def damped(self, image: Tensor, state: AdamState) -> tuple[Tensor, AdamState]:
        """Repeat the update with a tenth of the learning rate, which stays so."""
        return self._move(image, state._replace(learning_rate=state.learning_rate * DAMPING))

    def restart(self, state: AdamState) -> str:  # noqa: ARG002 - of the protocol
        """Name no reason: Adam never restarts."""
        return ""


_LEAST: Final = 1e-30
_UNKNOWN: Final = np.zeros((1, 1, 1, 3), np.float32)  # NumPy's: an import must not touch a device
_NONE: Final = np.float32(0)
_INFINITE: Final = np.float32(np.inf)


class LbfgsState(NamedTuple):
    """The memory of L-BFGS, the newest pair first. A pair that is not known yet is one pixel of zeros.

    Each picture of a pair is a tensor of its own, so that a new pair shifts the others without copying them.
    """

    image: Tensor  # (1, H, W, 3), x of the update before
    gradient: Tensor  # (1, H, W, 3), at that image
    loss: Tensor  # (), of that image
    s: tuple[Tensor, ...]  # (1, H, W, 3) each, the change of the image
    y: tuple[Tensor, ...]  # (1, H, W, 3) each, the change of the gradient along s
    sy: tuple[Tensor, ...]  # () each, the curvature s·y = 1 / rho; 0 of a pair that is not known
    first_px: Tensor  # (), gray levels by which the first step moves the pixel that moves most
    cause: Tensor  # (), why this update restarted, an index into `RESTARTS`


RESTARTS: Final = ("", "the loss doubled", "the direction led uphill", "the loss has no slope")
_DOUBLED, _UPHILL, _FLAT = np.float32(1), np.float32(2), np.float32(3)  # indices into `RESTARTS`


class Lbfgs:
    """Limited-memory BFGS without a line search: Nocedal & Wright (2006), algorithms 7.4 and 7.5.

    A step of length 1 is nearly always a good one here, and an evaluation costs as much as a step, so a line
    search cannot gain anything; under bfloat16's noise its conditions often cannot be met at all. Two rules
    replace it: a pair whose curvature is not clearly positive is skipped, and a step that doubled the loss is
    taken back and the memory cleared.
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

    def start(self, image: Tensor, learning_rate: float) -> LbfgsState:  # noqa: ARG002 - of the protocol
        """Make the state before the first update."""
        unknown, none, first_px = (_UNKNOWN,) * self.history, (_NONE,) * self.history, np.float32(self.first_px)
        state = LbfgsState(_UNKNOWN, _UNKNOWN, _INFINITE, unknown, unknown, none, first_px, _NONE)
        return tf.nest.map_structure(tf.convert_to_tensor, state)  # type: ignore[no-any-return]

    def update(
        self, image: Tensor, gradient: Tensor, loss: Tensor, state: LbfgsState
    ) -> tuple[Tensor, LbfgsState]:
        """Move the image one step; a step that doubled the loss is taken back instead."""
        return tf.cond(  # type: ignore[no-any-return]
            loss > self.rise * state.loss,
            lambda: self._cleared(state, DAMPING * state.first_px, tf.constant(_DOUBLED)),
            lambda: self._onward(self._remembering(image, gradient, loss, state)),
        )

    def _onward(self, state: LbfgsState) -> tuple[Tensor, LbfgsState]:
        """Step from the image in the state: by the memory, if that leads down."""
        direction = self._direction(state)  # (1, H, W, 3)
        cause = tf.where(tf.reduce_all(state.gradient == 0), _FLAT, _UPHILL)
        return tf.cond(  # type: ignore[no-any-return]
            _dot(direction, state.gradient) < 0,
            lambda: (state.image + direction, state),
            lambda: self._cleared(state, state.first_px, cause),
        )

    def _cleared(self, state: LbfgsState, first_px: Tensor, cause: Tensor) -> tuple[Tensor, LbfgsState]:
        """Clear the memory, and step down the slope so that the pixel that moves most moves by `first_px`."""
        moved = state.image + state.gradient * (-first_px / _largest(state.gradient))  # (1, H, W, 3)
        unknown, none = (tf.constant(_UNKNOWN),) * self.history, (tf.constant(_NONE),) * self.history
        return moved, state._replace(s=unknown, y=unknown, sy=none, first_px=first_px, cause=cause)

    def _remembering(self, image: Tensor, gradient: Tensor, loss: Tensor, state: LbfgsState) -> LbfgsState:
        """Add the pair of the last step (eq. 7.18), if its curvature is positive."""
        s, y = image - state.image, gradient - state.gradient  # (1, H, W, 3) each
        sy = _dot(s, y)  # ()
        least = self.least_curvature * tf.sqrt(_dot(s, s)) * tf.sqrt(_dot(y, y))
        is_good = tf.logical_and(tf.math.is_finite(state.loss), sy > least)
        all_s, all_y, all_sy = tf.cond(
            is_good,
            lambda: self._cut(image, (s, *state.s[:-1]), (y, *state.y[:-1]), (sy, *state.sy[:-1])),
            lambda: (state.s, state.y, state.sy),
        )
        return LbfgsState(image, gradient, loss, all_s, all_y, all_sy, state.first_px, tf.constant(_NONE))

    def _cut(
        self, image: Tensor, s: tuple[Tensor, ...], y: tuple[Tensor, ...], sy: tuple[Tensor, ...]
    ) -> tuple[Any, Any, Any]:
        """Keep fewer pairs of a large picture."""
        kept, lost = self.large_history, self.history - self.large_history
        unknown, none = (tf.constant(_UNKNOWN),) * lost, (tf.constant(_NONE),) * lost
        return tf.cond(  # type: ignore[no-any-return]
            tf.size(image) > 3 * self.large_px,
            lambda: ((*s[:kept], *unknown), (*y[:kept], *unknown), (*sy[:kept], *none)),
            lambda: (s, y, sy),
        )

    def _direction(self, state: LbfgsState) -> Tensor:
        """Multiply the gradient by the approximate inverse Hessian: algorithm 7.4, the two-loop recursion.

        A pair that is not known has rho = 0, so it changes nothing. Returns (1, H, W, 3), the step of length 1.
        """
        rhos = [tf.math.divide_no_nan(1.0, sy) for sy in state.sy]  # eq. 7.17
        pairs = list(zip(state.s, state.y, rhos, strict=True))  # newest first; (1, H, W, 3), (1, H, W, 3), ()
        q, alphas = state.gradient, []
        for s, y, rho in pairs:
            alpha = rho * _dot(s, q)  # ()
            alphas.append(alpha)
            q = q - alpha * y  # (1, H, W, 3)
        r = q * self._gamma(state)
        for (s, y, rho), alpha in zip(reversed(pairs), reversed(alphas), strict=True):
            beta = rho * _dot(y, r)  # ()
            r = r + (alpha - beta) * s  # (1, H, W, 3)
        return -r

    def _gamma(self, state: LbfgsState) -> Tensor:
        """Scale the initial inverse Hessian by the newest pair (eq. 7.20); without one, by the first step."""
        sy, y = state.sy[0], state.y[0]
        gamma = sy / tf.maximum(_dot(y, y), _LEAST)
        return tf.where(sy > 0, gamma, state.first_px / _largest(state.gradient))

    def damped(self, image: Tensor, state: LbfgsState) -> tuple[Tensor, LbfgsState]:  # noqa: ARG002 - protocol
        """Clear the memory and begin with a tenth of the first step, from the image in the state."""
        return self._cleared(state, DAMPING * state.first_px, state.cause)

    def restart(self, state: LbfgsState) -> str:
        """Name the reason why the update that led to this state restarted; empty if it did not."""
        return RESTARTS[int(state.cause)]


def _dot(a: Tensor, b: Tensor) -> Tensor:
    return tf.reduce_sum(a * b)  # (1, H, W, 3), (1, H, W, 3) -> ()


def _largest(gradient: Tensor) -> Tensor:
    return tf.maximum(tf.reduce_max(tf.abs(gradient)), _LEAST)  # (1, H, W, 3) -> ()


OPTIMIZERS: Final[dict[str, Optimizer]] = {"adam": Adam(), "lbfgs": Lbfgs()}
