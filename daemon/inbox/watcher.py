"""watchdog as an alarm clock: any event sets one flag; what happened is found by the next scan."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

from watchdog.events import FileSystemEventHandler
from watchdog.observers import Observer

from daemon import logs

if TYPE_CHECKING:
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
        self._threads: set[threading.Thread] = set()
        self._has_watched = False
        self._trouble = ""  # why watching does not work, as logged last

    @property
    def is_up(self) -> bool:
        """Whether the observer and all its emitters live, and the thread that reads the system's events."""
        observer = self._observer
        return (
            observer is not None
            and bool(observer.emitters)
            and all(thread.is_alive() for thread in (observer, *observer.emitters, *self._threads))
        )

    def ensure(self) -> None:
        """Start watching, or start again if a thread died; log once why that does not work."""
        if self.is_up:
            return
        self.stop()
        others = _threads()
        try:
            self._observer = Observer()  # which starts a thread of its own already here
            self._threads = _threads() - others
            self._observer.schedule(_Alarm(self._wake), str(self._folder), recursive=True)
            self._observer.start()
        except (OSError, RuntimeError) as error:  # a limit of inotify or of threads, or a folder that is gone
            self.stop()
            if self._trouble != str(error):
                self._trouble = str(error)
                log.warning("inbox.watch_failed", error=str(error), hint="the rescan finds everything, later")
            return
        self._trouble = ""
        log.info("inbox.watched", folder=str(self._folder), is_restart=self._has_watched)
        self._has_watched = True
        self._wake.set()

    def stop(self) -> None:
        """Stop watching, even if only a part of it was started."""
        if self._observer is not None:
            self._observer.stop()
            if self._observer.is_alive():
                self._observer.join(timeout=5)
        self._observer = None
        self._threads = set()


def _threads() -> set[threading.Thread]:
    """List watchdog's threads: an observer does not know all that it needs."""
    return {thread for thread in threading.enumerate() if type(thread).__module__.startswith("watchdog.")}
