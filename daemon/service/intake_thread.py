"""The thread of the intake: looks at the inbox, accepts what is complete, retires it, and answers operators."""

from __future__ import annotations

import threading
import time
from dataclasses import replace
from typing import TYPE_CHECKING, Final

from daemon import logs
from daemon.errors import Failure, JobError, NotReady, NotTaken
from daemon.inbox.intake import Inbox
from daemon.inbox.retire import Retirer
from daemon.inbox.scan import STAGE_S
from daemon.inbox.watcher import Watcher
from daemon.job import MASK_ROLES, State, printable
from daemon.outbox import record
from daemon.pictures import resampling
from daemon.service import backoff

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from daemon.config import Config
    from daemon.inbox.intake import Report
    from daemon.job import Drop, Job, Part
    from daemon.lifeline import Lifeline
    from daemon.sandbox.client import Decoder
    from daemon.sentinel import Sentinel
    from daemon.service.status import Situation
    from daemon.settings import Settings
    from daemon.spool import Spool, StoredJob
    from daemon.worker.settler import Settler

log = logs.get(__name__)

_LEAST_S: Final = 0.1
_MOST_FAILURES: Final = 2  # pictures of a drop
_OPERATORS_S: Final = 1.0  # the longest wait without a look at what operators asked for


def accept_drop(drop: Drop, spool: Spool, decoder: Decoder, max_bytes: int, life: Lifeline) -> StoredJob:
    """Copy a complete drop, check its pictures, and commit it: from then on it survives any crash.

    The job is in `queued/` or, of a faulty drop, in `running/`, for the caller to end.

    Raises:
        NotTaken: it changed, or looks faulty and may still be incomplete.
        NotReady: there is no room for it, or no sandbox.
        OSError: the spool's disk does not take it.
    """
    with spool.draft(drop, max_bytes, life) as draft:
        parts, failure = draft.parts, drop.failure or draft.failure
        if failure is None or not drop.doubt_s:  # of a faulty drop, too: its pictures are shown
            parts, found = _examined(drop.settings, parts, draft.inputs, decoder, life)
            failure = failure or found
        if failure is not None and drop.doubt_s:
            raise NotTaken(failure.message)
        return spool.commit(replace(draft, parts=parts, failure=failure), record.versions())


def _examined(
    settings: Settings | None, parts: tuple[Part, ...], inputs: Path, decoder: Decoder, life: Lifeline
) -> tuple[tuple[Part, ...], Failure | None]:
    """Decode every copied picture whole, since half a JPEG passes anything less, and fill in its size.

    The failure is that of the first picture that cannot be painted; after the second, the rest is not decoded,
    which may take minutes each.
    """
    sized, failures = list(parts), list[Failure]()
    for number, part in enumerate(parts):
        if part.role == "sidecar" or not part.sha256:  # one over the cap was not copied
            continue
        try:
            sized[number] = _sized(settings, part, inputs, decoder, life)
            if settings and not failures:
                _require_width(settings, sized[: number + 1])
        except JobError as error:
            failures.append(replace(error.failure, file=printable(part.name)))
            if len(failures) == _MOST_FAILURES:
                break
    return tuple(sized), next(iter(failures), None)


def _sized(settings: Settings | None, part: Part, inputs: Path, decoder: Decoder, life: Lifeline) -> Part:
    wants_faces = part.role == "content" and settings is not None and settings.protect == "faces"
    path, name = inputs / part.stored, printable(part.name)
    is_mask = part.role in MASK_ROLES
    (height, width), found = decoder.inspect(path, name, life, wants_faces=wants_faces, is_mask=is_mask)
    return replace(part, height_px=height, width_px=width, **found._asdict())


def _require_width(settings: Settings, parts: list[Part]) -> None:
    """Raise JobError if the last one of a drop's parts so far becomes too narrow for VGG19.

    The content comes before its styles. A start and masks take another picture's shape.
    """
    part = parts[-1]
    content = next((one for one in parts if one.role == "content"), part)
    scales = settings.all_scales(content.height_px, content.width_px)
    if part.role == "content":
        resampling.fit(part.height_px, part.width_px, scales[0].size)
    elif part.role in {"style", "region_style"}:
        final = round(settings.style_scale * part.scale * scales[-1].size)
        resampling.fit_style(part.height_px, part.width_px, final, final)


