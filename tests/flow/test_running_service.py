"""All that people do to a running service: a real one, or a quick one where the engine does not matter."""

from __future__ import annotations

import csv
import json
import os
import signal
import time
from datetime import datetime
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from PIL import Image
from support.trees import digest, save, wait_for

from daemon import safe_yaml

if TYPE_CHECKING:
    from pathlib import Path

    from conftest import Live

LONG = {"iterations": 2000, "frames": {"every": 1000}}  # never comes to its end in a test


def _pixels(path: Path) -> np.ndarray:
    with Image.open(path) as image:
        return np.asarray(image)


def _losses(entry: Path) -> list[dict[str, str]]:
    with (entry / "losses.csv").open() as file:
        return list(csv.DictReader(file))


def _at(record: dict[str, Any]) -> float:
    return datetime.fromisoformat(record["timestamp"]).timestamp()


def _state(quick: Live, job: str) -> str:
    listed = json.loads(quick.ask_here("list", "--json").stdout)
    return next((item["state"] for item in listed if item["name"].rpartition("-")[0] == job), "")


# Dropping


@pytest.mark.parametrize(
    "is_first", [pytest.param(True, marks=pytest.mark.nightly), False], ids=["sidecar first", "sidecar last"]
)
def test_a_slow_copy_is_painted_once(is_first: bool, quick: Live, tmp_path: Path) -> None:  # noqa: FBT001
    """A pair copied at 1 KB every 50 ms, with pauses longer than settle_s, is taken once, whole."""
    name = f"slow-{'first' if is_first else 'last'}"
    pictures = [
        save(tmp_path / f"{name}{end}", seed, 64, 96) for seed, end in enumerate((".png", "-style.png"))
    ]
    sidecar = tmp_path / f"{name}.yaml"
    sidecar.write_text(f"content: {name}.png\nstyle: {name}-style.png\n")
    for path in [sidecar, *pictures] if is_first else [*pictures, sidecar]:
        with (quick.tree.inbox / path.name).open("wb", buffering=0) as target:
            for chunk in _chunks(path.read_bytes()):
                target.write(chunk)
                time.sleep(0.05)
        assert quick.records("inbox.accepted", job=name) == []
        time.sleep(2 * quick.tree.config.inbox.settle_s)
    quick.tree.note(sidecar, *pictures)
    entry = quick.completed(name)
    inputs = safe_yaml.parse((entry / "result.yaml").read_bytes())["result"]["inputs"]
    assert {item["sha256"] for item in inputs} == {digest(path.read_bytes()) for path in (sidecar, *pictures)}
    assert len(quick.records("inbox.accepted", job=name)) == 1
    quick.tree.check()


def _chunks(data: bytes) -> list[bytes]:
    return [data[start : start + 1024] for start in range(0, len(data), 1024)]


@pytest.mark.nightly
def test_ten_pairs_give_ten_results_in_order(live: Live) -> None:
    """Drops made while another job runs wait, and are painted in the natural order of their names."""
    live.tree.drop("busy", iterations=60)
    live.until("job.started", job="busy")
    for number in (10, 3, 7, 1, 9, 2, 8, 4, 6, 5):
        live.tree.drop(f"p{number}", size=64)
    live.until("job.completed", job="p10", deadline_s=120)
    ended = [record for record in live.records("job.completed") if record["name"].startswith(("busy", "p"))]
    names = [record["name"].rpartition("-")[0] for record in ended]
    assert names == ["busy", *(f"p{number}" for number in range(1, 11))]
    numbers = [
        record["sequence"]
        for number in range(1, 11)
        for record in live.records("inbox.accepted", job=f"p{number}")
    ]
    assert numbers == sorted(numbers)
    assert len(live.records("engine.model_loaded")) == 1
    for before, name in zip(ended, names[1:], strict=False):
        first = live.records("job.progressed", job=name)[0]
        assert first["iteration"] == 0
        assert _at(first) - _at(before) < 1.0
    live.tree.check()


def test_bad_drops_disturb_nobody(live: Live, tmp_path: Path) -> None:
    """Each bad drop gets one entry with its clear reason and its files; the good one among them is painted."""
    inbox = live.tree.inbox
    live.tree.drop("three", stregth=0.5, size="huge", optimizer="sgd")
    live.tree.drop("text")
    (inbox / "text.jpg").write_text("this is no picture")
    live.tree.drops[-1]["text.jpg"] = digest(b"this is no picture")
    live.tree.drop("passwd", content="../../etc/passwd")
    del live.tree.drops[-1]["passwd.jpg"]
    (inbox / "alone.yaml").write_text("content: alone.jpg\nstyle: alone-style.jpg\n")
    live.tree.drop("good")
    for name in ("three", "passwd", "text"):
        live.until("job.failed", job=name)
    assert _losses(live.completed("good"))

    entry, error = _failure(live, "three")
    assert error["reason"] == "bad_sidecar"
    faults = {fault["key"]: fault for fault in error["faults"]}
    assert set(faults) == {"stregth", "size", "optimizer"}
    assert all(fault["allowed"] and fault["file"] == "three.yaml" for fault in faults.values())
    assert [faults[key]["found"] for key in ("stregth", "size", "optimizer")] == ["0.5", "'huge'", "'sgd'"]
    assert sorted(path.name for path in (entry / "drop").iterdir()) == [
        "three-style.png",
        "three.jpg",
        "three.yaml",
    ]

    _, error = _failure(live, "passwd")
    assert (error["reason"], error["key"]) == ("path_outside", "content")
    _, error = _failure(live, "text")
    assert (error["reason"], error["file"]) == ("not_a_picture", "text.jpg")

    waiting = wait_for(
        lambda: {w["path"]: w["reason"] for w in live.status()["waiting"]}.get("alone.yaml"), "alone"
    )
    assert waiting == "waiting for alone.jpg, alone-style.jpg"
    (inbox / "alone.yaml").unlink()
    (inbox / "passwd.jpg").unlink()
    wait_for(lambda: live.tree.left() == [], "the originals to be retired")
    live.tree.check()


