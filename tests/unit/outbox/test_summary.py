"""The morning report: what it says, under which date, and that no trouble loses it."""

from __future__ import annotations

import os
import threading
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any
from zoneinfo import ZoneInfo

import pytest
from support.fakes import Disk, Killed

from daemon import safe_yaml
from daemon.errors import NotReady, Reason
from daemon.outbox import runs
from daemon.outbox.summary import Summary

if TYPE_CHECKING:
    from pathlib import Path

BERLIN = ZoneInfo("Europe/Berlin")
TEXTS = ("plain", "ä" * 500, "'\"\\\n\x85\u2028: #", "- \udcff", "\U0001f3a8 " * 200)


class Night:
    """An outbox, a clock set by hand, and a share that may be away."""

    def __init__(self, root: Path) -> None:
        """Begin on a Sunday evening."""
        self.root = root
        self.now = datetime(2026, 5, 3, 22, 0, tzinfo=BERLIN)
        self.is_away = False

    def at(self, text: str) -> None:
        """Set the clock."""
        self.now = datetime.fromisoformat(text).replace(tzinfo=BERLIN)

    def check(self) -> None:
        """Say whether the outbox is there."""
        if self.is_away:
            raise NotReady("outbox unavailable")

    def begin(self) -> Summary:
        """Start a process; no two start at the same moment."""
        self.now += timedelta(seconds=1)
        return Summary(self.root, self.check, lambda: self.now)

    def names(self) -> list[str]:
        """List the outbox."""
        return sorted(path.name for path in self.root.iterdir())

    def read(self, day: str) -> dict[str, Any]:
        """Read a report as anybody may."""
        data: dict[str, Any] = safe_yaml.parse((self.root / f"summary-{day}.yaml").read_bytes())
        return data


@pytest.fixture
def night(tmp_path: Path) -> Night:
    """Make an empty outbox."""
    return Night(tmp_path)


def work(summary: Summary) -> None:
    """Have two drops taken, one painted in half an hour, one refused."""
    summary.accepted()
    summary.accepted()
    summary.completed(1800)
    summary.failed("wave-00000000", "bad_sidecar", "1 fault: sise")


def test_a_report_says_everything(night: Night) -> None:
    """Totals come first, then the last look, then each run with its failures and their reasons."""
    summary = night.begin()
    work(summary)
    night.at("2026-05-03 23:30")
    path = summary.write([("a.yaml", "waits for a.jpg")], 4, is_final=True)
    assert path == night.root / "summary-2026-05-03.yaml"
    document = night.read("2026-05-03")
    assert document == {
        "date": "2026-05-03",
        "accepted": 2,
        "done": 1,
        "failed": 1,
        "hours_used": 0.5,
        "queued": 4,
        "waiting_count": 1,
        "waiting": [{"path": "a.yaml", "reason": "waits for a.jpg"}],
        "runs": [
            {
                "started_at": "2026-05-03T22:00:01.000+02:00",
                "ended_at": "2026-05-03T23:30:00.000+02:00",
                "accepted": 2,
                "done": 1,
                "failed": 1,
                "hours_used": 0.5,
                "reasons": {"bad_sidecar": 1},
                "failures": [{"name": "wave-00000000", "reason": "bad_sidecar", "message": "1 fault: sise"}],
                "failures_not_shown": 0,
            }
        ],
    }
    assert list(document)[:5] == ["date", "accepted", "done", "failed", "hours_used"]


def test_a_run_that_goes_on_has_no_end_and_stays_one_entry(night: Night) -> None:
    """Written again and again, the run is there once, with its newest counts; it has an end at its end."""
    summary = night.begin()
    for done in (1, 2, 3):
        summary.completed(1)
        summary.write([], 0, is_final=done == 3)
        (run,) = night.read("2026-05-03")["runs"]
        assert run["done"] == done
        assert (run["ended_at"] is None) is (done < 3)


