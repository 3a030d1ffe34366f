"""Work by the clock on the wall: the window, the end of a night, the morning report, the figures."""

from __future__ import annotations

import json
import re
import sys
import threading
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import pytest
from structlog.testing import capture_logs
from support.fakes import FakeEngine
from support.running import END_S, Runs
from support.trees import Tree, hasten, named, wait_for

from daemon import __version__, clock, safe_yaml
from daemon.cli import status
from daemon.cli.main import main
from daemon.errors import NotReady
from daemon.job import State
from daemon.outbox import summary
from daemon.service import upkeep
from daemon.service.status import Counts

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from daemon.config import Config
    from daemon.job import Step

    Make = Callable[..., Tree]

NIGHT = "22:00-06:00"


class Wall:
    """The clock on the wall, which runs from the time that a test sets."""

    def __init__(self, shown: str) -> None:
        self.set(shown)

    def set(self, shown: str) -> None:
        """Show another time, such as "2026-03-02 22:00"."""
        self._ahead = datetime.fromisoformat(shown).astimezone() - datetime.now(UTC)

    def local(self) -> datetime:
        """Look at it."""
        return self.utc().astimezone()

    def utc(self) -> datetime:
        """Look at it, as records name the moment."""
        return datetime.now(UTC) + self._ahead


@pytest.fixture
def wall(monkeypatch: pytest.MonkeyPatch) -> Wall:
    """Hang a clock that shows noon."""
    made = Wall("2026-03-02 12:00")
    monkeypatch.setattr(clock, "local", made.local)
    monkeypatch.setattr(clock, "utc", made.utc)
    return made


@pytest.fixture
def make_night(make_config: Callable[..., Config], monkeypatch: pytest.MonkeyPatch) -> Make:
    """Make trees where everything goes quickly; keywords are the config's sections."""
    hasten(monkeypatch)
    monkeypatch.setattr(upkeep, "_METRICS_S", 0.02)
    monkeypatch.setattr(upkeep, "_SUMMARY_S", 0.02)

    def make(**sections: Any) -> Tree:
        made = Tree(make_config(inbox={"settle_s": 0.05, "rescan_s": 0.1, "observer": "off"}, **sections))
        made.inbox.mkdir()
        return made

    return make


def _stamped(shown: str) -> str:
    return clock.stamp(datetime.fromisoformat(shown).astimezone())


def _until(tree: Tree, state: State, count: int = 1) -> None:
    wait_for(lambda: tree.spool.count(state) == count, f"{count} {state}", END_S)


def _report(tree: Tree, day: str) -> dict[str, Any]:
    document: dict[str, Any] = safe_yaml.parse((tree.outbox / f"summary-{day}.yaml").read_bytes())
    return document


# The window


def test_jobs_are_accepted_by_day_and_painted_by_night(wall: Wall, make_night: Make, run: Runs) -> None:
    """Outside of the window a drop is accepted, not started, and status says from when on; at 22:00 it runs."""
    tree, engine = make_night(schedule={"window": NIGHT}), FakeEngine()
    with capture_logs() as records:
        running = run(tree.config, engine)
        tree.drop("sea")
        _until(tree, State.QUEUED)
        wait_for(lambda: tree.left() == [], "the inbox to be cleared", END_S)
        path = tree.config.folders.spool / "status.json"
        wait_for(lambda: json.loads(path.read_bytes())["queued"] == 1, "the status", END_S)
        document = status.gather(tree.config)
        assert document["opens_at"] == _stamped("2026-03-02 22:00")
        assert (document["state"], document["counts"]["queued"]) == ("running", 1)
        assert "no job is started before 2026-03-02T22:00" in "\n".join(status.lines(document))
        wall.set("2026-03-02 21:59")
        assert not threading.Event().wait(0.2)
        assert engine.calls == []
        wall.set("2026-03-02 22:00")
        _until(tree, State.DONE)
        wait_for(lambda: json.loads(path.read_bytes())["opens_at"] is None, "the status", END_S)
        running.stop()
    words = named(records, "service.window_closed", "service.window_opened", "job.completed")
    events = [record["event"] for record in words]
    assert events == ["service.window_closed", "service.window_opened", "job.completed"]
    assert words[0]["opens_at"] == _stamped("2026-03-02 22:00")
    tree.check(is_quiet=True)


