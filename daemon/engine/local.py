"""The engine in this process: used by `stylize`, by the child, and by tests."""

from __future__ import annotations

import gc
import os
import time
from dataclasses import replace
from typing import TYPE_CHECKING, Final, NamedTuple

import numpy as np

from daemon import __version__
from daemon.engine import memory, protection, sheet
from daemon.engine.checkpoints import Checkpoints, Found, key
from daemon.engine.limits import resident_mb
from daemon.engine.prefetch import Prefetcher, pictures
from daemon.engine.session import Painter, Previews
from daemon.engine.style_cache import StyleCache
from daemon.errors import EngineError, NotReady
from daemon.job import EngineInfo, Style
from daemon.lifeline import Lifeline
from daemon.pictures import decoding, encoding, resampling
from daemon.transfer import weights
from daemon.transfer.backend import device, footprint
from daemon.transfer.scales import Subject
from daemon.transfer.vgg19 import Vgg19

if TYPE_CHECKING:
    from collections.abc import Generator
    from pathlib import Path

    from daemon.config import Config
    from daemon.engine.memory import Size, Work
    from daemon.engine.session import Session
    from daemon.job import DeepPicture, Picture, Plan, Request, Step
    from daemon.transfer.losses import Targets

# Nothing larger is decoded, or computed, ahead: it would take memory from the running painting.
_PREPARED_MEGAPIXELS: Final = 50.0
_PREPARED_SIDE_PX: Final = 1024
_NEVER_STOPPED: Final = Lifeline()


class Ready(NamedTuple):
    """A job decoded, and its first targets if they could be computed ahead."""

    subject: Subject
    shown: tuple[Picture, ...]  # content and styles, reduced for people
    prepared: Targets | None = None

    @classmethod
    def of(cls, subject: Subject) -> Ready:
        """Reduce a job's pictures, before the painting needs the memory."""
        pictures = [subject.content, *(style.image for style in subject.styles)]
        return cls(subject, tuple(resampling.reduced(picture, resampling.SHOWN_PX) for picture in pictures))