def test_nothing_to_say_writes_nothing(night: Night) -> None:
    """A run in which nothing happened and after which nothing is to be done leaves no file."""
    assert night.begin().write([], 0, is_final=True) is None
    assert night.names() == []


@pytest.mark.parametrize(("waiting", "queued"), [([("a.yaml", "settling")], 0), ([], 1)])
def test_what_is_left_to_do_is_worth_a_report(
    night: Night, waiting: list[tuple[str, str]], queued: int
) -> None:
    """A night that did nothing although there was work says so."""
    assert night.begin().write(waiting, queued, is_final=True)
    assert night.read("2026-05-03")["runs"][0]["accepted"] == 0


def test_runs_of_one_day_stand_side_by_side(night: Night) -> None:
    """A second process keeps what the first wrote, and the totals are of both."""
    for _ in range(2):
        summary = night.begin()
        work(summary)
        summary.write([], 0, is_final=True)
    document = night.read("2026-05-03")
    assert [run["accepted"] for run in document["runs"]] == [2, 2]
    assert (document["accepted"], document["done"], document["hours_used"]) == (4, 2, 1.0)


def test_two_processes_at_once_do_not_lose_each_others_run(night: Night) -> None:
    """Each writes only its own entry, whoever wrote last."""
    first, second = night.begin(), night.begin()
    for summary in (first, second, first, second):
        summary.accepted()
        summary.write([], 0, is_final=False)
    assert [run["accepted"] for run in night.read("2026-05-03")["runs"]] == [2, 2]


def test_a_night_is_whole_under_the_date_of_its_morning(night: Night) -> None:
    """Over midnight the run moves; yesterday's report, which held nothing else, goes."""
    summary = night.begin()
    summary.accepted()
    summary.write([], 1, is_final=False)
    assert night.names() == ["summary-2026-05-03.yaml"]
    night.at("2026-05-04 05:00")
    summary.completed(3600)
    summary.write([], 0, is_final=True)
    assert night.names() == ["summary-2026-05-04.yaml"]
    (run,) = night.read("2026-05-04")["runs"]
    assert (run["started_at"][:10], run["accepted"], run["done"]) == ("2026-05-03", 1, 1)


def test_yesterdays_report_keeps_the_runs_of_others(night: Night) -> None:
    """A run that moves on takes only itself, and its share of the totals, away."""
    earlier = night.begin()
    work(earlier)
    earlier.write([("w", "waits")], 3, is_final=True)
    summary = night.begin()
    summary.accepted()
    summary.write([("w", "waits")], 3, is_final=False)
    night.at("2026-05-04 00:05")
    summary.completed(1)
    summary.write([], 0, is_final=True)
    left = night.read("2026-05-03")
    assert [run["accepted"] for run in left["runs"]] == [2]
    assert (left["accepted"], left["queued"], left["waiting_count"]) == (2, 3, 1)
    assert night.read("2026-05-04")["accepted"] == 1


def test_a_service_that_is_always_on_leaves_a_report_a_day(night: Night) -> None:
    """Each day keeps its own counts, each run begins where the last ended, and nothing is lost between."""
    night.at("2026-05-03 09:00")
    summary = night.begin()
    for day in (3, 4, 5):
        night.at(f"2026-05-0{day} 18:00")
        summary.accepted()
        summary.write([("w", "waits")], day, is_final=False)
        night.at(f"2026-05-0{day} 23:59")
        summary.completed(3600)  # stands in the next report to be written, of the next day
    night.at("2026-05-06 00:10")
    summary.write([], 0, is_final=True)
    days = [f"2026-05-0{n}" for n in (3, 4, 5, 6)]
    assert night.names() == [f"summary-{day}.yaml" for day in days]
    reports = [night.read(day) for day in days]
    assert [(report["accepted"], report["done"]) for report in reports] == [(1, 0), (1, 1), (1, 1), (0, 1)]
    assert [report["queued"] for report in reports] == [3, 4, 5, 0]
    spans = [(run["started_at"][8:16], run["ended_at"][8:16]) for report in reports for run in report["runs"]]
    assert spans == [
        ("03T09:00", "03T18:00"),
        ("03T18:00", "04T18:00"),
        ("04T18:00", "05T18:00"),
        ("05T18:00", "06T00:10"),
    ]


