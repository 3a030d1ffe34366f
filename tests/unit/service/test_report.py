"""The morning report as a query: what is on record is in it, whatever became of the service."""

from __future__ import annotations

import itertools
import os
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest
from structlog.testing import capture_logs

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
        self.spool = Spool(base / "spool", lambda: self.tick().astimezone(UTC))
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
        claim = self.spool.claim()
        assert claim is not None
        if message:
            return self.spool.fail(claim.entry, Failure(Reason.DIVERGED, message))
        self.spool.keep_facts(claim.entry, {"elapsed_s": 1800})
        return self.spool.complete(claim)

    def counts(self, day: str) -> list[tuple[int, int, int]]:
        """Read what was accepted, done and failed by the entries of a report; it is the same by the totals."""
        document = self.read(day)
        runs = [(run["accepted"], run["done"], run["failed"]) for run in document["runs"]]
        assert tuple(map(sum, zip(*runs, strict=True))) == tuple(
            document[name] for name in ("accepted", "done", "failed")
        )
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
    """Totals come first, then the last look, then each run with its failures; one record says it too."""
    report = night.begin()
    for _ in range(3):
        night.accept()
    night.end()
    night.end("the numbers ran away")
    night.set("2026-05-03 23:30")
    with capture_logs() as records:
        report.write([("a.yaml", "waits for a.jpg")], is_final=True)
    totals = {"accepted": 3, "done": 1, "failed": 1, "hours_used": 0.5}
    failure = {"name": "sea-00000000", "reason": "diverged", "message": "the numbers ran away"}
    run = {
        "started_at": clock.stamp(datetime(2026, 5, 3, 22, 0, 1).astimezone()),
        "ended_at": clock.stamp(datetime(2026, 5, 3, 23, 30, 1).astimezone()),
        **totals,
        "reasons": {"diverged": 1},
        "failures": [failure],
        "failures_not_shown": 0,
    }
    look = {"queued": 1, "waiting_count": 1, "waiting": [{"path": "a.yaml", "reason": "waits for a.jpg"}]}
    document = night.read("03")
    assert document == {"date": "2026-05-03", **totals, **look, "runs": [run]}
    assert list(document)[:5] == ["date", *totals]
    path = str(night.outbox.root / "summary-2026-05-03.yaml")
    line = {"event": "service.summarized", "log_level": "info", "path": path, "waiting": 1, **totals}
    assert records == [line]


def test_a_run_that_goes_on_stays_one_entry_and_is_written_when_something_changed(night: Night) -> None:
    """Written again, the run is there once, with its newest counts; it has an end at its end."""
    report = night.begin()
    for count in (1, 2, 3):
        assert not report.is_due
        night.accept()
        assert report.is_due
        night.end()
        report.write([], is_final=count == 3)
        assert night.counts("03") == [(count, count, 0)]
        assert (night.read("03")["runs"][0]["ended_at"] is None) is (count < 3)


@pytest.mark.parametrize(("waiting", "queued", "is_worth_it"), [(0, 0, False), (1, 0, True), (0, 1, True)])
def test_only_what_was_or_is_to_be_done_is_worth_a_report(
    night: Night, waiting: int, queued: int, *, is_worth_it: bool
) -> None:
    """A run that did nothing although there was work says so; one without work leaves no file."""
    for _ in range(queued):
        night.accept()
    night.begin().write([("a.yaml", "settling")] * waiting, is_final=True)
    assert night.days == ["03"] * is_worth_it


def test_a_night_is_whole_under_the_date_of_its_morning(night: Night) -> None:
    """Over midnight the run moves; yesterday's report, which held nothing else, goes."""
    report = night.begin()
    night.accept()
    report.write([], is_final=False)
    assert night.days == ["03"]
    night.set("2026-05-04 05:00")
    night.end()
    report.write([], is_final=True)
    assert night.days == ["04"]
    assert night.counts("04") == [(1, 1, 0)]


def test_a_service_that_is_always_on_leaves_a_report_a_day(night: Night) -> None:
    """Each day keeps its own counts, also of what came between the last write and midnight."""
    night.set("2026-05-03 09:00")
    report = night.begin()
    for day in (3, 4, 5):
        night.set(f"2026-05-0{day} 18:00")
        night.accept()
        report.write([("w", "waits")], is_final=False)
        night.set(f"2026-05-0{day} 23:59")
        night.end()
    night.set("2026-05-06 00:10")
    night.accept()
    report.write([], is_final=True)
    assert [night.counts(day) for day in night.days] == [[(1, 1, 0)]] * 3 + [[(1, 0, 0)]]
    runs = [run for day in night.days for run in night.read(day)["runs"]]
    assert [run["started_at"][8:16] for run in runs] == ["03T09:00", "04T00:00", "05T00:00", "06T00:00"]
    assert [run["ended_at"][8:16] for run in runs] == ["04T00:00", "05T00:00", "06T00:00", "06T00:10"]