class LocalEngine:
    """Loads the network once and paints one picture after the other."""

    def __init__(self, config: Config, kept: Path | None = None) -> None:
        """Remember what to load; styles' Gram matrices are kept in an existing folder, or not at all."""
        self._style_store = StyleCache(kept / "style-targets") if kept else None
        self._options = config.engine
        self._max_megapixels = config.inbox.max_megapixels
        self._prefetcher = Prefetcher(self.make_ready)
        self._loaded: tuple[Painter, EngineInfo] | None = None
        self._spare_mb: float | None = None  # of the memory limit, beside the running job

    def start(self, life: Lifeline = _NEVER_STOPPED) -> EngineInfo:  # noqa: ARG002 - loading takes seconds
        """Choose the device and load the weights; see `Engine.start`."""
        return self._load()[1]

    def _load(self) -> tuple[Painter, EngineInfo]:
        if self._loaded is None:
            begun = time.perf_counter()
            options = self._options
            chosen = device.choose(options.device, options.precision, options.memory_limit_mb)
            loaded = weights.load(options.weights)
            network = Vgg19(loaded, chosen.precision, chosen.backward)
            exact = None if chosen.precision == "float32" else Vgg19(loaded)
            self._require_room(chosen.name)
            info = EngineInfo(
                device=chosen.name,
                precision=chosen.precision,
                backward=chosen.backward,
                weights_source=loaded.source,
                weights_sha256=loaded.sha256,
                load_s=round(time.perf_counter() - begun, 3),
                versions=device.versions(),
            )
            self._loaded = (Painter(network, exact, self._style_store), info)
        return self._loaded

    def _require_room(self, device_name: str) -> None:
        """Raise NotReady if the loaded network alone is beyond the memory limit, as then every job would be."""
        held_mb, limit_mb = resident_mb(os.getpid()), self._options.memory_limit_mb
        if limit_mb is not None and not device_name.startswith("GPU") and held_mb > limit_mb:
            # Rounded, so that the message does not change from try to try.
            held = f"the engine holds about {round(held_mb, -2)} MB before it paints"
            raise NotReady(f"engine.memory_limit_mb is {limit_mb}, and {held}")

    def stylize(self, request: Request, life: Lifeline = _NEVER_STOPPED) -> Generator[Plan | Step, None, None]:
        """Plan, decode the pictures and paint, from the last good checkpoint on; see `Engine.stylize`."""
        painter, info = self._load()
        footprint.begin_peak()
        try:
            with footprint.out_of_memory_as_engine_error():
                yield from self._paint(painter, info, request, life)
                return
        except EngineError as error:
            exhausted = EngineError(error.message, error.reason)
        self._prefetcher.forget()  # after the error is gone, whose traceback holds the picture's tensors
        gc.collect()
        footprint.trim()
        raise exhausted

    def _paint(
        self, painter: Painter, info: EngineInfo, request: Request, life: Lifeline, ready: Ready | None = None
    ) -> Generator[Plan | Step, None, None]:
        ready = ready or self._prefetcher.take(request) or Ready.of(_decoded(request, self._max_megapixels))
        if request.sheet:
            shown = ready.shown
            yield from sheet.paint(
                request,
                ready.subject,
                lambda one, its: self._paint(painter, info, one, life, Ready(its, shown)),
            )
            return
        works = _works(ready.subject, info)
        tile_sizes, plan, self._spare_mb = memory.plan(works, self._limit_mb(info), request.smaller)
        yield plan
        kept = self._checkpoints(request, info)
        checkpoint, trouble = kept.newest(request.has_frames) if kept else Found(None)
        session = painter.begin(
            ready.subject, tile_sizes=tile_sizes, prepared=ready.prepared, resumed=checkpoint
        )
        del checkpoint  # the session drops it as well, once it is loaded
        for step in session.steps(Previews(request.settings.frames, time.monotonic())):
            yield _completed(step, request, ready, plan.computed, trouble)
            trouble, is_stopping = "", life.is_stopping
            if kept and not step.is_replayed and not step.painting and (is_stopping or kept.is_due()):
                trouble = _save(kept, session)
            if is_stopping:
                return

    def _limit_mb(self, info: EngineInfo) -> int | None:
        """Give the most memory that this process may take, on a GPU of the GPU's; None: not known."""
        if self._options.memory_limit_mb is not None:
            return self._options.memory_limit_mb
        if info.device.startswith("GPU:"):
            return footprint.available_gpu_mb(int(info.device.removeprefix("GPU:").partition(" ")[0]))
        return memory.available_mb(resident_mb(os.getpid()))

    def _checkpoints(self, request: Request, info: EngineInfo) -> Checkpoints | None:
        """Find the job's checkpoints; those of another device, version or setting do not count."""
        if request.checkpoints is None:
            return None
        settings = request.settings.model_dump(mode="json", exclude={"priority", "frames", "output"})
        shares = [(style.weight, style.scale) for style in request.styles]
        onednn = os.environ.get("TF_ENABLE_ONEDNN_OPTS", "")
        software = {"styletransferd": __version__, **info.versions, "onednn": onednn}
        computed = info.device, info.precision, info.backward, info.weights_sha256, software
        kept_key = key(settings, shares, request.faces, computed)
        return Checkpoints(request.checkpoints, kept_key, self._options.checkpoint_s)

    def prepare(self, request: Request) -> None:
        """Decode the pictures and compute their targets during another painting; see `Engine.prepare`."""
        if self._loaded is not None:
            self._prefetcher.begin(request)

    def make_ready(self, request: Request) -> Ready:
        """Decode a request's pictures, and compute what it begins with, as far as there is room for it.

        MemoryError if there is no room even for the pictures.
        """
        (painter, info), spare_mb = self._load(), self._spare_mb
        decoded_mb = memory.decoded_mb([decoding.header_size(path) for path in pictures(request)])
        if spare_mb is not None and decoded_mb > spare_mb:
            raise MemoryError(f"{decoded_mb} MB of pictures")
        ready = Ready.of(_decoded(request, min(self._max_megapixels, _PREPARED_MEGAPIXELS)))
        subject = ready.subject
        targets_mb = memory.targets_mb(_works(subject, info)[0])
        is_large = subject.scales()[0].longest > _PREPARED_SIDE_PX
        if is_large or (spare_mb is not None and decoded_mb + targets_mb > spare_mb):
            return ready
        return ready._replace(prepared=painter.prepare(subject))

    def stop(self) -> None:
        """Free the model."""
        self._loaded = None


