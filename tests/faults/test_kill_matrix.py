"""SIGKILL before, during and after every operation, and once more in all that follows: nothing is lost.

The invariant is checked on every disk that a kill can leave, and again after a new start worked it off. The
everyday run resumes from a sample of these disks; `-m slow` from all of them, but for those of five jobs, and
prints at its end how many points that were.
"""

from __future__ import annotations

import contextlib
import time
from typing import TYPE_CHECKING, Any

import pytest
from support.fakes import Clock, Disk, FakeEngine, Killed
from support.kills import CASES, Sweep, key_of
from support.trees import Stepper

if TYPE_CHECKING:
    from collections import Counter
    from collections.abc import Callable

    from support.kills import Stage

    Make = Callable[..., Stage]


FIVE_STRIDE = 24  # all pairs of kills of five jobs take two hours


@pytest.mark.parametrize("case", CASES)
def test_a_kill_loses_nothing(case: str, make_stage: Make, tried: Counter[str]) -> None:
    """Whichever operation the process dies at, the invariant holds, and a new start does each drop once."""
    kinds, script = CASES[case]
    _kill(make_stage(kinds), script, tried, stride=3 * len(kinds))


@pytest.mark.parametrize(
    ("jobs", "stride", "again"),
    [
        (1, 4, 9),
        pytest.param(2, 16, 60, marks=pytest.mark.nightly),
        pytest.param(5, 150, 300, marks=pytest.mark.nightly),
    ],
)
def test_a_second_kill_loses_nothing(
    jobs: int, stride: int, again: int, make_stage: Make, tried: Counter[str]
) -> None:
    """Nor does a second death, at any operation of the recovery and the run that follow."""
    _kill(make_stage("p" * jobs), (), tried, stride=stride, again=again)


@pytest.mark.parametrize(("stride", "again"), [(5, 30), pytest.param(2, 12, marks=pytest.mark.nightly)])
def test_a_kill_costs_one_step(stride: int, again: int, make_stage: Make, tried: Counter[str]) -> None:
    """With a checkpoint after each step, no kill has more than one step painted again."""
    stage = make_stage("p", frames={"every": 0}, iterations=5)
    _kill(stage, (), tried, stride=stride, again=again, steps_lost=1)


def _kill(stage: Stage, script: tuple[str, ...], tried: Counter[str], **options: Any) -> None:
    sweep = Sweep(stage, *script, steps_lost=options.pop("steps_lost", None))
    sweep.kill(**options)
    tried.update(sweep.tried)
    sweep.assert_unbroken()
    assert sweep.tried["kills"] > 4


@pytest.mark.parametrize("moment", ["before", "torn", "after"])
def test_the_disks_met_are_those_that_kills_leave(moment: str, make_stage: Make) -> None:
    """A process that is made to die at an operation leaves the very disk that a run to the end passed there."""
    stage = make_stage("f")
    run = Sweep(stage).first()
    passed = dict(run.points)
    names = {"before": "before", "torn": "during", "after": "after"}
    compared = 0
    while True:
        stage.put(stage.beginning)
        disk = Disk(stage.base, compared, moment=moment, is_kill=True)
        with Clock().attached(), disk.attached(), contextlib.suppress(Killed):
            Stepper(stage.tree.config, FakeEngine()).until_quiet()
        if not disk.has_struck:
            break
        left = stage.take()
        expected = passed.get(f"{names[moment]} {compared}", passed[f"before {compared}"])
        assert key_of(left) == expected, f"{disk.hit}: {sorted(set(left) ^ set(run.met[expected].still))}"
        compared += 1
    assert compared == sum(name.startswith("before") for name in passed) > 80


@pytest.mark.parametrize("moment", ["before", "torn", "after"])
@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")  # the frames' thread dies
def test_a_death_that_unwinds_the_stack_loses_nothing(
    moment: str, make_stage: Make, tried: Counter[str]
) -> None:
    """Clean-up code that runs on the way down, in a process whose disk is gone, does no harm either."""
    stage = make_stage("p")
    for number in range(0, 1000, 7):
        stage.put(stage.beginning)
        disk = Disk(stage.base, number, moment=moment, is_kill=True)
        with Clock().attached(), disk.attached(), contextlib.suppress(Killed):
            Stepper(stage.tree.config, FakeEngine()).until_quiet()
        if not disk.has_struck:
            break
        stage.tree.check()
        with Clock().attached(), Disk(stage.base).attached():
            Stepper(stage.tree.config, FakeEngine()).until_quiet()
        stage.tree.check(is_quiet=True)
        tried["kills"] += 1
    assert number > 140


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("case", [*CASES, "two painted"])
def test_every_pair_of_kills_loses_nothing(case: str, make_stage: Make, tried: Counter[str]) -> None:
    """The same for a death at every single operation, and a second one at every operation after it."""
    kinds, script = CASES.get(case, ("pp", ()))
    _kill(make_stage(kinds), script, tried, stride=1, again=1)


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("part", range(4))
def test_pairs_of_kills_lose_nothing_of_five_jobs(part: int, make_stage: Make, tried: Counter[str]) -> None:
    """The same for five jobs: a sixth of all first deaths each day, and every second death after these."""
    days = int(time.time()) // 86_400
    start = (days * 4 + part) % FIVE_STRIDE
    stage = make_stage("ppppp", frames={"every": 0}, iterations=1)
    _kill(stage, (), tried, stride=FIVE_STRIDE, again=1, start=start)
