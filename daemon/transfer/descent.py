"""Gatys, Ecker & Bethge (2016), figure 2: change a picture until its features match two targets.

The content target is the features of the photo in a deep layer of VGG19; the style target is the Gram matrices
of the painting's features in five layers. The weighted sum of both losses is minimized, and what changes is the
picture itself: the network stays as it is.

One step, `step.WholeStep`, is: the picture's features (`vgg19`), its losses (`losses`), the gradient back to
the pixels, an update by Adam or L-BFGS (`optimizers`), and a clip to what a picture can show (`pixels`).
`targets` computes both targets, and `scales` says where a descent begins: at coarse sizes first, each one from
the enlarged result of the one before.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Generator

    from daemon.transfer import Tensor
    from daemon.transfer.losses import Loss, Targets
    from daemon.transfer.step import Step


class Iterate(NamedTuple):
    """One picture of the descent, and all that the next one depends on: a descent can resume from it."""

    iteration: int  # updates that this picture has seen at its size
    image: Tensor  # (1, H, W, 3)
    loss: Loss  # of this very picture; () each
    moved: Tensor  # (1, H, W, 3), the next picture; after the last iteration the same one
    state: Any  # the optimizer's, for the next step


def descend(
    step: Step, targets: Targets, image: Tensor, state: Any, iterations: int, *, first: int = 0
) -> Generator[Iterate, None, None]:
    """Yield picture 0, the start, to picture n, after n updates, each with its own loss.

    The paper's listing pairs the loss of the picture before an update with the picture after it. Here both are
    of one picture, so the last one costs one more forward run.

    The first picture, `image` (1, H, W, 3), and the optimizer's state at it have seen `first` of the updates:
    none, unless the descent resumes from an `Iterate`.
    """
    for iteration in range(first, iterations):
        loss, moved, state = step.step(image, targets, state)
        yield Iterate(iteration, image, loss, moved, state)
        image = moved  # nothing of the step before is held: L-BFGS' memory is two dozen pictures
    yield Iterate(iterations, image, step.loss(image, targets), image, state)
