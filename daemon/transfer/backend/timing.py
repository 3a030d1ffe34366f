"""Short measurements at the start of an engine, by which it chooses how to compute."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Final, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Sequence

_ROUNDS: Final = 5

# Gives the gain of a name: from an earlier start, or by the measurement that it is handed.
Recall: TypeAlias = Callable[[str, Callable[[], float]], float]


def measured_anew(name: str, measure: Callable[[], float]) -> float:  # noqa: ARG001 - as `Recall` has it
    """Measure, whatever was found before."""
    return measure()


def fewest_s(
    runs: Sequence[Callable[[], object]], clock: Callable[[], float] = time.process_time
) -> list[float]:
    """Time some calls in turns, since the machine may be busy; returns each one's fewest seconds.

    Args:
        runs: what is compared.
        clock: the processor's time of all threads, which others cannot take; not for what a GPU computes.
    """
    for run in runs:
        run()  # the first one also prepares
    times = [[_seconds(run, clock) for run in runs] for _ in range(_ROUNDS)]
    return [min(taken) for taken in zip(*times, strict=True)]


def _seconds(run: Callable[[], object], clock: Callable[[], float]) -> float:
    begun = clock()
    run()
    return clock() - begun
