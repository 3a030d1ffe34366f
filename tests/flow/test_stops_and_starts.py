"""How the service ends, and how it starts again; with the real engine where that matters."""

from __future__ import annotations

import signal
import time
from typing import TYPE_CHECKING

import pytest

from daemon import safe_yaml
from daemon.job import State

if TYPE_CHECKING:
    from collections.abc import Callable

    from conftest import Live

LONG = {"iterations": 5000, "frames": {"every": 0}}
STOPPED_S = 10


def test_a_killed_service_loses_nothing(make_live: Callable[..., Live]) -> None:
    """After kill -9 in the middle of a job and a start, the job is published once; SIGTERM then ends it."""
    live = make_live().start().until_ready()
    live.tree.drop("struck", iterations=60)
    live.until("job.progressed", job="struck", count=5)
    live.send(signal.SIGKILL)
    live.wait()
    live.tree.check()
    live.start()
    entry = live.completed("struck")
    assert [record["reason"] for record in live.records("spool.requeued")] == ["service_ended"]
    assert safe_yaml.parse((entry / "result.yaml").read_bytes())["result"]["attempt"] == 2
    assert live.tree.left() == []
    live.send(signal.SIGTERM)
    assert live.wait(STOPPED_S) == 0
    live.tree.check(is_quiet=True)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_stop_requeues_the_running_job(number: int, make_quick: Callable[..., Live]) -> None:
    """SIGTERM and SIGINT end the service with 0; the job is queued again, with no attempt used."""
    quick = make_quick().start().until_ready()
    quick.tree.drop("long", **LONG)
    quick.until("job.progressed", job="long", count=3)
    quick.send(number)
    assert quick.wait(STOPPED_S) == 0
    events = [record["event"] for record in quick.records() if record["event"] != "job.progressed"]
    assert events[-4:] == [
        *("service.stop_requested", "job.interrupted", "service.summarized", "service.stopped"),
    ]
    assert quick.records("service.stop_requested")[0]["reason"] == signal.Signals(number).name
    (entry,) = quick.tree.spool.entries(State.QUEUED)
    assert entry.attempts_used == 0
    assert not (quick.tree.outbox / "_running").exists()
    assert quick.status()["state"] == "stopped"
    assert quick.ask_here("status").returncode == 3
    quick.tree.check()


def test_a_stop_while_the_model_loads_ends_the_service(make_quick: Callable[..., Live]) -> None:
    """SIGTERM before READY ends the service with 0 as well."""
    quick = make_quick()
    (quick.base / "loading").touch()
    quick.start().until("service.started")
    quick.send(signal.SIGTERM)
    assert quick.wait(STOPPED_S) == 0
    assert quick.records("service.ready") == []
    assert quick.records("service.stopped")


@pytest.mark.nightly
def test_a_stop_while_the_real_model_loads_ends_the_service(make_live: Callable[..., Live]) -> None:
    """The same while TensorFlow is imported."""
    live = make_live().start()
    live.until("engine.started", deadline_s=90)
    live.send(signal.SIGTERM)
    assert live.wait(STOPPED_S) == 0
    assert live.records("service.ready") == []
    assert live.records("service.stopped")


def test_a_second_signal_ends_at_once(make_quick: Callable[..., Live]) -> None:
    """A second signal does not wait for what the first one started; the next start recovers."""
    quick = make_quick().start().until_ready()
    quick.tree.drop("long", **LONG)
    quick.until("job.progressed", job="long")
    (quick.base / "stuck").touch()
    quick.send(signal.SIGTERM)
    quick.until("service.stop_requested")
    begun = time.monotonic()
    quick.send(signal.SIGTERM)
    assert quick.wait(STOPPED_S) == 0
    assert time.monotonic() - begun < 1
    quick.tree.check()
    assert quick.tree.spool.count(State.RUNNING) == 1


def test_a_second_service_on_the_same_spool_is_refused(make_quick: Callable[..., Live]) -> None:
    """The second one exits 75 with one line, and the first goes on."""
    quick = make_quick().start()
    quick.until("service.started")
    second = quick.ask("run")
    assert second.returncode == 75
    assert "another styletransferd works here" in second.stderr
    assert second.stderr.count("\n") == 1
    quick.until_ready()


@pytest.mark.nightly
def test_a_gpu_that_is_not_there_is_not_ready(make_live: Callable[..., Live]) -> None:
    """`device: gpu` without a GPU exits 75 instead of painting on the processor."""
    pytest.importorskip("tensorflow")
    live = make_live(engine={"device": "gpu"})
    asked = live.ask("run")
    assert asked.returncode == 75
    assert "gpu" in asked.stderr.lower()
    assert "Traceback" not in asked.stderr


def test_a_bad_config_lists_every_fault(make_quick: Callable[..., Live]) -> None:
    """`run` on a bad config exits 78, one line a fault on stderr, nothing on stdout."""
    quick = make_quick()
    quick.config_file.write_text("inbox: {settel_s: 1}\nengine: {device: tpu}\n")
    asked = quick.ask("run")
    assert asked.returncode == 78
    assert asked.stdout == ""
    lines = asked.stderr.splitlines()
    assert len(lines) == 2
    assert "settel_s" in asked.stderr
    assert "did you mean 'settle_s'?" in asked.stderr
    assert "engine.device" in asked.stderr


def test_the_verbs_work_on_a_stopped_service(make_quick: Callable[..., Live]) -> None:
    """What an operator asks while nothing runs is done, at the latest by the next start."""
    quick = make_quick().start().until_ready()
    quick.tree.drop("long", **LONG)
    quick.until("job.started", job="long")
    for name in ("held", "dropped", "kept"):
        quick.tree.drop(name)
    ids = {
        name: quick.until("inbox.accepted", job=name)[0]["job_id"]
        for name in ("long", "held", "dropped", "kept")
    }
    quick.send(signal.SIGTERM)
    quick.wait(STOPPED_S)
    assert quick.ask_here("hold", ids["held"]).returncode == 0
    for name in ("long", "dropped"):
        assert quick.ask_here("cancel", ids[name]).returncode == 0
    assert quick.start("--drain").wait(120) == 1
    states = {entry.job.stem: entry.state for entry in quick.tree.spool.all_entries() if entry.job}
    assert states == {
        "long": State.FAILED,
        "dropped": State.FAILED,
        "held": State.HELD,
        "kept": State.DONE,
    }
    quick.tree.check()
    assert quick.ask_here("release", ids["held"]).returncode == 0
    assert quick.start("--drain").wait(120) == 0
    quick.tree.check(is_quiet=True)
