"""What is done beside the work: each thing when it is due, none at another's cost."""

from __future__ import annotations

import json
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import pytest
from structlog.testing import capture_logs
from support.fakes import INFO
from support.trees import Tree

from daemon import clock, files
from daemon.errors import NotReady
from daemon.inbox.intake import Report, Waiting
from daemon.job import Job, State
from daemon.lifeline import Pulse
from daemon.outbox.publish import Outbox
from daemon.sentinel import Sentinel
from daemon.service import metrics, upkeep
from daemon.service.upkeep import Housekeeping, Situation
from daemon.spool import Spool

if TYPE_CHECKING:
    from collections.abc import Callable, MutableMapping
    from pathlib import Path

    from daemon.config import Config


class House:
    """A housekeeping on a tree, with its parts in reach and a notebook of what it did."""

    def __init__(self, config: Config, monkeypatch: pytest.MonkeyPatch) -> None:
        self.tree = Tree(config)
        self.config = config
        self.spool = Spool(config.folders.spool)
        self.spool.prepare()
        self.sentinel = Sentinel(self.tree.outbox, "outbox", config.folders.spool / "met-outbox")
        self.sentinel.establish()
        self.outbox = Outbox(self.tree.outbox, self.sentinel)
        self.situation = Situation(state="running")
        self.heart_now = 0.0
        self.heart = Pulse(lambda: self.heart_now)
        self.told: list[dict[str, str]] = []
        monkeypatch.setattr(upkeep, "notify", lambda **facts: self.told.append(facts))
        monkeypatch.delenv("WATCHDOG_USEC", raising=False)
        self.keeping = Housekeeping(
            lambda: self.config,
            self.spool,
            self.outbox,
            self.situation,
            progress=lambda: None,
            heart=self.heart,
        )
        self.keeping.report.begin()
        self.keeping.hasten()

    def accept(self) -> None:
        """Put another job into the queue."""
        id_ = f"{self.spool.count(State.QUEUED):016x}"
        job = Job(id_, 1, "sea", ".", (), "default", None, clock.stamp(clock.utc()))
        (self.spool.folder(State.QUEUED) / id_).mkdir()
        (self.spool.folder(State.QUEUED) / id_ / "job.json").write_bytes(job.to_json())

    @property
    def status(self) -> dict[str, Any]:
        """Read status.json."""
        document: dict[str, Any] = json.loads((self.spool.root / "status.json").read_bytes())
        return document


@pytest.fixture
def house(make_config: Callable[..., Config], monkeypatch: pytest.MonkeyPatch) -> House:
    """Make one that writes metrics."""
    return House(make_config(metrics={"textfile": "figures.prom"}), monkeypatch)


def _named(records: list[MutableMapping[str, Any]], event: str) -> list[MutableMapping[str, Any]]:
    return [record for record in records if record["event"] == event]


def _counted(monkeypatch: pytest.MonkeyPatch, owner: object, name: str) -> list[Any]:
    """Count calls of something that goes on to work."""
    calls: list[Any] = []
    real = getattr(owner, name)

    def call(*args: Any, **options: Any) -> Any:
        calls.append(args)
        return real(*args, **options)

    monkeypatch.setattr(owner, name, call)
    return calls


