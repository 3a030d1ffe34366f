"""The tables that every part returns, for people and programs, and the arithmetic of their figures."""

from __future__ import annotations

import itertools
import math
import statistics
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any, Final

from rich import box
from rich.table import Table as RichTable

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rich.console import Console

_PLAIN: Final = (0.001, 1e6)  # beyond, a number is written with its exponent
Mark = tuple[int, float, float]  # iteration, loss, seconds since a common start


@dataclass
class Table:
    """One table, notes on how to read it, and its raw figures."""

    title: str
    columns: tuple[str, ...]
    rows: list[tuple[Any, ...]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    raw: dict[str, Any] = field(default_factory=dict)

    def as_json(self) -> dict[str, Any]:
        """Convert it for a JSON file: rows by column names, unrounded."""
        rows = [dict(zip(self.columns, row, strict=True)) for row in self.rows]
        return {**asdict(self), "rows": rows}

    def show(self, console: Console) -> None:
        """Print it in Markdown, to be copied into a document."""
        shown = RichTable(*self.columns, box=box.MARKDOWN)
        for row in self.rows:
            shown.add_row(*(figure(value) for value in row))
        console.print(f"\n{self.title}", style="bold", highlight=False)
        console.print(shown)
        for note in self.notes:
            console.print(f"- {note}", highlight=False, soft_wrap=True)


def figure(value: Any) -> str:
    """Format a number with three significant digits, and None as a dash."""
    if value is None:
        return "-"
    if not isinstance(value, float):
        return str(value)
    if not _PLAIN[0] <= abs(value) < _PLAIN[1]:
        return f"{value:.4g}"
    digits = 2 - math.floor(math.log10(abs(value)))
    return f"{value:.{max(digits, 0)}f}"


def median(values: Sequence[float | None]) -> float | None:
    """Compute the median of the values that were measured; None if none was."""
    measured = [value for value in values if value is not None]
    return statistics.median(measured) if measured else None


def ratio(above: float | None, below: float | None) -> float | None:
    """Divide; None if either value was not measured."""
    return None if above is None or not below else above / below


def loop_s(marks: Sequence[Mark], index: int) -> float:
    """Compute the seconds of the loop up to and including one evaluation of the loss.

    The first evaluation counts as much as the median one: decoding and targets come before it, and are not
    part of the loop.
    """
    times = [seconds for *_, seconds in marks]
    step_s = statistics.median([after - before for before, after in itertools.pairwise(times)] or [0.0])
    return times[index] - times[0] + step_s


def first_at(marks: Sequence[Mark], target: float) -> int | None:
    """Find the index of the first evaluation whose loss is at most the target."""
    return next((index for index, (_, loss, _) in enumerate(marks) if loss <= target), None)