class IntakeThread:
    """Brings drops from the inbox into the spool, turn by turn."""

    def __init__(
        self,
        spool: Spool,
        decoder: Decoder,
        sentinel: Sentinel,
        situation: Situation,
        settler: Settler,
        *,
        life: Lifeline,
    ) -> None:
        """Know no accepted job yet."""
        self.wake = threading.Event()  # look again
        self.has_work = threading.Event()  # for the worker: something is queued
        self.is_at_rest = False  # the inbox holds nothing that is about to become a job
        self._spool = spool
        self._decoder = decoder
        self._sentinel = sentinel
        self._situation = situation
        self._settler = settler
        self._life = life
        self._retirer = Retirer(sentinel)
        self._inbox = Inbox(self._config, self._retirer, life)
        self._announced: set[str] = set()  # ids of accepted jobs that were counted and logged

    @property
    def _config(self) -> Config:
        return self._situation.config

    def remember(self, unretired: Iterable[Job]) -> None:
        """Add, before the first turn, the accepted jobs whose originals may still lie in the inbox."""
        for job in unretired:
            self._retirer.remember(job)
            self._announced.add(job.id)

    def run(self) -> None:
        """Turn until the service stops."""
        watcher = Watcher(self._config.folders.inbox, self.wake)
        while not self._life.is_stopping:
            self._watch(watcher)
            report = self.turn(time.monotonic())
            self._life.wait(_LEAST_S)  # a copy sends thousands of events; one look for many is enough
            longest_s = backoff.PAUSE_S if report is None else self._config.inbox.rescan_s
            if report is not None:
                longest_s = min([longest_s, *(due_s + 0.01 for due_s in report.dues)])
            self._wait_for_news(longest_s)
        watcher.stop()
        self._decoder.stop()

    def _watch(self, watcher: Watcher) -> None:
        """Start or stop watching the inbox, as the config asks by now."""
        is_wanted = self._config.inbox.observer != "off"
        if is_wanted:
            watcher.ensure()
        else:
            watcher.stop()
        self._situation.is_watcher_up = watcher.is_up if is_wanted else None

    def _wait_for_news(self, longest_s: float) -> None:
        """Wait for a file event, a reload or the end of the time; answer operators meanwhile."""
        end = time.monotonic() + longest_s
        while not self._life.is_stopping:
            self.answer_operators()
            left = end - time.monotonic()
            if left <= 0 or self.wake.is_set():
                break
            self._life.wait(min(left, _OPERATORS_S), self.wake)
        self.wake.clear()  # before the look that answers it

    # The inbox

    def turn(self, now: float) -> Report | None:
        """Look at the inbox at the monotonic time `now`, accept what is complete, retire what is accepted.

        Returns None where the inbox or the spool does not allow it now.
        """
        self._life.beat()
        try:
            self._sentinel.check()
            report = self._turn(now)
        except (NotReady, OSError) as error:
            self._situation.backoff.begin("inbox", error)
            return None
        if report.obstacle is None:
            self._situation.backoff.end("inbox")
        else:
            self._situation.backoff.begin("inbox", report.obstacle)
        self._situation.report, self._situation.last_scan = report, time.time()
        self.is_at_rest = report.is_at_rest and not report.accepted
        counts = {"accepted": len(report.accepted), "waiting": len(report.waiting)}
        elapsed_s = round(time.monotonic() - report.begun, 4)
        log.debug("inbox.rescanned", files=report.files, **counts, elapsed_s=elapsed_s)
        return report

    def _turn(self, now: float) -> Report:
        self._inbox.config = self._config
        report = self._inbox.look(now)
        self._accept_complete(report)
        self._retire_accepted(report)
        self._inbox.log_waiting(report.waiting)
        return report

    # Accepting

    def _accept_complete(self, report: Report) -> None:
        """Accept one drop after the other, until the time is up or the service stops."""
        end = time.monotonic() + STAGE_S
        for drop in report.drops:
            if self._life.is_stopping or time.monotonic() > end:
                report.dues.append(0.0)
                return
            try:
                job = self._accept(drop)
            except NotTaken as error:
                self._inbox.doubt(drop, str(error), report.now)
                report.waiting[drop.path] = f"not ready: {error}"
                if drop.doubt_s:
                    report.dues.append(drop.doubt_s)
            except NotReady as error:  # no room for this one; a smaller one may do
                report.obstacle = report.obstacle or error
                report.waiting[drop.path] = str(error)
            else:
                report.accepted.append(job)

    def _accept(self, drop: Drop) -> Job:
        """Commit a drop to the spool, else raise NotTaken or NotReady; a faulty one is ended at once."""
        self._life.beat()
        max_bytes = int(self._config.inbox.max_file_mb * 1e6)
        entry = accept_drop(drop, self._spool, self._decoder, max_bytes, self._life)
        job = entry.job
        if job is None:
            raise NotReady(f"spool: {entry.folder} cannot be read back")
        self.is_at_rest = False
        # Else it is the same drop again: after an error at the end of its acceptance, or moved by somebody.
        if job.id not in self._announced and not entry.was_moved:
            self._announce(job)
        if job.failure is not None and entry.state is State.RUNNING:
            self._settler.fail_now(entry, job.failure, self._life)
        self.has_work.set()
        self._inbox.forget(drop)
        self._retirer.remember(replace(job, folder=str(drop.folder)))  # its place now: it may have been moved
        self._retirer.note_rejection(job)
        return job

    def _announce(self, job: Job) -> None:
        self._announced.add(job.id)
        self._situation.accepted += 1
        if job.failure is None:
            count, number = len(job.parts), job.sequence
            log.info("inbox.accepted", job_id=job.id, name=job.label, files=count, sequence=number)
            for warning in job.warnings:
                log.warning("job.warned", job_id=job.id, name=job.label, message=warning)
        else:
            log.warning("inbox.rejected", job_id=job.id, name=job.label, reason=job.failure.reason.value)

    # Retiring

    def _retire_accepted(self, report: Report) -> None:
        """Remove the originals of what is accepted, and say why those that stay are there."""
        gone: set[str] = set()
        left: dict[str, str] = {}
        for retired in self._retirer.retire(report.folders, report.now, self._config.inbox):
            gone |= retired.gone
            left |= retired.left
            if retired.is_put_off:
                report.dues.append(0.0)
            if not retired.left:
                self._spool.set_retired(retired.id, was_removed=retired.was_removed)
                self._retirer.forget(retired.id)
        present = {path: why for path, why in report.waiting.items() if path not in gone}
        report.waiting = dict(sorted((present | left).items()))

    # Operators

    def answer_operators(self) -> None:
        """End what operators cancelled; what the spool does not allow now is done the next time."""
        try:
            if not self._settler.end_cancelled(self._life):
                self.has_work.set()
        except OSError as error:
            self._situation.backoff.begin("operators", error)
        else:
            self._situation.backoff.end("operators")
