"""The losses of one job, as a table and as a curve."""

from __future__ import annotations

import csv
import io
import itertools
import warnings
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Sequence


class Row(NamedTuple):
    """One line of losses.csv."""

    iteration: int
    size_px: int
    total: float
    style: float
    content: float
    elapsed_s: float


def iterations(rows: Sequence[Row]) -> int:
    """Count the iterations: one between every two rows of the same size, whose first row is the start.

    Their numbers are no count: where a size ends early, the next one begins at a higher number.
    """
    return sum(one.size_px == next_.size_px for one, next_ in itertools.pairwise(rows))


def table(rows: Sequence[Row]) -> bytes:
    """Write losses.csv; every loss is written with all its digits."""
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(Row._fields)
    writer.writerows((*row[:-1], f"{row.elapsed_s:.3f}") for row in rows)
    return buffer.getvalue().encode("ascii")


def curve(rows: Sequence[Row], title: str) -> bytes:
    """Draw losses.png: total, style and content over the iterations, on a logarithmic axis."""
    # Matplotlib takes 0.4 s to import, and is needed once a job.
    from matplotlib.backends.backend_agg import FigureCanvasAgg  # noqa: PLC0415
    from matplotlib.figure import Figure  # noqa: PLC0415

    figure, buffer = Figure(figsize=(8, 4.5), dpi=100, layout="constrained"), io.BytesIO()
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    with warnings.catch_warnings(action="ignore"):  # letters that the font lacks, losses that are all 0
        for name, color in (("total", "#222222"), ("style", "#c8553d"), ("content", "#2a6f97")):
            losses, width = [getattr(row, name) for row in rows], 2.0 if name == "total" else 1.3
            axes.plot([row.iteration for row in rows], losses, label=name, color=color, linewidth=width)
        axes.set_yscale("log", nonpositive="mask")  # the content loss starts at 0
        axes.set_xlabel("iteration")
        axes.set_ylabel("loss")
        axes.set_title(title.replace("$", r"\$"))
        axes.grid(visible=True, which="major", alpha=0.3)
        axes.legend(frameon=False)
        figure.savefig(buffer, format="png")
    return buffer.getvalue()
