"""Memory that is short, on the narrow network: tiles from the start, or after it ran out; the same picture."""

from __future__ import annotations

import contextlib
import gc
import weakref
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import tensorflow as tf
from support.fakes import AskedLife, steps_of
from support.narrow_vgg import narrow_engine
from support.trees import save

from daemon import config
from daemon.engine import local, memory, session
from daemon.engine.local import LocalEngine
from daemon.engine.session import Session
from daemon.errors import EngineError, Reason
from daemon.job import Plan, Request, Style
from daemon.settings import Settings

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from daemon.job import Step

    Ask = Callable[..., Request]
    Limit = Callable[[int], None]

KEYS = {"size": 288, "iterations": 3, "scales": [{"size": 48, "iterations": 3}], "frames": {"every": 0}}


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> LocalEngine:
    """A loaded engine in float32."""
    return narrow_engine(tmp_path_factory.mktemp("engine"))


@pytest.fixture
def limit(monkeypatch: pytest.MonkeyPatch) -> Limit:
    """Set how many MB the machine has for the engine."""
    return lambda limit_mb: monkeypatch.setattr(local.memory, "available_mb", lambda _held_mb: limit_mb)


@pytest.fixture(scope="module")
def ask(tmp_path_factory: pytest.TempPathFactory) -> Ask:
    """Ask for a picture that takes two tiles of 256 px."""
    folder: Path = tmp_path_factory.mktemp("pictures")
    content, style = save(folder / "c.png", 1, 288, 96), save(folder / "s.png", 2, 96, 96)

    def request(**more: Any) -> Request:
        return Request(content, (Style(style),), None, Settings.model_validate(KEYS), **more)

    return request


@pytest.fixture(scope="module")
def whole(engine: LocalEngine, ask: Ask) -> list[Step]:
    """The steps of the picture in one piece."""
    return list(steps_of(engine, ask()))


def losses(steps: list[Step]) -> list[float]:
    """Take the totals."""
    return [step.losses.total for step in steps]


def exhausted(*_: Any, **__: Any) -> None:
    """Run out of memory."""
    raise tf.errors.ResourceExhaustedError(None, None, "no memory")


def test_the_plan_comes_first_and_is_kept(
    engine: LocalEngine, ask: Ask, whole: list[Step], limit: Limit
) -> None:
    """Under a limit that nothing fits, plan and picture name tiles; the losses are the same to rounding."""
    limit(1)
    plan, *steps = engine.stylize(ask())
    assert isinstance(plan, Plan)
    assert plan.memory_estimate_mb is not None
    assert plan.is_smallest
    assert plan.warning.startswith("memory may run out: ")
    assert " 1 MB to be had" in plan.warning
    assert whole[-1].painting.computed == "whole"
    assert steps[-1].painting.computed == plan.computed == "tiles of 256 px"
    assert losses(steps) == pytest.approx(losses(whole), rel=1e-3)
    difference = steps[-1].painting.picture.astype(int) - whole[-1].painting.picture
    assert np.abs(difference).mean() < 1


def test_a_smaller_way_is_taken_where_the_estimate_fits(engine: LocalEngine, ask: Ask, limit: Limit) -> None:
    """After an attempt that ran out of memory the next plan is smaller, whatever the estimate says."""
    limit(100_000)
    found = [next(engine.stylize(ask(smaller=smaller))) for smaller in (0, 1, 2)]
    assert [plan.computed for plan in found] == ["whole", "tiles of 256 px", "tiles of 256 px"]
    assert [plan.is_smallest for plan in found] == [False, True, True]


def test_the_limit_of_the_config_goes_before_what_the_machine_has(
    ask: Ask, tmp_path: Path, limit: Limit
) -> None:
    """`engine.memory_limit_mb` is what the plan is made for."""
    limit(1)
    options = {"precision": "float32", "memory_limit_mb": 100_000}
    bounded = LocalEngine(config.build({"engine": options}, tmp_path, environment={}))
    plan = next(bounded.stylize(ask()))
    assert (plan.computed, plan.warning) == ("whole", "")


def test_memory_that_runs_out_ends_the_attempt_and_frees_what_it_held(
    engine: LocalEngine, ask: Ask, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The error has its own reason, nothing is tried again, and the picture's tensors are gone with it."""
    held, begin = [], Session.steps

    def steps(self: Session, *more: Any) -> Any:
        held.append(weakref.ref(self))
        return begin(self, *more)

    monkeypatch.setattr(Session, "steps", steps)
    monkeypatch.setattr(session, "descend", exhausted)
    attempt = engine.stylize(ask())
    assert isinstance(next(attempt), Plan)
    with pytest.raises(EngineError, match="memory ran out: no memory") as caught:
        next(attempt)
    assert caught.value.reason is Reason.OUT_OF_MEMORY
    gc.collect()
    assert [run() for run in held] == [None]


def test_the_next_attempt_resumes_from_the_checkpoint_by_smaller_tiles(
    engine: LocalEngine, ask: Ask, whole: list[Step], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was computed in one piece is replayed, and the rest by tiles gives the same picture."""
    request = ask(checkpoints=tmp_path / "ckpt")
    answers = iter([False] * 5)
    done = list(steps_of(engine, request, AskedLife(lambda: next(answers, True))))
    with monkeypatch.context() as patch:
        patch.setattr(session, "descend", exhausted)
        with pytest.raises(EngineError):
            list(steps_of(engine, request))
    steps = list(steps_of(engine, replace(request, smaller=1)))
    assert [step.is_replayed for step in steps] == [True] * len(done) + [False] * (len(whole) - len(done))
    assert losses(steps) == pytest.approx(losses(whole), rel=1e-3)
    assert steps[-1].painting.computed == "tiles of 256 px"


@pytest.mark.parametrize(
    ("spare_mb", "is_decoded", "is_prepared"), [(-800, False, False), (1, True, False), (100, True, True)]
)
def test_the_next_job_is_made_ready_only_where_there_is_room_for_it(
    spare_mb: float, engine: LocalEngine, ask: Ask, limit: Limit, *, is_decoded: bool, is_prepared: bool
) -> None:
    """What the limit leaves beside the running picture decides what of the next one is made ready."""
    job = memory.works(Settings.model_validate(KEYS), (288, 96), [((96, 96), 1.0)], engine.start())
    whole_mb = max(memory.estimate_mb(work, memory.TILE_SIZES[0]) for work in job)
    limit(round(memory.MARGIN * (whole_mb + spare_mb) + 0.5))
    with contextlib.closing(engine.stylize(ask())) as painting:
        next(painting)
        with contextlib.nullcontext() if is_decoded else pytest.raises(MemoryError):
            ready = engine.make_ready(ask())
            assert (ready.prepared is not None) is is_prepared
