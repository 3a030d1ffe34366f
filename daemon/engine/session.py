"""One job being painted, everything around the descent itself, and the compiled network that it begins with.

The descent yields an `Iterate`; from it follow the table of losses, the best picture so far, the early stop,
the step back from a loss that is not finite, the clocks, and the checkpoint to resume from.
"""

from __future__ import annotations

import contextlib
import functools
import math
import time
from dataclasses import replace
from typing import TYPE_CHECKING, Final

import numpy as np

from daemon.engine.checkpoints import Checkpoint
from daemon.errors import Failure, JobError, Reason
from daemon.job import Losses, Painting, Step
from daemon.transfer import pixels
from daemon.transfer import step as transfer
from daemon.transfer.backend.tensors import PICTURE, arrays_of, nest_of
from daemon.transfer.backend.tile_layout import WHOLE
from daemon.transfer.descent import Iterate, descend
from daemon.transfer.losses import Loss
from daemon.transfer.targets import targets

if TYPE_CHECKING:
    from collections.abc import Generator, Iterator, Sequence

    from daemon.job import DeepPicture, Picture
    from daemon.settings import EarlyStop, Frames, Settings
    from daemon.transfer import Tensor
    from daemon.transfer.backend.tile_layout import TileSize
    from daemon.transfer.losses import Targets
    from daemon.transfer.scales import Scale, Subject
    from daemon.transfer.targets import StyleStore
    from daemon.transfer.vgg19 import Vgg19

MAX_STEPS_BACK: Final = 1
PREVIEW_S: Final = 5.0  # the longest time without a picture, so that people see progress


class Previews:
    """Chooses the iterations whose pictures leave the engine: the frames, and one every few seconds."""

    def __init__(self, frames: Frames, now_s: float) -> None:
        """Start counting at a monotonic time."""
        self._frames = frames
        self._last_s = now_s

    def choose(self, iteration: int, now_s: float) -> bool:
        """Decide on an iteration's picture; a chosen one puts the next preview off."""
        is_chosen = self._frames.keeps(iteration) or now_s - self._last_s >= PREVIEW_S
        self._last_s = now_s if is_chosen else self._last_s
        return is_chosen


