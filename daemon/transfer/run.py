"""The optimisation: a generator of `Step` that knows no files and no logs."""

from __future__ import annotations

import contextlib
import functools
import math
import time
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import tensorflow as tf

from daemon.errors import Failure, JobError, Reason
from daemon.job import Losses, Painting, Step
from daemon.transfer import pixels
from daemon.transfer.backend.tile_layout import WHOLE

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    import numpy.typing as npt

    from daemon.settings import EarlyStop
    from daemon.transfer.backend.tile_layout import TileSize
    from daemon.transfer.losses import Loss, Targets
    from daemon.transfer.program import AnyProgram
    from daemon.transfer.targets import Subject

MAX_STEPS_BACK: Final = 1


class Judge:
    """Gives the losses of pictures of the last size in float32 when the iterations are in another precision."""

    def __init__(self, program: AnyProgram, targets_of: Callable[[], Targets], tile_size: TileSize) -> None:
        """Compute the targets when they are first needed, and keep them where memory is not short."""
        self._program = program
        self._targets_of = functools.cache(targets_of) if tile_size == WHOLE else targets_of

    def losses(self, image: Any) -> Losses:
        """Compute the losses of (1, H, W, 3)."""
        return _losses(self._program.loss(image, self._targets_of()))


@dataclass(frozen=True)
class Checkpoint:
    """One picture of the way and everything that the next one depends on.

    It is of a picture whose loss was computed and is a number, so it is a good place to go back to as well.
    Nothing in the loop is random: the seed shapes the start alone.
    """

    leg: int  # which size
    iteration: int  # of this size
    image: npt.NDArray[np.float32]  # (1, H, W, 3), the picture of that iteration
    moved: npt.NDArray[np.float32]  # (1, H, W, 3), the next one; the same again after the last of a size
    state: tuple[npt.NDArray[np.float32], ...]  # the optimiser's, that goes with the next one
    best_image: npt.NDArray[np.float32]  # (1, H, W, 3), the best one of this size
    best_row: int  # where the table has it
    leg_row: int  # where this size begins in the table
    target_s: float  # preparing the sizes so far
    steps_back: int
    first: npt.NDArray[np.float64]  # (3,), the exact losses of the last size's first picture
    rows: npt.NDArray[np.float64]  # (n, 6): iteration, size_px, total, style, content, elapsed_s


