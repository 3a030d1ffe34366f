"""The time that is left: against a known cost of every step, from the first job of a service on."""

from __future__ import annotations

import random
from itertools import accumulate
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest

from daemon.job import Job, Part
from daemon.settings import Settings, scaled
from daemon.worker.pace import Pace

if TYPE_CHECKING:
    from collections.abc import Iterator


def _job(size: int = 4096, **keys: Any) -> Job:
    """Make the job of a photo of 12 megapixels."""
    content = Part("content", "photo.jpg", height_px=3072, width_px=4096)
    return Job(
        "a", 1, "photo", "", (content,), "default", Settings(size=size, **keys), "2026-01-01T00:00:00+00:00"
    )


def _followed(
    job: Job, known: Any, offset_px: float = 0, *, resumed: int = 0
) -> Iterator[tuple[int, float | None, float]]:
    """Paint a job of which a step takes a + b x px with 10 % of noise; yield iteration, estimate and truth."""
    rng, steps, before = random.Random(1), [], 0  # noqa: S311 - noise
    for scale in job.scales:
        height, width = scaled(3072, 4096, scale.size)
        for done in range(scale.iterations + 1):
            is_end = scale == job.scales[-1] and done == scale.iterations
            weight = 3.2 if done == 0 else 1.6 if is_end else 1
            taken_s = weight * 5e-6 * (height * width + offset_px) * rng.uniform(0.9, 1.1)
            steps.append(
                (SimpleNamespace(size_px=scale.size, iteration=before + done, painting=is_end or None), taken_s)
            )
        before += scale.iterations
    lefts = [*accumulate([taken_s for _, taken_s in reversed(steps)], initial=0.0)][::-1]
    pace: Any = Pace(job, known)
    yield -1, pace.eta_s(), lefts[0]
    for number, ((step, taken_s), left_s) in enumerate(zip(steps, lefts[1:], strict=True)):
        if number >= resumed:
            pace.add(step, taken_s, warm=number > resumed)
            yield step.iteration, pace.eta_s(step), left_s
    pace.learn()


def _errors(followed: Iterator[tuple[int, float | None, float]], first: int) -> list[float]:
    """Give the shares by which the estimates are wrong, from an iteration on."""
    found = [(eta_s, left_s) for iteration, eta_s, left_s in followed if iteration >= first and left_s]
    assert all(eta_s is not None and eta_s >= 0 for eta_s, _ in found)
    return [abs(eta_s - left_s) / left_s for eta_s, left_s in found if eta_s is not None]


def test_the_first_job_is_known_from_its_tenth_iteration_on() -> None:
    """None before the second step; then no estimate is wrong by 15 %, of sizes to come either."""
    known: Any = {}
    start = [eta_s for iteration, eta_s, _ in _followed(_job(), {}) if iteration < 1]
    assert start == [None, None]
    assert max(_errors(_followed(_job(), known), 10)) < 0.15
    assert known


@pytest.mark.parametrize("offset_px", [0, 50_000, 500_000])
def test_a_later_job_is_known_before_it_starts(offset_px: int) -> None:
    """Whatever a step costs beside its pixels: at all sizes measured, and at one between two of them."""
    known: Any = {}
    list(_followed(_job(), known, offset_px))
    for size in (4096, 2048, 3000):
        assert max(_errors(_followed(_job(size), known, offset_px), -1)) < 0.15


def test_the_speed_of_the_moment_counts_at_once() -> None:
    """On a machine that became three times slower the estimates of all sizes follow within ten steps."""
    known: Any = {}
    list(_followed(_job(), known))
    slower: Any = {kind: {key: rate / 3 for key, rate in rates.items()} for kind, rates in known.items()}
    assert max(_errors(_followed(_job(), slower), 10)) < 0.15


def test_a_resumed_job_measures_only_its_own_steps() -> None:
    """Whether it resumes within a size or at its beginning, the second step of its own tells the time left."""
    for resumed in (20, 57, 120):
        _start, _first, *later = _followed(_job(), {}, resumed=resumed)
        assert max(_errors(iter(later[2:]), 0)) < 0.15


def test_the_last_step_leaves_nothing_and_an_other_method_is_not_known() -> None:
    """A method's speed says nothing of another's; tiles at the last size take longer."""
    known: Any = {}
    *_, (_, eta_s, _) = _followed(_job(), known)
    assert eta_s == 0.0
    assert Pace(_job(optimizer="adam"), known).eta_s() is None
    whole_s, tiled_s = Pace(_job(), known).eta_s(), Pace(_job(), known, tiled=True).eta_s()
    assert whole_s is not None
    assert tiled_s is not None
    assert tiled_s > 1.4 * whole_s
