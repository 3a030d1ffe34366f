"""The engine's own process: a `LocalEngine` behind a pipe. Run as `python -m daemon.engine.child PARENT FD`."""

from __future__ import annotations

import contextlib
import threading
import traceback
from typing import TYPE_CHECKING, Any

from daemon import processes
from daemon.errors import EngineError, JobError, NotReady, PauseKind
from daemon.lifeline import Lifeline

if TYPE_CHECKING:
    from collections.abc import Iterator
    from multiprocessing.connection import Connection

    from daemon.job import Plan, Request, Step


def serve(pipe: Connection) -> None:
    """Load the model, then paint request after request until the pipe closes.

    After the config, every message is a tuple of its kind and content. The daemon sends `paint`, `prepare` and
    `stop`; the child `started`, `step` (also the plan), `ended` and `error` (the exception to raise).
    """
    from daemon.engine.local import LocalEngine  # noqa: PLC0415 - TensorFlow's output must be piped first

    config = pipe.recv()
    engine = LocalEngine(config, config.folders.spool)
    try:
        pipe.send(("started", engine.start()))
    except NotReady as error:
        pipe.send(("error", error))
        return
    while True:
        kind, content = pipe.recv()
        if kind == "paint":
            _paint(engine, content, pipe)
        elif kind == "prepare":
            engine.prepare(content)
        # a stop that arrives here crossed the end of its picture


def _paint(engine: Any, request: Request, pipe: Connection) -> None:
    stop = threading.Event()
    steps = engine.stylize(request, Lifeline(stop))
    while (message := _next(steps))[0] == "step":
        pipe.send(message)
        read_notes(engine, pipe, stop)
    pipe.send(message)


def read_notes(engine: Any, pipe: Connection, stop: threading.Event) -> None:
    """Read what came since the last step, up to a stop."""
    while not stop.is_set() and pipe.poll():
        kind, content = pipe.recv()
        if kind == "stop":
            stop.set()
        elif kind == "prepare":
            engine.prepare(content)


def _next(steps: Iterator[Plan | Step]) -> tuple[str, Any]:
    """Compute the next step, and turn errors into messages; an error of the pipe itself is not caught here."""
    try:
        step = next(steps, None)
    except (JobError, EngineError) as error:
        return "error", error
    except OSError as error:  # of the disk that the job's files lie on
        return "error", NotReady(str(error), PauseKind.of(error))
    except Exception as error:  # noqa: BLE001 - a defect under one job; the daemon counts the attempt
        traceback.print_exc()
        return "error", EngineError(f"{type(error).__name__}: {error}")
    return ("ended", None) if step is None else ("step", step)


def main() -> None:
    """Serve until the daemon closes the pipe."""
    with contextlib.suppress(EOFError, BrokenPipeError, ConnectionResetError):
        serve(processes.adopt())


if __name__ == "__main__":
    main()
