"""The painting of one claim: an engine's steps to rows, frames and progress, then the files of the result."""

from __future__ import annotations

import contextlib
import math
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from daemon import clock, files, images, logs
from daemon.job import Request, printable
from daemon.outbox import curve, record
from daemon.outbox.frames import FrameWriter

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from daemon.engine import Engine
    from daemon.job import EngineInfo, Job, Painting, Step
    from daemon.outbox.publish import Outbox
    from daemon.settings import Settings
    from daemon.spool import Claim

log = logs.get(__name__)

FRAMES: Final = "frames"
_PROGRESS_S: Final = 5.0
_STATE_BYTES: Final = 48  # a pixel of a checkpoint: four float32 pictures
_CHECKPOINTS: Final = 3  # two are kept while one is written


@dataclass(frozen=True)
class Progress:
    """What the running job is doing, for `status`."""

    job_id: str
    name: str
    attempt: int
    iteration: int
    iterations: int
    size_px: int
    loss: float | None
    elapsed_s: float
    iteration_s: float | None
    eta_s: float | None
    started_at: str


class Easel:
    """The painting of one claim: steps to rows, frames and progress, then the files of the result."""

    def __init__(
        self, claim: Claim, outbox: Outbox, show: Callable[[Progress], None], is_unwanted: Callable[[], bool]
    ) -> None:
        assert claim.job.settings is not None  # noqa: S101 - a job without failure has settings
        self._claim = claim
        self._job: Job = claim.job
        self._settings = claim.job.settings
        self._outbox = outbox
        self._show = show
        self._is_unwanted = is_unwanted
        self._rows: list[curve.Row] = []
        self._begun = self._reported = time.monotonic()
        self._fresh: tuple[int, float] | None = None  # the first iteration that was computed now, and when
        self._steps_back = 0
        self._started_at = clock.stamp(clock.utc())

    def paint(self, engine: Engine) -> tuple[bytes, dict[str, Any]] | None:
        """Paint, and write everything that is to be published but result.yaml into the job's `out/`.

        Returns:
            result.yaml and the facts of `job.completed`; None when it ended early because it is no longer
            wanted.

        Raises:
            JobError, EngineError, NotReady: as the engine does.
            OSError: the spool does not take the files.
        """
        info = engine.start()
        entry = self._claim.entry
        _clear(entry.out, keeps_frames=entry.progress > 0)
        log.info("job.started", **self._facts(info))
        writer = FrameWriter(entry.out / FRAMES, self._outbox.live(self._job), self._outbox.check)
        try:
            with contextlib.closing(engine.stylize(self._request(), self._is_unwanted)) as steps:
                painting = self._follow(steps, writer)
        finally:
            writer.close()
        writer.require_all()
        if painting is None:
            return None
        self._write(painting)
        document = record.result(self._job, painting, info, self._claim.attempt, clock.stamp(clock.utc()))
        return document, self._canonical(painting, info)

    def _request(self) -> Request:
        entry, job = self._claim.entry, self._job
        init = job.parts_of("init")
        return Request(
            content=entry.input(job.parts_of("content")[0]),
            styles=tuple((entry.input(part), part.weight) for part in job.parts_of("style")),
            init=entry.input(init[0]) if init else None,
            settings=self._settings,
            checkpoints=entry.checkpoints,
            resume_limit=_resume_limit(entry.out / FRAMES, self._settings),
        )

    def _follow(self, steps: Iterator[Step], writer: FrameWriter) -> Painting | None:
        painting = None
        for step in steps:
            # A larger size begins with the number that the one before ended with, and one name holds one frame.
            is_new = not self._rows or step.iteration > self._rows[-1].iteration
            self._rows.append(
                curve.Row(step.iteration, step.size_px, **vars(step.losses), elapsed_s=step.elapsed_s)
            )
            if step.is_replayed:
                self._steps_back = step.steps_back
                continue
            self._note_turns(step)
            progress = self._progress(step)
            self._show(progress)
            self._report(step, progress)
            writer.put(
                step.iteration if is_new and self._settings.frames.keeps(step.iteration) else None,
                step.picture,
                vars(progress),
            )
            painting = step.painting or painting
        return painting

    def _note_turns(self, step: Step) -> None:
        """Log what is not as on every step: where it went on from, a step back, a checkpoint that failed."""
        if self._fresh is None:
            self._fresh = step.iteration, time.monotonic()
            if len(self._rows) > 1:
                log.info("job.resumed", iteration=step.iteration)
        if step.steps_back > self._steps_back:
            self._steps_back = step.steps_back
            log.warning("job.damped", iteration=step.iteration, reason="the loss was no number")
        if step.trouble:
            log.warning("job.troubled", message=step.trouble)

    def _progress(self, step: Step) -> Progress:
        now = time.monotonic()
        pace_s = self._pace_s(step, now)
        return Progress(
            job_id=self._job.id,
            name=self._job.label,
            attempt=self._claim.attempt,
            iteration=step.iteration,
            iterations=step.iterations,
            size_px=step.size_px,
            loss=step.losses.total,
            elapsed_s=round(now - self._begun, 3),
            iteration_s=None if pace_s is None else round(pace_s, 4),
            eta_s=None if pace_s is None else round(pace_s * (step.iterations - step.iteration), 1),
            started_at=self._started_at,
        )

    def _pace_s(self, step: Step, now: float) -> float | None:
        """Give the seconds an iteration takes, from this attempt's first one on."""
        assert self._fresh is not None  # noqa: S101 - set by this very step
        since, begun = self._fresh
        return (now - begun) / (step.iteration - since) if step.iteration > since else None

    def _report(self, step: Step, progress: Progress) -> None:
        """Log the paper's "Iteration: N": every one at debug, one every five seconds at info."""
        now = time.monotonic()
        is_due = now - self._reported >= _PROGRESS_S
        if is_due:
            self._reported = now
        (log.info if is_due else log.debug)(
            "job.progressed",
            iteration=step.iteration,
            iterations=step.iterations,
            size_px=step.size_px,
            **{f"{name}_loss": value for name, value in vars(step.losses).items()},
            elapsed_s=progress.elapsed_s,
            eta_s=progress.eta_s,
        )

    def _write(self, painting: Painting) -> None:
        out, job, settings = self._claim.entry.out, self._job, self._settings
        name = f"result{images.SUFFIXES[settings.output.format]}"
        files.write(out / name, images.encode(painting.picture, settings.output.format, painting.profile))
        files.write(out / "losses.csv", curve.table(self._rows))
        files.write(out / "losses.png", curve.curve(self._rows, printable(job.stem)))
        frames = sorted((out / FRAMES).glob("*.png"), key=lambda path: int(path.stem))
        if frames and settings.frames.animation != "none":
            film = images.animate(frames, settings.frames.animation)
            files.write(out / FRAMES / f"animation.{settings.frames.animation}", film)

    def _facts(self, info: EngineInfo) -> dict[str, Any]:
        settings = self._settings
        return {
            "attempt": self._claim.attempt,
            "preset": self._job.preset,
            "size": settings.size,
            "iterations": settings.total_iterations,
            "styles": len(self._job.parts_of("style")),
            "device": info.device,
            "precision": info.precision,
        }

    def _canonical(self, painting: Painting, info: EngineInfo) -> dict[str, Any]:
        """Gather the one line an operator filters by."""
        height, width = painting.picture.shape[:2]
        return {
            **self._facts(info),
            "size_px": max(height, width),
            "height_px": height,
            "width_px": width,
            "first_loss": painting.first.total,
            "best_loss": painting.best.total,
            "last_loss": painting.last.total,
            "best_iteration": painting.best_iteration,
            "target_s": round(painting.target_s, 3),
            "loop_s": round(painting.loop_s, 3),
            "elapsed_s": round(time.monotonic() - self._begun, 3),
            "weights_sha256": info.weights_sha256,
        }


