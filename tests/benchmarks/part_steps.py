"""GFLOP/s of a step against the machine's own matrix products in the same precision."""

from __future__ import annotations

import statistics
from typing import TYPE_CHECKING, Any, Final

from processes import interleaved
from tables import Table, median, ratio

from daemon.settings import LAYERS

if TYPE_CHECKING:
    from bench import Bench

CHANNELS: Final = (64, 128, 256, 512, 512)
SIDE: Final = 3072  # as `contestant.PRODUCT_SIDE`
LAST_LAYER: Final = "block5_conv2"
SETTINGS: Final[dict[str, Any]] = {"preset": "paper"}


def run(bench: Bench) -> list[Table]:
    """Measure every size in both precisions."""
    sizes = (128, 256) if bench.options.quick else (256, 512, 1024)
    count = 4 if bench.options.quick else 10
    pair = bench.pairs[0]
    runs = {}
    for precision in ("float32", "bfloat16"):
        for size in sizes:
            request = {"kind": "steps", "size": size, "precision": precision, "count": count, **pair.files}
            name = f"steps-{precision}-{size}"
            runs[precision, size] = lambda r=request, n=name: bench.ask({**r, "settings": SETTINGS}, n)
    table = Table(
        "One step of preset paper",
        ("precision", "size px", "picture", "GFLOP", "step s", "step GFLOP/s", "limit GFLOP/s", "share"),
        notes=[
            f"GFLOP: 2 x the convolutions' forward FLOP to {LAST_LAYER} (forward, and backward to the input)",
            "pooling, Gram matrices, losses and optimizer count in the seconds, not in the FLOP",
            f"limit: tf.matmul of two {SIDE} x {SIDE} matrices, one after each step, in the same process",
            f"medians over {bench.options.repeats} processes of {count} steps each",
        ],
    )
    for (precision, size), answers in interleaved(runs, bench.options.repeats).items():
        table.rows.append(_row(precision, size, answers))
        table.raw[f"{precision} {size}"] = answers
    return [table]


def _row(precision: str, size: int, answers: list[dict[str, Any]]) -> tuple[Any, ...]:
    height, width = answers[0]["height"], answers[0]["width"]
    work = 2 * forward_flop(height, width, LAST_LAYER) / 1e9
    step_s = median([statistics.median(answer["step_s"]) for answer in answers])
    limits = [2e-9 * SIDE**3 / statistics.median(answer["product_s"]) for answer in answers]
    rate, limit = ratio(work, step_s), median(limits)
    return precision, size, f"{width} x {height}", work, step_s, rate, limit, ratio(rate, limit)


def forward_flop(height: int, width: int, last: str) -> float:
    """Count the FLOP of all convolutions up to a layer, two for each multiply-add."""
    total, previous = 0.0, 3
    for layer in LAYERS[: LAYERS.index(last) + 1]:
        block = int(layer[len("block")])
        channels = CHANNELS[block - 1]
        scale = 2 ** (block - 1)
        total += 2 * 9 * previous * channels * (height // scale) * (width // scale)
        previous = channels
    return total
