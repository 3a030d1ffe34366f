"""The loss reached with bfloat16 convolutions and with float32; both losses computed in float32."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from tables import Table

if TYPE_CHECKING:
    from bench import Bench, Pair

PRESETS: Final = ("paper", "default")


def run(bench: Bench) -> list[Table]:
    """Paint every pair in both precisions; once, because nothing is timed."""
    size = bench.options.size
    table = Table(
        f"The best loss by the precision of the convolutions, at {size} px",
        ("pair", "preset", "float32", "bfloat16", "difference"),
        notes=[
            "`losses.best` of result.yaml, computed in float32 whatever precision the picture was painted in",
            "valid only on hardware that multiplies bfloat16: elsewhere TensorFlow rounds differently",
        ],
    )
    for number, pair in enumerate(bench.pairs):
        for preset in PRESETS:
            exact, rough = (_best(bench, pair, number, preset, name) for name in ("float32", "bfloat16"))
            table.rows.append((pair.name, preset, exact, rough, f"{rough / exact - 1:+.2%}"))
    return [table]


def _best(bench: Bench, pair: Pair, number: int, preset: str, precision: str) -> float:
    request = {
        "kind": "paint",
        "settings": {"preset": preset, "size": bench.options.size},
        "precision": precision,
        "is_warm": False,
        **pair.files,
    }
    found: float = bench.ask(request, f"precision-{number}-{preset}-{precision}")["best"]
    return found