def test_a_day_that_cannot_be_ended_yet_is_ended_later(night: Night) -> None:
    """Where the outbox is away at the turn of the day, each day still gets its own counts afterwards."""
    night.at("2026-05-03 09:00")
    summary = night.begin()
    summary.accepted()
    summary.write([], 0, is_final=False)
    night.at("2026-05-04 10:00")
    summary.completed(1)
    night.is_away = True
    with pytest.raises(NotReady):
        summary.write([], 0, is_final=False)
    assert summary.is_dirty
    night.is_away = False
    summary.write([], 0, is_final=False)
    assert [(r["accepted"], r["done"]) for r in map(night.read, ("2026-05-03", "2026-05-04"))] == [
        (1, 0),
        (0, 1),
    ]


def test_a_run_ended_as_the_window_opens_makes_the_night_one_run(night: Night) -> None:
    """A service that ends its run at 22:00 and at 06:00 reports day and night apart, the night in one piece."""
    night.at("2026-05-03 09:00")
    summary = night.begin()
    summary.accepted()
    summary.write([], 1, is_final=False)
    night.at("2026-05-03 22:00")
    summary.write([], 1, is_final=True)
    for clock in ("2026-05-03 23:00", "2026-05-04 01:00", "2026-05-04 06:00"):
        night.at(clock)
        summary.completed(3600)
        summary.write([], 0, is_final=clock.endswith("06:00"))
    assert [(run["accepted"], run["done"]) for run in night.read("2026-05-03")["runs"]] == [(1, 0)]
    assert [(run["accepted"], run["done"]) for run in night.read("2026-05-04")["runs"]] == [(0, 3)]
    assert night.read("2026-05-04")["runs"][0]["started_at"] == "2026-05-03T22:00:00.000+02:00"


def test_a_quiet_day_does_not_count_to_the_night(night: Night) -> None:
    """A run that ends with nothing to say still ends: the next one begins there."""
    night.at("2026-05-03 06:00")
    summary = night.begin()
    night.at("2026-05-03 22:00")
    assert summary.write([], 0, is_final=True) is None
    summary.accepted()
    summary.write([], 0, is_final=False)
    assert night.read("2026-05-03")["runs"][0]["started_at"] == "2026-05-03T22:00:00.000+02:00"


def test_what_comes_after_an_end_is_another_run(night: Night) -> None:
    """A service may end its run when the window closes, and go on."""
    summary = night.begin()
    work(summary)
    summary.write([], 0, is_final=True)
    assert summary.facts() == {"accepted": 2, "done": 1, "failed": 1, "hours_used": 0.5}
    night.at("2026-05-03 22:30")
    assert summary.write([("w", "waits")], 0, is_final=True) is None  # nothing new
    summary.accepted()
    assert summary.facts()["accepted"] == 1
    summary.write([], 0, is_final=True)
    assert [run["accepted"] for run in night.read("2026-05-03")["runs"]] == [2, 1]


def test_a_clock_that_stands_still_mixes_no_runs(night: Night) -> None:
    """A run that begins at the moment the last one began, by a coarse clock, is another one all the same."""
    summary = night.begin()
    for _ in range(2):
        summary.accepted()
        summary.write([], 0, is_final=True)
    assert [run["accepted"] for run in night.read("2026-05-03")["runs"]] == [1, 1]


def test_a_run_remembers_a_bounded_number_of_names() -> None:
    """Failures are named up to a limit, the first ones, and all are counted."""
    run = runs.Run()
    for number in range(runs.MOST_FAILURES + 7):
        run = run.plus(runs.failed(str(number), "corrupt", ""))
    assert [failure.name for failure in run.failures] == [str(n) for n in range(runs.MOST_FAILURES)]
    assert (run.failed, run.failures_not_shown) == (runs.MOST_FAILURES + 7, 7)


