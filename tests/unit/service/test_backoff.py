"""Waiting for the surroundings: said once for each reason, done again until it works, ended by a stop."""

from __future__ import annotations

import errno
import threading
from typing import TYPE_CHECKING

import pytest
from structlog.testing import capture_logs

from daemon.errors import NotReady
from daemon.service import backoff
from daemon.service.backoff import Pauses

if TYPE_CHECKING:
    from collections.abc import Callable


class Waiting:
    """Pauses that take no time, and an action that fails as told."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(backoff, "PAUSE_S", 0.0)
        self.paused: dict[str, str] = {}
        self.stop = threading.Event()
        self.beats = 0
        self.tries = 0
        self.pauses = Pauses(self.paused, self.stop, self._beat)

    def _beat(self) -> None:
        self.beats += 1

    def failing(self, *errors: Exception) -> Callable[[], None]:
        """Make an action that raises each of these, then works."""
        left = list(errors)

        def act() -> None:
            self.tries += 1
            if left:
                raise left.pop(0)

        return act


@pytest.fixture
def waiting(monkeypatch: pytest.MonkeyPatch) -> Waiting:
    """Make pauses that take no time."""
    return Waiting(monkeypatch)


def test_an_action_is_done_until_it_works_and_each_reason_is_said_once(waiting: Waiting) -> None:
    """Two reasons in four failures are two records; with the success the pause ends, in the status too."""
    full = OSError(errno.ENOSPC, "No space left on device", "x.png")
    away = NotReady("outbox unavailable")
    with capture_logs() as records:
        assert waiting.pauses.hold_out("outbox", waiting.failing(full, full, away, away))
    assert [(record["event"], record.get("reason")) for record in records] == [
        ("service.paused", "No space left on device: x.png"),
        ("service.paused", "outbox unavailable"),
        ("service.resumed", None),
    ]
    assert (waiting.tries, waiting.beats, waiting.paused) == (5, 4, {})


def test_once_the_service_stops_one_try_is_all(waiting: Waiting) -> None:
    """While it stops nothing is waited for: what does not work at once is not done, what does is."""
    waiting.stop.set()
    assert not waiting.pauses.hold_out("spool", waiting.failing(NotReady("no room")))
    assert waiting.tries == 1
    assert waiting.pauses.hold_out("spool", waiting.failing())


def test_only_an_outbox_is_taken_at_its_word(waiting: Waiting) -> None:
    """An error that waiting does not mend is raised at the third time where it is the outbox's, never else."""
    refusals = [OSError(errno.EINVAL, "Invalid argument", "a?b")] * 5
    with pytest.raises(OSError, match="Invalid argument"):
        waiting.pauses.hold_out("outbox", waiting.failing(*refusals))
    assert (waiting.tries, waiting.paused) == (3, {})
    assert waiting.pauses.hold_out("spool", waiting.failing(*refusals))
