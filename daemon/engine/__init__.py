"""Where a picture is computed: in this process, or in a child that keeps VGG19 loaded from job to job."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Generator

    from daemon.job import EngineInfo, Plan, Request, Step
    from daemon.lifeline import Lifeline


class Engine(Protocol):
    """What the worker needs of an engine."""

    def start(self, life: Lifeline) -> EngineInfo:
        """Load the model, or say what is loaded.

        Raises:
            NotReady: device, weights or memory are not what the config asks for, or `life` is stopping.
        """

    def stylize(self, request: Request, life: Lifeline) -> Generator[Plan | Step, None, None]:
        """Paint one picture: yield the plan, then its steps; without a painting once `life.is_stopping`.

        Raises:
            NotReady: as `start` does.
            JobError: this picture cannot be painted.
            EngineError: the engine ended, or memory ran out. Nothing is tried again here.
        """

    def prepare(self, request: Request) -> None:
        """Prefetch what is likely next, also during a painting; an error is raised by `stylize` alone."""

    def stop(self) -> None:
        """Free everything."""
