"""What is computed ahead for the next job, in another thread, changes nothing of its numbers."""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from daemon.engine.session import Painter, Previews
from daemon.errors import JobError
from daemon.job import Style
from daemon.presets import PRESETS
from daemon.settings import Frames, Settings
from daemon.transfer.scales import Subject

if TYPE_CHECKING:
    from collections.abc import Callable

    from daemon.job import Step
    from daemon.transfer.losses import Targets

    Order = Callable[..., Subject]
    Draw = Callable[..., np.ndarray]

JOBS: dict[str, dict[str, Any]] = {
    "paper": {**PRESETS["paper"], "size": 32, "iterations": 3},
    "default": {
        **PRESETS["default"],
        "size": 48,
        "iterations": 3,
        "scales": [{"size": 32, "iterations": 3}],
    },
}


@pytest.fixture
def order(picture: Draw) -> Order:
    """Make a named job of two blended styles."""

    def make(name: str, content: int = 0, **settings: Any) -> Subject:
        styles = [Style(picture(36, 28, 1), 2.0), Style(picture(30, 50, 2))]
        return Subject(picture(36, 48, content), styles, Settings.model_validate({**JOBS[name], **settings}))

    return make


def painted(painter: Painter, subject: Subject, prepared: Targets | None = None) -> list[Step]:
    """Paint, every picture wanted."""
    return list(painter.begin(subject, prepared=prepared).steps(Previews(Frames(every=1), time.monotonic())))


def assert_equal(found: list[Step], expected: list[Step]) -> None:
    """Rows and pictures are equal to the bit."""
    assert [(step.iteration, step.losses) for step in found] == [(s.iteration, s.losses) for s in expected]
    assert all(np.array_equal(a.picture, b.picture) for a, b in zip(found, expected, strict=True))


@pytest.mark.parametrize("name", JOBS)
def test_a_prepared_job_is_the_same_to_the_bit(
    painter: Painter, order: Order, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """Rows and pictures are those of the job without, and nothing of its first size is computed again."""
    subject = order(name)
    expected = painted(painter, subject)
    prepared = painter.prepare(subject)
    asked: list[tuple[int, ...]] = []
    step = painter.step(subject.settings)
    inner = step.content_features
    monkeypatch.setattr(step, "content_features", lambda image: asked.append(image.shape) or inner(image))
    assert_equal(painted(painter, subject, prepared), expected)
    assert [shape[1:3] for shape in asked] == [(scale.height, scale.width) for scale in subject.scales()[1:]]


def test_preparing_during_a_painting_disturbs_neither(painter: Painter, order: Order) -> None:
    """Another thread prepares while a picture is painted: both jobs are as they would be alone."""
    one, other = order("default"), order("default", content=3, strength=0.9)
    alone = painted(painter, one), painted(painter, other)
    made: list[Targets] = []
    run = painter.begin(one).steps(Previews(Frames(every=1), time.monotonic()))
    steps = [next(run)]
    thread = threading.Thread(target=lambda: made.append(painter.prepare(other)))
    thread.start()
    steps += run
    thread.join(60)
    assert_equal(steps, alone[0])
    assert_equal(painted(painter, other, made[0]), alone[1])


def test_what_cannot_be_painted_cannot_be_prepared(painter: Painter, picture: Draw) -> None:
    """A content too narrow is refused beforehand as it is later."""
    subject = Subject(picture(20, 200), [Style(picture(30, 30))], Settings.model_validate(JOBS["paper"]))
    with pytest.raises(JobError, match="200 x 20 px"):
        painter.prepare(subject)
