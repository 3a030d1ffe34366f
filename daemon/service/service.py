"""One run of the daemon: its parts, its threads, their start, and their end together."""

from __future__ import annotations

import contextlib
import os
import threading
import time
from typing import TYPE_CHECKING, Final

from daemon import __version__, clock, config, logs
from daemon.engine.process import ProcessEngine
from daemon.errors import ConfigError, NotReady, Reason
from daemon.lifeline import Lifeline
from daemon.outbox.publish import Outbox
from daemon.sandbox.client import Decoder
from daemon.sentinel import Sentinel
from daemon.service.hours import Hours
from daemon.service.intake_thread import IntakeThread
from daemon.service.status import Situation, Status
from daemon.service.systemd import notify
from daemon.service.upkeep import Upkeep
from daemon.service.work_thread import WorkLoop
from daemon.spool import Spool, lock
from daemon.worker.attempt import Attempts
from daemon.worker.outcomes import Ending
from daemon.worker.publisher import Publisher
from daemon.worker.room import Room
from daemon.worker.settler import Settler
from daemon.worker.worker import Worker

if TYPE_CHECKING:
    from collections.abc import Callable
    from concurrent.futures import Executor

    from daemon.config import Config
    from daemon.engine import Engine
    from daemon.spool import Recovery

log = logs.get(__name__)

_STATUS_S: Final = 1.0
_REPORT_S: Final = 10.0  # the longest wait at the end for a share that does not take the last report


