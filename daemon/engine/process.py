"""The engine in a child process: it keeps VGG19 loaded, and takes no job down with it when it dies."""

from __future__ import annotations

import collections
import contextlib
import os
import signal
import subprocess
import threading
import time
from typing import TYPE_CHECKING, Any, Final

from daemon import logs, processes
from daemon.engine.limits import Watch, oom_kills, resident_bytes
from daemon.errors import EngineError, NotReady, Reason
from daemon.job import Plan
from daemon.lifeline import Lifeline

if TYPE_CHECKING:
    from collections.abc import Generator, Iterator
    from multiprocessing.connection import Connection
    from typing import IO

    from daemon.config import Config
    from daemon.job import EngineInfo, Request, Step

log = logs.get(__name__)

_TICK_S: Final = 0.1
_STOP_S: Final = 20.0  # for a checkpoint to be written, or a killed process's memory to be given back
_LAST_WORDS_S: Final = 1.0  # for what a dead child printed at the very end to be read
_KEPT_LINES: Final = 40  # a crash report of faulthandler is about 25
_CHATTER: Final = {"I": "debug", "W": "info", "E": "info", "F": "error"}  # what fails is an exception


class ProcessEngine:
    """Speaks with `daemon.engine.child`. Start it from the main thread: the child dies with its starter."""

    def __init__(self, config: Config) -> None:
        """Remember what to start.

        Args:
            config: the whole config.
        """
        self._config = config
        self._life = Lifeline()  # of the call that waits for the child
        self._child: subprocess.Popen[bytes] | None = None
        self._pipe: Connection | None = None
        self._info: EngineInfo | None = None
        self._listener = threading.Thread()
        self._lines: collections.deque[str] = collections.deque(maxlen=_KEPT_LINES)
        self._oom_kills = 0

    def start(self, life: Lifeline) -> EngineInfo:
        """Start the child and wait for its model; see `Engine.start`."""
        self._life = life
        if self._info is not None and self._child is not None and self._child.poll() is None:
            return self._info
        self.stop()  # what is left of a child that died while it was idle, which is no job's fault
        try:
            self._spawn()
        except OSError as error:
            self.stop()
            raise NotReady(f"the engine cannot be started: {error}") from error
        assert self._child is not None  # noqa: S101 - just started
        try:
            kind, content = self._receive(Watch(self._child.pid))
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
            precision_gain=info.precision_gain,
            backward_gain=info.backward_gain,
            weights=info.weights_source,
            weights_sha256=info.weights_sha256,
            load_s=info.load_s,
        )
        return info

    def _spawn(self) -> None:
        environment = {"PYTHONFAULTHANDLER": "1", "TF_CPP_MIN_LOG_LEVEL": "1", **os.environ}
        self._oom_kills = oom_kills()
        self._child, self._pipe = processes.spawn(
            "daemon.engine.child", environment=environment, output=subprocess.PIPE
        )
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

    def _receive(self, watch: Watch) -> tuple[str, Any]:
        """Wait for one message; `("stopped", None)` once told to stop.

        Raises:
            EngineError: the child ended, or passed a limit and was ended.
        """
        watch.hear()
        while True:  # asked before every message: steps may come faster than a tick
            self._life.beat()
            if self._life.is_stopping:
                return "stopped", None
            excess = watch.excess()
            if excess is not None:
                raise self._end(*excess)
            message = self._poll()
            if message is not None:
                return message

    def _poll(self) -> tuple[str, Any] | None:
        assert self._pipe is not None  # noqa: S101 - only called after _spawn
        try:
            return self._pipe.recv() if self._pipe.poll(_TICK_S) else None
        except BlockingIOError:
            raise self._end("silence", "the engine stopped amid a message", Reason.TIMED_OUT) from None
        except (EOFError, OSError):
            raise self._died() from None

    def _end(self, by: str, message: str, reason: Reason) -> EngineError:
        """End a child that does not come to an end by itself."""
        self._kill()
        log.error("engine.died", ended_by=by, last_lines=list(self._lines)[-5:])
        return EngineError(message, reason, tuple(self._lines))

    def _died(self) -> EngineError:
        """Find out how the child ended."""
        assert self._child is not None  # noqa: S101 - only called after _spawn
        child, before = self._child, self._oom_kills
        if not self._await_end():
            self._kill()  # it closed its pipe and lives on
        code = child.poll()
        how = "closing its pipe" if code is None else processes.ending(code)
        is_killed = code == -signal.SIGKILL
        self._listener.join(_LAST_WORDS_S)
        lines = tuple(self._lines)
        self._forget()
        log.error("engine.died", ended_by=how, last_lines=lines[-5:])
        if is_killed and oom_kills() > before:
            message = "the kernel ended the engine's process for want of memory"
            return EngineError(message, Reason.OUT_OF_MEMORY, lines)
        guess = " (perhaps for want of memory)" if is_killed else ""
        return EngineError(f"the engine's process ended by {how}{guess}", Reason.ENGINE_CRASHED, lines)

    def _await_end(self) -> bool:
        """Wait for the child's end; False when it does not come."""
        assert self._child is not None  # noqa: S101 - only called after _spawn
        deadline = time.monotonic() + _STOP_S
        while time.monotonic() < deadline:
            try:
                self._child.wait(_TICK_S)
            except subprocess.TimeoutExpired:
                self._life.beat()
            else:
                return True
        return False

    def stylize(self, request: Request, life: Lifeline) -> Generator[Plan | Step, None, None]:
        """Paint in the child; see `Engine.stylize`."""
        watch = self._watch(self.start(life))
        self._oom_kills = oom_kills()
        assert self._pipe is not None  # noqa: S101 - start() sets it
        try:
            self._pipe.send(("paint", request))
        except OSError:
            raise self._died() from None
        try:
            yield Plan(None, None, "whole", is_smallest=True)
            yield from self._follow(watch)
        except GeneratorExit:  # the caller takes no more steps
            self._interrupt()
            raise

    def prepare(self, request: Request) -> None:
        """Hand the hint on to the child, if there is one; see `Engine.prepare`."""
        if self._pipe is not None:
            with contextlib.suppress(OSError):  # its death is told where its steps are awaited
                self._pipe.send(("prepare", request))

    def held_mb(self) -> int:
        """Give the child's resident memory; see `Engine.held_mb`."""
        return 0 if self._child is None else resident_bytes(self._child.pid) >> 20

    def _watch(self, info: EngineInfo) -> Watch:
        assert self._child is not None  # noqa: S101 - only called after start()
        options = self._config.engine
        is_on_gpu = info.device.startswith("GPU")  # where the limit is TensorFlow's, of the GPU's memory
        limit_mb = None if is_on_gpu else options.memory_limit_mb
        return Watch(self._child.pid, options.job_timeout_s, limit_mb)

    def _follow(self, watch: Watch) -> Iterator[Step]:
        while True:
            kind, content = self._receive(watch)
            if kind == "step":
                yield content
            elif kind == "job_error":
                raise content
            elif kind == "not_ready":
                raise NotReady(content)
            elif kind == "engine_error":
                message, reason = content
                raise EngineError(message, reason or Reason.ENGINE_CRASHED, tuple(self._lines))
            elif kind == "stopped":
                yield from self._last_steps()
                return
            else:
                return

    def _interrupt(self) -> None:
        """End the running picture, whose steps nobody takes any more."""
        collections.deque(self._last_steps(), maxlen=0)

    def _last_steps(self) -> Iterator[Step]:
        """End the running picture but keep the model; a child that does not come to its next step is ended.

        Yields:
            What was on its way: a checkpoint that the child writes now counts on the frames among it.
        """
        if self._pipe is None:
            return  # it was ended meanwhile
        deadline = time.monotonic() + _STOP_S
        try:
            self._pipe.send(("stop", None))
            while time.monotonic() < deadline:
                self._life.beat()
                message = self._poll()
                if message is not None and message[0] != "step":
                    return
                if message is not None:
                    yield message[1]
        except EngineError:
            return
        except OSError:
            pass
        self._kill()

    def _kill(self) -> None:
        if self._child is not None:
            self._child.kill()
            self._await_end()
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
