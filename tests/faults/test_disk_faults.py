"""A disk that fails at any operation: nothing is lost or shown half, and the service comes to itself."""

from __future__ import annotations

import errno
import itertools
from typing import TYPE_CHECKING

import pytest
from support.kills import CASES, Sweep

if TYPE_CHECKING:
    from collections import Counter
    from collections.abc import Callable

    from support.kills import Stage

    Make = Callable[..., Stage]

CODES = {name: getattr(errno, name) for name in ("ENOSPC", "EIO", "EACCES", "EXDEV")}
EVERYDAY_STRIDES = {"painted": 13, "two and a faulty one": 43}  # every n-th operation each day


def _finish(sweep: Sweep, tried: Counter[str]) -> None:
    tried.update(sweep.tried)
    sweep.assert_unbroken()
    assert sweep.tried["errors"] > 4


@pytest.mark.parametrize("code", CODES)
@pytest.mark.parametrize("case", CASES)
def test_a_failed_operation_loses_nothing(case: str, code: str, make_stage: Make, tried: Counter[str]) -> None:
    """Whichever operation fails once, the invariant holds and every drop comes to its end without a restart."""
    kinds, script = CASES[case]
    sweep = Sweep(make_stage(kinds), *script)
    stride = EVERYDAY_STRIDES.get(case, 17)
    sweep.fail(itertools.count(list(CODES).index(code), stride), CODES[code])
    _finish(sweep, tried)


@pytest.mark.parametrize("code", CODES)
def test_a_disk_that_fails_for_a_while_loses_nothing(code: str, make_stage: Make, tried: Counter[str]) -> None:
    """Nor does a disk that fails several times in a row: what is tried again and again comes to an end."""
    sweep = Sweep(make_stage("p"))
    sweep.fail(itertools.count(list(CODES).index(code), 17), CODES[code], length=5)
    _finish(sweep, tried)


def test_an_error_after_a_share_has_done_it_loses_nothing(make_stage: Make, tried: Counter[str]) -> None:
    """A share whose answer is lost, so that what was done counts as failed, has nothing lost or done twice."""
    stage = make_stage("p")
    labels = [label.split() for label in Sweep(stage).labels()]  # "7: fsync /outbox"
    numbers = [int(label[0].strip(":")) for label in labels if label[-1].startswith(("/inbox", "/outbox"))]
    sweep = Sweep(stage)
    sweep.fail(numbers[::3], errno.EIO, moment="after")
    _finish(sweep, tried)


def test_recovery_needs_no_room(make_stage: Make, tried: Counter[str]) -> None:
    """After whatever kill, a start on a full disk succeeds, loses nothing, and goes on once there is room."""
    sweep = Sweep(make_stage("p"))
    sweep.kill_and_fill()
    tried.update(sweep.tried)
    sweep.assert_unbroken()
    assert sweep.tried["starts without room"] > 40


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("length", [1, 5, 30])
@pytest.mark.parametrize("code", CODES)
@pytest.mark.parametrize("case", CASES)
def test_every_failed_operation_loses_nothing(
    case: str, code: str, length: int, make_stage: Make, tried: Counter[str]
) -> None:
    """The same for every single operation, and for a disk that stays as it is for a while."""
    if code == "EXDEV" and length > 1:
        pytest.skip("an outbox that says so again and again is taken at its word")
    kinds, script = CASES[case]
    sweep = Sweep(make_stage(kinds), *script)
    sweep.fail(itertools.count(), CODES[code], length=length)
    _finish(sweep, tried)


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("code", CODES)
def test_every_failed_operation_loses_nothing_of_five_jobs(
    code: str, make_stage: Make, tried: Counter[str]
) -> None:
    """The same for five jobs, for every single operation."""
    sweep = Sweep(make_stage("ppppp", frames={"every": 0}, iterations=1))
    sweep.fail(itertools.count(), CODES[code])
    _finish(sweep, tried)


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("code", CODES)
def test_every_failed_operation_after_every_kill_loses_nothing(
    code: str, make_stage: Make, tried: Counter[str]
) -> None:
    """The same for every operation of what follows a kill, each error after its share of the kills."""
    sweep = Sweep(make_stage("p"))
    sweep.kill_and_fail(CODES[code], len(CODES), list(CODES).index(code))
    _finish(sweep, tried)
