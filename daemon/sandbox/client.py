"""Asks the decoder's process for a picture's size and faces; if that process dies, the daemon lives on."""

from __future__ import annotations

import contextlib
import errno
import functools
import json
import os
import signal
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from daemon import logs
from daemon.errors import SCALE_DOWN, Failure, JobError, NotReady, NotTaken, too_large, unreadable
from daemon.job import Face, printable
from daemon.lifeline import Lifeline
from daemon.processes import Child, ending
from daemon.sandbox import READY

if TYPE_CHECKING:
    from pathlib import Path

log = logs.get(__name__)

# A lossless WebP of 200 megapixels, the slowest that was measured, takes 21 s on a core of an AMD EPYC.
TIME_LIMIT_S: Final = 120.0
FACES_LIMIT_S: Final = 30.0  # a third of a second was measured; a picture of 200 megapixels takes a second more
_START_S: Final = 120.0
_END_S: Final = 5.0
_ANSWER_BYTES: Final = 1 << 16
_DETECTOR_LETTERS: Final = 60
_WARNING_LETTERS: Final = 200
_BASE_BYTES: Final = 768 << 20
_BYTES_A_PIXEL: Final = 48
_LEAST_BYTES: Final = 3 << 30


def memory_limit(max_megapixels: float) -> int:
    """Give the address space, in bytes, in which every picture of so many megapixels can be decoded.

    Measured with Pillow 13.0 on 20 megapixels, EXIF orientation applied, in bytes a pixel on top of 133 MiB for
    Python, NumPy and Pillow: 6 to 18 for every format, mode and color profile; 20 where a picture with alpha is
    laid on white for the search for faces. OpenCV 4.14 adds 200 MiB from the first search on. The least is for
    WebP's header, before its size can be refused: two canvases of 16383 x 16383 px, 2.1 GB never touched.
    """
    return max(_LEAST_BYTES, _BASE_BYTES + int(max_megapixels * 1e6) * _BYTES_A_PIXEL)


class Found(NamedTuple):
    """The faces of a picture, what looked for them, and warnings of the picture itself; all as in `Part`."""

    faces: tuple[Face, ...] | None = None
    detector: str = ""
    warnings: tuple[str, ...] = ()


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

    def inspect(
        self, path: Path, name: str, life: Lifeline, *, wants_faces: bool = False, is_mask: bool = False
    ) -> tuple[tuple[int, int], Found]:
        """Decode a picture whole, as `decoding.decode` does: its (height, width), and more; errors say `name`.

        If its faces cannot be looked for, whatever the reason, it is as good without them.

        Raises:
            JobError: it is not a picture of an allowed format, is damaged, too large or a black mask, or its
                decoder crashes, does not come to an end, or takes more memory than pictures need.
            NotReady: the child does not start, which is no picture's fault.
            NotTaken: the thread should stop.
            OSError: the file cannot be read, or no process can be started.
        """
        ask = functools.partial(self._ask, path, name, life, wants_faces=wants_faces, is_mask=is_mask)
        try:
            try:
                answer, found = ask()
            except _Ended as end:
                if end.code not in {0, -signal.SIGKILL}:
                    raise
                answer, found = ask()  # another reason than this picture may have ended it
        except _Ended as end:
            raise JobError(_crash(name, end)) from None
        if "errno" in answer:
            number = int(answer["errno"] or errno.EIO)
            raise OSError(number, os.strerror(number), str(path))
        if "failure" in answer:
            raise JobError(Failure.from_dict(answer["failure"]))
        height, width = answer["size"]
        warnings = (printable(str(text))[:_WARNING_LETTERS] for text in answer.get("warnings", ()))
        return (int(height), int(width)), found._replace(warnings=tuple(warnings))

    def _faces(self, child: Child, name: str, life: Lifeline) -> Found:
        """Receive the faces of the picture whose size just came; a child that talks nonsense is ended."""
        try:
            answer = self._receive(child, name, life, FACES_LIMIT_S)
            return Found(_checked(answer["faces"]), printable(str(answer["detector"]))[:_DETECTOR_LETTERS])
        except _Ended as end:
            return Found(None, f"failed: {end}")
        except JobError:
            return Found(None, "failed: time limit")
        except (KeyError, TypeError, ValueError):
            self.stop()
            return Found(None, "failed: no answer")

    def _ask(self, path: Path, name: str, life: Lifeline, **wants: bool) -> tuple[dict[str, Any], Found]:
        """Ask the child, or a new one if it has ended; raises _Ended if it ends without an answer."""
        child, question = self._ready(life), json.dumps([str(path), name, wants]).encode("ascii")
        with contextlib.suppress(OSError):  # it is gone, which shows when its answer is received
            child.pipe.send_bytes(question)
        answer = self._receive(child, name, life, TIME_LIMIT_S)
        return answer, self._faces(child, name, life) if wants["wants_faces"] and "size" in answer else Found()

    def _receive(self, child: Child, name: str, life: Lifeline, limit_s: float) -> dict[str, Any]:
        """Wait for one answer; raises _Ended as `_ask`, JobError after the time limit."""
        try:
            if not child.await_message(life, limit_s):
                self.stop()
                _require_going_on(life)
                log.warning("inspector.died", file=name, ended_by="time limit")
                raise JobError(unreadable(name, f"it takes longer than {limit_s:g} s to decode"))
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


def _checked(boxes: Any) -> tuple[Face, ...] | None:
    """Read the faces that a child sent; ValueError or TypeError unless they are in the picture."""
    if boxes is None:
        return None
    found = tuple(Face(*map(float, box)) for box in boxes)
    if not all(0 <= share <= 1 and face.width * face.height for face in found for share in face):
        raise ValueError("a face outside of the picture")
    return found


def _require_going_on(life: Lifeline) -> None:
    """Raise NotTaken once the thread should stop."""
    if life.is_stopping:
        raise NotTaken("asked to stop")


def _crash(name: str, end: _Ended) -> Failure:
    if end.code == -signal.SIGKILL:  # twice: by the kernel, out of memory
        why = "it needs more memory than the machine has free"
        return too_large(name, why, f"{SCALE_DOWN}, or drop it again when more memory is free")
    return unreadable(name, f"the decoder crashed on it ({end})")