def _clear(out: Path, *, keeps_frames: bool) -> None:
    """Make an empty `out/`; the frames stay where a checkpoint may be gone on from."""
    if not keeps_frames:
        files.remove_tree(out)
    files.make_folder(out)
    for item in out.iterdir():
        if item.name != FRAMES:
            files.remove_tree(item)
    files.remove_tree(out / FRAMES / "animation.webp")
    files.remove_tree(out / FRAMES / "animation.gif")


def _resume_limit(frames: Path, settings: Settings) -> int | None:
    """Tell the last iteration up to which no frame is missing; None where no frames are kept."""
    every = settings.frames.every
    if not every:
        return None
    numbers = range(0, settings.total_iterations + 1, every)
    missing = (number for number in numbers if not (frames / f"{number:04d}.png").exists())
    return next(missing, settings.total_iterations + 1) - 1


class Needed(NamedTuple):
    """What a job takes."""

    shown: int  # bytes in the outbox
    kept: int  # bytes in the spool
    entries: int  # files in each


def room_needed(job: Job) -> Needed:
    """Estimate from above what a job takes."""
    dropped = sum(part.size for part in job.parts if part.sha256)
    settings = job.settings
    if settings is None:
        return Needed(dropped, 0, len(job.parts) + 4)
    (content,) = job.parts_of("content")
    scale = 1.0
    if settings.size != "original":
        scale = settings.size / max(content.height_px, content.width_px, 1)
    frames = settings.total_iterations // settings.frames.every + 1 if settings.frames.every else 0
    pixels = math.ceil(content.height_px * content.width_px * scale**2)
    shown = dropped + pixels * 3 * (frames + 2)
    return Needed(shown, shown + pixels * _STATE_BYTES * _CHECKPOINTS, frames + len(job.parts) + 16)