def test_a_job_that_runs_is_not_cut_short_by_the_end_of_the_window(
    wall: Wall, make_night: Make, run: Runs
) -> None:
    """What was begun at 05:59 is painted to its end; the next job waits for the next evening."""
    wall.set("2026-03-03 05:59")
    tree = make_night(schedule={"window": NIGHT})
    tree.drop("a")
    tree.drop("b")
    engine = FakeEngine(on_step=lambda _step: wall.set("2026-03-03 06:00"))
    running = run(tree.config, engine)
    _until(tree, State.DONE)
    _until(tree, State.QUEUED)
    wait_for(lambda: running.service.situation.opens_at == _stamped("2026-03-03 22:00"), "the close", END_S)
    assert len(engine.calls) == 1
    assert len(tree.results()) == 1
    wall.set("2026-03-03 22:00")
    _until(tree, State.DONE, 2)
    tree.check(is_quiet=True)


# A drain by the clock


@pytest.mark.parametrize("end", ["window", "stop time", "both"])
@pytest.mark.parametrize("script", ["paint", "job_error"])
def test_a_drain_ends_with_the_night(script: str, end: str, wall: Wall, make_night: Make, run: Runs) -> None:
    """Once the window closes or the stop time comes no job is started; the rest stays; the code tells."""
    wall.set("2026-03-02 23:00")
    tree = make_night(schedule={"window": NIGHT} if end != "stop time" else {})
    for name in "abc":
        tree.drop(name)
    engine = FakeEngine(script, on_step=lambda _step: wall.set("2026-03-03 06:00"))
    stops = None if end == "window" else "06:00"
    with capture_logs() as records:
        running = run(tree.config, engine, drains=True, stop_starting_at=stops)
        assert running.wait() == (1 if script == "job_error" else 0)
    assert len(engine.calls) == 1
    assert tree.spool.count(State.QUEUED) + len(tree.left()) // 3 == 2
    assert len(named(records, "service.summarized")) == 1
    tree.check()


def test_a_drain_ends_with_the_night_also_when_nothing_can_be_done(
    wall: Wall, make_night: Make, run: Runs
) -> None:
    """A drain that waits for its outbox does not wait beyond the morning."""
    tree = make_night(schedule={"window": NIGHT})
    tree.drop("a")
    running = run(tree.config, drains=True, stop_starting_at="05:00")
    _until(tree, State.QUEUED)
    (tree.outbox / ".styletransferd-outbox").unlink()
    wall.set("2026-03-02 22:00")
    wait_for(lambda: "worker" in running.service.situation.paused, "the pause", END_S)
    wall.set("2026-03-03 05:00")
    assert running.wait() == 0
    assert tree.spool.count(State.QUEUED) == 1


def test_a_drain_that_comes_too_early_waits_for_its_window(wall: Wall, make_night: Make, run: Runs) -> None:
    """Started at noon, a drain accepts, and paints from 22:00 on; then it ends by itself."""
    tree, engine = make_night(schedule={"window": NIGHT}), FakeEngine()
    tree.drop("sea")
    running = run(tree.config, engine, drains=True)
    _until(tree, State.QUEUED)
    assert not threading.Event().wait(0.3)
    assert running.is_alive
    assert engine.calls == []
    wall.set("2026-03-02 22:00")
    assert running.wait() == 0
    assert len(tree.results()) == 1


def test_a_stop_time_before_the_window_ends_a_drain_that_still_waits(
    wall: Wall, make_night: Make, run: Runs
) -> None:
    """A drain whose last moment passes while its window is closed ends with 0 and everything queued."""
    tree = make_night(schedule={"window": NIGHT})
    tree.drop("sea")
    running = run(tree.config, drains=True, stop_starting_at="18:00")
    _until(tree, State.QUEUED)
    wall.set("2026-03-02 18:00")
    assert running.wait() == 0
    assert tree.spool.count(State.QUEUED) == 1


