"""Peak memory of a fresh process that paints at a size."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from processes import NoAnswerError, free_memory_mb
from tables import Table

if TYPE_CHECKING:
    from bench import Bench

SIZES: Final = (512, 1024, 2048, 4096)
QUICK_SIZES: Final = (128, 256)
ITERATIONS: Final = 3
SHARE: Final = 0.85  # of the memory that is free: past it the system chooses a victim


def run(bench: Bench) -> list[Table]:
    """Paint a few iterations at every size; a size that does not fit is reported as such."""
    table = Table(
        f"Peak memory, preset default, {ITERATIONS} iterations at the final size alone",
        ("size px", "precision", "peak MB", "step s", "fits"),
        notes=["VmHWM of a fresh process with the model, 10^6 bytes a MB; one run a size"],
    )
    for size in QUICK_SIZES if bench.options.quick else SIZES:
        table.rows.append(_row(bench, size, table))
    return [table]


def _row(bench: Bench, size: int, table: Table) -> tuple[Any, ...]:
    pair = bench.pairs[0]
    keys = {"preset": "default", "size": size, "iterations": ITERATIONS, "scales": "none"}
    request = {"kind": "memory", "settings": keys, "content": str(pair.content), "style": str(pair.style)}
    limit_mb = SHARE * free_memory_mb()
    try:
        answer = bench.ask(request, f"memory-{size}", limit_mb=limit_mb)
    except NoAnswerError as error:
        table.notes.append(f"{size} px: {error}")
        return size, bench.options.precision, None, None, "no"
    table.raw[str(size)] = answer
    return size, answer["precision"], answer["peak_mb"], answer["step_s"], "yes"
