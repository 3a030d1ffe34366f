"""The limits of an engine's child (time, silence, memory), and whether the kernel killed it."""

from __future__ import annotations

import contextlib
import os
import time
from pathlib import Path
from typing import Final, NamedTuple

from daemon.errors import Reason

STALL_S: Final = 1800.0  # no step of a picture that could ever be finished takes so long
_LOOK_S: Final = 1.0
_PAGE_BYTES: Final = os.sysconf("SC_PAGE_SIZE")


class Excess(NamedTuple):
    """Which limit a child passed."""

    by: str  # in a word or two, for the log
    message: str
    reason: Reason


class Watch:
    """Finds when the child has passed a limit, while it paints one picture or loads the model."""

    def __init__(self, pid: int, timeout_s: float | None = None, memory_limit_mb: int | None = None) -> None:
        """Start counting; the memory is the child's resident memory, and None means no limit."""
        self._pid = pid
        self._timeout_s = timeout_s
        self._memory_limit_mb = memory_limit_mb
        self._begun = self._last_step = self._next_look = time.monotonic()

    def restart(self) -> None:
        """Restart the stall timer; time that the caller spends on a step does not count."""
        self._last_step = time.monotonic()

    def excess(self) -> Excess | None:
        """Return the limit that is passed, if one is. Memory is measured once a second."""
        now = time.monotonic()
        if self._timeout_s is not None and now - self._begun > self._timeout_s:
            return Excess("time limit", f"engine.job_timeout_s passed: {self._timeout_s:g} s", Reason.TIMED_OUT)
        if now - self._last_step > STALL_S:
            return Excess("silence", f"the engine made no step for {STALL_S / 60:g} minutes", Reason.TIMED_OUT)
        if self._memory_limit_mb is None or now < self._next_look:
            return None
        self._next_look = now + _LOOK_S
        used_mb, limit_mb = resident_mb(self._pid), self._memory_limit_mb
        message = f"the engine used {used_mb} MB of memory, engine.memory_limit_mb is {limit_mb}"
        return Excess("memory limit", message, Reason.OUT_OF_MEMORY) if used_mb > limit_mb else None


def resident_mb(pid: int) -> int:
    """Give the resident memory of a process, in MB of 2^20 bytes; 0 once it has ended."""
    try:
        return int(Path(f"/proc/{pid}/statm").read_bytes().split()[1]) * _PAGE_BYTES >> 20
    except (FileNotFoundError, ProcessLookupError):
        return 0


def oom_kills(proc: Path = Path("/proc"), cgroups: Path = Path("/sys/fs/cgroup")) -> int:
    """Count what the kernel has killed because memory ran out: in our control group, else on the machine.

    The kernel counts before it kills, so a SIGKILL after which the count is higher has a likely cause.
    """
    group = ""
    with contextlib.suppress(OSError):
        group = (proc / "self" / "cgroup").read_text().partition("0::/")[2].partition("\n")[0]
    for path in (cgroups / group / "memory.events", proc / "vmstat"):
        with contextlib.suppress(OSError, KeyError):
            return int(dict(line.split() for line in path.read_text().splitlines())["oom_kill"])
    return 0
