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

        Args:
            life: the calling thread's; once it is stopping, the engine is not ready.

        Raises:
            NotReady: the device, the weights or the memory are not what the config asks for.
        """

    def stylize(self, request: Request, life: Lifeline) -> Generator[Plan | Step, None, None]:
        """Compute one picture.

        Args:
            request: the job's pictures and settings.
            life: the attempt's. Once it is stopping the steps end early, with a checkpoint and no painting.

        Yields:
            How the picture will be computed, once and first; then each step.

        Raises:
            NotReady: see `start`.
            JobError: this picture cannot be computed.
            EngineError: the engine ended, or ran out of memory.
        """

    def prepare(self, request: Request) -> None:
        """Prefetch: this request is likely next. It may come during a painting; errors are dropped."""

    def stop(self) -> None:
        """Free everything."""
