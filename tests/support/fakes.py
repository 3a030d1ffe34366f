"""What stands in for the machine: an engine without TensorFlow, and a disk that fails or dies on request."""

from __future__ import annotations

import builtins
import collections
import contextlib
import datetime as dt
import errno
import io
import os
import sys
import threading
import time
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final
from unittest import mock

from daemon import files
from daemon.errors import EngineError, Failure, JobError, Reason
from daemon.job import CHECKPOINT_SUFFIX, EngineInfo, Losses, Painting, Plan, Step
from daemon.lifeline import Lifeline
from daemon.pictures import decoding

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from daemon.engine import Engine
    from daemon.job import Picture, Request

INFO = EngineInfo(
    device="fake",
    precision="float32",
    weights_source="fake",
    weights_sha256="0" * 64,
    load_s=0.0,
    versions={"fake": "1"},
)
PLAN = Plan(memory_estimate_mb=512, computed="whole", is_smallest=True)


class AskedLife(Lifeline):
    """A lifeline that asks a callable whether to stop."""

    def __init__(self, ask: Callable[[], bool]) -> None:
        super().__init__()
        self._ask = ask

    @property
    def is_stopping(self) -> bool:
        """Whatever the callable says."""
        return self._ask()


def steps_of(engine: Engine, request: Request, life: Lifeline | None = None) -> Iterator[Step]:
    """Paint, and yield the steps without the plan before them."""
    items: Any = engine.stylize(request, life or Lifeline())
    assert isinstance(next(items), Plan)
    yield from items


class FakeEngine:
    """Paints the content itself, quickly; `script` says what each call does, and every further call paints.

    Words: `paint`; `crash`, `exhaust` and `job_error` (after the first step); `hang` (until it is asked to
    stop). It keeps a checkpoint after each step (after a tenth of a long way) where the job has a place for
    them, and resumes from the newest whole one.
    """

    def __init__(self, *script: str, on_step: Callable[[Step], None] = lambda _step: None) -> None:
        self.script = collections.deque(script)
        self.calls: list[str] = []  # the job of each call
        self.requests: list[Request] = []
        self.steps: list[str] = []  # the job of each iteration that was painted, not replayed
        self.hints: list[Request] = []  # what was announced as the next request
        self.is_started = False
        self.plan = PLAN  # what it says before each painting
        self._on_step = on_step

    def start(self, life: Lifeline) -> EngineInfo:
        """Say what is loaded."""
        life.beat()
        self.is_started = True
        return INFO

    def stylize(self, request: Request, life: Lifeline) -> Iterator[Plan | Step]:
        """Do what the script says next."""
        act = self.script.popleft() if self.script else "paint"
        job = request.content.parent.parent.name
        self.calls.append(job)
        self.requests.append(request)
        yield self.plan
        done = _resumed(request)
        paths = request.content, *(style.image for style in request.styles)
        inputs = tuple(decoding.read(path, 100) for path in paths)
        for step in _steps(inputs, request.settings.iterations):
            if step.iteration <= done:
                yield replace(step, is_replayed=True, picture=None)
                continue
            if step.iteration == 1:
                self._act(act, life)
            if step.iteration:
                self.steps.append(job)
            self._on_step(step)
            yield step
            if not step.painting and step.iteration and step.iteration % _interval(request) == 0:
                _keep(request, step.iteration)
            life.beat()
            if life.is_stopping:
                return

    def prepare(self, request: Request) -> None:
        """Remember the hint."""
        self.hints.append(request)

    def _act(self, act: str, life: Lifeline) -> None:
        if act == "crash":
            raise EngineError("the fake engine crashed", last_lines=("the last words",))
        if act == "job_error":
            raise JobError(Failure(Reason.DIVERGED, "the fake numbers ran away"))
        if act == "exhaust":
            raise EngineError("memory ran out", Reason.OUT_OF_MEMORY)
        while act == "hang" and not life.is_stopping:
            life.beat()
            time.sleep(0.005)

    def stop(self) -> None:
        """Free everything."""
        self.is_started = False


class Replaying(FakeEngine):
    """Changes each step before it is seen."""

    def __init__(self, change: Callable[[Step], Step]) -> None:
        super().__init__()
        self._change = change

    def stylize(self, request: Request, life: Lifeline) -> Iterator[Plan | Step]:
        """Paint as the fake does."""
        for item in super().stylize(request, life):
            yield self._change(item) if isinstance(item, Step) else item


def _steps(inputs: tuple[Picture, ...], count: int) -> Iterator[Step]:
    picture = inputs[0]
    losses = [Losses(total=3.0 / (i + 1), style=2.0 / (i + 1), content=1.0 / (i + 1)) for i in range(count + 1)]
    for iteration in range(count + 1):
        painting = Painting(picture, count, losses[0], losses[-1], losses[-1], 0.0, 0.0, inputs=inputs)
        yield Step(
            iteration=iteration,
            iterations=count,
            size_px=max(picture.shape[:2]),
            losses=losses[iteration],
            elapsed_s=0.001 * iteration,
            picture=picture,
            painting=painting if iteration == count else None,
        )


