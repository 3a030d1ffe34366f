"""The decoder's process: `decoding.decode` and `faces.find` behind a pipe, under a memory limit. No TensorFlow.

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

from daemon import processes
from daemon.errors import JobError, too_large
from daemon.pictures import decoding
from daemon.sandbox import READY, faces

if TYPE_CHECKING:
    from collections.abc import Iterator
    from multiprocessing.connection import Connection

    from daemon.pictures.decoding import Decoded

IDLE_S: Final = 60.0  # to free its memory; a new one starts in half a second
PICTURES: Final = 500  # to drop memory that damaged pictures leaked in a decoder


def serve(pipe: Connection, max_megapixels: float) -> None:
    """Answer question after question until the pipe closes, or it is time for a new process.

    Messages are JSON, since a decoder of hostile bytes is not trusted with a pickle. The daemon sends
    `[path, name, wants]`; the child `ready`, then `{"size": [height, width], "warnings": [...]}`,
    `{"failure": ...}` or `{"errno": ...}`; after a size, where faces are wanted,
    `{"faces": [[left, top, width, height], ...], "detector": ...}`, both as in `Part`.
    """
    for _ in range(PICTURES):
        if not pipe.poll(IDLE_S):
            return
        path, name, wants = json.loads(pipe.recv_bytes())
        for answer in inspect(Path(path), name, max_megapixels, **wants):
            pipe.send_bytes(json.dumps(answer).encode("ascii"))


def inspect(path: Path, name: str, max_megapixels: float, **wants: bool) -> Iterator[dict[str, Any]]:
    """Decode one picture whole, and give the answers; see `serve`."""
    try:
        picture = decoding.decode(path, max_megapixels, name)
        if wants["is_mask"]:
            decoding.require_white(picture.over(decoding.WHITE), name)
    except JobError as error:
        yield {"failure": asdict(error.failure)}
    except OSError as error:
        if error.errno == errno.ENOMEM:  # of our own limit, not of the disk
            yield {"failure": asdict(too_large(name, "it needs more memory than there is"))}
        else:
            yield {"errno": error.errno}
    else:
        yield {"size": picture.size, "warnings": picture.warnings}
        if wants["wants_faces"]:
            yield _searched(picture)


def _searched(picture: Decoded) -> dict[str, Any]:
    """Look for faces; whatever goes wrong costs no more than their protection."""
    try:
        found, detector = faces.find(picture.over(decoding.WHITE))
    except ImportError:
        return {"faces": None, "detector": "missing"}
    except Exception as error:  # noqa: BLE001 - OpenCV raises its own, and MemoryError
        return {"faces": None, "detector": f"failed: {type(error).__name__}"}
    return {"faces": found, "detector": detector}


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
