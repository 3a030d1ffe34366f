"""Children: processes of our own interpreter, each behind a pipe; the one place that starts them and ties them.

A child ends when the thread that started it ends, however it ends. When memory is short the kernel takes the
child and never the daemon, and a child that crashes leaves no file with the pictures it held.
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
from multiprocessing.connection import Connection
from pathlib import Path
from typing import TYPE_CHECKING, Final

import daemon

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

# So long the rest of a message may take once it has begun; a child that hangs in between is seen to.
HALF_MESSAGE_S: Final = 20
OOM_SCORE: Final = 500  # of 1000: the kernel counts half of the machine's memory on top of what the child uses
_PR_SET_PDEATHSIG: Final = 1


# In the daemon


def spawn(
    module: str,
    arguments: Sequence[str] = (),
    *,
    environment: Mapping[str, str] | None = None,
    output: int = subprocess.DEVNULL,
) -> tuple[subprocess.Popen[bytes], Connection]:
    """Start a module of ours, which calls `adopt` first.

    Args:
        module: its full name.
        arguments: for the module; it finds them in `sys.argv[3:]`.
        environment: the child's variables; default: this process's.
        output: where its stdout and stderr go together, as for `Popen`.

    Returns:
        The child, and our end of its pipe. A read of it that stalls amid a message raises BlockingIOError.

    Raises:
        OSError: no process or descriptor is to be had.
    """
    ours, theirs = socket.socketpair()
    ours.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, struct.pack("ll", HALF_MESSAGE_S, 0))
    with ours, theirs:
        command = [sys.executable, "-P", "-m", module, str(os.getpid()), str(theirs.fileno()), *arguments]
        child = subprocess.Popen(  # noqa: S603 - our own interpreter and module
            command,
            env=_with_our_path(os.environ if environment is None else environment),
            pass_fds=[theirs.fileno()],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # a Ctrl-C in the terminal is for the daemon alone
        )
        return child, Connection(ours.detach())


def _with_our_path(environment: Mapping[str, str]) -> dict[str, str]:
    paths = [str(Path(daemon.__file__).parent.parent), environment.get("PYTHONPATH", "")]
    return {**environment, "PYTHONPATH": os.pathsep.join(filter(None, paths))}


def ending(code: int) -> str:
    """Say in words how a child ended, from `Popen.returncode`."""
    if code >= 0:
        return f"exit code {code}"
    try:
        return f"signal {signal.Signals(-code).name}"
    except ValueError:
        return f"signal {-code}"  # a real-time signal has no name


# In the child


def adopt() -> Connection:
    """Tie this process to the daemon that spawned it.

    Returns:
        The child's end of the pipe.
    """
    parent, fd = int(sys.argv[1]), int(sys.argv[2])
    die_with_parent(parent)
    _go_first_when_memory_is_short()
    _leave_no_core()
    return Connection(fd)


def die_with_parent(parent: int) -> None:
    """Have the kernel end this process when the thread that started it ends, however it ends."""
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        sys.exit(1)  # it ended before the line above


def _go_first_when_memory_is_short() -> None:
    with contextlib.suppress(OSError), open("/proc/self/oom_score_adj", "w", encoding="ascii") as file:
        file.write(str(OOM_SCORE))


def _leave_no_core() -> None:
    """Allow core dumps of one byte: less than any file, and Linux's word for none where a program gets them.

    A limit of 0 does not keep a core from a `core_pattern` that is a pipe (core(5)); of 1 it does.
    """
    hard = resource.getrlimit(resource.RLIMIT_CORE)[1]
    byte = 1 if hard == resource.RLIM_INFINITY else min(hard, 1)
    resource.setrlimit(resource.RLIMIT_CORE, (byte, byte))


def limit_memory(limit: int) -> None:
    """Refuse this process more address space than `limit` bytes: an allocation beyond it fails, here alone."""
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))


# Memory


def kilobytes(path: Path, key: str) -> int:
    """Read a size from one of the kernel's tables, such as `/proc/meminfo`.

    Raises:
        OSError: there is no such table.
        StopIteration: it has no such line.
    """
    lines = path.read_text(encoding="ascii", errors="replace").splitlines()
    return int(next(line.split()[1] for line in lines if line.startswith(f"{key}:")))


# Threads


def yield_to_others(nice: int) -> None:
    """Let the calling thread stand back where others want the processors; on Linux, where threads can.

    Args:
        nice: as of nice(1), from 1 (a little) to 19 (only what nobody else wants).
    """
    if sys.platform == "linux":
        with contextlib.suppress(OSError):  # filtered system calls: then it does not stand back
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), nice)
