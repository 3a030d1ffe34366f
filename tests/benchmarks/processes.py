"""Each contestant runs in a process of its own: a JSON request on its stdin, a JSON answer as its last line."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

HERE: Final = Path(__file__).parent
_TICK_S: Final = 0.2


class NoAnswerError(Exception):
    """A contestant ended without an answer; the message says why."""


def ask(
    request: dict[str, Any],
    log: Path,
    *,
    program: str = "contestant.py",
    python: str = sys.executable,
    variables: Mapping[str, str] = MappingProxyType({}),
    limit_mb: float | None = None,
) -> dict[str, Any]:
    """Start a contestant and wait for its answer.

    Args:
        request: the JSON request; `kind` names the function that answers it.
        log: the file for its stderr.
        program: a script beside this one.
        python: the interpreter of its virtual environment.
        variables: additional environment variables.
        limit_mb: memory above which it is killed, before the kernel kills another process.

    Raises:
        NoAnswerError: it failed, or exceeded the limit.
    """
    log.parent.mkdir(parents=True, exist_ok=True)
    answer = log.with_suffix(".answer")
    with answer.open("w+b") as stdout, log.open("wb") as stderr:
        child = subprocess.Popen(
            [python, str(HERE / program)],
            stdin=subprocess.PIPE,
            stdout=stdout,
            stderr=stderr,
            env={**environment(), **variables},
        )
        try:
            child.communicate(json.dumps(request).encode()) if limit_mb is None else _feed(
                child, request, limit_mb
            )
        finally:
            child.kill()
            child.wait()
    lines = answer.read_bytes().splitlines()
    if child.returncode != 0 or not lines:
        raise NoAnswerError(f"{request['kind']}: exit code {child.returncode}, {last_line(log.read_bytes())}")
    found: dict[str, Any] = json.loads(lines[-1])
    return found


def last_line(text: bytes) -> str:
    """Find the last line of a program's output, which says why it ended."""
    return next(iter(reversed(text.decode(errors="replace").strip().splitlines())), "no output")


def _feed(child: subprocess.Popen[bytes], request: dict[str, Any], limit_mb: float) -> None:
    assert child.stdin
    child.stdin.write(json.dumps(request).encode())
    child.stdin.close()
    while child.poll() is None:
        with contextlib.suppress(OSError):  # it has ended
            taken = memory_mb(child.pid, "VmRSS")
            if taken > limit_mb:
                raise NoAnswerError(f"took more than {limit_mb / 1000:.1f} GB")
        time.sleep(_TICK_S)


def environment() -> dict[str, str]:
    """Give this process's environment without settings of the product, with a quiet TensorFlow."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith("STYLETRANSFERD")}
    return {**kept, "TF_CPP_MIN_LOG_LEVEL": "2", "PYTHONWARNINGS": "ignore"}


def memory_mb(pid: int | str, key: str) -> float:
    """Read a size in MB of 10^6 bytes from the kernel: `VmRSS` now, `VmHWM` the highest so far."""
    with open(f"/proc/{pid}/status", encoding="ascii", errors="replace") as lines:
        for line in lines:
            if line.startswith(f"{key}:"):
                return int(line.split()[1]) * 1024 / 1e6
    return 0.0


def free_memory_mb() -> float:
    """Read the memory that can be used without swapping or killing other processes."""
    with open("/proc/meminfo", encoding="ascii") as lines:
        (found,) = (line for line in lines if line.startswith("MemAvailable:"))
    return int(found.split()[1]) * 1024 / 1e6


def install(pin: str, folder: Path) -> Path:
    """Fetch a package from PyPI into a folder, once, without what it depends on; gives the folder.

    Raises:
        NoAnswerError: it cannot be installed.
    """
    if not folder.exists():
        pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", str(folder), pin]
        done = subprocess.run(pip, capture_output=True, check=False)
        if done.returncode:
            raise NoAnswerError(f"{pin} cannot be installed from PyPI: {last_line(done.stderr)}")
    return folder


class Meanwhile:
    """The share of the processors that other processes use from now on: figures suffer from it."""

    def __init__(self) -> None:
        """Start counting."""
        self._begun = self._now()

    def others_share(self) -> float:
        """Compute their share of all processors' time so far, 0 to 1."""
        begun, (busy_s, own_s, wall_s) = self._begun, self._now()
        all_s = (wall_s - begun[2]) * (os.cpu_count() or 1)
        return max(0.0, (busy_s - begun[0] - own_s + begun[1]) / all_s) if all_s else 0.0

    @staticmethod
    def _now() -> tuple[float, float, float]:
        """Read seconds: of all processors busy, of this process and its children, and of the clock."""
        with open("/proc/stat", encoding="ascii") as lines:
            user, nice, system, _idle, _io, irq, softirq, steal, *_ = map(int, lines.readline().split()[1:])
        busy_s = (user + nice + system + irq + softirq + steal) / os.sysconf("SC_CLK_TCK")
        return busy_s, sum(os.times()[:4]), time.monotonic()


def interleaved(runs: Mapping[str, Callable[[], Any]], repeats: int) -> dict[str, list[Any]]:
    """Run A B C, A B C, ...: a machine that becomes slower then slows all of them down."""
    found: dict[str, list[Any]] = {name: [] for name in runs}
    for _ in range(repeats):
        for name, run in runs.items():
            found[name].append(run())
    return found