class Run:
    """One picture being painted: an iterator of steps whose whole state can be taken between two of them."""

    def __init__(
        self,
        programs: Sequence[AnyProgram],
        subject: Subject,
        targets_of: Callable[[int], Targets],
        *,
        wants_picture: Callable[[int], bool],
        resumed: Checkpoint | None,
    ) -> None:
        """See `Painter.begin`."""
        self._begun = time.perf_counter()
        self._programs = programs  # one a size
        self._subject = subject
        self._targets_of = targets_of
        self._wants_picture = wants_picture
        self.judge: Judge | None = None
        self._legs = subject.legs()
        self._total = sum(leg.iterations for leg in self._legs)
        self._leg = -1
        self._iteration = self._best_row = self._leg_row = self._steps_back = 0
        # Nothing of the step before is held: the memory of L-BFGS is dozens of pictures.
        self._image: Any = None  # (1, H, W, 3), whose losses are known
        self._moved: Any = None  # (1, H, W, 3), the next one
        self._state: Any = None  # the optimiser's, that goes with the next one
        self._best_image: Any = None  # (1, H, W, 3), of this size
        self._first = Losses(0.0, 0.0, 0.0)
        self._target_s = self._step_s = 0.0
        self._rows: list[Step] = []
        self._resumed = resumed

    def checkpoint(self) -> Checkpoint:
        """Take the state at the step that was yielded last."""
        rows = [(row.iteration, row.size_px, *vars(row.losses).values(), row.elapsed_s) for row in self._rows]
        return Checkpoint(
            leg=self._leg,
            iteration=self._iteration,
            image=np.asarray(self._image),  # the tensor's own memory, as all of these: a state may be gigabytes
            moved=np.asarray(self._moved),
            state=tuple(np.asarray(part) for part in tf.nest.flatten(self._state)),
            best_image=np.asarray(self._best_image),
            best_row=self._best_row,
            leg_row=self._leg_row,
            target_s=self._target_s,
            steps_back=self._steps_back,
            first=np.array([self._first.total, self._first.style, self._first.content]),
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
            yield from self._replay()
            if not self._is_left:
                with self._preparing():
                    found = self._targets_of(self._leg)
                yield from self._descend(found)
        while not self._is_last_leg:
            with self._preparing():
                found = self._targets_of(self._leg + 1)
                self._enter(self._leg + 1)
            yield from self._descend(found)

    @contextlib.contextmanager
    def _preparing(self) -> Iterator[None]:
        begun = time.perf_counter()
        yield
        self._target_s += time.perf_counter() - begun

    def _replay(self) -> Iterator[Step]:
        self._restore()
        self._begun = time.perf_counter() - self._rows[-1].elapsed_s
        yield from self._rows

    def _restore(self) -> None:
        """Load the checkpoint and drop it, so that its arrays are not held twice."""
        known, self._resumed = self._resumed, None
        assert known is not None  # noqa: S101 - asked by `steps`
        self._leg, self._iteration = known.leg, known.iteration
        self._best_row, self._leg_row, self._steps_back = known.best_row, known.leg_row, known.steps_back
        self._target_s, self._first = known.target_s, Losses(*known.first.tolist())
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
        arrays = [known.image, known.moved, known.best_image, *known.state]
        del known
        self._image, self._moved, best_image, *parts = _tensors(arrays)
        self._state = tf.nest.pack_sequence_as(self._program.optimizer.signature(), parts)
        self._best_image = best_image

    def _enter(self, number: int) -> None:
        """Begin a size: with the first picture, or the best one of the size before."""
        leg = self._legs[number]
        if self._best_image is None:
            image = pixels.to_vgg(self._subject.start(leg))
        else:
            image = self._subject.enlarged(self._best_image, self._legs[self._leg], leg)
        state = self._programs[number].optimizer.start(image, self._subject.settings.learning_rate)
        if leg is self._legs[-1] and self.judge is not None:
            self._first = self.judge.losses(image)
        self._image = self._moved = image
        self._leg, self._state, self._best_image = number, state, None
        self._iteration, self._leg_row = -1, len(self._rows)

    @property
    def _program(self) -> AnyProgram:
        return self._programs[self._leg]

    @property
    def _is_last_leg(self) -> bool:
        return self._leg + 1 == len(self._legs)

    def _descend(self, found: Targets) -> Iterator[Step]:
        """Yield the steps of one size, up to the picture after its last update.

        The paper's listing pairs the loss of the picture before an update with the picture after it; here they
        are of one picture, and so the last picture costs one forward run more.
        """
        while not self._is_left:
            begun = time.perf_counter()
            losses, moved, state = self._step(found)
            self._step_s = time.perf_counter() - begun
            if not math.isfinite(losses.total):
                # The locals as well: else they would hold through the next step what is given up here.
                self._moved, self._state = moved, state = self._step_back(losses)
                continue
            restart = self._program.optimizer.restart(self._state)
            self._image, self._moved, self._state = self._moved, moved, state
            self._iteration += 1
            yield self._shown(self._recorded(losses, restart))

    def _step(self, found: Targets) -> tuple[Losses, Any, Any]:
        """Compute the losses of the next picture, and what its update leads to; the last one has none."""
        if self._iteration + 1 == self._legs[self._leg].iterations:
            return _losses(self._program.loss(self._moved, found)), self._moved, self._state
        loss, moved, state = self._program.step(self._moved, found, self._state)
        return _losses(loss), moved, state

    def _has_settled(self) -> bool:
        """Tell whether the best loss of this size hardly fell in the last iterations."""
        rule = self._subject.settings.early_stop
        return rule is not False and _is_settled(
            [row.losses.total for row in self._rows[self._leg_row :]], rule
        )

    def _step_back(self, losses: Losses) -> tuple[Any, Any]:
        """Take another, smaller step from the last good picture.

        Raises:
            JobError: there was none, or it is the second time.
        """
        if self._iteration < 0 or self._steps_back == MAX_STEPS_BACK:
            raise JobError(
                Failure(
                    Reason.DIVERGED,
                    f"the loss is {losses.total} at iteration {self._before + self._iteration + 1}",
                    hint="lower learning_rate or the weights",
                ),
                pixels.from_vgg(self._image),
            )
        moved, state = self._program.damped(self._image, self._state)
        self._steps_back += 1  # now that it is made: memory may have run out over it
        return moved, state

    @property
    def _before(self) -> int:
        """The iterations of the sizes before this one."""
        return sum(leg.iterations for leg in self._legs[: self._leg])

    def _recorded(self, losses: Losses, restart: str) -> Step:
        """Take in the current picture with the losses computed on it, and why it is a new beginning."""
        if self._best_image is None or losses.total < self._rows[self._best_row].losses.total:
            self._best_image, self._best_row = self._image, len(self._rows)
        row = Step(
            iteration=self._before + self._iteration,
            iterations=self._total,
            size_px=self._legs[self._leg].longest,
            losses=losses,
            elapsed_s=time.perf_counter() - self._begun,
            steps_back=self._steps_back,
            restart=restart,
            step_s=self._step_s,
        )
        self._rows.append(row)
        return row

    @property
    def _is_left(self) -> bool:
        """Whether the current picture is the last one of this size."""
        return self._iteration == self._legs[self._leg].iterations or self._has_settled()

    def _shown(self, row: Step) -> Step:
        """Add to the current row what leaves with it: its picture where it is wanted, and the painting."""
        return replace(
            row,
            picture=pixels.from_vgg(self._image) if self._wants_picture(row.iteration) else None,
            painting=self._painting() if self._is_last_leg and self._is_left else None,
            is_replayed=False,
        )

    def _painting(self) -> Painting:
        best, last = self._rows[self._best_row], self._rows[-1]
        best_losses = self._exact_losses(self._best_image, best)
        return Painting(
            picture=pixels.from_vgg(self._best_image),
            best_iteration=best.iteration,
            first=self._rows[self._leg_row].losses if self.judge is None else self._first,
            best=best_losses,
            last=best_losses if best is last else self._exact_losses(self._image, last),
            target_s=self._target_s,
            loop_s=last.elapsed_s - self._target_s,
            steps_back=self._steps_back,
        )

    def _exact_losses(self, image: Any, row: Step) -> Losses:
        """Give the losses of a picture in float32, whatever it was iterated in."""
        return row.losses if self.judge is None else self.judge.losses(image)


def _tensors(arrays: list[Any]) -> list[Any]:
    """Make a tensor of each array, and let go of it: at no time is there more than one of them twice.

    By an operation, since TensorFlow holds an array that became a constant until the next operation is run.
    """
    found = []
    while arrays:
        found.append(tf.identity(arrays.pop(0)))
    return found


def _losses(loss: Loss) -> Losses:
    return Losses(float(loss.total), float(loss.style), float(loss.content))


def _is_settled(totals: list[float], rule: EarlyStop) -> bool:
    """Tell whether the best loss fell by less than the rule's share within its iterations."""
    before, now = totals[: -rule.iterations], totals[-rule.iterations :]
    return bool(before) and min(now) > (1 - rule.improvement) * min(before)
