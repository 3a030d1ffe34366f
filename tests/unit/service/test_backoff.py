"""Retrying until the environment allows: each reason is said once, and a stop ends the waiting."""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING

import pytest
from structlog.testing import capture_logs

from daemon.errors import NotReady, PauseKind
from daemon.lifeline import Lifeline
from daemon.service import backoff
from daemon.service.backoff import Backoff, Pause

if TYPE_CHECKING:
    from collections.abc import Callable


class Waiting:
    """Pauses that take no time, and an action that fails as asked."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(backoff, "PAUSE_S", 0.0)
        self.life = Lifeline()
        self.tries = 0
        self.backoff = Backoff()
        self.pauses = self.backoff.pauses

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


def test_an_action_is_retried_until_it_works_and_each_reason_is_said_once(waiting: Waiting) -> None:
    """Two reasons in four failures are two records; with the success the pause ends, in the status too."""
    full = OSError(errno.ENOSPC, "No space left on device", "x.png")
    away = NotReady("outbox unavailable")
    with capture_logs() as records:
        assert waiting.backoff.retry("outbox", waiting.failing(full, full, away, away), waiting.life)
    assert [(record["event"], record.get("reason")) for record in records] == [
        ("service.paused", "No space left on device: x.png"),
        ("service.paused", "outbox unavailable"),
        ("service.resumed", None),
    ]
    assert (waiting.tries, waiting.pauses) == (5, {})


def test_a_pause_knows_its_kind(waiting: Waiting) -> None:
    """Beside the reason for people there is one word of few; it is kept up to date while the reason stays."""
    waiting.backoff.begin("outbox", OSError(errno.ENOSPC, "No space left on device", "/srv/out"))
    assert waiting.pauses["outbox"] == Pause("No space left on device: /srv/out", PauseKind.NO_SPACE)
    waiting.backoff.begin("worker", NotReady("the GPU is busy"))
    assert waiting.pauses["worker"] == Pause("the GPU is busy", PauseKind.OTHER)
    waiting.backoff.begin("worker", NotReady("the GPU is busy", PauseKind.UNAVAILABLE))
    assert waiting.pauses["worker"].kind is PauseKind.UNAVAILABLE


def test_once_the_service_stops_one_try_is_all(waiting: Waiting) -> None:
    """While it stops nothing is waited for: what does not work at once is not done, what does is."""
    waiting.life.ask_stop()
    assert not waiting.backoff.retry("spool", waiting.failing(NotReady("no room")), waiting.life)
    assert waiting.tries == 1
    assert waiting.backoff.retry("spool", waiting.failing(), waiting.life)


def test_a_wait_is_no_silence(waiting: Waiting) -> None:
    """Each pause gives a heartbeat."""
    waiting.backoff.retry("spool", waiting.failing(NotReady("no room")), waiting.life)
    assert waiting.life.silence_s > 0


def test_only_where_asked_to_it_gives_up(waiting: Waiting) -> None:
    """An error for which waiting does not help is raised at the third try, but only on request."""
    refusals = [OSError(errno.EINVAL, "Invalid argument", "a?b")] * 5
    with pytest.raises(OSError, match="Invalid argument"):
        waiting.backoff.retry("outbox", waiting.failing(*refusals), waiting.life, gives_up=True)
    assert (waiting.tries, waiting.pauses) == (3, {})
    assert waiting.backoff.retry("spool", waiting.failing(*refusals), waiting.life)


def test_what_waiting_may_help_is_never_given_up(waiting: Waiting) -> None:
    """A full disk is waited for, however long it takes."""
    full = [OSError(errno.ENOSPC, "No space left on device")] * 9
    assert waiting.backoff.retry("outbox", waiting.failing(*full), waiting.life, gives_up=True)
    assert waiting.tries == 10
