"""How far an attempt is, and how fast it goes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from daemon.job import Step
    from daemon.settings import Scale


@dataclass(frozen=True)
class Progress:
    """What one attempt is doing, for `status`."""

    job_id: str
    name: str
    attempt: int
    iteration: int
    iterations: int
    size_px: int
    loss: float | None
    elapsed_s: float
    iteration_s: float | None
    eta_s: float | None
    started_at: str


@dataclass(frozen=True)
class Pace:
    """The speed of an attempt, measured from the first step that it computed itself."""

    scales: tuple[Scale, ...]
    iteration: int  # of that step
    at: float  # the end of that step, in monotonic seconds
    begun_at: float  # its beginning

    def iteration_s(self, step: Step, now: float) -> float | None:
        """Give the seconds an iteration takes; None at the first step."""
        done = step.iteration - self.iteration
        return (now - self.at) / done if done else None

    def eta_s(self, step: Step, now: float) -> float | None:
        """Give the seconds that are left; a step at twice the size takes four times as long."""
        so_far, total = self._work(step.iteration), self._work(step.iterations)
        done = so_far - self._work(self.iteration)
        return round((now - self.at) / done * (total - so_far), 1) if done else None

    def _work(self, iteration: int) -> float:
        """Measure the work up to an iteration, in steps at 1 px."""
        work, left = 0.0, iteration
        for scale in self.scales:
            here = min(left, scale.iterations)
            work += here * float(scale.size) ** 2
            left -= here
        return work
