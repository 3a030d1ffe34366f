"""Memory that is short, on the real engine: by tiles from the start, or after it ran out; the same picture."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import tensorflow as tf
from support.trees import save

from daemon import config
from daemon.engine.local import LocalEngine
from daemon.errors import EngineError, Reason
from daemon.job import Request
from daemon.settings import Settings
from daemon.transfer import memory, painter
from daemon.transfer.program import Program, TiledProgram
from daemon.transfer.run import Run
from daemon.transfer.targets import Subject

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from daemon.job import Step

TINY_MB = 1  # nothing fits, so that the smallest tiles are taken
KEYS = {"size": 288, "iterations": 3, "scales": [{"size": 48, "iterations": 3}], "frames": {"every": 0}}


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> LocalEngine:
    """A loaded engine in float32."""
    made = LocalEngine(
        config.build({"engine": {"precision": "float32"}}, tmp_path_factory.mktemp("engine"), environment={})
    )
    made.start()
    return made


@pytest.fixture(scope="module")
def ask(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Request]:
    """Ask for a picture that takes two tiles of 256 px."""
    folder: Path = tmp_path_factory.mktemp("pictures")
    content, style = save(folder / "c.png", 1, 288, 96), save(folder / "s.png", 2, 96, 96)

    def request(**more: Any) -> Request:
        return Request(content, ((style, 1.0),), None, Settings.model_validate(KEYS), **more)

    return request


@pytest.fixture(scope="module")
def whole(engine: LocalEngine, ask: Callable[..., Request]) -> list[Step]:
    """The steps of the picture in one piece."""
    return list(engine.stylize(ask()))


def losses(steps: list[Step]) -> list[float]:
    """Take the totals."""
    return [step.losses.total for step in steps]


def test_a_picture_beyond_its_limit_is_painted_by_tiles(
    engine: LocalEngine, ask: Callable[..., Request], whole: list[Step]
) -> None:
    """Under a limit that nothing fits, the steps are those of the whole picture to rounding, and say how."""
    steps = list(engine.stylize(ask(memory_limit_mb=TINY_MB)))
    assert whole[-1].painting
    assert whole[-1].painting.computed == "whole"
    assert steps[-1].painting
    assert steps[-1].painting.computed.startswith("tiles of")
    assert losses(steps) == pytest.approx(losses(whole), rel=1e-3)
    difference = steps[-1].painting.picture.astype(int) - whole[-1].painting.picture
    assert np.abs(difference).mean() < 1


def test_memory_that_runs_out_over_a_checkpoint_is_told_at_the_first_new_step(
    engine: LocalEngine, ask: Callable[..., Request], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not at a step from the record, which nobody looks at, but at its last, shown anew; and once."""
    request, goes_on = ask(checkpoints=tmp_path), iter([False, False])
    taken = len(list(engine.stylize(request, lambda: next(goes_on, True))))
    real, due = Run._restore, iter([True])

    def failing(self: Run) -> None:
        if next(due, False):
            raise tf.errors.ResourceExhaustedError(None, None, "no memory")
        real(self)

    monkeypatch.setattr(Run, "_restore", failing)
    steps = list(engine.stylize(request))
    assert [step.is_replayed for step in steps[:taken]] == [True, True, False]
    assert [number for number, step in enumerate(steps) if "memory ran out" in step.trouble] == [taken - 1]


def test_memory_that_runs_out_is_freed_then_the_picture_goes_on_by_tiles(
    engine: LocalEngine, ask: Callable[..., Request], whole: list[Step], monkeypatch: pytest.MonkeyPatch
) -> None:
    """No step is told twice, and each thing done about it is told once."""
    real, calls = Program.__init__, []

    def init(self: Program, *args: Any) -> None:
        real(self, *args)
        step = self.step

        def failing(*inputs: Any) -> Any:
            calls.append(1)
            if len(calls) > 5:
                raise tf.errors.ResourceExhaustedError(None, None, "no memory")
            return step(*inputs)

        self.step = failing

    monkeypatch.setattr(Program, "__init__", init)
    monkeypatch.setattr(engine._painter, "_programs", {})
    steps = list(engine.stylize(ask()))
    assert [step.iteration for step in steps] == [step.iteration for step in whole]
    assert losses(steps) == pytest.approx(losses(whole), rel=1e-3)
    told = [step.trouble for step in steps if step.trouble]
    assert told == ["memory ran out; going on: tiles of 1024 px"]
    assert steps[-1].painting
    assert steps[-1].painting.computed == "tiles of 1024 px"


