"""Which loops turn, and how long the service manager is patient."""

from __future__ import annotations

import os

import pytest

from daemon import lifeline
from daemon.lifeline import DEFAULT_LIMIT_S, Pulse


class Seconds:
    """A clock that moves when told to."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        """Tell the seconds."""
        return self.now


@pytest.fixture
def seconds() -> Seconds:
    """Make a clock."""
    return Seconds()


def test_a_loop_is_silent_past_the_limit_and_not_at_it(seconds: Seconds) -> None:
    """Exactly at the limit a loop still counts as alive; a moment later it does not."""
    heart = Pulse(seconds)
    heart.beat("intake")
    seconds.now += 10
    assert heart.silent(10) == []
    seconds.now += 0.001
    assert heart.silent(10) == ["intake"]


def test_every_beat_counts_for_its_own_loop(seconds: Seconds) -> None:
    """One loop that beats does not speak for another; the silent ones are named in order."""
    heart = Pulse(seconds)
    for loop in ("worker", "intake", "third"):
        heart.beat(loop)
    seconds.now += 11
    heart.beat("third")
    assert heart.silent(10) == ["intake", "worker"]
    heart.beat("worker")
    assert heart.silent(10) == ["intake"]


def test_nothing_is_expected_of_a_loop_that_has_not_begun_or_has_ended(seconds: Seconds) -> None:
    """Before its first beat and after its end a loop cannot be silent; to end one twice is fine."""
    heart = Pulse(seconds)
    assert heart.silent(0) == []
    heart.beat("intake")
    seconds.now += 11
    heart.end("intake")
    heart.end("intake")
    assert heart.silent(10) == []


@pytest.mark.parametrize(
    ("microseconds", "limit_s"),
    [
        ("300000000", 150.0),
        ("2000000", 1.0),
        ("1", 5e-7),
        ("0", DEFAULT_LIMIT_S),
        ("", DEFAULT_LIMIT_S),
        ("-5", DEFAULT_LIMIT_S),
        ("2e6", DEFAULT_LIMIT_S),
        ("much", DEFAULT_LIMIT_S),
        (None, DEFAULT_LIMIT_S),
    ],
)
def test_the_limit_is_half_of_the_patience(
    microseconds: str | None, limit_s: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Half of WATCHDOG_USEC, in seconds; without one, or with one that says nothing, the default."""
    monkeypatch.delenv("WATCHDOG_PID", raising=False)
    monkeypatch.delenv("WATCHDOG_USEC", raising=False)
    if microseconds is not None:
        monkeypatch.setenv("WATCHDOG_USEC", microseconds)
    assert lifeline.limit_s() == limit_s


@pytest.mark.parametrize(
    ("whose", "limit_s"), [("ours", 1.0), ("another's", DEFAULT_LIMIT_S), ("no one's", DEFAULT_LIMIT_S)]
)
def test_another_processs_watchdog_is_not_ours(
    whose: str, limit_s: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """WATCHDOG_PID names whose watchdog it is; an inherited one of another process is passed over."""
    monkeypatch.setenv("WATCHDOG_USEC", "2000000")
    pids = {"ours": str(os.getpid()), "another's": str(os.getpid() + 1), "no one's": ""}
    monkeypatch.setenv("WATCHDOG_PID", pids[whose])
    assert lifeline.limit_s() == limit_s
