"""What is kept from job to job: the loaded network, and the programs compiled on it."""

from __future__ import annotations

import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING

from daemon.transfer.backend.tile_layout import WHOLE
from daemon.transfer.program import AnyProgram, Plan, Program, TiledProgram
from daemon.transfer.run import Judge, Run
from daemon.transfer.targets import Forgetful, GramStore, Leg, Subject, targets

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from daemon.settings import Settings
    from daemon.transfer.backend.tile_layout import TileSize
    from daemon.transfer.losses import Targets
    from daemon.transfer.run import Checkpoint
    from daemon.transfer.vgg19 import Vgg19


@dataclass(frozen=True)
class Prepared:
    """What the first size of a job compares with, computed ahead."""

    leg: Leg
    targets: Targets


class Painter:
    """A loaded network and the programs compiled on it so far, kept from job to job."""

    def __init__(
        self, network: Vgg19, exact: Vgg19 | None = None, style_targets: GramStore | None = None
    ) -> None:
        """Start with nothing compiled.

        Args:
            network: iterates.
            exact: the same in float32, for what is reported in the end; None where `network` is that.
            style_targets: where Gram matrices of styles are kept.
        """
        self._network = network
        self._exact = exact
        self._style_targets = style_targets or Forgetful()
        self._programs: dict[tuple[str, Plan, TileSize], AnyProgram] = {}
        self._lock = threading.Lock()

    def program(self, settings: Settings, tile_size: TileSize = WHOLE) -> AnyProgram:
        """Get the program for some settings, compiled at most once."""
        return self._program(self._network, Plan.of(settings), tile_size)

    def _program(self, network: Vgg19, plan: Plan, tile_size: TileSize) -> AnyProgram:
        key = (network.precision, plan, tile_size)
        with self._lock:
            if key not in self._programs:
                self._programs[key] = (
                    Program(network, plan)
                    if tile_size.core_px is None
                    else TiledProgram(network, plan, tile_size.core_px)
                )
            return self._programs[key]

    def prepare(self, subject: Subject) -> Prepared:
        """Compute ahead what `begin` will need of a job, in another thread than the one that paints.

        Raises:
            JobError: a side would be too short for VGG19.
        """
        leg = subject.legs()[0]
        return Prepared(leg, self._targets(self.program(subject.settings), subject, leg))

    def begin(
        self,
        subject: Subject,
        *,
        wants_picture: Callable[[int], bool] = lambda _: False,
        resumed: Checkpoint | None = None,
        prepared: Prepared | None = None,
        tile_sizes: Sequence[TileSize] | None = None,
    ) -> Run:
        """Prepare to paint the content in the blended styles, coarse to fine.

        Args:
            subject: the job's pictures and settings.
            wants_picture: asked with each iteration whether its step should carry the picture.
            resumed: where an earlier run of the same job had come.
            prepared: what was computed ahead for this very job.
            tile_sizes: how each scale is computed, coarse to fine; default: in one piece.

        Raises:
            JobError: a side would be too short for VGG19.
        """
        legs = subject.legs()
        chosen = list(tile_sizes or [WHOLE] * len(legs))
        programs = [self.program(subject.settings, tile_size) for tile_size in chosen]

        def targets_of(number: int) -> Targets:
            if prepared is not None and prepared.leg == legs[number] and chosen[number] == WHOLE:
                return prepared.targets
            return self._targets(programs[number], subject, legs[number])

        run = Run(programs, subject, targets_of, wants_picture=wants_picture, resumed=resumed)
        if self._exact is not None:
            exact = self._program(self._exact, programs[-1].plan, chosen[-1])
            run.judge = Judge(exact, lambda: self._targets(exact, subject, legs[-1]), chosen[-1])
        return run

    def _targets(self, program: AnyProgram, subject: Subject, leg: Leg) -> Targets:
        return targets(program, subject, leg, self._style_targets)
