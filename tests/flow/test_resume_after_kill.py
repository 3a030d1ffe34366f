"""The real service, killed or stopped in the middle of a picture, resumes to the result of an unbroken one."""

from __future__ import annotations

import os
import signal
from typing import TYPE_CHECKING, Any

import pytest
from conftest import Live
from support.programs import is_gone
from support.trees import wait_for

from daemon import safe_yaml
from daemon.job import State

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from daemon.spool import StoredJob

ENGINE = {"device": "cpu", "precision": "float32", "checkpoint_s": 0.2}
EVERY = 5
SEA: dict[str, Any] = {"size": 64, "iterations": 80, "frames": {"every": EVERY}, "seed": 4}
ROWS = SEA["iterations"] + 1
MIDWAY = 30  # iterations after which it is struck


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Live]:
    """A service that paints the drop `sea` in a tree where nothing happens to it."""
    live = Live(tmp_path_factory.mktemp("unbroken"), engine=ENGINE)
    try:
        live.tree.drop("sea", **SEA)
        yield live.start().until_ready()
    finally:
        live.end()


@pytest.fixture(scope="module")
def whole(unbroken: Live) -> dict[str, Any]:
    """What the drop `sea` gives there."""
    return content_of(unbroken.completed("sea"))


def content_of(entry: Path) -> dict[str, Any]:
    """What of an entry must not depend on how often it was broken off: pictures, film, numbers, the record."""
    rows = [line.split(",")[:5] for line in (entry / "losses.csv").read_text().splitlines()]
    record = safe_yaml.parse((entry / "result.yaml").read_bytes())["result"]
    pictures = [entry / "result.png", *(entry / "frames").iterdir()]
    return {
        **{str(path.relative_to(entry)): path.read_bytes() for path in pictures},
        "rows": rows,
        "record": {key: record[key] for key in ("best_iteration", "steps_back", "losses")},
    }


def assert_same(found: dict[str, Any], expected: dict[str, Any]) -> None:
    """Every file and number is equal; only the names of those that are not are shown."""
    assert found.keys() == expected.keys()
    assert [name for name, value in expected.items() if found[name] != value] == []


@pytest.fixture
def running(make_live: Callable[..., Live]) -> Live:
    """A service in the middle of the drop `sea`, with a checkpoint on disk."""
    live = make_live(engine=ENGINE)
    live.tree.drop("sea", **SEA)
    return until_midway(live.start().until_ready(), MIDWAY)


def until_midway(live: Live, iteration: int) -> Live:
    """Wait until a job is at an iteration and has a checkpoint."""

    def is_there() -> bool:
        records = live.records("job.progressed", "job.completed", job="sea")
        assert not [record for record in records if record["event"] == "job.completed"]
        return any(record["iteration"] >= iteration for record in records) and known(live) > 0

    live.until("job.progressed", job="sea")
    wait_for(is_there, "the middle of the job")
    return live


def entry_of(live: Live) -> StoredJob:
    """The job, wherever it lies."""
    (entry,) = [entry for state in (State.RUNNING, State.QUEUED) for entry in live.tree.spool.entries(state)]
    return entry


def known(live: Live) -> int:
    """How many pictures the newest checkpoint knows."""
    return entry_of(live).progress


def resumed_row(live: Live) -> int:
    """The first iteration that is not known to the newest checkpoint before which no frame is missing."""
    entry = entry_of(live)
    frames = {int(path.stem) for path in (entry.out / "frames").glob("*.png")}
    counts = [int(path.stem) for path in entry.checkpoints.glob("*.ckpt")]
    return max((count for count in counts if frames >= set(range(0, count, EVERY))), default=0)


def painted(live: Live) -> list[int]:
    """The iterations that this run of the service computed, in order."""
    return [record["iteration"] for record in live.records("job.progressed", job="sea")]


def test_a_killed_service_resumes_where_it_was(running: Live, whole: dict[str, Any]) -> None:
    """After kill -9 of the service the next start resumes from the newest checkpoint to the same entry.

    No step that it knows is painted again; resuming is progress, so the attempt counts as the first.
    """
    (engine,) = running.records("engine.started")
    running.send(signal.SIGKILL)
    running.wait()
    wait_for(lambda: is_gone(engine["engine_pid"]), "the engine to end", 10)
    expected = resumed_row(running)
    running.tree.check()
    running.start()
    entry = running.completed("sea")
    (resumed,) = running.records("job.resumed")
    assert resumed["iteration"] == expected > 0
    assert painted(running) == list(range(expected, ROWS))
    assert safe_yaml.parse((entry / "result.yaml").read_bytes())["result"]["attempt"] == 1
    assert_same(content_of(entry), whole)
    running.tree.check(is_quiet=True)


@pytest.mark.nightly
def test_a_killed_engine_resumes_where_it_was(running: Live, whole: dict[str, Any]) -> None:
    """After kill -9 of the engine its successor resumes from the newest checkpoint, in the same service."""
    (engine,) = running.records("engine.started")
    reached = known(running)
    os.kill(engine["engine_pid"], signal.SIGKILL)
    entry = running.completed("sea")
    (requeued,) = running.records("spool.requeued")
    assert requeued["reason"] == "engine_crashed"
    turns = running.records("job.progressed", "job.resumed", job="sea")
    (turn,) = [number for number, record in enumerate(turns) if record["event"] == "job.resumed"]
    before, after = ([record["iteration"] for record in part] for part in (turns[:turn], turns[turn + 1 :]))
    assert before == list(range(len(before)))
    assert 0 < reached <= turns[turn]["iteration"] <= len(before)
    assert after == list(range(turns[turn]["iteration"], ROWS))
    assert safe_yaml.parse((entry / "result.yaml").read_bytes())["result"]["attempt"] == 1
    assert_same(content_of(entry), whole)
    running.tree.check(is_quiet=True)


@pytest.mark.nightly
def test_a_stopped_service_resumes_where_it_was_unless_frames_are_missing(
    running: Live, whole: dict[str, Any]
) -> None:
    """A stop costs no attempt and keeps its very step; where frames are gone, they are painted again.

    Stopped a second time, with the frames from some iteration on removed, it resumes from a checkpoint before
    those, or from its start.
    """
    running.send(signal.SIGTERM)
    assert running.wait() == 0
    assert entry_of(running).attempts_used == 0
    assert known(running) >= len(painted(running))  # the engine may be ahead of what the service took of it
    expected = resumed_row(running)
    running.start()
    until_midway(running, MIDWAY + 30)
    running.send(signal.SIGTERM)
    assert running.wait() == 0
    assert [record["iteration"] for record in running.records("job.resumed")] == [expected]
    assert painted(running) == list(range(expected, expected + len(painted(running))))
    assert entry_of(running).attempts_used == 0
    for path in (entry_of(running).out / "frames").glob("*.png"):
        if int(path.stem) >= MIDWAY - 10:
            path.unlink()
    expected = resumed_row(running)
    running.start()
    entry = running.completed("sea")
    assert painted(running) == list(range(expected, ROWS))
    assert expected <= MIDWAY - 10
    assert safe_yaml.parse((entry / "result.yaml").read_bytes())["result"]["attempt"] == 1
    assert_same(content_of(entry), whole)
    running.tree.check(is_quiet=True)
