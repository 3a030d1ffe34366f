"""Asks the decoder's process for a picture's size; if that process dies, the daemon lives on."""

from __future__ import annotations

import errno
import json
import os
import signal
from typing import TYPE_CHECKING, Any, Final

from daemon import logs
from daemon.errors import SCALE_DOWN, Failure, JobError, NotReady, NotTaken, too_large, unreadable
from daemon.lifeline import Lifeline
from daemon.processes import Child, ending
from daemon.sandbox import READY

if TYPE_CHECKING:
    from pathlib import Path

log = logs.get(__name__)

# A lossless WebP of 200 megapixels, the slowest that was measured, takes 21 s on a core of an AMD EPYC.
TIME_LIMIT_S: Final = 120.0
_START_S: Final = 120.0
_END_S: Final = 5.0
_ANSWER_BYTES: Final = 1 << 16
_BASE_BYTES: Final = 512 << 20
_BYTES_A_PIXEL: Final = 48
_LEAST_BYTES: Final = 3 << 30


def memory_limit(max_megapixels: float) -> int:
    """Give the address space, in bytes, in which every picture of so many megapixels can be decoded.

    Measured with Pillow 13.0 on 20, 40 and 200 megapixels, EXIF orientation applied, in bytes a pixel on top
    of 126 MiB for Python, NumPy and Pillow: 13 to 18 for every format without alpha; with alpha 24 for PNG, 29
    for TIFF, 33 for lossy and 37 for lossless WebP. 48 leaves a third more. The least is for a WebP's header,
    before its size can be refused: two canvases of 16383 x 16383 px, 2.1 GB that are never touched.
    """
    return max(_LEAST_BYTES, _BASE_BYTES + int(max_megapixels * 1e6) * _BYTES_A_PIXEL)


class _Ended(Exception):  # noqa: N818 - how a process ended is a fact before it is an error
    """The child ended without an answer."""

    def __init__(self, code: int) -> None:
        super().__init__(ending(code))
        self.code = code


class Decoder:
    """Decodes pictures in a child, which is started when there is a picture, and again after its end.

    Used by one thread at a time. The child ends with the thread that started it.
    """

    def __init__(self, max_megapixels: float) -> None:
        """Refuse larger pictures from their header."""
        self._arguments = [repr(max_megapixels), str(memory_limit(max_megapixels))]
        self._child: Child | None = None

    @property
    def pid(self) -> int | None:
        """The number of the child's process; None while none runs."""
        return self._child.pid if self._child is not None and self._child.is_running else None

    def size(self, path: Path, name: str, life: Lifeline) -> tuple[int, int]:
        """Decode a picture whole, as `images.read` does, and return its (height, width); errors say `name`.

        Raises:
            JobError: it is not a picture of an allowed format, is damaged or too large, or its decoder crashes,
                does not come to an end, or takes more memory than pictures need.
            NotReady: the child does not start, which is no picture's fault.
            NotTaken: the thread should stop.
            OSError: the file cannot be read, or no process can be started.
        """
        question = json.dumps([str(path), name]).encode("ascii")
        try:
            try:
                answer = self._ask(question, name, life)
            except _Ended as end:
                if end.code not in {0, -signal.SIGKILL}:
                    raise
                answer = self._ask(question, name, life)  # another reason than this picture may have ended it
        except _Ended as end:
            raise JobError(_crash(name, end)) from None
        if "errno" in answer:
            number = int(answer["errno"] or errno.EIO)
            raise OSError(number, os.strerror(number), str(path))
        if "failure" in answer:
            raise JobError(Failure.from_dict(answer["failure"]))
        height, width = answer["size"]
        return int(height), int(width)

    def _ask(self, question: bytes, name: str, life: Lifeline) -> dict[str, Any]:
        """Ask the child, or a new one if it has ended; raises _Ended if it ends without an answer."""
        child = self._ready(life)
        try:
            child.pipe.send_bytes(question)
            if not child.await_message(life, TIME_LIMIT_S):
                self.stop()
                _require_going_on(life)
                log.warning("inspector.died", file=name, ended_by="time limit")
                raise JobError(unreadable(name, f"it takes longer than {TIME_LIMIT_S:g} s to decode"))
            answer: dict[str, Any] = json.loads(child.pipe.recv_bytes(_ANSWER_BYTES))
        except (EOFError, OSError, ValueError):  # it is gone, or its answer makes no sense
            end = _Ended(self._end(child, life))
            if end.code != 0:
                log.warning("inspector.died", file=name, ended_by=str(end))
            raise end from None
        return answer

    def _ready(self, life: Lifeline) -> Child:
        if self._child is not None and self._child.is_running:
            return self._child
        self.stop()
        environment = {**os.environ, "OPENBLAS_NUM_THREADS": "1"}  # each thread reserves address space
        child = self._child = Child("daemon.sandbox.child", self._arguments, environment=environment)
        try:
            is_answered = child.await_message(life, _START_S)
            if is_answered and child.pipe.recv_bytes(_ANSWER_BYTES) == READY:
                return child
        except (EOFError, OSError):
            how = ending(self._end(child, life))
            raise NotReady(f"the decoder's process does not start: {how}") from None
        self.stop()
        _require_going_on(life)
        raise NotReady("the decoder's process does not start")

    def _end(self, child: Child, life: Lifeline) -> int:
        """Wait for a child's end, and return its exit code; 1 if it had to be killed."""
        code = child.end(life, _END_S)
        self._child = None
        return 1 if code is None else code

    def stop(self) -> None:
        """Kill the child; the next picture starts a new one."""
        if self._child is not None:
            self._child.end(Lifeline())
        self._child = None


def _require_going_on(life: Lifeline) -> None:
    """Raise NotTaken once the thread should stop."""
    if life.is_stopping:
        raise NotTaken("asked to stop")


def _crash(name: str, end: _Ended) -> Failure:
    if end.code == -signal.SIGKILL:  # twice: by the kernel, out of memory
        why = "it needs more memory than the machine has free"
        return too_large(name, why, f"{SCALE_DOWN}, or drop it again when more memory is free")
    return unreadable(name, f"the decoder crashed on it ({end})")
