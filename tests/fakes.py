"""What stands in for the machine: an engine without TensorFlow, and a disk that fails or dies when told to."""

from __future__ import annotations

import collections
import errno
import io
import os
import threading
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any
from unittest import mock

from daemon import images
from daemon.errors import EngineError, Failure, JobError, Reason
from daemon.job import EngineInfo, Losses, Painting, Step

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from daemon.job import Request

INFO = EngineInfo(
    device="fake",
    precision="float32",
    weights_source="fake",
    weights_sha256="0" * 64,
    load_s=0.0,
    versions={"fake": "1"},
)


class FakeEngine:
    """Paints the content itself, quickly; `script` says what each call does, and every further call paints.

    Words: `paint`, `crash` and `job_error` (after the first step), `hang` (until it is told to stop).
    """

    def __init__(self, *script: str, on_step: Callable[[Step], None] = lambda _step: None) -> None:
        self.script = collections.deque(script)
        self.calls: list[str] = []  # the job of each call
        self.is_started = False
        self._on_step = on_step

    def start(self) -> EngineInfo:
        """Say what is loaded."""
        self.is_started = True
        return INFO

    def stylize(self, request: Request, is_stopping: Callable[[], bool]) -> Iterator[Step]:
        """Do what the script says next."""
        act = self.script.popleft() if self.script else "paint"
        self.calls.append(request.content.parent.parent.name)
        picture = images.read(request.content, 100)
        count = request.settings.iterations
        losses = [
            Losses(total=3.0 / (i + 1), style=2.0 / (i + 1), content=1.0 / (i + 1)) for i in range(count + 1)
        ]
        for iteration in range(count + 1):
            if iteration == 1:
                self._act(act, is_stopping)
            is_last = iteration == count
            painting = Painting(picture, count, losses[0], losses[-1], losses[-1], 0.0, 0.0)
            step = Step(
                iteration=iteration,
                iterations=count,
                size_px=max(picture.shape[:2]),
                losses=losses[iteration],
                elapsed_s=0.001 * iteration,
                picture=picture,
                painting=painting if is_last else None,
            )
            self._on_step(step)
            yield step
            if is_stopping():
                return

    def _act(self, act: str, is_stopping: Callable[[], bool]) -> None:
        if act == "crash":
            raise EngineError("the fake engine crashed", last_lines=("the last words",))
        if act == "job_error":
            raise JobError(Failure(Reason.DIVERGED, "the fake numbers ran away"))
        while act == "hang" and not is_stopping():
            time.sleep(0.005)

    def stop(self) -> None:
        """Free everything."""
        self.is_started = False


class Killed(BaseException):
    """The process ended here: nothing after this happened."""


class Disk:
    """Counts every operation that changes a disk, and fails some of them.

    A *full* disk fails `length` operations from number `first` on. A *dead* process fails all from `first` on.
    """

    def __init__(self, first: int | None = None, *, length: int = 1, is_kill: bool = False) -> None:
        self.count = 0
        self.hit = ""  # the first operation that failed
        self._first = first
        self._last = first + length - 1 if first is not None else -1
        self._is_kill = is_kill
        self._lock = threading.Lock()

    @property
    def has_struck(self) -> bool:
        """Whether the fault came to pass."""
        return bool(self.hit)

    def _note(self, name: str, target: object) -> None:
        with self._lock:
            number = self.count
            self.count += 1
        if self._first is None or number < self._first:
            return
        if self._is_kill or number <= self._last:
            self.hit = self.hit or f"{number}: {name} {target}"
            if self._is_kill:
                raise Killed(self.hit)
            removes = name in {"unlink", "rmdir"}
            raise OSError(errno.EIO if removes else errno.ENOSPC, f"fake fault at {name}", str(target))

    @contextmanager
    def attached(self) -> Iterator[Disk]:
        """Stand in for the operating system's calls."""
        with (
            mock.patch.multiple(
                os,
                **{
                    name: self._wrapped(name)
                    for name in ("fsync", "rename", "replace", "unlink", "rmdir", "mkdir")
                },
                open=self._wrapped_open(),
                write=self._wrapped_write(),
            ),
            mock.patch.object(io, "open", self._wrapped_io_open()),
        ):
            yield self

    def _wrapped(self, name: str) -> Callable[..., Any]:
        real = getattr(os, name)

        def call(target: Any, *args: Any, **options: Any) -> Any:
            self._note(name, target)
            return real(target, *args, **options)

        return call

    def _wrapped_open(self) -> Callable[..., Any]:
        real = os.open

        def call(path: Any, flags: int, *args: Any, **options: Any) -> Any:
            if flags & os.O_CREAT:
                self._note("create", path)
            return real(path, flags, *args, **options)

        return call

    def _wrapped_write(self) -> Callable[..., Any]:
        real = os.write

        def call(fd: int, data: bytes) -> int:
            try:
                self._note("write", fd)
            except BaseException:
                real(fd, data[: len(data) // 2])  # as a full disk and a power cut do
                raise
            return real(fd, data)

        return call

    def _wrapped_io_open(self) -> Callable[..., Any]:
        real = io.open

        def call(path: Any, mode: str = "r", *args: Any, **options: Any) -> Any:
            if set(mode) & set("wxa+"):
                self._note("create", path)
            return real(path, mode, *args, **options)

        return call