class Session:
    """One job being painted: an iterator of steps, whose whole state can be taken between two of them."""

    def __init__(
        self,
        subject: Subject,
        steps: Sequence[transfer.Step],
        style_store: StyleStore | None,
        *,
        exact: transfer.Step | None = None,
        prepared: Targets | None = None,
        resumed: Checkpoint | None = None,
    ) -> None:
        """Take the compiled step of every scale, coarse to fine; see `Painter.begin`.

        `exact` is the last scale's step in float32, for the reported losses of a job in bfloat16.
        """
        self._begun = time.perf_counter()
        self._subject = subject
        self._compiled = steps
        self._style_store = style_store
        self._exact = exact
        self._exact_targets: Targets | None = None
        self._prepared = prepared
        self._resumed = resumed
        self._scales = subject.scales()
        self._total = sum(scale.iterations for scale in self._scales)
        self._number = -1  # of the current scale
        # The newest picture whose loss is finite. Nothing older is held: L-BFGS' memory is two dozen pictures.
        self._iterate: Iterate
        self._best_image: Tensor | None = None  # (1, H, W, 3), of this scale
        self._best_row = self._scale_row = 0  # in the table: the best picture, the first one of this scale
        self._steps_back = 0
        self._first = Losses(0.0, 0.0, 0.0)  # of the last scale's first picture, in float32
        self._target_s = 0.0
        self._table: list[Step] = []

    def steps(self, previews: Previews | None = None) -> Iterator[Step]:
        """Yield steps 0 to n of each scale; those that a checkpoint has are replayed from its table.

        Picture and losses of a step belong together. Some steps carry their picture (default: none), the last
        one carries the painting. JobError if the loss was not finite twice.
        """
        if self._load():
            yield from self._table.copy()
            if not self._is_scale_done:
                yield from self._descend(previews)
        while not self._is_last_scale:
            with self._preparing():
                self._enter(self._number + 1)
            yield from self._descend(previews)

    def checkpoint(self) -> Checkpoint:
        """Take the state at the step that was yielded last."""
        iteration, image, _, moved, state = self._iterate
        image, moved, best_image, *parts = arrays_of((image, moved, self._best_image, state))
        rows = [(row.iteration, row.size_px, *vars(row.losses).values(), row.elapsed_s) for row in self._table]
        return Checkpoint(
            scale=self._number,
            iteration=iteration,
            image=image,
            moved=moved,
            state=tuple(parts),
            best_image=best_image,
            best_row=self._best_row,
            scale_row=self._scale_row,
            target_s=self._target_s,
            steps_back=self._steps_back,
            first=np.array([*vars(self._first).values()]),
            rows=np.asarray(rows, np.float64),
        )

    @property
    def _step(self) -> transfer.Step:
        return self._compiled[self._number]

    @property
    def _scale(self) -> Scale:
        return self._scales[self._number]

    @property
    def _is_last_scale(self) -> bool:
        return self._number + 1 == len(self._scales)

    @property
    def _is_scale_done(self) -> bool:
        """Whether the current picture is the last one of this scale."""
        rule = self._subject.settings.early_stop
        totals = [row.losses.total for row in self._table[self._scale_row :]]
        is_settled = rule is not False and has_settled(totals, rule)
        return self._iterate.iteration == self._scale.iterations or is_settled

    @contextlib.contextmanager
    def _preparing(self) -> Iterator[None]:
        begun = time.perf_counter()
        yield
        self._target_s += time.perf_counter() - begun

    def _load(self) -> bool:
        """Load the checkpoint, if there is one, and drop it, so that its arrays are not held twice."""
        known, self._resumed = self._resumed, None
        if known is None:
            return False
        self._number, self._best_row, self._scale_row = known.scale, known.best_row, known.scale_row
        self._steps_back, self._target_s = known.steps_back, known.target_s
        self._first = Losses(*known.first.tolist())
        for iteration, size_px, total, style, content, elapsed_s in known.rows.tolist():
            losses = Losses(total, style, content)
            row = Step(int(iteration), self._total, int(size_px), losses, elapsed_s, is_replayed=True)
            self._table.append(replace(row, steps_back=known.steps_back))
        self._begun = time.perf_counter() - self._table[-1].elapsed_s
        iteration, arrays = known.iteration, [known.image, known.moved, known.best_image, *known.state]
        del known
        signature = self._step.optimizer.signature()
        image, moved, self._best_image, state = nest_of((PICTURE, PICTURE, PICTURE, signature), arrays)
        self._iterate = Iterate(iteration, image, Loss(*vars(self._table[-1].losses).values()), moved, state)
        return True

    def _enter(self, number: int) -> None:
        """Begin a scale: with the first picture, or the best one of the scale before, enlarged."""
        scale = self._scales[number]
        if self._best_image is None:
            image = pixels.to_vgg(self._subject.start(scale))  # (1, H, W, 3)
        else:
            image = self._subject.enlarged(self._best_image, self._scale, scale)  # (1, H, W, 3)
        self._number, self._best_image, self._scale_row = number, None, len(self._table)
        state = self._step.optimizer.start(image, self._subject.settings.learning_rate)
        self._iterate = Iterate(-1, image, Loss(math.nan, math.nan, math.nan), image, state)
        if self._is_last_scale and self._exact is not None:
            self._first = self._exact_losses(self._exact, image)

    def _descend(self, previews: Previews | None) -> Iterator[Step]:
        """Descend at one scale to its last iteration, or until it has settled."""
        with self._preparing():
            if self._prepared is not None and self._number == 0:
                compared = self._prepared
            else:
                compared = targets(self._step, self._subject, self._scale, self._style_store)
        descent = self._resumed_descent(compared)
        while True:
            begun = time.perf_counter()
            found = next(descent)
            losses = Losses(*map(float, found.loss))  # waits for the device
            step_s = time.perf_counter() - begun
            if not math.isfinite(losses.total):
                del found  # with all that the descent holds, before memory is needed again
                descent.close()
                self._step_back(losses)
                descent = self._resumed_descent(compared)
                continue
            restart = self._step.optimizer.restart(self._iterate.state)
            self._iterate = found
            del found
            yield self._recorded(losses, step_s, restart, previews)
            if self._is_scale_done:
                return

    def _resumed_descent(self, compared: Targets) -> Generator[Iterate, None, None]:
        """Descend from the picture after the current one."""
        iteration, _, _, moved, state = self._iterate
        return descend(self._step, compared, moved, state, self._scale.iterations, first=iteration + 1)

    def _step_back(self, losses: Losses) -> None:
        """Replace the update from the last good picture by a smaller one, if there is one, once in a job."""
        current = self._iterate
        if current.iteration < 0 or self._steps_back == MAX_STEPS_BACK:
            iteration = self._iterations_before + current.iteration + 1
            message = f"the loss is {losses.total} at iteration {iteration}"
            failure = Failure(Reason.DIVERGED, message, hint="lower learning_rate or the weights")
            raise JobError(failure, self._subject.shown(pixels.from_vgg(current.image)))
        self._steps_back += 1
        moved, state = self._step.damped(current.image, current.state)
        self._iterate = current._replace(moved=moved, state=state)

    @property
    def _iterations_before(self) -> int:
        """The iterations of the scales before this one."""
        return sum(scale.iterations for scale in self._scales[: self._number])

    def _recorded(self, losses: Losses, step_s: float, restart: str, previews: Previews | None) -> Step:
        """Enter the current picture in the table, and remember it if it is the best of its scale.

        The step returned has the picture as well, if it is chosen, and the painting, if it is the last one.
        """
        current = self._iterate
        if self._best_image is None or losses.total < self._table[self._best_row].losses.total:
            self._best_image, self._best_row = current.image, len(self._table)
        row = Step(
            iteration=self._iterations_before + current.iteration,
            iterations=self._total,
            size_px=self._scale.longest,
            losses=losses,
            elapsed_s=time.perf_counter() - self._begun,
            steps_back=self._steps_back,
            restart=restart,
            step_s=step_s,
        )
        self._table.append(row)
        has_picture = previews is not None and previews.choose(row.iteration, time.monotonic())
        return replace(
            row,
            picture=self._subject.shown(pixels.from_vgg(current.image)) if has_picture else None,
            painting=self._painting() if self._is_last_scale and self._is_scale_done else None,
        )

    def _painting(self) -> Painting:
        """Make the painting of the best picture; its losses are those of that picture, before its last step."""
        best, last = self._table[self._best_row], self._table[-1]
        first_losses, best_losses, last_losses = self._table[self._scale_row].losses, best.losses, last.losses
        if self._exact is not None:
            first_losses = self._first
            best_losses = last_losses = self._exact_losses(self._exact, self._best_image)
            if best is not last:
                last_losses = self._exact_losses(self._exact, self._iterate.image)
        return Painting(
            picture=self._finished(),
            best_iteration=best.iteration,
            first=first_losses,
            best=best_losses,
            last=last_losses,
            target_s=self._target_s,
            loop_s=last.elapsed_s - self._target_s,
            steps_back=self._steps_back,
        )

    def _finished(self) -> Picture | DeepPicture:
        """Finish the best picture, of 8 bits from what it is rounded to, of 16 from what was computed."""
        if self._subject.settings.output.bits == 8:  # noqa: PLR2004
            return self._subject.finished(pixels.from_vgg(self._best_image))
        return pixels.deep(self._subject.finished(pixels.unrounded(self._best_image)))

    def _exact_losses(self, exact: transfer.Step, image: Tensor) -> Losses:
        """Compute the losses of a picture of the last scale, (1, H, W, 3), in float32."""
        compared = self._exact_targets or targets(exact, self._subject, self._scales[-1], self._style_store)
        self._exact_targets = compared if exact.core_px is None else None  # not kept where memory is short
        return Losses(*map(float, exact.loss(image, compared)))