@pytest.mark.parametrize(
    "words",
    [
        ("--stop-starting-at", "06:00"),
        ("--drain", "--stop-starting-at", "6:00"),
        ("--drain", "--stop-starting-at", "24:00"),
        ("--drain", "--stop-starting-at", "06:60"),
        ("--drain", "--stop-starting-at", "06:00\n"),
        ("--drain", "--stop-starting-at", ""),
    ],
)
def test_a_stop_time_that_is_none_is_wrong_usage(
    words: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Without --drain, or where it is no time of the day, the command exits 2 and starts nothing."""
    (tmp_path / "config.yaml").write_text("{}")
    monkeypatch.setattr(sys, "argv", ["daemon", "run", *words, "--config", str(tmp_path / "config.yaml")])
    with pytest.raises(SystemExit) as ended:
        main()
    stdout, stderr = capsys.readouterr()
    assert (ended.value.code, stdout) == (2, "")
    assert "--stop-starting-at" in stderr
    assert not (tmp_path / "spool").exists()


# The morning report


def test_a_drain_leaves_the_morning_report(wall: Wall, make_night: Make, run: Runs) -> None:
    """The report counts what was accepted, done and failed, says why, and what waits; so does one record."""
    wall.set("2026-03-02 23:00")
    tree = make_night()
    tree.drop("a")
    tree.drop("b", sise=3)
    (tree.inbox / "alone.yaml").write_text("content: missing.jpg\nstyle: missing.png\n")
    (tree.inbox / "orphan.png").write_bytes(b"x")

    def dawn(step: Step) -> None:
        if step.painting:
            wall.set("2026-03-03 05:00")

    with capture_logs() as records:
        assert run(tree.config, FakeEngine(on_step=dawn), drains=True).wait() == 1
    report = _report(tree, "2026-03-03")
    assert not (tree.outbox / "summary-2026-03-02.yaml").exists()
    assert (report["accepted"], report["done"], report["failed"]) == (2, 1, 1)
    (failure,) = report["runs"][0]["failures"]
    assert failure["name"].startswith("b-")
    assert failure["reason"] == "bad_sidecar"
    assert "sise" in failure["message"]
    assert report["waiting_count"] == 2
    assert {item["path"]: item["reason"] for item in report["waiting"]} == {
        "alone.yaml": "waiting for missing.jpg, missing.png",
        "orphan.png": "no sidecar names it",
    }
    assert report["queued"] == 0
    assert report["runs"][0]["started_at"].startswith("2026-03-02T23:00")
    assert report["runs"][0]["ended_at"].startswith("2026-03-03T05:00")
    (line,) = named(records, "service.summarized")
    assert (line["accepted"], line["done"], line["failed"], line["waiting"]) == (2, 1, 1, 2)
    assert line["path"] == str(tree.outbox / "summary-2026-03-03.yaml")
    assert 0 <= line["hours_used"] < 1


def test_each_night_of_a_resident_service_is_summed_up_once(wall: Wall, make_night: Make, run: Runs) -> None:
    """Each close of the window ends a report and has its record; an end after that adds none."""
    wall.set("2026-03-03 01:00")
    tree = make_night(schedule={"window": NIGHT})
    with capture_logs() as records:
        running = run(tree.config)
        for count, name in enumerate(("a", "b"), 1):
            tree.drop(name)
            expected = Counts(count, count)
            wait_for(lambda: running.service.status.counts == expected, "the job's end", END_S)  # noqa: B023
            wall.set(f"2026-03-0{count + 2} 06:00")
            wait_for(lambda: running.service.situation.opens_at, "the window to close", END_S)
            wall.set(f"2026-03-0{count + 3} 00:30")
            wait_for(lambda: not running.service.situation.opens_at, "the window to open", END_S)
        running.stop()
    lines = named(records, "service.summarized")
    assert [(line["accepted"], line["done"]) for line in lines] == [(1, 1), (1, 1)]
    assert [_report(tree, f"2026-03-0{day}")["done"] for day in (3, 4)] == [1, 1]
    assert len(list(tree.outbox.glob("summary-*"))) == 2


def test_a_report_that_cannot_be_written_holds_nothing_up(
    wall: Wall, make_night: Make, run: Runs, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An outbox that refuses the report costs one warning; the painting goes on and the record still comes."""
    tree = make_night()
    tree.drop("a")
    with capture_logs() as records:
        running = run(tree.config)
        monkeypatch.setattr(summary, "write", _refuse)
        _until(tree, State.DONE)
        running.stop()
    assert [record["what"] for record in named(records, "service.report_failed")] == ["summary"]
    (line,) = named(records, "service.summarized")
    assert (line["done"], line["path"]) == (1, None)


def _refuse(*_: object) -> None:
    raise NotReady("outbox unavailable: a test")


# The figures


def _figures(tree: Tree) -> dict[str, float]:
    """Read the textfile strictly: comments, then NAME{labels} VALUE, no series twice."""
    path = tree.config.metrics.textfile
    found: dict[str, float] = {}
    for line in path.read_text().splitlines():
        if not line.startswith("# HELP ") and not line.startswith("# TYPE "):
            series, _, value = line.rpartition(" ")
            assert re.fullmatch(r'styletransferd_[a-z_]+(\{([a-z_]+="[^"]*",?)+\})?', series), line
            assert series not in found
            found[series] = float(value)
    return found


def _figure(tree: Tree, name: str) -> float | None:
    return _figures(tree).get(f"styletransferd_{name}")


def test_the_figures_are_complete_and_follow_the_work(wall: Wall, make_night: Make, run: Runs) -> None:
    """Every family is there while a job runs; pauses and progress come and go; a watched file is never half."""
    wall.set("2026-03-02 23:00")
    tree = make_night(metrics={"textfile": "figures.prom"}, schedule={"window": NIGHT})
    path, free = tree.config.metrics.textfile, threading.Event()
    assert path

    def hold(step: Step) -> None:
        if step.iteration == 2:
            free.wait(END_S)

    running = run(tree.config, FakeEngine("paint", "job_error", on_step=hold))
    tree.drop("a")
    tree.drop("b")
    try:
        _until(tree, State.RUNNING)
        _until(tree, State.QUEUED)
        wait_for(lambda: _figure(tree, "job_progress_ratio"), "the progress", END_S)
        wait_for(lambda: _figure(tree, "iteration_seconds"), "the pace", END_S)
        wait_for(lambda: _figure(tree, 'jobs{state="queued"}') == 1, "the queue", END_S)
        held = _figures(tree)  # progress is of what is painted, not of what waits for the outbox
        (tree.outbox / ".styletransferd-outbox").unlink()
    finally:
        free.set()
    paused = 'paused{part="outbox",kind="unavailable"}'
    wait_for(lambda: _figure(tree, paused) == 1, "the pause", END_S)
    figures = held | _figures(tree)
    families = {series.partition("{")[0].removeprefix("styletransferd_") for series in figures}
    assert families >= {
        *("info", "start_time_seconds", "jobs", "oldest_queued_age_seconds", "last_scan_timestamp_seconds"),
        *("window_open", "paused", "free_bytes", "free_inodes", "iteration_seconds", "job_progress_ratio"),
    }
    assert "watcher_up" not in families  # it is off
    assert {f'styletransferd_jobs{{state="{state}"}}' for state in State} <= figures.keys()
    assert _figure(tree, f'info{{version="{__version__}",device="fake",precision="float32"}}') == 1
    assert 0 <= (_figure(tree, "oldest_queued_age_seconds") or 0) < 600
    assert (_figure(tree, 'free_bytes{folder="spool"}') or 0) > 0

    (tree.outbox / ".styletransferd-outbox").touch()
    _until(tree, State.DONE)
    _until(tree, State.FAILED)
    wait_for(lambda: _figure(tree, 'attempts_total{outcome="failed"}') == 1, "the figures of the end", END_S)
    wait_for(lambda: _figure(tree, "job_progress_ratio") is None, "the end of progress", END_S)
    assert _figure(tree, paused) is None
    assert _figure(tree, "oldest_queued_age_seconds") is None
    assert _figure(tree, 'jobs{state="failed"}') == 1
    assert _figure(tree, 'attempts_total{outcome="completed"}') == 1
    assert _figure(tree, "window_open") == 1
    wall.set("2026-03-03 06:00")
    wait_for(lambda: _figure(tree, "window_open") == 0, "the window to close", END_S)
    running.stop()
    assert list(path.parent.glob(".figures*")) == []