def _interval(request: Request) -> int:
    return max(1, request.settings.iterations // 10)


def _resumed(request: Request) -> int:
    """Find the last iteration that need not be painted again; -1 where all must be."""
    if request.checkpoints is not None:
        for path in sorted(request.checkpoints.glob(f"*{CHECKPOINT_SUFFIX}"), reverse=True):
            done = int(path.stem) - 1
            if path.read_bytes() == b"%d whole" % done and request.has_frames(range(done + 1)):
                return done
    return -1


def _keep(request: Request, iteration: int) -> None:
    """Write a checkpoint as the engine does; one that the disk does not take is done without."""
    if request.checkpoints is None:
        return
    with contextlib.suppress(OSError):
        files.make_folder(request.checkpoints)
        files.replace(request.checkpoints / f"{iteration + 1:07d}{CHECKPOINT_SUFFIX}", b"%d whole" % iteration)
        for path in sorted(request.checkpoints.glob(f"*{CHECKPOINT_SUFFIX}"))[:-2]:
            path.unlink()


class Killed(BaseException):
    """The process ended here: nothing after this happened."""


class Clock:
    """A clock that stands still unless somebody sleeps: the same run writes the same bytes each time."""

    def __init__(self) -> None:
        self.now_s = 1000.0

    def monotonic(self) -> float:
        """Tell the seconds."""
        return self.now_s

    def sleep(self, duration_s: float) -> None:
        """Let time pass, and other threads run."""
        self.now_s += duration_s
        os.sched_yield()

    @contextmanager
    def attached(self) -> Iterator[Clock]:
        """Stand in for the machine's monotonic and wall clocks, as this program asks for them."""
        moment = dt.datetime(2026, 1, 1, tzinfo=dt.UTC)

        class Standing(dt.datetime):
            @classmethod
            def now(cls, tz: dt.tzinfo | None = None) -> Standing:
                return cls.fromtimestamp(moment.timestamp(), tz)

        asking = [
            module
            for name, module in sys.modules.items()
            if name.startswith("daemon.") and getattr(module, "datetime", None) is dt.datetime
        ]
        with contextlib.ExitStack() as stack:
            for module in asking:
                stack.enter_context(mock.patch.object(module, "datetime", Standing))
            stack.enter_context(mock.patch.multiple(time, monotonic=self.monotonic, sleep=self.sleep))
            yield self


class Disk:
    """Counts every operation that changes what lies below a folder; fails some, or ends the process at one.

    Operations are: making, opening to write, writing, cutting, syncing, moving, linking and removing files and
    folders, by path or by descriptor. Syncs are counted, not done: what a killed process wrote outlives it.
    """

    def __init__(
        self,
        root: Path,
        first: int | None = None,
        *,
        length: int = 1,
        code: int = errno.ENOSPC,
        moment: str = "torn",
        is_kill: bool = False,
        is_full: bool = False,
        on_moment: Callable[[str], None] | None = None,
    ) -> None:
        """Watch a folder.

        Args:
            root: folder; what happens elsewhere does not concern this disk.
            first: number of the first operation that fails, from 0; None: none does.
            length: number of operations that fail. A killed process does nothing ever after.
            code: number of the error.
            moment: moment of the fault: `before` the operation, `torn` (half of a write is done; any other
                operation is not) or `after` it was done.
            is_kill: end of the process instead of an error.
            is_full: choice of only the operations that take room.
            on_moment: callable that gets each moment at which a kill leaves another disk: before
                each operation, and in the middle of each write. Nothing changes below `root` meanwhile.
        """
        self.count = 0
        self.hit = ""  # the first operation that failed
        self._root = str(root)
        self._first = first
        self._last = -1 if first is None else first + length - 1
        self._code = code
        self._moment = moment
        self._is_kill = is_kill
        self._is_full = is_full
        self._is_dead = False
        self._on_moment = on_moment or (lambda _label: None)
        self._lock = threading.RLock()  # one operation after the other, also those of the frames' thread

    @property
    def has_struck(self) -> bool:
        """Whether the fault came to pass."""
        return bool(self.hit)

    @contextmanager
    def attached(self) -> Iterator[Disk]:
        """Stand in for the operating system's calls."""
        calls = {name: self._wrapped(name) for name in _CALLS}
        opened = self._wrapped_open(open)
        with (
            mock.patch.multiple(os, **calls, open=self._wrapped_os_open(), write=self._wrapped_os_write()),
            mock.patch.object(io, "open", opened),
            mock.patch.object(builtins, "open", opened),
        ):
            yield self

    def watches(self, place: str) -> bool:
        """Whether a path lies below the folder."""
        return place.startswith(self._root)

    def operate(self, name: str, place: str, act: Callable[[], Any], tear: Callable[[], Any]) -> Any:
        """Do one operation, unless it fails.

        Args:
            name: name of the system call.
            place: path that it changes.
            act: call that does it, or the rest of it.
            tear: call that does half of it.
        """
        with self._lock:
            number, self.count = self.count, self.count + 1
            label = f"{number}: {name} {place[len(self._root) :]}"
            if self._is_full and name not in _TAKING_ROOM:
                return act()
            self._strike("before", number, label)
            self._on_moment(f"before {label}")
            if name == "write":
                tear()
                self._strike("torn", number, label)
                self._on_moment(f"during {label}")
            else:
                self._strike("torn", number, label)
            result = None
            try:
                result = act()
            finally:
                self._strike("after", number, label, opened=result)
            return result

    def _strike(self, moment: str, number: int, label: str, *, opened: object = None) -> None:
        if self._is_dead:
            raise Killed(self.hit)
        if self._first is None or moment != self._moment or not self._first <= number <= self._last:
            return
        if isinstance(opened, io.IOBase):
            opened.close()  # which nobody gets to see
        self.hit = self.hit or f"{moment} {label}"
        if self._is_kill:
            self._is_dead = True
            raise Killed(self.hit)
        raise OSError(self._code, f"fake {errno.errorcode[self._code]}", label)

    def _wrapped(self, name: str) -> Callable[..., Any]:
        real = getattr(os, name)
        act = (lambda *_args, **_options: None) if name in {"fsync", "fdatasync"} else real

        def call(target: Any, *args: Any, **options: Any) -> Any:
            folder_fd = options.get("dir_fd", options.get("src_dir_fd"))
            place = _place(args[0] if name in {"link", "symlink"} else target, folder_fd)
            if not self.watches(place):
                return real(target, *args, **options)
            return self.operate(name, place, lambda: act(target, *args, **options), lambda: None)

        return call

    def _wrapped_os_open(self) -> Callable[..., Any]:
        real = os.open

        def call(path: Any, flags: int, *args: Any, **options: Any) -> Any:
            changes = flags & (os.O_CREAT | os.O_TRUNC)
            place = _place(path, options.get("dir_fd")) if changes else ""
            if not self.watches(place):
                return real(path, flags, *args, **options)
            return self.operate("open", place, lambda: real(path, flags, *args, **options), lambda: None)

        return call

    def _wrapped_os_write(self) -> Callable[..., Any]:
        real = os.write

        def call(fd: int, data: Any) -> int:
            place, half = _place(fd), len(data) // 2
            if not self.watches(place):
                return int(real(fd, data))
            done = self.operate("write", place, lambda: real(fd, data[half:]), lambda: real(fd, data[:half]))
            return int(half + done)

        return call

    def _wrapped_open(self, real: Callable[..., Any]) -> Callable[..., Any]:
        def call(file: Any, mode: str = "r", buffering: int = -1, *args: Any, **options: Any) -> Any:
            if not set(mode) & set("wxa+") or not self.watches(_place(file)):
                return real(file, mode, buffering, *args, **options)
            binary, opener = mode.replace("t", "").replace("b", ""), options.pop("opener", None)
            closefd = options.pop("closefd", True)

            def act() -> _CountedFile:
                return _CountedFile(self, file, binary, closefd=closefd, opener=opener)

            if isinstance(file, int) or opener is not None:  # the opening is counted where it happens
                raw = act()
            else:
                raw = self.operate("open", _place(file), act, lambda: None)
            if "b" in mode:
                return raw  # unbuffered, so that a write is an operation where the program says `write`
            return io.TextIOWrapper(io.BufferedWriter(raw), *args, **options)

        return call


_CALLS: Final = (
    *("fsync", "fdatasync", "rename", "replace", "unlink", "remove", "rmdir", "mkdir", "link", "symlink"),
    *("truncate", "ftruncate"),
)
_TAKING_ROOM: Final = {"open", "write", "mkdir", "link", "symlink"}


class _CountedFile(io.FileIO):
    """An open file whose writes a Disk counts, and fails."""

    def __init__(self, disk: Disk, file: Any, mode: str, **options: Any) -> None:
        super().__init__(file, mode, **options)
        self._disk = disk

    def write(self, data: Any) -> int:
        """Write all of it, in two halves."""
        half, view = len(data) // 2, memoryview(data)
        write = super().write
        done = self._disk.operate(
            "write", _place(self.fileno()), lambda: write(view[half:]), lambda: write(view[:half])
        )
        return int(half + done)


def _place(target: Any, folder_fd: int | None = None) -> str:
    """Name what a path or descriptor leads to."""
    if isinstance(target, int):
        return str(Path(f"/proc/self/fd/{target}").readlink())
    path = os.fsdecode(target)
    return path if folder_fd is None else f"{_place(folder_fd)}/{path}"