class Painter:
    """A loaded network and the steps compiled on it so far."""

    def __init__(
        self, network: Vgg19, exact: Vgg19 | None = None, style_store: StyleStore | None = None
    ) -> None:
        """Take the network that iterates, and the same in float32 for the reported losses if it is another."""
        self._network = network
        self._exact = exact
        self._style_store = style_store
        self._made = functools.cache(transfer.make)

    def step(self, settings: Settings, tile_size: TileSize = WHOLE, *, protects: bool = False) -> transfer.Step:
        """Get the step for some settings, kept from job to job; two threads at once may compile it twice."""
        return self._made(self._network, transfer.Method.of(settings, protects=protects), tile_size)

    def prepare(self, subject: Subject) -> Targets:
        """Compute the targets of a job's first scale ahead; another thread may be painting."""
        step = self._made(self._network, _method(subject), WHOLE)
        return targets(step, subject, subject.scales()[0], self._style_store)

    def begin(
        self,
        subject: Subject,
        *,
        tile_sizes: Sequence[TileSize] | None = None,
        prepared: Targets | None = None,
        resumed: Checkpoint | None = None,
    ) -> Session:
        """Prepare to paint the content in the blended styles; JobError if a side is too short for VGG19.

        Each scale has a tile size, coarse to fine; default: all in one piece. The prepared targets of the first
        scale and the checkpoint are of this very job.
        """
        chosen = tile_sizes or [WHOLE] * len(subject.scales())
        method = _method(subject)
        return Session(
            subject,
            [self._made(self._network, method, tile_size) for tile_size in chosen],
            self._style_store,
            exact=self._made(self._exact, method, chosen[-1]) if self._exact else None,
            prepared=prepared if chosen[0] == WHOLE else None,
            resumed=resumed,
        )


def _method(subject: Subject) -> transfer.Method:
    is_protected = subject.protection is not None
    return transfer.Method.of(subject.settings, protects=is_protected, regions=subject.regions)


def has_settled(totals: list[float], rule: EarlyStop) -> bool:
    """Tell whether the best loss fell by less than the rule's share within its iterations."""
    before, now = totals[: -rule.iterations], totals[-rule.iterations :]
    return bool(before) and min(now) > (1 - rule.improvement) * min(before)
