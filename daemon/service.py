"""Builds every part from the config, runs intake and worker, turns signals into one stop flag."""

from __future__ import annotations

import functools
import os
import signal
import threading
import time
from dataclasses import asdict
from typing import TYPE_CHECKING, Final

from daemon import __version__, clock, config, logs, pauses
from daemon.endings import CANCELLED, Ending, versions
from daemon.engine.process import ProcessEngine
from daemon.errors import ConfigError, NotReady, NotTaken, Reason
from daemon.finishing import BackgroundFinisher
from daemon.housekeeping import Housekeeping, Situation
from daemon.inbox.intake import Intake
from daemon.inbox.watcher import Watcher
from daemon.inspector.client import Inspector
from daemon.job import State
from daemon.notify import notify
from daemon.outbox.publish import Outbox
from daemon.pauses import Pauses
from daemon.pulse import Pulse
from daemon.schedule import Hours
from daemon.sentinel import Sentinel
from daemon.spool import Spool
from daemon.worker import Worker

if TYPE_CHECKING:
    from collections.abc import Callable

    from daemon.config import Config
    from daemon.engine import Engine
    from daemon.errors import Failure
    from daemon.finishing import Finisher
    from daemon.job import Drop, Job
    from daemon.spool import Entry

log = logs.get(__name__)

_TICK_S: Final = 0.2
_IDLE_S: Final = 1.0
_LEAST_S: Final = 0.1
_STATUS_S: Final = 1.0
_BEAT_S: Final = 1.0  # the longest wait without a sign of life, or a look at what operators asked
_PIPE_BYTES: Final = 1 << 16


