"""The engine in this process: used by `stylize`, by the child, and by tests."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

from daemon import __version__, images
from daemon.engine.checkpoints import Checkpoints, Found, key
from daemon.engine.gram_cache import StyleTargets
from daemon.engine.limits import resident_bytes
from daemon.engine.painter import Painter
from daemon.engine.prefetch import Preparer
from daemon.engine.previews import Previews
from daemon.errors import NotReady
from daemon.job import EngineInfo
from daemon.transfer import memory, weights
from daemon.transfer.backend import device
from daemon.transfer.scales import Subject
from daemon.transfer.vgg19 import Vgg19

if TYPE_CHECKING:
    from collections.abc import Callable, Generator
    from pathlib import Path

    from daemon.config import Config
    from daemon.engine.session import Prepared, Session
    from daemon.job import Request, Step
    from daemon.transfer.backend.tile_layout import TileSize
    from daemon.transfer.memory import Work

# Nothing larger is decoded, or compared with, beforehand: it would take its memory from what is painted.
_PREPARED_MEGAPIXELS: Final = 50.0
_PREPARED_SIDE_PX: Final = 1024
_STYLE_TARGETS: Final = "style-targets"


@dataclass(frozen=True)
class Ready:
    """A job decoded, and what could be computed ahead for it."""

    subject: Subject
    prepared: Prepared | None = None


class LocalEngine:
    """Loads once, paints one picture after the other."""

    _painter: Painter | None = None  # until it is started
    _info: EngineInfo | None = None
    _spare_mb: float | None = None  # of the memory limit, beside what is painted now

    def __init__(self, config: Config, kept: Path | None = None) -> None:
        """Remember what to load; `start` loads it.

        Args:
            config: the whole config.
            kept: an existing folder for Gram matrices of styles; None: each engine computes them anew.
        """
        self._style_targets = StyleTargets(kept and kept / _STYLE_TARGETS)
        self._versions = device.versions()
        onednn = os.environ.get("TF_ENABLE_ONEDNN_OPTS", "")
        self._computing = {"styletransferd": __version__, **self._versions, "onednn": onednn}
        self._options = config.engine
        self._max_megapixels = config.inbox.max_megapixels
        self._preparer = Preparer(self._make_ready)

    def start(self) -> EngineInfo:
        """Choose the device and load the weights; see `Engine.start`."""
        if self._info is None:
            begun = time.perf_counter()
            options = self._options
            chosen = device.choose(options.device, options.precision, options.memory_limit_mb)
            loaded = weights.load(options.weights)
            network = Vgg19(loaded, chosen.precision, chosen.backward)
            exact = None if chosen.precision == "float32" else Vgg19(loaded)
            self._require_room(chosen.name)
            self._painter = Painter(network, exact, self._style_targets)
            self._info = EngineInfo(
                device=chosen.name,
                precision=chosen.precision,
                backward=chosen.backward,
                weights_source=loaded.source,
                weights_sha256=loaded.sha256,
                load_s=round(time.perf_counter() - begun, 3),
                versions=self._versions,
            )
        return self._info

    def _require_room(self, device_name: str) -> None:
        """See that the loaded network is within the limit, since no job would be.

        Raises:
            NotReady: it is not. The figure is rounded: told again, it is the same.
        """
        device.trim()  # of what measuring took
        held_mb, limit_mb = self.held_mb(), self._options.memory_limit_mb
        if limit_mb is not None and not device_name.startswith("GPU") and held_mb > limit_mb:
            raise NotReady(
                f"engine.memory_limit_mb is {limit_mb}, "
                f"and the engine holds about {round(held_mb, -2)} MB before it paints"
            )

    def stylize(
        self, request: Request, is_stopping: Callable[[], bool] = lambda: False
    ) -> Generator[Step, None, None]:
        """Decode the pictures and paint, from the last good checkpoint on; see `Engine.stylize`."""
        info = self.start()
        assert self._painter is not None  # noqa: S101 - just started
        kept = self._checkpoints(request, info)
        device.begin_peak()
        with device.out_of_memory_as_engine_error():
            ready = self._preparer.take(request) or Ready(_decoded(request, self._max_megapixels))
            tile_sizes = self._plan(request, self._works(ready.subject))
            checkpoint, trouble = kept.newest(request.has_frames) if kept else Found(None)
            session = self._painter.begin(
                ready.subject, tile_sizes=tile_sizes, prepared=ready.prepared, resumed=checkpoint
            )
            del checkpoint  # the session lets go of it once it is loaded
            previews = Previews(request.settings.frames, time.monotonic())
            for step in self._steps(session, kept, is_stopping, previews):
                yield _completed(step, request, tile_sizes[-1], step.trouble or trouble)
                trouble = ""

    def _works(self, subject: Subject) -> list[Work]:
        """Describe the work at every scale of a job."""
        sizes = [picture.shape[:2] for picture, _ in subject.styles]
        return memory.works(subject.settings, subject.content.shape[:2], sizes, self.start())

    def _plan(self, request: Request, works: list[Work]) -> list[TileSize]:
        """Choose how to compute every size, and note what that leaves to the next job."""
        asked_mb = request.memory_limit_mb or self._options.memory_limit_mb
        limit_mb = memory.limit_mb(asked_mb, self.start().device, self.held_mb())
        self._spare_mb = (
            None if limit_mb is None else limit_mb / memory.MARGIN - memory.planned_mb(works, limit_mb)
        )
        return [memory.plan(work, limit_mb) for work in works]

    def _steps(
        self, session: Session, kept: Checkpoints | None, is_stopping: Callable[[], bool], previews: Previews
    ) -> Generator[Step, None, None]:
        """Take the steps of a session, with a checkpoint now and then, until told to stop."""
        trouble = ""
        for step in session.steps(previews):
            yield replace(step, trouble=trouble)
            trouble, stops = "", is_stopping()
            if kept and not step.is_replayed and not step.painting and (stops or kept.is_due()):
                trouble = _save(kept, session)
            if stops:
                return

    def _checkpoints(self, request: Request, info: EngineInfo) -> Checkpoints | None:
        """Find the place of a job's checkpoints, which another device, version or setting makes worthless."""
        if request.checkpoints is None:
            return None
        settings = request.settings.model_dump(mode="json", exclude={"priority", "frames", "output"})
        shares = [weight for _, weight in request.styles]
        computed = info.device, info.precision, info.backward, info.weights_sha256, self._computing
        return Checkpoints(request.checkpoints, key(settings, shares, computed), self._options.checkpoint_s)

    def prepare(self, request: Request) -> None:
        """Decode the pictures and compute their targets beside the painting; see `Engine.prepare`."""
        if self._painter is not None:
            self._preparer.begin(request)

    def _make_ready(self, request: Request) -> Ready:
        """Decode a request's pictures, and compute what it begins with, as far as there is room for it.

        Raises:
            MemoryError: not even for the pictures.
        """
        assert self._painter is not None  # noqa: S101 - `prepare` asks only then
        paths = [
            request.content,
            *(path for path, _ in request.styles),
            *([request.init] if request.init else []),
        ]
        spare_mb, decoded_mb = self._spare_mb, memory.decoded_mb([images.header_size(path) for path in paths])
        if spare_mb is not None and decoded_mb > spare_mb:
            raise MemoryError(f"{decoded_mb} MB of pictures")
        subject = _decoded(request, min(self._max_megapixels, _PREPARED_MEGAPIXELS))
        first = self._works(subject)[0]
        is_large = subject.scales()[0].longest > _PREPARED_SIDE_PX
        if is_large or (spare_mb is not None and decoded_mb + memory.targets_mb(first) > spare_mb):
            return Ready(subject)
        return Ready(subject, self._painter.prepare(subject))

    def held_mb(self) -> int:
        """Give this process's resident memory; see `Engine.held_mb`."""
        return resident_bytes(os.getpid()) >> 20

    def stop(self) -> None:
        """Let go of the model."""
        self._painter = None
        self._info = None


def _decoded(request: Request, max_megapixels: float) -> Subject:
    """Decode what a request names; see `images.read`."""
    return Subject(
        content=images.read(request.content, max_megapixels),
        styles=[(images.read(path, max_megapixels), weight) for path, weight in request.styles],
        settings=request.settings,
        init=images.read(request.init, max_megapixels) if request.init else None,
    )


def _completed(step: Step, request: Request, tile_size: TileSize, trouble: str) -> Step:
    """Add to a step what the run does not know of."""
    painting = step.painting and replace(
        step.painting,
        profile=images.icc_profile(request.content),
        computed=str(tile_size),
        memory_peak_mb=device.peak_mb(),
    )
    return replace(step, trouble=trouble, painting=painting)


def _save(kept: Checkpoints, session: Session) -> str:
    """Save a session's state; if the disk does not take it the painting goes on, and the reason is returned."""
    try:
        kept.save(session.checkpoint())
    except OSError as error:
        return f"checkpoint not written: {error.strerror}"
    return ""
