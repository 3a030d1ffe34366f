"""The engine in a child process: it keeps VGG19 loaded, and takes no job down with it when it dies."""

from __future__ import annotations

import collections
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from multiprocessing.connection import Connection
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import daemon
from daemon import logs
from daemon.errors import EngineError, JobError, NotReady, Reason

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import IO

    from daemon.config import Config
    from daemon.job import EngineInfo, Request, Step

log = logs.get(__name__)

_TICK_S: Final = 0.1
_STOP_S: Final = 10.0
_LAST_WORDS_S: Final = 1.0  # for what a dead child printed at the very end to be read
_KEPT_LINES: Final = 40  # a crash report of faulthandler is about 25
_CHATTER: Final = {"I": "debug", "W": "info", "E": "info", "F": "error"}  # what fails is an exception


class ProcessEngine:
    """Speaks with `daemon.engine.child`. Start it from the main thread: the child dies with its starter."""

    def __init__(self, config: Config, is_stopping: Callable[[], bool] = lambda: False) -> None:
        """Remember what to start.

        Args:
            config: the whole config.
            is_stopping: asked while waiting for the model to load.
        """
        self._config = config
        self._is_stopping = is_stopping
        self._child: subprocess.Popen[bytes] | None = None
        self._pipe: Connection | None = None
        self._info: EngineInfo | None = None
        self._listener = threading.Thread()
        self._lines: collections.deque[str] = collections.deque(maxlen=_KEPT_LINES)

    def start(self) -> EngineInfo:
        """Start the child and wait for its model; see `Engine.start`. Told to stop, it is not ready either."""
        if self._info is not None and self._child is not None and self._child.poll() is None:
            return self._info
        self.stop()  # what is left of a child that died while it was idle, which is no job's fault
        self._spawn()
        try:
            kind, content = self._receive(self._is_stopping)
        except EngineError as error:
            self.stop()
            raise NotReady(f"the engine ended while it started: {error}") from error
        if kind != "started":
            self.stop()
            raise NotReady("told to stop" if kind == "stopped" else str(content))
        info: EngineInfo = content
        self._info = info
        log.info(
            "engine.model_loaded",
            device=info.device,
            precision=info.precision,
            weights=info.weights_source,
            weights_sha256=info.weights_sha256,
            load_s=info.load_s,
        )
        return info

    def _spawn(self) -> None:
        paths = [str(Path(daemon.__file__).parent.parent), os.environ.get("PYTHONPATH", "")]
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, paths))}
        environment.setdefault("PYTHONFAULTHANDLER", "1")
        environment.setdefault("TF_CPP_MIN_LOG_LEVEL", "1")
        ours, theirs = socket.socketpair()
        with theirs:
            self._child = subprocess.Popen(  # noqa: S603 - our own interpreter and module
                [sys.executable, "-P", "-m", "daemon.engine.child", str(os.getpid()), str(theirs.fileno())],
                env=environment,
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # a Ctrl-C in the terminal is for the daemon alone
            )
        self._pipe = Connection(ours.detach())
        self._lines.clear()
        assert self._child.stdout is not None  # noqa: S101 - asked for above
        self._listener = threading.Thread(target=self._listen, args=(self._child.stdout,), daemon=True)
        self._listener.start()
        log.info("engine.started", engine_pid=self._child.pid, device=self._config.engine.device)
        self._pipe.send(self._config)

    def _listen(self, stream: IO[bytes]) -> None:
        """Bring what TensorFlow, absl and the interpreter print into the one stream of log records."""
        for raw in stream:
            line = raw.decode("utf-8", "replace").rstrip()
            if line:
                self._lines.append(line)
                is_absl = len(line) > 5 and line[0] in _CHATTER and line[1:5].isdigit()  # noqa: PLR2004
                level = _CHATTER[line[0]] if is_absl else "info"
                getattr(log, level)("engine.printed", line=line)
        stream.close()

    def _receive(self, is_stopping: Callable[[], bool], deadline: float | None = None) -> tuple[str, Any]:
        """Wait for one message; `("stopped", None)` once told to stop.

        Raises:
            EngineError: the child ended, or passed the deadline and was ended.
        """
        while True:  # asked before every message: steps may come faster than a tick
            if is_stopping():
                return "stopped", None
            if deadline is not None and time.monotonic() > deadline:
                raise self._overdue()
            message = self._poll()
            if message is not None:
                return message

    def _poll(self) -> tuple[str, Any] | None:
        assert self._pipe is not None  # noqa: S101 - only called after _spawn
        try:
            return self._pipe.recv() if self._pipe.poll(_TICK_S) else None
        except (EOFError, OSError):
            raise self._died() from None

    def _overdue(self) -> EngineError:
        """End a child that does not come to an end by itself."""
        self._kill()
        log.error("engine.died", ended_by="time limit", last_lines=list(self._lines)[-5:])
        return EngineError("the time limit passed", Reason.TIMED_OUT, tuple(self._lines))

    def _died(self) -> EngineError:
        """Find out how the child ended."""
        assert self._child is not None  # noqa: S101 - only called after _spawn
        try:
            code = self._child.wait(timeout=_STOP_S)
        except subprocess.TimeoutExpired:
            self._child.kill()
            code = self._child.wait()
        how = f"signal {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
        self._listener.join(_LAST_WORDS_S)
        lines = tuple(self._lines)
        self._forget()
        log.error("engine.died", ended_by=how, last_lines=lines[-5:])
        guess = " (perhaps for want of memory)" if code == -signal.SIGKILL else ""
        return EngineError(f"the engine's process ended by {how}{guess}", Reason.ENGINE_CRASHED, lines)

    def stylize(self, request: Request, is_stopping: Callable[[], bool]) -> Iterator[Step]:
        """Paint in the child; see `Engine.stylize`."""
        self.start()
        assert self._pipe is not None  # noqa: S101 - start() sets it
        limit = self._config.engine.job_timeout_s
        deadline = None if limit is None else time.monotonic() + limit
        try:
            self._pipe.send(request)
        except OSError:
            raise self._died() from None
        try:
            yield from self._follow(is_stopping, deadline)
        except GeneratorExit:  # whoever asked takes no more steps, for instance because a disk is full
            self._interrupt()
            raise

    def _follow(self, is_stopping: Callable[[], bool], deadline: float | None) -> Iterator[Step]:
        while True:
            kind, content = self._receive(is_stopping, deadline)
            if kind == "step":
                yield content
            elif kind == "job_error":
                raise JobError(content)
            elif kind == "engine_error":
                message, reason = content
                raise EngineError(message, reason or Reason.ENGINE_CRASHED, tuple(self._lines))
            elif kind == "stopped":
                self._interrupt()
                return
            else:
                return

    def _interrupt(self) -> None:
        """End the running picture but keep the model; a child that does not come to its next step is ended."""
        if self._pipe is None:
            return  # it was ended meanwhile
        deadline = time.monotonic() + _STOP_S
        try:
            self._pipe.send("stop")
            while time.monotonic() < deadline:
                message = self._poll()
                if message is not None and message[0] != "step":
                    return
        except (EngineError, OSError):
            return
        self._kill()

    def _kill(self) -> None:
        if self._child is not None:
            self._child.kill()
            self._child.wait()
        self._forget()

    def stop(self) -> None:
        """End the child."""
        if self._child is None:
            return
        if self._pipe is not None:
            self._pipe.close()
        try:
            self._child.wait(timeout=1)  # it ends by itself when the pipe closes
        except subprocess.TimeoutExpired:
            self._kill()
        self._forget()

    def _forget(self) -> None:
        if self._pipe is not None:
            self._pipe.close()
        self._child, self._pipe, self._info = None, None, None
