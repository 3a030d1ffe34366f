"""Retry an action until the environment (a disk, a share, a device) allows it; log each reason once."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

from daemon import files, logs
from daemon.errors import NotReady, PauseKind
from daemon.service.systemd import notify

if TYPE_CHECKING:
    from collections.abc import Callable

    from daemon.lifeline import Lifeline

log = logs.get(__name__)

PAUSE_S: Final = 2.0
_TRIES: Final = 3  # of what another try does not mend


class Pause(NamedTuple):
    """Why a part of the service waits."""

    reason: str
    kind: PauseKind


class Backoff:
    """The parts of the service that wait for the environment; called from all of its threads."""

    def __init__(self, pauses: dict[str, Pause]) -> None:
        """Know no obstacle yet.

        Args:
            pauses: the parts that wait, kept up to date.
        """
        self._pauses = pauses

    def begin(self, part: str, error: Exception) -> None:
        """Say what a part waits for, once for each reason.

        Args:
            part: the part of the service, such as `outbox`.
            error: the NotReady or OSError that holds it up.
        """
        reason = str(error)
        if isinstance(error, OSError) and error.filename is not None:
            reason = f"{error.strerror}: {error.filename}"
        before = self._pauses.get(part)
        self._pauses[part] = Pause(reason, PauseKind.of(error))
        if before is None or before.reason != reason:
            log.warning("service.paused", part=part, reason=reason)
            notify(STATUS=f"paused: {reason}")

    def end(self, part: str) -> None:
        """Say that a part goes on, if it waited."""
        if self._pauses.pop(part, None) is not None:
            log.info("service.resumed", part=part)

    def retry(self, part: str, action: Callable[[], object], life: Lifeline, *, gives_up: bool = False) -> bool:
        """Run an action until it succeeds.

        Args:
            part: the part of the service that waits meanwhile.
            action: raises NotReady or OSError while the environment does not allow it.
            life: the calling thread's.
            gives_up: raise at the third try what waiting does not mend, such as a name that a share refuses.

        Returns:
            Whether it succeeded; False once the thread should end.

        Raises:
            OSError: see `gives_up`.
        """
        tries = 0
        while True:
            try:
                action()
            except (NotReady, OSError) as error:
                tries += 1
                if gives_up and tries >= _TRIES and files.is_of_the_file(error):
                    self.end(part)
                    raise
                self.begin(part, error)
                if life.wait(PAUSE_S):
                    return False
            else:
                self.end(part)
                return True
