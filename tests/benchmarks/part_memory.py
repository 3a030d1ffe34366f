"""Peak memory of a fresh process that paints at a size, beside what was estimated before."""

from __future__ import annotations

from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, Final

import sidecars
from processes import NoAnswerError, free_memory_mb
from tables import Table

from daemon import images
from daemon.transfer import memory

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
    pairs = memory.kept_pairs(size * size * 3 // 4)
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
    estimate = _estimate_mb(bench, keys, answer, limit) * _MB
    found = answer["computed"], estimate, answer["peak_mb"], estimate / answer["peak_mb"], answer["step_s"]
    return size, shown, answer["precision"], *found


def _estimate_mb(bench: Bench, keys: dict[str, Any], answer: dict[str, Any], limit: int | None) -> int:
    """Estimate as the service does before it starts a job."""
    content, style = (images.header_size(path) for path in (bench.pairs[0].content, bench.pairs[0].style))
    network = SimpleNamespace(precision=answer["precision"], is_turned=answer["is_turned"])
    works = memory.works(sidecars.settings(keys), content, [style], network)
    return memory.planned_mb(works, limit or memory.available_mb(0))
