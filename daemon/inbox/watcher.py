"""watchdog as an alarm clock: any event sets one flag; what happened is found by the next scan."""

from __future__ import annotations

from typing import TYPE_CHECKING

from watchdog.events import FileSystemEventHandler
from watchdog.observers import Observer

from daemon import logs

if TYPE_CHECKING:
    import threading
    from pathlib import Path

    from watchdog.events import FileSystemEvent
    from watchdog.observers.api import BaseObserver

log = logs.get(__name__)


class _Alarm(FileSystemEventHandler):
    """Sets the flag and does nothing else: an exception here would end the observer's thread for good."""

    def __init__(self, wake: threading.Event) -> None:
        self._wake = wake

    def on_any_event(self, event: FileSystemEvent) -> None:
        # Our own scans open and close files; only what changes a folder is news.
        if event.event_type not in {"opened", "closed_no_write"}:
            self._wake.set()


class Watcher:
    """Watches the inbox where that works; where it does not, the rescan alone finds everything, later."""

    def __init__(self, folder: Path, wake: threading.Event) -> None:
        self._folder = folder
        self._wake = wake
        self._observer: BaseObserver | None = None

    @property
    def is_up(self) -> bool:
        """Whether the observer and all its emitters live."""
        observer = self._observer
        return (
            observer is not None
            and observer.is_alive()
            and bool(observer.emitters)
            and all(emitter.is_alive() for emitter in observer.emitters)
        )

    def ensure(self) -> None:
        """Start watching, or start anew where the observer or one of its emitters died."""
        if self.is_up:
            return
        restarts = self._observer is not None
        self.stop()
        observer = Observer()
        try:
            observer.schedule(_Alarm(self._wake), str(self._folder), recursive=True)
            observer.start()
        except OSError as error:  # inotify's limits, or a folder that is gone this instant
            log.warning("inbox.watch_failed", error=str(error), hint="the rescan finds everything, later")
            return
        self._observer = observer
        log.info("inbox.watched", folder=str(self._folder), is_restart=restarts)
        self._wake.set()

    def stop(self) -> None:
        """Stop watching."""
        if self._observer is not None and self._observer.is_alive():
            self._observer.stop()
            self._observer.join(timeout=5)
        self._observer = None
