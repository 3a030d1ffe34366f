"""The engine in a child process: it keeps VGG19 loaded, and takes no job down with it when it dies."""

from __future__ import annotations

import collections
import contextlib
import os
import re
import signal
import subprocess
import threading
import time
from typing import TYPE_CHECKING, Any, Final

from daemon import logs, processes
from daemon.engine.limits import Excess, Watch, oom_kills
from daemon.errors import EngineError, NotReady, Reason

if TYPE_CHECKING:
    from collections.abc import Generator, Iterator
    from typing import IO

    from daemon.config import Config
    from daemon.job import EngineInfo, Plan, Request, Step
    from daemon.lifeline import Lifeline

log = logs.get(__name__)

STOP_S: Final = 20.0  # for a checkpoint to be written, or an end to come after the pipe was closed
_LAST_LINES_S: Final = 1.0  # for what a dead child printed at the very end to be read
_KEPT_LINES: Final = 40  # a crash report of faulthandler is about 25

# An error that matters raises an exception, so TensorFlow's output only helps to look for a defect. Lines of
# its logger (a letter and the date, or the date and a letter) have a level; its errors stay visible, except
# those on every machine without a GPU.
_LOGGED: Final = re.compile(r"(?:\d{4}-\d\d-\d\d [\d:.]+: (?=. )|(?=.\d{4} ))([IWEF])")
_LEVELS: Final = {"I": "debug", "W": "debug", "E": "info", "F": "error"}
_CHATTER: Final = re.compile(
    "cuInit|CUDA_ERROR_NO_DEVICE|Could not find cuda drivers|Unable to register cu|TF-TRT|computation placer"
    "|absl::InitializeLog|oneDNN custom operations are on|CPU instructions|CPU Frequency"
)


def level(line: str) -> str:
    """Name the level at which a line that the child prints is logged: debug, info or error."""
    if _CHATTER.search(line):
        return "debug"
    logged = _LOGGED.match(line)
    return _LEVELS[logged[1]] if logged else "info"


class _EngineChild(processes.Child):
    """A running `daemon.engine.child`: its messages, its output, and how it ends."""

    info: EngineInfo  # once the model is loaded

    def __init__(self, config: Config) -> None:
        """Start it and send it the config; OSError if it cannot be started."""
        environment = {"PYTHONFAULTHANDLER": "1", "TF_CPP_MIN_LOG_LEVEL": "1", **os.environ}
        self._oom_kills = oom_kills()
        super().__init__("daemon.engine.child", environment=environment, output=subprocess.PIPE)
        self.lines: collections.deque[str] = collections.deque(maxlen=_KEPT_LINES)
        self._listener = threading.Thread(target=self._listen, args=(self.output,), daemon=True)
        self._listener.start()
        log.info("engine.started", engine_pid=self.pid, device=config.engine.device)
        self.pipe.send(config)

    def _listen(self, stream: IO[bytes]) -> None:
        """Log what TensorFlow, absl and the interpreter print."""
        for raw in stream:
            line = raw.decode("utf-8", "replace").rstrip()
            if line:
                self.lines.append(line)
                getattr(log, level(line))("engine.printed", line=line)
        stream.close()

    def ask(self, request: Request, life: Lifeline) -> None:
        """Send a request; EngineError if the child has ended."""
        self._oom_kills = oom_kills()
        try:
            self.pipe.send(("paint", request))
        except OSError:
            raise self._died(life) from None

    def receive(self, watch: Watch, life: Lifeline) -> tuple[str, Any]:
        """Wait for one message; `("stopped", None)` once `life.is_stopping`.

        EngineError if the child ended, or passed a limit and was killed.
        """
        watch.restart()
        while not life.is_stopping:  # asked before every message: steps may come faster than a tick
            if excess := watch.excess():
                raise self._killed(excess, life)
            if message := self.poll(life):
                return message
        return "stopped", None

    def poll(self, life: Lifeline) -> tuple[str, Any] | None:
        """Wait a moment for a message; see `receive`."""
        try:
            return self.pipe.recv() if self.has_message(life) else None
        except BlockingIOError:
            message = "the engine stopped in the middle of a message"
            raise self._killed(Excess("silence", message, Reason.TIMED_OUT), life) from None
        except (EOFError, OSError):
            raise self._died(life) from None

    def _killed(self, excess: Excess, life: Lifeline) -> EngineError:
        """Kill a child that does not end by itself."""
        self.end(life)
        return self._error(excess.by, excess.message, excess.reason)

    def _died(self, life: Lifeline) -> EngineError:
        """Find out how the child ended."""
        code = self.end(life, STOP_S)
        how = "closing its pipe" if code is None else processes.ending(code)
        is_killed = code == -signal.SIGKILL
        self._listener.join(_LAST_LINES_S)
        if is_killed and oom_kills() > self._oom_kills:
            message = "the kernel ended the engine's process because memory ran out"
            return self._error(how, message, Reason.OUT_OF_MEMORY)
        guess = " (perhaps memory ran out)" if is_killed else ""
        return self._error(how, f"the engine's process ended by {how}{guess}", Reason.ENGINE_CRASHED)

    def _error(self, ended_by: str, message: str, reason: Reason) -> EngineError:
        lines = tuple(self.lines)
        log.error("engine.died", ended_by=ended_by, last_lines=lines[-5:])
        return EngineError(message, reason, lines)


