"""A thread's stop flag and heartbeat, and those of a piece of its work."""

from __future__ import annotations

import threading
import time

import pytest
from support.fakes import Clock

from daemon import lifeline
from daemon.lifeline import Lifeline


@pytest.fixture
def seconds(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """Have lifelines look at such a clock."""
    made = Clock()
    monkeypatch.setattr(lifeline, "time", made)
    return made


def test_a_silence_begins_with_a_heartbeat_and_ends_with_the_next(seconds: Clock) -> None:
    """Each heartbeat restarts the count."""
    life = Lifeline()
    life.beat()
    seconds.now_s += 10
    assert life.silence_s == 10
    life.beat()
    assert life.silence_s == 0


def test_nothing_is_expected_before_the_first_heartbeat_or_at_rest(seconds: Clock) -> None:
    """A thread that has not begun, or rests, is not silent; to rest twice is fine."""
    life = Lifeline()
    assert life.silence_s == 0
    life.beat()
    seconds.now_s += 11
    life.rest()
    life.rest()
    assert life.silence_s == 0


def test_one_stop_flag_may_be_shared() -> None:
    """Set by anybody, or asked for through one lifeline, it stops all that share it; the default stops none."""
    stop = threading.Event()
    lives, other = [Lifeline(stop), Lifeline(stop)], Lifeline()
    assert not lives[0].is_stopping
    lives[1].ask_stop()
    assert stop.is_set()
    assert lives[0].is_stopping
    assert not other.is_stopping


def test_a_nested_lifeline_stops_alone_or_with_its_parent() -> None:
    """A cancel ends one attempt and not its thread; the end of the thread ends the attempt."""
    parent = Lifeline()
    first, second = parent.nested(), parent.nested()
    first.ask_stop()
    assert (first.is_stopping, second.is_stopping, parent.is_stopping) == (True, False, False)
    parent.ask_stop()
    assert second.is_stopping


def test_a_nested_heartbeat_is_the_threads(seconds: Clock) -> None:
    """What works on an attempt vouches for its thread."""
    parent = Lifeline()
    parent.beat()
    seconds.now_s += 10
    parent.nested().beat()
    assert parent.silence_s == 0


def test_overtime_counts_from_the_first_heartbeat_after_the_stop(seconds: Clock) -> None:
    """Before the stop, and before the thread has noticed it, there is none."""
    life = Lifeline()
    life.beat()
    life.ask_stop()
    seconds.now_s += 10
    assert life.overtime_s == 0
    life.beat()
    seconds.now_s += 7
    life.beat()
    assert life.overtime_s == 7


def test_a_wait_beats_and_ends_with_its_time() -> None:
    """However short it is, it shows that the thread lives; it takes about its time."""
    life, begun = Lifeline(), time.monotonic()
    assert not life.wait(0.0)
    assert life.silence_s > 0
    assert not life.wait(0.03)
    assert time.monotonic() - begun >= 0.03


@pytest.mark.parametrize("by", ["stop", "wake", "parent"])
def test_a_wait_ends_early(by: str) -> None:
    """The stop, the parent's stop and an event end a wait; only the first two mean that the thread ends."""
    parent, wake = Lifeline(), threading.Event()
    life = parent.nested()
    end = {"stop": life.ask_stop, "wake": wake.set, "parent": parent.ask_stop}[by]
    timer = threading.Timer(0.05, end)
    begun = time.monotonic()
    timer.start()
    assert life.wait(60, wake) is (by != "wake")
    assert time.monotonic() - begun < 30
    timer.join()