class Service:
    """One run of the daemon."""

    def __init__(
        self,
        settings: Config,
        *,
        drains: bool = False,
        stop_starting_at: str | None = None,
        engine: Engine | None = None,
        decoder: Decoder | None = None,
        executor: Executor | None = None,
    ) -> None:
        """Build the parts; engine and decoder are child processes, and the executor a thread, by default.

        With `drains` it ends once all is done; from `stop_starting_at` ("HH:MM") on it starts no job.
        """
        folders = settings.folders
        self.stop = threading.Event()
        self._is_over = threading.Event()  # all threads but status and upkeep have ended
        self._defect: Exception | None = None
        self.lives = {name: Lifeline(self.stop) for name in ("intake", "worker", "publisher")}
        self.situation = Situation(settings, drains, started=time.monotonic())
        self.spool = Spool(folders.spool)
        inbox = Sentinel(folders.inbox, "inbox", folders.spool / "met-inbox")
        outbox = Sentinel(folders.outbox, "outbox", folders.spool / "met-outbox")
        self._sentinels = (inbox, outbox)
        self.outbox = Outbox(folders.outbox, outbox)
        self.engine = engine or ProcessEngine(settings)
        self.attempts = Attempts()
        self.status = Status(self.spool, self.situation, self.attempts, self.lives)
        self.upkeep = Upkeep(self.spool, self.outbox, self.situation, self.attempts)
        self.settler = Settler(self.spool, self.outbox, self.situation.backoff.retry, self.attempts)
        self.room = Room(self.spool, self.outbox)
        self.publisher = Publisher(self.settler, self.room, self.lives["publisher"], executor)
        self._worker = Worker(
            *(self.engine, self.publisher, self.attempts, self.lives["worker"]),
            max_attempts=settings.engine.max_attempts,
        )
        decoder = decoder or Decoder(settings.inbox.max_megapixels)
        self.intake = IntakeThread(
            self.spool, decoder, inbox, self.situation, self.settler, life=self.lives["intake"]
        )
        hours = Hours(settings.schedule.window, stop_starting_at, clock.local())
        self.work = WorkLoop(self._worker, self.intake, hours, self.upkeep, self.lives["worker"])

    @property
    def config(self) -> Config:
        """The current config."""
        return self.situation.config

    def run(self) -> int:
        """Run until stopped or, when draining, until all is done; raises NotReady if it cannot start.

        The exit code that it gives is 1 when draining and some jobs failed, else 0.
        """
        drains = self.situation.drains
        self.spool.prepare()
        with lock.locked(self.spool.root):
            folders = {name: str(path) for name, path in self.config.folders if path}
            mode = "drain" if drains else "watch"
            log.info("service.started", version=__version__, pid=os.getpid(), mode=mode, **folders)
            for key in config.without_effect(self.config):
                log.warning("service.key_ignored", key=key, reason="it has no effect in this version")
            self.recover()
            self._run_threads()
        if self._defect is not None:
            raise self._defect
        with contextlib.suppress(NotReady, OSError):  # those jobs are queued again
            self.publisher.raise_error()
        return 1 if drains and self.status.counts.failed else 0

    def _run_threads(self) -> None:
        """Run the worker here and every other loop in a thread of its own, until all of them have ended."""
        loops = {"intake": self.intake.run, "status": self._run_status, "upkeep": self._run_upkeep}
        threads = {
            name: threading.Thread(target=self.guarded, args=(name, run), name=name, daemon=name == "upkeep")
            for name, run in loops.items()
        }
        for thread in threads.values():
            thread.start()
        try:
            self.work.run()
        finally:
            self._shut_down(**threads)

    def ask_stop(self) -> None:
        """Ask every thread to end; returns at once."""
        if self.situation.state != "stopped":
            self.situation.state = "stopping"
        self.stop.set()
        self._wake()

    def _wake(self) -> None:
        self.intake.wake.set()
        self.intake.has_work.set()

    def guarded(self, name: str, run: Callable[[], None]) -> None:
        """Run a thread's loop; a defect in it ends the whole service."""
        try:
            run()
        except Exception as error:  # noqa: BLE001 - raised again by `run`
            self._defect = error
            self.ask_stop()
        finally:
            if name in self.lives:
                self.lives[name].rest()

    def recover(self) -> None:
        """Bring the folders in order after any end of the last run; raises NotReady."""
        try:
            for sentinel in self._sentinels:
                sentinel.establish()
            self.outbox.clean(self.spool.ids())
            self.upkeep.report.begin()
            found = self.spool.recover(self.outbox.is_published)
            self.intake.remember(self.spool.unretired())
        except OSError as error:
            raise NotReady(f"recovery: {error}") from error
        self._report_recovery(found)

    def _report_recovery(self, found: Recovery) -> None:
        for entry in found.requeued:
            facts = {"attempt": entry.attempts_used, "max_attempts": self.config.engine.max_attempts}
            log.warning("spool.requeued", job_id=entry.id, name=entry.label, **facts, reason="service_ended")
        for entry in found.completed:
            log.info("job.completed", job_id=entry.id, name=entry.label, **entry.facts)
            if entry.job is not None:
                self.outbox.tidy(entry.job)
            self.attempts.note(Ending.COMPLETED)
        for entry in found.corrupt:
            log.error("job.failed", job_id=entry.id, name=entry.label, reason=Reason.CORRUPT.value)
            self.attempts.note(Ending.FAILED)
        counts = {name: len(entries) for name, entries in vars(found).items()}
        log.info("spool.recovered", **counts, queued=self.upkeep.queued())

    def _shut_down(self, intake: threading.Thread, status: threading.Thread, upkeep: threading.Thread) -> None:
        """Await the threads' ends; the status is written until all that is painted has ended."""
        self.ask_stop()
        notify(STOPPING="1", STATUS="stopping")
        try:
            self.engine.stop()
            self.lives["worker"].rest()
            self.publisher.close()
            intake.join()
        finally:
            self._is_over.set()  # or the status thread would keep the process alive
            status.join()
        self.situation.state = "stopped"
        with contextlib.suppress(OSError):  # why not is logged: the status thread met it, too
            self.status.write()
        upkeep.join(_REPORT_S)
        if upkeep.is_alive():
            log.warning("service.report_failed", what="summary", error="the outbox does not answer")
        uptime_s = round(time.monotonic() - self.situation.started, 1)
        log.info(
            "service.stopped", **self.status.counts._asdict(), queued=self.upkeep.queued(), uptime_s=uptime_s
        )

    def _run_status(self) -> None:
        while not self._is_over.is_set():
            try:
                self.status.turn()
            except OSError as error:
                self.situation.backoff.begin("status", error)
            else:
                self.situation.backoff.end("status")
            self._is_over.wait(_STATUS_S)

    def _run_upkeep(self) -> None:
        while not self._is_over.is_set():
            self.upkeep.turn(time.monotonic())
            self._is_over.wait(_STATUS_S)
        self.upkeep.end()

    def reload(self, read: Callable[[], Config]) -> None:
        """Adopt the keys that may change while the service runs; a faulty config changes nothing."""
        is_ready = self.situation.state == "running"  # else READY would be wrong
        if is_ready:
            notify(RELOADING="1", MONOTONIC_USEC=str(time.monotonic_ns() // 1000))
        try:
            settings = read()
        except ConfigError as error:
            log.error("service.reload_refused", faults=[str(fault) for fault in error.faults])  # noqa: TRY400
        else:
            self._adopt(settings)
        if is_ready:
            notify(READY="1")

    def _adopt(self, read: Config) -> None:
        merged, ignored = config.reloaded(self.config, read)
        for key in ignored:
            log.warning("service.key_ignored", key=key, reason="it needs a restart")
        changed = config.differences(self.config, merged)
        self.situation.config = merged
        self._worker.max_attempts = merged.engine.max_attempts
        self.work.hours.change_window(merged.schedule.window)
        logs.configure(merged.log.level, merged.log.format)
        log.info("service.reloaded", changed=changed)
        self.upkeep.hasten()
        self._wake()
