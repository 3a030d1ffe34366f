"""The next picture, made ready in the background while the current one is painted."""

from __future__ import annotations

import contextlib
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, Final, Generic, TypeVar

from daemon.job import Stamp
from daemon.processes import yield_to_others

if TYPE_CHECKING:
    from collections.abc import Callable
    from concurrent.futures import Future
    from pathlib import Path

    from daemon.job import Request

T = TypeVar("T")
_NICE: Final = 10  # it has the time of a whole picture, and must not slow down the running one


class Prefetcher(Generic[T]):
    """Keeps one result at most, for the last request that was announced; one thread does the work."""

    def __init__(self, make: Callable[[Request], T]) -> None:
        """Take the work. It runs during a painting; its errors are dropped: `stylize` meets them again."""
        self._make = make
        self._executor = ThreadPoolExecutor(1, "prefetch", yield_to_others, (_NICE,))
        self._next: tuple[tuple[Any, ...], Future[T]] | None = None  # the request's key, and its result

    def begin(self, request: Request) -> None:
        """Make a request ready, instead of any other; returns at once."""
        key = _key(request)
        if key is not None and (self._next is None or self._next[0] != key):
            self.forget()
            self._next = key, self._executor.submit(self._make, request)

    def take(self, request: Request) -> T | None:
        """Hand out the result for this very request, once; wait for it where it is not finished yet."""
        if self._next is None or self._next[0] != _key(request):
            self.forget()
            return None
        future, self._next = self._next[1], None
        with contextlib.suppress(Exception):
            return future.result()
        return None

    def forget(self) -> None:
        """Drop the result, also one that is still being made: nobody holds it once it is there."""
        if self._next is not None:
            self._next[1].cancel()
        self._next = None


def pictures(request: Request) -> list[Path]:
    """List the files that a request decodes."""
    of_styles = (path for style in request.styles for path in (style.image, style.mask, style.region))
    return [path for path in (request.content, *of_styles, request.init, request.mask) if path is not None]


def _key(request: Request) -> tuple[Any, ...] | None:
    """Identify a request by its files and settings, not by paths: a job moves before it is painted.

    None where the files cannot be read: then nothing can be made ready.
    """
    try:
        stamps = tuple(Stamp.of(path.stat()) for path in pictures(request))
    except OSError:
        return None
    weights = tuple((style.weight, style.scale) for style in request.styles)
    return stamps, weights, request.faces, request.settings
