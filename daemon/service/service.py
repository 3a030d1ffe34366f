"""Builds every part from the config, runs their loops in threads, and brings them to an end together."""

from __future__ import annotations

import os
import threading
import time
from dataclasses import asdict
from typing import TYPE_CHECKING, Final

from daemon import __version__, clock, config, logs
from daemon.engine.process import ProcessEngine
from daemon.errors import ConfigError, NotReady, Reason
from daemon.lifeline import Lifeline, Pulse
from daemon.outbox.publish import Outbox
from daemon.sandbox.client import Inspector
from daemon.sentinel import Sentinel
from daemon.service.backoff import Pauses
from daemon.service.hours import Hours
from daemon.service.intake_thread import IntakeThread, Partners
from daemon.service.systemd import notify
from daemon.service.upkeep import Housekeeping, Situation
from daemon.service.work_thread import WorkLoop
from daemon.spool import Spool
from daemon.worker.outcomes import Ending
from daemon.worker.publisher import BackgroundFinisher
from daemon.worker.worker import Worker

if TYPE_CHECKING:
    from collections.abc import Callable

    from daemon.config import Config
    from daemon.engine import Engine
    from daemon.worker.publisher import Finisher

log = logs.get(__name__)

_STATUS_S: Final = 1.0


class _Life(Lifeline):
    """A lifeline whose heartbeat feeds the watchdog."""

    def __init__(self, stop: threading.Event, heart: Pulse, loop: str) -> None:
        super().__init__(stop)
        self._heart = heart
        self._loop = loop

    def beat(self) -> None:
        """Show that the thread makes progress."""
        super().beat()
        self._heart.beat(self._loop)


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
        self.reloads = reload is not None
        self._read_config = reload
        self._drains = drains
        self._has_work = threading.Event()  # for the worker: something is queued
        self._is_over = threading.Event()  # for the status thread: all others have ended
        self._defect: Exception | None = None
        self._heart = Pulse()
        self._pauses = Pauses(self.situation.paused, self.stop, self._beat)
        folders = settings.folders
        self.spool = Spool(folders.spool)
        self._sentinels = {
            "inbox": Sentinel(folders.inbox, "inbox", folders.spool / "met-inbox"),
            "outbox": Sentinel(folders.outbox, "outbox", folders.spool / "met-outbox"),
        }
        self.outbox = Outbox(folders.outbox, self._sentinels["outbox"].check, self._beat)
        self._engine = engine or ProcessEngine(settings, self._worker_is_stopping)
        self._finisher = finisher or self._make_finisher()
        self._housekeeping = self._make_housekeeping()
        self._worker = self._make_worker()
        self._intake = self._make_intake(inspector)
        self._work = self._make_work(Hours(settings.schedule.window, stop_starting_at, clock.local()))

    # The parts

    def _make_finisher(self) -> Finisher:
        return BackgroundFinisher(self.stop.is_set, self._beat, lambda: self._heart.end("finisher"))

    def _make_housekeeping(self) -> Housekeeping:
        return Housekeeping(
            lambda: self.config,
            self.spool,
            self.outbox,
            self.situation,
            progress=lambda: self._worker.progress,
            heart=self._heart,
        )

    def _make_worker(self) -> Worker:
        return Worker(
            self.config,
            self.spool,
            self._engine,
            self.outbox,
            self._finisher,
            is_stopping=self._worker_is_stopping,
            hold_out=self._pauses.hold_out,
            note_ending=self._housekeeping.note_ending,
        )

    def _make_intake(self, inspector: Inspector | None) -> IntakeThread:
        partners = Partners(
            self.situation, self._pauses, self._housekeeping, self._worker, has_work=self._has_work
        )
        return IntakeThread(
            self.config,
            self.spool,
            inspector or Inspector(self.config.inbox.max_megapixels, self._intake_is_stopping),
            self._sentinels["inbox"],
            partners=partners,
            life=_Life(self.stop, self._heart, "intake"),
        )

    def _make_work(self, hours: Hours) -> WorkLoop:
        return WorkLoop(
            self._worker,
            self._engine,
            self._finisher,
            hours,
            self._housekeeping,
            situation=self.situation,
            pauses=self._pauses,
            drains=self._drains,
            has_work=self._has_work,
            first_scan=self._intake.first_scan,
            at_rest=self._intake.at_rest,
            is_stopping=self._worker_is_stopping,
            check_outbox=self.outbox.check,
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
            self._run_loops()
        if self._defect is not None:
            raise self._defect
        return 1 if self._drains and self.counts.failed else 0

    def _run_loops(self) -> None:
        """Run the worker here and every other loop in a thread of its own, until all of them have ended."""
        loops = [self._thread("intake", self._intake.run), self._thread("finisher", self._finisher.run)]
        status = self._thread("status", self._run_status)
        for thread in (*loops, status):
            thread.start()
        try:
            self._work.run()
        finally:
            self._shut_down(loops, status)

    def _thread(self, name: str, run: Callable[[], None]) -> threading.Thread:
        return threading.Thread(target=self.guarded, args=(name, run), name=name)

    def ask_stop(self) -> None:
        """Have every loop end; returns at once."""
        self.stop.set()
        self._intake.wake.set()
        self._has_work.set()

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
            self._intake.remember(entry.job for entry in self.spool.unretired() if entry.job is not None)
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
            self._housekeeping.note_ending(Ending.COMPLETED, entry.label, 0.0, None)
        for entry in found.corrupt:
            log.error("job.failed", job_id=entry.id, name=entry.label, reason=Reason.CORRUPT.value)
            self._housekeeping.note_ending(Ending.FAILED, entry.label, 0.0, entry.failure)
        counts = {name: len(entries) for name, entries in vars(found).items()}
        log.info("spool.recovered", **counts, queued=self._housekeeping.queued())

    def _shut_down(self, loops: list[threading.Thread], status: threading.Thread) -> None:
        """Await the loops' ends; the status is kept meanwhile, for what is painted is brought to its end."""
        self.situation.state = "stopping"
        notify(STOPPING="1", STATUS="stopping")
        self.ask_stop()
        self._engine.stop()
        self._heart.end("worker")  # not before: the engine beats while it waits for its child
        self._finisher.close()
        for thread in loops:
            thread.join()
        self._is_over.set()
        status.join()
        self.situation.state = "stopped"
        self._housekeeping.end()
        log.info(
            "service.stopped",
            **asdict(self.counts),
            queued=self._housekeeping.queued(),
            uptime_s=round(time.monotonic() - self.situation.started, 1),
        )

    # Signs of life

    def _beat(self) -> None:
        """Beat for the loop whose thread this is: all of them publish."""
        name = threading.current_thread().name
        self._heart.beat(name if name in {"intake", "finisher"} else "worker")

    def _intake_is_stopping(self) -> bool:
        self._heart.beat("intake")
        return self.stop.is_set()

    def _worker_is_stopping(self) -> bool:
        self._heart.beat("worker")
        return self.stop.is_set()

    # The status thread

    def _run_status(self) -> None:
        """Keep house every second; nothing slow happens in this thread, which feeds the watchdog."""
        while not self._is_over.is_set():
            try:
                self._housekeeping.turn(time.monotonic())
            except OSError as error:
                self._pauses.begin("status", error)
            else:
                self._pauses.end("status")
            self._is_over.wait(_STATUS_S)

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
        self.config = self._worker.config = self._intake.config = merged
        self._work.hours.window = merged.schedule.window
        logs.configure(merged.log.level, merged.log.format)
        log.info("service.reloaded", changed=changed)
        self._housekeeping.hasten()
        self._intake.wake.set()
        self._has_work.set()
