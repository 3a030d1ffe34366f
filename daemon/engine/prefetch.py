"""The next picture, made ready by a thread of its own while the current one is painted."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any, Final, Generic, TypeVar

from daemon.job import Stamp
from daemon.processes import yield_to_others

if TYPE_CHECKING:
    from collections.abc import Callable

    from daemon.job import Request

T = TypeVar("T")
_NICE: Final = 10  # it has the time of a whole picture, and the running one shall not wait for it


class Preparer(Generic[T]):
    """Keeps what was made ready for one request at most, the last one that was hinted at."""

    def __init__(self, make: Callable[[Request], T]) -> None:
        """Have nothing ready.

        Args:
            make: does the work; safe to be called beside the painting. Whatever goes wrong in it is forgotten:
                it goes wrong once more where it is missed.
        """
        self._make = make
        self._slot: _Slot[T] | None = None
        self._dropped: _Slot[T] | None = None  # the last one that was not taken; it may be at work still

    def begin(self, request: Request) -> None:
        """Make a request ready, instead of any other; returns at once."""
        key = _key(request)
        if key is None or (self._slot is not None and self._slot.key == key):
            return
        before, self._dropped = self._slot or self._dropped, None
        self._slot = _Slot(key, lambda: self._make(request), before)
        self._slot.start()

    def take(self, request: Request) -> T | None:
        """Hand out what was made ready for this very request, once; waits where that is not finished yet."""
        slot = self._slot
        if slot is None or slot.key != _key(request):
            self.forget()
            return None
        self._slot = None
        slot.join()
        return slot.made

    def forget(self) -> None:
        """Let go of what was made ready, or will be."""
        if self._slot is not None:
            self._slot.drop()
            self._slot, self._dropped = None, self._slot


class _Slot(threading.Thread, Generic[T]):
    """One request being made ready; after the one before it, so that two never work at once."""

    def __init__(self, key: tuple[Any, ...], make: Callable[[], T], before: _Slot[T] | None) -> None:
        super().__init__(name="prepare", daemon=True)
        self.key = key
        self.made: T | None = None
        self._is_wanted = True
        self._make = make
        self._before = before
        if before is not None:
            before.drop()

    def drop(self) -> None:
        """Make nothing, or keep nothing of what is being made."""
        self._is_wanted = False
        self.made = None

    def run(self) -> None:
        """Make it, unless another is wanted by now."""
        yield_to_others(_NICE)
        if self._before is not None:
            self._before.join()
            self._before = None
        if self._is_wanted:
            try:
                self.made = self._make()
            except Exception:  # noqa: BLE001 - whatever it is, whoever misses it meets it again, and says so
                self.made = None
        if not self._is_wanted:  # by now: dropped before that was set
            self.made = None


def _key(request: Request) -> tuple[Any, ...] | None:
    """Name a request by its files and settings; not by paths, since a job moves between hint and painting.

    None where the files cannot be asked: then nothing can be made ready.
    """
    paths = [request.content, *(path for path, _ in request.styles), *([request.init] if request.init else [])]
    try:
        stamps = tuple(Stamp.of(path.stat()) for path in paths)
    except OSError:
        return None
    return stamps, tuple(weight for _, weight in request.styles), request.settings
