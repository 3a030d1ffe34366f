"""The decoder's own process: `images.read` behind a pipe, under a memory limit. No TensorFlow.

Run as `python -m daemon.sandbox.child PARENT FD MEGAPIXELS BYTES`. It ends when idle, or after many pictures.
"""

from __future__ import annotations

import contextlib
import errno
import json
import resource
import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from daemon import images, processes
from daemon.errors import JobError, too_large
from daemon.sandbox import READY

if TYPE_CHECKING:
    from multiprocessing.connection import Connection

IDLE_S: Final = 60.0  # to free its memory; a new one starts in half a second
PICTURES: Final = 500  # to drop memory that damaged pictures leaked in a decoder


def serve(pipe: Connection, max_megapixels: float) -> None:
    """Answer question after question until the pipe closes, or it is time for a new process.

    Messages are JSON, since a decoder of hostile bytes is not trusted with a pickle. The daemon sends
    `[path, name]`; the child `ready`, then `{"size": [height, width]}`, `{"failure": ...}` or `{"errno": ...}`.
    """
    for _ in range(PICTURES):
        if not pipe.poll(IDLE_S):
            return
        path, name = json.loads(pipe.recv_bytes())
        answer = inspect(Path(path), name, max_megapixels)
        pipe.send_bytes(json.dumps(answer).encode("ascii"))


def inspect(path: Path, name: str, max_megapixels: float) -> dict[str, Any]:
    """Decode one picture whole, and give the answer; see `serve`."""
    try:
        return {"size": images.read(path, max_megapixels, name).shape[:2]}
    except JobError as error:
        return {"failure": asdict(error.failure)}
    except OSError as error:
        if error.errno == errno.ENOMEM:  # of our own limit, not of the disk
            return {"failure": asdict(too_large(name, "it needs more memory than there is"))}
        return {"errno": error.errno}


def main() -> None:
    """Serve until the daemon closes the pipe."""
    pipe = processes.adopt()
    limit = int(sys.argv[4])
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))  # an allocation beyond it raises MemoryError
    with contextlib.suppress(EOFError, BrokenPipeError, ConnectionResetError):
        pipe.send_bytes(READY)
        serve(pipe, float(sys.argv[3]))


if __name__ == "__main__":
    main()