def test_each_thing_is_done_when_it_is_due(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    """In an hour of turns: status and watchdog every time, metrics after 5 s, retention once, then again."""
    written = _counted(monkeypatch, metrics, "write")
    expired = _counted(monkeypatch, house.spool, "expire")
    status = _counted(monkeypatch, house.keeping, "write_status")
    for second in range(0, 3600, 3):
        house.keeping.turn(1000.0 + second)
    assert (len(status), len(written), len(expired)) == (1200, 600, 2)
    assert [facts for facts in house.told if "WATCHDOG" in facts] == [{"WATCHDOG": "1"}] * 1200
    house.keeping.turn(4600.0)
    assert [state for state, _age in expired] == [State.DONE, State.FAILED] * 2


def test_nothing_is_forgotten_right_after_a_start(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    """Retention waits five minutes, in which a machine's clock may be set."""
    expired = _counted(monkeypatch, house.spool, "expire")
    house.keeping._dues["retention"] = Housekeeping(
        lambda: house.config,
        house.spool,
        house.outbox,
        house.situation,
        progress=lambda: None,
        heart=house.heart,
    )._dues["retention"]
    house.keeping.turn(house.situation.started + 299)
    assert expired == []
    house.keeping.turn(house.situation.started + 301)
    assert len(expired) == 2


def test_a_changed_config_makes_everything_due(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    """After `hasten` retention and metrics come at the next turn, by the config of that moment."""
    expired = _counted(monkeypatch, house.spool, "expire")
    house.keeping.turn(1000.0)
    days = house.config.outbox.retention_days.model_copy(update={"done": 1.5})
    outbox = house.config.outbox.model_copy(update={"retention_days": days})
    house.config = house.config.model_copy(update={"outbox": outbox})
    house.keeping.turn(1001.0)
    house.keeping.hasten()
    house.keeping.turn(1002.0)
    assert [age for state, age in expired if state is State.DONE] == [timedelta(days=7), timedelta(days=1.5)]
    assert [age for state, age in expired if state is State.FAILED] == [timedelta(days=30)] * 2


def test_the_report_is_written_while_there_is_news_and_not_otherwise(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A report with nothing new is not written again; news are, at most every 10 s."""
    written = _counted(monkeypatch, house.keeping.report, "write")
    house.keeping._dues["retention"] = 2000.0  # before which it is written too
    house.keeping.turn(1000.0)
    assert written == []
    house.accept()
    house.keeping.turn(1001.0)
    house.accept()
    for second in range(2, 11):
        house.keeping.turn(1000.0 + second)
    assert len(written) == 1
    house.keeping.turn(1011.0)
    house.keeping.turn(1030.0)
    assert len(written) == 2


@pytest.mark.parametrize("what", ["metrics", "summary", "retention"])
def test_what_fails_costs_one_warning_and_nothing_else(
    what: str, house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While one thing cannot be done the others are; it is warned of once for each reason, and again later."""
    reason = "disk"

    def fail(*_: object, **__: object) -> None:
        raise OSError(reason)

    owner, name = {
        "metrics": (metrics, "write"),
        "summary": (house.keeping.report, "write"),
        "retention": (house.spool, "expire"),
    }[what]
    real = getattr(owner, name)
    with capture_logs() as records:
        for step, reason in enumerate(["disk", "disk", "share", "share", ""]):
            monkeypatch.setattr(owner, name, fail if reason else real)
            house.accept()
            house.keeping.hasten()
            house.keeping.turn(1000.0 + step)
        reason = "share"
        monkeypatch.setattr(owner, name, fail)
        house.accept()
        house.keeping.hasten()
        house.keeping.turn(2000.0)
    failed = _named(records, "service.report_failed")
    assert [(record["what"], record["error"]) for record in failed] == [
        *((what, "disk"), (what, "share"), (what, "share"))
    ]
    assert len([facts for facts in house.told if "WATCHDOG" in facts]) == 6
    assert house.status["state"] == "running"


def test_a_spool_that_refuses_the_status_is_told_upward_after_the_watchdog(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The pause is the service's to make; but whoever lives has been vouched for."""

    def fail(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(files, "replace", fail)
    with pytest.raises(OSError, match="No space"):
        house.keeping.turn(1000.0)
    assert {"WATCHDOG": "1"} in house.told


def test_a_silent_loop_is_told_once_and_stops_the_watchdog(house: House) -> None:
    """No WATCHDOG while a loop is silent, one record for each silence, and `stalled` in the status."""
    house.heart.beat("intake")
    with capture_logs() as records:
        for now in (0, 151, 152, 400):
            house.heart_now = now
            house.keeping.turn(1000.0 + now)
        assert house.status["stalled"] == ["intake"]
        house.heart.beat("intake")
        house.keeping.turn(1500.0)
        house.heart_now = 600
        house.keeping.turn(1600.0)
    assert len([facts for facts in house.told if "WATCHDOG" in facts]) == 2
    stalled = _named(records, "service.stalled")
    assert [(record["loops"], record["limit_s"]) for record in stalled] == [(["intake"], 150.0)] * 2


def test_the_status_says_what_waits_and_why(house: House) -> None:
    """Pauses make it `paused`, a closed window is named, and a thousand waiting files are counted, not told."""
    waiting = tuple(Waiting(f"{number}.yaml", "waiting for x.png") for number in range(1000))
    house.situation.report = Report((), waiting, 1000, None, is_at_rest=True)
    house.situation.info = INFO
    house.keeping.write_status()
    assert house.status["state"] == "running"
    assert (len(house.status["waiting"]), house.status["waiting_count"]) == (200, 1000)
    assert house.status["waiting"][0] == {"path": "0.yaml", "reason": "waiting for x.png"}
    assert house.status["engine"]["device"] == "fake"
    house.situation.opens_at = "2026-03-02T22:00:00.000+01:00"
    house.keeping.write_status()
    assert house.told[-1]["STATUS"] == "0 queued, starting at 2026-03-02T22:00:00.000+01:00"
    house.situation.paused["outbox"] = "outbox unavailable"
    house.keeping.write_status()
    assert (house.status["state"], house.status["paused"]) == ("paused", {"outbox": "outbox unavailable"})
    assert len(house.told) == 2  # the reason of a pause stays to be read
    house.situation.state = "stopping"
    house.keeping.write_status()
    assert house.status["state"] == "stopping"


def test_the_end_leaves_what_it_can(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    """Status, metrics and report are each tried, whatever the others do, and the record of the run comes."""

    def fail(*_: object, **__: object) -> None:
        raise NotReady("away")

    house.accept()
    house.sentinel.path.unlink()
    monkeypatch.setattr(metrics, "write", fail)
    with capture_logs() as records:
        house.keeping.end()
    assert [record["what"] for record in _named(records, "service.report_failed")] == ["metrics", "summary"]
    (line,) = _named(records, "service.summarized")
    assert (line["accepted"], line["path"]) == (1, None)
    assert house.status["state"] == "running"


def test_a_run_in_which_nothing_happened_says_nothing(house: House) -> None:
    """Neither a report nor a record comes of it."""
    with capture_logs() as records:
        house.keeping.end_night()
        house.keeping.end()
    assert records == []
    assert list(house.tree.outbox.iterdir()) == [house.sentinel.path]


def test_a_night_is_summed_up_once(house: House) -> None:
    """What the close of the window told is not told again at the end of the service."""
    house.accept()
    with capture_logs() as records:
        house.keeping.end_night()
        house.keeping.end_night()
        house.keeping.end()
    (line,) = _named(records, "service.summarized")
    assert line["accepted"] == 1
    assert line["path"] == str(next(house.tree.outbox.glob("summary-*.yaml")))


def test_a_share_that_is_away_is_left_out_of_the_figures(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    """Free bytes of a folder that cannot be asked are missing, not zero; the others are there."""
    real = files.room

    def room(folder: Path) -> files.Room:
        if folder == house.tree.outbox:
            raise OSError(116, "Stale file handle")
        return real(folder)

    monkeypatch.setattr(files, "room", room)
    house.keeping.turn(1000.0)
    assert house.config.metrics.textfile
    text = house.config.metrics.textfile.read_text()
    assert 'free_bytes{folder="spool"}' in text
    assert 'folder="outbox"' not in text


def test_without_a_textfile_no_figures_are_written(
    make_config: Callable[..., Config], monkeypatch: pytest.MonkeyPatch
) -> None:
    """`metrics.textfile: null` writes none; set later, it is written at the next turn that is due."""
    house = House(make_config(), monkeypatch)
    written = _counted(monkeypatch, metrics, "write")
    house.keeping.turn(1000.0)
    assert written == []
    with_file = house.config.metrics.model_copy(update={"textfile": house.spool.root.parent / "later.prom"})
    house.config = house.config.model_copy(update={"metrics": with_file})
    house.keeping.turn(1005.0)
    assert (house.spool.root.parent / "later.prom").exists()


def test_the_retention_is_told_with_its_figures(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    """One record for each state of which jobs were forgotten, none for the other."""
    monkeypatch.setattr(
        house.spool, "expire", lambda state, _age: [object(), object()] if state is State.DONE else []
    )
    with capture_logs() as records:
        house.keeping.turn(1000.0)
    (line,) = _named(records, "spool.expired")
    assert (line["state"], line["jobs"], line["retention_days"]) == ("done", 2, 7)


def test_a_retention_of_any_length_can_be_computed(
    make_config: Callable[..., Config], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The longest that the config takes, and none at all, are spans that the clock understands."""
    house = House(make_config(outbox={"retention_days": {"done": 36_500, "failed": 0}}), monkeypatch)
    house.keeping.turn(1000.0)
    with pytest.raises(Exception, match="retention_days"):
        make_config(outbox={"retention_days": {"done": 10**10}})


def test_the_report_is_written_before_its_records_go(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    """Retention comes after a report, so that what it forgets is counted."""
    acts: list[str] = []
    monkeypatch.setattr(house.keeping.report, "write", lambda *_args, **_options: acts.append("report"))
    monkeypatch.setattr(house.spool, "expire", lambda *_args: acts.append("expire"))
    house.keeping.turn(1000.0)
    assert acts == ["report", "expire", "expire"]