def _failure(live: Live, name: str) -> tuple[Path, Any]:
    (entry,) = live.tree.outbox.glob(f"{name}-????????.failed")
    return entry, safe_yaml.parse((entry / "error.yaml").read_bytes())


@pytest.mark.nightly
def test_a_misspelt_key_gets_a_suggestion(live: Live) -> None:
    """error.yaml asks "did you mean" for a key that is nearly one."""
    live.tree.drop("spelt", itterations=5)
    live.until("job.failed", job="spelt")
    _, error = _failure(live, "spelt")
    assert error["faults"][0]["hint"] == "did you mean 'iterations'?"
    live.tree.check()


# Results


def test_a_result_is_complete(live: Live) -> None:
    """An entry holds the picture at its size, every frame by its number, film, losses and record."""
    live.tree.drop("whole", size=64, iterations=6, frames={"every": 2})
    entry = live.completed("whole")
    names = {str(path.relative_to(entry)) for path in entry.rglob("*") if path.is_file()}
    frames = {f"frames/{number:04d}.png" for number in (0, 2, 4, 6)}
    assert names == {
        *("result.png", "result.yaml", "losses.csv", "losses.png", "manifest.json"),
        *(*frames, "frames/animation.webp"),
        *("report.html", "report/content.jpg", "report/style-1.jpg", "contact.png"),
    }
    with Image.open(entry / "frames" / "animation.webp") as film:
        assert getattr(film, "n_frames", 1) == 4
    assert _pixels(entry / "result.png").shape == (48, 64, 3)
    assert [row["iteration"] for row in _losses(entry)] == [str(number) for number in range(7)]
    live.tree.check()


def test_a_result_repeats_itself(live: Live) -> None:
    """result.yaml dropped back beside the same pictures gives the same losses and picture, to the bit."""
    sidecar = live.tree.drop("again", iterations=5, seed=3, style_weight=0.02)
    pictures = {path: path.read_bytes() for path in sidecar.parent.glob("again*.*g")}
    first = live.completed("again")
    wait_for(lambda: live.tree.left() == [], "the originals to be retired")
    for path, data in pictures.items():
        path.write_bytes(data)
    record = live.tree.inbox / "result.yaml"
    record.write_bytes((first / "result.yaml").read_bytes())
    live.tree.note(record, *pictures)
    second = live.completed("result")
    assert (second / "result.png").read_bytes() == (first / "result.png").read_bytes()
    columns = ("iteration", "size_px", "total", "style", "content")
    one, two = ([[row[name] for name in columns] for row in _losses(entry)] for entry in (first, second))
    assert one == two
    assert len(one) == 6
    live.tree.check()


def test_progress_can_be_read_at_any_time(quick: Live) -> None:
    """While a job runs, latest.png and both status files are whole whenever somebody looks."""
    wait_for(lambda: quick.status()["state"] == "running", "the status")  # written once a second
    quick.tree.drop("watched", iterations=60, frames={"every": 1})
    looks, iterations = 0, set()
    while not quick.records("job.completed", job="watched"):
        assert quick.status()["state"] == "running"
        for folder in quick.tree.outbox.glob("_running/watched-*"):
            try:
                data, status = (folder / "latest.png").read_bytes(), (folder / "status.json").read_bytes()
            except FileNotFoundError:
                continue  # not there yet, or no longer
            assert data.endswith(b"IEND\xaeB`\x82")
            iterations.add(json.loads(status)["iteration"])
            looks += 1
    assert looks > 5
    assert len(iterations) > 2
    assert not (quick.tree.outbox / "_running").exists()
    quick.tree.check()


# Logs


