"""One job, one ending: takes a claim through the engine to the outbox."""

from __future__ import annotations

import functools
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any, Final

import structlog

from daemon import files, images, logs
from daemon.errors import EngineError, Failure, JobError, NotReady, Reason
from daemon.job import Request, printable
from daemon.outbox import curve, record
from daemon.outbox.frames import FrameWriter

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from daemon.config import Config
    from daemon.engine import Engine
    from daemon.job import EngineInfo, Job, Painting, Step
    from daemon.outbox.publish import Outbox
    from daemon.spool import Claim, Entry, Spool

log = logs.get(__name__)

_PROGRESS_S: Final = 5.0
_LOOK_S: Final = 1.0
_RESULT_RECORD: Final = "result.yaml"


class Ending(StrEnum):
    """How one turn of the worker can end."""

    COMPLETED = "completed"
    FAILED = "failed"
    INTERRUPTED = "interrupted"  # by a stop; no attempt used
    CRASHED = "crashed"  # the engine ended; queued again


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
    eta_s: float | None
    started_at: str


class Worker:
    """Works off the queue, one job a turn."""

    def __init__(
        self,
        config: Config,
        spool: Spool,
        engine: Engine,
        outbox: Outbox,
        *,
        is_stopping: Callable[[], bool],
        hold_out: Callable[[str, Callable[[], object]], bool],
    ) -> None:
        """Put the parts together.

        Args:
            config: the whole config.
            spool: where jobs are claimed and ended.
            engine: what paints.
            outbox: where endings are shown.
            is_stopping: whether the service is asked to stop.
            hold_out: runs an action upon a part of the surroundings, and again while they do not allow it;
                False once told to stop.
        """
        self._config = config
        self._spool = spool
        self._engine = engine
        self._outbox = outbox
        self._is_stopping = is_stopping
        self._hold_out = hold_out
        self._looked = 0.0
        self.progress: Progress | None = None

    def turn(self) -> Ending | None:
        """Take the next job to its ending; None when nothing is queued."""
        claim = self._spool.claim()
        if claim is None:
            return None
        with structlog.contextvars.bound_contextvars(job_id=claim.job.id, name=claim.job.label):
            try:
                return self._work(claim)
            finally:
                self.progress = None

    def _work(self, claim: Claim) -> Ending:
        is_painted = (claim.entry.out / _RESULT_RECORD).exists()  # and was kept from the outbox
        failure = claim.entry.failure or (None if is_painted else self._given_up(claim))
        if failure is None and not is_painted:
            try:
                is_painted = self._paint(claim)
            except JobError as error:
                failure = error.failure
            except EngineError as error:
                if claim.attempt < self._config.engine.max_attempts:
                    return self._crashed(claim, error)
                failure = _crash_failure(error, claim.attempt)
            except (NotReady, OSError) as error:
                return self._put_off(claim, error)
        if failure is not None:
            return self._fail(claim, failure)
        return self._publish(claim) if is_painted else self._interrupted(claim)

    def _paint(self, claim: Claim) -> bool:
        """Paint into the job's `out/`; False when it ended early because it is no longer wanted."""
        easel = _Easel(claim, self._outbox, self._show, lambda: self._is_unwanted(claim))
        result = easel.paint(self._engine)
        if result is None:
            return False
        record_, facts = result
        self._spool.keep_facts(claim.entry, facts)
        files.replace(claim.entry.out / _RESULT_RECORD, record_)  # comes last and says that the rest is there
        return True

    def _show(self, progress: Progress) -> None:
        self.progress = progress

    def _given_up(self, claim: Claim) -> Failure | None:
        """Fail what ended the service or the engine too often."""
        if claim.attempt <= self._config.engine.max_attempts:
            return None
        return Failure(
            Reason.ENGINE_CRASHED,
            f"{claim.attempt - 1} attempts ended without a result",
            hint="see the log; retry once the cause is gone",
        )

    def _is_unwanted(self, claim: Claim) -> bool:
        """Whether the running job should end: the service stops, or (looked for once a second) a cancel."""
        if self._is_stopping():
            return True
        now = time.monotonic()
        if now - self._looked < _LOOK_S:
            return False
        self._looked = now
        return claim.entry.is_cancelled

    # Endings

    def _publish(self, claim: Claim) -> Ending:
        """Show the result and end the job, as often as it takes."""
        facts = claim.entry.facts

        def publish() -> None:
            path = self._outbox.publish(claim.job, claim.entry.out)
            log.info("outbox.published", path=str(path))
            self._spool.complete(claim)
            log.info("job.completed", **facts, path=str(path))

        return Ending.COMPLETED if self._hold_out("outbox", publish) else self._interrupted(claim)

    def _fail(self, claim: Claim, failure: Failure) -> Ending:
        """Show a failure and end the job, as often as it takes."""
        if not self._hold_out("outbox", lambda: self._end_failed(claim.entry, failure)):
            return Ending.INTERRUPTED  # it stays in running/ with its failure on record, for recovery
        return Ending.FAILED

    def fail_now(self, entry: Entry, failure: Failure) -> bool:
        """End a job of another thread, which lies in `running/`; where that fails, it waits in the queue.

        Returns:
            Whether it ended; if not, the worker ends it when its turn comes.
        """
        try:
            self._end_failed(entry, failure)
        except (NotReady, OSError) as error:
            self._spool.requeue(entry, "interrupted", str(error))
            return False
        return True

    def _end_failed(self, entry: Entry, failure: Failure) -> None:
        job, attempt = entry.job, entry.attempts_used
        assert job is not None  # noqa: S101 - an unreadable job is never claimed
        if entry.folder.exists():  # else it was shown and moved before, and only the end of that failed
            self._spool.note_failure(entry, failure)
            document = record.error(job, failure, attempt, _now(), versions())
            self._outbox.publish_failure(job, document, entry.inputs)
        self._spool.fail(entry, failure)
        log.error(
            "job.failed",
            job_id=entry.id,
            name=entry.label,
            reason=failure.reason.value,
            message=failure.message,
            hint=failure.hint,
            attempt=attempt,
        )

    def _interrupted(self, claim: Claim) -> Ending:
        if claim.entry.is_cancelled:
            return self._fail(claim, Failure(Reason.CANCELLED, "cancelled by an operator"))
        self._requeue(claim, "interrupted", "the service was stopped")
        log.info("job.interrupted", attempt=claim.attempt, reason="stop")
        return Ending.INTERRUPTED

    def _put_off(self, claim: Claim, error: Exception) -> Ending:
        """Queue a job again that the surroundings did not allow, and wait until they might."""
        self._requeue(claim, "interrupted", str(error))
        log.warning("spool.requeued", attempt=claim.attempt, reason="not_ready", message=str(error))
        raise NotReady(str(error)) from error

    def _crashed(self, claim: Claim, error: EngineError) -> Ending:
        self._requeue(claim, "crashed", error.message)
        log.warning(
            "spool.requeued",
            attempt=claim.attempt,
            max_attempts=self._config.engine.max_attempts,
            reason=error.reason.value,
            message=error.message,
        )
        return Ending.CRASHED

    def _requeue(self, claim: Claim, event: str, reason: str) -> None:
        """Give a claim back, as often as it takes, or no one would work on it before the next start."""
        self._hold_out("spool", lambda: self._spool.requeue(claim.entry, event, reason))


