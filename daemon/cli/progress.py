"""The progress bar of the commands that paint while a person waits."""

from __future__ import annotations

import sys

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn


class Bar(Progress):
    """A bar with iterations, loss and time left; on stderr if stdout is no terminal, else nowhere."""

    def __init__(self) -> None:
        console = Console(file=sys.stdout if sys.stdout.isatty() else sys.stderr)
        super().__init__(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("loss {task.fields[loss]}"),
            TimeRemainingColumn(),
            console=console,
            transient=True,
            disable=not console.is_terminal,
        )
        self._task = self.add_task("preparing", total=None, loss="-")

    def show(self, iteration: int, iterations: int, loss: float | None) -> None:
        """Show the last complete iteration of all, and its total loss if it is known."""
        text = "-" if loss is None else f"{loss:.4g}"
        self.update(self._task, description="painting", total=iterations, completed=iteration, loss=text)

    def say(self, line: str) -> None:
        """Print a line above the bar."""
        self.console.print(line, markup=False, highlight=False, soft_wrap=True)
