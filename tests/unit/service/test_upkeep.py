"""What is done beside the work: each thing when it is due, none at another's cost."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Any

import pytest
from structlog.testing import capture_logs
from support.trees import Tree, named

from daemon import clock, files
from daemon.errors import NotReady
from daemon.job import Job, State
from daemon.outbox.publish import Outbox
from daemon.sentinel import Sentinel
from daemon.service import metrics
from daemon.service.status import Situation
from daemon.service.upkeep import Upkeep
from daemon.spool import Spool
from daemon.worker.attempt import Attempts

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from daemon.config import Config


class House:
    """An upkeep on a tree, with its parts in reach and a notebook of what it did."""

    def __init__(self, config: Config) -> None:
        self.tree = Tree(config)
        self.spool = Spool(config.folders.spool)
        self.spool.prepare()
        self.sentinel = Sentinel(self.tree.outbox, "outbox", config.folders.spool / "met-outbox")
        self.sentinel.establish()
        self.situation = Situation(config, state="running")
        self.upkeep = self.make()
        self.upkeep.report.begin()
        self.upkeep.hasten()

    def accept(self) -> None:
        """Put another job into the queue."""
        id_ = f"{self.spool.count(State.QUEUED):016x}"
        job = Job(id_, 1, "sea", ".", (), "default", None, clock.stamp(clock.utc()))
        (self.spool.folder(State.QUEUED) / id_).mkdir()
        (self.spool.folder(State.QUEUED) / id_ / "job.json").write_bytes(job.to_json())

    def make(self) -> Upkeep:
        """Make one, as at a start."""
        return Upkeep(self.spool, Outbox(self.tree.outbox, self.sentinel), self.situation, Attempts())

    def change(self, **sections: Any) -> None:
        """Lay other sections over the config, as a reload does."""
        self.situation.config = self.situation.config.model_copy(update=sections)


@pytest.fixture
def house(make_config: Callable[..., Config]) -> House:
    """Make one that writes metrics."""
    return House(make_config(metrics={"textfile": "figures.prom"}))


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
    """In an hour of turns: metrics after 5 s, retention once, then again."""
    written = _counted(monkeypatch, metrics, "write")
    expired = _counted(monkeypatch, house.spool, "expire")
    for second in range(0, 3600, 3):
        house.upkeep.turn(1000.0 + second)
    assert (len(written), len(expired)) == (600, 2)
    house.upkeep.turn(4600.0)
    assert [state for state, _age in expired] == [State.DONE, State.FAILED] * 2


def test_nothing_is_forgotten_right_after_a_start(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    """Retention waits five minutes, in which a machine's clock may be set."""
    expired = _counted(monkeypatch, house.spool, "expire")
    house.upkeep = house.make()
    house.upkeep.turn(house.situation.started + 299)
    assert expired == []
    house.upkeep.turn(house.situation.started + 301)
    assert len(expired) == 2


