"""The progress bar of the commands that paint while a person waits."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

if TYPE_CHECKING:
    from types import TracebackType


class Bar:
    """A bar with iterations, loss and time left; on stderr where stdout is no terminal, else nowhere."""

    def __init__(self) -> None:
        self._console = Console(file=sys.stdout if sys.stdout.isatty() else sys.stderr)
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("loss {task.fields[loss]}"),
            TimeRemainingColumn(),
            console=self._console,
            transient=True,
            disable=not self._console.is_terminal,
        )
        self._task = self._progress.add_task("preparing", total=None, loss="-")

    def __enter__(self) -> Self:
        """Show the bar."""
        self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Remove the bar."""
        self._progress.stop()

    def show(self, iteration: int, iterations: int, loss: float | None) -> None:
        """Show how far a painting is.

        Args:
            iteration: the last iteration that is complete.
            iterations: all iterations of the job.
            loss: the total loss; None: not known yet.
        """
        text = "-" if loss is None else f"{loss:.4g}"
        self._progress.update(
            self._task, description="painting", total=iterations, completed=iteration, loss=text
        )

    def say(self, line: str) -> None:
        """Print a line above the bar."""
        self._console.print(line, markup=False, highlight=False, soft_wrap=True)
