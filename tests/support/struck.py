"""An engine that is struck in the middle of a picture: killed, or asked to stop."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from daemon.engine.local import LocalEngine
from support.fakes import Killed

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from daemon.job import Plan, Request, Step
    from daemon.lifeline import Lifeline


class Struck(LocalEngine):
    """Calls something after so many computed steps of its first picture."""

    def __init__(self, inner: LocalEngine, after: int, strike: Callable[[], None]) -> None:
        self._inner, self._left, self.strike = inner, after, strike

    def start(self, *life: Lifeline) -> Any:
        """Say what is loaded."""
        return self._inner.start(*life)

    def stylize(self, request: Request, *life: Lifeline) -> Iterator[Plan | Step]:
        """Paint; the strike comes before the step reaches the daemon's hands."""
        painting: Any = self._inner.stylize(request, *life)
        yield next(painting)
        for step in painting:
            self._left -= not step.is_replayed
            if not self._left:
                self.strike()
            yield step

    def stop(self) -> None:
        """Keep the model."""


def kill() -> None:
    """End the process here."""
    raise Killed
