"""A disk that fails, and a process that dies, at any operation: nothing is lost, nothing is shown half."""

from __future__ import annotations

import contextlib
import itertools
from typing import TYPE_CHECKING

import pytest
from fakes import Disk, FakeEngine, Killed
from trees import Stepper

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from trees import Tree

# What is dropped, one job a letter (p is painted, f has a faulty sidecar), and what the engine does first.
CASES = {
    "painted": ("p", ()),
    "crashed once": ("p", ("crash",)),
    "crashed for good": ("p", ("crash",) * 3),
    "not paintable": ("p", ("job_error",)),
    "faulty": ("f", ()),
    "two and a faulty one": ("ppf", ()),
}
# Every so manieth operation each day; all of them with `-m slow`. Painting takes the time: the curve is drawn.
EVERYDAY_STRIDES = {"painted": 4, "crashed once": 11, "crashed for good": 4, "two and a faulty one": 23}


class _Run:
    """One case on one tree, with one fault."""

    def __init__(self, tree: Tree, case: str) -> None:
        kinds, self._script = CASES[case]
        self._tree = tree
        for number, kind in enumerate(kinds):
            tree.drop(f"{kind}{number}", **({"sise": 3} if kind == "f" else {}))

    def on_full_disk(self, first: int, length: int) -> bool:
        """Work everything off while operations from `first` on fail, `length` of them; then check."""
        stepper = Stepper(self._tree.config, FakeEngine(*self._script))
        with Disk(first, length=length).attached() as disk:
            stepper.until_quiet()
        stepper.until_quiet()
        self._tree.check(is_quiet=True)
        return disk.has_struck

    def killed(self, first: int) -> bool:
        """Die at operation `first`, start anew on what is there, work everything off; check at both ends."""
        with Disk(first, is_kill=True).attached() as disk, contextlib.suppress(Killed):
            Stepper(self._tree.config, FakeEngine(*self._script)).until_quiet()
        self._tree.check()
        Stepper(self._tree.config, FakeEngine()).until_quiet()
        self._tree.check(is_quiet=True)
        return disk.has_struck


def _sweep(make_run: Callable[[str], _Run], numbers: Iterable[int], act: Callable[[_Run, int], bool]) -> int:
    """Let one operation after the other fail, until the case ends before its fault; tell all that broke."""
    broken = []
    for number in numbers:
        try:
            has_struck = act(make_run(f"at-{number}"), number)
        except (Exception, Killed) as error:  # noqa: BLE001 - whatever it was, the others are tried too
            broken.append(f"operation {number}: {type(error).__name__}: {error}")
            continue
        if not has_struck:
            break
    assert not broken, f"{len(broken)} broke\n" + "\n".join(broken)
    return number


@pytest.fixture
def make_run(make_tree: Callable[[str], Tree]) -> Callable[[str], Callable[[str], _Run]]:
    """Make runs of one case, each on a tree of its own."""
    return lambda case: lambda name: _Run(make_tree(name), case)


@pytest.mark.parametrize("case", CASES)
def test_a_failed_operation_loses_nothing(case: str, make_run: Callable[[str], Callable[[str], _Run]]) -> None:
    """Whichever operation a full disk refuses once, the invariant holds and every drop comes to its end."""
    numbers = itertools.count(0, EVERYDAY_STRIDES.get(case, 1))
    assert _sweep(make_run(case), numbers, lambda run, number: run.on_full_disk(number, 1)) > 40


@pytest.mark.parametrize("case", CASES)
@pytest.mark.filterwarnings(
    "ignore::pytest.PytestUnhandledThreadExceptionWarning"
)  # the frames' thread dies too
def test_a_kill_loses_nothing(case: str, make_run: Callable[[str], Callable[[str], _Run]]) -> None:
    """Whichever operation the process dies at, the invariant holds, and a new start does each drop once."""
    numbers = itertools.count(2, EVERYDAY_STRIDES.get(case, 1))
    assert _sweep(make_run(case), numbers, lambda run, number: run.killed(number)) > 40


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("length", [1, 5, 30])
@pytest.mark.parametrize("case", CASES)
def test_every_failed_operation_loses_nothing(
    case: str, length: int, make_run: Callable[[str], Callable[[str], _Run]]
) -> None:
    """The same for every single operation, and for a disk that stays full for a while."""
    assert _sweep(make_run(case), itertools.count(), lambda run, number: run.on_full_disk(number, length)) > 40


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("case", CASES)
@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_every_kill_loses_nothing(case: str, make_run: Callable[[str], Callable[[str], _Run]]) -> None:
    """The same for a death at every single operation."""
    assert _sweep(make_run(case), itertools.count(), lambda run, number: run.killed(number)) > 40
