"""When a child has passed a limit, and what the kernel tells of its own killing."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest
from support.fakes import Clock

from daemon.engine import limits
from daemon.engine.limits import Watch
from daemon.errors import Reason

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """The clock of the limits, at some time."""
    made = Clock()
    monkeypatch.setattr(limits, "time", made)
    return made


@pytest.fixture
def used(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The memory that is measured each time, in megabytes; the last one stays."""
    values = [10]
    monkeypatch.setattr(limits, "resident_mb", lambda _pid: values.pop(0) if len(values) > 1 else values[0])
    return values


def test_the_time_limit_is_for_the_whole_picture(clock: Clock) -> None:
    """Messages that keep coming do not put the time limit off."""
    watch = Watch(os.getpid(), timeout_s=10)
    for _ in range(10):
        watch.restart()
        assert watch.excess() is None
        clock.now_s += 1
    watch.restart()
    assert watch.excess() is None  # at 10 s sharp
    clock.now_s += 0.1
    assert watch.excess() == ("time limit", "engine.job_timeout_s passed: 10 s", Reason.TIMED_OUT)


def test_silence_ends_what_has_no_time_limit(clock: Clock) -> None:
    """Half an hour without a message is too long, without any limit configured."""
    watch = Watch(os.getpid())
    clock.now_s += 1800
    assert watch.excess() is None
    clock.now_s += 1
    assert watch.excess() == ("silence", "the engine made no step for 30 minutes", Reason.TIMED_OUT)


def test_time_between_two_waits_is_no_silence(clock: Clock) -> None:
    """However long the one who takes the steps is busy, as with a full disk, the child is not blamed."""
    watch = Watch(os.getpid())
    clock.now_s += 5000
    watch.restart()
    assert watch.excess() is None


def test_memory_beyond_the_limit_is_reported_in_megabytes(clock: Clock, used: list[int]) -> None:
    """At the limit is within it; beyond, both figures are named."""
    watch = Watch(os.getpid(), memory_limit_mb=10)
    assert watch.excess() is None
    used[0] = 11
    clock.now_s += 1
    message = "the engine used 11 MB of memory, engine.memory_limit_mb is 10"
    assert watch.excess() == ("memory limit", message, Reason.OUT_OF_MEMORY)


def test_memory_is_looked_at_once_a_second(clock: Clock, used: list[int]) -> None:
    """Steps that come quickly do not cost a look each."""
    used[:] = list(range(100))
    watch = Watch(os.getpid(), memory_limit_mb=1000)
    for _ in range(30):
        assert watch.excess() is None
        clock.now_s += 0.1
    assert used[0] == 3


def test_without_a_memory_limit_nothing_is_looked_at(clock: Clock, used: list[int]) -> None:
    """No limit, no look."""
    used[:] = [1, 2]
    assert Watch(os.getpid()).excess() is None
    assert used == [1, 2]


def test_resident_memory_is_measured() -> None:
    """A process that fills memory is seen to hold it; one that has ended holds none."""
    code = "held = b'x' * (200 << 20); print(flush=True); input()"
    command = [sys.executable, "-c", code]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        process.stdout.readline()
        assert 200 < limits.resident_mb(process.pid) < 300
        process.communicate(b"\n")
    assert limits.resident_mb(process.pid) == 0


@pytest.mark.parametrize(
    ("group", "expected"),
    [("0::/system.slice/a.service\n", 7), ("0::/nowhere\n", 2), ("9:memory:/x\n", 2), (None, 2)],
    ids=["own group", "group without a count", "no such groups", "no groups"],
)
def test_the_kernels_killing_is_counted(group: str | None, expected: int, tmp_path: Path) -> None:
    """The count is our control group's where there is one, else the machine's."""
    own = tmp_path / "cgroup" / "system.slice" / "a.service"
    for folder in (own, tmp_path / "self"):
        folder.mkdir(parents=True)
    (own / "memory.events").write_text("low 0\nhigh 0\nmax 3\noom 9\noom_kill 7\noom_group_kill 0\n")
    (tmp_path / "vmstat").write_text("nr_free_pages 1\noom_kill 2\ndrop_pagecache 0\n")
    if group is not None:
        (tmp_path / "self" / "cgroup").write_text(group)
    assert limits.oom_kills(tmp_path, tmp_path / "cgroup") == expected


def test_a_kernel_that_counts_nothing_is_no_fault(tmp_path: Path) -> None:
    """Without either count, as in some containers, it is 0."""
    assert limits.oom_kills(tmp_path, tmp_path) == 0
    (tmp_path / "vmstat").write_text("nr_free_pages 1\n")
    assert limits.oom_kills(tmp_path, tmp_path) == 0
    assert limits.oom_kills() >= 0
