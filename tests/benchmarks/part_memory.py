"""Peak memory of a fresh process that paints at a size, beside what was estimated before."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from processes import NoAnswerError, free_memory_mb
from tables import Table

from daemon.transfer.optimizer_memory import kept_pairs

if TYPE_CHECKING:
    from bench import Bench

SIX_GB: Final = 5722  # in the product's MB, of 2^20 bytes
SIZES: Final = ((512, None), (1024, None), (2048, None), (2048, SIX_GB), (4096, SIX_GB))
QUICK_SIZES: Final = ((128, None), (256, None))
SHARE: Final = 0.85  # of the memory that is free: past it the system chooses a victim
_MB: Final = 1.048576  # 2^20 bytes in units of 10^6


def run(bench: Bench) -> list[Table]:
    """Paint a few iterations at every size; a size that does not fit is reported as such."""
    table = Table(
        f"Peak memory, preset default, the final size alone, {bench.pairs[0].name}",
        ("size px", "limit MB", "precision", "computed", "estimate MB", "peak MB", "estimate / peak", "step s"),
        notes=[
            "VmHWM of a fresh process with the model, 10^6 bytes a MB; one run a size; losses in float32 too",
            "iterations: two more than L-BFGS keeps pairs of pictures",
        ],
    )
    for size, limit in QUICK_SIZES if bench.options.quick else SIZES:
        table.rows.append(_row(bench, size, limit, table))
    return [table]


def _row(bench: Bench, size: int, limit: int | None, table: Table) -> tuple[Any, ...]:
    pair = bench.pairs[0]
    pairs = kept_pairs(size * size * 3 // 4)
    keys = {"preset": "default", "size": size, "iterations": pairs + 2, "scales": "none"}
    request = {"kind": "memory", "settings": keys, "content": str(pair.content), "style": str(pair.style)}
    limit_mb = SHARE * free_memory_mb()
    shown = limit and limit * _MB
    try:
        answer = bench.ask(
            {**request, "memory_limit_mb": limit}, f"memory-{size}-{limit or 'free'}", limit_mb=limit_mb
        )
    except NoAnswerError as error:
        table.notes.append(f"{size} px: {error}")
        return size, shown, bench.options.precision, None, None, None, None, None
    table.raw[f"{size}, {limit}"] = answer
    estimate = answer["estimate_mb"] * _MB
    found = answer["computed"], estimate, answer["peak_mb"], estimate / answer["peak_mb"], answer["step_s"]
    return size, shown, answer["precision"], *found