def test_the_newest_run_names_its_failures_first(night: Night) -> None:
    """Where a report cannot name all, older runs name fewer, and still count all."""
    for _ in range(2):
        summary = night.begin()
        for _ in range(300):
            summary.failed("w", "corrupt", "m")
        summary.write([], 0, is_final=True)
    named = [
        (len(run["failures"]), run["failures_not_shown"], run["failed"])
        for run in night.read("2026-05-03")["runs"]
    ]
    assert named == [(100, 200, 300), (300, 0, 300)]


def test_the_facts_are_those_of_the_run(night: Night) -> None:
    """The log's line has accepted, done, failed and hours_used, before and after the report is written."""
    summary = night.begin()
    assert summary.facts() == {"accepted": 0, "done": 0, "failed": 0, "hours_used": 0.0}
    work(summary)
    assert summary.facts() == {"accepted": 2, "done": 1, "failed": 1, "hours_used": 0.5}


@pytest.mark.parametrize("is_final", [False, True])
def test_an_outbox_that_is_away_is_written_when_it_is_back(night: Night, *, is_final: bool) -> None:
    """Nothing is written under an empty mount point; what was told before and since is there afterwards."""
    summary = night.begin()
    work(summary)
    night.is_away = True
    with pytest.raises(NotReady):
        summary.write([], 0, is_final=is_final)
    assert night.names() == []
    assert summary.is_dirty
    summary.accepted()
    night.is_away = False
    night.now += timedelta(hours=1)
    summary.write([], 0, is_final=is_final)
    assert not summary.is_dirty
    (run,) = night.read("2026-05-03")["runs"]
    assert (run["started_at"], run["accepted"], run["failed"]) == ("2026-05-03T22:00:01.000+02:00", 3, 1)


def _over_midnight(night: Night) -> Summary:
    """Bring about the longest way: a report of others to read, one of today to move aside, one to leave."""
    other = night.begin()
    work(other)
    other.write([], 0, is_final=True)
    summary = night.begin()
    work(summary)
    summary.write([], 0, is_final=False)
    night.at("2026-05-04 06:00")
    (night.root / "summary-2026-05-04.yaml").write_text("notes: of a person")
    summary.accepted()
    return summary


def _check_after_midnight(night: Night) -> None:
    assert [run["accepted"] for run in night.read("2026-05-03")["runs"]] == [2]
    assert [run["accepted"] for run in night.read("2026-05-04")["runs"]] == [3]
    assert (night.root / "summary-2026-05-04.old-1.yaml").read_text() == "notes: of a person"


@pytest.mark.parametrize("moment", ["before", "torn", "after"])
def test_a_disk_that_fails_anywhere_costs_a_try_and_nothing_else(moment: str, tmp_path: Path) -> None:
    """Whichever operation fails: the error goes up, the next try writes all, and no report is lost."""
    for number in range(100):
        night = Night(tmp_path / str(number))
        night.root.mkdir()
        summary = _over_midnight(night)
        with Disk(night.root, number, moment=moment).attached() as disk:
            try:
                summary.write([], 0, is_final=True)
            except OSError:
                assert summary.is_dirty
            else:
                break
        assert disk.has_struck
        summary.write([], 0, is_final=True)
        assert not summary.is_dirty
        _check_after_midnight(night)
    _check_after_midnight(night)
    assert number > 5