class _Easel:
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
        self._started_at = _now()

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
        out = self._claim.entry.out
        files.remove_tree(out)
        out.mkdir()
        log.info("job.started", **self._facts(info))
        writer = FrameWriter(out / "frames", self._outbox.live(self._job), self._outbox.check)
        try:
            painting = self._follow(engine.stylize(self._request(), self._is_unwanted), writer)
        finally:
            writer.close()
        if painting is None:
            return None
        self._write(painting)
        document = record.result(self._job, painting, info, self._claim.attempt, _now())
        return document, self._canonical(painting, info)

    def _request(self) -> Request:
        entry, job = self._claim.entry, self._job
        init = job.parts_of("init")
        return Request(
            content=entry.input(job.parts_of("content")[0]),
            styles=tuple((entry.input(part), part.weight) for part in job.parts_of("style")),
            init=entry.input(init[0]) if init else None,
            settings=self._settings,
        )

    def _follow(self, steps: Iterator[Step], writer: FrameWriter) -> Painting | None:
        painting = None
        for step in steps:
            self._rows.append(
                curve.Row(step.iteration, step.size_px, **vars(step.losses), elapsed_s=step.elapsed_s)
            )
            progress = self._progress(step)
            self._show(progress)
            self._report(step, progress)
            writer.put(
                step.iteration if self._settings.frames.keeps(step.iteration) else None,
                step.picture,
                vars(progress),
            )
            painting = step.painting or painting
        return painting

    def _progress(self, step: Step) -> Progress:
        elapsed = time.monotonic() - self._begun
        left = step.iterations - step.iteration
        return Progress(
            job_id=self._job.id,
            name=self._job.label,
            attempt=self._claim.attempt,
            iteration=step.iteration,
            iterations=step.iterations,
            size_px=step.size_px,
            loss=step.losses.total,
            elapsed_s=round(elapsed, 3),
            eta_s=round(elapsed / step.iteration * left, 1) if step.iteration else None,
            started_at=self._started_at,
        )

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
        profile = images.icc_profile(self._claim.entry.input(job.parts_of("content")[0]))
        name = f"result{images.SUFFIXES[settings.output.format]}"
        files.write(out / name, images.encode(painting.picture, settings.output.format, profile))
        files.write(out / "losses.csv", curve.table(self._rows))
        files.write(out / "losses.png", curve.curve(self._rows, printable(job.stem)))
        frames = sorted((out / "frames").glob("*.png"), key=lambda path: int(path.stem))
        if frames and settings.frames.animation != "none":
            film = images.animate(frames, settings.frames.animation)
            files.write(out / "frames" / f"animation.{settings.frames.animation}", film)

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


def _crash_failure(error: EngineError, attempt: int) -> Failure:
    hints = {
        Reason.OUT_OF_MEMORY: "use a smaller size",
        Reason.TIMED_OUT: "use fewer iterations or a smaller size, or raise engine.job_timeout_s",
    }
    hint = hints.get(error.reason, "see the log; retry once the cause is gone")
    message = f"{error.message} (attempt {attempt})"
    return Failure(error.reason, message, hint=hint, last_lines=error.last_lines)


@functools.cache
def versions() -> dict[str, str]:
    """Name the installed programs without importing them."""
    found = {}
    for name in ("styletransferd", "tensorflow", "keras", "numpy", "pillow"):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds")