class Service:
    """One run of the daemon."""

    def __init__(
        self,
        settings: Config,
        *,
        drains: bool = False,
        stop_starting_at: str | None = None,
        engine: Engine | None = None,
        inspector: Inspector | None = None,
        finisher: Finisher | None = None,
        reload: Callable[[], Config] | None = None,
    ) -> None:
        """Build the parts.

        Args:
            settings: the whole config.
            drains: work off what is there, then end.
            stop_starting_at: "HH:MM": from its next occurrence on no job is started.
            engine: what paints; default: a child process.
            inspector: what decodes what was dropped; default: a child process.
            finisher: who ends what was painted; default: a thread, while the next job is painted.
            reload: reads the config anew; raises ConfigError.
        """
        self.config = settings
        self.stop = threading.Event()
        self.situation = Situation()
        self.counts = self.situation.counts
        self._drains = drains
        self._hours = Hours(settings.schedule.window, stop_starting_at, clock.local())
        self._is_open: bool | None = None  # whether jobs may be started now; not known yet
        self._read_config = reload
        self.reloads = reload is not None
        self._wake = threading.Event()  # for the intake: look again
        self._work = threading.Event()  # for the worker: something is queued
        self._at_rest = threading.Event()  # the inbox holds nothing that is about to become a job
        self._first_scan = threading.Event()
        self._defect: Exception | None = None
        self._unretired: list[Job] = []  # accepted before this start; their originals may still be there
        self._announced: set[str] = set()  # ids of accepted jobs that were counted and logged
        self._heart = Pulse()
        self._pauses = Pauses(self.situation.paused, self.stop, self._beat)
        self._noting = threading.Lock()  # endings are noted by several threads
        folders = settings.folders
        self.spool = Spool(folders.spool)
        self._sentinels = {
            "inbox": Sentinel(folders.inbox, "inbox", folders.spool / "met-inbox"),
            "outbox": Sentinel(folders.outbox, "outbox", folders.spool / "met-outbox"),
        }
        self.outbox = Outbox(folders.outbox, self._sentinels["outbox"].check, self._beat)
        self._inspector = inspector or Inspector(settings.inbox.max_megapixels, self._intake_is_stopping)
        self._engine = engine or ProcessEngine(settings, self._worker_is_stopping)
        self._finisher = finisher or BackgroundFinisher(
            self.stop.is_set, self._beat, lambda: self._heart.end("finisher")
        )
        self._worker = Worker(
            settings,
            self.spool,
            self._engine,
            self.outbox,
            self._finisher,
            is_stopping=self._worker_is_stopping,
            hold_out=self._pauses.hold_out,
            note_ending=self._note_ending,
        )
        self._housekeeping = Housekeeping(
            lambda: self.config,
            self.spool,
            self.outbox,
            self.situation,
            progress=lambda: self._worker.progress,
            heart=self._heart,
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
            for key in config.without_effect(self.config):
                log.warning("service.key_ignored", key=key, reason="it has no effect in this version")
            self._recover()
            threads = [
                threading.Thread(target=self.guarded, args=(name, run), name=name)
                for name, run in (
                    ("intake", self._run_intake),
                    ("status", self._run_status),
                    ("finisher", self._finisher.run),
                )
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

    def guarded(self, name: str, run: Callable[[], None]) -> None:
        """Run a thread's loop; a defect in it ends the whole service, which then starts anew, recovered."""
        try:
            run()
        except Exception as error:  # noqa: BLE001 - raised again by `run`
            self._defect = error
            self.ask_stop()
        finally:
            self._heart.end(name)

    def _recover(self) -> None:
        try:
            for sentinel in self._sentinels.values():
                sentinel.establish()
            self.outbox.clean(self.spool.ids())
            found = self.spool.recover(self.outbox.is_published)
            self._unretired = [entry.job for entry in self.spool.unretired() if entry.job is not None]
            self._announced.update(job.id for job in self._unretired)
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
            if entry.job is not None:
                self.outbox.tidy(entry.job)
            self._note_ending(Ending.COMPLETED, entry.label, 0.0, None)
        for entry in found.corrupt:
            log.error("job.failed", job_id=entry.id, name=entry.label, reason=Reason.CORRUPT.value)
            self._note_ending(Ending.FAILED, entry.label, 0.0, entry.failure)
        counts = {name: len(entries) for name, entries in vars(found).items()}
        log.info("spool.recovered", **counts, queued=self._queued())

    def _shut_down(self, threads: list[threading.Thread]) -> None:
        self.situation.state = "stopping"
        notify(STOPPING="1", STATUS="stopping")
        self.ask_stop()
        self._heart.end("worker")
        self._engine.stop()
        self._finisher.close()
        for thread in threads:
            thread.join()
        self.situation.state = "stopped"
        self._housekeeping.end()
        log.info(
            "service.stopped",
            **asdict(self.counts),
            queued=self._queued(),
            uptime_s=round(time.monotonic() - self.situation.started, 1),
        )

    def _queued(self) -> int | None:
        """Count what waits for its turn, where the disk tells."""
        try:
            return self.spool.count(State.QUEUED)
        except OSError:
            return None

    # The worker, in the main thread

    def _beat(self) -> None:
        """Beat for the loop whose thread this is: all of them publish."""
        name = threading.current_thread().name
        self._heart.beat(name if name in {"intake", "finisher"} else "worker")

    def _worker_is_stopping(self) -> bool:
        self._heart.beat("worker")
        return self.stop.is_set()

    def _run_worker(self) -> None:
        """Load the model, say READY, and turn the worker."""
        try:
            self.situation.info = self._engine.start()
        except NotReady:
            if self.stop.is_set():
                return
            raise
        while not self._first_scan.wait(_TICK_S) and not self._worker_is_stopping():
            pass
        if self.stop.is_set():
            return
        self.situation.state = "running"
        notify(READY="1", STATUS="watching the inbox")
        log.info("service.ready", startup_s=round(time.monotonic() - self.situation.started, 3))
        while not self._worker_is_stopping():
            may_start = self._may_start()
            if self._drains and self._hours.are_over(clock.local()):
                self._finisher.await_idle()
                return
            if not may_start:
                self._worker.rest()
                self._pauses.end("worker")  # what it paused for is no obstacle before the window opens
                self.stop.wait(_IDLE_S)
                continue
            self._work.clear()
            # Read before the queue, so that no late drop is missed, nor a job that comes back into it.
            is_last_look = self._finisher.is_idle and self._at_rest.is_set()
            if self._turn_worker() is None:
                if self._drains and is_last_look:
                    return
                self._work.wait(_TICK_S if self._drains else _IDLE_S)

    def _may_start(self) -> bool:
        """Tell whether this is a time at which jobs are started, and say so when that changes."""
        now = clock.local()
        opens_at = self._hours.opens_at(now)
        text = None if opens_at is None else clock.stamp(opens_at)
        was_open, self._is_open = self._is_open, text is None
        if text is not None and was_open is not False:
            log.info("service.window_closed", queued=self._queued(), opens_at=text)
        if text is not None and was_open and not self._drains:  # whose end is its night's
            self._finisher.await_idle()  # what was painted at night is of its report
            self._housekeeping.end_night()
        if text is None and was_open is False:
            log.info("service.window_opened", queued=self._queued())
            self._housekeeping.end_night()  # and the day's: what comes belongs to the night
        self.situation.opens_at = text
        return text is None

    def _turn_worker(self) -> Ending | None:
        try:
            self.outbox.check()
            self._engine.start()  # anew, where it died idle: before a job is claimed for one that cannot start
            ending = self._worker.turn()
        except (NotReady, OSError) as error:
            self._worker.rest()
            self._pauses.begin("worker", error)
            self._pauses.sleep(pauses.PAUSE_S)
            return Ending.INTERRUPTED
        self._pauses.end("worker")
        return ending

    def _note_ending(self, ending: Ending, name: str, elapsed_s: float, failure: Failure | None) -> None:
        """Take an ending into the figures and the report."""
        with self._noting:
            self.situation.attempts[ending.value] += 1
            if failure is not None:
                self.counts.failed += 1
                self._housekeeping.summary.failed(name, failure.reason.value, failure.message)
            elif ending is Ending.COMPLETED:
                self.counts.completed += 1
                self._housekeeping.summary.completed(elapsed_s)

    # The intake's thread

    def _intake_is_stopping(self) -> bool:
        self._heart.beat("intake")
        return self.stop.is_set()

    def _run_intake(self) -> None:
        intake = Intake(
            self.config,
            self._take,
            self._unretired,
            self.spool.set_retired,
            is_stopping=self._intake_is_stopping,
            check=self._sentinels["inbox"].check_in,
        )
        watcher = Watcher(self.config.folders.inbox, self._wake)
        while not self._intake_is_stopping():
            intake.config = self.config
            if self.config.inbox.observer != "off":
                watcher.ensure()
                self.situation.is_watcher_up = watcher.is_up
            else:
                watcher.stop()
                self.situation.is_watcher_up = None
            wait_s = self._turn_intake(intake)
            self.stop.wait(_LEAST_S)  # a copy sends thousands of events; one look for many of them is enough
            self._wait_for_news(wait_s)
        watcher.stop()
        self._inspector.stop()

    def _wait_for_news(self, longest_s: float) -> None:
        """Wait for a file event, a reload or the end of the time; answer operators meanwhile."""
        end = time.monotonic() + longest_s
        while not self._intake_is_stopping():
            self._answer_operators()
            left = end - time.monotonic()
            if left <= 0 or self._wake.wait(min(left, _BEAT_S)):
                break
        self._wake.clear()  # before the look that answers it

    def _answer_operators(self) -> None:
        """End what was cancelled."""
        try:
            self._end_cancelled()
        except OSError as error:
            self._pauses.begin("operators", error)
        else:
            self._pauses.end("operators")

    def _turn_intake(self, intake: Intake) -> float:
        """Turn the intake once; returns how long to wait for the next turn at most."""
        begun = time.monotonic()
        try:
            self._sentinels["inbox"].check()
            report = intake.turn(begun)
        except (NotReady, OSError) as error:
            self._pauses.begin("inbox", error)
            return pauses.PAUSE_S
        if report.obstacle is None:
            self._pauses.end("inbox")
        else:
            self._pauses.begin("inbox", report.obstacle)
        self.situation.report, self.situation.last_scan = report, time.time()
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
        entry = self.spool.accept(
            drop,
            max_bytes=int(self.config.inbox.max_file_mb * 1e6),
            inspect=self._inspector.inspect,
            believes_faults=believes_faults,
            versions=versions(),
            beat=self._beat_or_end,
        )
        job = entry.job
        if job is None:
            raise NotReady(f"spool: {entry.folder} cannot be read back")
        self._at_rest.clear()
        # Else it is the very drop again: after an error at the end of its acceptance, or moved by somebody.
        if job.id not in self._announced and not entry.was_moved:
            self._announce(job)
        self._work.set()
        if job.failure is not None and entry.state is State.RUNNING:
            self._fail_now(entry, job.failure)
        return job

    def _announce(self, job: Job) -> None:
        self._announced.add(job.id)
        self.counts.accepted += 1
        self._housekeeping.summary.accepted()
        if job.failure is None:
            log.info(
                "inbox.accepted", job_id=job.id, name=job.label, files=len(job.parts), sequence=job.sequence
            )
        else:
            log.warning("inbox.rejected", job_id=job.id, name=job.label, reason=job.failure.reason.value)

    def _beat_or_end(self) -> None:
        """Show that a long copy is alive, and end it once the service stops.

        Raises:
            NotTaken: it stops; the drop stays where it is.
        """
        if self._intake_is_stopping():
            raise NotTaken("the service was stopped")

    # The status thread

    def _run_status(self) -> None:
        """Keep house every second; nothing slow happens in this thread, which feeds the watchdog."""
        while not self.stop.is_set():
            try:
                self._housekeeping.turn(time.monotonic())
            except OSError as error:
                self._pauses.begin("status", error)
            else:
                self._pauses.end("status")
            self.stop.wait(_STATUS_S)

    def _end_cancelled(self) -> None:
        for entry in self.spool.take_cancelled():
            self._fail_now(entry, CANCELLED)

    def _fail_now(self, entry: Entry, failure: Failure) -> None:
        if not self._worker.fail_now(entry, failure):
            self._work.set()

    # Reloading

    def reload(self) -> None:
        """Take over what may change while the service runs; a config with faults changes nothing."""
        assert self._read_config is not None  # noqa: S101 - asked only where `reloads`
        is_ready = self.situation.state == "running"  # else READY would say what is not so
        if is_ready:
            notify(RELOADING="1", MONOTONIC_USEC=str(time.monotonic_ns() // 1000))
        try:
            read = self._read_config()
        except ConfigError as error:
            log.error("service.reload_refused", faults=[str(fault) for fault in error.faults])  # noqa: TRY400
        else:
            self._adopt(read)
        if is_ready:
            notify(READY="1")

    def _adopt(self, read: Config) -> None:
        merged, ignored = config.reloaded(self.config, read)
        for key in ignored:
            log.warning("service.key_ignored", key=key, reason="it needs a restart")
        changed = config.differences(self.config, merged)
        self.config = self._worker.config = merged
        self._hours.window = merged.schedule.window
        logs.configure(merged.log.level, merged.log.format)
        log.info("service.reloaded", changed=changed)
        self._housekeeping.hasten()
        self._wake.set()
        self._work.set()


def run(
    settings: Config,
    *,
    drains: bool = False,
    stop_starting_at: str | None = None,
    reload: Callable[[], Config] | None = None,
) -> int:
    """Run the service with SIGTERM and SIGINT turned into its stop flag, SIGHUP into a reload; see `Service`.

    The interpreter writes each signal's number into a pipe, and a thread reads it there: a handler that sets
    an Event can deadlock with the very wait it interrupts, and blocked signals would still end the process by
    way of the threads that NumPy's libraries start before anything here runs.
    """
    service = Service(settings, drains=drains, stop_starting_at=stop_starting_at, reload=reload)
    told, tells = os.pipe()
    os.set_blocking(tells, False)
    signal.set_wakeup_fd(tells, warn_on_full_buffer=False)
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, lambda _number, _frame: None)
    listen = functools.partial(_await_signals, service, told)
    threading.Thread(target=service.guarded, args=("signals", listen), name="signals", daemon=True).start()
    return service.run()


def _await_signals(service: Service, told: int) -> None:
    stops: list[int] = []
    while not stops:
        numbers = os.read(told, _PIPE_BYTES)  # all that came: a storm of reloads is one
        stops = [number for number in numbers if number != signal.SIGHUP or not service.reloads]
        if not stops:
            service.reload()
    log.info("service.stop_requested", reason=signal.Signals(stops[0]).name)
    service.ask_stop()
    while len(stops) == 1:
        stops += [number for number in os.read(told, _PIPE_BYTES) if number != signal.SIGHUP]
    os._exit(0)  # asked twice: stop this instant; the spool recovers at the next start
