"""The engine in this process: used by `stylize`, by the child, and by tests."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import TYPE_CHECKING

from daemon import __version__, images
from daemon.engine.checkpoints import Checkpoints, key
from daemon.job import EngineInfo
from daemon.transfer import device, weights
from daemon.transfer.stylize import Painter
from daemon.transfer.vgg19 import Vgg19

if TYPE_CHECKING:
    from collections.abc import Callable, Generator
    from pathlib import Path

    from daemon.config import Config
    from daemon.job import Picture, Request, Step
    from daemon.settings import Frames
    from daemon.transfer.stylize import Run

# At least so often a picture leaves the engine, so that people see how it comes along.
PREVIEW_S = 5.0


class LocalEngine:
    """Loads once, paints one picture after the other."""

    def __init__(self, config: Config) -> None:
        """Remember what to load; `start` loads it."""
        self._options = config.engine
        self._max_megapixels = config.inbox.max_megapixels
        self._painter: Painter | None = None
        self._info: EngineInfo | None = None

    def start(self) -> EngineInfo:
        """Choose the device and load the weights; see `Engine.start`."""
        if self._info is None:
            begun = time.perf_counter()
            chosen = device.choose(self._options.device, self._options.precision, self._options.memory_limit_mb)
            loaded = weights.load(self._options.weights)
            self._painter = Painter(Vgg19(loaded, chosen.precision))
            self._info = EngineInfo(
                device=chosen.name,
                precision=chosen.precision,
                weights_source=loaded.source,
                weights_sha256=loaded.sha256,
                load_s=round(time.perf_counter() - begun, 3),
                versions=device.versions(),
            )
        return self._info

    def stylize(
        self, request: Request, is_stopping: Callable[[], bool] = lambda: False
    ) -> Generator[Step, None, None]:
        """Decode the pictures and paint, from the last good checkpoint on; see `Engine.stylize`."""
        info = self.start()
        assert self._painter is not None  # noqa: S101 - start() sets it
        kept = self._checkpoints(request, info)
        with device.out_of_memory_as_engine_error():
            run = self._painter.begin(
                self._read(request.content),
                [(self._read(path), weight) for path, weight in request.styles],
                request.settings,
                init=self._read(request.init) if request.init else None,
                wants_picture=wants_picture(request.settings.frames),
                resumed=kept.newest(request.resume_limit) if kept else None,
            )
            trouble = ""
            for step in run.steps():
                painting = step.painting and replace(step.painting, profile=images.icc_profile(request.content))
                yield replace(step, trouble=trouble, painting=painting)
                trouble, stops = "", is_stopping()
                if kept and not step.is_replayed and not step.painting and (stops or kept.is_due()):
                    trouble = _save(kept, run)
                if stops:
                    return

    def _checkpoints(self, request: Request, info: EngineInfo) -> Checkpoints | None:
        """Find the place of a job's checkpoints, which another device, version or setting makes worthless."""
        if request.checkpoints is None:
            return None
        settings = request.settings.model_dump(mode="json", exclude={"priority", "frames", "output"})
        shares = [weight for _, weight in request.styles]
        facts = (settings, shares, info.device, info.precision, info.weights_sha256, info.versions, __version__)
        return Checkpoints(request.checkpoints, key(facts), self._options.checkpoint_s)

    def _read(self, path: Path) -> Picture:
        return images.read(path, self._max_megapixels)

    def stop(self) -> None:
        """Let go of the model."""
        self._painter = None
        self._info = None


def _save(kept: Checkpoints, run: Run) -> str:
    """Keep a run's state; where the disk does not take it the painting goes on, and the reason is returned."""
    try:
        kept.save(run.checkpoint())
    except OSError as error:
        return f"checkpoint not written: {error.strerror}"
    return ""


def wants_picture(frames: Frames, clock: Callable[[], float] = time.monotonic) -> Callable[[int], bool]:
    """Ask for frames at their interval, and between them for a preview every few seconds."""
    last = clock()

    def wants(iteration: int) -> bool:
        nonlocal last
        now = clock()
        if frames.keeps(iteration) or now - last >= PREVIEW_S:
            last = now
            return True
        return False

    return wants
