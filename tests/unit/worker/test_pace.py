"""The time that is left, against a known cost of every step."""

from __future__ import annotations

import random
from itertools import accumulate
from types import SimpleNamespace
from typing import Any

import pytest

from daemon.job import Job, Part
from daemon.settings import Settings, scaled
from daemon.worker.pace import Pace


def _job(size: int = 4096, preset: str = "default", **keys: Any) -> Job:
    """Make the job of a photo of 12 megapixels."""
    content = Part("content", "photo.jpg", height_px=3072, width_px=4096)
    style = Part("style", "painting.jpg", height_px=512, width_px=512)
    return Job(
        "a", 1, "", "", (content, style), preset, Settings(size=size, **keys), "2026-01-01T00:00:00+00:00"
    )


def _worst(job: Job, known: Any, offset_px: float = 0, *, resumed: int = 0, first: int = 10) -> float:
    """Paint with steps of a + b x px and 10 % of noise; give the worst error from a picture on."""
    rng, taken, steps, before = random.Random(1), [], [], 0  # noqa: S311 - noise
    for scale in job.scales:
        for done in range(scale.iterations + 1):
            is_end = before + done == job.total_iterations and scale.size == job.scales[-1].size
            weight = 3.2 if done == 0 else 1.6 if is_end else 1  # targets; chroma limit
            height, width = scaled(3072, 4096, scale.size)
            taken.append(weight * 5e-6 * (height * width + offset_px) * rng.uniform(0.9, 1.1))
            steps.append(SimpleNamespace(size_px=scale.size, iteration=before + done, painting=is_end or None))
        before += scale.iterations
    lefts = [*accumulate(reversed(taken), initial=0.0)][::-1]
    taken[resumed] *= 3 if resumed else 1  # the checkpoint is read, and targets are computed
    pace: Any = Pace(job, known)
    etas = [pace.eta_s()]
    for number, step in list(enumerate(steps))[resumed:]:
        pace.add(step, taken[number], warm=number > resumed)
        etas.append(pace.eta_s(step))
    assert etas.pop() == lefts.pop() == 0
    found = list(zip(etas, [lefts[0], *lefts[resumed + 1 :]], strict=True))[first:]
    assert all(eta_s is not None and eta_s >= 0 for eta_s, _ in found)
    return max(abs(eta_s - left_s) / left_s for eta_s, left_s in found)


def test_the_first_job_is_known_from_its_tenth_iteration_on() -> None:
    """Sizes to come are known by their pixels; a resumed attempt counts only its own steps."""
    assert Pace(_job(), {}).eta_s() is None
    assert _worst(_job(), {}) < 0.15
    for resumed in (20, 57, 120):
        assert _worst(_job(), {}, resumed=resumed, first=5) < 0.15
    assert _worst(_job(256, preset="sheet"), {}) < 0.15


def test_a_quick_end_takes_nothing_from_later_jobs() -> None:
    """A last step that is quicker than those before ends at once; no time is below zero."""
    known: Any = {}
    pace: Any = Pace(_job(64), known)
    for iteration, taken_s in enumerate((9.0, 1.0, 9.0, 0.1)):
        step: Any = SimpleNamespace(size_px=64, iteration=iteration, painting=iteration == 3)
        pace.add(step, taken_s, warm=iteration > 0)
    later: Any = Pace(_job(64), known)
    last: Any = SimpleNamespace(size_px=64, iteration=_job(64).total_iterations, painting=None)
    assert later.eta_s(last) == 0
    assert min(rate for rates in known.values() for rate in rates.values()) == 0


@pytest.mark.parametrize("offset_px", [0, 50_000, 500_000])
def test_a_later_job_is_known_before_it_starts(offset_px: int) -> None:
    """Whatever a step costs beside its px, also between sizes; another method and tiles cost more or less."""
    known: Any = {}
    _worst(_job(), known, offset_px)
    for size, first in ((4096, 0), (2048, 0), (3000, 10)):
        assert _worst(_job(size), known, offset_px, first=first) < 0.15
    slower: Any = {kind: {key: rate / 3 for key, rate in rates.items()} for kind, rates in known.items()}
    assert _worst(_job(), slower, offset_px) < 0.15  # of a machine that is three times slower now
    whole: Any = Pace(_job(), known)
    assert Pace(_job(), known, tiled=True).eta_s() > 1.4 * whole.eta_s()
    assert Pace(_job(optimizer="adam"), known).eta_s() is None
