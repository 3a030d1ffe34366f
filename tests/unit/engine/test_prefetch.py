"""One thing made ready beside the work: for the request that was hinted at last, and for no other."""

from __future__ import annotations

import threading
import weakref
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
from support.trees import save, wait_for

from daemon.engine.prefetch import Prefetcher
from daemon.job import Request, Style
from daemon.settings import Settings

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    Ask = Callable[[str], Request]


class Kitchen:
    """Makes things ready, and counts how many are made at once."""

    def __init__(self) -> None:
        self.gate = threading.Event()
        self.gate.set()
        self.begun: list[str] = []
        self.most_at_once = 0
        self._at_once = 0
        self.prefetcher = Prefetcher(self._make)

    def _make(self, request: Request) -> str:
        self._at_once += 1
        self.most_at_once = max(self.most_at_once, self._at_once)
        name = request.content.name
        self.begun.append(name)
        assert self.gate.wait(30)
        self._at_once -= 1
        if name == "bad.png":
            raise MemoryError
        return f"{name} in {threading.current_thread().name}"


@pytest.fixture
def kitchen() -> Kitchen:
    """Nothing is made ready yet."""
    return Kitchen()


@pytest.fixture
def ask(tmp_path: Path) -> Ask:
    """Make requests, each for a picture of its own."""
    style = save(tmp_path / "style.png", 1)

    def make(name: str) -> Request:
        return Request(save(tmp_path / name, 2), (Style(style),), None, Settings())

    return make


def test_what_was_made_is_handed_out_once(kitchen: Kitchen, ask: Ask) -> None:
    """The very request gets it, made in another thread and only once however often it was hinted at."""
    request = ask("a.png")
    kitchen.prefetcher.begin(request)
    kitchen.prefetcher.begin(replace(request, frames=frozenset({3})))
    assert kitchen.prefetcher.take(request) == "a.png in prefetch_0"
    assert kitchen.begun == ["a.png"]
    assert kitchen.prefetcher.take(request) is None


def test_who_comes_early_waits(kitchen: Kitchen, ask: Ask) -> None:
    """Asked for while it is still being made, it is waited for and not made twice."""
    request, found = ask("a.png"), []
    kitchen.gate.clear()
    kitchen.prefetcher.begin(request)
    wait_for(lambda: kitchen.begun, "the work to begin")
    taker = threading.Thread(target=lambda: found.append(kitchen.prefetcher.take(request)))
    taker.start()
    taker.join(0.05)
    assert taker.is_alive()
    kitchen.gate.set()
    taker.join(30)
    assert found == ["a.png in prefetch_0"]
    assert kitchen.begun == ["a.png"]


def test_nothing_of_another_request_is_handed_out(kitchen: Kitchen, ask: Ask) -> None:
    """Another request gets nothing, and what was made is dropped."""
    one, other = ask("a.png"), ask("b.png")
    kitchen.prefetcher.begin(one)
    assert kitchen.prefetcher.take(other) is None
    assert kitchen.prefetcher.take(one) is None


def test_the_last_hint_counts_and_two_never_work_at_once(kitchen: Kitchen, ask: Ask) -> None:
    """Of hints that come while one is being made only the last is made, after it."""
    requests = [ask(name) for name in ("a.png", "b.png", "c.png", "d.png")]
    kitchen.gate.clear()
    kitchen.prefetcher.begin(requests[0])
    wait_for(lambda: kitchen.begun, "the work to begin")
    for request in requests[1:]:
        kitchen.prefetcher.begin(request)
    kitchen.gate.set()
    assert kitchen.prefetcher.take(requests[-1]) == "d.png in prefetch_0"
    assert kitchen.begun == ["a.png", "d.png"]
    assert kitchen.most_at_once == 1


def test_one_that_is_not_taken_is_waited_for(kitchen: Kitchen, ask: Ask) -> None:
    """A hint that comes while a dropped one is still being made is made after it, whatever came between."""
    one, other, last = ask("a.png"), ask("b.png"), ask("c.png")
    kitchen.gate.clear()
    kitchen.prefetcher.begin(one)
    wait_for(lambda: kitchen.begun, "the work to begin")
    assert kitchen.prefetcher.take(other) is None
    kitchen.prefetcher.begin(other)
    assert kitchen.prefetcher.take(one) is None
    kitchen.prefetcher.begin(last)
    threading.Timer(0.1, kitchen.gate.set).start()
    assert kitchen.prefetcher.take(last) == "c.png in prefetch_0"
    assert kitchen.begun == ["a.png", "c.png"]
    assert kitchen.most_at_once == 1


def test_what_was_dropped_while_it_was_made_is_not_kept(kitchen: Kitchen, ask: Ask) -> None:
    """Nothing holds what nobody will take: it may be as large as a picture's whole memory."""
    made: list[weakref.ref[Meal]] = []

    class Meal:
        pass

    begun = threading.Event()

    def cook(_request: Request) -> Meal:
        begun.set()
        assert kitchen.gate.wait(30)
        meal = Meal()
        made.append(weakref.ref(meal))
        return meal

    prefetcher = Prefetcher(cook)
    kitchen.gate.clear()
    prefetcher.begin(ask("a.png"))
    assert begun.wait(30)
    assert prefetcher.take(ask("b.png")) is None
    kitchen.gate.set()
    last = ask("c.png")
    prefetcher.begin(last)
    meal = prefetcher.take(last)
    assert meal is not None
    assert [ref() for ref in made] == [None, meal]


def test_whatever_goes_wrong_is_forgotten(kitchen: Kitchen, ask: Ask) -> None:
    """An error in making leaves nothing to hand out, and does no harm to the next hint."""
    bad, good = ask("bad.png"), ask("good.png")
    kitchen.prefetcher.begin(bad)
    assert kitchen.prefetcher.take(bad) is None
    kitchen.prefetcher.begin(good)
    assert kitchen.prefetcher.take(good) == "good.png in prefetch_0"


def test_files_that_changed_are_another_request(kitchen: Kitchen, ask: Ask) -> None:
    """A rewritten picture of the same name is not the one made ready, and neither is one that is gone."""
    request = ask("a.png")
    kitchen.prefetcher.begin(request)
    wait_for(lambda: kitchen.begun, "the work to begin")
    request.content.unlink()
    kitchen.prefetcher.begin(request)
    save(request.content, 5, 40, 40)
    assert kitchen.prefetcher.take(request) is None
