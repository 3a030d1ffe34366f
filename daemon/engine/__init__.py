"""Where a picture is computed: in this process, or in a child that keeps VGG19 loaded from job to job."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable, Generator

    from daemon.job import EngineInfo, Request, Step


class Engine(Protocol):
    """What the worker needs of an engine."""

    def start(self) -> EngineInfo:
        """Load the model, or say what is loaded.

        Raises:
            NotReady: the device, the weights or the memory are not what the config asks for.
        """

    def stylize(self, request: Request, is_stopping: Callable[[], bool]) -> Generator[Step, None, None]:
        """Paint one picture. Once `is_stopping()` is true the steps end early, without a painting.

        Raises:
            NotReady: see `start`.
            JobError: this picture cannot be painted.
            EngineError: the engine ended.
        """

    def prepare(self, request: Request) -> None:
        """Take a hint: this will be asked for next. It may come amid a picture, and its errors are no one's."""

    def held_mb(self) -> int:
        """Give the resident memory of the process that paints, in MB of 2^20 bytes."""

    def stop(self) -> None:
        """Free everything."""
