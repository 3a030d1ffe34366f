"""The painting of one claim: an engine's steps to rows, frames and progress, then the files of the result."""

from __future__ import annotations

import contextlib
import math
import time
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from daemon import clock, files, images, logs
from daemon.errors import EngineError
from daemon.job import Plan, Request, printable
from daemon.lifeline import Lifeline
from daemon.outbox import loss_table, record
from daemon.outbox.frames import FrameWriter
from daemon.settings import scaled
from daemon.transfer import optimizer_memory

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from daemon.engine import Engine
    from daemon.job import EngineInfo, Job, Painting, Step
    from daemon.outbox.publish import Outbox
    from daemon.settings import Scale
    from daemon.spool import Claim, StoredJob

log = logs.get(__name__)

FRAMES: Final = "frames"
_PROGRESS_S: Final = 5.0
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


class _Fresh(NamedTuple):
    """The first step that was computed now, not replayed."""

    iteration: int
    at: float  # monotonic seconds
    step_s: float  # that it took


class PolledLifeline(Lifeline):
    """A lifeline that asks a callable whether to stop; each call is a heartbeat."""

    def __init__(self, tell: Callable[[], bool]) -> None:
        """Remember what to ask."""
        super().__init__()
        self._tell = tell

    @property
    def is_stopping(self) -> bool:
        """Whether the thread should end."""
        return self._tell()

    def beat(self) -> None:
        """Ask, for the heartbeat."""
        self._tell()


class Easel:
    """The painting of one claim: steps to rows, frames and progress, then the files of the result."""

    def __init__(
        self,
        claim: Claim,
        outbox: Outbox,
        show: Callable[[Progress], None],
        is_unwanted: Callable[[], bool],
        *,
        follows: float | None = None,
        is_prepared: bool = False,
    ) -> None:
        """Set it up; nothing is done yet.

        Args:
            claim: of the job.
            outbox: where its progress is shown.
            show: told of every step that is computed.
            is_unwanted: whether the painting should end early.
            follows: the last step of the job before (monotonic seconds), where this one waited for it.
            is_prepared: whether the engine was told of this job before.
        """
        assert claim.job.settings is not None  # noqa: S101 - a job without failure has settings
        self._claim = claim
        self._job: Job = claim.job
        self._settings = claim.job.settings
        self._outbox = outbox
        self._show = show
        self._is_unwanted = is_unwanted
        self._has_told = False  # the engine to end early
        self._follows = follows
        self._is_prepared = is_prepared
        self._writer: FrameWriter | None = None
        self._painting: Painting | None = None
        self._info: EngineInfo | None = None
        self._rows: list[loss_table.Row] = []
        self._begun = self._reported = self.last_step = time.monotonic()
        self._fresh: _Fresh | None = None
        self._steps_back = 0
        self._estimate_mb: int | None = None
        self._started_at = clock.stamp(clock.utc())

    def paint(self, engine: Engine) -> bool:
        """Take every step, with rows, frames and progress.

        Returns:
            Whether there is a painting to `finish`; if not, it ended early because it is no longer wanted.

        Raises:
            JobError, EngineError, NotReady: as the engine does; EngineError also where it ends early untold.
            OSError: the spool does not take the frames.
        """
        life = PolledLifeline(self._tell)
        self._info = engine.start(life)
        entry = self._claim.entry
        _clear(entry.out, keeps_frames=entry.progress > 0)
        request = replace(request_for(entry, self._job), smaller=entry.times_exhausted)
        writer = FrameWriter(entry.out / FRAMES, self._outbox.live(self._job), self._outbox.check)
        try:
            with contextlib.closing(engine.stylize(request, life)) as steps:
                self._painting = self._follow(steps, writer)
            self._writer = writer
        finally:
            if self._painting is None:
                writer.close(self._tell)
        if self._painting is None:
            writer.require_all()
            if not self._has_told:
                raise EngineError("the engine ended without a picture")
        return self._painting is not None

    def _tell(self) -> bool:
        """Tell the engine whether to end early; once told so, it stays told."""
        self._has_told = self._is_unwanted() or self._has_told
        return self._has_told

    def finish(self, breathe: Callable[[], None] = lambda: None) -> tuple[bytes, dict[str, Any]]:
        """Write everything that is to be published but result.yaml into the job's `out/`.

        Args:
            breathe: called between the pieces, which may end it.

        Returns:
            result.yaml and the facts of `job.completed`.

        Raises:
            JobError: the format holds no such picture.
            OSError: the spool does not take the files.
        """
        assert self._writer is not None  # noqa: S101 - only called after `paint`
        assert self._painting is not None  # noqa: S101
        assert self._info is not None  # noqa: S101
        painting, info = self._painting, self._info
        self._writer.close(breathe)
        self._writer.require_all()
        self._write(painting, breathe)
        document = record.result(
            self._job,
            painting,
            info,
            self._claim.attempt,
            clock.stamp(clock.utc()),
            iterations=loss_table.iterations(self._rows),
            memory_estimate_mb=self._estimate_mb,
        )
        return document, self._canonical(painting, info)

    def _follow(self, steps: Iterator[Plan | Step], writer: FrameWriter) -> Painting | None:
        painting = None
        for step in steps:
            if isinstance(step, Plan):
                self._note_plan(step)
                continue
            self.last_step = time.monotonic()
            # A larger size begins with the number that the one before ended with, and one name holds one frame.
            is_new = not self._rows or step.iteration > self._rows[-1].iteration
            self._rows.append(
                loss_table.Row(step.iteration, step.size_px, **vars(step.losses), elapsed_s=step.elapsed_s)
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

    def _note_plan(self, plan: Plan) -> None:
        """Log the start, and where memory may run out."""
        self._estimate_mb = plan.memory_estimate_mb
        if self._info is not None:
            log.info("job.started", **self._facts(self._info))
        if plan.warning:
            log.warning("job.troubled", message=plan.warning)

    def _note_turns(self, step: Step) -> None:
        """Log what is not as on every step: where it went on from, a step back, a trouble."""
        if self._fresh is None:
            self._fresh = _Fresh(step.iteration, time.monotonic(), step.step_s)
            if len(self._rows) > 1:
                log.info("job.resumed", iteration=step.iteration)
        if step.steps_back > self._steps_back:
            self._steps_back = step.steps_back
            log.warning("job.damped", iteration=step.iteration, reason="the loss was no number")
        if step.restart:
            log.info("job.restarted", iteration=step.iteration, reason=step.restart)
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
            eta_s=self._eta_s(step, now),
            started_at=self._started_at,
        )

    def _pace_s(self, step: Step, now: float) -> float | None:
        """Give the seconds an iteration takes, from this attempt's first one on."""
        assert self._fresh is not None  # noqa: S101 - set by this very step
        done = step.iteration - self._fresh.iteration
        return (now - self._fresh.at) / done if done else None

    def _eta_s(self, step: Step, now: float) -> float | None:
        """Give the seconds that are left; a step at twice the size takes four times as long."""
        assert self._fresh is not None  # noqa: S101 - set by this very step
        road = self._job.scales
        so_far, total = _work(road, step.iteration), _work(road, step.iterations)
        done = so_far - _work(road, self._fresh.iteration)
        return round((now - self._fresh.at) / done * (total - so_far), 1) if done else None

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

    def _write(self, painting: Painting, breathe: Callable[[], None]) -> None:
        out, job, settings = self._claim.entry.out, self._job, self._settings
        breathe()
        name = f"result{images.SUFFIXES[settings.output.format]}"
        files.write(out / name, images.encode(painting.picture, settings.output.format, painting.profile))
        breathe()
        files.write(out / "losses.csv", loss_table.table(self._rows))
        files.write(out / "losses.png", loss_table.curve(self._rows, printable(job.stem)))
        frames = self._own_frames(out / FRAMES)
        if frames and settings.frames.animation != "none":
            film = images.animate(frames, settings.frames.animation, breathe)
            files.write(out / FRAMES / f"animation.{settings.frames.animation}", film)

    def _own_frames(self, folder: Path) -> list[Path]:
        """Give this painting's frames in order; strays of an earlier attempt are removed."""
        made = {row.iteration for row in self._rows if self._settings.frames.keeps(row.iteration)}
        frames = _frames(folder)
        for iteration in frames.keys() - made:
            files.remove_tree(frames.pop(iteration))
        return list(frames.values())

    def _facts(self, info: EngineInfo) -> dict[str, Any]:
        settings = self._settings
        return {
            "attempt": self._claim.attempt,
            "preset": self._job.preset,
            "size": settings.size,
            "iterations": self._job.total_iterations,
            "styles": len(self._job.parts_of("style")),
            "device": info.device,
            "precision": info.precision,
            "memory_estimate_mb": self._estimate_mb,
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
            "elapsed_s": round(self.last_step - self._begun, 3),
            "gap_s": self._gap_s(),
            "prepared": self._is_prepared,
            "memory_peak_mb": painting.memory_peak_mb,
            "computed": painting.computed,
            "weights_sha256": info.weights_sha256,
        }

    def _gap_s(self) -> float | None:
        """Give the seconds from the last step of the job before to where this one's first step was begun."""
        if self._follows is None or self._fresh is None:
            return None
        return round(self._fresh.at - self._fresh.step_s - self._follows, 3)