def test_day_and_night_of_a_service_are_reported_apart(night: Night) -> None:
    """What a night ended with is no part of the next run; a run in which nothing happened leaves no entry."""
    night.set("2026-05-03 09:00")
    report = night.begin()
    night.accept()
    for shown in ("2026-05-03 22:00", "2026-05-04 06:00", "2026-05-04 22:00"):
        night.set(shown)
        report.write([("w", "waits")], is_final=True)
        report.begin()
        if shown.endswith("03 22:00"):
            night.set("2026-05-04 01:00")
            night.end()
    assert (night.counts("03"), night.counts("04")) == ([(1, 0, 0)], [(0, 1, 0)])
    assert night.read("04")["runs"][0]["started_at"][8:16] == "03T22:00"


@pytest.mark.parametrize("back", ["2026-05-03 23:30", "2026-05-04 08:00", "2026-05-08 08:00"])
def test_a_crash_loses_no_counts(night: Night, back: str) -> None:
    """What was recorded after the last write stands in the dead run's entry once a service is back."""
    report = night.begin()
    night.accept()
    night.accept()
    night.end("first")
    report.write([], is_final=False)
    night.end()
    night.set(back)
    later = night.begin()
    night.accept()
    later.write([], is_final=True)
    assert night.days == sorted({"03", back[8:10]})
    assert night.counts("03")[0] == (2, 1, 1)
    assert night.counts(back[8:10])[-1] == (1, 0, 0)
    assert night.read("03")["runs"][0]["ended_at"] is None


@pytest.mark.parametrize("is_crashed", [False, True])
def test_jobs_that_are_forgotten_stay_counted(night: Night, *, is_crashed: bool) -> None:
    """Retention takes nothing out of a report that has it, also where the service dies after that."""
    report = night.begin()
    night.accept()
    ended = night.end()
    report.write([], is_final=False)
    night.spool.set_retired(ended.id)
    assert night.spool.expire(State.DONE, timedelta(0))
    night.accept()
    (night.begin() if is_crashed else report).write([], is_final=False)
    assert night.counts("03")[0][1] == 1


def test_a_job_that_is_retried_has_two_ends(night: Night) -> None:
    """The failure stays in the report with its message, and the painting is there too."""
    report = night.begin()
    night.accept()
    ended = night.end("ran away")
    report.write([], is_final=False)
    night.spool.retry(ended)
    night.end()
    report.write([], is_final=True)
    assert night.counts("03") == [(1, 1, 1)]
    assert night.read("03")["runs"][0]["failures"][0]["message"] == "ran away"


@pytest.mark.parametrize("is_final", [False, True])
def test_an_outbox_that_is_away_is_written_when_it_is_back(night: Night, *, is_final: bool) -> None:
    """Nothing is written under an empty mount point, the record comes, and nothing is lost afterwards."""
    report = night.begin()
    night.accept()
    night.sentinel.path.unlink()
    with capture_logs() as records, pytest.raises(NotReady):
        report.write([], is_final=is_final)
    assert [(line["accepted"], line["path"]) for line in records] == [(1, None)] * is_final
    assert list(night.outbox.root.iterdir()) == []
    assert report.is_due
    if is_final:
        report.begin()
    night.end()
    night.sentinel.path.touch()
    report.write([], is_final=True)
    assert night.counts("03") == ([(1, 0, 0), (0, 1, 0)] if is_final else [(1, 1, 0)])


def test_only_the_jobs_of_the_run_are_read(night: Night, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of thousands of earlier jobs no file is opened, and of the others those that changed."""
    for _ in range(20):
        night.accept()
        ended = night.end()
        os.utime(ended.folder / "attempts.jsonl", (0, 0))
    report = night.begin()
    read: list[str] = []
    real = StoredJob.attempts.fget
    assert real is not None

    def attempts(job: StoredJob) -> list[dict[str, Any]]:
        read.append(job.id)
        records: list[dict[str, Any]] = real(job)
        return records

    monkeypatch.setattr(StoredJob, "attempts", property(attempts))
    for _ in range(2):
        night.accept()
        report.write([], is_final=False)
    assert [int(id_, 16) for id_ in read] == [21, 22]


def test_records_that_are_damaged_or_missing_cost_little(night: Night) -> None:
    """A torn line of runs is passed over; an end that a full disk did not take on record is counted too."""
    (night.spool.root / "runs.jsonl").write_text('{"event": "started"\n[]\n{"event": "started", "at": 3}\n')
    report = night.begin()
    night.accept()
    ended = night.end()
    lines = (ended.folder / "attempts.jsonl").read_text().splitlines(keepends=True)
    (ended.folder / "attempts.jsonl").write_text("".join(lines[:-1]))
    os.utime(ended.folder, (night.now.timestamp(), night.now.timestamp()))
    report.write([], is_final=True)
    assert night.counts("03") == [(1, 1, 0)]