@pytest.mark.parametrize("moment", ["before", "torn", "after"])
def test_a_process_that_dies_anywhere_leaves_its_run_in_a_report(moment: str, tmp_path: Path) -> None:
    """At no instant is the run, or another's, or a person's file, in no file at all."""
    for number in range(100):
        night = Night(tmp_path / str(number))
        night.root.mkdir()
        summary = _over_midnight(night)
        with Disk(night.root, number, is_kill=True, moment=moment).attached() as disk:
            try:
                summary.write([], 0, is_final=True)
            except Killed:
                pass
            else:
                break
        assert disk.has_struck
        texts = [path.read_text() for path in night.root.glob("summary-*.yaml")]
        assert "notes: of a person" in texts
        reports = [runs.Report.from_yaml(text.encode()) for text in texts]
        found = {run.started_at for report in reports if report for run in report.runs}
        assert len(found) == 2
    assert number > 5


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"notes: of a person\n",
        b"\xff\xfe",
        b"- a\n- list\n",
        b"date: x\nruns: [{accepted: many}]\n",
        b"#" * 70_000,
    ],
)
def test_a_foreign_file_is_kept_under_another_name(night: Night, content: bytes) -> None:
    """What is none of our reports is neither read nor overwritten, and earlier ones are kept too."""
    (night.root / "summary-2026-05-03.yaml").write_bytes(content)
    (night.root / "summary-2026-05-03.old-1.yaml").write_bytes(b"older")
    summary = night.begin()
    work(summary)
    summary.write([], 0, is_final=True)
    assert (night.root / "summary-2026-05-03.old-1.yaml").read_bytes() == b"older"
    assert (night.root / "summary-2026-05-03.old-2.yaml").read_bytes() == content
    assert night.read("2026-05-03")["accepted"] == 2


@pytest.mark.timeout(20)
@pytest.mark.parametrize("kind", ["fifo", "folder", "link"])
def test_what_is_no_file_is_not_waited_for_nor_followed(night: Night, kind: str, tmp_path: Path) -> None:
    """A FIFO, a folder or a link at the report's place is moved aside."""
    path = night.root / "summary-2026-05-03.yaml"
    secret = tmp_path / "secret"
    secret.write_text("keep")
    make = {"fifo": os.mkfifo, "folder": os.mkdir, "link": lambda place: place.symlink_to(secret)}
    make[kind](path)
    summary = night.begin()
    work(summary)
    summary.write([], 0, is_final=True)
    assert night.read("2026-05-03")["accepted"] == 2
    assert os.path.lexists(night.root / "summary-2026-05-03.old-1.yaml")
    assert secret.read_text() == "keep"


