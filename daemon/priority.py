"""How much of the processors a thread asks for beside the others of its process."""

from __future__ import annotations

import contextlib
import os
import sys
import threading


def yield_to_others(nice: int) -> None:
    """Let the calling thread stand back where others want the processors; on Linux, where threads can.

    Args:
        nice: as of nice(1), from 1 (a little) to 19 (only what nobody else wants).
    """
    if sys.platform == "linux":
        with contextlib.suppress(OSError):  # filtered system calls: then it does not stand back
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), nice)
