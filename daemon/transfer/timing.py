"""Short measurements at the start of an engine, by which it chooses how to compute."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

_ROUNDS: Final = 3


def fastest_s(runs: Sequence[Callable[[], object]]) -> list[float]:
    """Time some calls in turns, since the machine may be busy; returns each one's fewest seconds."""
    for run in runs:
        run()  # the first one also prepares
    times = [[_seconds(run) for run in runs] for _ in range(_ROUNDS)]
    return [min(taken) for taken in zip(*times, strict=True)]


def _seconds(run: Callable[[], object]) -> float:
    begun = time.perf_counter()
    run()
    return time.perf_counter() - begun
