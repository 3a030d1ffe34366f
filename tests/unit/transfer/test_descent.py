"""The descent: each picture with its own loss, and all that the next one depends on."""

from __future__ import annotations

import weakref
from typing import Any

from daemon.transfer.descent import descend


class Number:
    """Stands for a tensor, since a weak reference shows whether somebody holds it."""

    def __init__(self, value: int) -> None:
        self.value = value


class Halving:
    """A step whose loss is the picture, whose update halves it, and whose state counts the updates."""

    def __init__(self) -> None:
        self.states: list[weakref.ref[Number]] = []
        self.alive: list[list[int]] = []  # at each step: the states before its own that somebody holds

    def step(self, image: int, _targets: Any, state: Number) -> tuple[int, int, Number]:
        """Return the loss, the next picture and the next state."""
        self.alive.append([found.value for ref in self.states if (found := ref()) is not None])
        self.states.append(weakref.ref(state))
        return image, image // 2, Number(state.value + 1)

    def loss(self, image: int, _targets: Any) -> int:
        """Return the loss alone."""
        return image


def numbers(step: Halving, image: int, state: int, iterations: int, first: int = 0) -> list[tuple[Any, ...]]:
    """Descend, and take the numbers out of every iterate."""
    descent: Any = descend(step, None, image, Number(state), iterations, first=first)  # type: ignore[arg-type]
    return [(*iterate[:4], iterate.state.value) for iterate in descent]


def test_every_picture_comes_with_its_own_loss() -> None:
    """Picture 0 is the start, picture n has seen n updates; the last one costs a forward run and no update."""
    assert numbers(Halving(), 80, 0, 3) == [
        (0, 80, 80, 40, 1),
        (1, 40, 40, 20, 2),
        (2, 20, 20, 10, 3),
        (3, 10, 10, 10, 3),
    ]


def test_a_descent_can_resume_from_any_iterate() -> None:
    """From any iterate's next picture and state the rest is the same."""
    whole = numbers(Halving(), 80, 0, 3)
    for done, (iteration, _, _, moved, state) in enumerate(whole[:-1], start=1):
        assert numbers(Halving(), moved, state, 3, first=iteration + 1) == whole[done:]


def test_no_state_before_the_last_is_held() -> None:
    """While a step is computed, the states before its own are gone, although the caller holds an iterate."""
    step = Halving()
    numbers(step, 80, 0, 5)
    assert step.alive == [[]] * 5