class ProcessEngine:
    """Paints in `daemon.engine.child`. Start it from the main thread: the child ends with its starter."""

    def __init__(self, config: Config) -> None:
        """Take the whole config; `start` starts the child."""
        self.config = config  # may be replaced between two jobs; a child that runs keeps its own
        self._child: _EngineChild | None = None  # one whose model is loaded

    @property
    def pid(self) -> int | None:
        """The number of the child's process; None while none runs with a loaded model."""
        return self._child.pid if self._child is not None and self._child.is_running else None

    def start(self, life: Lifeline) -> EngineInfo:
        """Start the child and wait for its model; see `Engine.start`."""
        return self._load(life).info

    def _load(self, life: Lifeline) -> _EngineChild:
        if self._child is None or not self._child.is_running:
            self.stop()  # the rest of a child that died while it was idle, which is no job's fault
            self._child = self._started(life)
        return self._child

    def _started(self, life: Lifeline) -> _EngineChild:
        try:
            child = _EngineChild(self.config)
        except OSError as error:
            raise NotReady(f"the engine cannot be started: {error}") from error
        try:
            kind, content = child.receive(Watch(child.pid), life)
        except EngineError as error:
            raise NotReady(f"the engine ended while it started: {error}") from error
        if kind != "started":
            child.end(life)
            raise NotReady("asked to stop") if kind == "stopped" else content
        child.info = info = content
        facts = {
            name: getattr(info, name)
            for name in ("device", "precision", "backward", "weights_sha256", "load_s")
        }
        log.info("engine.model_loaded", weights=info.weights_source, **facts)
        return child

    def stylize(self, request: Request, life: Lifeline) -> Generator[Plan | Step, None, None]:
        """Paint in the child; see `Engine.stylize`."""
        child, options = self._load(life), self.config.engine
        is_on_gpu = child.info.device.startswith("GPU")  # whose memory TensorFlow limits by itself
        watch = Watch(child.pid, options.job_timeout_s, None if is_on_gpu else options.memory_limit_mb)
        child.ask(request, life)
        try:
            kind, content = child.receive(watch, life)
            while kind == "step":
                yield content
                kind, content = child.receive(watch, life)
            if kind == "stopped":
                yield from _last_steps(child, life)
        except (GeneratorExit, OSError):  # the caller takes no more steps, or /proc cannot be read
            collections.deque(_last_steps(child, life), maxlen=0)
            raise
        if kind == "error":
            if isinstance(content, EngineError):
                content.last_lines = tuple(child.lines)
            raise content

    def prepare(self, request: Request) -> None:
        """Announce the next request to the child, if there is one; see `Engine.prepare`."""
        if self._child is not None:
            with contextlib.suppress(OSError):  # its death is reported where its steps are awaited
                self._child.pipe.send(("prepare", request))

    def stop(self) -> None:
        """End the child."""
        if self._child is not None:
            self._child.stop()
        self._child = None


def _last_steps(child: _EngineChild, life: Lifeline) -> Iterator[Plan | Step]:
    """End the running picture but keep the model; a child that does not come to its next step is killed.

    The steps that it still takes are yielded: a checkpoint that it writes now depends on their frames.
    """
    deadline = time.monotonic() + STOP_S
    with contextlib.suppress(EngineError, OSError):  # it has ended
        child.pipe.send(("stop", None))
        while time.monotonic() < deadline:
            if message := child.poll(life):
                if message[0] != "step":
                    return
                yield message[1]
    child.end(life)
