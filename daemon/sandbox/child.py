"""The decoder's own process: `images.read` behind a pipe, under a memory limit. No TensorFlow.

Run as `python -m daemon.sandbox.child PARENT FD MEGAPIXELS BYTES`. It ends by itself after some idle time, or
after many pictures; the next question starts a new one.
"""

from __future__ import annotations

import errno
import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from daemon import images, processes
from daemon.errors import Failure, JobError, Reason
from daemon.sandbox import READY

if TYPE_CHECKING:
    from multiprocessing.connection import Connection

IDLE_S: Final = 60.0  # then its memory is better free; a new one is there in half a second
PICTURES: Final = 500  # then whatever a damaged picture left behind in a decoder is gone


def serve(pipe: Connection, max_megapixels: float) -> None:
    """Answer question after question until the pipe closes, or it is time for a new process.

    The messages are JSON, since what decodes hostile bytes is not trusted with a pickle: up `[path, name]`;
    down, after the word `ready`, `{"size": [height, width]}`, `{"failure": ...}` or `{"errno": ...}`.
    """
    for _ in range(PICTURES):
        if not pipe.poll(IDLE_S):
            return
        path, name = json.loads(pipe.recv_bytes())
        answer = inspect(Path(path), name, max_megapixels)
        pipe.send_bytes(json.dumps(answer).encode("ascii"))


def inspect(path: Path, name: str, max_megapixels: float) -> dict[str, Any]:
    """Decode one picture whole, and answer for it; see `serve`."""
    try:
        return {"size": images.read(path, max_megapixels, name).shape[:2]}
    except JobError as error:
        return {"failure": asdict(error.failure)}
    except OSError as error:
        if error.errno == errno.ENOMEM:  # of our own limit, which is no trouble of the disk
            return {"failure": asdict(_too_large(name))}
        return {"errno": error.errno}


def _too_large(name: str) -> Failure:
    return Failure(
        Reason.PICTURE_TOO_LARGE, f"{name}: it needs more memory than there is", hint="scale it down", file=name
    )


def main() -> None:
    """Serve until the daemon closes the pipe."""
    pipe = processes.adopt()
    processes.limit_memory(int(sys.argv[4]))
    try:
        pipe.send_bytes(READY)
        serve(pipe, float(sys.argv[3]))
    except (EOFError, BrokenPipeError, ConnectionResetError):
        return


if __name__ == "__main__":
    main()