def test_a_report_that_may_not_be_read_is_kept_aside(night: Night, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file of another user is not overwritten."""
    path = night.root / "summary-2026-05-03.yaml"
    path.write_text("private")

    def refuse(*_: object) -> int:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("daemon.files.open_regular", refuse)
    summary = night.begin()
    work(summary)
    summary.write([], 0, is_final=True)
    assert (night.root / "summary-2026-05-03.old-1.yaml").read_text() == "private"
    assert night.read("2026-05-03")["accepted"] == 2


def test_an_outbox_behind_a_link_is_an_outbox(night: Night, tmp_path: Path) -> None:
    """Where the outbox itself is a link, earlier runs are still read."""
    real = tmp_path / "real"
    real.mkdir()
    night.root = tmp_path / "linked"
    night.root.symlink_to(real)
    for _ in range(2):
        summary = night.begin()
        work(summary)
        summary.write([], 0, is_final=True)
    assert [path.name for path in real.iterdir()] == ["summary-2026-05-03.yaml"]
    assert night.read("2026-05-03")["accepted"] == 4


def test_odd_texts_are_written_so_that_they_are_read_back(night: Night) -> None:
    """Names of any bytes and long messages are escaped and cut, and the report is still one."""
    summary = night.begin()
    for text in TEXTS:
        summary.failed(text, "bad_sidecar", text)
    summary.write([(text, text) for text in TEXTS], 0, is_final=False)
    document = night.read("2026-05-03")
    names = [failure["name"] for failure in document["runs"][0]["failures"]]
    assert names[0] == "plain"
    assert names[3] == "- \\udcff"
    assert max(len(name) for name in names) == 300
    assert [item["path"] for item in document["waiting"]] == names


@pytest.mark.parametrize("text", ["x" * 300, "'" * 300, "ä " * 150, "\U0001f3a8" * 300, "wave"])
def test_a_report_of_thousands_can_be_read_back(night: Night, text: str) -> None:
    """However much fails and waits, every job is counted, as many are named as fit, and nothing is moved."""
    summary = night.begin()
    for _ in range(2000):
        summary.failed(text, "not_a_picture", text)
    for _ in range(2):
        summary.write([(text, text)] * 5000, 9, is_final=False)
    assert night.names() == ["summary-2026-05-03.yaml"]
    document = night.read("2026-05-03")
    (run,) = document["runs"]
    assert (run["failed"], run["reasons"], document["waiting_count"]) == (2000, {"not_a_picture": 2000}, 5000)
    assert len(run["failures"]) + run["failures_not_shown"] == 2000
    assert 10 <= len(run["failures"]) <= runs.MOST_FAILURES
    assert 10 <= len(document["waiting"]) <= runs.MOST_WAITING


def test_a_day_of_many_runs_adds_up_the_oldest(night: Night, monkeypatch: pytest.MonkeyPatch) -> None:
    """A service that is started again every minute has a bounded report, and loses no count."""
    monkeypatch.setattr(runs, "MOST_RUNS", 4)
    night.at("2026-05-03 00:00")
    for _ in range(10):
        night.now += timedelta(minutes=1)
        summary = night.begin()
        work(summary)
        summary.write([], 0, is_final=True)
    assert night.names() == ["summary-2026-05-03.yaml"]
    document = night.read("2026-05-03")
    assert [run["accepted"] for run in document["runs"]] == [14, 2, 2, 2]
    assert document["accepted"] == 20
    oldest = document["runs"][0]
    assert (oldest["started_at"][11:19], oldest["ended_at"][11:19]) == ("00:01:01", "00:07:07")


def test_the_fullest_report_can_be_read_back() -> None:
    """As many runs as are kept, with failures of every reason and full texts, fit what `parse` takes."""
    one = runs.Run(started_at="2026-05-03T22:00:01.000+02:00")
    for reason in Reason:
        one = one.plus(runs.failed("x" * 89, reason.value, "m" * 400))
    look = runs.looked("2026-05-03", [("p" * 400, "r" * 400)] * 300, 7)
    report = runs.Report.from_yaml(look.of((one.ending(one.started_at),) * runs.MOST_RUNS).to_yaml())
    assert report is not None
    assert len(report.runs) == runs.MOST_RUNS
    assert report.failed == len(Reason) * runs.MOST_RUNS


def test_any_thread_may_tell_while_another_writes(night: Night) -> None:
    """Nothing told from four threads during forty reports is lost or counted twice."""
    summary = night.begin()
    begin = threading.Barrier(5)

    def tell() -> None:
        begin.wait()
        for _ in range(200):
            work(summary)

    threads = [threading.Thread(target=tell) for _ in range(4)]
    for thread in threads:
        thread.start()
    begin.wait()
    for number in range(40):
        night.now += timedelta(seconds=1)
        summary.write([], 0, is_final=number % 10 == 9)
    for thread in threads:
        thread.join()
    night.now += timedelta(seconds=1)
    summary.write([], 0, is_final=True)
    document = night.read("2026-05-03")
    assert (document["accepted"], document["done"], document["failed"]) == (1600, 800, 800)
    assert document["hours_used"] == pytest.approx(400)
    assert not summary.is_dirty


def test_telling_does_not_wait_for_a_slow_share(night: Night) -> None:
    """While a report is being written, the threads that work go on."""
    is_writing, may_go_on = threading.Event(), threading.Event()

    def check() -> None:
        is_writing.set()
        assert may_go_on.wait(30)

    summary = Summary(night.root, check, lambda: night.now)
    summary.accepted()
    writer = threading.Thread(target=summary.write, args=([], 0), kwargs={"is_final": False})
    writer.start()
    assert is_writing.wait(30)
    summary.accepted()
    assert summary.facts()["accepted"] == 2
    may_go_on.set()
    writer.join()
    assert summary.is_dirty  # of what was told meanwhile