def test_a_changed_config_makes_everything_due(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    """After `hasten` retention and metrics come at the next turn, by the config of that moment."""
    expired = _counted(monkeypatch, house.spool, "expire")
    house.upkeep.turn(1000.0)
    outbox = house.situation.config.outbox
    days = outbox.retention_days.model_copy(update={"done": 1.5})
    house.change(outbox=outbox.model_copy(update={"retention_days": days}))
    house.upkeep.turn(1001.0)
    house.upkeep.hasten()
    house.upkeep.turn(1002.0)
    assert [age for state, age in expired if state is State.DONE] == [timedelta(days=7), timedelta(days=1.5)]
    assert [age for state, age in expired if state is State.FAILED] == [timedelta(days=30)] * 2


def test_the_report_is_written_when_it_is_due(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is new is reported every 10 s."""
    written: list[bool] = []
    monkeypatch.setattr(house.upkeep.report, "write", lambda *_args, is_final: written.append(is_final))
    house.upkeep.turn(1000.0)
    written.clear()  # what came before the retention
    for second in range(1, 22):
        house.upkeep.turn(1000.0 + second)
    assert written == [False, False]


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
        "summary": (house.upkeep.report, "write"),
        "retention": (house.spool, "expire"),
    }[what]
    real = getattr(owner, name)
    with capture_logs() as records:
        for step, reason in enumerate(["disk", "disk", "share", "share", ""]):
            monkeypatch.setattr(owner, name, fail if reason else real)
            house.accept()
            house.upkeep.hasten()
            house.upkeep.turn(1000.0 + step)
        reason = "share"
        monkeypatch.setattr(owner, name, fail)
        house.accept()
        house.upkeep.hasten()
        house.upkeep.turn(2000.0)
    failed = named(records, "service.report_failed")
    assert [(record["what"], record["error"]) for record in failed] == [
        *((what, "disk"), (what, "share"), (what, "share"))
    ]


def test_the_end_leaves_what_it_can(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    """Metrics and report are each tried, whatever the others do, and the record of the run comes."""

    def fail(*_: object, **__: object) -> None:
        raise NotReady("away")

    house.accept()
    house.sentinel.path.unlink()
    monkeypatch.setattr(metrics, "write", fail)
    with capture_logs() as records:
        house.upkeep.end()
    assert [record["what"] for record in named(records, "service.report_failed")] == ["metrics", "summary"]
    (line,) = named(records, "service.summarized")
    assert (line["accepted"], line["path"]) == (1, None)


def test_a_run_in_which_nothing_happened_says_nothing(house: House) -> None:
    """Neither a report nor a record comes of it."""
    with capture_logs() as records:
        house.upkeep.report.end_night()
        house.upkeep.turn(1000.0)
        house.upkeep.end()
    assert records == []
    assert list(house.tree.outbox.iterdir()) == [house.sentinel.path]


def test_a_night_is_summed_up_once(house: House) -> None:
    """What was reported at the close of the window is not reported again at the end of the service."""
    house.accept()
    with capture_logs() as records:
        house.upkeep.report.end_night()
        house.upkeep.turn(1000.0)
        house.upkeep.report.end_night()
        house.upkeep.end()
    (line,) = named(records, "service.summarized")
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
    house.upkeep.turn(1000.0)
    path = house.situation.config.metrics.textfile
    text = path.read_text()
    assert 'free_bytes{folder="spool"}' in text
    assert 'folder="outbox"' not in text


def test_without_a_textfile_no_figures_are_written(
    make_config: Callable[..., Config], monkeypatch: pytest.MonkeyPatch
) -> None:
    """`metrics.textfile: null` writes none; set later, it is written at the next turn that is due."""
    house = House(make_config())
    written = _counted(monkeypatch, metrics, "write")
    house.upkeep.turn(1000.0)
    assert written == []
    metrics_file = house.spool.root.parent / "later.prom"
    house.change(metrics=house.situation.config.metrics.model_copy(update={"textfile": metrics_file}))
    house.upkeep.turn(1005.0)
    assert (house.spool.root.parent / "later.prom").exists()


def test_the_retention_is_logged_with_its_figures(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    """One record for each state of which jobs were forgotten, none for the other."""
    monkeypatch.setattr(
        house.spool, "expire", lambda state, _age: [object(), object()] if state is State.DONE else []
    )
    with capture_logs() as records:
        house.upkeep.turn(1000.0)
    (line,) = named(records, "spool.expired")
    assert (line["state"], line["jobs"], line["retention_days"]) == ("done", 2, 7)


def test_a_retention_of_any_length_can_be_computed(make_config: Callable[..., Config]) -> None:
    """The longest that the config takes, and none at all, are spans that the clock understands."""
    house = House(make_config(outbox={"retention_days": {"done": 36_500, "failed": 0}}))
    house.upkeep.turn(1000.0)
    with pytest.raises(Exception, match="retention_days"):
        make_config(outbox={"retention_days": {"done": 10**10}})


def test_the_report_is_written_before_its_records_go(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    """Retention comes after a report, so that what it forgets is counted."""
    acts: list[str] = []
    monkeypatch.setattr(house.upkeep.report, "write", lambda *_args, **_options: acts.append("report"))
    monkeypatch.setattr(house.spool, "expire", lambda *_args: acts.append("expire"))
    house.upkeep.turn(1000.0)
    assert acts[-3:] == ["report", "expire", "expire"]