def _works(subject: Subject, info: EngineInfo) -> list[Work]:
    sizes = [style.image.shape[:2] for style in subject.styles]
    styles = list(zip(sizes, subject.style_factors(), strict=True))
    return memory.works(subject.settings, subject.content.shape[:2], styles, info, subject.regions)


def _decoded(request: Request, max_megapixels: float) -> Subject:
    """Decode what a request names; see `decoding.decode`."""
    settings = request.settings
    decoded = decoding.decode(request.content, max_megapixels)
    content = decoded.over(settings.background)
    keeps_alpha = settings.alpha == "keep" and settings.output.format in encoding.WITH_ALPHA
    return Subject(
        content=content,
        styles=[_style(style, request, decoded.size, max_megapixels) for style in request.styles],
        settings=settings,
        init=decoding.read(request.init, max_megapixels) if request.init else None,
        protection=protection.of(request, content, max_megapixels),
        alpha=decoded.alpha if keeps_alpha else None,
    )


def _style(style: Style[Path], request: Request, content: Size, max_megapixels: float) -> Style[Picture]:
    """Decode a painting and its masks; what is transparent in it counts as little as the black of its mask."""
    decoded = decoding.decode(style.image, max_megapixels)
    decoded = decoded if style.mask else decoded.cropped()  # a mask has the shape of the whole painting
    mask = decoded.alpha
    if style.mask is not None:
        drawn = protection.levels(style.mask, decoded.size, max_megapixels)
        mask = drawn if mask is None else np.minimum(resampling.resize(mask, *drawn.shape), drawn)
    region = None if style.region is None else protection.levels(style.region, content, max_megapixels)
    return Style(decoded.over(request.settings.background), style.weight, style.scale, mask, region)


def _completed(step: Step, request: Request, ready: Ready, computed: str, trouble: str) -> Step:
    """Add to a step what the session does not know."""
    painting, alpha = step.painting, ready.subject.alpha
    if painting is not None:
        exif = encoding.carried_exif(request.content, request.settings.output.metadata)
        picture = painting.picture if alpha is None else _with_alpha(painting.picture, alpha)
        painting = replace(
            painting,
            picture=picture,
            exif=exif,
            computed=computed,
            memory_peak_mb=footprint.peak_mb(),
            inputs=ready.shown,
        )
    return replace(step, painting=painting, trouble=trouble)


def _with_alpha(picture: Picture | DeepPicture, alpha: Picture) -> Picture | DeepPicture:
    """Add the content's alpha channel, (h, w), at the size and in the depth of the picture: (H, W, 4)."""
    alpha = resampling.resize(alpha, *picture.shape[:2])
    most = np.iinfo(picture.dtype).max
    return np.dstack([picture, alpha.astype(picture.dtype) * (most // np.iinfo(alpha.dtype).max)])


def _save(kept: Checkpoints, session: Session) -> str:
    """Save a session's state; if the disk does not take it the painting goes on, and the reason is returned."""
    try:
        kept.save(session.checkpoint())
    except OSError as error:
        return f"checkpoint not written: {error.strerror}"
    return ""