def test_every_line_parses_and_events_tell_one_story(live: Live) -> None:
    """Every line of stdout is JSON with time, level, event; a job's events come in order, each with its id."""
    live.tree.drop("story", iterations=3)
    live.completed("story")
    for record in live.records():
        assert list(record)[:3] == ["timestamp", "level", "event"]
        assert datetime.fromisoformat(record["timestamp"]).utcoffset() is not None
        assert record["event"].startswith("job.") <= ("job_id" in record)
    records = live.records(job="story")
    assert {record["job_id"] for record in records} == {records[0]["job_id"]}
    assert [record["event"] for record in records] == [
        *("inbox.accepted", "job.started"),
        *["job.progressed"] * 4,
        *("outbox.published", "job.completed"),
    ]
    assert [record["iteration"] for record in live.records("job.progressed", job="story")] == [0, 1, 2, 3]
    assert (live.base / "stderr.log").read_bytes() == b""
    start = [
        record["event"]
        for record in live.records()
        if record["event"].startswith(("service.", "spool.", "engine.m"))
    ]
    assert start[:4] == ["service.started", "spool.recovered", "engine.model_loaded", "service.ready"]


# Operators


def test_held_jobs_wait_and_released_ones_run(quick: Live) -> None:
    """A queued job that is held is passed over; released, it is painted."""
    quick.tree.drop("blocker", **LONG)
    quick.until("job.started", job="blocker")
    quick.tree.drop("parked")
    quick.tree.drop("passing")
    (parked,) = quick.until("inbox.accepted", job="parked")
    quick.until("inbox.accepted", job="passing")
    assert quick.ask_here("hold", parked["job_id"][:10]).returncode == 0
    (blocker,) = quick.records("inbox.accepted", job="blocker")
    assert quick.ask_here("cancel", blocker["job_id"]).returncode == 0
    quick.completed("passing")
    assert _state(quick, "parked") == "held"
    assert quick.ask_here("release", parked["name"]).returncode == 0
    quick.completed("parked")
    quick.tree.check()


def test_a_running_job_can_be_cancelled_and_retried(quick: Live) -> None:
    """A running job that is cancelled ends within seconds; a retry paints it and removes the failure."""
    quick.tree.drop("regret", iterations=60, frames={"every": 0})
    (started,) = quick.until("job.started", job="regret")
    assert quick.ask_here("cancel", started["job_id"]).returncode == 0
    (failed,) = quick.until("job.failed", job="regret", deadline_s=15)
    assert failed["reason"] == "cancelled"
    assert _state(quick, "regret") == "failed"
    assert quick.ask_here("retry", started["job_id"]).returncode == 0
    entry = quick.completed("regret")
    assert not entry.with_name(f"{entry.name}.failed").exists()
    assert safe_yaml.parse((entry / "result.yaml").read_bytes())["result"]["attempt"] == 1
    quick.tree.check()


def test_a_queued_job_can_be_cancelled(quick: Live) -> None:
    """A job cancelled while it waits ends without waiting for the running one."""
    quick.tree.drop("front", **LONG)
    quick.until("job.started", job="front")
    quick.tree.drop("back")
    (back,) = quick.until("inbox.accepted", job="back")
    assert quick.ask_here("cancel", back["job_id"]).returncode == 0
    (failed,) = quick.until("job.failed", job="back", deadline_s=15)
    assert failed["reason"] == "cancelled"
    assert quick.records("job.completed", "job.failed", job="front") == []
    assert quick.ask_here("cancel", quick.records("job.started", job="front")[0]["job_id"]).returncode == 0
    quick.until("job.failed", job="front", deadline_s=15)
    quick.tree.check()


def test_verbs_refuse_what_makes_no_sense(quick: Live) -> None:
    """A verb on an unknown job, or on one in another state, is one readable line and exit 1."""
    quick.tree.drop("ended")
    name = quick.completed("ended").name
    for verb in ("hold", "release", "retry", "cancel"):
        for job, words in ((name, "is done, not"), ("ffffffffffffffff", "no such job")):
            asked = quick.ask_here(verb, job)
            assert asked.returncode == 1
            assert words in asked.stderr
            assert asked.stderr.count("\n") == 1


# The last of the file: they end the engine.


@pytest.mark.nightly
def test_a_killed_engine_costs_one_attempt(live: Live) -> None:
    """An engine killed during a job is restarted, and the job is done at its second attempt."""
    live.tree.drop("struck", iterations=150, frames={"every": 0})
    live.until("job.progressed", job="struck", count=3)
    os.kill(live.records("engine.started")[-1]["engine_pid"], signal.SIGKILL)
    entry = live.completed("struck")
    (requeued,) = live.records("spool.requeued", job="struck")
    assert requeued["attempt"] == 1
    assert "SIGKILL" in requeued["message"]
    assert safe_yaml.parse((entry / "result.yaml").read_bytes())["result"]["attempt"] == 2
    assert len(live.records("engine.model_loaded")) == 2
    live.tree.check()


@pytest.mark.parametrize("name", ["live", "quick"])
def test_in_the_end_everything_is_at_rest(name: str, request: pytest.FixtureRequest) -> None:
    """After all of the above every drop has come to its one end and nothing lies around."""
    tree = request.getfixturevalue(name).tree
    wait_for(lambda: tree.left() == [], "the originals to be retired")
    tree.check()
    spool = tree.config.folders.spool
    left = [path for name in ("tmp", "queued", "running", "held") for path in (spool / name).iterdir()]
    assert left == []
    assert [name for name in os.listdir(tree.outbox) if name.startswith((".tmp", "_running"))] == []
