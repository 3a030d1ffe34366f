"""Asks the inspector's process for a picture's size; whatever becomes of that process, the daemon lives on."""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import time
from typing import TYPE_CHECKING, Any, Final

from daemon import logs, processes
from daemon.errors import SCALE_DOWN, Failure, JobError, NotReady, NotTaken, too_large, unreadable
from daemon.sandbox import READY

if TYPE_CHECKING:
    from collections.abc import Callable
    from multiprocessing.connection import Connection
    from pathlib import Path

log = logs.get(__name__)

# A lossless WebP of 200 megapixels, the slowest that was measured, takes 21 s on a core of an AMD EPYC.
TIME_LIMIT_S: Final = 120.0
_MODULE: Final = "daemon.sandbox.child"
_TICK_S: Final = 0.1
_END_S: Final = 5.0
_ANSWER_BYTES: Final = 1 << 16
_BASE_BYTES: Final = 512 << 20
_BYTES_A_PIXEL: Final = 48
_LEAST_BYTES: Final = 3 << 30


def memory_limit(max_megapixels: float) -> int:
    """Give the address space, in bytes, in which every picture of so many megapixels can be decoded.

    Measured with Pillow 13.0 on 20, 40 and 200 megapixels, EXIF orientation applied, in bytes a pixel on top
    of 126 MiB for Python, NumPy and Pillow: 13 for 16-bit grey PNG and TIFF; 14 for JPEG (also progressive or
    CMYK) and BMP; 15 for Lab TIFF; 17 for 32-bit grey TIFF; 18 for palette PNG, GIF and CMYK TIFF; 24 for PNG
    with alpha; 29 for TIFF with alpha; 33 for lossy and 37 for lossless WebP with alpha. So 48 leaves room for
    a third more. The least is what a WebP's header takes before its size can be refused: two canvases of
    16383 x 16383 px, 2.1 GB that are never touched.
    """
    return max(_LEAST_BYTES, _BASE_BYTES + int(max_megapixels * 1e6) * _BYTES_A_PIXEL)


class _Ended(Exception):  # noqa: N818 - how a process ended is a fact before it is an error
    """The child ended without an answer; the message says how."""

    def __init__(self, code: int) -> None:
        super().__init__(processes.ending(code))
        self.code = code


class Inspector:
    """Decodes pictures in a child, which is started when there is a picture, and again after its end.

    One thread asks. The child ends with the thread that started it; another thread's question starts a new one.
    """

    def __init__(
        self,
        max_megapixels: float,
        is_stopping: Callable[[], bool] = lambda: False,
        time_limit_s: float = TIME_LIMIT_S,
    ) -> None:
        """Remember the limits.

        Args:
            max_megapixels: a larger picture is refused from its header.
            is_stopping: asked several times a second while a picture is decoded.
            time_limit_s: so long a picture may take.
        """
        self._arguments = [repr(max_megapixels), str(memory_limit(max_megapixels))]
        self._is_stopping = is_stopping
        self._time_limit_s = time_limit_s
        self._child: subprocess.Popen[bytes] | None = None
        self._pipe: Connection | None = None

    def inspect(self, path: Path, name: str) -> tuple[int, int]:
        """Decode a picture whole, as `images.read` does.

        Args:
            path: the file.
            name: what errors call it.

        Returns:
            Its (height, width) in pixels.

        Raises:
            JobError: it is not a picture of an allowed format, is damaged or too large, or its decoder crashes,
                does not come to an end, or takes more memory than pictures need.
            NotReady: the child does not start, which is no picture's fault.
            NotTaken: told to stop.
            OSError: the disk it lies on does not give it, or there is no process to be had.
        """
        question = json.dumps([str(path), name]).encode("ascii")
        try:
            answer = self._ask(question, name)
        except _Ended as end:
            if end.code not in {0, -signal.SIGKILL}:
                raise JobError(_crash(name, end)) from None
            answer = self._ask_again(question, name)  # it had ended for another reason than this picture
        return _size(answer, path)

    def _ask_again(self, question: bytes, name: str) -> dict[str, Any]:
        try:
            return self._ask(question, name)
        except _Ended as end:
            raise JobError(_crash(name, end)) from None

    def _ask(self, question: bytes, name: str) -> dict[str, Any]:
        """Ask the child, or a new one where it has ended.

        Raises:
            _Ended: it ended without an answer.
            JobError, NotReady, NotTaken: it was ended.
        """
        pipe = self._ready()
        try:
            pipe.send_bytes(question)
            if not self._await(pipe):
                self.stop()
                log.warning("inspector.died", file=name, ended_by="time limit")
                raise JobError(_slow(name, self._time_limit_s))
            answer: dict[str, Any] = json.loads(pipe.recv_bytes(_ANSWER_BYTES))
        except (EOFError, OSError, ValueError):  # it is gone, or talks nonsense, which is no better
            end = _Ended(self._end())
            if end.code != 0:
                log.warning("inspector.died", file=name, ended_by=str(end))
            raise end from None
        return answer

    def _ready(self) -> Connection:
        if self._pipe is not None and self._child is not None and self._child.poll() is None:
            return self._pipe
        self.stop()
        environment = {**os.environ, "OPENBLAS_NUM_THREADS": "1"}  # each thread reserves address space
        self._child, self._pipe = processes.spawn(_MODULE, self._arguments, environment=environment)
        try:
            if self._await(self._pipe) and self._pipe.recv_bytes(_ANSWER_BYTES) == READY:
                return self._pipe
        except (EOFError, OSError):
            raise NotReady(f"the inspector's process does not start: {processes.ending(self._end())}") from None
        self.stop()
        raise NotReady("the inspector's process does not start")

    def _await(self, pipe: Connection) -> bool:
        """Wait for a message; False when none comes in time."""
        deadline = time.monotonic() + self._time_limit_s
        while not pipe.poll(_TICK_S):
            if self._is_stopping():
                self.stop()
                raise NotTaken("told to stop")
            if time.monotonic() > deadline:
                return False
        return True

    def _end(self) -> int:
        """See a child to its end, and say how it was."""
        assert self._child is not None  # noqa: S101 - only called once it was asked
        child = self._child
        try:
            code = child.wait(_END_S)
        except subprocess.TimeoutExpired:
            code = 1  # it lives on and makes no sense
        self.stop()
        return code

    def stop(self) -> None:
        """End the child, whatever it does; the next picture starts a new one."""
        if self._pipe is not None:
            self._pipe.close()
        if self._child is not None:
            self._child.kill()
            self._child.wait()
        self._child, self._pipe = None, None


def _size(answer: dict[str, Any], path: Path) -> tuple[int, int]:
    if "errno" in answer:
        number = int(answer["errno"] or errno.EIO)
        raise OSError(number, os.strerror(number), str(path))
    if "failure" in answer:
        raise JobError(Failure.from_dict(answer["failure"]))
    height, width = answer["size"]
    return int(height), int(width)


def _crash(name: str, end: _Ended) -> Failure:
    if end.code == -signal.SIGKILL:  # twice: by the kernel, for want of memory
        why = "it needs more memory than the machine has free"
        return too_large(name, why, f"{SCALE_DOWN}, or drop it again when more memory is free")
    return unreadable(name, f"the decoder crashed on it ({end})")


def _slow(name: str, limit_s: float) -> Failure:
    return unreadable(name, f"it takes longer than {limit_s:g} s to decode")
