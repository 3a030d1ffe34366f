"""One attempt at one claim: the engine's steps become rows, frames and progress, and at the end a painting.

Beside it, the attempts of this run: how far each running one is, and how the others ended.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections import Counter
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final

from daemon import clock, files, logs
from daemon.errors import EngineError
from daemon.job import Plan
from daemon.outbox import loss_table
from daemon.outbox.frames import FrameWriter
from daemon.worker.lookahead import request_for, settings_of
from daemon.worker.outcomes import Interrupted, Painted
from daemon.worker.pace import Pace

if TYPE_CHECKING:
    from collections.abc import Iterator

    from daemon.engine import Engine
    from daemon.job import EngineInfo, Painting, Step
    from daemon.lifeline import Lifeline
    from daemon.outbox.publish import Outbox
    from daemon.spool import Claim, StoredJob
    from daemon.worker.lookahead import LookAhead
    from daemon.worker.outcomes import Ending
    from daemon.worker.pace import Rates

log = logs.get(__name__)

_PROGRESS_S: Final = 5.0
# The shares of a job after which the engine gets a hint of the next one: a late one for what came meanwhile.
_LOOKS_AHEAD: Final = (0.0, 0.75)


@dataclass(frozen=True)
class Progress:
    """What one attempt is doing, for `status`."""

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


class Attempt:
    """The painting of one claim."""

    def __init__(self, claim: Claim, outbox: Outbox, life: Lifeline, ahead: LookAhead, rates: Rates) -> None:
        self.claim = claim
        self.life = life  # its own: it ends with the service, or when the job is cancelled
        self.plan: Plan | None = None
        self._outbox = outbox
        self._ahead = ahead
        self._rows: list[loss_table.Row] = []
        self._rates = rates
        self._pace: Pace  # from the plan on
        self._first_at: float | None = None  # the beginning of the first step computed in this attempt
        self._shown: Progress | None = None  # after the last step
        self._steps_back = 0
        self._looks_ahead = list(_LOOKS_AHEAD)
        self._begun = self._reported = self._last_step = time.monotonic()
        self._started_at = clock.stamp(clock.utc())

    @property
    def progress(self) -> Progress | None:
        """What it is doing, from the plan on; the time left runs down between two steps."""
        shown = self._shown
        if shown is None or shown.eta_s is None:
            return shown
        return replace(shown, eta_s=round(max(0.0, shown.eta_s - (time.monotonic() - self._last_step)), 1))

    def paint(self, engine: Engine) -> Painted | Interrupted:
        """Take every step, with rows, frames and progress.

        Raises:
            JobError, EngineError, NotReady: see `Engine.stylize`; EngineError also where it ends early unasked.
            OSError: the spool does not take the frames.
        """
        info = engine.start(self.life)
        entry, job = self.claim.entry, self.claim.job
        self._ahead.begin(entry.id)
        _clear(entry)
        request = request_for(entry, job)
        writer = FrameWriter(entry.frames, self._outbox, job)
        painting = None
        try:
            with contextlib.closing(engine.stylize(request, self.life)) as items:
                painting = self._follow(items, info, writer)
        finally:
            if painting is None:
                writer.close(self.life.beat)
        if painting is None:
            writer.require_all()
            if not self.life.is_stopping:
                raise EngineError("the engine ended without a picture")
            return Interrupted()
        facts = {**self._facts(info), **self._times()}
        self._ahead.end(self._last_step)
        return Painted(painting, tuple(self._rows), request.settings, info, facts, writer)

    def _follow(self, items: Iterator[Plan | Step], info: EngineInfo, writer: FrameWriter) -> Painting | None:
        painting = None
        for item in items:
            if isinstance(item, Plan):
                self._begin(item, info, writer)
                if item.warning:
                    log.warning("job.troubled", message=item.warning)
            elif item.is_replayed:  # known from a checkpoint: it is for the table alone
                self._add_row(item)
                self._steps_back = item.steps_back
                self._shown = self._progress_at(item)
            else:
                painting = self._take(item, writer) or painting
        return painting

    def _begin(self, plan: Plan, info: EngineInfo, writer: FrameWriter) -> None:
        self._pace = Pace(self.claim.job, self._rates, tiled=plan.computed != "whole")
        self.plan, self._last_step = plan, time.monotonic()
        shown = self._shown = self._progress_at(None)
        log.info("job.started", **self._facts(info), eta_s=shown.eta_s)
        writer.put(None, None, vars(shown))

    def _add_row(self, step: Step) -> bool:
        """Add a step to the loss table; False if its number is that of the one before, where a size begins."""
        self._last_step = time.monotonic()
        is_new = not self._rows or step.iteration > self._rows[-1].iteration
        row = loss_table.Row(step.iteration, step.size_px, **vars(step.losses), elapsed_s=step.elapsed_s)
        self._rows.append(row)
        return is_new

    def _take(self, step: Step, writer: FrameWriter) -> Painting | None:
        before = self._last_step
        is_new = self._add_row(step)
        self._log_changes(step)
        self._pace.add(step, self._last_step - before, warm=self._first_at is not None)
        self._first_at = self._first_at or self._last_step - step.step_s
        progress = self._shown = self._progress_at(step)
        if self._looks_ahead and step.iteration >= self._looks_ahead[0] * step.iterations:
            self._looks_ahead.pop(0)
            self._ahead.hint()
        self._report(step, progress)
        is_frame = is_new and settings_of(self.claim.job).frames.keeps(step.iteration)
        writer.put(step.iteration if is_frame else None, step.picture, vars(progress))
        return step.painting

    def _log_changes(self, step: Step) -> None:
        """Log what is not so at every step: a resume, a step back, a restart of the optimizer, a warning."""
        if self._first_at is None and len(self._rows) > 1:
            log.info("job.resumed", iteration=step.iteration, eta_s=self._pace.eta_s(step))
        if step.steps_back > self._steps_back:
            self._steps_back = step.steps_back
            log.warning("job.damped", iteration=step.iteration, reason="the loss was no number")
        if step.restart:
            log.info("job.restarted", iteration=step.iteration, reason=step.restart)
        if step.trouble:
            log.warning("job.troubled", message=step.trouble)

    def _progress_at(self, step: Step | None) -> Progress:
        job = self.claim.job
        return Progress(
            job_id=job.id,
            name=job.label,
            attempt=self.claim.attempt,
            iteration=step.iteration if step else 0,
            iterations=step.iterations if step else job.total_iterations,
            size_px=step.size_px if step else job.scales[0].size,
            loss=step.losses.total if step else None,
            elapsed_s=round(self._last_step - self._begun, 3),
            iteration_s=self._pace.iteration_s,
            eta_s=self._pace.eta_s(step),
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

    def _facts(self, info: EngineInfo) -> dict[str, Any]:
        job = self.claim.job
        return {
            "attempt": self.claim.attempt,
            "preset": job.preset,
            "size": settings_of(job).size,
            "iterations": job.total_iterations,
            "styles": len(job.parts_of("style")),
            "faces": None if job.faces is None else len(job.faces),
            "device": info.device,
            "precision": info.precision,
            "memory_estimate_mb": self.plan.memory_estimate_mb if self.plan else None,
        }

    def _times(self) -> dict[str, Any]:
        """Give the time it took, and that from the last step of the previous job to the first one of this."""
        gap_s = None
        if self._ahead.follows is not None and self._first_at is not None:
            gap_s = round(self._first_at - self._ahead.follows, 3)
        elapsed_s = round(self._last_step - self._begun, 3)
        return {"elapsed_s": elapsed_s, "gap_s": gap_s, "prepared": self._ahead.is_prepared}


def _clear(entry: StoredJob) -> None:
    """Make an empty `out/`; the frames stay where a checkpoint may be resumed."""
    if not entry.progress:
        files.remove_tree(entry.out)
    files.make_folder(entry.out)
    for item in (*entry.out.iterdir(), *entry.frames.glob("animation.*")):
        if item != entry.frames:
            files.remove_tree(item)


class Attempts:
    """The attempts of all workers; any thread may look at them, and note how one ended."""

    def __init__(self) -> None:
        self.endings: Counter[Ending] = Counter()
        self.rates: Rates = {}  # what the jobs of this run took
        self._running: dict[str, Attempt] = {}  # by job
        self._noting = threading.Lock()

    @contextlib.contextmanager
    def running(self, attempt: Attempt) -> Iterator[None]:
        """Count an attempt among the running ones."""
        self._running[attempt.claim.job.id] = attempt
        try:
            yield
        finally:
            del self._running[attempt.claim.job.id]

    def note(self, ending: Ending) -> None:
        """Count an ending."""
        with self._noting:
            self.endings[ending] += 1

    def progress(self) -> list[Progress]:
        """List what each running one is doing, from its plan on."""
        return [progress for attempt in list(self._running.values()) if (progress := attempt.progress)]

    def stop_cancelled(self) -> None:
        """Ask the attempts to end whose job an operator cancelled; returns at once."""
        for attempt in list(self._running.values()):
            if attempt.claim.entry.is_cancelled:
                attempt.life.ask_stop()
