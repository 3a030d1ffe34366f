"""A spool that an older version left behind, killed at work, is worked off by this one.

`old_spool.tar.gz` was written by commit fc3e492 with its real engine, and holds one job in each state. The
service was killed while one ran, which has a checkpoint. Files that name folders of that machine are left out.
"""

from __future__ import annotations

import tarfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from structlog.testing import capture_logs
from support.fakes import FakeEngine
from support.trees import Stepper

from daemon.errors import Reason
from daemon.job import State

if TYPE_CHECKING:
    from collections.abc import Callable

    from conftest import Live
    from support.trees import Tree

ARCHIVE = Path(__file__).with_name("old_spool.tar.gz")
ITERATIONS = 400  # of the running job


def _unpack(tree: Tree) -> None:
    with tarfile.open(ARCHIVE) as archive:
        archive.extractall(tree.config.folders.spool, filter="data")


def _states(tree: Tree) -> dict[str, str]:
    return {entry.job.stem: entry.state.value for entry in tree.spool.all_entries() if entry.job}


def test_every_job_of_an_old_spool_comes_to_its_end(tree: Tree) -> None:
    """What waited or ran is painted, what ended stays as it is, and nothing is an error."""
    _unpack(tree)
    assert _states(tree) == {name: name for name in ("queued", "running", "held", "failed", "done")}
    with capture_logs() as records:
        stepper = Stepper(tree.config, FakeEngine())
        stepper.until_quiet(deadline_s=60)
        (held,) = tree.spool.entries(State.HELD)
        stepper.service.spool.release(held)
        stepper.until_quiet(deadline_s=60)
    assert _states(tree) == {
        **dict.fromkeys(("queued", "running", "held", "done"), "done"),
        "failed": "failed",
    }
    assert [name.rpartition("-")[0] for name in tree.results()] == ["held", "queued", "running"]
    (requeued,) = [record for record in records if record["event"] == "spool.requeued"]
    assert requeued["attempt"] == 1
    assert [record for record in records if record["log_level"] in {"error", "critical"}] == []


def test_a_failure_of_an_old_spool_can_be_tried_again(tree: Tree) -> None:
    """Its reason reads back as it was written; a retry ends as it did, since the sidecar is still wrong."""
    _unpack(tree)
    stepper = Stepper(tree.config, FakeEngine())
    (failed,) = tree.spool.entries(State.FAILED)
    assert failed.failure.reason is Reason.BAD_SIDECAR
    stepper.service.spool.retry(failed)
    stepper.until_quiet(deadline_s=60)
    (again,) = tree.spool.entries(State.FAILED)
    assert again.failure == failed.failure


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_the_real_engine_takes_an_old_checkpoint_or_starts_over(make_live: Callable[..., Live]) -> None:
    """The running job has all its iterations in the end, by the real engine; nothing is an error."""
    live = make_live(engine={"device": "cpu", "precision": "float32"})
    _unpack(live.tree)
    live.start("--drain")
    assert live.wait(240) == 0
    rows = (live.completed("running") / "losses.csv").read_text().splitlines()
    assert len(rows) == 1 + ITERATIONS + 1
    records: list[dict[str, Any]] = live.records()
    assert [record for record in records if record["level"] in {"error", "critical"}] == []
    assert _states(live.tree)["running"] == "done"
