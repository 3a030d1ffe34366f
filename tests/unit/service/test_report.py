"""The morning report as a query: what is on record is in it, whatever happened to the service."""

from __future__ import annotations

import itertools
import json
import os
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest
from structlog.testing import capture_logs
from support.trees import claim_next

from daemon import clock, safe_yaml
from daemon.errors import Failure, NotReady, Reason
from daemon.job import Job, State
from daemon.outbox.publish import Outbox
from daemon.sentinel import Sentinel
from daemon.service.report import Report
from daemon.spool import Spool, StoredJob

if TYPE_CHECKING:
    from pathlib import Path


class Night:
    """A spool, an outbox and a clock set by hand, by which a second passes with every record."""

    def __init__(self, base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.set("2026-05-03 22:00")
        monkeypatch.setattr(clock, "local", self.tick)
        monkeypatch.setattr(clock, "utc", lambda: self.tick().astimezone(UTC))
        self.spool = Spool(base / "spool")
        self.spool.prepare()
        self.sentinel = Sentinel(base / "outbox", "outbox", base / "met")
        self.sentinel.establish()
        self.outbox = Outbox(self.sentinel.folder, self.sentinel)
        self._numbers = itertools.count(1)

    def set(self, shown: str) -> None:
        """Set the clock."""
        self.now = datetime.fromisoformat(shown).astimezone()

    def tick(self) -> datetime:
        """Look at the clock."""
        self.now += timedelta(seconds=1)
        return self.now

    def begin(self) -> Report:
        """Start a process."""
        report = Report(self.spool, self.outbox)
        report.begin()
        return report

    def accept(self) -> None:
        """Put a job into the queue."""
        id_ = f"{next(self._numbers):016x}"
        job = Job(id_, 1, "sea", ".", (), "default", None, clock.stamp(self.tick().astimezone(UTC)))
        (self.spool.folder(State.QUEUED) / id_).mkdir()
        (self.spool.folder(State.QUEUED) / id_ / "job.json").write_bytes(job.to_json())

    def end(self, message: str = "") -> StoredJob:
        """End the next job, as a failure if there is a message, else as painted in half an hour."""
        claim = claim_next(self.spool)
        if message:
            return self.spool.fail(claim.entry, Failure(Reason.DIVERGED, message))
        self.spool.keep_facts(claim.entry, {"elapsed_s": 1800})
        return self.spool.complete(claim.entry)

    def counts(self, day: str) -> list[tuple[int, int, int]]:
        """Read what was accepted, done and failed by the entries of a report; its totals are their sums."""
        document = self.read(day)
        names = ("accepted", "done", "failed")
        runs = [(run["accepted"], run["done"], run["failed"]) for run in document["runs"]]
        assert [sum(counts) for counts in zip(*runs, strict=True)] == [document[name] for name in names]
        return runs

    def read(self, day: str) -> dict[str, Any]:
        """Read a report as anybody may."""
        data = (self.outbox.root / f"summary-2026-05-{day}.yaml").read_bytes()
        document: dict[str, Any] = safe_yaml.parse(data)
        return document

    @property
    def days(self) -> list[str]:
        """List the reports."""
        return sorted(path.stem[-2:] for path in self.outbox.root.glob("summary-*"))


@pytest.fixture
def night(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Night:
    """Begin on a Sunday evening."""
    return Night(tmp_path, monkeypatch)


def test_a_report_says_everything(night: Night) -> None:
    """Totals come first, then what waits, then each run with its failures; one record says it too."""
    report = night.begin()
    for _ in range(3):
        night.accept()
    night.end()
    night.end("the numbers ran away")
    night.set("2026-05-03 23:30")
    with capture_logs() as records:
        report.write([("a.yaml", "waits for a.jpg")], is_final=True)
    totals = {"accepted": 3, "done": 1, "failed": 1, "hours_used": 0.5}
    run = {
        "started_at": clock.stamp(datetime(2026, 5, 3, 22, 0, 2).astimezone()),
        "ended_at": clock.stamp(datetime(2026, 5, 3, 23, 30, 1).astimezone()),
        **totals,
        "reasons": {"diverged": 1},
        "failures": [{"name": "sea-00000000", "reason": "diverged", "message": "the numbers ran away"}],
        "failures_not_shown": 0,
    }
    waits = {"queued": 1, "waiting_count": 1, "waiting": [{"path": "a.yaml", "reason": "waits for a.jpg"}]}
    document = night.read("03")
    assert document == {"date": "2026-05-03", **totals, **waits, "runs": [run]}
    assert list(document)[:5] == ["date", *totals]
    path = str(night.outbox.root / "summary-2026-05-03.yaml")
    line = {"event": "service.summarized", "log_level": "info", "path": path, "waiting": 1, **totals}
    assert records == [line]


@pytest.mark.parametrize(("waiting", "queued", "is_worth_it"), [(0, 0, False), (1, 0, True), (0, 1, True)])
def test_only_what_was_or_is_to_be_done_is_worth_a_report(
    night: Night, waiting: int, queued: int, *, is_worth_it: bool
) -> None:
    """A run that did nothing although there was work says so; one without work leaves no file."""
    for _ in range(queued):
        night.accept()
    night.begin().write([("a.yaml", "settling")] * waiting, is_final=True)
    assert night.days == ["03"] * is_worth_it


@pytest.mark.parametrize("is_up", [True, False], ids=["outbox there", "outbox away"])
def test_a_service_that_is_always_on_leaves_a_report_a_day(night: Night, *, is_up: bool) -> None:
    """Each day has its own counts, also where the outbox was away for days."""
    night.set("2026-05-03 09:00")
    report = night.begin()
    for day in (3, 4, 5):
        night.set(f"2026-05-0{day} 23:59")
        night.accept()
        night.end()
        assert report.is_due
        night.set(f"2026-05-0{day + 1} 00:00")
        assert report.is_due
        if is_up:
            report.write([("w", "waits")], is_final=False)
    report.write([], is_final=True)
    assert [night.counts(day) for day in night.days] == [[(1, 1, 0)]] * 3
    runs = [run for day in night.days for run in night.read(day)["runs"]]
    assert [run["started_at"][8:16] for run in runs] == ["03T09:00", "04T00:00", "05T00:00"]
    assert [run["ended_at"][8:16] for run in runs] == ["03T23:59", "04T23:59", "05T23:59"]


def test_a_night_is_reported_so_far_and_moves_to_its_morning(night: Night) -> None:
    """What happened is in the report at once, without an end; after midnight it is under that date."""
    night.set("2026-05-03 22:00")
    report = night.begin()
    assert not report.is_due
    night.accept()
    assert report.is_due
    report.write([], is_final=False)
    assert not report.is_due
    assert (night.days, night.counts("03")) == (["03"], [(1, 0, 0)])
    (night.outbox.root / "summary-2026-05-03.yaml").unlink()
    report.write([("w", "waits")], is_final=False)
    assert night.days == []  # nothing is new
    night.set("2026-05-04 01:00")
    night.end()
    report.write([("w", "waits")], is_final=False)
    assert (night.days, night.counts("04")) == (["04"], [(1, 1, 0)])
    assert (night.read("04")["waiting_count"], night.read("04")["runs"][0]["ended_at"]) == (1, None)


def test_a_clock_that_was_years_behind_costs_little(night: Night) -> None:
    """A machine that learns the date after the start has its jobs in the report of today."""
    night.set("1970-01-02 00:00")
    report = night.begin()
    night.set("2026-05-03 22:00")
    night.accept()
    night.end()
    report.write([], is_final=True)
    assert night.days == ["03"]


def test_day_and_night_of_a_service_are_reported_apart(night: Night) -> None:
    """A night is whole under the date of its morning; what it ended with is no part of the next run."""
    night.set("2026-05-03 09:00")
    report = night.begin()
    night.accept()
    night.set("2026-05-03 22:00")
    report.end_night()
    assert report.is_due
    night.set("2026-05-04 01:00")
    night.end()
    report.write([], is_final=False)
    assert night.read("03")["runs"][0]["ended_at"][8:16] == "03T22:00"
    assert night.read("04")["runs"][0]["ended_at"] is None
    report.end_night()
    report.write([("w", "waits")], is_final=True)
    assert (night.counts("03"), night.counts("04")) == ([(1, 0, 0)], [(0, 1, 0)])
    assert night.read("04")["runs"][0]["started_at"][8:16] == "03T22:00"


@pytest.mark.parametrize(("back", "day"), [("03 23:30", "03"), ("04 08:00", "04"), ("08 08:00", "04")])
def test_a_crash_loses_no_counts(night: Night, back: str, day: str) -> None:
    """A run that was cut short has an entry without an end once a service is back, apart from that one's."""
    night.begin()
    night.accept()
    night.accept()
    night.end("first")
    night.end()
    night.set(f"2026-05-{back}")
    later = night.begin()
    assert night.counts(day) == [(2, 1, 1)]
    assert night.read(day)["runs"][0]["ended_at"] is None
    night.accept()
    later.write([], is_final=True)
    assert night.days == sorted({day, back[:2]})
    assert night.counts(back[:2])[-1] == (1, 0, 0)


def test_jobs_that_are_forgotten_stay_counted(night: Night) -> None:
    """Retention takes nothing out of a report that is written later."""
    report = night.begin()
    night.accept()
    ended = night.end()
    report.write([], is_final=False)
    night.spool.set_retired(ended.id)
    assert night.spool.expire(State.DONE, timedelta(0))
    night.accept()
    report.write([], is_final=True)
    assert night.counts("03") == [(2, 1, 0)]


def test_a_job_that_is_retried_is_counted_as_it_ended(night: Night) -> None:
    """A failure that was retried in the same night is a painting in the end."""
    report = night.begin()
    night.accept()
    night.spool.retry(night.end("ran away"))
    night.end()
    report.write([], is_final=True)
    assert night.counts("03") == [(1, 1, 0)]


@pytest.mark.parametrize("is_crashed", [False, True])
def test_an_outbox_that_is_away_is_written_when_it_is_back(night: Night, *, is_crashed: bool) -> None:
    """Nothing is written under an empty mount point, the record comes, and the next entry counts everything."""
    report = night.begin()
    night.accept()
    night.sentinel.path.unlink()
    with capture_logs() as records, pytest.raises(NotReady):
        report.write([], is_final=True)
    assert [(line["accepted"], line["path"]) for line in records] == [(1, None)]
    assert list(night.outbox.root.iterdir()) == []
    report = night.begin() if is_crashed else report
    night.end()
    night.sentinel.path.touch()
    report.write([], is_final=True)
    assert night.counts("03") == [(1, 1, 0)]


def test_only_the_jobs_of_the_run_are_read(night: Night, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of thousands of earlier jobs no file is opened."""
    for _ in range(20):
        night.accept()
        ended = night.end()
        for name in ("attempts.jsonl", "job.json"):
            os.utime(ended.folder / name, (0, 0))
    report = night.begin()
    read: list[int] = []
    real = Job.from_json
    monkeypatch.setattr(
        Job, "from_json", lambda data: read.append(int(json.loads(data)["id"], 16)) or real(data)
    )
    night.accept()
    report.write([], is_final=True)
    assert read == [21]


@pytest.mark.parametrize("text", ["", '{"event": "started"\n', "[]", '{"event": "started", "at": 3}'])
def test_records_that_are_damaged_or_missing_cost_little(night: Night, text: str) -> None:
    """A torn line of runs is passed over; an end that a full disk did not take on record is counted too."""
    (night.spool.root / "runs.jsonl").write_text(text)
    report = night.begin()
    night.accept()
    ended = night.end()
    lines = (ended.folder / "attempts.jsonl").read_text().splitlines(keepends=True)
    (ended.folder / "attempts.jsonl").write_text("".join(lines[:-1]))
    os.utime(ended.folder, (night.now.timestamp(), night.now.timestamp()))
    report.write([], is_final=True)
    assert night.counts("03") == [(1, 1, 0)]
