"""The service: builds every part from the config, runs intake and worker, and stops when told to."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import threading
import time
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final

from daemon import __version__, files, logs
from daemon.config import without_effect
from daemon.engine.process import ProcessEngine
from daemon.errors import Failure, NotReady, Reason
from daemon.inbox.intake import Intake, Report
from daemon.inbox.watcher import Watcher
from daemon.job import State
from daemon.notify import notify
from daemon.outbox.publish import Outbox
from daemon.sentinel import Sentinel
from daemon.spool import Spool
from daemon.worker import Ending, Worker, versions

if TYPE_CHECKING:
    from collections.abc import Callable

    from daemon.config import Config
    from daemon.engine import Engine
    from daemon.job import Drop, EngineInfo, Job
    from daemon.spool import Entry

log = logs.get(__name__)

_TICK_S: Final = 0.2
_IDLE_S: Final = 1.0
_PAUSE_S: Final = 2.0
_LEAST_S: Final = 0.1
_STATUS_S: Final = 1.0
_SHOWN: Final = 200
STATUS_FILE: Final = "status.json"


@dataclass
class _Counts:
    """What this run has done so far."""

    accepted: int = 0
    completed: int = 0
    failed: int = 0


class Service:
    """One run of the daemon."""

    def __init__(self, config: Config, *, drains: bool = False, engine: Engine | None = None) -> None:
        """Build the parts.

        Args:
            config: the whole config.
            drains: work off what is there, then end.
            engine: what paints; default: a child process.
        """
        self.config = config
        self.stop = threading.Event()
        self.counts = _Counts()
        self._drains = drains
        self._wake = threading.Event()  # for the intake: look again
        self._work = threading.Event()  # for the worker: something is queued
        self._at_rest = threading.Event()  # the inbox holds nothing that is about to become a job
        self._first_scan = threading.Event()
        self._started = time.monotonic()
        self._state = "starting"
        self._paused: dict[str, str] = {}  # part of the service -> why it waits
        self._report = Report((), (), 0, None, is_at_rest=False)
        self._info: EngineInfo | None = None
        self._defect: Exception | None = None
        folders = config.folders
        self.spool = Spool(folders.spool)
        self._sentinels = {
            "inbox": Sentinel(folders.inbox, "inbox", folders.spool / "met-inbox"),
            "outbox": Sentinel(folders.outbox, "outbox", folders.spool / "met-outbox"),
        }
        self.outbox = Outbox(folders.outbox, self._sentinels["outbox"].check)
        self._engine = engine or ProcessEngine(config, self.stop.is_set)
        self._worker = Worker(
            config,
            self.spool,
            self._engine,
            self.outbox,
            is_stopping=self.stop.is_set,
            hold_out=self._hold_out,
        )

    # The run

    def run(self) -> int:
        """Run until stopped or, when draining, until all is done.

        Returns:
            The exit code: 0, or 1 when draining and some jobs failed.

        Raises:
            NotReady: the surroundings do not allow a start.
        """
        self.spool.prepare()
        with self.spool.locked():
            log.info(
                "service.started",
                version=__version__,
                pid=os.getpid(),
                mode="drain" if self._drains else "watch",
                **{name: str(path) for name, path in self.config.folders if path},
            )
            for key in without_effect(self.config):
                log.warning("service.key_ignored", key=key, reason="it has no effect in this version")
            self._recover()
            threads = [
                threading.Thread(target=self._guarded, args=(run,), name=name)
                for name, run in (("intake", self._run_intake), ("status", self._run_status))
            ]
            for thread in threads:
                thread.start()
            try:
                self._run_worker()
            finally:
                self._shut_down(threads)
        if self._defect is not None:
            raise self._defect
        return 1 if self._drains and self.counts.failed else 0

    def ask_stop(self) -> None:
        """Have every loop end; returns at once."""
        self.stop.set()
        self._wake.set()
        self._work.set()

    def _guarded(self, run: Callable[[], None]) -> None:
        """Run a thread's loop; a defect in it ends the whole service, which then starts anew, recovered."""
        try:
            run()
        except Exception as error:  # noqa: BLE001 - raised again by `run`
            self._defect = error
            self.ask_stop()

    def _recover(self) -> None:
        try:
            for sentinel in self._sentinels.values():
                sentinel.establish()
            self.outbox.clean(self.spool.ids())
            found = self.spool.recover(self.outbox.is_published)
        except OSError as error:
            raise NotReady(f"recovery: {error}") from error
        for entry in found.requeued:
            log.warning(
                "spool.requeued",
                job_id=entry.id,
                name=entry.label,
                attempt=entry.attempts_used,
                max_attempts=self.config.engine.max_attempts,
                reason="service_ended",
            )
        for entry in found.completed:
            log.info("job.completed", job_id=entry.id, name=entry.label, **entry.facts)
        for entry in found.corrupt:
            log.error("job.failed", job_id=entry.id, name=entry.label, reason=Reason.CORRUPT.value)
        counts = {name: len(entries) for name, entries in vars(found).items()}
        log.info("spool.recovered", **counts, queued=self.spool.count(State.QUEUED))

    def _run_worker(self) -> None:
        """Load the model, say READY, and turn the worker in the main thread, where signals arrive."""
        try:
            self._info = self._engine.start()
        except NotReady:
            if self.stop.is_set():
                return
            raise
        while not self._first_scan.wait(_TICK_S) and not self.stop.is_set():
            pass
        if self.stop.is_set():
            return
        self._state = "running"
        notify(READY="1", STATUS="watching the inbox")
        log.info("service.ready", startup_s=round(time.monotonic() - self._started, 3))
        while not self.stop.is_set():
            self._work.clear()
            is_last_look = self._at_rest.is_set()  # read before the queue, so that no late drop is missed
            ending = self._turn_worker()
            if ending is Ending.COMPLETED:
                self.counts.completed += 1
            elif ending is Ending.FAILED:
                self.counts.failed += 1
            elif ending is None:
                if self._drains and is_last_look:
                    return
                self._work.wait(_TICK_S if self._drains else _IDLE_S)

    def _turn_worker(self) -> Ending | None:
        try:
            self.outbox.check()
            ending = self._worker.turn()
        except (NotReady, OSError) as error:
            self._pause("worker", error)
            self.stop.wait(_PAUSE_S)
            return Ending.INTERRUPTED
        self._resume("worker")
        return ending

    def _shut_down(self, threads: list[threading.Thread]) -> None:
        self._state = "stopping"
        notify(STOPPING="1", STATUS="stopping")
        self.ask_stop()
        self._engine.stop()
        for thread in threads:
            thread.join()
        with contextlib.suppress(OSError):
            self._write_status("stopped")
        log.info(
            "service.stopped",
            **asdict(self.counts),
            queued=self.spool.count(State.QUEUED),
            uptime_s=round(time.monotonic() - self._started, 1),
        )

    # The intake's thread

    def _run_intake(self) -> None:
        unretired = [entry.job for entry in self.spool.unretired() if entry.job is not None]
        intake = Intake(self.config, self._take, unretired, self.spool.set_retired, self.stop.is_set)
        watcher = Watcher(self.config.folders.inbox, self._wake)
        while not self.stop.is_set():
            if self.config.inbox.observer != "off":
                watcher.ensure()
            wait_s = self._turn_intake(intake)
            self.stop.wait(_LEAST_S)  # a copy sends thousands of events; one look for many of them is enough
            self._wake.wait(wait_s)
            self._wake.clear()  # before the look that answers it
        watcher.stop()

    def _turn_intake(self, intake: Intake) -> float:
        """Turn the intake once; returns how long to wait for the next turn at most."""
        begun = time.monotonic()
        try:
            self._sentinels["inbox"].check()
            report = intake.turn(begun)
        except (NotReady, OSError) as error:
            self._pause("inbox", error)
            return _PAUSE_S
        self._resume("inbox")
        self._report = report
        if report.is_at_rest and not report.accepted:
            self._at_rest.set()
        else:
            self._at_rest.clear()
        self._first_scan.set()
        log.debug(
            "inbox.rescanned",
            files=report.files,
            accepted=len(report.accepted),
            waiting=len(report.waiting),
            elapsed_s=round(time.monotonic() - begun, 4),
        )
        rescan_s = self.config.inbox.rescan_s
        return rescan_s if report.due_s is None else min(rescan_s, report.due_s + 0.01)

    def _take(self, drop: Drop, *, believes_faults: bool) -> Job:
        """Commit a drop to the spool; a faulty one is ended at once, without waiting its turn."""
        options = self.config.inbox
        entry = self.spool.accept(
            drop,
            max_bytes=int(options.max_file_mb * 1e6),
            max_megapixels=options.max_megapixels,
            believes_faults=believes_faults,
            versions=versions(),
        )
        job = entry.job
        if job is None:
            raise NotReady(f"spool: {entry.folder} cannot be read back")
        self.counts.accepted += 1
        self._at_rest.clear()
        if job.failure is None:
            log.info(
                "inbox.accepted", job_id=job.id, name=job.label, files=len(job.parts), sequence=job.sequence
            )
            self._work.set()
        else:
            log.warning("inbox.rejected", job_id=job.id, name=job.label, reason=job.failure.reason.value)
            self._fail_now(entry, job.failure)
        return job

    # Waiting for the surroundings

    def _hold_out(self, part: str, action: Callable[[], object]) -> bool:
        """Run an action as often as it takes; False once the service stops."""
        while True:
            try:
                action()
            except (NotReady, OSError) as error:
                self._pause(part, error)
                if self.stop.wait(_PAUSE_S):
                    return False
            else:
                self._resume(part)
                return True

    def _pause(self, part: str, error: Exception) -> None:
        reason = f"{error.strerror}: {error.filename}" if isinstance(error, OSError) else str(error)
        if self._paused.get(part) != reason:
            self._paused[part] = reason
            log.warning("service.paused", part=part, reason=reason)
            notify(STATUS=f"paused: {reason}")

    def _resume(self, part: str) -> None:
        if self._paused.pop(part, None) is not None:
            log.info("service.resumed", part=part)

    # The status thread

    def _run_status(self) -> None:
        """Refresh status.json every second, and look for what operators asked."""
        while not self.stop.is_set():
            try:
                self._end_cancelled()
                self._write_status(self._state)
            except OSError as error:
                self._pause("spool", error)
            else:
                self._resume("spool")
            self.stop.wait(_STATUS_S)

    def _end_cancelled(self) -> None:
        for entry in self.spool.take_cancelled():
            self._fail_now(entry, Failure(Reason.CANCELLED, "cancelled by an operator"))

    def _fail_now(self, entry: Entry, failure: Failure) -> None:
        if self._worker.fail_now(entry, failure):
            self.counts.failed += 1
        else:
            self._work.set()

    def _write_status(self, state: str) -> None:
        progress = self._worker.progress
        document: dict[str, Any] = {
            "state": "paused" if state == "running" and self._paused else state,
            "paused": dict(self._paused),
            "pid": os.getpid(),
            "version": __version__,
            "updated_at": datetime.now(UTC).isoformat(timespec="milliseconds"),
            "uptime_s": round(time.monotonic() - self._started, 1),
            "engine": asdict(self._info) if self._info else None,
            "job": asdict(progress) if progress else None,
            "waiting": [asdict(item) for item in self._report.waiting[:_SHOWN]],
            "waiting_count": len(self._report.waiting),
            "run": asdict(self.counts),
        }
        files.replace(self.spool.root / STATUS_FILE, json.dumps(document).encode(), is_durable=False)
        if state == "running" and not self._paused:
            notify(STATUS=_status_line(document, self.spool.count(State.QUEUED)))


def _status_line(document: dict[str, Any], queued: int) -> str:
    job = document["job"]
    if job is None:
        return f"watching the inbox, {queued} queued, {document['waiting_count']} waiting"
    return f"painting {job['name']}: {job['iteration']}/{job['iterations']}, {queued} queued"


def run(config: Config, *, drains: bool = False) -> int:
    """Run the service with SIGTERM and SIGINT turned into its stop flag; see `Service.run`.

    The interpreter writes each signal's number into a pipe, and a thread reads it there: a handler that sets
    an Event can deadlock with the very wait it interrupts, and blocked signals would still end the process by
    way of the threads that NumPy's libraries start before anything here runs.
    """
    service = Service(config, drains=drains)
    told, tells = os.pipe()
    os.set_blocking(tells, False)
    signal.set_wakeup_fd(tells)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda _number, _frame: None)
    threading.Thread(target=_await_signals, args=(service, told), name="signals", daemon=True).start()
    return service.run()


def _await_signals(service: Service, told: int) -> None:
    log.info("service.stop_requested", reason=signal.Signals(os.read(told, 1)[0]).name)
    service.ask_stop()
    os.read(told, 1)
    os._exit(0)  # asked twice: stop this instant; the spool recovers at the next start
