"""What is kept from job to job: the loaded network, and the steps compiled on it."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

from daemon.engine.session import Prepared, Session
from daemon.transfer import step
from daemon.transfer.backend.tile_layout import WHOLE
from daemon.transfer.step import Method
from daemon.transfer.targets import targets

if TYPE_CHECKING:
    from collections.abc import Sequence

    from daemon.engine.checkpoints import Checkpoint
    from daemon.settings import Settings
    from daemon.transfer.backend.tile_layout import TileSize
    from daemon.transfer.scales import Subject
    from daemon.transfer.step import Step
    from daemon.transfer.targets import GramStore
    from daemon.transfer.vgg19 import Vgg19


class Painter:
    """A loaded network and the steps compiled on it so far."""

    def __init__(self, network: Vgg19, exact: Vgg19 | None = None, gram_store: GramStore | None = None) -> None:
        """Take the network that iterates, and the same in float32 for the reported losses if it is another."""
        self._network = network
        self._exact = exact
        self._gram_store = gram_store
        self._steps: dict[tuple[str, Method, TileSize], Step] = {}
        self._lock = threading.Lock()

    def step(self, settings: Settings, tile_size: TileSize = WHOLE) -> Step:
        """Get the step for some settings, compiled at most once."""
        return self._step(self._network, settings, tile_size)

    def _step(self, network: Vgg19, settings: Settings, tile_size: TileSize) -> Step:
        method = Method.of(settings)
        key = (network.precision, method, tile_size)
        with self._lock:
            if key not in self._steps:
                self._steps[key] = step.make(network, method, tile_size)
            return self._steps[key]

    def prepare(self, subject: Subject) -> Prepared:
        """Compute the targets of a job's first scale ahead; another thread may be painting."""
        scale = subject.scales()[0]
        return Prepared(scale, targets(self.step(subject.settings), subject, scale, self._gram_store))

    def begin(
        self,
        subject: Subject,
        *,
        tile_sizes: Sequence[TileSize] | None = None,
        prepared: Prepared | None = None,
        resumed: Checkpoint | None = None,
    ) -> Session:
        """Prepare to paint the content in the blended styles, coarse to fine.

        Each scale has a tile size, coarse to fine; default: all in one piece. The prepared targets and the
        checkpoint are of this very job.

        Raises:
            JobError: a side would be too short for VGG19.
        """
        settings, chosen = subject.settings, tile_sizes or [WHOLE] * len(subject.scales())
        return Session(
            subject,
            [self.step(settings, tile_size) for tile_size in chosen],
            self._gram_store,
            exact=self._step(self._exact, settings, chosen[-1]) if self._exact else None,
            prepared=prepared if chosen[0] == WHOLE else None,
            resumed=resumed,
        )
