"""The engine in this process: used by `stylize`, by the child, and by tests."""

from __future__ import annotations

import gc
import os
import time
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

from daemon import __version__, images
from daemon.engine.checkpoints import Checkpoints, key
from daemon.engine.gains import FILE_NAME, Gains
from daemon.engine.gram_cache import StyleTargets
from daemon.engine.limits import resident_bytes
from daemon.engine.prefetch import Preparer
from daemon.errors import NotReady
from daemon.job import EngineInfo
from daemon.transfer import memory, weights
from daemon.transfer.backend import device
from daemon.transfer.memory import LADDER
from daemon.transfer.painter import Painter
from daemon.transfer.targets import Subject
from daemon.transfer.vgg19 import Vgg19

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Sequence
    from pathlib import Path

    from daemon.config import Config
    from daemon.job import Request, Step
    from daemon.settings import Frames
    from daemon.transfer.memory import Rung, Work
    from daemon.transfer.painter import Prepared
    from daemon.transfer.run import Checkpoint, Run

# At least so often a picture leaves the engine, so that people see how it comes along.
PREVIEW_S = 5.0
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
            kept: an existing folder for Gram matrices of styles, and for gains that were measured; None: they
                are computed and measured by each engine anew.
        """
        self._style_targets = StyleTargets(kept and kept / _STYLE_TARGETS)
        self._versions = device.versions()
        onednn = os.environ.get("TF_ENABLE_ONEDNN_OPTS", "")
        # What the choice of the convolutions' kernels depends on, as far as it is told, beside the device.
        self._computing = {"styletransferd": __version__, **self._versions, "onednn": onednn}
        self._gains = Gains(kept and kept / FILE_NAME, self._computing)
        self._options = config.engine
        self._max_megapixels = config.inbox.max_megapixels
        self._preparer = Preparer(self._make_ready)

    def start(self) -> EngineInfo:
        """Choose the device and load the weights; see `Engine.start`."""
        if self._info is None:
            begun = time.perf_counter()
            chosen = device.choose(
                self._options.device, self._options.precision, self._options.memory_limit_mb, self._gains.get
            )
            loaded = weights.load(self._options.weights)
            precision = chosen.precision
            network = Vgg19(loaded, precision.name, is_turned=chosen.backward.is_turned)
            exact = None if precision.name == "float32" else Vgg19(loaded)
            self._require_room(chosen.name)
            self._painter = Painter(network, exact, self._style_targets)
            self._info = EngineInfo(
                device=chosen.name,
                precision=precision.name,
                precision_gain=precision.gain,
                is_turned=chosen.backward.is_turned,
                backward_gain=chosen.backward.gain,
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
        kept = self._checkpoints(request, info)
        device.begin_peak()
        with device.out_of_memory_as_engine_error():
            ready = self._preparer.take(request) or Ready(_decoded(request, self._max_megapixels))
            yield from self._descend_ladder(request, ready, kept, is_stopping)

    def _descend_ladder(
        self, request: Request, ready: Ready, kept: Checkpoints | None, is_stopping: Callable[[], bool]
    ) -> Generator[Step, None, None]:
        """Paint; where memory runs out, free what can be freed, then go on in smaller pieces."""
        assert self._painter is not None  # noqa: S101 - `stylize` has started it
        rungs = self._plan(request, self._painter.works(ready.subject))
        resumed = _newest(kept, request, ())
        told: list[int] = []
        trouble, is_freed = "", False
        while True:
            run = self._painter.begin(
                ready.subject,
                prepared=ready.prepared,
                wants_picture=wants_picture(request.settings.frames),
                resumed=resumed,
                told=len(told) if is_freed else None,
                rungs=rungs,
            )
            resumed = None  # the run lets go of it once it has taken it in
            try:
                for number, step in enumerate(self._steps(run, kept, is_stopping)):
                    if number < len(told):
                        continue  # told before memory ran out
                    told.append(step.iteration)
                    said = "" if step.is_replayed else trouble or step.trouble
                    yield _completed(step, request, rungs[-1], said)
                    trouble = trouble if step.is_replayed else ""
            except device.OUT_OF_MEMORY:
                if is_freed and rungs[-1] == LADDER[-1]:
                    raise
                resumed = run.checkpoint() if run.is_takeable else None
            else:
                return
            del run  # and with the error's traceback, all that it held
            if is_freed:
                rungs = [_below(rung) for rung in rungs]
            self._free()
            is_freed, trouble = True, f"memory ran out; going on: {rungs[-1]}"
            resumed = resumed or _newest(kept, request, told)

    def _plan(self, request: Request, works: list[Work]) -> list[Rung]:
        """Choose how to compute every size, and note what that leaves to the next job."""
        asked_mb = request.memory_limit_mb or self._options.memory_limit_mb
        limit_mb = memory.limit_mb(asked_mb, self.start().device, self.held_mb())
        self._spare_mb = (
            None if limit_mb is None else limit_mb / memory.MARGIN - memory.planned_mb(works, limit_mb)
        )
        return [memory.plan(work, limit_mb) for work in works]

    def _steps(
        self, run: Run, kept: Checkpoints | None, is_stopping: Callable[[], bool]
    ) -> Generator[Step, None, None]:
        """Take the steps of a run, with a checkpoint now and then, until told to stop."""
        trouble = ""
        for step in run.steps():
            yield replace(step, trouble=trouble)
            trouble, stops = "", is_stopping()
            if kept and not step.is_replayed and not step.painting and (stops or kept.is_due()):
                trouble = _save(kept, run)
            if stops:
                return

    def _free(self) -> None:
        """Let go of everything that is only kept to be faster."""
        self._style_targets.forget()
        self._preparer.forget()
        gc.collect()
        device.trim()

    def _checkpoints(self, request: Request, info: EngineInfo) -> Checkpoints | None:
        """Find the place of a job's checkpoints, which another device, version or setting makes worthless."""
        if request.checkpoints is None:
            return None
        settings = request.settings.model_dump(mode="json", exclude={"priority", "frames", "output"})
        shares = [weight for _, weight in request.styles]
        computed = info.device, info.precision, info.is_turned, info.weights_sha256, self._computing
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
        first = self._painter.works(subject)[0]
        is_large = subject.legs()[0].longest > _PREPARED_SIDE_PX
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


def _completed(step: Step, request: Request, rung: Rung, trouble: str) -> Step:
    """Add to a step what the run does not know of."""
    painting = step.painting and replace(
        step.painting,
        profile=images.icc_profile(request.content),
        computed=str(rung),
        memory_peak_mb=device.peak_mb(),
    )
    return replace(step, trouble=trouble, painting=painting)


def _newest(kept: Checkpoints | None, request: Request, told: Sequence[int]) -> Checkpoint | None:
    """Take the newest checkpoint with all its frames: those of the steps before it are not told again.

    Args:
        kept: the job's, if it keeps any.
        request: knows the frames on disk.
        told: iterations whose frames are on their way there.
    """
    if kept is None:
        return None
    known = request if request.frames is None else replace(request, frames=request.frames.union(told))
    return kept.newest(known.has_frames)


def _below(rung: Rung) -> Rung:
    return LADDER[min(LADDER.index(rung) + 1, len(LADDER) - 1)]


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
