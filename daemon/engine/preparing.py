"""The next picture, made ready by a thread of its own while the current one is painted."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any, Final, Generic, TypeVar

from daemon.job import Stamp
from daemon.priority import yield_to_others

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

    def begin(self, request: Request) -> None:
        """Make a request ready, instead of any other; returns at once."""
        key = _key(request)
        before = self._slot
        if key is None or (before is not None and before.key == key):
            return
        self._slot = _Slot(key, lambda: self._make(request), before)
        self._slot.start()

    def take(self, request: Request) -> T | None:
        """Hand out what was made ready for this very request, once; waits where that is not finished yet."""
        slot, self._slot = self._slot, None
        if slot is None:
            return None
        if slot.key != _key(request):
            slot.is_wanted = False
            return None
        slot.join()
        return slot.made


class _Slot(threading.Thread, Generic[T]):
    """One request being made ready; after the one before it, so that two never work at once."""

    def __init__(self, key: tuple[Any, ...], make: Callable[[], T], before: _Slot[T] | None) -> None:
        super().__init__(name="prepare", daemon=True)
        self.key = key
        self.made: T | None = None
        self.is_wanted = True
        self._make = make
        self._before = before
        if before is not None:
            before.is_wanted = False

    def run(self) -> None:
        """Make it, unless another is wanted by now."""
        yield_to_others(_NICE)
        if self._before is not None:
            self._before.join()
            self._before = None
        if self.is_wanted:
            try:
                self.made = self._make()
            except Exception:  # noqa: BLE001 - whatever it is, whoever misses it meets it again, and says so
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
