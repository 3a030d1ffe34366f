"""Retry an action until the environment (a disk, a share, a device) allows it; log each reason once."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, Final, NamedTuple

from daemon import files, logs
from daemon.errors import NotReady, PauseKind
from daemon.service.systemd import notify

if TYPE_CHECKING:
    from collections.abc import Callable

    from daemon.lifeline import Lifeline

log = logs.get(__name__)

PAUSE_S: Final = 2.0
_TRIES: Final = 3  # where waiting is unlikely to help


class Pause(NamedTuple):
    """Why a part of the service waits."""

    reason: str
    kind: PauseKind


class Backoff:
    """Keeps account of the parts of the service that wait for the environment; called from all threads."""

    def __init__(self) -> None:
        self.pauses: dict[str, Pause] = {}  # by the part of the service that waits

    def begin(self, part: str, error: Exception) -> None:
        """Log why a part such as `outbox` waits, once for each reason."""
        reason = str(error)
        if isinstance(error, OSError) and error.filename is not None:
            reason = f"{error.strerror}: {error.filename}"
        before = self.pauses.get(part)
        self.pauses[part] = Pause(reason, PauseKind.of(error))
        if before is None or before.reason != reason:
            log.warning("service.paused", part=part, reason=reason)
            notify(STATUS=f"paused: {reason}")

    def end(self, part: str) -> None:
        """Log that a part continues, if it waited."""
        if self.pauses.pop(part, None) is not None:
            log.info("service.resumed", part=part)

    def retry(self, part: str, action: Callable[[], object], life: Lifeline, *, gives_up: bool = False) -> bool:
        """Run an action until it raises neither NotReady nor OSError; gives False once the thread should end.

        With `gives_up` an OSError is raised if waiting does not help, as with a name that a share refuses.
        """
        for tries in itertools.count(1):
            try:
                action()
            except (NotReady, OSError) as error:
                if gives_up and tries >= _TRIES and files.is_of_the_file(error):
                    self.end(part)
                    raise
                self.begin(part, error)
                if life.wait(PAUSE_S):
                    break
            else:
                self.end(part)
                return True
        return False
