"""Waiting for the surroundings: said once, and what they did not allow is done again until they do."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from daemon import files, logs
from daemon.errors import NotReady
from daemon.service.systemd import notify

if TYPE_CHECKING:
    import threading
    from collections.abc import Callable

log = logs.get(__name__)

PAUSE_S: Final = 2.0
_TRIES: Final = 3  # of what another try does not mend


class Pauses:
    """The parts of the service that wait for their surroundings; called from all of its threads."""

    def __init__(self, paused: dict[str, str], stop: threading.Event, beat: Callable[[], None]) -> None:
        """Know no obstacle yet.

        Args:
            paused: is kept up to date: part of the service -> why it waits.
            stop: set once the service stops.
            beat: gives a sign of life for the calling thread.
        """
        self._paused = paused
        self._stop = stop
        self._beat = beat

    def begin(self, part: str, error: Exception) -> None:
        """Say what a part waits for, once for each reason."""
        reason = str(error)
        if isinstance(error, OSError) and error.filename is not None:
            reason = f"{error.strerror}: {error.filename}"
        if self._paused.get(part) != reason:
            self._paused[part] = reason
            log.warning("service.paused", part=part, reason=reason)
            notify(STATUS=f"paused: {reason}")

    def end(self, part: str) -> None:
        """Say that a part goes on, if it waited."""
        if self._paused.pop(part, None) is not None:
            log.info("service.resumed", part=part)

    def sleep(self, duration_s: float) -> bool:
        """Let the calling loop wait; True once the service stops."""
        is_stopping = self._stop.wait(duration_s)
        self._beat()
        return is_stopping

    def hold_out(self, part: str, action: Callable[[], object]) -> bool:
        """Run an action as often as it takes; False once the service stops.

        Raises:
            OSError: an outbox will never take it, such as a name it does not know how to write.
        """
        tries = 0
        while True:
            try:
                action()
            except (NotReady, OSError) as error:
                tries += 1
                if part == "outbox" and tries >= _TRIES and files.is_of_the_file(error):
                    self.end(part)
                    raise
                self.begin(part, error)
                if self.sleep(PAUSE_S):
                    return False
            else:
                self.end(part)
                return True
