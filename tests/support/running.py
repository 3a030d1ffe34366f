"""Services in a thread of this process, with a quick engine."""

from __future__ import annotations

import threading
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any

from daemon.service.service import Service
from support.fakes import FakeEngine
from support.trees import NearDecoder, wait_for

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType

    from daemon.config import Config
    from daemon.engine import Engine

END_S = 60


class Running:
    """A service that runs in a thread of its own, and what came of it."""

    def __init__(self, config: Config, engine: Engine | None = None, **options: Any) -> None:
        self.service = Service(config, engine=engine or FakeEngine(), decoder=NearDecoder(), **options)
        self.code: int | None = None
        self.error: BaseException | None = None
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        try:
            self.code = self.service.run()
        except Exception as error:  # noqa: BLE001 - for the test to look at
            self.error = error

    @property
    def is_alive(self) -> bool:
        """Whether it still runs."""
        return self._thread.is_alive()

    def until(self, condition: Callable[[], Any], what: str) -> Any:
        """Wait for a condition while it runs, and return what that gave."""
        return wait_for(condition, what, END_S)

    def until_ready(self) -> Running:
        """Wait until it works."""
        self.until(lambda: self.service.situation.state == "running", "the service to be ready")
        return self

    def join(self, deadline_s: float = END_S) -> None:
        """Wait for its end, or for a time."""
        self._thread.join(deadline_s)

    def wait(self) -> int | None:
        """Wait for its end; gives its exit code."""
        self.join()
        assert not self.is_alive
        return self.code

    def stop(self) -> int | None:
        """End it, if it still runs."""
        self.service.ask_stop()
        return self.wait()


class Runs(AbstractContextManager["Runs"]):
    """Starts services; leaving the context ends those that still run."""

    def __init__(self) -> None:
        self._made: list[Running] = []

    def __call__(self, config: Config, engine: Engine | None = None, **options: Any) -> Running:
        """Start one; options are those of `Service`."""
        self._made.append(Running(config, engine, **options))
        return self._made[-1]

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """End them."""
        for running in self._made:
            running.stop()
