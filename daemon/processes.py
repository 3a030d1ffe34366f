"""Child processes of our own interpreter, each behind a pipe.

A child ends when the thread that started it ends. When memory is short the kernel ends the child and never the
daemon, and a child that crashes leaves no core file with the pictures it held.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import resource
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
from multiprocessing.connection import Connection
from pathlib import Path
from typing import TYPE_CHECKING, Final

import daemon
from daemon.lifeline import Lifeline

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

# How long the rest of a message may take once it has begun; then the child counts as hanging.
HALF_MESSAGE_S: Final = 20
_TICK_S: Final = 0.1
_STOP_S: Final = 1.0
_KILL_S: Final = 20.0  # for the memory of a killed process to be given back
OOM_SCORE: Final = 500  # of 1000: the kernel counts half of the machine's memory on top of what the child uses
_PR_SET_PDEATHSIG: Final = 1


class Child:
    """A child process and our end of its pipe, whose reads raise BlockingIOError if a message stalls midway."""

    def __init__(
        self,
        module: str,
        arguments: Sequence[str] = (),
        *,
        environment: Mapping[str, str],
        output: int = subprocess.DEVNULL,
    ) -> None:
        """Start a module that calls `adopt` and finds its arguments in `sys.argv[3:]`; OSError if it fails."""
        ours, theirs = socket.socketpair()
        ours.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, struct.pack("ll", HALF_MESSAGE_S, 0))
        with ours, theirs:
            command = [sys.executable, "-P", "-m", module, str(os.getpid()), str(theirs.fileno()), *arguments]
            self._process = subprocess.Popen(  # noqa: S603 - our own interpreter and module
                command,
                env=_with_our_path(environment),
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # a Ctrl-C in the terminal is for the daemon alone
            )
            self.pipe = Connection(ours.detach())
        self.pid = self._process.pid
        self.output = self._process.stdout  # and its stderr, if piped

    @property
    def is_running(self) -> bool:
        """Whether it has not ended yet."""
        return not self.pipe.closed and self._process.poll() is None

    def has_message(self, life: Lifeline) -> bool:
        """Wait a moment, with a heartbeat, for a message or the end of the pipe."""
        life.beat()
        return self.pipe.poll(_TICK_S)

    def await_message(self, life: Lifeline, limit_s: float) -> bool:
        """Wait for a message or the end of the pipe; False after the time limit or once asked to stop."""
        deadline = time.monotonic() + limit_s
        while not self.has_message(life):
            if life.is_stopping or time.monotonic() > deadline:
                return False
        return True

    def end(self, life: Lifeline, patience_s: float = 0.0) -> int | None:
        """Wait for its end and close the pipe; its `Popen.returncode`, None if killed after `patience_s`."""
        code = self._awaited_code(life, patience_s)
        if code is None:
            self._process.kill()
            self._awaited_code(life, _KILL_S)
        self.pipe.close()
        return code

    def stop(self) -> None:
        """Close the pipe, by which it ends by itself, or kill it."""
        self.pipe.close()
        self.end(Lifeline(), _STOP_S)

    def _awaited_code(self, life: Lifeline, longest_s: float) -> int | None:
        deadline = time.monotonic() + longest_s
        while (code := self._process.poll()) is None and (left_s := deadline - time.monotonic()) > 0:
            life.beat()
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(min(_TICK_S, left_s))
        return code


def _with_our_path(environment: Mapping[str, str]) -> dict[str, str]:
    paths = [str(Path(daemon.__file__).parent.parent), environment.get("PYTHONPATH", "")]
    return {**environment, "PYTHONPATH": os.pathsep.join(filter(None, paths))}


def ending(code: int) -> str:
    """Say in words how a child ended, from `Popen.returncode`."""
    if code >= 0:
        return f"exit code {code}"
    names = {number.value: number.name for number in signal.Signals}  # a real-time signal has none
    return f"signal {names.get(-code, -code)}"


def adopt() -> Connection:
    """In the child: tie this process to the daemon that started it, and return the child's end of the pipe."""
    parent, fd = int(sys.argv[1]), int(sys.argv[2])
    # The kernel ends this process when the thread that started it ends.
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        sys.exit(1)  # it ended before the line above
    with contextlib.suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text(str(OOM_SCORE), "ascii")
    # No core dump: where `core_pattern` is a pipe, a limit of 0 does not prevent one, but of 1 does (core(5)).
    hard = resource.getrlimit(resource.RLIMIT_CORE)[1]
    byte = 1 if hard == resource.RLIM_INFINITY else min(hard, 1)
    resource.setrlimit(resource.RLIMIT_CORE, (byte, byte))
    return Connection(fd)


def kilobytes(path: Path, key: str) -> int:
    """Read a size from a table such as `/proc/meminfo`; StopIteration if it has no such line."""
    lines = path.read_text(encoding="ascii", errors="replace").splitlines()
    return int(next(line.split()[1] for line in lines if line.startswith(f"{key}:")))


def yield_to_others(nice: int) -> None:
    """Lower the calling thread's priority, as nice(1) does; only Linux can for one thread."""
    if sys.platform == "linux":
        with contextlib.suppress(OSError):  # filtered system calls: then it keeps its priority
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), nice)
