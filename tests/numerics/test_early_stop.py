"""Leaving a size early: when, with what, and only where it was asked for."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from daemon.engine.session import has_settled
from daemon.settings import EarlyStop, Settings

if TYPE_CHECKING:
    from collections.abc import Callable

    import numpy as np

    from daemon.job import Step

    Paint = Callable[..., list[Step]]

RULE: dict[str, Any] = {"improvement": 0.2, "iterations": 3}
NARROW: dict[str, Any] = {"improvement": 0.1, "iterations": 3}  # which the narrow network's losses meet
LBFGS: dict[str, Any] = {"optimizer": "lbfgs", "objective": "balanced", "content_layers": ["block4_conv2"]}


def stop(totals: list[float], improvement: float, iterations: int) -> int | None:
    """Tell the first picture after which the best loss had fallen by less than a share, by plain loops."""
    bests: list[float] = []
    for number, total in enumerate(totals):
        bests.append(total if not bests else min(bests[-1], total))
        if number >= iterations:
            gained = bests[number - iterations] - bests[number]
            if gained < improvement * bests[number - iterations]:
                return number
    return None


@given(
    st.lists(st.integers(1, 1000).map(float), max_size=30),
    st.sampled_from([0.0078125, 0.125, 0.5]),  # whose products with whole numbers are exact
    st.integers(1, 12),
)
def test_a_size_has_settled_where_a_plain_loop_says_so(
    totals: list[float], improvement: float, iterations: int
) -> None:
    """For any losses, shares and spans, the first settled picture is the plain loop's."""
    rule = EarlyStop(improvement=improvement, iterations=iterations)
    settled = [number for number in range(len(totals)) if has_settled(totals[: number + 1], rule)]
    assert next(iter(settled), None) == stop(totals, improvement, iterations)


@pytest.mark.parametrize(
    ("totals", "is_settled"),
    [
        ([], False),
        ([100.0], False),
        ([100.0, 100.0, 100.0], False),  # two iterations only
        ([100.0, 100.0, 100.0, 100.0], True),
        ([100.0, 95.0, 90.0, 80.0], False),  # a fifth, and no less
        ([100.0, 95.0, 90.0, 80.1], True),
        ([100.0, 70.0, 99.0, 99.0], False),  # the best counts
        ([100.0, 70.0, 99.0, 99.0, 60.0], True),
        ([100.0, 150.0, 150.0, 150.0], True),
    ],
)
def test_examples(totals: list[float], *, is_settled: bool) -> None:
    """A fifth of the best loss within three iterations keeps a size going, and less ends it."""
    assert has_settled(totals, EarlyStop(**RULE)) == is_settled


def test_it_is_off_by_default(paint: Paint) -> None:
    """Without the key every iteration is made, however little it gains."""
    assert Settings().early_stop is False
    steps = paint(iterations=6, learning_rate=1e-6)
    assert stop([step.losses.total for step in steps], **RULE) == 3
    assert len(steps) == 7


def test_a_run_ends_once_it_has_settled(paint: Paint, picture: Callable[..., np.ndarray]) -> None:
    """The last step is the first settled one, has the painting, and is what the long run has at that place."""
    whole = paint(iterations=30, **LBFGS)
    expected = stop([step.losses.total for step in whole], **NARROW)
    assert expected is not None
    assert 3 < expected < 29
    steps = paint(iterations=30, early_stop=NARROW, **LBFGS)
    assert [step.losses for step in steps] == [step.losses for step in whole[: expected + 1]]
    assert [step.painting is not None for step in steps] == [False] * expected + [True]
    assert {step.iterations for step in steps} == {30}
    painting = steps[-1].painting
    assert painting.last == steps[-1].losses
    assert painting.first == steps[0].losses
    best = min(steps, key=lambda step: step.losses.total)
    assert (painting.best_iteration, painting.best) == (best.iteration, best.losses)
    assert (painting.picture == best.picture).all()


def test_each_size_is_left_by_its_own_losses(paint: Paint) -> None:
    """A coarse size is left when it has settled, and the final one begins from it and counts from 0 again."""
    scales: dict[str, Any] = {**LBFGS, "size": 40, "iterations": 25, "scales": [{"size": 28, "iterations": 30}]}
    steps = paint(**scales, early_stop=NARROW)
    for size_px, planned in ((28, 30), (40, 25)):
        totals = [step.losses.total for step in steps if step.size_px == size_px]
        assert stop(totals, **NARROW) == len(totals) - 1 < planned
    assert [step.painting is not None for step in steps] == [False] * (len(steps) - 1) + [True]
    assert steps[-1].painting.picture.shape == (30, 40, 3)
    numbers = [step.iteration for step in steps]
    assert numbers == sorted(numbers)
    assert steps[-1].painting.best_iteration in numbers


def test_a_rule_that_is_never_met_changes_nothing(paint: Paint) -> None:
    """A share that is always gained takes nothing from the way, to the bit."""
    plain = paint(iterations=4)
    ruled = paint(iterations=4, early_stop={"improvement": 1e-6, "iterations": 2})
    assert [step.losses for step in ruled] == [step.losses for step in plain]
    assert ruled[-1].painting is not None
