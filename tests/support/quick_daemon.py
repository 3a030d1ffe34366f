"""The daemon's commands with a fake engine, which takes a while for each step: started as a process of its own.

Two files beside the spool hold it up while they exist: `loading` before READY, `stuck` within a step.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from daemon.cli.main import main
from daemon.errors import NotReady
from daemon.outbox import loss_table
from daemon.service import service
from support.fakes import FakeEngine
from support.trees import NearDecoder

if TYPE_CHECKING:
    from daemon.config import Config
    from daemon.job import EngineInfo, Step
    from daemon.lifeline import Lifeline

STEP_S = 0.02


class QuickEngine(FakeEngine):
    """Needs no TensorFlow."""

    def __init__(self, config: Config) -> None:
        super().__init__(on_step=self._pause)
        self._base = config.folders.spool.parent

    def start(self, life: Lifeline) -> EngineInfo:
        """Load, as long as it takes."""
        while (self._base / "loading").exists():
            if life.wait(STEP_S):
                raise NotReady("stopped")
        return super().start(life)

    def _pause(self, _step: Step) -> None:
        time.sleep(STEP_S)
        while (self._base / "stuck").exists():
            time.sleep(STEP_S)


if __name__ == "__main__":
    service.ProcessEngine = QuickEngine  # type: ignore[assignment,misc]
    service.Decoder = lambda _max_megapixels: NearDecoder()  # type: ignore[assignment,misc]
    loss_table.curve = lambda _rows, _title: b"a curve"
    main()