def test_memory_that_is_never_enough_is_an_engine_error(
    engine: LocalEngine, ask: Callable[..., Request], monkeypatch: pytest.MonkeyPatch
) -> None:
    """At the end of the ladder the attempt ends as out of memory."""

    def exhausted(*_: Any) -> None:
        raise tf.errors.ResourceExhaustedError(None, None, "no memory")

    monkeypatch.setattr(Program, "_step", exhausted)
    monkeypatch.setattr(TiledProgram, "step", exhausted)
    monkeypatch.setattr(engine._painter, "_programs", {})
    with pytest.raises(EngineError) as caught:
        list(engine.stylize(ask()))
    assert caught.value.reason is Reason.OUT_OF_MEMORY


@pytest.mark.parametrize("place", ["targets", "enlarged", "first loss", "a picture", "last picture"])
def test_memory_that_runs_out_between_two_sizes_loses_no_step(
    place: str,
    engine: LocalEngine,
    ask: Callable[..., Request],
    whole: list[Step],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Wherever it runs out, every step is told once, and the last one carries the painting."""
    failures = iter([True])

    def fail_once(real: Callable[..., Any], is_due: Callable[..., bool]) -> Callable[..., Any]:
        def failing(*inputs: Any, **more: Any) -> Any:
            if is_due(*inputs) and next(failures, False):
                raise tf.errors.ResourceExhaustedError(None, None, "no memory")
            return real(*inputs, **more)

        return failing

    holder, name, is_due = {
        "targets": (painter, "targets", lambda _program, _subject, leg, _kept: leg.longest == 288),
        "enlarged": (Subject, "enlarged", lambda *_: True),
        "first loss": (
            engine._painter.program(Settings.model_validate(KEYS)),
            "step",
            lambda image, *_: image.shape[1] == 288,
        ),
        "a picture": (Run, "_shown", lambda _, row: row.iteration == 4),
        "last picture": (Run, "_painting", lambda *_: True),
    }[place]
    monkeypatch.setattr(holder, name, fail_once(getattr(holder, name), is_due))
    steps = list(engine.stylize(ask()))
    assert [step.iteration for step in steps] == [step.iteration for step in whole]
    assert losses(steps) == pytest.approx(losses(whole), rel=1e-3)
    assert [bool(step.painting) for step in steps] == [False] * (len(whole) - 1) + [True]
    assert not any(step.is_replayed for step in steps)


def test_memory_that_runs_out_while_a_state_is_taken_over_begins_anew(
    engine: LocalEngine, ask: Callable[..., Request], whole: list[Step], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Half a state is none: the steps are taken once more by tiles, and none is told twice."""
    program = engine._painter.program(Settings.model_validate(KEYS))
    step, identity, large = program.step, tf.identity, iter([False, False, True])
    due = iter([True])

    def failing_step(image: Any, *more: Any) -> Any:
        if image.shape[1] == 288 and next(large, False):
            monkeypatch.setattr(tf, "identity", failing_identity)
            raise tf.errors.ResourceExhaustedError(None, None, "no memory")
        return step(image, *more)

    def failing_identity(value: Any, *more: Any, **named: Any) -> Any:
        if np.shape(value)[-1:] == (3,) and next(due, False):
            raise MemoryError
        return identity(value, *more, **named)

    monkeypatch.setattr(program, "step", failing_step)
    steps = list(engine.stylize(ask()))
    assert next(due, False) is False
    assert [step.iteration for step in steps] == [step.iteration for step in whole]
    assert losses(steps) == pytest.approx(losses(whole), rel=1e-3)
    assert steps[-1].painting
    assert steps[-1].painting.computed == "tiles of 1024 px"


@pytest.mark.parametrize(
    ("spare_mb", "is_decoded", "is_prepared"), [(-800, False, False), (1, True, False), (100, True, True)]
)
def test_the_next_job_is_made_ready_only_where_there_is_room_for_it(
    spare_mb: float, engine: LocalEngine, ask: Callable[..., Request], *, is_decoded: bool, is_prepared: bool
) -> None:
    """What the limit leaves beside the running picture decides what of the next one is made ready."""
    works = memory.works(Settings.model_validate(KEYS), (288, 96), [(96, 96)], engine.start())
    whole_mb = max(memory.estimate_mb(work, memory.WHOLE) for work in works)
    limit_mb = round(memory.MARGIN * (whole_mb + spare_mb) + 0.5)
    with contextlib.closing(engine.stylize(ask(memory_limit_mb=limit_mb))) as painting:
        next(painting)
        with contextlib.nullcontext() if is_decoded else pytest.raises(MemoryError):
            ready = engine._make_ready(ask())
            assert (ready.prepared is not None) is is_prepared