def request_for(entry: StoredJob, job: Job) -> Request:
    """Ask for a job's picture; one without failure, since it has settings."""
    assert job.settings is not None  # noqa: S101 - see above
    init = job.parts_of("init")
    return Request(
        content=entry.input(job.parts_of("content")[0]),
        styles=tuple((entry.input(part), part.weight) for part in job.parts_of("style")),
        init=entry.input(init[0]) if init else None,
        settings=job.settings,
        checkpoints=entry.checkpoints,
        frames=frozenset(_frames(entry.out / FRAMES)),
    )


def _frames(folder: Path) -> dict[int, Path]:
    """Find the frames on disk by iteration, in order."""
    found = {int(path.stem): path for path in folder.glob("*.png")}
    return dict(sorted(found.items()))


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


def _work(road: tuple[Scale, ...], iteration: int) -> float:
    """Measure the way to an iteration, in steps at 1 px."""
    work, left = 0.0, iteration
    for scale in road:
        here = min(left, scale.iterations)
        work += here * float(scale.size) ** 2
        left -= here
    return work


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
    frames = job.total_iterations // settings.frames.every + 1 if settings.frames.every else 0
    pixels = math.prod(scaled(content.height_px, content.width_px, job.scales[-1].size))
    shown = dropped + pixels * 3 * (frames + 2)
    state = optimizer_memory.state_bytes(settings.optimizer, pixels)
    return Needed(shown, shown + state * _CHECKPOINTS, frames + len(job.parts) + 16)
